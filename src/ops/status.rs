//! What runs here and how it performs: `GET /status` for programs, and `GET /`, a page that renders it.
//!
//! The sampler records the counters regularly, so the message path has nothing to do for this. Nobody authenticates
//! here, so nothing shown is secret: settings as `config::shown` has them, faults as the log may hold them at `warn`.

use std::collections::VecDeque;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use prometheus::Histogram;
use prometheus::core::Collector;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::health::HealthBoard;
use super::metrics::{FAILURE_REASONS, Metrics, QUEUE_OPERATIONS, SKIP_REASONS};
use crate::build_info::{COMMIT, VERSION};
use crate::clock;
use crate::config::{Shown, ShownSetting, ShownSettings};
use crate::entitlement::EpochMs;
use crate::log::{FaultLog, RecentFault};

const PAGE: &str = include_str!("status.html");

/// Between two samples.
const SAMPLE_EVERY: Duration = Duration::from_secs(10);
/// A quarter of an hour.
const SAMPLES_MAX: usize = 91;
/// For which times rates are reported.
const WINDOWS: [Duration; 3] = [
    Duration::from_mins(1),
    Duration::from_mins(5),
    Duration::from_mins(15),
];

/// The page. It is the same for every service: what it shows, it asks `/status` for.
pub(super) fn page() -> &'static str {
    PAGE
}

/// The `Content-Security-Policy` of the page: its own style and script, and nothing else.
pub(super) fn page_policy() -> &'static str {
    static POLICY: LazyLock<String> = LazyLock::new(|| {
        let hash_of = |element: &str| {
            let after = PAGE.split_once(&format!("<{element}>")).unwrap_or_default().1;
            let text = after.split_once(&format!("</{element}>")).unwrap_or_default().0;
            STANDARD.encode(Sha256::digest(text))
        };
        format!(
            "default-src 'none'; style-src 'sha256-{}'; script-src 'sha256-{}'; connect-src 'self'; img-src data:; \
             base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
            hash_of("style"),
            hash_of("script")
        )
    });
    &POLICY
}

/// What does not change while the service runs.
#[derive(Debug, Clone, Default)]
pub struct Fixed {
    /// The queue, without user and query.
    pub queue_url: String,
    /// Its region.
    pub region: String,
    /// Where credentials come from.
    pub credential_source: &'static str,
    /// Redis, as errors name it.
    pub redis_at: String,
    /// The settings as anybody may see them.
    pub settings: ShownSettings,
}

/// Gathers what `/status` reports. Shared by all threads.
#[derive(Debug)]
pub struct StatusBoard {
    fixed: Fixed,
    started: Instant,
    health: Arc<HealthBoard>,
    metrics: Arc<Metrics>,
    faults: Arc<FaultLog>,
    observed: Mutex<Observed>,
}

#[derive(Debug)]
struct Observed {
    condition: Condition,
    since: Instant,
    /// The oldest first.
    samples: VecDeque<Sample>,
}

/// `ready`, `not_ready`, `stopping` or `dead`, and why.
type Condition = (&'static str, Vec<&'static str>);

/// The counters at one moment.
#[derive(Debug, Clone)]
struct Sample {
    at: Instant,
    received: u64,
    processed: u64,
    errors: u64,
    latency: Distribution,
    handling: Distribution,
}

/// A histogram at one moment.
#[derive(Debug, Clone, Default)]
struct Distribution {
    count: u64,
    sum_secs: f64,
    /// Upper bounds of the buckets, in seconds, and how many values are at most that.
    buckets: Vec<(f64, u64)>,
}

impl StatusBoard {
    /// A board of a service that starts now.
    pub fn new(
        fixed: Fixed,
        health: Arc<HealthBoard>,
        metrics: Arc<Metrics>,
        faults: Arc<FaultLog>,
        now: Instant,
    ) -> Self {
        let observed = Observed {
            condition: condition(&health, now),
            since: now,
            samples: VecDeque::new(),
        };
        Self {
            fixed,
            started: now,
            health,
            metrics,
            faults,
            observed: Mutex::new(observed),
        }
    }

    /// To be called about every second: notices changes of the state, and takes a sample when one is due.
    pub fn tick(&self, now: Instant) {
        let mut observed = self.observe(now);
        let last = observed.samples.back();
        if last.is_none_or(|last| now.saturating_duration_since(last.at) >= SAMPLE_EVERY) {
            if observed.samples.len() >= SAMPLES_MAX {
                observed.samples.pop_front();
            }
            observed.samples.push_back(self.sample(now));
        }
    }

