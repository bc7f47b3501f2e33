//! Host names, resolved within a deadline.
//!
//! The system's resolver takes five seconds for each name server that does not answer. A caller waits for as long as it
//! can; a lookup that takes longer goes on without it, and the next caller gets its answer. Each name is resolved once at
//! a time, however many callers wait for it.

use std::collections::HashMap;
use std::fmt;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr, ToSocketAddrs as _};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::Builder;
use std::time::{Duration, Instant};

/// An answer that nobody waited for is valid for this long: longer than the pause between two attempts.
const LATE_ANSWER_VALID: Duration = Duration::from_secs(10);
/// The system's resolver needs some; the default is 2 MiB.
const STACK_BYTES: usize = 512 * 1024;

/// Why there is no address.
#[derive(Debug)]
pub enum LookupError {
    /// The answer is still to come.
    NotInTime,
    /// The system's error.
    Failed(io::Error),
}

/// Lookups in progress, by host.
#[derive(Clone)]
pub struct Lookups(Arc<Shared>);

type Resolve = dyn Fn(&str) -> io::Result<Vec<IpAddr>> + Send + Sync;

struct Shared {
    resolve: Box<Resolve>,
    hosts: Mutex<HashMap<String, Progress>>,
    answered: Condvar,
}

enum Progress {
    InProgress,
    Answered {
        at: Instant,
        addresses: Result<Vec<IpAddr>, (ErrorKind, String)>,
        /// Somebody has it: the next caller wants to know anew.
        is_taken: bool,
    },
}

impl Default for Lookups {
    fn default() -> Self {
        Self::by(|host| Ok((host, 0).to_socket_addrs()?.map(|address| address.ip()).collect()))
    }
}

impl Lookups {
    /// Asks this instead of the system.
    fn by(resolve: impl Fn(&str) -> io::Result<Vec<IpAddr>> + Send + Sync + 'static) -> Self {
        Self(Arc::new(Shared {
            resolve: Box::new(resolve),
            hosts: Mutex::default(),
            answered: Condvar::new(),
        }))
    }

    /// The addresses of a host name or address, at least one.
    pub fn addresses(
        &self,
        host: &str,
        port: u16,
        deadline: Instant,
    ) -> Result<Vec<SocketAddr>, LookupError> {
        if let Ok(address) = host.parse::<IpAddr>() {
            return Ok(vec![SocketAddr::new(address, port)]);
        }
        let mut hosts = self.hosts();
        if hosts.get(host).is_none_or(Progress::is_over) {
            self.start(host).map_err(LookupError::Failed)?;
            hosts.insert(host.to_owned(), Progress::InProgress);
        }
        let is_waiting = |hosts: &mut HashMap<_, _>| matches!(hosts.get(host), Some(Progress::InProgress));
        let left = deadline.saturating_duration_since(Instant::now());
        let waited = self.0.answered.wait_timeout_while(hosts, left, is_waiting);
        let (mut hosts, _) = waited.unwrap_or_else(PoisonError::into_inner);
        let Some(Progress::Answered {
            addresses, is_taken, ..
        }) = hosts.get_mut(host)
        else {
            return Err(LookupError::NotInTime);
        };
        *is_taken = true;
        match addresses {
            Ok(found) if found.is_empty() => Err(LookupError::Failed(io::Error::new(
                ErrorKind::NotFound,
                "the host name has no address",
            ))),
            Ok(found) => Ok(found
                .iter()
                .map(|address| SocketAddr::new(*address, port))
                .collect()),
            Err((kind, message)) => Err(LookupError::Failed(io::Error::new(*kind, message.as_str()))),
        }
    }

    fn start(&self, host: &str) -> io::Result<()> {
        let (lookups, host) = (self.clone(), host.to_owned());
        let resolve = move || {
            let addresses = (lookups.0.resolve)(&host).map_err(|error| (error.kind(), error.to_string()));
            let answer = Progress::Answered {
                at: Instant::now(),
                addresses,
                is_taken: false,
            };
            lookups.hosts().insert(host, answer);
            lookups.0.answered.notify_all();
        };
        let thread = Builder::new().name("lookup".to_owned()).stack_size(STACK_BYTES);
        thread.spawn(resolve).map(|_| ())
    }

    fn hosts(&self) -> MutexGuard<'_, HashMap<String, Progress>> {
        self.0.hosts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Progress {
    fn is_over(&self) -> bool {
        match self {
            Self::InProgress => false,
            Self::Answered { at, is_taken, .. } => *is_taken || at.elapsed() > LATE_ANSWER_VALID,
        }
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
            assert!(matches!(in_vain, Err(LookupError::NotInTime)), "{in_vain:?}");
        }
        answer.send(7).unwrap();
        let found = lookups.addresses("db", 6379, Instant::now() + PATIENCE).unwrap();
        assert_eq!(found, [address(7)]);
        assert_eq!(asked.load(Ordering::SeqCst), 1, "one look-up for all of them");
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
            matches!(&answer, Err(LookupError::Failed(error)) if error.to_string() == "Name or service not known"),
            "{answer:?}"
        );
        let empty = Lookups::by(|_| Ok(Vec::new()));
        let answer = empty.addresses("db", 6379, Instant::now() + PATIENCE);
        assert!(
            matches!(&answer, Err(LookupError::Failed(error)) if error.kind() == ErrorKind::NotFound),
            "{answer:?}"
        );
    }
}
