//! What commands share: the log on standard error, the store, and the subject of the command.

use std::fs::File;
use std::io::{BufRead, BufReader, stderr, stdin};
use std::path::Path;
use std::time::{Duration, Instant};

use super::{CommandError, complain};
use crate::aws::own_provider;
use crate::cache::keyspace::Keyspace;
use crate::cache::{CacheChange, Layout};
use crate::config::{CacheAccess, CacheUpdatePolicy, Settings};
use crate::entitlement::{CustomerId, ResourceId, Subject};
use crate::http_client;
use crate::log as service_log;
use crate::pipeline::worker::{LOCKED_RETRY_MIN, apply_once};
use crate::shutdown::Stop;
use crate::store::{Outcome, RedisStore, StoreError, StoreRules, server_name};

pub(super) struct Session {
    pub layout: Layout,
    /// ENVIRONMENT_PREFIX.
    pub prefix: String,
    pub store: RedisStore,
    /// How messages name Redis.
    pub redis_at: String,
}

impl Session {
    /// A store of at most so many connections, none of which is made yet.
    pub fn open(settings: &Settings, access: CacheAccess, connections: u32) -> Result<Self, CommandError> {
        if let Err(error) = service_log::start(stderr(), &settings.command_log()?) {
            complain(format!("cannot start the log: {error}"));
        }
        service_log::hide_keys(&access.environment_prefix);
        for notice in &access.notices {
            log::warn!("{notice}");
        }
        http_client::install_crypto_provider();
        let keyspace = Keyspace::new(access.environment_prefix.as_str());
        let rules = StoreRules { keyspace: keyspace.clone(), policy: access.policy, expiry: access.expiry };
        let iam = access.redis.iam.as_ref();
        let signer = iam.and_then(|iam| own_provider(&iam.credentials, access.proxy));
        Ok(Self {
            layout: Layout {
                keyspace,
                format: access.format,
                // The tombstone of an invalidation stays: whoever else applies messages has to know of it.
                policy: CacheUpdatePolicy::Upsert,
            },
            prefix: access.environment_prefix,
            redis_at: server_name(&access.redis),
            store: RedisStore::new(access.redis, rules, connections, signer.map(|(signer, _)| signer)),
        })
    }

    /// Applies changes as the workers do. An outcome for each, in order, none of them [`Outcome::Locked`]: readers' locks are
    /// waited for. The error is the server's: what was applied by then can be applied again without harm.
    pub fn apply(&self, changes: &[CacheChange]) -> Result<Vec<Result<Outcome, StoreError>>, StoreError> {
        let is_atomic = |index: &usize| !matches!(changes[*index], CacheChange::InvalidateEnvironment(_));
        let mut outcomes = vec![Ok(Outcome::Locked); changes.len()];
        let indexes: Vec<usize> = (0..changes.len()).collect();
        for together in indexes.chunk_by(|one, next| is_atomic(one) && is_atomic(next)) {
            let (began, mut waited) = (Instant::now(), Duration::ZERO);
            let mut locked = together.to_vec();
            while !locked.is_empty() {
                if !waited.is_zero() {
                    Stop::never().wait(LOCKED_RETRY_MIN);
                }
                let attempts: Vec<_> = locked.iter().map(|index| (&changes[*index], waited)).collect();
                for (index, outcome) in locked.iter().zip(apply_once(&self.store, &attempts, &|| true)?) {
                    outcomes[*index] = outcome;
                }
                locked.retain(|index| outcomes[*index] == Ok(Outcome::Locked));
                waited = began.elapsed();
            }
        }
        Ok(outcomes)
    }
}

pub(super) fn subject(customer: &str, resource: Option<&str>) -> Subject {
    Subject {
        customer: CustomerId(customer.to_owned()),
        resource: resource.map(|id| ResourceId(id.to_owned())),
    }
}

/// A file to read line by line, `-` for standard input, and how many lines it has, if that can be counted beforehand.
pub(super) fn open_lines(path: &str) -> Result<(Box<dyn BufRead + Send>, Option<u64>), CommandError> {
    if path == "-" {
        return Ok((Box::new(BufReader::new(stdin())), None));
    }
    let open = || File::open(path).map_err(|error| CommandError::of_file("read", path, &error));
    // A pipe can be read only once.
    let is_file = Path::new(path).is_file();
    let counted = is_file.then(open).transpose()?;
    let total = counted.map(|file| BufReader::new(file).split(b'\n').count() as u64);
    Ok((Box::new(BufReader::new(open()?)), total))
}
