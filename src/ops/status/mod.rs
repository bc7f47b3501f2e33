//! What runs here and how it fares: `GET /` for people, `GET /status` for programs.
//!
//! [`StatusBoard`] gathers, `report` is what was gathered, `page` shows it. The sampler tells the time, and so keeps a
//! ring of the counters (`history`); nothing is added to what handles messages. Nobody signs in here, so what is shown
//! is no secret: settings as `config::shown` has them, faults as the log may hold them at `warn`.

mod chart;
mod history;
mod page;
mod report;
mod words;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use prometheus::Histogram;
use prometheus::core::Collector;

use self::history::{Counts, History, SPAN, Times};
use self::report::{
    Credentials, Fault, Messages, Moment, Pollers, Queue, Rates, Redis, Report, Setting, State, Step, Typical,
};
use super::health::{HealthBoard, Readiness};
use super::metrics::{FAILURE_REASONS, Metrics, QUEUE_OPERATIONS, SKIP_REASONS};
use crate::config::{Shown, ShownSettings};
use crate::entitlement::EpochMs;
use crate::log::{FaultLog, RecentFault};

pub(super) use self::page::HEADERS as PAGE_HEADERS;

/// For which times rates are told.
const WINDOWS: [Duration; 3] = [Duration::from_mins(1), Duration::from_mins(5), SPAN];

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

/// Gathers what is known. Shared by all threads.
#[derive(Debug)]
pub struct StatusBoard {
    fixed: Fixed,
    started: Instant,
    health: Arc<HealthBoard>,
    metrics: Arc<Metrics>,
    faults: Arc<FaultLog>,
    seen: Mutex<Seen>,
}

#[derive(Debug)]
struct Seen {
    condition: Condition,
    since: Instant,
    history: History,
}

/// What makes the state, so that a change can be noticed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Condition {
    state: State,
    redis_connected: bool,
    has_pollers: bool,
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
        let seen = Seen {
            condition: condition(&health, now),
            since: now,
            history: History::default(),
        };
        Self {
            fixed,
            started: now,
            health,
            metrics,
            faults,
            seen: Mutex::new(seen),
        }
    }

    /// To be called about every second: notices changes of the state, and takes a sample when one is due.
    pub fn tick(&self, now: Instant) {
        let mut seen = self.look(now);
        if seen.history.is_due(now) {
            let counts = counts(&self.metrics);
            seen.history.record(now, counts);
        }
    }

    /// The page.
    pub(super) fn page(&self, now: Instant, at: EpochMs) -> String {
        page::render(&self.report(now, at))
    }

    /// The same for programs.
    pub(super) fn json(&self, now: Instant, at: EpochMs) -> String {
        // Structs of strings and numbers always serialize.
        serde_json::to_string(&self.report(now, at)).unwrap_or_default()
    }

    /// Everything, as of `now`, which is `at` on the wall clock.
    fn report(&self, now: Instant, at: EpochMs) -> Report {
        let seen = self.look(now);
        let counts = counts(&self.metrics);
        let (condition, since) = (seen.condition, seen.since);
        let mut rates: Vec<Rates> = Vec::new();
        for window in WINDOWS {
            let Some(last) = seen.history.last(window, now, &counts) else {
                continue;
            };
            // While the service is young, a longer window would say the same once more.
            if rates
                .last()
                .is_none_or(|shorter| last.secs > shorter.measured_secs)
            {
                rates.push(shown_rates(window, &last));
            }
        }
        let history = seen.history.steps(now).iter().map(shown_step).collect();
        drop(seen);
        let moment = |then: Instant| Moment(before(at, now.saturating_duration_since(then)));
        Report {
            service: env!("CARGO_PKG_NAME"),
            version: env!("CARGO_PKG_VERSION"),
            commit: option_env!("PCS_COMMIT").unwrap_or("unknown"),
            now: Moment(at),
            started_at: moment(self.started),
            uptime_secs: now.saturating_duration_since(self.started).as_secs(),
            state: condition.state,
            reasons: reasons(condition),
            state_since: moment(since),
            messages: messages(&self.metrics),
            rates,
            queue: self.queue(now),
            redis: self.redis(condition),
            credentials: Credentials {
                source: self.fixed.credential_source,
                expire_at: expiry(&self.metrics),
            },
            errors: self
                .faults
                .recent_faults()
                .into_iter()
                .map(|fault| shown_fault(fault, moment))
                .collect(),
            settings: shown_settings(&self.fixed.settings),
            history,
        }
    }

    /// What was seen, with the state as it is now.
    fn look(&self, now: Instant) -> MutexGuard<'_, Seen> {
        let condition = condition(&self.health, now);
        // What a panic left behind can still be shown.
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.condition != condition {
            seen.condition = condition;
            seen.since = now;
        }
        seen
    }

    fn queue(&self, now: Instant) -> Queue {
        let pollers = self.health.pollers(now);
        let errors = QUEUE_OPERATIONS.map(|operation| {
            (
                operation,
                self.metrics.queue_errors.with_label_values(&[operation]).get(),
            )
        });
        Queue {
            url: self.fixed.queue_url.clone(),
            region: self.fixed.region.clone(),
            last_poll_at: moment_of(self.metrics.last_poll.get()),
            pollers: Pollers {
                alive: pollers.alive,
                failing: pollers.failing,
                silent: pollers.silent,
                total: pollers.total,
            },
            errors: errors.into_iter().collect(),
        }
    }

    fn redis(&self, condition: Condition) -> Redis {
        Redis {
            at: self.fixed.redis_at.clone(),
            connected: condition.redis_connected,
            last_write_at: moment_of(self.metrics.last_write.get()),
            write_errors: self.metrics.write_errors.get(),
            hit_ratio_percent: self.metrics.hit_ratio.get(),
            used_memory_bytes: self.metrics.memory_usage.get(),
        }
    }
}

