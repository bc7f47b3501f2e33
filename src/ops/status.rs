//! What runs here and how it performs: `GET /status` for programs, and `GET /`, a page that renders it.
//!
//! The sampler records the counters regularly, so the message path has nothing to do for this. Nobody authenticates
//! here, so nothing shown is secret: settings as `config::shown` has them, faults as the log may hold them at `warn`.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use prometheus::core::{Collector, Metric};
use prometheus::{Histogram, IntCounterVec, proto};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::health::{HealthBoard, Readiness};
use super::metrics::{FAILURE_REASONS, Metrics, QUEUE_OPERATIONS, SKIP_REASONS, as_f64};
use crate::build_info::{COMMIT, VERSION};
use crate::clock;
use crate::clock::EpochMs;
use crate::config::ShownSetting;
use crate::log::FaultLog;

/// The page. It is static: everything it shows comes from `/status`.
pub(super) const PAGE: &str = include_str!("status.html");

/// Between two samples.
const SAMPLE_EVERY: Duration = Duration::from_secs(10);
const SAMPLES_MAX: usize = 91; // a quarter of an hour
/// The periods for which rates are reported.
const WINDOWS_SECS: [u64; 3] = [60, 300, 900];

/// The `Content-Security-Policy` of the page: its own style and script, and nothing else.
pub(super) static PAGE_POLICY: LazyLock<String> = LazyLock::new(|| {
    let [style, script] = ["style", "script"].map(|element| {
        let after = PAGE.split_once(&format!("<{element}>")).unwrap_or_default().1;
        let text = after.split_once(&format!("</{element}>")).unwrap_or_default().0;
        STANDARD.encode(Sha256::digest(text))
    });
    format!(
        "default-src 'none'; style-src 'sha256-{style}'; script-src 'sha256-{script}'; connect-src 'self'; \
         img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
});

/// What does not change while the service runs; none of it is secret.
#[derive(Debug, Default)]
pub(crate) struct Fixed {
    pub(crate) queue_url: String,
    pub(crate) region: String,
    pub(crate) credential_source: &'static str,
    pub(crate) redis_at: String,
    pub(crate) settings: Vec<ShownSetting>,
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
    state: &'static str,
    since: Instant,
    /// The oldest first.
    samples: VecDeque<Sample>,
}

/// The counters at one moment.
#[derive(Debug)]
struct Sample {
    at: Instant,
    received: u64,
    processed: u64,
    errors: u64,
    latency: proto::Histogram,
    handling: proto::Histogram,
}

impl StatusBoard {
    /// A board of a service that starts now.
    pub(crate) fn new(
        fixed: Fixed,
        health: Arc<HealthBoard>,
        metrics: Arc<Metrics>,
        faults: Arc<FaultLog>,
        now: Instant,
    ) -> Self {
        let observed = Mutex::new(Observed { state: "not_ready", since: now, samples: VecDeque::new() });
        Self { fixed, started: now, health, metrics, faults, observed }
    }

    /// To be called about every second: notices changes of the state, and takes a sample when one is due.
    pub fn tick(&self, now: Instant) {
        let mut observed = self.observe(&self.health.readiness(now), now);
        if observed.samples.back().is_none_or(|last| now - last.at >= SAMPLE_EVERY) {
            if observed.samples.len() >= SAMPLES_MAX {
                observed.samples.pop_front();
            }
            observed.samples.push_back(self.sample(now));
        }
    }

    /// The body of `/status`, as of `now`, which is `at` on the wall clock.
    pub(super) fn report(&self, now: Instant, at: EpochMs) -> Value {
        let health = self.health.readiness(now);
        let observed = self.observe(&health, now);
        let (samples, latest) = (&observed.samples, self.sample(now));
        let recent = WINDOWS_SECS.iter().filter_map(|window_secs| {
            let is_old_enough = |sample: &&Sample| (now - sample.at).as_secs() >= *window_secs;
            let from = samples.iter().rev().find(is_old_enough).or(samples.front())?;
            rates(from, &latest, now)
        });
        let recent: Vec<Value> = recent.collect();
        let steps = samples.iter().zip(samples.iter().skip(1));
        let history: Vec<Value> = steps.filter_map(|(from, to)| rates(from, to, now)).collect();
        let time = |then: Instant| {
            let ago_ms = i64::try_from((now - then).as_millis()).unwrap_or(i64::MAX);
            clock::rfc3339(EpochMs(at.0.saturating_sub(ago_ms)))
        };
        let errors = self.faults.recent_faults().into_iter().map(|fault| {
            json!({
                "level": fault.level.as_str().to_lowercase(), "what": fault.message, "why": fault.error,
                "times": fault.times, "first_at": time(fault.first_at), "last_at": time(fault.last_at),
                "is_over": fault.is_over,
            })
        });
        let (fixed, metrics) = (&self.fixed, &self.metrics);
        json!({
            "service": env!("CARGO_PKG_NAME"), "version": VERSION, "commit": COMMIT,
            "now": clock::rfc3339(at), "started_at": time(self.started),
            "state": observed.state, "reasons": reasons(&health), "state_since": time(observed.since),
            "messages": {
                "received": latest.received, "processed": latest.processed, "in_flight": metrics.in_flight.get(),
                "failed_tries": counts(&metrics.messages_failed, &FAILURE_REASONS).values().sum::<u64>(),
                "malformed": metrics.messages_malformed.get(),
                "writes_skipped": counts(&metrics.writes_skipped, &SKIP_REASONS).values().sum::<u64>(),
            },
            "rates": recent,
            "queue": {
                "url": fixed.queue_url, "region": fixed.region, "last_poll_at": time_in(&metrics.last_poll),
                "pollers": {
                    "alive": health.consumers, "failing": health.failing, "silent": health.silent,
                    "total": health.pollers,
                },
                "errors": counts(&metrics.queue_errors, &QUEUE_OPERATIONS),
            },
            "redis": {
                "at": fixed.redis_at, "connected": health.redis_connected,
                "last_write_at": time_in(&metrics.last_write), "write_errors": metrics.write_errors.get(),
                "hit_ratio_percent": metrics.hit_ratio.get(), "used_memory_bytes": metrics.memory_usage.get(),
            },
            "credentials": {
                "source": fixed.credential_source, "expire_at": time_in(&metrics.credentials_expiry),
            },
            "errors": errors.collect::<Vec<Value>>(),
            "settings": fixed.settings,
            "history": history,
        })
    }

    /// What was observed so far, with the state as it is now.
    fn observe(&self, health: &Readiness, now: Instant) -> MutexGuard<'_, Observed> {
        let state = match health {
            Readiness { is_stopping: true, .. } => "stopping",
            Readiness { up: true, .. } => "ready",
            health if health.is_live() => "not_ready",
            _ => "dead",
        };
        // What a panic left behind can still be shown.
        let mut observed = self.observed.lock().unwrap_or_else(PoisonError::into_inner);
        if observed.state != state {
            (observed.state, observed.since) = (state, now);
        }
        observed
    }

    fn sample(&self, now: Instant) -> Sample {
        let histogram = |histogram: &Histogram| histogram.metric().get_histogram().clone();
        Sample {
            at: now,
            received: self.metrics.messages_received.get(),
            processed: self.metrics.messages_processed.get(),
            errors: self.faults.total(),
            latency: histogram(&self.metrics.message_age),
            handling: histogram(&self.metrics.message_handling_duration),
        }
    }
}

