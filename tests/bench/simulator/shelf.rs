//! What the queue holds: which message is handed out next, which are in flight, which came to an end.
//!
//! A message is its number, and numbers are handed out in order, so the queue of those that wait is one counter.
//! What is in flight lies in shards by number.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Condvar, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::histogram::Histogram;
use crate::mix::Mix;

const SHARDS: usize = 16;
/// As SQS has it for standard queues.
const IN_FLIGHT_MAX: u64 = 120_000;
/// The queue's visibility timeout.
pub const VISIBILITY: Duration = Duration::from_secs(30);

/// One receipt of one message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Receipt {
    pub number: u64,
    /// How often it was received, this time included.
    pub attempt: u32,
}

struct InFlight {
    attempt: u32,
    handed_out_at: Instant,
    visible_at: Instant,
}

/// How messages come in.
#[derive(Debug, Clone, Copy)]
struct Supply {
    /// Before this number, messages are there or come by and by; none from it on.
    end: u64,
    /// Messages a second, from `since` and `first` on; `None`: all are there.
    rate: Option<f64>,
    since: Instant,
    first: u64,
}

/// The queue.
pub struct Shelf {
    began: Instant,
    mix: Mix,
    /// Half of the round trip, which an answer takes to its reader.
    way_back: Duration,
    supply: Mutex<Supply>,
    supply_changed: Condvar,
    next: AtomicU64,
    returned: Mutex<VecDeque<Receipt>>,
    any_returned: AtomicBool,
    shards: Vec<Mutex<HashMap<u64, InFlight>>>,
    /// When the message that each probe has in flight was handed out: microseconds since the beginning, 0 if none is.
    probes: Vec<AtomicU64>,
    pub counts: Counts,
}

/// What came to pass.
pub struct Counts {
    pub receives: AtomicU64,
    pub empty_receives: AtomicU64,
    pub deletes: AtomicU64,
    pub others: AtomicU64,
    pub connections: AtomicU64,
    deleted: AtomicU64,
    redelivered: AtomicU64,
    /// Microseconds since the beginning, 0 if none was.
    first_receive_us: AtomicU64,
    first_delete_us: AtomicU64,
    last_delete_us: AtomicU64,
    /// Handed out -> deleted.
    to_deleted: Histogram,
    /// Handed out -> seen in Redis, of probes.
    to_written: Histogram,
}

impl Shelf {
    /// An empty queue.
    pub fn new(mix: Mix, way_back: Duration) -> Self {
        let began = Instant::now();
        let zero = || AtomicU64::new(0);
        Self {
            began,
            way_back,
            supply: Mutex::new(Supply { end: 0, rate: None, since: began, first: 0 }),
            supply_changed: Condvar::new(),
            next: zero(),
            returned: Mutex::default(),
            any_returned: AtomicBool::new(false),
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            probes: (0..mix.probes).map(|_| zero()).collect(),
            mix,
            counts: Counts {
                receives: zero(),
                empty_receives: zero(),
                deletes: zero(),
                others: zero(),
                connections: zero(),
                deleted: zero(),
                redelivered: zero(),
                first_receive_us: zero(),
                first_delete_us: zero(),
                last_delete_us: zero(),
                to_deleted: Histogram::new(),
                to_written: Histogram::new(),
            },
        }
    }

    /// Lets messages come: so many (`None`: without end), at this rate (`None`: all at once).
    pub fn start(&self, messages: Option<u64>, rate: Option<f64>) {
        let first = self.next.load(Ordering::SeqCst);
        *self.supply.lock().unwrap() = Supply {
            end: messages.map_or(u64::MAX, |messages| first + messages),
            rate,
            since: Instant::now(),
            first,
        };
        self.supply_changed.notify_all();
    }

    /// Lets no further message come. Returns how many there were in all.
    pub fn stop(&self) -> u64 {
        let mut supply = self.supply.lock().unwrap();
        supply.end = supply.end.min(self.next.load(Ordering::SeqCst));
        supply.end
    }

