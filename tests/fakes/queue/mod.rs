//! A fake SQS for the stories, chaos and the bench. It follows SQS's rules, is fast, and fails on purpose, by a seed.
//!
//! It speaks the JSON protocol over HTTP/1.1 on a port of its own, with TLS if asked for. It implements visibility
//! timeouts, a fresh receipt handle for each receive, receive counts, redrive to dead letters, FIFO groups, the limits of
//! batches and of 12 hours, and signatures. It refuses what SQS refuses, and what it does not know. Each refusal that is
//! the caller's fault is a *complaint*. A queue that is dropped with complaints that the test has not read fails the test.
//!
//! The seed decides on faults: the same calls in the same order meet the same faults. Threads race, so a run of a
//! whole service is similar to the one before, not identical.
//!
//! Not implemented: delays, message attributes, deduplication, retention, and sending over HTTP (tests call `send`, the
//! bench has a [`Supply`]).

mod dice;
mod http;
mod protocol;
mod serve;
mod signature;
mod store;

use std::sync::Arc;
use std::time::Duration;

use persistent_cache_service::clock;

pub use protocol::Operation;
use serve::Server;
pub use signature::KnownKey;

/// How a queue is set up.
#[derive(Debug, Clone)]
pub struct QueueOptions {
    /// Equal seeds make equal faults for equal sequences of calls.
    pub seed: u64,
    /// How long a received message is hidden.
    pub visibility_timeout: Duration,
    /// After so many receives a message goes to the dead letters instead of being received again.
    pub max_receive_count: Option<u32>,
    /// Messages have groups, and are delivered in order within a group.
    pub fifo: bool,
    /// Calls must be signed for it.
    pub region: String,
    /// The key that may call.
    pub access_key_id: String,
    /// What calls must be signed with.
    pub secret_access_key: String,
    /// `GetQueueAttributes` is forbidden, as by a restrictive IAM policy.
    pub deny_attributes: bool,
    /// Its clock is so far ahead of this machine's, in milliseconds: it checks and dates by that.
    pub clock_ahead_ms: i64,
    /// Calls must go to this path.
    pub endpoint_path: &'static str,
    /// Above so many messages in flight a receive is `OverLimit`.
    pub in_flight_max: usize,
    /// 0: any.
    pub port: u16,
    pub tls: Option<Arc<rustls::ServerConfig>>,
    /// Each call takes as long, half of it before the call has its effect.
    pub round_trip: Duration,
    pub supply: Option<Arc<dyn Supply>>,
}

/// Makes messages when they are received, and is notified of what happens to them. Messages that were sent come first. For a
/// standard queue without faults.
pub trait Supply: std::fmt::Debug + Send + Sync {
    /// Takes the next message, if it is there by now. Gives its number.
    fn take_next(&self) -> Option<u64>;
    /// When the next message is there, if that is known.
    fn next_in(&self) -> Option<Duration>;
    /// Appends the body as a JSON text, quotes included. Gives its MD5 in hexadecimal.
    fn push_body(&self, number: u64, json: &mut String) -> String;
    /// A call came in.
    fn called(&self, operation: Operation);
    /// A receive is about to be answered with these messages; with none if its wait ended without one.
    fn delivered(&self, numbers: &[u64]);
    fn deleted(&self, number: u64);
}

impl Default for QueueOptions {
    fn default() -> Self {
        Self {
            seed: 0,
            visibility_timeout: Duration::from_secs(30),
            max_receive_count: None,
            fifo: false,
            region: "us-east-1".into(),
            access_key_id: "AKIAFAKEQUEUEEXAMPLE".into(),
            secret_access_key: "secret-of-the-fake-queue/EXAMPLE+KEY".into(),
            deny_attributes: false,
            clock_ahead_ms: 0,
            endpoint_path: "/",
            in_flight_max: 120_000,
            port: 0,
            tls: None,
            round_trip: Duration::ZERO,
            supply: None,
        }
    }
}