fn condition(health: &HealthBoard, now: Instant) -> Condition {
    let Readiness {
        up,
        consumers,
        redis_connected,
    } = health.readiness(now);
    let state = if health.is_stopping() {
        State::Stopping
    } else if !health.is_live(now) {
        State::Dead
    } else if up {
        State::Ready
    } else {
        State::NotReady
    };
    Condition {
        state,
        redis_connected,
        has_pollers: consumers > 0,
    }
}

fn reasons(condition: Condition) -> Vec<&'static str> {
    let mut reasons = Vec::new();
    if condition.state == State::Stopping {
        reasons.push("It was asked to stop: what was received is applied, or given back.");
        return reasons;
    }
    if !condition.redis_connected {
        reasons.push("Redis cannot be used: receiving from the queue is paused, nothing is lost.");
    }
    if !condition.has_pollers {
        reasons.push("No poller gets answers from the queue.");
    }
    reasons
}

fn before(at: EpochMs, ago: Duration) -> EpochMs {
    EpochMs(at.0.saturating_sub(i64::try_from(ago.as_millis()).unwrap_or(i64::MAX)))
}

/// The moment in a gauge of seconds; none before the first.
fn moment_of(secs: f64) -> Option<Moment> {
    #[allow(clippy::cast_possible_truncation)] // a gauge of today's times
    let ms = (secs * 1_000.0) as i64;
    (ms > 0).then_some(Moment(EpochMs(ms)))
}

/// Asked without making the child that static credentials do not have.
fn expiry(metrics: &Metrics) -> Option<Moment> {
    let families = metrics.credentials_expiry.collect();
    let metric = families.first()?.get_metric().first()?;
    moment_of(metric.get_gauge().get_value())
}

fn messages(metrics: &Metrics) -> Messages {
    Messages {
        received: metrics.messages_received.get(),
        processed: metrics.messages_processed.get(),
        failed_tries: failed_tries(metrics),
        malformed: metrics.messages_malformed.get(),
        writes_skipped: SKIP_REASONS
            .iter()
            .map(|reason| metrics.writes_skipped.with_label_values(&[reason]).get())
            .sum(),
        in_flight: metrics.in_flight.get(),
    }
}

fn failed_tries(metrics: &Metrics) -> u64 {
    FAILURE_REASONS
        .iter()
        .map(|reason| metrics.messages_failed.with_label_values(&[reason]).get())
        .sum()
}

fn counts(metrics: &Metrics) -> Counts {
    let failed_calls: u64 = QUEUE_OPERATIONS
        .iter()
        .map(|operation| metrics.queue_errors.with_label_values(&[operation]).get())
        .sum();
    Counts {
        received: metrics.messages_received.get(),
        processed: metrics.messages_processed.get(),
        errors: failed_tries(metrics) + failed_calls + metrics.write_errors.get(),
        age: times(&metrics.message_age),
        handling: times(&metrics.message_handling_duration),
    }
}

fn times(histogram: &Histogram) -> Times {
    let families = histogram.collect();
    let Some(metric) = families.first().and_then(|family| family.get_metric().first()) else {
        return Times::default();
    };
    let histogram = metric.get_histogram();
    Times {
        count: histogram.get_sample_count(),
        sum_secs: histogram.get_sample_sum(),
        up_to: histogram
            .get_bucket()
            .iter()
            .map(|bucket| (bucket.upper_bound(), bucket.cumulative_count()))
            .filter(|(bound, _)| bound.is_finite())
            .collect(),
    }
}

fn shown_typical(typical: history::Typical) -> Typical {
    Typical {
        mean_secs: typical.mean_secs,
        p95_at_most_secs: typical.most_within_secs,
    }
}

fn shown_rates(window: Duration, rates: &history::Rates) -> Rates {
    Rates {
        window_secs: window.as_secs(),
        measured_secs: rates.secs,
        received_per_sec: rates.received_per_sec,
        processed_per_sec: rates.processed_per_sec,
        errors_per_min: rates.errors_per_min,
        age: rates.age.map(shown_typical),
        handling: rates.handling.map(shown_typical),
    }
}

fn shown_step(step: &history::Rates) -> Step {
    Step {
        ago_secs: step.ago_secs,
        secs: step.secs,
        processed_per_sec: step.processed_per_sec,
        errors_per_min: step.errors_per_min,
        mean_age_secs: step.age.map(|age| age.mean_secs),
        mean_handling_secs: step.handling.map(|handling| handling.mean_secs),
    }
}

fn shown_fault(fault: RecentFault, moment: impl Fn(Instant) -> Moment) -> Fault {
    Fault {
        level: match fault.level {
            log::Level::Error => "error",
            log::Level::Warn => "warn",
            log::Level::Info | log::Level::Debug | log::Level::Trace => "info",
        },
        what: fault.message,
        why: fault.error,
        times: fault.times,
        first_at: moment(fault.first_at),
        last_at: moment(fault.last_at),
        is_over: fault.is_over,
    }
}

fn shown_settings(settings: &ShownSettings) -> Vec<Setting> {
    let shown = settings.0.iter().map(|setting| Setting {
        name: setting.name.clone(),
        group: setting.group.clone(),
        is_secret: setting.value == Shown::Secret,
        is_set: setting.value != Shown::NotSet,
        is_given: setting.is_given,
        value: match &setting.value {
            Shown::Text(text) => Some(text.clone()),
            Shown::NotSet | Shown::Secret => None,
        },
    });
    shown.collect()
}

#[cfg(test)]
mod tests;
