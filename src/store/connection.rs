//! Connections to Redis for the r2d2 pool.
//!
//! redis's own r2d2 manager connects without a timeout: a server that accepts and never answers would hang the thread.
//! This one connects, does the TLS handshake and authenticates against one deadline. A connection that has seen an I/O
//! error, a timeout or an error that is not one change's is discarded: after a timeout it still claims to be open, and
//! after a failover the pool would hand out the demoted server's connection again and again.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use redis::{Cmd, RedisError, RedisResult, Value, cmd};

use super::errors::{Cause, StoreError, translate, translate_answer};
use super::iam_token::iam_token;
use super::sentinel::{self, Server};
use super::tls::{TlsSetup, server_name};
use super::transport::Transport;
use crate::aws::CredentialsProvider;
use crate::clock;
use crate::config::{RedisAddress, RedisConfig, RedisIam, RedisTls};
use crate::lookup::Lookups;

/// For finding the primary, connecting, TLS and authentication together.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// A connection lives this long at most, so that a name that moved to another address is followed, however busy it is.
pub(super) const CONNECTION_LIFETIME: Duration = Duration::from_mins(10);

/// A connection, and whether it may be used again.
pub(super) struct PooledConnection {
    pub(super) transport: Transport,
    /// Not to be used again.
    pub(super) is_broken: bool,
    /// It has served a round trip: if it breaks now, the server or something on the way may just have closed it while it
    /// was idle.
    pub(super) has_served: bool,
    /// When it was connected, or last served one.
    pub(super) last_used: Instant,
    /// This server does not run scripts by their SHA-1: they are sent whole.
    pub(super) sends_source: bool,
    connected_at: Instant,
    /// The primary that Sentinel named, if it was asked.
    primary: Option<Server>,
}

/// What connections have in common.
#[derive(Debug, Default)]
pub(super) struct DialPlan {
    tls: TlsSetup,
    lookups: Lookups,
    has_warned_of_password: AtomicBool,
}

/// Makes connections; reads the secrets again for each, so that rotated ones are used.
#[derive(Clone)]
pub(super) struct ConnectionManager {
    config: Arc<RedisConfig>,
    /// Signs the tokens that replace a password (REDIS_IAM_AUTH).
    signer: Option<Arc<CredentialsProvider>>,
    redis: Arc<DialPlan>,
    sentinels: Arc<DialPlan>,
    /// The primary that Sentinel named and that answered as one.
    primary: Arc<Mutex<Option<Server>>>,
}

/// Why a server could not be reached.
#[derive(Debug, thiserror::Error)]
pub(super) enum OpenError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("{0}")]
    Tls(#[from] StoreError),
}

/// What a connection logs in with, and its database.
pub(super) struct Login<'a> {
    pub(super) username: Option<&'a str>,
    pub(super) password: Option<&'a str>,
    pub(super) db: u16,
}

/// Connects; with TLS, does the handshake.
pub(super) fn open(
    host: &str,
    port: u16,
    tls: Option<&RedisTls>,
    plan: &DialPlan,
    deadline: Instant,
) -> Result<Transport, OpenError> {
    let Some(tls) = tls else {
        return Ok(Transport::tcp(host, port, &plan.lookups, deadline)?);
    };
    let (config, name) = (plan.tls.config(tls)?, server_name(tls, host)?);
    Ok(Transport::tcp(host, port, &plan.lookups, deadline)?.encrypted(config, name)?)
}

/// Authenticates and selects the database. A password that the server does not ask for is accepted, as in ioredis: one
/// warning names `setting`. If the server requires a password after all, the next command fails with NOAUTH.
pub(super) fn authenticate(
    transport: &mut Transport,
    login: &Login<'_>,
    setting: &str,
    plan: &DialPlan,
) -> RedisResult<()> {
    if let Some(password) = login.password {
        let mut auth = cmd("AUTH");
        auth.arg(login.username).arg(password);
        match transport.query(&auth) {
            Err(error) if error.code() == Some("ERR") && !says_too_many_clients(&error) => {
                if !plan.has_warned_of_password.swap(true, Ordering::SeqCst) {
                    // Without the server's text, which may contain the password.
                    log::warn!(
                        "{setting} is set, but the server does not ask for a password: continuing without it"
                    );
                }
            }
            answer => answer.map(|_| ())?,
        }
    }
    if login.db != 0 {
        transport.query(cmd("SELECT").arg(login.db))?;
    }
    Ok(())
}

