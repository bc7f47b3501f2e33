use std::collections::VecDeque;
use std::sync::Barrier;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::aws::tests::provider_of;

const MINUTE: i64 = 60_000;
const HOUR: i64 = 60 * MINUTE;

/// Answers from a script and counts; panics when asked more often than the script has answers.
#[derive(Default)]
struct Script {
    answers: Mutex<VecDeque<Result<Credentials, CredentialsError>>>,
    asked: AtomicUsize,
}

#[allow(clippy::unnecessary_wraps)] // it stands beside `down` in lists of answers
fn key(id: &str, expires_at_ms: i64) -> Result<Credentials, CredentialsError> {
    Ok(Credentials {
        access_key_id: id.to_owned(),
        secret_access_key: "s".to_owned(),
        session_token: Some("t".to_owned()),
        expires_at: Some(EpochMs(expires_at_ms)),
    })
}

fn down() -> Result<Credentials, CredentialsError> {
    Err(CredentialsError { message: "source is down".to_owned(), kind: "down".to_owned() })
}

fn scripted(
    chance: f64,
    answers: impl IntoIterator<Item = Result<Credentials, CredentialsError>>,
) -> (Arc<Script>, CredentialsProvider) {
    let script =
        Arc::new(Script { answers: Mutex::new(answers.into_iter().collect()), asked: AtomicUsize::new(0) });
    let asked = Arc::clone(&script);
    let fetch = move || {
        asked.asked.fetch_add(1, Ordering::SeqCst);
        asked.answers.lock().unwrap().pop_front().expect("one more fetch than expected")
    };
    let fetcher = Fetcher { source: "scripted credentials".to_owned(), fetch: Box::new(fetch) };
    let mut provider = CredentialsProvider::new(fetcher, "THE_SETTING");
    provider.chance = if chance > 0.5 { || 1.0 } else { || 0.0 };
    (script, provider)
}

fn key_id(provider: &CredentialsProvider, now_ms: i64) -> String {
    provider.current(EpochMs(now_ms)).unwrap().access_key_id.clone()
}

/// Drives the loop as the service would, from `from` to `to`, and returns when it fetched.
fn fetch_times((script, provider): &(Arc<Script>, CredentialsProvider), from: i64, to: i64) -> Vec<i64> {
    let (mut now, mut times) = (from, Vec::new());
    while now <= to {
        let before = script.asked.load(Ordering::SeqCst);
        let _ = provider.renew_if_due(EpochMs(now));
        if script.asked.load(Ordering::SeqCst) > before {
            times.push(now);
        }
        let wait = i64::try_from(provider.next_renewal_in(EpochMs(now)).as_millis()).unwrap();
        assert!(wait > 0, "the loop would spin at {now}");
        now += wait;
    }
    times
}

#[test]
fn the_first_call_fetches_and_later_ones_do_not() {
    let (script, provider) = scripted(0.0, [key("A", HOUR)]);
    assert_eq!(provider.expiry(), None);
    assert_eq!(provider.describe(), "scripted credentials");
    assert_eq!(key_id(&provider, 0), "A");
    assert_eq!(key_id(&provider, 40 * MINUTE), "A");
    assert_eq!(script.asked.load(Ordering::SeqCst), 1);
    assert_eq!(provider.expiry(), Some(EpochMs(HOUR)));
    assert_eq!(provider.describe(), "scripted credentials with key id A");
}

#[test]
fn an_hour_long_key_is_renewed_ten_minutes_ahead_and_earlier_by_chance() {
    let punctual = scripted(0.0, [key("A", HOUR), key("B", 2 * HOUR)]);
    assert_eq!(fetch_times(&punctual, 0, 55 * MINUTE), [0, 50 * MINUTE]);
    assert_eq!(key_id(&punctual.1, 55 * MINUTE), "B");

    let early = scripted(1.0, [key("A", HOUR), key("B", 2 * HOUR)]);
    assert_eq!(fetch_times(&early, 0, 55 * MINUTE), [0, 48 * MINUTE]);
}