    /// The body of `/status`, as of `now`, which is `at` on the wall clock.
    pub(super) fn report(&self, now: Instant, at: EpochMs) -> Value {
        let observed = self.observe(now);
        let (state, reasons) = observed.condition.clone();
        let since = observed.since;
        let latest = self.sample(now);
        let recent = WINDOWS.map(|window| {
            let is_old_enough = |sample: &&Sample| now.saturating_duration_since(sample.at) >= window;
            let from = observed.samples.iter().rev().find(is_old_enough);
            rates(from.or(observed.samples.front())?, &latest, now)
        });
        let samples = &observed.samples;
        let history = samples.iter().zip(samples.iter().skip(1));
        let history: Vec<Value> = history.filter_map(|(from, to)| rates(from, to, now)).collect();
        drop(observed);
        let time = |then: Instant| {
            let ago_ms = i64::try_from(now.saturating_duration_since(then).as_millis()).unwrap_or(i64::MAX);
            clock::rfc3339(EpochMs(at.0.saturating_sub(ago_ms)))
        };
        let Self {
            fixed,
            metrics,
            faults,
            ..
        } = self;
        let pollers = self.health.pollers(now);
        let queue_errors = |operation| metrics.queue_errors.with_label_values(&[operation]).get();
        json!({
            "service": env!("CARGO_PKG_NAME"),
            "version": VERSION,
            "commit": COMMIT,
            "now": clock::rfc3339(at),
            "started_at": time(self.started),
            "uptime_secs": now.saturating_duration_since(self.started).as_secs(),
            "state": state,
            "reasons": reasons,
            "state_since": time(since),
            "messages": {
                "received": metrics.messages_received.get(),
                "processed": metrics.messages_processed.get(),
                "in_flight": metrics.in_flight.get(),
                "failed_tries": sum(&FAILURE_REASONS, |reason| metrics.messages_failed.with_label_values(&[reason]).get()),
                "malformed": metrics.messages_malformed.get(),
                "writes_skipped": sum(&SKIP_REASONS, |reason| metrics.writes_skipped.with_label_values(&[reason]).get()),
            },
            "rates": recent.into_iter().flatten().collect::<Vec<Value>>(),
            "queue": {
                "url": fixed.queue_url,
                "region": fixed.region,
                "last_poll_at": time_in_gauge(metrics.last_poll.get()),
                "pollers": {
                    "alive": pollers.alive,
                    "failing": pollers.failing,
                    "silent": pollers.silent,
                    "total": pollers.total,
                },
                "errors": QUEUE_OPERATIONS
                    .iter()
                    .map(|operation| ((*operation).to_owned(), queue_errors(operation).into()))
                    .collect::<serde_json::Map<String, Value>>(),
            },
            "redis": {
                "at": fixed.redis_at,
                "connected": self.health.is_redis_connected(),
                "last_write_at": time_in_gauge(metrics.last_write.get()),
                "write_errors": metrics.write_errors.get(),
                "hit_ratio_percent": metrics.hit_ratio.get(),
                "used_memory_bytes": metrics.memory_usage.get(),
            },
            "credentials": {"source": fixed.credential_source, "expire_at": credentials_expiry(metrics)},
            "errors_total": faults.total(),
            "errors": faults.recent_faults().iter().map(|fault| shown_fault(fault, time)).collect::<Vec<Value>>(),
            "settings": fixed.settings.0.iter().map(shown_setting).collect::<Vec<Value>>(),
            "history": history,
        })
    }

    /// What was observed so far, with the state as it is now.
    fn observe(&self, now: Instant) -> MutexGuard<'_, Observed> {
        let condition = condition(&self.health, now);
        // What a panic left behind can still be shown.
        let mut observed = self.observed.lock().unwrap_or_else(PoisonError::into_inner);
        if observed.condition != condition {
            observed.condition = condition;
            observed.since = now;
        }
        observed
    }

    fn sample(&self, now: Instant) -> Sample {
        Sample {
            at: now,
            received: self.metrics.messages_received.get(),
            processed: self.metrics.messages_processed.get(),
            errors: self.faults.total(),
            latency: distribution(&self.metrics.message_age),
            handling: distribution(&self.metrics.message_handling_duration),
        }
    }
}

fn condition(health: &HealthBoard, now: Instant) -> Condition {
    let readiness = health.readiness(now);
    if health.is_stopping() {
        return (
            "stopping",
            vec!["It was asked to stop: what was received is applied, or released to the queue."],
        );
    }
    let mut reasons = Vec::new();
    if !readiness.redis_connected {
        reasons.push("Redis cannot be used: receiving from the queue is paused, nothing is lost.");
    }
    if readiness.consumers == 0 {
        reasons.push("No poller can receive from the queue.");
    }
    let state = match (health.is_live(now), readiness.up) {
        (false, _) => "dead",
        (true, true) => "ready",
        (true, false) => "not_ready",
    };
    (state, reasons)
}

