//! The pool of connections, and round trips on them.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use redis::{Cmd, Value};

use super::connection::{CONNECTION_LIFETIME, ConnectionManager, PooledConnection};
use super::errors::{Cause, StoreError, server_name, translate, translate_answer};
use crate::aws::CredentialsProvider;
use crate::config::RedisConfig;

/// One deadline for a whole round trip, however many replies it has.
const ROUND_TRIP: Duration = Duration::from_secs(5);
/// How long to wait for a connection: longer than one attempt, so that the attempt's own error is what is reported.
const CHECKOUT: Duration = Duration::from_secs(4);
/// One slice of that wait.
const CHECKOUT_SLICE: Duration = Duration::from_millis(50);
/// A connection that was unused for this long may have been closed by the server.
const IDLE: Duration = Duration::from_millis(500);

/// Connections to one Redis.
pub(super) struct ConnectionPool {
    config: RedisConfig,
    pub(super) manager: ConnectionManager,
    connections: r2d2::Pool<ConnectionManager>,
    last_connect_error: LastConnectError,
}

/// Keeps why there is no connection: the pool reports only that there is none.
#[derive(Debug, Clone, Default)]
struct LastConnectError(Arc<Mutex<Option<(Instant, StoreError)>>>);

impl LastConnectError {
    /// Why the last attempt failed, if it has failed since then. Several callers may wait for the same attempt.
    fn since(&self, began: Instant) -> Option<StoreError> {
        let last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        last.as_ref().filter(|(at, _)| *at >= began).map(|(_, error)| error.clone())
    }
}

impl r2d2::HandleError<StoreError> for LastConnectError {
    fn handle_error(&self, error: StoreError) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some((Instant::now(), error));
    }
}

impl ConnectionPool {
    /// At most `size` connections, made when first needed: this never fails for a Redis that is unavailable.
    pub(super) fn new(config: RedisConfig, size: u32, signer: Option<Arc<CredentialsProvider>>) -> Self {
        let last_connect_error = LastConnectError::default();
        // One thread connects: more would only try an unavailable Redis from several sides at once.
        let connector = scheduled_thread_pool::ScheduledThreadPool::builder()
            .num_threads(1)
            .thread_name_pattern("redis-dial-{}")
            .build();
        let manager = ConnectionManager::new(config.clone(), signer);
        let connections = r2d2::Pool::builder()
            .max_size(size.max(1))
            .min_idle(Some(0))
            .test_on_check_out(false)
            .connection_timeout(CHECKOUT)
            .max_lifetime(Some(CONNECTION_LIFETIME))
            .idle_timeout(Some(Duration::from_mins(1)))
            .error_handler(Box::new(last_connect_error.clone()))
            .thread_pool(Arc::new(connector))
            .build_unchecked(manager.clone());
        Self { config, manager, connections, last_connect_error }
    }

    fn connection(&self) -> Result<r2d2::PooledConnection<ConnectionManager>, StoreError> {
        let began = Instant::now();
        let deadline = began + CHECKOUT;
        loop {
            // The pool goes on connecting in the background and would let its callers wait for that. Waiting in slices, a
            // caller learns of a failed attempt soon after it has failed.
            match self.connections.get_timeout(CHECKOUT_SLICE) {
                // Dropping it ends it: the pool makes another one.
                Ok(connection) if self.manager.is_outdated(&connection) => {}
                Ok(connection) => return Ok(connection),
                Err(timeout) => {
                    if let Some(error) = self.last_connect_error.since(began) {
                        return Err(error);
                    }
                    if Instant::now() >= deadline {
                        let at = server_name(&self.config);
                        return Err(StoreError::new(
                            Cause::Timeout,
                            format!(
                                "cannot connect to Redis at {at}: {timeout}; check that Redis is running and reachable from here"
                            ),
                        ));
                    }
                }
            }
        }
    }

    /// Acts on a connection; again on another one if that had been connected before and turns out to be closed, as servers
    /// and load balancers do with idle ones: that says nothing of Redis. A new connection that breaks does.
    pub(super) fn on_a_connection<T>(
        &self,
        act: impl Fn(&mut PooledConnection) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let mut others = self.connections.max_size();
        loop {
            let mut connection = self.connection()?;
            let may_be_closed = connection.has_served || connection.last_used.elapsed() > IDLE;
            match act(&mut connection) {
                Err(error) if may_be_closed && others > 0 && error.cause == Cause::Io => {
                    others -= 1;
                    log::debug!(err:% = error; "an idle connection to Redis was closed; taking another one");
                }
                ended => return ended,
            }
        }
    }

    /// Sends commands together and reads a reply each; a server's error is a value. Any error breaks the connection, as
    /// does a panic, since replies of this round trip may still come.
    pub(super) fn round_trip(
        &self,
        connection: &mut PooledConnection,
        commands: &[Cmd],
    ) -> Result<Vec<Value>, StoreError> {
        let was_broken = std::mem::replace(&mut connection.is_broken, true);
        let mut request = Vec::new();
        for command in commands {
            command.write_packed_command(&mut request);
        }
        let transport = &mut connection.transport;
        transport.set_deadline(Instant::now() + ROUND_TRIP);
        let replies = transport
            .send(&request)
            .and_then(|()| commands.iter().map(|_| transport.receive()).collect::<Result<_, _>>())
            .map_err(|error| translate(&error, "lost the connection to", &self.config))?;
        connection.is_broken = was_broken;
        connection.has_served = true;
        connection.last_used = Instant::now();
        Ok(replies)
    }

    /// One command. A server's error is an error; unless an ACL forbids the command, it breaks the connection.
    pub(super) fn query(
        &self,
        connection: &mut PooledConnection,
        command: &Cmd,
        doing: &str,
    ) -> Result<Value, StoreError> {
        let reply = self.round_trip(connection, std::slice::from_ref(command))?.pop();
        let reply = self.unless_refused(reply.unwrap_or(Value::Nil), doing);
        if let Err(error) = &reply {
            connection.is_broken |= !matches!(error.cause, Cause::NoPermission | Cause::NoScript);
        }
        reply
    }

    pub(super) fn unless_refused(&self, reply: Value, doing: &str) -> Result<Value, StoreError> {
        if let Value::ServerError(error) = reply {
            let detail = error.details().unwrap_or_default();
            return Err(translate_answer(error.code(), detail, doing, &self.config));
        }
        Ok(reply)
    }

    pub(super) fn not_ours(&self, what: &str) -> StoreError {
        let at = server_name(&self.config);
        StoreError::new(
            Cause::Protocol,
            format!(
                "cannot use the answer of Redis at {at}: {what}; check that it is a Redis and not a proxy that changes answers"
            ),
        )
    }
}