    /// Takes up to `max` messages, waiting up to `wait` for the first.
    pub fn receive(&self, max: u64, wait: Duration, taken: &mut Vec<Receipt>) {
        let now = Instant::now();
        self.counts.receives.fetch_add(1, Ordering::Relaxed);
        let _ = self.counts.first_receive_us.compare_exchange(
            0,
            self.us(now),
            Ordering::Relaxed,
            Ordering::Relaxed,
        );
        self.take(max, now + wait, taken);
        if taken.is_empty() {
            self.counts.empty_receives.fetch_add(1, Ordering::Relaxed);
        }
        let handed_out_at = Instant::now() + self.way_back;
        for receipt in &*taken {
            if let Some(probe) = self.mix.probe(receipt.number) {
                self.probes[probe as usize].store(self.us(handed_out_at), Ordering::Relaxed);
            }
            let in_flight =
                InFlight { attempt: receipt.attempt, handed_out_at, visible_at: handed_out_at + VISIBILITY };
            self.shard(receipt.number).lock().unwrap().insert(receipt.number, in_flight);
        }
    }

    fn take(&self, max: u64, until: Instant, taken: &mut Vec<Receipt>) {
        loop {
            if self.any_returned.load(Ordering::Acquire) {
                self.take_returned(max, taken);
                if !taken.is_empty() {
                    return;
                }
            }
            let supply = self.supply.lock().unwrap();
            let next = self.next.load(Ordering::SeqCst);
            let deleted = self.counts.deleted.load(Ordering::Relaxed);
            if next >= supply.end || next - deleted.min(next) >= IN_FLIGHT_MAX {
                // Nothing to be had for now. Looks again four times a second, for messages that came back.
                let now = Instant::now();
                if now >= until {
                    return;
                }
                let pause = (until - now).min(Duration::from_millis(250));
                drop(self.supply_changed.wait_timeout(supply, pause).unwrap());
                continue;
            }
            let due = due_at(&supply, next);
            if due > until {
                drop(supply);
                wait_until(until);
                return;
            }
            // The next number is this call's, though it may not have come yet: whoever waits longest gets it.
            let now = Instant::now();
            let count = if due > now { 1 } else { max.min(come_by(&supply, now) - next) };
            self.next.store(next + count, Ordering::SeqCst);
            drop(supply);
            wait_until(due);
            taken.extend((next..next + count).map(|number| Receipt { number, attempt: 1 }));
            return;
        }
    }

    fn take_returned(&self, max: u64, taken: &mut Vec<Receipt>) {
        let mut returned = self.returned.lock().unwrap();
        let count = (max as usize).min(returned.len());
        taken.extend(returned.drain(..count));
        self.any_returned.store(!returned.is_empty(), Ordering::Release);
        self.counts.redelivered.fetch_add(count as u64, Ordering::Relaxed);
    }

    /// Deletes a message. One that is gone already is deleted, as SQS has it; an older receipt does nothing.
    pub fn delete(&self, receipt: Receipt) {
        let mut shard = self.shard(receipt.number).lock().unwrap();
        if shard.get(&receipt.number).is_none_or(|held| held.attempt != receipt.attempt) {
            return;
        }
        let held = shard.remove(&receipt.number).expect("just seen");
        drop(shard);
        let now = Instant::now();
        let counts = &self.counts;
        counts.to_deleted.add(micros(now.saturating_duration_since(held.handed_out_at)));
        counts.deleted.fetch_add(1, Ordering::Relaxed);
        let at = self.us(now);
        let _ = counts.first_delete_us.compare_exchange(0, at, Ordering::Relaxed, Ordering::Relaxed);
        counts.last_delete_us.fetch_max(at, Ordering::Relaxed);
    }