fn says_too_many_clients(error: &RedisError) -> bool {
    error.detail().is_some_and(|detail| detail.contains("max number of clients"))
}

impl ConnectionManager {
    pub(super) fn new(config: RedisConfig, signer: Option<Arc<CredentialsProvider>>) -> Self {
        Self {
            config: Arc::new(config),
            signer,
            redis: Arc::default(),
            sentinels: Arc::default(),
            primary: Arc::default(),
        }
    }

    /// Asks the sentinels again. If most of them name another primary than the one in use, and that one answers as a
    /// primary, older connections are outdated.
    pub(super) fn follow_primary(&self) -> Result<(), StoreError> {
        let RedisAddress::Sentinel(config) = &self.config.address else {
            return Ok(());
        };
        let (tls, current) = (self.config.tls.as_ref(), self.primary());
        let deadline = Instant::now() + CONNECT_TIMEOUT;
        let elected = sentinel::elected(config, tls, &self.sentinels, deadline, current.as_ref())?;
        match elected {
            Some(elected) if current.is_some() && current.as_ref() != Some(&elected) => {
                self.connect_to(&elected, Instant::now() + CONNECT_TIMEOUT)?;
                self.set_primary(&elected);
                Ok(())
            }
            Some(_) | None => Ok(()),
        }
    }

    /// It leads to a server that is no longer the primary.
    pub(super) fn is_outdated(&self, connection: &PooledConnection) -> bool {
        connection.primary.is_some() && self.primary() != connection.primary
    }