/// What happened between two samples; none if no time has passed.
fn rates(from: &Sample, to: &Sample, now: Instant) -> Option<Value> {
    let secs = to.at.saturating_duration_since(from.at).as_secs_f64();
    if secs <= 0.0 {
        return None;
    }
    let per_sec = |from: u64, to: u64| as_f64(to.saturating_sub(from)) / secs;
    Some(json!({
        "secs": secs,
        "ago_secs": now.saturating_duration_since(to.at).as_secs_f64(),
        "received_per_sec": per_sec(from.received, to.received),
        "processed_per_sec": per_sec(from.processed, to.processed),
        "errors_per_min": 60.0 * per_sec(from.errors, to.errors),
        "end_to_end_latency": typical(&from.latency, &to.latency),
        "handling": typical(&from.handling, &to.handling),
    }))
}

/// Mean and p95 of the values between two moments; null if there were none.
fn typical(from: &Distribution, to: &Distribution) -> Value {
    let count = to.count.saturating_sub(from.count);
    if count == 0 {
        return Value::Null;
    }
    let mean_secs = (to.sum_secs - from.sum_secs).max(0.0) / as_f64(count);
    json!({"mean_secs": mean_secs, "p95_secs": p95_secs(from, to, as_f64(count))})
}

/// As Prometheus's `histogram_quantile`: interpolated within a bucket; the largest bound for what is beyond it.
fn p95_secs(from: &Distribution, to: &Distribution, count: f64) -> f64 {
    let rank = 0.95 * count;
    let (mut bound_before, mut count_before) = (0.0, 0.0);
    for (index, (bound, count)) in to.buckets.iter().enumerate() {
        let earlier = from.buckets.get(index).map_or(0, |(_, count)| *count);
        let count = as_f64(count.saturating_sub(earlier));
        if count >= rank {
            return bound_before + (bound - bound_before) * (rank - count_before) / (count - count_before);
        }
        (bound_before, count_before) = (*bound, count);
    }
    bound_before
}

fn distribution(histogram: &Histogram) -> Distribution {
    let families = histogram.collect();
    let Some(metric) = families.first().and_then(|family| family.get_metric().first()) else {
        return Distribution::default();
    };
    let histogram = metric.get_histogram();
    let buckets = histogram.get_bucket().iter();
    Distribution {
        count: histogram.get_sample_count(),
        sum_secs: histogram.get_sample_sum(),
        buckets: buckets
            .map(|bucket| (bucket.upper_bound(), bucket.cumulative_count()))
            .filter(|(bound, _)| bound.is_finite())
            .collect(),
    }
}

fn sum(labels: &[&str], count: impl Fn(&str) -> u64) -> u64 {
    labels.iter().map(|label| count(label)).sum()
}

#[allow(clippy::cast_precision_loss)] // counts of one process stay below 2^53
fn as_f64(count: u64) -> f64 {
    count as f64
}

/// The time in a gauge of seconds; none before the first.
fn time_in_gauge(secs: f64) -> Option<String> {
    #[allow(clippy::cast_possible_truncation)] // a time of today
    let ms = (secs * 1_000.0) as i64;
    (ms > 0).then(|| clock::rfc3339(EpochMs(ms)))
}

/// Asked without creating the series, which static credentials do not have.
fn credentials_expiry(metrics: &Metrics) -> Option<String> {
    let families = metrics.credentials_expiry.collect();
    let metric = families.first()?.get_metric().first()?;
    time_in_gauge(metric.get_gauge().get_value())
}

fn shown_fault(fault: &RecentFault, time: impl Fn(Instant) -> String) -> Value {
    json!({
        "level": fault.level.as_str().to_lowercase(),
        "what": fault.message,
        "why": fault.error,
        "times": fault.times,
        "first_at": time(fault.first_at),
        "last_at": time(fault.last_at),
        "is_over": fault.is_over,
    })
}

