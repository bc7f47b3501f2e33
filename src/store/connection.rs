//! Connections to Redis, and round trips on them.
//!
//! A connection is made, TLS and authentication included, within one deadline. One that has seen an I/O error, a timeout or
//! an error that is not one change's is not used again: replies may still come, and after a failover it leads to a replica.
//! Idle ones are not tested before use, since a PING before each would halve the throughput. Faults are found by use.

use std::convert::Infallible;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use redis::{Cmd, FromRedisValue, RedisError, RedisResult, Value, cmd};

use super::errors::{Cause, StoreError, cause_in, refusal, translate, unexpected};
use super::iam_token::iam_token;
use super::sentinel::{self, Server};
use super::tls::TlsSetup;
use super::tls_errors::explain;
use super::transport::{TimedSocket, Transport};
use crate::aws::CredentialsProvider;
use crate::clock;
use crate::config::{RedisAddress, RedisConfig, RedisTls, Secret};
use crate::lookup::Lookups;

/// For finding the primary, connecting, TLS and authentication together.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// One deadline for a whole round trip, however many replies it has.
const ROUND_TRIP: Duration = Duration::from_secs(5);
/// A connection lives this long at most, so that a changed address of the name is noticed, however busy it is.
const CONNECTION_LIFETIME: Duration = Duration::from_mins(10);

/// A connection.
pub(super) struct Connection {
    transport: Transport,
    config: Arc<RedisConfig>,
    /// Not to be used again.
    pub(super) is_broken: bool,
    connected_at: Instant,
    /// The primary that Sentinel named, if it was asked.
    primary: Option<Server>,
}

impl Connection {
    /// Sends packed commands and reads so many replies; a server's error is a value.
    pub(super) fn round_trip(&mut self, request: &[u8], replies: usize) -> Result<Vec<Value>, StoreError> {
        let transport = &mut self.transport;
        transport.set_deadline(Instant::now() + ROUND_TRIP);
        let replies =
            transport.send(request).and_then(|()| (0..replies).map(|_| transport.receive()).collect());
        replies.map_err(|error| {
            self.is_broken = true;
            translate(&error, "lost the connection to", &self.config)
        })
    }

    /// One packed command. A server's error is an error; unless an ACL forbids the command, it breaks the connection.
    pub(super) fn query(&mut self, request: &[u8], doing: &str) -> Result<Value, StoreError> {
        let reply = self.round_trip(request, 1)?.pop();
        let reply = unless_refused(reply.unwrap_or(Value::Nil), doing, &self.config);
        if let Err(error) = &reply {
            self.is_broken |= !matches!(error.cause, Cause::NoPermission | Cause::NoScript);
        }
        reply
    }

    /// One command whose reply is of this type.
    pub(super) fn ask<T: FromRedisValue>(&mut self, command: &Cmd, doing: &str) -> Result<T, StoreError> {
        let reply = self.query(&command.get_packed_command(), doing)?;
        redis::from_redis_value(reply).map_err(|_| unexpected("a reply of an unknown form", &self.config))
    }
}

/// A reply that is no error of the server's.
pub(super) fn unless_refused(reply: Value, doing: &str, config: &RedisConfig) -> Result<Value, StoreError> {
    if let Value::ServerError(error) = reply {
        return Err(refusal(error.code(), error.details().unwrap_or_default(), doing, config));
    }
    Ok(reply)
}

/// Reaches servers of one kind: Redis, or the sentinels.
pub(super) struct Dialer {
    tls: Option<TlsSetup>,
    lookups: Lookups,
    password_setting: &'static str,
    has_warned_of_password: AtomicBool,
}

impl Dialer {
    fn new(tls: Option<RedisTls>, password_setting: &'static str) -> Self {
        let (tls, lookups) = (tls.map(TlsSetup::new), Lookups::default());
        Self { tls, lookups, password_setting, has_warned_of_password: AtomicBool::new(false) }
    }