    fn primary(&self) -> Option<Server> {
        self.primary.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_primary(&self, server: &Server) {
        let mut primary = self.primary.lock().unwrap_or_else(PoisonError::into_inner);
        if primary.as_ref() != Some(server) {
            log::info!("Sentinel names {}:{} as the primary", server.0, server.1);
            *primary = Some(server.clone());
        }
    }

    /// The password as it is now, or a token made for this connection.
    fn password(&self) -> Result<Option<String>, StoreError> {
        if let Some(iam) = &self.config.iam {
            return self.token(iam).map(Some);
        }
        let password = self.config.password.as_ref().map(crate::config::Secret::read).transpose();
        password.map_err(|error| {
            StoreError::new(
                Cause::Credentials,
                format!("cannot read the Redis password: {error}; check REDIS_PASSWORD_FILE"),
            )
        })
    }

    /// Signed for each connection: a token is valid for 15 minutes, a connection may be made at any time.
    fn token(&self, iam: &RedisIam) -> Result<String, StoreError> {
        let failed = |why: &str| {
            let message = format!("cannot sign a token for ElastiCache '{}': {why}", iam.cache_name);
            StoreError::new(Cause::Credentials, message)
        };
        let now = clock::now();
        let Some(signer) = &self.signer else {
            return Err(failed(
                "there are no AWS credentials to sign with; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
            ));
        };
        let credentials = signer.current(now).map_err(|error| failed(&error.message))?;
        let user = self.config.username.as_deref().unwrap_or_default();
        iam_token(iam, user, &credentials, now)
            .map_err(|error| failed(&format!("{error}; check REDIS_IAM_CACHE_NAME and REDIS_USERNAME")))
    }

    /// The server refused the token: keys that AWS no longer accepts are fetched again.
    fn invalidate_credentials(&self) {
        if let (Some(_), Some(signer)) = (&self.config.iam, &self.signer)
            && let Some(credentials) = signer.usable(clock::now())
        {
            signer.invalidate(&credentials.access_key_id);
        }
    }

    /// A server that Sentinel named, if it is a primary.
    fn connect_to(&self, server: &Server, deadline: Instant) -> Result<PooledConnection, StoreError> {
        let tls = self.config.tls.as_ref();
        let transport =
            open(&server.0, server.1, tls, &self.redis, deadline).map_err(|error| self.cannot_open(error))?;
        let mut connection = self.log_in(transport)?;
        if let Some(Value::Array(role)) = self.ask_if_allowed(&mut connection.transport, &cmd("ROLE"))?
            && role.first() == Some(&Value::BulkString(b"slave".to_vec()))
        {
            return Err(self.replica_error());
        }
        connection.primary = Some(server.clone());
        Ok(connection)
    }

    fn log_in(&self, mut transport: Transport) -> Result<PooledConnection, StoreError> {
        let password = self.password()?;
        let login = Login {
            username: self.config.username.as_deref(),
            password: password.as_deref(),
            db: self.config.db,
        };
        authenticate(&mut transport, &login, "REDIS_PASSWORD", &self.redis).map_err(|error| {
            let error = self.cannot_connect(&error);
            if error.cause == Cause::WrongPassword {
                self.invalidate_credentials();
            }
            error
        })?;
        // One command now distinguishes a server that does not speak Redis, or does not answer, from one that fails later.
        self.ask_if_allowed(&mut transport, &cmd("PING"))?;
        let now = Instant::now();
        Ok(PooledConnection {
            transport,
            is_broken: false,
            has_served: false,
            last_used: now,
            sends_source: false,
            connected_at: now,
            primary: None,
        })
    }

    /// What a read-only replica would answer to a write.
    pub(super) fn replica_error(&self) -> StoreError {
        translate_answer("READONLY", "", "cannot write to", &self.config)
    }

    fn cannot_open(&self, error: OpenError) -> StoreError {
        match error {
            OpenError::Io(error) => self.cannot_connect(&RedisError::from(error)),
            OpenError::Tls(error) => error,
        }
    }

    fn cannot_connect(&self, error: &RedisError) -> StoreError {
        translate(error, "cannot connect to", &self.config)
    }

    /// One question about the server. `None` if an ACL forbids it or a managed service does not know it.
    fn ask_if_allowed(&self, transport: &mut Transport, question: &Cmd) -> Result<Option<Value>, StoreError> {
        match transport.query(question).map_err(|error| self.cannot_connect(&error)) {
            Ok(answer) => Ok(Some(answer)),
            Err(error) if matches!(error.cause, Cause::NoPermission | Cause::Other(_)) => Ok(None),
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
        let deadline = Instant::now() + CONNECT_TIMEOUT;
        let tls = self.config.tls.as_ref();
        let config = match &self.config.address {
            RedisAddress::Unix(path) => {
                let transport = Transport::unix(path, deadline);
                return self.log_in(transport.map_err(|error| self.cannot_open(error.into()))?);
            }
            RedisAddress::Tcp { host, port } => {
                let transport = open(host, *port, tls, &self.redis, deadline);
                return self.log_in(transport.map_err(|error| self.cannot_open(error))?);
            }
            RedisAddress::Sentinel(config) => config,
        };
        // The primary in use first: one sentinel of several may name another.
        if let Some(known) = self.primary()
            && let Ok(connection) = self.connect_to(&known, deadline.min(Instant::now() + sentinel::EACH))
        {
            return Ok(connection);
        }
        let (server, connection) =
            sentinel::find(config, tls, &self.sentinels, deadline, |server, until| {
                self.connect_to(server, until)
            })?;
        self.set_primary(&server);
        Ok(connection)
    }

    /// Not checked: a PING before each use would halve the throughput. Faults are found by use.
    fn is_valid(&self, _connection: &mut PooledConnection) -> Result<(), StoreError> {
        Ok(())
    }

    fn has_broken(&self, connection: &mut PooledConnection) -> bool {
        // The pool itself checks only connections that are idle, and only every 30 s.
        let is_old = connection.connected_at.elapsed() >= CONNECTION_LIFETIME;
        connection.is_broken || is_old || self.is_outdated(connection)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use r2d2::ManageConnection as _;

    use super::*;

    #[test]
    fn a_connection_that_is_always_in_use_has_an_end_too() {
        let path = std::env::temp_dir().join(format!("pcs-connection-{}", std::process::id()));
        let listener = UnixListener::bind(&path).unwrap();
        let now = Instant::now();
        let mut connection = PooledConnection {
            transport: Transport::unix(&path, now).unwrap(),
            is_broken: false,
            has_served: true,
            last_used: now,
            sends_source: false,
            connected_at: now,
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
        connection.connected_at = now.checked_sub(CONNECTION_LIFETIME).expect("an up-time of minutes");
        assert!(manager.has_broken(&mut connection));
        drop(listener);
        std::fs::remove_file(&path).unwrap();
    }
}
