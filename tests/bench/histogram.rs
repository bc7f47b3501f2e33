//! Times, counted so finely that a quantile is off by 3 % at most.

use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::{Value, json};

/// Slots for each doubling.
const FINENESS: u64 = 32;
/// Up to 2^36 µs, some nineteen hours.
const SLOTS: usize = 32 * 33;

/// Microseconds, from many threads.
pub struct Histogram {
    slots: Vec<AtomicU64>,
    max_us: AtomicU64,
}

impl Histogram {
    pub fn new() -> Self {
        Self { slots: (0..SLOTS).map(|_| AtomicU64::new(0)).collect(), max_us: AtomicU64::new(0) }
    }

    pub fn add(&self, us: u64) {
        let slot = slot_of(us).min(SLOTS - 1);
        self.slots[slot].fetch_add(1, Ordering::Relaxed);
        self.max_us.fetch_max(us, Ordering::Relaxed);
    }

    /// Forgets all times.
    pub fn clear(&self) {
        for slot in &self.slots {
            slot.store(0, Ordering::Relaxed);
        }
        self.max_us.store(0, Ordering::Relaxed);
    }

    pub fn report(&self) -> Value {
        let counts: Vec<u64> = self.slots.iter().map(|slot| slot.load(Ordering::Relaxed)).collect();
        let count: u64 = counts.iter().sum();
        let quantile = |of_thousand: u64| {
            let rank = (count * of_thousand).div_ceil(1_000).max(1);
            let mut below = 0;
            let slot = counts.iter().position(|count| {
                below += count;
                below >= rank
            });
            slot.map(upper_us)
        };
        json!({
            "count": count,
            "p50_us": quantile(500),
            "p99_us": quantile(990),
            "p999_us": quantile(999),
            "max_us": self.max_us.load(Ordering::Relaxed),
        })
    }
}

/// The first slots are a microsecond each; from there on, each doubling has as many.
fn slot_of(us: u64) -> usize {
    if us < FINENESS {
        return us as usize;
    }
    let doubling = u64::from(us.ilog2() - FINENESS.ilog2());
    (FINENESS + doubling * FINENESS + ((us >> doubling) - FINENESS)) as usize
}

/// The largest time of a slot.
fn upper_us(slot: usize) -> u64 {
    let slot = slot as u64;
    if slot < FINENESS {
        return slot;
    }
    let doubling = slot / FINENESS - 1;
    ((slot % FINENESS + FINENESS + 1) << doubling) - 1
}
