//! What commands that touch the cache begin with: settings judged, a log on standard error, a store.

use std::sync::Arc;

use super::{complain, complain_of_settings};
use crate::aws::{CredentialsProvider, own_provider};
use crate::cache::Layout;
use crate::cache::keyspace::Keyspace;
use crate::config::{CacheAccess, CacheUpdatePolicy, EdgeAccess, Faults, Settings};
use crate::http_client;
use crate::log::{self as service_log, LogHandle};
use crate::store::{RedisStore, StoreRules};

/// The cache, opened for a command.
pub(super) struct Opened {
    pub access: CacheAccess,
    pub store: RedisStore,
    _log: Option<LogHandle>,
}

impl Opened {
    /// The cache, with as many connections; nothing is dialled yet. The error is the exit status; its reason is printed.
    pub fn new(settings: &Settings, connections: u32) -> Result<Self, u8> {
        Self::of(settings, settings.cache_access(), connections)
    }

    /// The same for a caller that reports the notices itself.
    pub fn silent(settings: &Settings, connections: u32) -> Result<Self, u8> {
        let access = settings.cache_access().map(|access| CacheAccess {
            notices: Vec::new(),
            ..access
        });
        Self::of(settings, access, connections)
    }

    /// The same, and the Edge API: to fill the cache of those who are not in it, whatever the policy for messages is.
    pub fn for_a_fill(settings: &Settings, connections: u32) -> Result<(Self, EdgeAccess), u8> {
        match settings.cache_and_edge_access() {
            Ok((mut cache, edge)) => {
                cache.policy = CacheUpdatePolicy::Upsert;
                Ok((Self::of(settings, Ok(cache), connections)?, edge))
            }
            Err(faults) => Err(complain_of_settings(&faults)),
        }
    }

    /// Where and how the command writes.
    pub fn layout(&self) -> Layout {
        Layout {
            keyspace: Keyspace::new(self.access.environment_prefix.clone()),
            format: self.access.format,
            policy: self.access.policy,
        }
    }

    fn of(settings: &Settings, access: Result<CacheAccess, Faults>, connections: u32) -> Result<Self, u8> {
        let access = access.map_err(|faults| complain_of_settings(&faults))?;
        let log = start_log(settings)?;
        for notice in &access.notices {
            log::warn!("{notice}");
        }
        http_client::install_crypto_provider();
        let rules = StoreRules {
            keyspace: Keyspace::new(access.environment_prefix.clone()),
            policy: access.policy,
            expiry: access.expiry,
        };
        let store = RedisStore::new(access.redis.clone(), rules, connections, signer(&access));
        Ok(Self {
            access,
            store,
            _log: log,
        })
    }
}

/// The log of a command, on standard error. The error is the exit status.
pub(super) fn start_log(settings: &Settings) -> Result<Option<LogHandle>, u8> {
    let config = settings
        .command_log()
        .map_err(|faults| complain_of_settings(&faults))?;
    match service_log::start_on_stderr(&config) {
        Ok(handle) => Ok(Some(handle)),
        Err(error) => {
            // A command can do its work without.
            complain(format!("cannot start the log: {error}"));
            Ok(None)
        }
    }
}

/// Who signs ElastiCache's tokens, if Redis is signed in to by them: credentials of the operator's own, as the
/// configuration has seen to.
fn signer(access: &CacheAccess) -> Option<Arc<dyn CredentialsProvider>> {
    let iam = access.redis.iam.as_ref()?;
    let (provider, _) = own_provider(&iam.credentials, access.proxy.clone())?;
    Some(provider)
}