fn shown_setting(setting: &ShownSetting) -> Value {
    let value = match &setting.value {
        Shown::Text(text) => Some(text),
        Shown::NotSet | Shown::Secret => None,
    };
    json!({
        "name": setting.name,
        "group": setting.group,
        "is_secret": setting.value == Shown::Secret,
        "is_set": setting.value != Shown::NotSet,
        "is_given": setting.is_given,
        "value": value,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::health::Patience;

    const AT: EpochMs = EpochMs(1_793_491_200_000);

    struct Story {
        board: StatusBoard,
        health: Arc<HealthBoard>,
        metrics: Arc<Metrics>,
        faults: Arc<FaultLog>,
        start: Instant,
    }

    impl Story {
        fn new() -> Self {
            let start = Instant::now();
            let health = Arc::new(HealthBoard::new(2, Patience::default(), start));
            let metrics = Arc::new(Metrics::new().unwrap());
            let faults = Arc::new(FaultLog::new());
            let setting = |name: &str, value| ShownSetting {
                name: name.to_owned(),
                group: "Queue".to_owned(),
                is_given: true,
                value,
            };
            let fixed = Fixed {
                credential_source: "static",
                settings: ShownSettings(vec![
                    setting("QUEUE_URL", Shown::Text("https://sqs".to_owned())),
                    setting("SERVER_API_KEY", Shown::Secret),
                    setting("WORKERS", Shown::NotSet),
                ]),
                ..Fixed::default()
            };
            let board = StatusBoard::new(
                fixed,
                Arc::clone(&health),
                Arc::clone(&metrics),
                Arc::clone(&faults),
                start,
            );
            Self {
                board,
                health,
                metrics,
                faults,
                start,
            }
        }

        fn after(&self, secs: u64) -> Instant {
            self.start + Duration::from_secs(secs)
        }

        /// `/status`, asked so long after the start.
        fn json(&self, secs: u64) -> Value {
            let at = EpochMs(AT.0 + i64::try_from(secs).unwrap() * 1_000);
            self.board.report(self.after(secs), at)
        }

        fn become_ready(&self, secs: u64) {
            self.health.set_redis_connected(true);
            self.health.call_succeeded(0, self.after(secs));
        }
    }

    #[test]
    fn the_state_is_told_with_its_reasons_and_since_when() {
        let story = Story::new();
        let state = |secs| {
            let json = story.json(secs);
            let reasons = json["reasons"].as_array().unwrap().len();
            (json["state"].clone(), reasons, json["state_since"].clone())
        };
        assert_eq!(
            state(1),
            ("not_ready".into(), 2, "2026-11-01T00:00:00.000Z".into())
        );
        story.become_ready(3);
        story.board.tick(story.after(3));
        assert_eq!(state(40), ("ready".into(), 0, "2026-11-01T00:00:03.000Z".into()));
        story.health.set_redis_connected(false);
        assert_eq!(
            state(50),
            ("not_ready".into(), 1, "2026-11-01T00:00:50.000Z".into())
        );
        assert_eq!(state(500).0, "dead", "no poller has come round");
        story.health.begin_stop();
        assert_eq!(
            state(501),
            ("stopping".into(), 1, "2026-11-01T00:08:21.000Z".into())
        );
    }

    #[test]
    fn dead_loops_are_counted_as_silent() {
        let story = Story::new();
        assert_eq!(story.json(500)["started_at"], "2026-11-01T00:00:00.000Z");
        assert_eq!(story.json(500)["queue"]["pollers"]["silent"], 2);
    }

    #[test]
    fn rates_and_history_are_what_the_counters_gained() {
        let story = Story::new();
        for second in 0..=60 {
            story.metrics.messages_processed.inc_by(10);
            story.metrics.message_age.observe(0.3);
            story.board.tick(story.after(second));
        }
        story
            .metrics
            .queue_errors
            .with_label_values(&["receive"])
            .inc_by(3);
        story
            .metrics
            .messages_failed
            .with_label_values(&["redis"])
            .inc_by(2);
        let json = story.json(60);
        let minute = &json["rates"][0];
        assert_eq!(minute["secs"], 60.0);
        assert_eq!(minute["processed_per_sec"], 10.0);
        assert_eq!(minute["errors_per_min"], 0.0);
        // Interpolated between 0.25 and 0.5 s.
        assert_eq!(minute["end_to_end_latency"]["p95_secs"], 0.4875);
        assert!(minute["handling"].is_null());
        assert_eq!(json["history"].as_array().unwrap().len(), 6);
        assert_eq!(json["history"][5]["processed_per_sec"], 10.0);
        assert_eq!(json["queue"]["errors"]["receive"], 3);
        assert_eq!(json["messages"]["failed_tries"], 2);
    }

    #[test]
    fn the_errors_of_the_chart_are_those_of_the_list() {
        let story = Story::new();
        story.board.tick(story.after(0));
        let note = |kind, secs| {
            story
                .faults
                .note(kind, log::Level::Warn, "it failed", "why", story.after(secs));
        };
        (0..4).for_each(|_| note("malformed", 1));
        (0..2).for_each(|_| note("redis", 2));
        story.board.tick(story.after(10));
        let json = story.json(10);
        let listed: u64 = json["errors"]
            .as_array()
            .unwrap()
            .iter()
            .map(|error| error["times"].as_u64().unwrap())
            .sum();
        assert_eq!((listed, &json["errors_total"]), (6, &6.into()));
        assert_eq!(json["history"][0]["errors_per_min"], 36.0);
        assert_eq!(json["rates"][0]["errors_per_min"], 36.0);
    }

    #[test]
    fn the_history_is_a_quarter_of_an_hour_and_no_longer() {
        let story = Story::new();
        for second in 0..2_000 {
            story.board.tick(story.after(second));
        }
        let json = story.json(2_000);
        assert_eq!(json["history"].as_array().unwrap().len(), SAMPLES_MAX - 1);
        let windows: Vec<f64> = json["rates"]
            .as_array()
            .unwrap()
            .iter()
            .map(|rates| rates["secs"].as_f64().unwrap())
            .collect();
        assert_eq!(windows, [60.0, 300.0, 900.0]);
    }

    #[test]
    fn mean_and_p95_are_of_the_window_alone_and_p95_never_exceeds_the_largest_bound() {
        let at = |count, sum_secs, buckets: [u64; 2]| Distribution {
            count,
            sum_secs,
            buckets: vec![(1.0, buckets[0]), (10.0, buckets[1])],
        };
        let from = at(100, 5_000.0, [0, 100]);
        assert_eq!(typical(&from, &from), Value::Null);
        let expected = json!({"mean_secs": 0.5, "p95_secs": 0.95});
        assert_eq!(typical(&from, &at(120, 5_010.0, [20, 120])), expected);
        assert_eq!(typical(&from, &at(120, 7_000.0, [0, 100]))["p95_secs"], 10.0);
    }

    #[test]
    fn expiry_is_told_once_it_is_known_and_asking_makes_no_series() {
        let story = Story::new();
        assert!(story.json(1)["credentials"]["expire_at"].is_null());
        assert!(!story.metrics.render().contains("credentials_expiry"));
        story
            .metrics
            .credentials_expiry
            .with_label_values::<&str>(&[])
            .set(1_793_494_800.5);
        assert_eq!(
            story.json(1)["credentials"]["expire_at"],
            "2026-11-01T01:00:00.500Z"
        );
    }

    #[test]
    fn faults_are_told_with_their_times() {
        let story = Story::new();
        for secs in [10, 20] {
            story.faults.fault(
                "queue",
                log::Level::Warn,
                "it failed",
                "at https://u:p@h/",
                story.after(secs),
            );
        }
        story.faults.recovered("queue", Duration::ZERO, story.after(30));
        let errors = &story.json(60)["errors"];
        let expected = serde_json::json!([{
            "level": "warn", "what": "it failed", "why": "at https://…@h/", "times": 2,
            "first_at": "2026-11-01T00:00:10.000Z", "last_at": "2026-11-01T00:00:20.000Z", "is_over": true,
        }]);
        assert_eq!(*errors, expected);
    }

    #[test]
    fn a_secret_is_said_to_be_set_and_no_more() {
        let story = Story::new();
        let settings = &story.json(0)["settings"];
        let seen = |index: usize| {
            (
                settings[index]["value"].clone(),
                settings[index]["is_set"].clone(),
            )
        };
        assert_eq!(seen(0), ("https://sqs".into(), true.into()));
        assert_eq!(seen(1), (Value::Null, true.into()));
        assert_eq!(seen(2), (Value::Null, false.into()));
    }

    #[test]
    fn the_page_is_whole_and_its_policy_allows_its_own_style_and_script_alone() {
        assert!(PAGE.starts_with("<!DOCTYPE html>") && PAGE.ends_with("</html>\n"));
        for element in ["<style>", "</style>", "<script>", "</script>"] {
            assert_eq!(PAGE.matches(element).count(), 1, "{element}");
        }
        assert!(!PAGE.contains(" style=") && !PAGE.contains(" onclick=") && !PAGE.contains("innerHTML"));
        assert!(!PAGE.contains("url(") && !PAGE.contains(" src=") && !PAGE.contains("@import"));
        let references = PAGE.split(" href=\"").skip(1);
        let references: Vec<&str> = references.filter_map(|rest| rest.split('"').next()).collect();
        assert_eq!(
            references,
            ["data:,", "status", "status", "metrics", "readyz", "livez"]
        );
        let policy = page_policy();
        let empty = STANDARD.encode(Sha256::digest(""));
        assert!(!policy.contains("unsafe") && !policy.contains(&empty), "{policy}");
    }
}