    /// Connects.
    pub(super) fn open(&self, host: &str, port: u16, deadline: Instant) -> io::Result<Transport> {
        let tls = self.tls.as_ref().map(|tls| tls.client(host)).transpose().map_err(io::Error::other)?;
        Ok(Transport::new(TimedSocket::tcp(host, port, &self.lookups, deadline)?, tls))
    }

    /// What it means that TLS failed, and what to do about it. None if something else did.
    pub(super) fn explain(&self, error: &RedisError) -> Option<String> {
        Some(explain(cause_in(error)?, &self.tls.as_ref()?.settings))
    }

    /// Authenticates. A password that the server does not ask for is accepted, as in ioredis, with one warning. If the server
    /// requires a password after all, the next command fails with NOAUTH.
    pub(super) fn authenticate(
        &self,
        transport: &mut Transport,
        username: Option<&str>,
        password: Option<&str>,
    ) -> RedisResult<()> {
        let Some(password) = password else { return Ok(()) };
        let says = |error: &RedisError, words| error.detail().is_some_and(|detail| detail.contains(words));
        match transport.query(cmd("AUTH").arg(username).arg(password)) {
            Err(error) if error.code() == Some("ERR") && !says(&error, "max number of clients") => {
                if !self.has_warned_of_password.swap(true, Ordering::SeqCst) {
                    // Without the server's text, which may contain the password.
                    let setting = self.password_setting;
                    log::warn!(
                        "{setting} is set, but the server does not ask for a password: continuing without it"
                    );
                }
                Ok(())
            }
            answer => answer.map(|_| ()),
        }
    }
}

/// What the pool holds: a connection, once the first thread that needs it has made it. So that thread gets the attempt's error,
/// and an unavailable Redis is dialled only by those who have something to do.
struct Slots;

impl r2d2::ManageConnection for Slots {
    type Connection = Option<Connection>;
    type Error = Infallible;

    fn connect(&self) -> Result<Option<Connection>, Infallible> {
        Ok(None)
    }

    fn is_valid(&self, _: &mut Option<Connection>) -> Result<(), Infallible> {
        Ok(())
    }

    fn has_broken(&self, _: &mut Option<Connection>) -> bool {
        false
    }
}

/// The connections to one Redis. The secrets are read again for each, so that rotated ones are used.
pub(super) struct Connections {
    pub(super) config: Arc<RedisConfig>,
    /// Signs the tokens that replace a password (REDIS_IAM_AUTH).
    signer: Option<Arc<CredentialsProvider>>,
    redis: Dialer,
    sentinels: Dialer,
    /// The primary that Sentinel named and that answered as one.
    primary: Mutex<Option<Server>>,
    pool: r2d2::Pool<Slots>,
}

impl Connections {
    /// A pool of at most `size` connections, none of which is made yet.
    pub(super) fn new(config: RedisConfig, size: u32, signer: Option<Arc<CredentialsProvider>>) -> Self {
        let has_tls = matches!(&config.address, RedisAddress::Sentinel(sentinels) if sentinels.tls);
        // The name to expect in the certificate is the primary's, not the sentinel's.
        let sentinel_tls =
            has_tls.then(|| RedisTls { server_name: None, ..config.tls.clone().unwrap_or_default() });
        Self {
            redis: Dialer::new(config.tls.clone(), "REDIS_PASSWORD"),
            sentinels: Dialer::new(sentinel_tls, "REDIS_SENTINEL_PASSWORD"),
            config: Arc::new(config),
            signer,
            primary: Mutex::default(),
            pool: r2d2::Pool::builder()
                .max_size(size)
                .min_idle(Some(0))
                .test_on_check_out(false)
                .max_lifetime(None)
                .idle_timeout(None)
                .connection_timeout(ROUND_TRIP)
                .build_unchecked(Slots),
        }
    }