/// Why the service is not ready; empty if it is.
fn reasons(health: &Readiness) -> Vec<&'static str> {
    if health.is_stopping {
        return vec!["It was asked to stop: what was received is applied, or released to the queue."];
    }
    let mut reasons = Vec::new();
    if !health.redis_connected {
        reasons.push("Redis cannot be used: receiving from the queue is paused, nothing is lost.");
    }
    if health.consumers == 0 {
        reasons.push("No poller can receive from the queue.");
    }
    reasons
}

/// What happened between two samples; none if no time has passed.
fn rates(from: &Sample, to: &Sample, now: Instant) -> Option<Value> {
    let secs = (to.at - from.at).as_secs_f64();
    let per_sec = |from: u64, to: u64| as_f64(to.saturating_sub(from)) / secs;
    (secs > 0.0).then(|| {
        json!({
            "secs": secs,
            "ago_secs": (now - to.at).as_secs_f64(),
            "received_per_sec": per_sec(from.received, to.received),
            "processed_per_sec": per_sec(from.processed, to.processed),
            "errors_per_min": 60.0 * per_sec(from.errors, to.errors),
            "end_to_end_latency": mean_and_p95(&from.latency, &to.latency),
            "handling": mean_and_p95(&from.handling, &to.handling),
        })
    })
}

