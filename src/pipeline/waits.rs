//! Waiting for a channel, asleep from the first moment.
//!
//! crossbeam's own `recv_timeout` spins and yields some ten microseconds before it sleeps, in the hope that something
//! comes meanwhile. What is waited for here comes from a network: the hope costs as much as the work.

use std::time::Instant;

use crossbeam_channel::{Receiver, RecvTimeoutError, Select};

/// What comes next, if it comes by then.
pub(super) fn receive_by<T>(channel: &Receiver<T>, deadline: Instant) -> Result<T, RecvTimeoutError> {
    if let Ok(next) = channel.try_recv() {
        return Ok(next);
    }
    let mut select = Select::new();
    select.recv(channel);
    match select.select_deadline(deadline) {
        Ok(ready) => ready.recv(channel).map_err(|_| RecvTimeoutError::Disconnected),
        Err(_) => Err(RecvTimeoutError::Timeout),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use crossbeam_channel::bounded;

    use super::*;

    #[test]
    fn what_comes_the_end_of_it_and_the_end_of_the_wait_are_told_apart() {
        let (sender, receiver) = bounded(1);
        let soon = || Instant::now() + Duration::from_millis(20);
        assert_eq!(
            receive_by::<u8>(&receiver, soon()),
            Err(RecvTimeoutError::Timeout)
        );
        sender.send(7).unwrap();
        assert_eq!(receive_by(&receiver, Instant::now()), Ok(7));
        std::thread::scope(|scope| {
            let later = Instant::now() + Duration::from_secs(10);
            let waiting = scope.spawn(move || (receive_by(&receiver, later), receive_by(&receiver, later)));
            sender.send(8).unwrap();
            drop(sender);
            assert_eq!(
                waiting.join().unwrap(),
                (Ok(8), Err(RecvTimeoutError::Disconnected))
            );
        });
    }
}
