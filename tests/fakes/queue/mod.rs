//! An SQS of our own: it keeps SQS's rules, is fast, and fails on purpose, by a seed.
//!
//! It speaks the JSON protocol over HTTP/1.1 on a port of its own. It keeps: visibility timeouts, a fresh receipt
//! handle for each receive, receive counts, redrive to dead letters, FIFO groups, the bounds of batches, 12 hours,
//! signatures. It refuses what SQS refuses, and what it does not know; each refusal that was a caller's doing is a
//! *complaint*, and a queue that is dropped with complaints that nobody looked at fails its test.
//!
//! Faults come by chance of a seed: the same calls in the same order meet the same faults. Threads that race
//! make other orders, so a run of a whole service repeats in kind, not to the letter.
//!
//! Not kept: delays, message attributes, deduplication, retention, and sending over HTTP (a test sends by `send`).

mod dice;
mod http;
mod protocol;
mod serve;
mod shelf;
mod signature;

use std::sync::Arc;
use std::time::Duration;

use persistent_cache_service::clock;

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
    /// Messages have groups, and come in order inside of them.
    pub fifo: bool,
    /// Calls must be signed for it.
    pub region: String,
    /// The one who may call.
    pub access_key_id: String,
    /// What calls must be signed with.
    pub secret_access_key: String,
    /// `GetQueueAttributes` is forbidden, as a sparing IAM policy has it.
    pub deny_attributes: bool,
    /// Its clock is so far ahead of this machine's, in milliseconds: it checks and dates by that.
    pub clock_ahead_ms: i64,
    /// Calls must go to this path.
    pub endpoint_path: &'static str,
    /// Above so many messages in flight a receive is `OverLimit`.
    pub in_flight_max: usize,
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
        }
    }
}

/// How often what goes wrong: shares of calls (or of entries), 0 to 1.
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
    /// Of receives: a message that is in flight is handed out once more, as at-least-once allows; each only once.
    pub duplicate: f64,
    /// Messages come in no order.
    pub disorder: bool,
    /// Of entries: failed, and not by the sender's fault; nothing was done.
    pub entry_fails: f64,
    /// Of entries: failed by what is said to be the sender's fault; nothing was done.
    pub entry_fails_sender: f64,
    /// Of calls: the answer is held back for so long.
    pub slow: Option<(f64, Duration)>,
    /// Of every receive: messages are handed out, and only so much later is the caller told.
    pub told_late: Option<Duration>,
}

/// What is in the queue and what went through it: `sent` is the sum of `visible`, `in_flight`, `deleted`, `dead`.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Counts {
    pub sent: u64,
    pub visible: u64,
    pub in_flight: u64,
    pub deleted: u64,
    /// Messages handed out, each time counted.
    pub received: u64,
    /// Of these, those that had been handed out before.
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

    /// `QUEUE_URL`: `http://127.0.0.1:<port>/000000000000/<name>`.
    pub fn url(&self) -> String {
        self.server.url()
    }

    /// Sends a message now; gives its id. A FIFO queue puts it into the group `default`.
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

    /// From now on this goes wrong. Where nothing hangs any more, calls that hang end with their connection.
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

    /// Lets this time pass for visibility timeouts: what is hidden for no longer becomes visible.
    pub fn advance(&self, by: Duration) {
        self.server.advance(by);
    }

    /// Receives that are waiting for a message.
    pub fn open_polls(&self) -> usize {
        self.server.open_polls()
    }

    /// One consistent look.
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

    /// What callers did wrong by SQS's rules, one line each. Who has looked need not fear the drop.
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
