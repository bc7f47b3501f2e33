//! Connections to Redis for the r2d2 pool.
//!
//! redis's own r2d2 manager dials without a timeout: a server that accepts and never answers would hang the
//! thread. This one dials, shakes hands and signs in against one deadline. A connection that has seen an I/O error, a
//! timeout or an answer that says "not this server" is poisoned: after a timeout it still claims to be open, and
//! after a failover the pool would hand out the demoted server's connection again and again.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use redis::{Cmd, ErrorKind, RedisError, RedisResult, Value, cmd};

use super::errors::{is_full, replica_error, translate};
use super::iam_token::iam_token;
use super::tls::{TlsSetup, server_name};
use super::wire::Wire;
use super::{Reach, StoreError, sentinel};
use crate::aws::{CredentialsError, CredentialsProvider};
use crate::clock;
use crate::config::{RedisAddress, RedisConfig, RedisIam, RedisTls, SentinelConfig};
use crate::lookup::Lookups;

/// Finding the primary, dialling, TLS and signing in, all of it.
const DIAL_TIMEOUT: Duration = Duration::from_secs(3);

/// A connection lives this long at most, so that a name that moved to another address is followed, however busy it is.
pub(super) const CONNECTION_LIFE: Duration = Duration::from_mins(10);

/// A connection, and whether it may be used again.
pub(super) struct PooledConnection {
    pub(super) wire: Wire,
    pub(super) poisoned: bool,
    /// It has served a round trip: if it breaks now, the server or something on the way may just have closed it
    /// while it was idle.
    pub(super) has_served: bool,
    /// When it was dialled, or last served one.
    pub(super) last_used: Instant,
    dialled_at: Instant,
    /// The primary that Sentinel named, if it was asked.
    primary: Option<(String, u16)>,
}

/// What dials have in common.
#[derive(Debug, Default)]
pub(super) struct DialPlan {
    tls: TlsSetup,
    lookups: Lookups,
}

/// Makes connections; reads the secrets anew for each, so that rotated ones are taken up.
#[derive(Clone)]
pub(super) struct ConnectionManager {
    config: Arc<RedisConfig>,
    /// Signs tokens, where they stand for a password.
    signer: Option<Arc<dyn CredentialsProvider>>,
    redis: Arc<DialPlan>,
    sentinels: Arc<DialPlan>,
    /// The primary that Sentinel named last.
    primary: Arc<Mutex<Option<(String, u16)>>>,
}

/// Why a server could not be reached.
pub(super) enum OpenError {
    Io(io::Error),
    Tls(StoreError),
}

/// Who one is, and which database one wants.
pub(super) struct SignIn<'a> {
    pub(super) username: Option<&'a str>,
    pub(super) password: Option<&'a str>,
    pub(super) db: u16,
}

/// Dials, and shakes hands if there is to be TLS.
pub(super) fn open(
    host: &str,
    port: u16,
    tls: Option<&RedisTls>,
    plan: &DialPlan,
    deadline: Instant,
) -> Result<Wire, OpenError> {
    let Some(tls) = tls else {
        return Wire::tcp(host, port, &plan.lookups, deadline).map_err(OpenError::Io);
    };
    let config = plan.tls.config(tls).map_err(OpenError::Tls)?;
    let name = server_name(tls, host).map_err(OpenError::Tls)?;
    let wire = Wire::tcp(host, port, &plan.lookups, deadline).map_err(OpenError::Io)?;
    wire.encrypted(config, name).map_err(OpenError::Io)
}

/// Signs in and selects the database.
pub(super) fn sign_in(wire: &mut Wire, login: &SignIn<'_>) -> RedisResult<()> {
    if let Some(password) = login.password {
        let mut auth = cmd("AUTH");
        if let Some(username) = login.username {
            auth.arg(username);
        }
        auth.arg(password);
        wire.ask(&auth).map_err(|error| match error.code() {
            // A server without a password says ERR to one.
            Some("WRONGPASS" | "ERR") if !is_full(&error) => {
                RedisError::from((ErrorKind::AuthenticationFailed, "the server refused to sign in"))
            }
            Some(_) | None => error,
        })?;
    }
    if login.db != 0 {
        wire.ask(cmd("SELECT").arg(login.db))?;
    }
    Ok(())
}

