//! The messages of a run, and the times between their receive, write and deletion.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::fakes::queue::{Operation, Supply};
use crate::histogram::Histogram;
use crate::mix::Bodies;

/// When each of the last so many messages was delivered is known: more than can be in flight.
const REMEMBERED: u64 = 1 << 17;

/// How many messages there are, and since when.
#[derive(Debug, Clone, Copy)]
struct Rate {
    /// The number of the next message.
    next: u64,
    /// There is none from this number on.
    end: u64,
    /// Messages a second, from `since` and `first` on; `None`: all are there.
    per_second: Option<f64>,
    since: Instant,
    first: u64,
}

#[derive(Default)]
struct Calls {
    receives: AtomicU64,
    empty_receives: AtomicU64,
    deletes: AtomicU64,
    others: AtomicU64,
    /// Microseconds since the start, 0 if there was none.
    first_receive_us: AtomicU64,
}

/// Messages by their numbers, in order.
pub struct BenchSupply {
    started: Instant,
    bodies: Bodies,
    /// Half of the round trip, which an answer takes to its reader.
    way_back: Duration,
    rate: Mutex<Rate>,
    calls: Calls,
    /// When each message was delivered, by its number: microseconds since the start.
    delivered_us: Vec<AtomicU64>,
    /// When the message that each probe has in flight was delivered, 0 if none is.
    probes_us: Vec<AtomicU64>,
    to_deleted: Histogram,
    to_written: Histogram,
}

impl std::fmt::Debug for BenchSupply {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("BenchSupply").field("rate", &self.rate).finish_non_exhaustive()
    }
}

impl BenchSupply {
    /// No message comes until it is started.
    pub fn new(bodies: Bodies, way_back: Duration) -> Self {
        let started = Instant::now();
        let zeros = |count: u64| (0..count).map(|_| AtomicU64::new(0)).collect();
        Self {
            started,
            way_back,
            rate: Mutex::new(Rate { next: 0, end: 0, per_second: None, since: started, first: 0 }),
            calls: Calls::default(),
            delivered_us: zeros(REMEMBERED),
            probes_us: zeros(bodies.mix.probes),
            bodies,
            to_deleted: Histogram::new(),
            to_written: Histogram::new(),
        }
    }

    /// Lets messages come: so many (`None`: without end), at this rate (`None`: all at once).
    pub fn start(&self, messages: Option<u64>, per_second: Option<f64>) {
        let mut rate = self.rate.lock().unwrap();
        let first = rate.next;
        let end = messages.map_or(u64::MAX, |messages| first + messages);
        *rate = Rate { next: first, end, per_second, since: Instant::now(), first };
    }

    /// Lets no further message come. Returns how many there were in all.
    pub fn stop(&self) -> u64 {
        let mut rate = self.rate.lock().unwrap();
        rate.end = rate.end.min(rate.next);
        rate.next
    }

    /// Restarts the measurement of times.
    pub fn measure(&self) {
        self.to_deleted.clear();
        self.to_written.clear();
    }

    /// A probe was seen written.
    pub fn seen_written(&self, probe: u64) {
        if let Some(at) = self.probes_us.get(probe as usize) {
            match at.swap(0, Ordering::Relaxed) {
                0 => {}
                at => self.to_written.add(self.now_us().saturating_sub(at)),
            }
        }
    }

    pub fn report(&self) -> Value {
        let get = |count: &AtomicU64| count.load(Ordering::Relaxed);
        json!({
            "now_us": self.now_us(),
            "receives": get(&self.calls.receives),
            "empty_receives": get(&self.calls.empty_receives),
            "deletes": get(&self.calls.deletes),
            "other_calls": get(&self.calls.others),
            "first_receive_us": get(&self.calls.first_receive_us),
            "delivered_to_deleted": self.to_deleted.report(),
            "delivered_to_written": self.to_written.report(),
        })
    }

    /// Since the start, and never 0.
    fn now_us(&self) -> u64 {
        (self.started.elapsed().as_micros() as u64).max(1)
    }
}

impl Rate {
    fn due_in(&self) -> Duration {
        let Some(rate) = self.per_second else { return Duration::ZERO };
        let due = self.since + Duration::from_secs_f64((self.next - self.first) as f64 / rate);
        due.saturating_duration_since(Instant::now())
    }
}

impl Supply for BenchSupply {
    fn take_next(&self) -> Option<u64> {
        let mut rate = self.rate.lock().unwrap();
        if rate.next >= rate.end || !rate.due_in().is_zero() {
            return None;
        }
        rate.next += 1;
        Some(rate.next - 1)
    }

    fn next_in(&self) -> Option<Duration> {
        let rate = self.rate.lock().unwrap();
        (rate.next < rate.end).then(|| rate.due_in())
    }

    fn push_body(&self, number: u64, json: &mut String) -> String {
        hex::encode(self.bodies.push_json(number, json))
    }

    fn called(&self, operation: Operation) {
        let calls = &self.calls;
        let count = match operation {
            Operation::Receive => {
                let first = &calls.first_receive_us;
                let _ = first.compare_exchange(0, self.now_us(), Ordering::Relaxed, Ordering::Relaxed);
                &calls.receives
            }
            Operation::DeleteBatch => &calls.deletes,
            Operation::ChangeVisibilityBatch | Operation::GetAttributes => &calls.others,
        };
        count.fetch_add(1, Ordering::Relaxed);
    }

    fn delivered(&self, numbers: &[u64]) {
        if numbers.is_empty() {
            self.calls.empty_receives.fetch_add(1, Ordering::Relaxed);
        }
        let at = self.now_us() + self.way_back.as_micros() as u64;
        for number in numbers {
            self.delivered_us[(number % REMEMBERED) as usize].store(at, Ordering::Relaxed);
            if let Some(probe) = self.bodies.mix.probe(*number) {
                self.probes_us[probe as usize].store(at, Ordering::Relaxed);
            }
        }
    }

    fn deleted(&self, number: u64) {
        let delivered = self.delivered_us[(number % REMEMBERED) as usize].load(Ordering::Relaxed);
        self.to_deleted.add(self.now_us().saturating_sub(delivered));
    }
}