#[test]
fn a_short_lived_key_is_renewed_at_half_of_its_life_and_never_in_a_spin() {
    let lives = [6 * MINUTE, 4 * MINUTE, 30_000];
    for life in lives {
        assert_eq!(renewal_time_ms(EpochMs(0), Some(EpochMs(life)), 0.0), life / 2);
        assert_eq!(renewal_time_ms(EpochMs(0), Some(EpochMs(life)), 1.0), life * 4 / 10);
    }
    assert_eq!(renewal_time_ms(EpochMs(0), Some(EpochMs(20 * MINUTE)), 0.0), 15 * MINUTE);
    // One that lives for a second is fetched every five seconds, no oftener.
    let scripted = scripted(0.0, (0..5).map(|round| key("A", round * 5_000 + 1_000)));
    assert_eq!(fetch_times(&scripted, 0, 20_000), [0, 5_000, 10_000, 15_000, 20_000]);
}

#[test]
fn the_old_key_is_used_to_its_last_moment_while_renewing_fails() {
    let failures = std::iter::repeat_with(down).take(200);
    let scripted = scripted(0.0, [key("A", HOUR)].into_iter().chain(failures));
    let times = fetch_times(&scripted, 0, HOUR - 1);
    let (script, provider) = scripted;
    assert_eq!(key_id(&provider, HOUR - 1), "A");
    // At 50 min, then after 1, 2, 4, 8, 16 s and 30 s from then on.
    let waits: Vec<i64> = times[1..].windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert_eq!(times[1], 50 * MINUTE);
    assert_eq!(waits[..7], [1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000]);

    let expired = provider.current(EpochMs(HOUR)).unwrap_err();
    assert_eq!(expired.to_string(), "source is down");
    script.answers.lock().unwrap().push_front(key("B", 3 * HOUR));
    assert_eq!(key_id(&provider, HOUR + 30_000), "B", "a source that recovers is used");
    assert!(provider.renew_if_due(EpochMs(HOUR + 31_000)).is_ok());
}

#[test]
fn a_failure_is_met_once_by_the_loop_and_not_once_a_second() {
    let (_, provider) = scripted(0.0, [down(), down(), down(), key("A", HOUR)]);
    for (now_ms, wait_secs) in [(0, 1), (1_000, 2), (3_000, 4)] {
        assert!(provider.renew_if_due(EpochMs(now_ms)).is_err());
        assert_eq!(provider.next_renewal_in(EpochMs(now_ms)), Duration::from_secs(wait_secs));
    }
    assert_eq!(key_id(&provider, 7_000), "A");
    assert_eq!(provider.next_renewal_in(EpochMs(7_000)), LOOK_AGAIN, "AWS may refuse it");
}

#[test]
fn a_failing_source_is_not_asked_by_every_caller() {
    let (script, provider) = scripted(0.0, [down(), key("A", HOUR)]);
    for _ in 0..10 {
        assert_eq!(provider.current(EpochMs(0)).unwrap_err().kind, "down");
    }
    assert_eq!(script.asked.load(Ordering::SeqCst), 1);
    assert_eq!(key_id(&provider, 1_000), "A");
}

/// The key id after one step of the loop.
fn renewed(provider: &CredentialsProvider, now_ms: i64) -> String {
    let _ = provider.renew_if_due(EpochMs(now_ms));
    key_id(provider, now_ms)
}

#[test]
fn a_refused_key_is_replaced_at_most_every_five_seconds() {
    let (script, provider) = scripted(0.0, [key("A", HOUR), key("B", HOUR), key("C", HOUR)]);
    assert_eq!(renewed(&provider, 0), "A");
    provider.invalidate("A");
    assert_eq!(key_id(&provider, 10_000), "A", "the loop replaces it");
    assert_eq!(renewed(&provider, 10_000), "B");
    provider.invalidate("A"); // the same refusal, heard late
    assert_eq!(renewed(&provider, 20_000), "B");
    provider.invalidate("B");
    assert_eq!(provider.next_renewal_in(EpochMs(20_001)), Duration::ZERO);
    assert_eq!(renewed(&provider, 20_001), "C");
    provider.invalidate("C");
    assert_eq!(renewed(&provider, 20_002), "C", "too soon after the last fetch");
    assert_eq!(script.asked.load(Ordering::SeqCst), 3);
}

