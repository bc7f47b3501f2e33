//! An SQS of our own.

use std::time::Duration;

/// How the queue is set up.
#[derive(Debug, Clone)]
pub struct QueueOptions {
    /// Equal seeds make equal faults for equal sequences of calls.
    pub seed: u64,
    pub visibility_timeout: Duration,
    pub max_receive_count: Option<u32>,
    pub fifo: bool,
    pub region: String,
    pub access_key_id: String,
    pub secret_access_key: String,
    pub deny_attributes: bool,
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
        }
    }
}

/// Shares of calls (or of entries), 0 to 1.
#[derive(Debug, Default, Clone)]
pub struct Faults {
    pub error_500: f64,
    pub unavailable_503: f64,
    pub throttled: f64,
    pub hang: f64,
    pub reset: f64,
    pub answer_lost: f64,
    pub duplicate: f64,
    pub disorder: bool,
    pub entry_fails: f64,
    pub entry_fails_sender: f64,
    pub slow: Option<(f64, Duration)>,
}

/// What is in the queue and what went through it.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Counts {
    pub sent: u64,
    pub visible: u64,
    pub in_flight: u64,
    pub deleted: u64,
    pub received: u64,
    pub redelivered: u64,
    pub dead: u64,
    pub faults: u64,
}

/// A running queue. Its threads end when it is dropped.
pub struct FakeQueue;

#[allow(clippy::unused_self)]
impl FakeQueue {
    pub fn start(_options: QueueOptions) -> Self {
        unimplemented!()
    }
    pub fn url(&self) -> String {
        unimplemented!()
    }
    pub fn send(&self, _body: impl Into<String>) -> String {
        unimplemented!()
    }
    pub fn send_at(&self, _body: impl Into<String>, _sent_at_ms: i64) -> String {
        unimplemented!()
    }
    pub fn send_to_group(&self, _body: impl Into<String>, _group: &str) -> String {
        unimplemented!()
    }
    pub fn set_faults(&self, _faults: Faults) {
        unimplemented!()
    }
    pub fn counts(&self) -> Counts {
        unimplemented!()
    }
    pub fn is_empty(&self) -> bool {
        unimplemented!()
    }
    pub fn dead_letters(&self) -> Vec<String> {
        unimplemented!()
    }
    pub fn complaints(&self) -> Vec<String> {
        unimplemented!()
    }
}