impl ConnectionManager {
    pub(super) fn new(config: RedisConfig, signer: Option<Arc<dyn CredentialsProvider>>) -> Self {
        Self {
            config: Arc::new(config),
            signer,
            redis: Arc::default(),
            sentinels: Arc::default(),
            primary: Arc::default(),
        }
    }

    /// Asks the sentinels again. If they name another primary than last time, older connections are outdated.
    pub(super) fn look_for_primary(&self) -> Result<(), StoreError> {
        let RedisAddress::Sentinel(config) = &self.config.address else {
            return Ok(());
        };
        self.find_primary(config, Instant::now() + DIAL_TIMEOUT)
            .map(|_| ())
    }

    /// It leads to a server that is no longer the primary.
    pub(super) fn is_outdated(&self, connection: &PooledConnection) -> bool {
        connection.primary.is_some()
            && *self.primary.lock().unwrap_or_else(PoisonError::into_inner) != connection.primary
    }

    fn find_primary(&self, config: &SentinelConfig, deadline: Instant) -> Result<(String, u16), StoreError> {
        let found = sentinel::primary(config, self.config.tls.as_ref(), &self.sentinels, deadline)?;
        let mut primary = self.primary.lock().unwrap_or_else(PoisonError::into_inner);
        if primary.as_ref() != Some(&found) {
            let (host, port) = &found;
            log::info!("Sentinel names {host}:{port} as the primary '{}'", config.master);
            *primary = Some(found.clone());
        }
        Ok(found)
    }

    /// The password as it is now, or a token made for this connection.
    fn password(&self) -> Result<Option<String>, StoreError> {
        if let Some(iam) = &self.config.iam {
            return self.token(iam).map(Some);
        }
        let Some(password) = &self.config.password else {
            return Ok(None);
        };
        password.read().map(Some).map_err(|error| StoreError {
            message: format!("cannot read the Redis password: {error}; check REDIS_PASSWORD_FILE"),
            kind: "password file".to_owned(),
            reach: Reach::Redis,
        })
    }

    /// Signed anew each time: a token is taken for 15 minutes, a connection may be made at any time.
    fn token(&self, iam: &RedisIam) -> Result<String, StoreError> {
        let cannot = |cause: &str| StoreError {
            message: format!(
                "cannot sign a token for ElastiCache '{}': {cause}",
                iam.cache_name
            ),
            kind: "token".to_owned(),
            reach: Reach::Redis,
        };
        let now = clock::now();
        let credentials = match &self.signer {
            Some(signer) => signer.current(now),
            None => Err(CredentialsError {
                message: "there are no AWS credentials to sign with; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
                    .to_owned(),
                kind: "no_credentials".to_owned(),
            }),
        };
        let credentials = credentials.map_err(|error| cannot(&error.message))?;
        let user = self.config.username.as_deref().unwrap_or_default();
        iam_token(iam, user, &credentials, now)
            .map_err(|error| cannot(&format!("{error}; check REDIS_IAM_CACHE_NAME and REDIS_USERNAME")))
    }

    /// The server refused to sign in: keys that AWS takes no more are fetched anew.
    fn was_refused(&self) {
        if let (Some(_), Some(signer)) = (&self.config.iam, &self.signer) {
            let now = clock::now();
            if let Ok(credentials) = signer.current(now) {
                signer.invalidate(&credentials.access_key_id, now);
            }
        }
    }

    fn dial(&self, deadline: Instant) -> Result<(Wire, Option<(String, u16)>), StoreError> {
        let cannot = |error: OpenError| match error {
            OpenError::Io(error) => self.cannot_connect(&RedisError::from(error)),
            OpenError::Tls(error) => error,
        };
        let tls = self.config.tls.as_ref();
        match &self.config.address {
            RedisAddress::Unix(path) => {
                let wire = Wire::unix(path, deadline).map_err(|error| cannot(OpenError::Io(error)))?;
                Ok((wire, None))
            }
            RedisAddress::Tcp { host, port } => {
                let wire = open(host, *port, tls, &self.redis, deadline).map_err(cannot)?;
                Ok((wire, None))
            }
            RedisAddress::Sentinel(config) => {
                let (host, port) = self.find_primary(config, deadline)?;
                let wire = open(&host, port, tls, &self.redis, deadline).map_err(cannot)?;
                Ok((wire, Some((host, port))))
            }
        }
    }