/// How often each fault happens: shares of calls (or of entries), 0 to 1.
#[derive(Debug, Default, Clone)]
pub struct Faults {
    /// Of calls: HTTP 500.
    pub error_500: f64,
    /// Of calls: HTTP 503, no JSON.
    pub unavailable_503: f64,
    /// Of calls: `RequestThrottled`.
    pub throttled: f64,
    /// Of calls: taken, and never answered.
    pub hang: f64,
    /// Of calls: the connection is reset before anything was done.
    pub reset: f64,
    /// Of calls: done, and the connection is reset in place of the answer.
    pub answer_lost: f64,
    /// Of receives: a message that is in flight is delivered once more, as at-least-once allows; each only once.
    pub duplicate: f64,
    /// Messages are delivered in no order.
    pub disorder: bool,
    /// Of entries: failed, and not by the sender's fault; nothing was done.
    pub entry_fails: f64,
    /// Of entries: failed by what is said to be the sender's fault; nothing was done.
    pub entry_fails_sender: f64,
    /// Of calls: the answer is delayed by so much.
    pub slow: Option<(f64, Duration)>,
    /// Of every receive: the answer with messages is sent so much later.
    pub answers_late: Option<Duration>,
}

/// The messages in the queue and those that have left it: `sent` is the sum of `visible`, `in_flight`, `deleted`, `dead`.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Counts {
    pub sent: u64,
    pub visible: u64,
    pub in_flight: u64,
    pub deleted: u64,
    /// Messages delivered, each time counted.
    pub received: u64,
    /// Of these, those that had been delivered before.
    pub redelivered: u64,
    /// Moved to the dead letters.
    pub dead: u64,
    /// Faults made on purpose: calls, entries, duplicates.
    pub faults: u64,
}

/// A running queue. Its threads end when it is dropped.
pub struct FakeQueue {
    server: Arc<Server>,
    threads: serve::Threads,
}

impl FakeQueue {
    /// Starts one on a free port.
    pub fn start(options: QueueOptions) -> Self {
        let (server, threads) = serve::start(options);
        Self { server, threads }
    }

    /// `QUEUE_URL`: `http://127.0.0.1:<port>/000000000000/<name>`; with TLS, `https://localhost:…`.
    pub fn url(&self) -> String {
        self.server.url(self.threads.port())
    }

    /// Sends a message now and returns its id. A FIFO queue puts it into the group `default`.
    pub fn send(&self, body: impl Into<String>) -> String {
        self.server.send(&body.into(), clock::now().0, None)
    }

    /// Sends one whose `SentTimestamp` is this, in epoch milliseconds.
    pub fn send_at(&self, body: impl Into<String>, sent_at_ms: i64) -> String {
        self.server.send(&body.into(), sent_at_ms, None)
    }

    /// Sends one of a message group, to a FIFO queue.
    pub fn send_to_group(&self, body: impl Into<String>, group: &str) -> String {
        self.server.send(&body.into(), clock::now().0, Some(group))
    }

    /// Injects these faults from now on. Without hangs among them, calls that hang end with their connection.
    pub fn set_faults(&self, faults: Faults) {
        self.server.set_faults(faults);
    }

    /// From now on calls may be signed with this key too.
    pub fn allow_key(&self, access_key_id: &str, key: KnownKey) {
        self.server.signatures().allow(access_key_id, key);
    }

    /// From now on this key is unknown.
    pub fn forget_key(&self, access_key_id: &str) {
        self.server.signatures().forget(access_key_id);
    }

    /// Skips this time for visibility timeouts: what is hidden for no longer becomes visible.
    pub fn advance(&self, by: Duration) {
        self.server.advance(by);
    }

    /// The supply may have more messages than before.
    pub fn wake(&self) {
        self.server.advance(Duration::ZERO);
    }

    /// Receives that are waiting for a message.
    pub fn open_polls(&self) -> usize {
        self.server.open_polls()
    }

    /// A consistent snapshot.
    pub fn counts(&self) -> Counts {
        self.server.counts()
    }

    /// Nothing is visible and nothing in flight.
    pub fn is_empty(&self) -> bool {
        let counts = self.counts();
        counts.visible == 0 && counts.in_flight == 0
    }

    /// Bodies of what was received too often.
    pub fn dead_letters(&self) -> Vec<String> {
        self.server.dead_letters()
    }

    /// What callers did wrong by SQS's rules, one line each. Those that were read do not fail the test.
    pub fn complaints(&self) -> Vec<String> {
        self.server.complaints()
    }
}

impl Drop for FakeQueue {
    fn drop(&mut self) {
        self.threads.end(&self.server);
        let unseen = self.server.unseen_complaints();
        assert!(
            unseen.is_empty() || std::thread::panicking(),
            "callers of the fake queue broke SQS's rules: {unseen:#?}"
        );
    }
}
