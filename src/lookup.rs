//! Host names, looked up within a deadline.
//!
//! The system's look-up has none of its own: where one of two name servers is silent, each takes five seconds, and
//! where all are, half a minute. A caller waits as long as it can afford; a look-up that takes longer goes on without
//! it, and whoever asks next has its answer. So a peer whose name is found slowly is slow to be reached, not out of
//! reach. Of one name there is one look-up under way, however many ask.

use std::collections::HashMap;
use std::fmt;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr, ToSocketAddrs as _};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::Builder;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, bounded};

/// An answer that nobody waited for any more holds for this long: longer than callers wait between two tries, short
/// enough that a moved peer is found.
const LATE_ANSWER_HOLDS: Duration = Duration::from_secs(10);
/// The system's resolver wants some; the default is 2 MiB.
const STACK_BYTES: usize = 512 * 1024;

type System = dyn Fn(&str, u16) -> io::Result<Vec<SocketAddr>> + Send + Sync;
type Peer = (String, u16);

/// Why there is no address.
#[derive(Debug)]
pub enum LookupError {
    /// The answer is still to come.
    NotInTime,
    /// In the system's words.
    Failed(io::Error),
}

/// Look-ups under way.
pub struct Lookups {
    system: Arc<System>,
    under_way: Mutex<HashMap<Peer, Arc<Lookup>>>,
}

struct Lookup {
    /// Ends when there is an answer.
    ended: Receiver<()>,
    answer: Mutex<Option<Answer>>,
}

#[derive(Clone)]
struct Answer {
    at: Instant,
    addresses: Result<Vec<SocketAddr>, (ErrorKind, String)>,
}

impl Default for Lookups {
    fn default() -> Self {
        Self::by(|host, port| (host, port).to_socket_addrs().map(Iterator::collect))
    }
}

impl Lookups {
    /// Asks this instead of the system.
    fn by(system: impl Fn(&str, u16) -> io::Result<Vec<SocketAddr>> + Send + Sync + 'static) -> Self {
        Self {
            system: Arc::new(system),
            under_way: Mutex::default(),
        }
    }

    /// The addresses of a host, which may be one itself. Never an empty list.
    pub fn addresses(
        &self,
        host: &str,
        port: u16,
        deadline: Instant,
    ) -> Result<Vec<SocketAddr>, LookupError> {
        if let Ok(address) = host.parse::<IpAddr>() {
            return Ok(vec![SocketAddr::new(address, port)]);
        }
        let peer = (host.to_owned(), port);
        let lookup = self.lookup(&peer).map_err(LookupError::Failed)?;
        if let Err(RecvTimeoutError::Timeout) = lookup.ended.recv_deadline(deadline) {
            return Err(LookupError::NotInTime);
        }
        let mut under_way = self.under_way.lock().unwrap_or_else(PoisonError::into_inner);
        // What was waited for is not kept: the next one who asks wants to know anew.
        if under_way
            .get(&peer)
            .is_some_and(|known| Arc::ptr_eq(known, &lookup))
        {
            under_way.remove(&peer);
        }
        drop(under_way);
        match lookup.answer().map(|answer| answer.addresses) {
            Some(Ok(addresses)) if !addresses.is_empty() => Ok(addresses),
            Some(Err((kind, words))) => Err(LookupError::Failed(io::Error::new(kind, words))),
            Some(Ok(_)) | None => Err(LookupError::Failed(io::Error::new(
                ErrorKind::NotFound,
                "the host name has no address",
            ))),
        }
    }

    /// The look-up of this peer that is under way, or has ended lately without anybody waiting; else a new one.
    fn lookup(&self, peer: &Peer) -> io::Result<Arc<Lookup>> {
        let mut under_way = self.under_way.lock().unwrap_or_else(PoisonError::into_inner);
        let has_gone_off = |lookup: &Arc<Lookup>| {
            lookup
                .answer()
                .is_some_and(|answer| answer.at.elapsed() > LATE_ANSWER_HOLDS)
        };
        if let Some(lookup) = under_way.get(peer).filter(|lookup| !has_gone_off(lookup)) {
            return Ok(Arc::clone(lookup));
        }
        let (ends, ended) = bounded::<()>(0); // only its end is waited for
        let lookup = Arc::new(Lookup {
            ended,
            answer: Mutex::default(),
        });
        let ask = {
            let (system, lookup, (host, port)) =
                (Arc::clone(&self.system), Arc::clone(&lookup), peer.clone());
            move || {
                let addresses = system(&host, port).map_err(|error| (error.kind(), error.to_string()));
                let at = Instant::now();
                *lookup.answer.lock().unwrap_or_else(PoisonError::into_inner) =
                    Some(Answer { at, addresses });
                drop(ends);
            }
        };
        Builder::new()
            .name("lookup".to_owned())
            .stack_size(STACK_BYTES)
            .spawn(ask)?;
        under_way.insert(peer.clone(), Arc::clone(&lookup));
        Ok(lookup)
    }
}

impl Lookup {
    fn answer(&self) -> Option<Answer> {
        self.answer.lock().unwrap_or_else(PoisonError::into_inner).clone()
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

    #[test]
    fn an_address_is_not_looked_up() {
        let lookups = Lookups::by(|_, _| panic!("asked"));
        let found = lookups.addresses("::1", 6379, Instant::now()).unwrap();
        assert_eq!(found, ["[::1]:6379".parse().unwrap()]);
    }

    #[test]
    fn an_answer_that_comes_too_late_for_one_is_there_for_the_next_who_asks() {
        let (answer, answers) = bounded::<u8>(0);
        let asked = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&asked);
        let lookups = Lookups::by(move |_, _| {
            counted.fetch_add(1, Ordering::SeqCst);
            Ok(vec![address(answers.recv().unwrap())])
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
        let lookups = Lookups::by(move |_, _| {
            let number = asked.fetch_add(1, Ordering::SeqCst);
            Ok(vec![address(u8::try_from(number).unwrap())])
        });
        for number in 0..3 {
            let found = lookups.addresses("db", 6379, Instant::now() + PATIENCE).unwrap();
            assert_eq!(found, [address(number)]);
        }
    }

    #[test]
    fn a_failure_is_told_in_the_systems_words_and_no_address_is_one() {
        let failing = Lookups::by(|_, _| Err(io::Error::other("Name or service not known")));
        let told = failing.addresses("db", 6379, Instant::now() + PATIENCE);
        assert!(
            matches!(&told, Err(LookupError::Failed(error)) if error.to_string() == "Name or service not known"),
            "{told:?}"
        );
        let empty = Lookups::by(|_, _| Ok(Vec::new()));
        let told = empty.addresses("db", 6379, Instant::now() + PATIENCE);
        assert!(
            matches!(&told, Err(LookupError::Failed(error)) if error.kind() == ErrorKind::NotFound),
            "{told:?}"
        );
    }
}