    fn cannot_connect(&self, error: &RedisError) -> StoreError {
        translate(error, "cannot connect to", &self.config)
    }

    /// One question about the server, which an ACL may forbid: that is no hindrance.
    fn ask_if_allowed(&self, wire: &mut Wire, question: &Cmd) -> Result<Option<Value>, StoreError> {
        match wire.ask(question).map_err(|error| self.cannot_connect(&error)) {
            Ok(answer) => Ok(Some(answer)),
            Err(error) if error.kind == "NOPERM" => Ok(None),
            Err(error) => Err(error),
        }
    }
}

impl std::fmt::Debug for ConnectionManager {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("ConnectionManager")
            .field("config", &self.config)
            .field("signer", &self.signer.as_ref().map(|signer| signer.describe()))
            .finish_non_exhaustive()
    }
}

impl r2d2::ManageConnection for ConnectionManager {
    type Connection = PooledConnection;
    type Error = StoreError;

    fn connect(&self) -> Result<PooledConnection, StoreError> {
        let password = self.password()?;
        let (mut wire, primary) = self.dial(Instant::now() + DIAL_TIMEOUT)?;
        let login = SignIn {
            username: self.config.username.as_deref(),
            password: password.as_deref(),
            db: self.config.db,
        };
        if let Err(error) = sign_in(&mut wire, &login) {
            if error.kind() == ErrorKind::AuthenticationFailed {
                self.was_refused();
            }
            return Err(self.cannot_connect(&error));
        }
        // One question now, so that a server that does not speak Redis, or does not speak at all, is told from one
        // that was lost later.
        self.ask_if_allowed(&mut wire, &cmd("PING"))?;
        // Sentinels need a moment to agree on a promotion; until then they name the old primary.
        if primary.is_some()
            && let Some(Value::Array(role)) = self.ask_if_allowed(&mut wire, &cmd("ROLE"))?
            && role.first() == Some(&Value::BulkString(b"slave".to_vec()))
        {
            return Err(replica_error(&self.config));
        }
        let now = Instant::now();
        Ok(PooledConnection {
            wire,
            poisoned: false,
            has_served: false,
            last_used: now,
            dialled_at: now,
            primary,
        })
    }

    /// Not asked: a PING before each use would halve the throughput. Faults are found by use.
    fn is_valid(&self, _connection: &mut PooledConnection) -> Result<(), StoreError> {
        Ok(())
    }

    fn has_broken(&self, connection: &mut PooledConnection) -> bool {
        // The pool itself looks for old ones among those that are idle at that moment, every half a minute.
        let is_old = connection.dialled_at.elapsed() >= CONNECTION_LIFE;
        connection.poisoned || is_old || self.is_outdated(connection)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use r2d2::ManageConnection as _;

    use super::*;

    #[test]
    fn a_connection_that_is_always_in_use_does_not_live_for_ever_either() {
        let path = std::env::temp_dir().join(format!("pcs-connection-{}", std::process::id()));
        let listener = UnixListener::bind(&path).unwrap();
        let now = Instant::now();
        let mut connection = PooledConnection {
            wire: Wire::unix(&path, now).unwrap(),
            poisoned: false,
            has_served: true,
            last_used: now,
            dialled_at: now,
            primary: None,
        };
        let config = RedisConfig {
            address: RedisAddress::Unix(path.clone()),
            db: 0,
            username: None,
            password: None,
            iam: None,
            tls: None,
        };
        let manager = ConnectionManager::new(config, None);
        assert!(!manager.has_broken(&mut connection));
        connection.dialled_at = now.checked_sub(CONNECTION_LIFE).expect("an up-time of minutes");
        assert!(manager.has_broken(&mut connection));
        drop(listener);
        std::fs::remove_file(&path).unwrap();
    }
}