    /// Acts on a connection, and on another one if an idle one turns out to be closed: servers and load balancers close idle
    /// ones, which says nothing about Redis. A new connection that breaks does.
    pub(super) fn on_one<T>(
        &self,
        act: impl Fn(&mut Connection) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        loop {
            let slot = self.pool.get();
            let mut slot = slot.map_err(|_| unexpected("all connections are in use", &self.config))?;
            // Out of the slot meanwhile: after a panic, replies may still come.
            let idle = slot.take().filter(|connection| self.is_usable(connection));
            let was_idle = idle.is_some();
            let mut connection = idle.map_or_else(|| self.connect(), Ok)?;
            match act(&mut connection) {
                Err(error) if was_idle && error.cause == Cause::Io => {
                    log::debug!(err:% = error; "an idle connection to Redis was closed; taking another one");
                }
                ended => {
                    *slot = Some(connection).filter(|connection| !connection.is_broken);
                    return ended;
                }
            }
        }
    }

    /// One command, on any connection, whose reply is of this type.
    pub(super) fn ask<T: FromRedisValue>(&self, command: &Cmd, doing: &str) -> Result<T, StoreError> {
        self.on_one(|connection| connection.ask(command, doing))
    }

    fn is_usable(&self, connection: &Connection) -> bool {
        let is_young = connection.connected_at.elapsed() < CONNECTION_LIFETIME;
        !connection.is_broken && is_young && connection.primary == *self.primary()
    }

    fn primary(&self) -> MutexGuard<'_, Option<Server>> {
        self.primary.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_primary(&self, server: Server) {
        let mut primary = self.primary();
        if primary.as_ref() != Some(&server) {
            log::info!("Sentinel names {}:{} as the primary", server.0, server.1);
            *primary = Some(server);
        }
    }

    /// Asks the sentinels again. If most of them name another primary than the one in use, and that one answers as a
    /// primary, connections to the one before are not used again.
    pub(super) fn follow_primary(&self) -> Result<(), StoreError> {
        let current = self.primary().clone();
        let (RedisAddress::Sentinel(config), Some(current)) = (&self.config.address, current) else {
            return Ok(());
        };
        let deadline = Instant::now() + CONNECT_TIMEOUT;
        let elected = sentinel::primaries(config, &self.sentinels, deadline, Some(&current))?.swap_remove(0);
        if elected != current {
            self.connect_to(&elected, Instant::now() + CONNECT_TIMEOUT)?;
            self.set_primary(elected);
        }
        Ok(())
    }

    fn connect(&self) -> Result<Connection, StoreError> {
        let deadline = Instant::now() + CONNECT_TIMEOUT;
        let config = match &self.config.address {
            RedisAddress::Unix(path) => {
                let socket = TimedSocket::unix(path, deadline);
                return self.log_in(socket.map(|socket| Transport::new(socket, None)));
            }
            RedisAddress::Tcp { host, port } => {
                return self.log_in(self.redis.open(host, *port, deadline));
            }
            RedisAddress::Sentinel(config) => config,
        };
        let share = || deadline.min(Instant::now() + sentinel::EACH);
        // The primary in use first: one sentinel of several may name another.
        let current = self.primary().clone();
        if let Some(current) = &current
            && let Ok(connection) = self.connect_to(current, share())
        {
            return Ok(connection);
        }
        let mut connected = Err(self.replica_error());
        for server in sentinel::primaries(config, &self.sentinels, deadline, current.as_ref())? {
            connected = self.connect_to(&server, share());
            if connected.is_ok() {
                self.set_primary(server);
                break;
            }
        }
        connected
    }

    /// A server that Sentinel named, if it is a primary.
    fn connect_to(&self, server: &Server, deadline: Instant) -> Result<Connection, StoreError> {
        let mut connection = self.log_in(self.redis.open(&server.0, server.1, deadline))?;
        if let Some(Value::Array(role)) = self.ask_if_allowed(&mut connection.transport, "ROLE")?
            && role.first() == Some(&Value::BulkString(b"slave".to_vec()))
        {
            return Err(self.replica_error());
        }
        connection.primary = Some(server.clone());
        Ok(connection)
    }