    /// Hides a message for so long from now. False if it is not in flight by this receipt.
    pub fn change_visibility(&self, receipt: Receipt, hidden: Duration) -> bool {
        let mut shard = self.shard(receipt.number).lock().unwrap();
        let held = shard.get_mut(&receipt.number);
        let Some(held) = held.filter(|held| held.attempt == receipt.attempt) else {
            return false;
        };
        if hidden.is_zero() {
            shard.remove(&receipt.number);
            drop(shard);
            self.give_back(receipt);
        } else {
            held.visible_at = Instant::now() + hidden;
        }
        true
    }

    fn give_back(&self, receipt: Receipt) {
        let mut returned = self.returned.lock().unwrap();
        returned.push_back(Receipt { attempt: receipt.attempt + 1, ..receipt });
        self.any_returned.store(true, Ordering::Release);
    }

    /// Gives back what was hidden for its time.
    pub fn sweep(&self) {
        let now = Instant::now();
        for shard in &self.shards {
            let mut shard = shard.lock().unwrap();
            shard.retain(|number, held| {
                let stays = held.visible_at > now;
                if !stays {
                    self.give_back(Receipt { number: *number, attempt: held.attempt });
                }
                stays
            });
        }
    }

    /// A probe was seen written.
    pub fn seen_written(&self, probe: u64) {
        let now = self.us(Instant::now());
        let Some(at) = self.probes.get(probe as usize) else {
            return;
        };
        match at.swap(0, Ordering::Relaxed) {
            0 => {}
            at => self.counts.to_written.add(now.saturating_sub(at)),
        }
    }

    /// Begins to measure times anew.
    pub fn measure_anew(&self) {
        self.counts.to_deleted.clear();
        self.counts.to_written.clear();
    }

    pub fn told(&self) -> Value {
        let counts = &self.counts;
        let get = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let in_flight: usize = self.shards.iter().map(|shard| shard.lock().unwrap().len()).sum();
        let supply = *self.supply.lock().unwrap();
        let next = get(&self.next);
        let come = come_by(&supply, Instant::now()).max(next);
        json!({
            "now_us": self.us(Instant::now()),
            "handed_out": next,
            "waiting": if come == u64::MAX { Value::Null } else { json!(come - next) },
            "deleted": get(&counts.deleted),
            "in_flight": in_flight,
            "redelivered": get(&counts.redelivered),
            "receives": get(&counts.receives),
            "empty_receives": get(&counts.empty_receives),
            "deletes": get(&counts.deletes),
            "other_calls": get(&counts.others),
            "connections": get(&counts.connections),
            "first_receive_us": get(&counts.first_receive_us),
            "first_delete_us": get(&counts.first_delete_us),
            "last_delete_us": get(&counts.last_delete_us),
            "handed_out_to_deleted": counts.to_deleted.told(),
            "handed_out_to_written": counts.to_written.told(),
        })
    }

    fn shard(&self, number: u64) -> &Mutex<HashMap<u64, InFlight>> {
        &self.shards[number as usize % SHARDS]
    }

    /// Since the beginning, and never 0.
    fn us(&self, at: Instant) -> u64 {
        micros(at.saturating_duration_since(self.began)).max(1)
    }
}

/// When the message of this number comes.
fn due_at(supply: &Supply, number: u64) -> Instant {
    match supply.rate {
        None => supply.since,
        Some(rate) => supply.since + Duration::from_secs_f64((number - supply.first) as f64 / rate),
    }
}

/// How many have come by then, counted from the very first.
fn come_by(supply: &Supply, at: Instant) -> u64 {
    let come = match supply.rate {
        None => u64::MAX,
        Some(rate) => {
            let secs = at.saturating_duration_since(supply.since).as_secs_f64();
            // The message that is due at this very moment counts.
            supply.first + (secs * rate) as u64 + 1
        }
    };
    come.min(supply.end)
}

fn micros(duration: Duration) -> u64 {
    duration.as_micros() as u64
}

/// A time that belongs to the simulated network or the simulated arrival: it is no wait for anything.
#[allow(clippy::disallowed_methods)] // nobody has to wake it
pub fn wait_until(at: Instant) {
    let now = Instant::now();
    if at > now {
        std::thread::sleep(at - now);
    }
}
