//! Chance by a seed: what happens to a call depends on the seed, on the operation and on how many calls of that
//! operation there were before it. On nothing else, so that the same calls meet the same faults.

use std::time::Duration;

use super::Faults;
use super::store::Chances;

/// What happens to a call as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    Served,
    /// HTTP 500.
    Error,
    /// HTTP 503, as the load balancer before SQS answers it: no JSON.
    Unavailable,
    /// `RequestThrottled`.
    Throttled,
    /// No answer, and the connection stays open.
    Hang,
    /// The connection is reset before anything was done.
    Reset,
    /// Everything is done, then the connection is reset.
    AnswerLost,
}

/// The dice for one call.
#[derive(Debug)]
pub struct Dice(fastrand::Rng);

impl Dice {
    /// For the `number`th call of the operation.
    pub fn new(seed: u64, operation: u64, number: u64) -> Self {
        // Odd constants keep neighbours apart; the generator mixes the rest.
        let mixed = seed
            .wrapping_mul(0x9E37_79B9_7F4A_7C15)
            .wrapping_add(operation.wrapping_mul(0xBF58_476D_1CE4_E5B9))
            ^ number.wrapping_mul(0x94D0_49BB_1331_11EB);
        let mut rng = fastrand::Rng::with_seed(mixed);
        rng.u64(..);
        Self(rng)
    }

    /// What happens to the call.
    pub fn fate(&mut self, faults: &Faults) -> Fate {
        let mut rest = self.0.f64();
        for (share, fate) in [
            (faults.error_500, Fate::Error),
            (faults.unavailable_503, Fate::Unavailable),
            (faults.throttled, Fate::Throttled),
            (faults.hang, Fate::Hang),
            (faults.reset, Fate::Reset),
            (faults.answer_lost, Fate::AnswerLost),
        ] {
            if rest < share {
                return fate;
            }
            rest -= share;
        }
        Fate::Served
    }

    /// How long the answer is delayed.
    pub fn delay(&mut self, faults: &Faults) -> Option<Duration> {
        // Always thrown: later throws must not depend on the rates.
        let thrown = self.0.f64();
        faults.slow.and_then(|(share, delay)| (thrown < share).then_some(delay))
    }

    /// What chance decides about a receive.
    pub fn chances(&mut self, faults: &Faults) -> Chances {
        let (disorder, thrown, duplicate) = (self.0.u64(..), self.0.f64(), self.0.u64(..));
        Chances {
            disorder: faults.disorder.then_some(disorder),
            duplicate: (thrown < faults.duplicate).then_some(duplicate),
        }
    }

    /// Whether an entry of a batch fails; `true` inside says that the sender is at fault.
    pub fn entry_fails(&mut self, faults: &Faults) -> Option<bool> {
        let thrown = self.0.f64();
        if thrown < faults.entry_fails {
            Some(false)
        } else if thrown < faults.entry_fails + faults.entry_fails_sender {
            Some(true)
        } else {
            None
        }
    }
}
