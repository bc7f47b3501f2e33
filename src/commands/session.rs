//! What commands that touch the cache begin with: the log on standard error, and the store.

use super::{CommandError, complain};
use crate::aws::own_provider;
use crate::cache::Layout;
use crate::cache::keyspace::Keyspace;
use crate::config::{CacheAccess, CacheUpdatePolicy, Settings};
use crate::http_client;
use crate::log::{self as service_log, LogHandle};
use crate::shutdown::Stop;
use crate::store::{RedisStore, StoreRules, server_name};

pub(super) struct Session {
    pub layout: Layout,
    /// ENVIRONMENT_PREFIX.
    pub prefix: String,
    pub store: RedisStore,
    /// Names Redis in messages.
    pub redis_at: String,
    _log: Option<LogHandle>,
}

impl Session {
    /// A store of at most so many connections, none of which is made yet.
    pub fn open(settings: &Settings, access: CacheAccess, connections: u32) -> Result<Self, CommandError> {
        let log = service_log::start_on_stderr(&settings.command_log()?)
            .inspect_err(|error| complain(format!("cannot start the log: {error}; going on without")))
            .ok();
        for notice in &access.notices {
            log::warn!("{notice}");
        }
        http_client::install_crypto_provider();
        let keyspace = Keyspace::new(access.environment_prefix.as_str());
        let rules = StoreRules {
            keyspace: keyspace.clone(),
            policy: access.policy,
            expiry: access.expiry,
        };
        let iam = access.redis.iam.as_ref();
        let signer = iam.and_then(|iam| own_provider(&iam.credentials, access.proxy, Stop::never()));
        let signer = signer.map(|(provider, _)| provider);
        Ok(Self {
            layout: Layout {
                keyspace,
                format: access.format,
                // Of an invalidation that a command makes the workers know only if its tombstone stays.
                policy: CacheUpdatePolicy::Upsert,
            },
            prefix: access.environment_prefix,
            redis_at: server_name(&access.redis),
            store: RedisStore::new(access.redis, rules, connections, signer),
            _log: log,
        })
    }
}