/// Mean and 95th percentile of what was observed between two moments; null if nothing was.
fn mean_and_p95(from: &proto::Histogram, to: &proto::Histogram) -> Value {
    let count = as_f64(to.get_sample_count().saturating_sub(from.get_sample_count()));
    if count == 0.0 {
        return Value::Null;
    }
    let mean_secs = (to.get_sample_sum() - from.get_sample_sum()).max(0.0) / count;
    // As Prometheus's `histogram_quantile`: interpolated within a bucket; the largest bound for what is beyond it.
    let (rank, mut lower, mut below) = (0.95 * count, 0.0, 0.0);
    for (before, after) in from.get_bucket().iter().zip(to.get_bucket()) {
        let up_to = as_f64(after.cumulative_count().saturating_sub(before.cumulative_count()));
        if up_to >= rank {
            lower += (after.upper_bound() - lower) * (rank - below) / (up_to - below);
            break;
        }
        (lower, below) = (after.upper_bound(), up_to);
    }
    json!({"mean_secs": mean_secs, "p95_secs": lower})
}

fn counts(counters: &IntCounterVec, labels: &[&'static str]) -> BTreeMap<&'static str, u64> {
    labels.iter().map(|label| (*label, counters.with_label_values(&[label]).get())).collect()
}

/// The time in a gauge of seconds. None before the first, or if the gauge has no series, as for static credentials.
fn time_in(gauge: &impl Collector) -> Option<String> {
    let families = gauge.collect();
    let secs = families.first()?.get_metric().first()?.get_gauge().get_value();
    #[allow(clippy::cast_possible_truncation)] // a time of today
    let ms = (secs * 1_000.0) as i64;
    (ms > 0).then(|| clock::rfc3339(EpochMs(ms)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ShownSetting;

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
            let health = Arc::new(HealthBoard::new(2, Duration::from_secs(65), start));
            let metrics = Arc::new(Metrics::new().unwrap());
            let faults = Arc::new(FaultLog::default());
            let setting = |name, is_set, value: Option<&str>| ShownSetting {
                name,
                value: value.map(str::to_owned),
                is_set,
                is_given: true,
            };
            let fixed = Fixed {
                credential_source: "static",
                settings: vec![
                    setting("QUEUE_URL", true, Some("https://sqs")),
                    setting("SERVER_API_KEY", true, None),
                    setting("WORKERS", false, None),
                ],
                ..Fixed::default()
            };
            let board = StatusBoard::new(
                fixed,
                Arc::clone(&health),
                Arc::clone(&metrics),
                Arc::clone(&faults),
                start,
            );
            Self { board, health, metrics, faults, start }
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
    fn the_state_is_reported_with_its_reasons_and_since_when() {
        let story = Story::new();
        let state = |secs| {
            let json = story.json(secs);
            let reasons = json["reasons"].as_array().unwrap().len();
            (json["state"].clone(), reasons, json["state_since"].clone())
        };
        assert_eq!(state(1), ("not_ready".into(), 2, "2026-11-01T00:00:00.000Z".into()));
        story.become_ready(3);
        story.board.tick(story.after(3));
        assert_eq!(state(40), ("ready".into(), 0, "2026-11-01T00:00:03.000Z".into()));
        story.health.set_redis_connected(false);
        assert_eq!(state(50), ("not_ready".into(), 1, "2026-11-01T00:00:50.000Z".into()));
        assert_eq!(state(500).0, "dead", "no poller has come round");
        story.health.begin_stop();
        assert_eq!(state(501), ("stopping".into(), 1, "2026-11-01T00:08:21.000Z".into()));
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
        story.metrics.queue_errors.with_label_values(&["receive"]).inc_by(3);
        story.metrics.messages_failed.with_label_values(&["redis"]).inc_by(2);
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
            story.faults.note(kind, log::Level::Warn, "it failed", "why", story.after(secs));
        };
        (0..4).for_each(|_| note("malformed", 1));
        (0..2).for_each(|_| note("redis", 2));
        story.board.tick(story.after(10));
        let json = story.json(10);
        let listed: u64 =
            json["errors"].as_array().unwrap().iter().map(|error| error["times"].as_u64().unwrap()).sum();
        assert_eq!(listed, 6);
        assert_eq!(json["history"][0]["errors_per_min"], 36.0);
        assert_eq!(json["rates"][0]["errors_per_min"], 36.0);
    }

    /// The list has the last kinds only: one that comes back to it must not bring its old count along.
    #[test]
    fn the_errors_of_the_chart_are_the_new_ones_however_many_kinds_there_are() {
        let story = Story::new();
        let note = |kind: &str, secs| {
            let now = story.after(secs);
            story.faults.note(kind, log::Level::Warn, "it failed", "why", now);
        };
        (0..1_000).for_each(|_| note("old", 0));
        (0..20).for_each(|number| note(&format!("kind {number}"), 1));
        story.board.tick(story.after(10));
        note("old", 11);
        story.board.tick(story.after(20));
        assert_eq!(story.json(20)["history"][0]["errors_per_min"], 6.0);
    }

    #[test]
    fn the_history_is_a_quarter_of_an_hour_and_no_longer() {
        let story = Story::new();
        for second in 0..2_000 {
            story.board.tick(story.after(second));
        }
        let json = story.json(2_000);
        assert_eq!(json["history"].as_array().unwrap().len(), SAMPLES_MAX - 1);
        let windows: Vec<f64> =
            json["rates"].as_array().unwrap().iter().map(|rates| rates["secs"].as_f64().unwrap()).collect();
        assert_eq!(windows, [60.0, 300.0, 900.0]);
    }

    #[test]
    fn mean_and_p95_are_of_the_window_alone_and_p95_never_exceeds_the_largest_bound() {
        let opts = prometheus::HistogramOpts::new("name", "help").buckets(vec![1.0, 10.0]);
        let histogram = prometheus::Histogram::with_opts(opts).unwrap();
        let observe = |secs| {
            (0..20).for_each(|_| histogram.observe(secs));
            histogram.metric().get_histogram().clone()
        };
        let from = observe(7.0);
        assert_eq!(mean_and_p95(&from, &from), Value::Null);
        let fast = observe(0.5);
        assert_eq!(mean_and_p95(&from, &fast), json!({"mean_secs": 0.5, "p95_secs": 0.95}));
        assert_eq!(mean_and_p95(&fast, &observe(100.0))["p95_secs"], 10.0);
    }

    #[test]
    fn expiry_is_reported_once_it_is_known_and_asking_makes_no_series() {
        let story = Story::new();
        assert!(story.json(1)["credentials"]["expire_at"].is_null());
        assert!(!story.metrics.render().contains("credentials_expiry"));
        story.metrics.credentials_expiry.with_label_values::<&str>(&[]).set(1_793_494_800.5);
        assert_eq!(story.json(1)["credentials"]["expire_at"], "2026-11-01T01:00:00.500Z");
    }

    #[test]
    fn faults_are_reported_with_their_times() {
        let story = Story::new();
        for secs in [10, 20] {
            story.faults.fault(
                "queue",
                log::Level::Warn,
                "it failed",
                "connection refused",
                story.after(secs),
            );
        }
        story.faults.recovered("queue", Duration::ZERO, story.after(30));
        let errors = &story.json(60)["errors"];
        let expected = serde_json::json!([{
            "level": "warn", "what": "it failed", "why": "connection refused", "times": 2,
            "first_at": "2026-11-01T00:00:10.000Z", "last_at": "2026-11-01T00:00:20.000Z", "is_over": true,
        }]);
        assert_eq!(*errors, expected);
    }

    #[test]
    fn a_secret_is_said_to_be_set_and_no_more() {
        let story = Story::new();
        let settings = &story.json(0)["settings"];
        let seen = |index: usize| (settings[index]["value"].clone(), settings[index]["is_set"].clone());
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
        assert_eq!(references, ["data:,", "status", "status", "metrics", "readyz", "livez"]);
        let policy = PAGE_POLICY.as_str();
        let empty = STANDARD.encode(Sha256::digest(""));
        assert!(!policy.contains("unsafe") && !policy.contains(&empty), "{policy}");
    }
}
