//! Host names, resolved within a deadline.
//!
//! The system's resolver takes five seconds for each name server that does not answer. A caller waits for as long as it
//! can; a lookup that takes longer goes on without it, and the next caller gets its answer.

use std::collections::HashMap;
use std::fmt;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr, ToSocketAddrs as _};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::Builder;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, bounded};

/// An answer that nobody waited for is valid for this long: longer than the pause between two attempts.
const LATE_ANSWER_VALID: Duration = Duration::from_secs(10);
/// The system's resolver needs some of it; the default is 2 MiB.
const STACK_BYTES: usize = 512 * 1024;

type Resolve = dyn Fn(&str) -> io::Result<Vec<IpAddr>> + Send + Sync;
type Lookup = Receiver<(Instant, io::Result<Vec<IpAddr>>)>;

/// Resolves names with the system's resolver.
pub struct Lookups {
    resolve: Arc<Resolve>,
    /// Lookups whose callers gave up, by host: as many as there were callers at the same time.
    abandoned: Mutex<HashMap<String, Vec<Lookup>>>,
}

impl Default for Lookups {
    fn default() -> Self {
        Self::by(|host| Ok((host, 0).to_socket_addrs()?.map(|address| address.ip()).collect()))
    }
}

impl Lookups {
    /// Asks this instead of the system.
    pub(crate) fn by(resolve: impl Fn(&str) -> io::Result<Vec<IpAddr>> + Send + Sync + 'static) -> Self {
        Self { resolve: Arc::new(resolve), abandoned: Mutex::default() }
    }

    /// The addresses of a host name or address, at least one.
    pub fn addresses(&self, host: &str, port: u16, deadline: Instant) -> io::Result<Vec<SocketAddr>> {
        if let Ok(address) = host.parse::<IpAddr>() {
            return Ok(vec![SocketAddr::new(address, port)]);
        }
        let failed = |kind, why: &str| io::Error::new(kind, format!("cannot resolve the host name: {why}"));
        let abandoned = || self.abandoned.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let earlier = abandoned().get_mut(host).and_then(Vec::pop);
            let is_new = earlier.is_none();
            let lookup = earlier.map_or_else(|| self.start(host), Ok)?;
            match lookup.recv_deadline(deadline) {
                Ok((at, _)) if !is_new && at.elapsed() > LATE_ANSWER_VALID => {}
                Ok((_, Err(error))) => return Err(failed(error.kind(), &error.to_string())),
                Ok((_, Ok(found))) if !found.is_empty() => {
                    return Ok(found.into_iter().map(|address| SocketAddr::new(address, port)).collect());
                }
                Ok(_) | Err(RecvTimeoutError::Disconnected) => {
                    return Err(failed(ErrorKind::NotFound, "it has no address"));
                }
                Err(RecvTimeoutError::Timeout) => {
                    abandoned().entry(host.to_owned()).or_default().push(lookup);
                    let why = "no answer in time, this machine's DNS is slow or does not answer";
                    return Err(failed(ErrorKind::Other, why));
                }
            }
        }
    }

    fn start(&self, host: &str) -> io::Result<Lookup> {
        let (answer, lookup) = bounded(1);
        let (resolve, host) = (Arc::clone(&self.resolve), host.to_owned());
        let thread = Builder::new().name("lookup".to_owned()).stack_size(STACK_BYTES);
        thread.spawn(move || answer.send((Instant::now(), resolve(&host))))?;
        Ok(lookup)
    }
}

impl fmt::Debug for Lookups {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Lookups")
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(10);

    fn address(number: u8) -> SocketAddr {
        ([127, 0, 0, number], 6379).into()
    }

    fn ip(number: u8) -> IpAddr {
        address(number).ip()
    }

    #[test]
    fn an_address_is_not_looked_up() {
        let lookups = Lookups::by(|_| panic!("asked"));
        let found = lookups.addresses("::1", 6379, Instant::now()).unwrap();
        assert_eq!(found, ["[::1]:6379".parse().unwrap()]);
    }

    #[test]
    fn an_answer_that_comes_too_late_for_one_is_there_for_the_next_who_asks() {
        let (answer, answers) = crossbeam_channel::bounded::<u8>(0);
        let asked = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&asked);
        let lookups = Lookups::by(move |_| {
            counted.fetch_add(1, Ordering::SeqCst);
            Ok(vec![ip(answers.recv().unwrap())])
        });
        for _ in 0..3 {
            let in_vain = lookups.addresses("db", 6379, Instant::now() + Duration::from_millis(5));
            assert!(in_vain.unwrap_err().to_string().contains("no answer in time"), "lookup");
        }
        answer.send(7).unwrap();
        let found = lookups.addresses("db", 6379, Instant::now() + PATIENCE).unwrap();
        assert_eq!(found, [address(7)]);
        assert_eq!(asked.load(Ordering::SeqCst), 1, "one lookup for all of them");
    }

    #[test]
    fn an_answer_that_was_waited_for_is_not_kept() {
        let asked = AtomicUsize::new(0);
        let lookups = Lookups::by(move |_| {
            let number = asked.fetch_add(1, Ordering::SeqCst);
            Ok(vec![ip(u8::try_from(number).unwrap())])
        });
        for number in 0..3 {
            let found = lookups.addresses("db", 6379, Instant::now() + PATIENCE).unwrap();
            assert_eq!(found, [address(number)]);
        }
    }

    #[test]
    fn a_failure_has_the_systems_message_and_no_address_is_one() {
        let failing = Lookups::by(|_| Err(io::Error::other("Name or service not known")));
        let answer = failing.addresses("db", 6379, Instant::now() + PATIENCE);
        assert!(
            matches!(&answer, Err(error) if error.to_string() == "cannot resolve the host name: Name or service not known"),
            "{answer:?}"
        );
        let empty = Lookups::by(|_| Ok(Vec::new()));
        let answer = empty.addresses("db", 6379, Instant::now() + PATIENCE);
        assert!(matches!(&answer, Err(error) if error.kind() == ErrorKind::NotFound), "{answer:?}");
    }
}
