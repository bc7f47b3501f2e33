//! The model test: random streams of all kinds of messages, two instances of the service of which one is killed and
//! restarted, readers that refetch as the SDK does, a queue that fails by a seed. Whenever the queue is empty and no
//! message is in flight, Redis must be what a small model in memory says.
//!
//! # The world
//! An origin (`origin`) knows what is true of each customer and resource (a *subject*): its entitlements, its usages, and
//! its balance in two credit currencies, from which some of its features are paid. It sends messages about changes, late
//! and in any order, some of them twice, and about some changes none: a *silent* change is followed by a purge only, as
//! in a migration. State times and `SentTimestamp`s come from one logical clock. Some messages come back from a
//! dead-letter queue: the same body with a new `SentTimestamp` and a receive count of 1. In some messages the origin's
//! clock is wrong (the year 3000, or seconds in place of milliseconds): then another time in the message counts, or the
//! `SentTimestamp` if there is no other.
//!
//! The origin keeps one rule: before it sends a purge, it has sent everything older about those subjects. (A message
//! that is *sent* after a purge for the first time but is older in content cannot be recognized by anybody.)
//!
//! Readers (`reader`) refetch after a cache miss. They take and extend the SDK's locks. One seed in six has a phase in
//! which readers wait for Stigg's answer for 1 to 20 seconds, while the origin goes on.
//!
//! # What must hold
//! 1. **Lists.** A customer key holds the newest truth, value and timestamp, or is absent; nothing else, ever. It must be
//!    there if no purge of it (and no invalidation) was sent since the last look, and it was there at the last look, or a
//!    reader refetched it since, or (under UPSERT) a list was sent since. Purges may come out of order, and then cost a
//!    reader one refetch. What is sent during a refetch must not be lost, neither because nothing was stored yet, nor
//!    because the reader then writes an older answer, nor because it writes the far-past marker of an empty one.
//! 2. **Silent changes.** After one, the customer key is absent or what a reader fetched after it: a state that is older
//!    than the newest truth before a purge never stays, redriven or not.
//! 3. **Metadata** (not in format v3) is absent or of the newest truth.
//! 4. **Usages and credits.** Each holds a value that was true at its timestamp. It never goes back; it is not older than
//!    what the list beside it was made with; and where the customer was in the cache all the time, or was being
//!    refetched, it is the newest that was sent. (A usage of a customer who is not in the cache is not written, by rule;
//!    so the list that comes later, made earlier, may carry an older one.) A credit's period is that of its message; if
//!    the message has none, an earlier one stays.
//! 5. **Credit balances in the list.** All entries of one currency show the effect of the same balance: of the one that
//!    the list was made with, or of one that is newer than the list. It never goes back, and it is the newest that was
//!    sent where the customer was in the cache all the time or was being refetched. Entries with a soft limit, entries
//!    denied for another reason and entries of other currencies keep what they have, but for `validUntil`.
//! 6. **Form.** A value never stands without its timestamp, nor without an expiry; entries have the form that
//!    `CACHE_FORMAT` asks for or, where a reader wrote last, that of SDK 3.x; no other key is below the prefix but the
//!    service's own: tombstones, probes, and the last credit balances; no lock is left. A tombstone is not of the
//!    future, and with UPDATE_IF_EXISTS there is none for somebody of whom nothing was stored.
//! 7. **The queue.** Nothing but malformed bodies is dead, all of these are (or deleted, as POISON_POLICY has it), and
//!    neither instance broke a rule of SQS's.
//!
//! # What is kept out, and why
//! - Invalidations are not redriven.
//! - No reader is between its fetch and its write when an invalidation of the environment is sent: the scan cannot
//!   know of it, and what such a reader writes behind the scan stays.
//! - A reader that gets no entitlements from Stigg writes them with the far-past marker 0, which any message replaces. So none
//!   refetches a customer whose denial was sent while older lists of that customer are under way; nor, with
//!   UPDATE_IF_EXISTS, one who lost everything for no reason, since nothing was stored and so there may be no tombstone.
//!   For the same reason no list is redriven to a subject that has none now.
//! - With UPDATE_IF_EXISTS a customer of whom nothing is stored has no tombstone. A list from before its purge that
//!   arrives during a later refetch is written, since the customer counts as cached. The reader then replaces the list,
//!   but SDK 3.x writes no metadata: the metadata may be older than the list.
//! - A balance whose customer is not in the cache is not written, by rule. So after the next refetch an older balance
//!   may take effect, if it is newer than the list.
//! - A list that carries a credit has its period. Times that are wrong by less than an hour are not made.
//!
//! # Replay
//! A failure prints its seed; `MODEL_SEED=<n> cargo test --test it model` runs it again: the same messages, readers
//! and faults. Threads race as they like, so a rare fault may want several runs. `MODEL_SEEDS=<count>` runs more.

mod bodies;
mod cache;
mod expectation;
mod origin;
mod reader;
mod rig;
mod run;
mod truth;

use persistent_cache_service::clock;

use crate::support::child::thread;
use run::Variant;

/// Runs of each variant, if nobody says otherwise: all four take about 45 seconds together. One of them is slow.
const RUNS: u64 = run::SLOW_EVERY;

#[allow(clippy::disallowed_methods)] // the one thing that a test asks its environment
fn setting(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok().filter(|text| !text.is_empty())?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is a number, not {text}")))
}

fn holds(variant: Variant) {
    if let Some(seed) = setting("MODEL_SEED") {
        run::run(seed, variant);
        return;
    }
    // Fresh ones: each run of the tests looks somewhere else.
    let first = (clock::now().0.unsigned_abs() % 1_000_000_000) * 1_000;
    let seeds = first..first + setting("MODEL_SEEDS").unwrap_or(RUNS);
    let (slow, fast): (Vec<u64>, Vec<u64>) = seeds.partition(|seed| run::is_slow(*seed));
    // Slow ones mostly wait: meanwhile the others run.
    let slow = thread("model-slow", move || {
        for seed in slow {
            run::run(seed, variant);
        }
    });
    for seed in fast {
        run::run(seed, variant);
    }
    if let Err(failure) = slow.join() {
        std::panic::resume_unwind(failure);
    }
}

#[test]
fn redis_is_what_the_model_says_with_update_if_exists_in_both_forms_at_once() {
    holds(Variant { policy: "UPDATE_IF_EXISTS", format: "compatible" });
}

#[test]
fn redis_is_what_the_model_says_with_update_if_exists_in_the_form_of_sdk_3() {
    holds(Variant { policy: "UPDATE_IF_EXISTS", format: "v3" });
}

#[test]
fn redis_is_what_the_model_says_with_upsert_in_both_forms_at_once() {
    holds(Variant { policy: "UPSERT", format: "compatible" });
}

#[test]
fn redis_is_what_the_model_says_with_upsert_in_the_form_of_sdk_3() {
    holds(Variant { policy: "UPSERT", format: "v3" });
}