#[test]
fn fresh_keys_that_are_refused_too_are_replaced_after_growing_times() {
    let names = ["a", "b", "c", "d", "e", "f", "g", "h", "i"];
    let (script, provider) = scripted(0.0, names.map(|name| key(name, 10 * HOUR)));
    let mut fetched_at = Vec::new();
    let mut held = String::new();
    for now in (0..=110_000).step_by(1_000) {
        let key = renewed(&provider, now);
        provider.invalidate(&key);
        if key != held {
            fetched_at.push(now / 1_000);
            held = key;
        }
    }
    assert_eq!(fetched_at, [0, 5, 10, 15, 20, 28, 44, 74, 104]);
    assert_eq!(script.asked.load(Ordering::SeqCst), 9);
}

#[test]
fn a_refused_key_stays_in_use_while_there_is_no_other() {
    let (_, provider) = scripted(0.0, [key("A", HOUR), down()]);
    assert_eq!(renewed(&provider, 0), "A");
    provider.invalidate("A");
    assert_eq!(renewed(&provider, 10_000), "A");
}

#[test]
fn a_key_that_has_expired_by_this_clock_is_used_and_fetched_again_in_a_few_minutes() {
    let scripted = scripted(0.0, [key("A", -HOUR), key("A", -HOUR), key("B", 2 * HOUR)]);
    assert_eq!(fetch_times(&scripted, 0, 15 * MINUTE), [0, 5 * MINUTE, 10 * MINUTE]);
    let (_, provider) = scripted;
    assert_eq!(key_id(&provider, 15 * MINUTE), "B");
    assert_eq!(provider.expiry(), Some(EpochMs(2 * HOUR)));
}

#[test]
fn a_key_without_an_expiry_is_read_again_every_ten_seconds_and_the_old_one_outlives_a_fault() {
    let keep = |id: &str| key(id, 0).map(|key| Credentials { expires_at: None, ..key });
    let scripted = scripted(0.0, [keep("A"), keep("B"), down(), keep("C")]);
    assert_eq!(fetch_times(&scripted, 0, 20_000), [0, 10_000, 20_000]);
    let (_, provider) = scripted;
    assert_eq!(key_id(&provider, 20_000), "B");
    let fault = provider.renew_if_due(EpochMs(20_500)).unwrap_err();
    assert_eq!(fault.kind, "down", "it is told again until the next fetch");
    assert_eq!(renewed(&provider, 21_000), "C");
}

#[test]
fn a_clock_that_was_turned_back_does_not_delay_the_next_try() {
    let (_, provider) = scripted(0.0, [down(), key("A", HOUR)]);
    assert!(provider.current(EpochMs(10 * HOUR)).is_err());
    assert_eq!(key_id(&provider, 0), "A");
}

#[test]
fn callers_that_come_at_once_share_one_fetch() {
    const CALLERS: usize = 8;
    // The first fetch does not end before the test knows of it.
    let (set_out, asked) = (Arc::new(Barrier::new(2)), Arc::new(AtomicUsize::new(0)));
    let (waits, counts) = (Arc::clone(&set_out), Arc::clone(&asked));
    let provider = provider_of("slow credentials", move || {
        if counts.fetch_add(1, Ordering::SeqCst) == 0 {
            waits.wait();
        }
        key("A", HOUR)
    });
    std::thread::scope(|scope| {
        for _ in 0..CALLERS {
            scope.spawn(|| assert_eq!(key_id(&provider, 0), "A"));
        }
        // The fetch is under way: whoever has not called yet finds it running, or done.
        set_out.wait();
    });
    assert_eq!(asked.load(Ordering::SeqCst), 1);
}
