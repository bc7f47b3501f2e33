//! Waiting for a channel, asleep from the first moment.
//!
//! crossbeam's own `recv_timeout` and `send_timeout` spin and yield some ten microseconds before they sleep, in the hope
//! that something comes, or goes, meanwhile. What is waited for here depends on a network: the hope costs as much as the
//! work.

use std::time::Instant;

use crossbeam_channel::{Receiver, RecvTimeoutError, Select, SendTimeoutError, Sender, TrySendError};

use crate::shutdown::Stop;

/// What comes next, if it comes by then. The end of `until`, if that is still to come, ends the wait as well.
pub(super) fn receive_by<T>(
    channel: &Receiver<T>,
    deadline: Instant,
    until: Option<&Stop>,
) -> Result<T, RecvTimeoutError> {
    if let Ok(next) = channel.try_recv() {
        return Ok(next);
    }
    let mut select = Select::new();
    let comes = select.recv(channel);
    if let Some(stop) = until.filter(|stop| !stop.is_stopped()) {
        select.recv(stop.channel());
    }
    match select.select_deadline(deadline) {
        Ok(ready) if ready.index() == comes => {
            ready.recv(channel).map_err(|_| RecvTimeoutError::Disconnected)
        }
        Ok(stopped) => {
            // It never sends: it only closes.
            if let Some(stop) = until {
                let _ = stopped.recv(stop.channel());
            }
            Err(RecvTimeoutError::Timeout)
        }
        Err(_) => Err(RecvTimeoutError::Timeout),
    }
}

/// Puts this into a channel, if there is room for it by then (`None`: however long that takes).
pub(super) fn send_by<T>(
    channel: &Sender<T>,
    next: T,
    deadline: Option<Instant>,
) -> Result<(), SendTimeoutError<T>> {
    let next = match channel.try_send(next) {
        Ok(()) => return Ok(()),
        Err(TrySendError::Disconnected(next)) => return Err(SendTimeoutError::Disconnected(next)),
        Err(TrySendError::Full(next)) => next,
    };
    let mut select = Select::new();
    select.send(channel);
    let ready = match deadline {
        None => select.select(),
        Some(deadline) => match select.select_deadline(deadline) {
            Ok(ready) => ready,
            Err(_) => return Err(SendTimeoutError::Timeout(next)),
        },
    };
    ready
        .send(channel, next)
        .map_err(|back| SendTimeoutError::Disconnected(back.0))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use crossbeam_channel::bounded;

    use super::*;
    use crate::shutdown::stop_pair;

    #[test]
    fn what_comes_the_end_of_it_and_the_end_of_the_wait_are_told_apart() {
        let (sender, receiver) = bounded(1);
        let soon = || Instant::now() + Duration::from_millis(20);
        assert_eq!(
            receive_by::<u8>(&receiver, soon(), None),
            Err(RecvTimeoutError::Timeout)
        );
        sender.send(7).unwrap();
        assert_eq!(receive_by(&receiver, Instant::now(), None), Ok(7));
        std::thread::scope(|scope| {
            let later = Instant::now() + Duration::from_secs(10);
            let next = move || receive_by(&receiver, later, None);
            let waiting = scope.spawn(move || (next(), next()));
            sender.send(8).unwrap();
            drop(sender);
            assert_eq!(
                waiting.join().unwrap(),
                (Ok(8), Err(RecvTimeoutError::Disconnected))
            );
        });
    }

    #[test]
    fn a_stop_that_comes_ends_the_wait_and_one_that_came_does_not() {
        let (sender, receiver) = bounded(1);
        let (trigger, stop) = stop_pair();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                Stop::never().wait(Duration::from_millis(300));
                drop(trigger);
            });
            let later = Instant::now() + Duration::from_mins(1);
            let next = || receive_by(&receiver, later, Some(&stop));
            assert_eq!(next(), Err(RecvTimeoutError::Timeout));
            assert!(stop.is_stopped() && Instant::now() < later);
            sender.send(7).unwrap();
            assert_eq!(next(), Ok(7));
            let soon = Instant::now() + Duration::from_millis(20);
            assert_eq!(
                receive_by(&receiver, soon, Some(&stop)),
                Err(RecvTimeoutError::Timeout)
            );
            assert!(Instant::now() >= soon);
        });
    }

    #[test]
    fn room_the_end_of_it_and_the_end_of_the_wait_are_told_apart() {
        let (sender, receiver) = bounded(1);
        let soon = || Instant::now() + Duration::from_millis(20);
        assert_eq!(send_by(&sender, 7, Some(Instant::now())), Ok(()));
        assert_eq!(
            send_by(&sender, 8, Some(soon())),
            Err(SendTimeoutError::Timeout(8))
        );
        std::thread::scope(|scope| {
            let later = Instant::now() + Duration::from_secs(10);
            let waiting =
                scope.spawn(move || (send_by(&sender, 8, Some(later)), send_by(&sender, 9, Some(later))));
            assert_eq!((receiver.recv(), receiver.recv()), (Ok(7), Ok(8)));
            assert_eq!(receiver.recv(), Ok(9));
            drop(receiver);
            assert_eq!(waiting.join().unwrap(), (Ok(()), Ok(())));
        });
        let (sender, receiver) = bounded(1);
        send_by(&sender, 1, None).unwrap();
        std::thread::scope(|scope| {
            let sender = &sender;
            let waiting = scope.spawn(move || send_by(sender, 2, None));
            assert_eq!((receiver.recv(), receiver.recv()), (Ok(1), Ok(2)));
            assert_eq!(waiting.join().unwrap(), Ok(()));
        });
        drop(receiver);
        assert_eq!(send_by(&sender, 7, None), Err(SendTimeoutError::Disconnected(7)));
        assert_eq!(
            send_by(&sender, 7, Some(soon())),
            Err(SendTimeoutError::Disconnected(7))
        );
    }
}
