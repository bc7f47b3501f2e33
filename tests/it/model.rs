//! The model test: random streams of all message kinds, two instances of the service of which one is killed and
//! restarted, readers that refetch as the SDK does, a queue that fails by a seed. Whenever the queue is empty and
//! nothing is in hand, Redis must be what a small model in memory says.
//!
//! # The world
//! An origin (`origin`) holds what is true of each customer and resource (a *subject*) and tells of changes by
//! messages. It tells late and in any order, some things twice, and some things not at all: a *silent* change is
//! made known by a purge only, as a migration does it. Its times and the `SentTimestamp`s are of one logical clock.
//! What it does keep: before it tells of a purge it has told everything older of those subjects. (A message that
//! is *sent* after a purge but is older in content could be known by nobody as such.)
//!
//! # What must hold
//! 1. **Lists.** A customer key holds the newest truth, value and timestamp, or is absent; nothing else, ever. It
//!    must be there if it was there at the last look (or, under UPSERT, if a list was sent since) and no purge of
//!    it, and no invalidation, was sent since: purges may come out of order, and then cost a reader one refetch.
//! 2. **Silent changes.** After one, the customer key is absent or what a reader fetched after it: a state that is
//!    older than the newest truth before a purge never stays.
//! 3. **Metadata** (not in format v3) is absent or of the newest truth.
//! 4. **Usages and credits.** Each holds a value that was true at its timestamp. It never goes back; it is not
//!    older than what the list beside it was made with; and where the customer was in the cache all the time it
//!    is the newest that was told. (A usage of a customer who is not in the cache is not written, by rule; so the
//!    list that comes later, made earlier, may carry an older one.)
//! 5. **Form.** A value never stands without its timestamp, nor without an expiry; entries have the form that
//!    `CACHE_FORMAT` asks for or, where a reader wrote last, that of SDK 3.x; no other key is below the prefix but
//!    the service's own marks; no lock is left.
//! 6. **The queue.** Nothing but malformed bodies is dead, all of these are (or deleted, as POISON_POLICY has it),
//!    and neither instance broke a rule of SQS's.
//!
//! # What is kept out, and why
//! - With UPDATE_IF_EXISTS nothing that was sent before an invalidation of the environment is under way when that
//!   is sent: README, Limits, tells of the gap with several instances.
//! - No reader is between its fetch and its write when an invalidation of the environment is sent: the walk cannot
//!   know of it, and what such a reader writes behind the walk stays.
//! - A reader that is told of no entitlements writes them with the far-past mark 0, which any message replaces. So
//!   none refetches a customer whose denial was told while older lists of that customer are under way.
//!
//! # Replay
//! A failure prints its seed; `MODEL_SEED=<n> cargo test --test it model` runs it again: the same messages, readers
//! and faults. Threads race as they like, so a rare fault may want several runs. `MODEL_SEEDS=<count>` runs more.

mod cache;
mod expectation;
mod origin;
mod reader;
mod rig;
mod run;
mod truth;

use persistent_cache_service::clock;

use run::Variant;

/// Runs of each variant, if nobody says otherwise: all four take about 40 seconds together.
const RUNS: u64 = 6;

#[allow(clippy::disallowed_methods)] // the one thing that a test asks its environment
fn setting(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok().filter(|text| !text.is_empty())?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{name} is a number, not {text}")),
    )
}

fn holds(variant: Variant) {
    if let Some(seed) = setting("MODEL_SEED") {
        run::run(seed, variant);
        return;
    }
    // Fresh ones: each run of the tests looks somewhere else.
    let first = clock::now().0.unsigned_abs() % 1_000_000_000;
    for number in 0..setting("MODEL_SEEDS").unwrap_or(RUNS) {
        run::run(first * 1_000 + number, variant);
    }
}

#[test]
fn redis_is_what_the_model_says_with_update_if_exists_in_both_forms_at_once() {
    holds(Variant {
        policy: "UPDATE_IF_EXISTS",
        format: "compatible",
    });
}

#[test]
fn redis_is_what_the_model_says_with_update_if_exists_in_the_form_of_sdk_3() {
    holds(Variant {
        policy: "UPDATE_IF_EXISTS",
        format: "v3",
    });
}

#[test]
fn redis_is_what_the_model_says_with_upsert_in_both_forms_at_once() {
    holds(Variant {
        policy: "UPSERT",
        format: "compatible",
    });
}

#[test]
fn redis_is_what_the_model_says_with_upsert_in_the_form_of_sdk_3() {
    holds(Variant {
        policy: "UPSERT",
        format: "v3",
    });
}