    fn log_in(&self, opened: io::Result<Transport>) -> Result<Connection, StoreError> {
        let cannot_connect = |error: &RedisError| translate(error, "cannot connect to", &self.config);
        let mut transport = opened.map_err(|error| cannot_connect(&error.into()))?;
        let (username, password) = (self.config.username.as_deref(), self.password()?);
        let accepted = self.redis.authenticate(&mut transport, username, password.as_deref());
        accepted.map_err(|error| {
            let error = cannot_connect(&error);
            // A token was refused: keys that AWS no longer accepts are fetched again.
            if error.cause == Cause::WrongPassword
                && let Some(signer) = &self.signer
                && let Some(credentials) = signer.usable(clock::now())
            {
                signer.invalidate(&credentials.access_key_id);
            }
            error
        })?;
        if self.config.db != 0 {
            let selected = transport.query(cmd("SELECT").arg(self.config.db));
            selected.map_err(|error| cannot_connect(&error))?;
        }
        // One command now distinguishes a server that does not speak Redis, or does not answer, from one that fails later.
        self.ask_if_allowed(&mut transport, "PING")?;
        Ok(Connection {
            transport,
            config: Arc::clone(&self.config),
            is_broken: false,
            connected_at: Instant::now(),
            primary: None,
        })
    }

    /// The password as it is now. For ElastiCache, a token that is signed for this connection: it is valid for 15 minutes.
    fn password(&self) -> Result<Option<String>, StoreError> {
        let failed = |message| StoreError::new(Cause::Credentials, message);
        let (Some(iam), Some(signer)) = (&self.config.iam, &self.signer) else {
            let password = self.config.password.as_ref().map(Secret::read).transpose();
            return password.map_err(|error| {
                failed(format!("cannot read the Redis password: {error}; check REDIS_PASSWORD_FILE"))
            });
        };
        let cannot = format!("cannot sign a token for ElastiCache '{}'", iam.cache_name);
        let now = clock::now();
        let credentials =
            signer.current(now).map_err(|error| failed(format!("{cannot}: {}", error.message)))?;
        let user = self.config.username.as_deref().unwrap_or_default();
        let token = iam_token(iam, user, &credentials, now).map_err(|error| {
            failed(format!("{cannot}: {error}; check REDIS_IAM_CACHE_NAME and REDIS_USERNAME"))
        });
        token.map(Some)
    }

    /// What a read-only replica would answer to a write.
    pub(super) fn replica_error(&self) -> StoreError {
        refusal("READONLY", "", "cannot write to", &self.config)
    }

    /// One question about the server. `None` if an ACL forbids it or a managed service does not know it.
    fn ask_if_allowed(&self, transport: &mut Transport, question: &str) -> Result<Option<Value>, StoreError> {
        match transport.query(&cmd(question)) {
            Ok(answer) => Ok(Some(answer)),
            Err(error) => match translate(&error, "cannot connect to", &self.config) {
                error if error.is_unsupported() => Ok(None),
                error => Err(error),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn a_connection_that_is_always_in_use_has_an_end_too() {
        let path = std::env::temp_dir().join(format!("pcs-connection-{}", std::process::id()));
        let listener = UnixListener::bind(&path).unwrap();
        let config = RedisConfig {
            address: RedisAddress::Unix(path.clone()),
            db: 0,
            username: None,
            password: None,
            iam: None,
            tls: None,
        };
        let connections = Connections::new(config, 1, None);
        let now = Instant::now();
        let mut connection = Connection {
            transport: Transport::new(TimedSocket::unix(&path, now + ROUND_TRIP).unwrap(), None),
            config: Arc::clone(&connections.config),
            is_broken: false,
            connected_at: now,
            primary: None,
        };
        assert!(connections.is_usable(&connection));
        connection.connected_at = now.checked_sub(CONNECTION_LIFETIME).expect("an up-time of minutes");
        assert!(!connections.is_usable(&connection));
        drop(listener);
        std::fs::remove_file(&path).unwrap();
    }
}
