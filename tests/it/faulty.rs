//! The service with a defect that was put into one of its parts. A defect cannot be had from the built binary, so this
//! very test binary is started once more, and runs the whole service in the one test that is ignored otherwise.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use persistent_cache_service::cache::keyspace::Keyspace;
use persistent_cache_service::cache::{CacheChange, Invalidation};
use persistent_cache_service::config::{Config, Environment, Settings as ServiceSettings};
use persistent_cache_service::log as service_log;
use persistent_cache_service::service::{self, Overrides};
use persistent_cache_service::sqs::{BatchOutcome, Delivery, Queue, QueueError, ReceiptHandle};
use persistent_cache_service::store::{
    CacheStore, LockPatience, Outcome, RedisStore, StoreError, StoreRules,
};

use crate::support::service::{Service, Settings};

/// Says which defect the child has. Nothing happens where it is not set.
const DEFECT: &str = "DEFECT_OF_THE_TEST";
/// A file: the defect in receiving begins when it is there.
const BEGINS_WITH: &str = "DEFECT_BEGINS_WITH";

/// The customer whose first change meets the panic.
pub const UNLUCKY: &str = "customer-unlucky";

/// So long a poller may be silent in a child with a defect.
pub const SILENT_AFTER: Duration = Duration::from_secs(3);

/// What is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Defect {
    /// Nothing: only the patience is short.
    None,
    /// The first write of [`UNLUCKY`] panics.
    WritePanics,
    /// Receiving panics.
    ReceivePanics,
    /// Receiving never returns.
    ReceiveHangs,
}

const DEFECTS: [Defect; 4] = [Defect::None, Defect::WritePanics, Defect::ReceivePanics, Defect::ReceiveHangs];

/// Starts the service with a defect.
pub fn spawn(defect: Defect, settings: &Settings) -> Service {
    spawn_until(defect, Path::new("/"), settings)
}

/// The same; a defect in receiving begins when this file is there. Until then the queue is empty.
pub fn spawn_until(defect: Defect, begins_with: &Path, settings: &Settings) -> Service {
    let program = std::env::current_exe().expect("this test binary");
    let arguments = ["--exact", "faulty::the_service_with_a_defect", "--ignored", "--nocapture", "--quiet"];
    let settings = settings
        .clone()
        .set(DEFECT, format!("{defect:?}"))
        .set(BEGINS_WITH, begins_with.display().to_string());
    Service::spawn_program(&program, &arguments, &settings)
}

#[test]
#[ignore = "started by other tests as a process of its own"]
#[allow(clippy::disallowed_methods)] // as `main` would, it ends with the service's status
fn the_service_with_a_defect() {
    let environment: Environment = std::env::vars_os().collect();
    let Some(name) = environment.get(OsStr::new(DEFECT)) else {
        return;
    };
    let is_named = |defect: &&Defect| name.to_str() == Some(&format!("{defect:?}"));
    let defect = *DEFECTS.iter().find(is_named).expect("a known defect");
    let settings = ServiceSettings::from_matches(&[], &environment);
    let config = settings.validate().expect("a valid configuration");
    service_log::start(std::io::stdout(), &config.log).expect("a log");
    service_log::install_panic_hook();
    let begins_with = environment.get(OsStr::new(BEGINS_WITH)).map(PathBuf::from);
    let overrides = overrides(defect, begins_with.unwrap_or_default(), &config);
    let status = service::run(&config, overrides).expect("a service that can start");
    std::process::exit(status.into());
}

fn overrides(defect: Defect, begins_with: PathBuf, config: &Config) -> Overrides {
    let mut overrides = Overrides { silent_after: Some(SILENT_AFTER), ..Overrides::default() };
    match defect {
        Defect::None => {}
        Defect::WritePanics => {
            let rules = StoreRules {
                keyspace: Keyspace::new(config.environment_prefix.clone()),
                policy: config.cache_update_policy,
                expiry: config.expiry,
            };
            overrides.store = Some(Arc::new(PanickyStore {
                redis: RedisStore::new(config.redis.clone(), rules, 2, None),
                met: Mutex::default(),
            }));
        }
        Defect::ReceivePanics | Defect::ReceiveHangs => {
            overrides.queue = Some(Arc::new(BrokenQueue { defect, begins_with }));
        }
    }
    overrides
}

/// Redis, but for a defect that the first write of one customer meets.
struct PanickyStore {
    redis: RedisStore,
    /// The messages of that customer that have met it: identified by what they would write.
    met: Mutex<HashSet<String>>,
}

impl CacheStore for PanickyStore {
    fn apply(
        &self,
        changes: &[(&CacheChange, LockPatience)],
        go_on: &dyn Fn() -> bool,
    ) -> Result<Vec<Result<Outcome, StoreError>>, StoreError> {
        let of_the_unlucky =
            changes.iter().map(|(change, _)| format!("{change:?}")).find(|change| change.contains(UNLUCKY));
        // Beside others the message is tried once more, alone: the defect is to be met then, too.
        if let Some(change) = of_the_unlucky
            && (changes.len() > 1 || self.met.lock().unwrap().insert(change))
        {
            panic!("a defect that was put there");
        }
        self.redis.apply(changes, go_on)
    }

    fn invalidate(
        &self,
        invalidation: &Invalidation,
        each: &dyn Fn(&[u8]),
        go_on: &dyn Fn() -> bool,
    ) -> Result<u64, StoreError> {
        self.redis.invalidate(invalidation, each, go_on)
    }

    fn follow_primary(&self) -> Result<(), StoreError> {
        self.redis.follow_primary()
    }

    fn probe_write(&self) -> Result<(), StoreError> {
        self.redis.probe_write()
    }

    fn ping(&self) -> Result<(), StoreError> {
        self.redis.ping()
    }

    fn info(&self) -> Result<String, StoreError> {
        self.redis.info()
    }
}

/// A queue client with a defect in its receive.
struct BrokenQueue {
    defect: Defect,
    begins_with: PathBuf,
}

impl Queue for BrokenQueue {
    fn receive(&self, _: u8, _: Duration) -> Result<Vec<Delivery>, QueueError> {
        if !self.begins_with.exists() {
            return Ok(Vec::new());
        }
        assert!(self.defect == Defect::ReceiveHangs, "a defect that was put there");
        loop {
            std::thread::park();
        }
    }

    fn delete_batch(&self, receipt_handles: &[ReceiptHandle]) -> Result<BatchOutcome, QueueError> {
        unreachable!("nothing was received: {receipt_handles:?}");
    }

    fn change_visibility_batch(
        &self,
        entries: &[(ReceiptHandle, Duration)],
    ) -> Result<BatchOutcome, QueueError> {
        unreachable!("nothing was received: {entries:?}");
    }

    fn visibility_timeout(&self) -> Result<Duration, QueueError> {
        Ok(Duration::from_secs(30))
    }
}
