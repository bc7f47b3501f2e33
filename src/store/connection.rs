//! Connections to Redis for the r2d2 pool.
//!
//! redis's own r2d2 manager dials without a timeout: a server that accepts and never answers would hang the
//! thread. This one dials and signs in against a deadline. A connection that has seen an I/O error, a timeout
//! or an answer that says "not this server" is poisoned: after a timeout it still claims to be open, and after
//! a failover the pool would hand out the demoted server's connection again and again.

use std::time::{Duration, Instant};

use redis::io::tcp::TcpSettings;
use redis::{Client, ClientTlsConfig, Connection, ConnectionAddr, ConnectionInfo, IntoConnectionInfo as _};
use redis::{RedisConnectionInfo, RedisError, TlsCertificates};

use super::StoreError;
use super::errors::translate;
use crate::config::{RedisAddress, RedisConfig};

/// Dialling, TLS and signing in, each answer of it.
const DIAL_TIMEOUT: Duration = Duration::from_secs(3);

/// A connection, and whether it may be used again.
pub(super) struct PooledConnection {
    pub(super) redis: Connection,
    pub(super) poisoned: bool,
    /// It has served a round trip: if it breaks now, the server or something on the way may just have closed it
    /// while it was idle.
    pub(super) has_served: bool,
    /// When it was dialled, or last served one.
    pub(super) last_used: Instant,
}

/// Makes connections; reads the secrets anew for each, so that rotated ones are taken up.
#[derive(Debug)]
pub(super) struct ConnectionManager {
    config: RedisConfig,
}

impl ConnectionManager {
    pub(super) fn new(config: RedisConfig) -> Self {
        Self { config }
    }

    fn client(&self) -> Result<Client, StoreError> {
        let wrong = |error: &RedisError| translate(error, "cannot set up a connection to", &self.config);
        let mut settings = RedisConnectionInfo::default()
            .set_db(i64::from(self.config.db))
            .set_skip_set_lib_name();
        if let Some(username) = &self.config.username {
            settings = settings.set_username(username);
        }
        if let Some(password) = &self.config.password {
            let password = password.read().map_err(|error| StoreError {
                message: format!("cannot read the Redis password: {error}; check REDIS_PASSWORD_FILE"),
                kind: "password file".to_owned(),
                reach: super::Reach::Redis,
            })?;
            settings = settings.set_password(password);
        }
        let info = self
            .address()
            .into_connection_info()
            .map_err(|error| wrong(&error))?;
        let info: ConnectionInfo = info
            .set_redis_settings(settings)
            .set_tcp_settings(TcpSettings::default().set_nodelay(true));
        let Some(tls) = self.config.tls.as_ref() else {
            return Client::open(info).map_err(|error| wrong(&error));
        };
        let root_cert = match &tls.ca_file {
            None => None,
            Some(path) => Some(std::fs::read(path).map_err(|error| StoreError {
                message: format!("cannot read {}: {error}; check REDIS_TLS_CA_FILE", path.display()),
                kind: "ca file".to_owned(),
                reach: super::Reach::Redis,
            })?),
        };
        let client_tls: Option<ClientTlsConfig> = None;
        Client::build_with_tls(
            info,
            TlsCertificates {
                client_tls,
                root_cert,
            },
        )
        .map_err(|error| wrong(&error))
    }

    fn address(&self) -> ConnectionAddr {
        match (&self.config.address, &self.config.tls) {
            (RedisAddress::Unix(path), _) => ConnectionAddr::Unix(path.clone()),
            (RedisAddress::Tcp { host, port }, None) => ConnectionAddr::Tcp(host.clone(), *port),
            (RedisAddress::Tcp { host, port }, Some(tls)) => ConnectionAddr::TcpTls {
                host: host.clone(),
                port: *port,
                insecure: tls.insecure,
                tls_params: None,
            },
        }
    }
}

impl r2d2::ManageConnection for ConnectionManager {
    type Connection = PooledConnection;
    type Error = StoreError;

    fn connect(&self) -> Result<PooledConnection, StoreError> {
        let cannot = |error: &RedisError| translate(error, "cannot connect to", &self.config);
        let mut redis = self
            .client()?
            .get_connection_with_timeout(DIAL_TIMEOUT)
            .map_err(|error| cannot(&error))?;
        // TLS shakes hands at the first byte sent: one question now, so that a server that does not speak it, or
        // does not speak at all, is told from one that was lost later.
        redis
            .set_read_timeout(Some(DIAL_TIMEOUT))
            .map_err(|error| cannot(&error))?;
        redis
            .set_write_timeout(Some(DIAL_TIMEOUT))
            .map_err(|error| cannot(&error))?;
        if let Err(error) = redis::cmd("PING").exec(&mut redis) {
            let error = cannot(&error);
            // An ACL that forbids PING is no hindrance.
            if error.kind != "NOPERM" {
                return Err(error);
            }
        }
        Ok(PooledConnection {
            redis,
            poisoned: false,
            has_served: false,
            last_used: Instant::now(),
        })
    }

    /// Not asked: a PING before each use would halve the throughput. Faults are found by use.
    fn is_valid(&self, _connection: &mut PooledConnection) -> Result<(), StoreError> {
        Ok(())
    }

    fn has_broken(&self, connection: &mut PooledConnection) -> bool {
        connection.poisoned
    }
}
