//! Every series the service exports: one field per series; names and help texts stand in `series`.
//!
//! Label values that are known are created at once, so that a fault that has not happened yet reads 0 and a
//! rate over it is right from the first one on. Nothing here takes a customer's id as a label: a registry only
//! ever grows.

use prometheus::core::Collector;
use prometheus::process_collector::ProcessCollector;
use prometheus::{
    Error, Gauge, GaugeVec, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, Opts, Registry,
    TextEncoder,
};

use super::series::{self, Series};
use crate::build_info::{COMMIT, VERSION};

pub use super::series::metrics_table;

/// The `reason`s of `persistent_cache_messages_failed_total`.
pub const FAILURE_REASONS: [&str; 5] = ["redis", "panic", "malformed", "expired", "other"];
/// The `reason`s of `persistent_cache_writes_skipped_total`.
pub const SKIP_REASONS: [&str; 3] = ["stale", "policy", "no_customer"];
/// The `operation`s of `persistent_cache_queue_errors_total`.
pub const QUEUE_OPERATIONS: [&str; 4] = ["receive", "delete", "change_visibility", "get_attributes"];

/// From 0.5 ms (a pipelined write on the same host takes less) to 10 s (the readers' lock is 5 s).
const DURATION_BUCKETS_SECONDS: [f64; 14] = [
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
];
/// From 10 ms (nothing was waiting) to 1 h (a backlog after an outage).
const AGE_BUCKETS_SECONDS: [f64; 16] = [
    0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 1800.0, 3600.0,
];

/// All series. Shared by all threads.
#[derive(Debug)]
pub struct Metrics {
    /// The registry that `/metrics` gathers.
    pub registry: Registry,
    /// `persistent_cache_write_duration_seconds`
    pub write_duration: Histogram,
    /// `persistent_cache_write_errors_total`
    pub write_errors: IntCounter,
    /// `persistent_cache_hit_ratio`: 0 to 100
    pub hit_ratio: Gauge,
    /// `persistent_cache_memory_usage_bytes`
    pub memory_usage: Gauge,
    /// `persistent_cache_hits_total` (a gauge, as documented)
    pub hits: Gauge,
    /// `persistent_cache_misses_total` (a gauge, as documented)
    pub misses: Gauge,
    /// `persistent_cache_message_handling_duration_seconds`
    pub message_handling_duration: Histogram,
    /// `persistent_cache_messages_processed_total`
    pub messages_processed: IntCounter,
    /// `persistent_cache_messages_received_total`
    pub messages_received: IntCounter,
    /// `persistent_cache_messages_ignored_total{type}`
    pub messages_ignored: IntCounterVec,
    /// `persistent_cache_messages_malformed_total`
    pub messages_malformed: IntCounter,
    /// `persistent_cache_implausible_timestamps_total`
    pub implausible_timestamps: IntCounter,
    /// `persistent_cache_messages_failed_total{reason}`: one of [`FAILURE_REASONS`]
    pub messages_failed: IntCounterVec,
    /// `persistent_cache_writes_skipped_total{reason}`: one of [`SKIP_REASONS`]
    pub writes_skipped: IntCounterVec,
    /// `persistent_cache_message_age_seconds`
    pub message_age: Histogram,
    /// `persistent_cache_queue_errors_total{operation}`: one of [`QUEUE_OPERATIONS`]
    pub queue_errors: IntCounterVec,
    /// `persistent_cache_in_flight_messages`
    pub in_flight: IntGauge,
    /// `persistent_cache_last_poll_timestamp_seconds`
    pub last_poll: Gauge,
    /// `persistent_cache_last_write_timestamp_seconds`
    pub last_write: Gauge,
    /// `persistent_cache_consumers`: set from the health board at each `/metrics`
    pub consumers: IntGauge,
    /// `persistent_cache_redis_up`: set from the health board at each `/metrics`
    pub redis_up: IntGauge,
    /// `persistent_cache_credentials_expiry_timestamp_seconds`: no child, and so no series, for static ones
    pub credentials_expiry: GaugeVec,
}

impl Metrics {
    /// All series, registered, at 0. Fails only if a name or label is not one that Prometheus takes, which a
    /// test rules out.
    pub fn new() -> Result<Self, Error> {
        let registry = Registry::new();
        registry.register(Box::new(ProcessCollector::for_self()))?;
        let build_info = registered(
            &registry,
            GaugeVec::new(opts(&series::BUILD_INFO), series::BUILD_INFO.labels)?,
        )?;
        build_info.with_label_values(&[VERSION, COMMIT]).set(1.0);
        Ok(Self {
            write_duration: histogram(&registry, &series::WRITE_DURATION, &DURATION_BUCKETS_SECONDS)?,
            write_errors: counter(&registry, &series::WRITE_ERRORS)?,
            hit_ratio: gauge(&registry, &series::HIT_RATIO)?,
            memory_usage: gauge(&registry, &series::MEMORY_USAGE)?,
            hits: gauge(&registry, &series::HITS)?,
            misses: gauge(&registry, &series::MISSES)?,
            message_handling_duration: histogram(
                &registry,
                &series::MESSAGE_HANDLING_DURATION,
                &DURATION_BUCKETS_SECONDS,
            )?,
            messages_processed: counter(&registry, &series::MESSAGES_PROCESSED)?,
            messages_received: counter(&registry, &series::MESSAGES_RECEIVED)?,
            // The type names belong to the event room; `other` is the one label that always exists.
            messages_ignored: counters(&registry, &series::MESSAGES_IGNORED, &["other"])?,
            messages_malformed: counter(&registry, &series::MESSAGES_MALFORMED)?,
            implausible_timestamps: counter(&registry, &series::IMPLAUSIBLE_TIMESTAMPS)?,
            messages_failed: counters(&registry, &series::MESSAGES_FAILED, &FAILURE_REASONS)?,
            writes_skipped: counters(&registry, &series::WRITES_SKIPPED, &SKIP_REASONS)?,
            message_age: histogram(&registry, &series::MESSAGE_AGE, &AGE_BUCKETS_SECONDS)?,
            queue_errors: counters(&registry, &series::QUEUE_ERRORS, &QUEUE_OPERATIONS)?,
            in_flight: int_gauge(&registry, &series::IN_FLIGHT)?,
            last_poll: gauge(&registry, &series::LAST_POLL)?,
            last_write: gauge(&registry, &series::LAST_WRITE)?,
            consumers: int_gauge(&registry, &series::CONSUMERS)?,
            redis_up: int_gauge(&registry, &series::REDIS_UP)?,
            credentials_expiry: registered(
                &registry,
                GaugeVec::new(
                    opts(&series::CREDENTIALS_EXPIRY),
                    series::CREDENTIALS_EXPIRY.labels,
                )?,
            )?,
            registry,
        })
    }

    /// All series in the Prometheus text format (version 0.0.4), sorted by name.
    pub fn render(&self) -> String {
        TextEncoder::new()
            .encode_to_string(&self.registry.gather())
            .unwrap_or_else(|error| {
                // The encoder refuses only a family without name or samples, which the registry does not gather.
                log::error!("cannot render the metrics: {error}");
                String::new()
            })
    }

    /// Takes hits, misses, their ratio and the memory in use out of the text that Redis answers to `INFO stats`
    /// and `INFO memory`. A field that is missing leaves its gauge as it was.
    pub fn observe_redis_info(&self, info_stats_and_memory: &str) {
        let info = parse_redis_info(info_stats_and_memory);
        if let Some(hits) = info.keyspace_hits {
            self.hits.set(hits);
        }
        if let Some(misses) = info.keyspace_misses {
            self.misses.set(misses);
        }
        if let Some(percent) = info.hit_ratio_percent() {
            self.hit_ratio.set(percent);
        }
        if let Some(bytes) = info.used_memory_bytes {
            self.memory_usage.set(bytes);
        }
    }
}

/// What the gauges take from `INFO`. Numbers as Prometheus keeps them: exact up to 2^53.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
struct RedisInfo {
    keyspace_hits: Option<f64>,
    keyspace_misses: Option<f64>,
    used_memory_bytes: Option<f64>,
}

impl RedisInfo {
    /// Hits as a percentage of all look-ups; 0 before the first look-up, as a ratio of nothing would be NaN.
    fn hit_ratio_percent(self) -> Option<f64> {
        let (hits, misses) = (self.keyspace_hits?, self.keyspace_misses?);
        let look_ups = hits + misses;
        Some(if look_ups > 0.0 {
            100.0 * hits / look_ups
        } else {
            0.0
        })
    }
}

/// What Redis can count to, in 64 bits. More is no count: sums of such numbers are no longer finite.
const COUNT_MAX: f64 = 18_446_744_073_709_551_615.0;

/// Reads the lines `name:value` of `INFO`; sections, unknown fields and unreadable numbers are passed over.
fn parse_redis_info(text: &str) -> RedisInfo {
    let mut info = RedisInfo::default();
    for (name, value) in text.lines().filter_map(|line| line.trim().split_once(':')) {
        let field = match name {
            "keyspace_hits" => &mut info.keyspace_hits,
            "keyspace_misses" => &mut info.keyspace_misses,
            "used_memory" => &mut info.used_memory_bytes,
            _ => continue,
        };
        *field = value
            .parse()
            .ok()
            .filter(|number: &f64| (0.0..=COUNT_MAX).contains(number));
    }
    info
}

fn opts(series: &Series) -> Opts {
    Opts::new(series.name, series.help)
}

fn registered<C: Collector + Clone + 'static>(registry: &Registry, collector: C) -> Result<C, Error> {
    registry.register(Box::new(collector.clone()))?;
    Ok(collector)
}

fn counter(registry: &Registry, series: &Series) -> Result<IntCounter, Error> {
    registered(registry, IntCounter::with_opts(opts(series))?)
}

/// A counter with one label, which has these values from the start.
fn counters(registry: &Registry, series: &Series, known: &[&str]) -> Result<IntCounterVec, Error> {
    let family = registered(registry, IntCounterVec::new(opts(series), series.labels)?)?;
    for value in known {
        family.get_metric_with_label_values(&[value])?;
    }
    Ok(family)
}

fn gauge(registry: &Registry, series: &Series) -> Result<Gauge, Error> {
    registered(registry, Gauge::with_opts(opts(series))?)
}

fn int_gauge(registry: &Registry, series: &Series) -> Result<IntGauge, Error> {
    registered(registry, IntGauge::with_opts(opts(series))?)
}

fn histogram(registry: &Registry, series: &Series, buckets_seconds: &[f64]) -> Result<Histogram, Error> {
    let opts = HistogramOpts::new(series.name, series.help).buckets(buckets_seconds.to_vec());
    registered(registry, Histogram::with_opts(opts)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines_of(metrics: &Metrics, name: &str) -> Vec<String> {
        let is_sample = |line: &&str| line.starts_with(name) && !line.starts_with('#');
        metrics
            .render()
            .lines()
            .filter(is_sample)
            .map(str::to_owned)
            .collect()
    }

    #[test]
    fn every_series_shows_its_help_and_type_from_the_start() {
        let metrics = Metrics::new().unwrap();
        let text = metrics.render();
        for series in series::ALL {
            let type_line = format!("# TYPE {} {}\n", series.name, series.kind.as_str());
            let help_line = format!("# HELP {} {}\n", series.name, series.help);
            let is_for_temporary_credentials = series.name == series::CREDENTIALS_EXPIRY.name;
            assert_eq!(
                text.contains(&type_line),
                !is_for_temporary_credentials,
                "{type_line}"
            );
            assert_eq!(
                text.contains(&help_line),
                !is_for_temporary_credentials,
                "{help_line}"
            );
        }
    }

    #[test]
    fn nothing_is_exported_that_the_table_does_not_list_but_the_process() {
        let metrics = Metrics::new().unwrap();
        let exported = metrics.registry.gather();
        let unlisted: Vec<_> = exported
            .iter()
            .map(prometheus::proto::MetricFamily::name)
            .filter(|name| series::ALL.iter().all(|series| series.name != *name))
            .collect();
        assert_eq!(
            unlisted,
            [
                "process_cpu_seconds_total",
                "process_max_fds",
                "process_open_fds",
                "process_resident_memory_bytes",
                "process_start_time_seconds",
                "process_threads",
                "process_virtual_memory_bytes",
            ]
        );
    }

    #[test]
    fn the_names_and_types_that_stigg_documents_are_kept() {
        let text = Metrics::new().unwrap().render();
        for (name, kind) in [
            ("persistent_cache_write_duration_seconds", "histogram"),
            ("persistent_cache_write_errors_total", "counter"),
            ("persistent_cache_hit_ratio", "gauge"),
            ("persistent_cache_memory_usage_bytes", "gauge"),
            ("persistent_cache_hits_total", "gauge"),
            ("persistent_cache_misses_total", "gauge"),
            ("persistent_cache_message_handling_duration_seconds", "histogram"),
            ("persistent_cache_messages_processed_total", "counter"),
        ] {
            assert!(text.contains(&format!("# TYPE {name} {kind}\n")), "{name}");
        }
    }

    #[test]
    fn known_labels_read_zero_before_anything_has_happened() {
        let metrics = Metrics::new().unwrap();
        assert_eq!(
            lines_of(&metrics, "persistent_cache_writes_skipped_total"),
            [
                r#"persistent_cache_writes_skipped_total{reason="no_customer"} 0"#,
                r#"persistent_cache_writes_skipped_total{reason="policy"} 0"#,
                r#"persistent_cache_writes_skipped_total{reason="stale"} 0"#,
            ]
        );
        assert_eq!(
            lines_of(&metrics, "persistent_cache_queue_errors_total"),
            [
                r#"persistent_cache_queue_errors_total{operation="change_visibility"} 0"#,
                r#"persistent_cache_queue_errors_total{operation="delete"} 0"#,
                r#"persistent_cache_queue_errors_total{operation="get_attributes"} 0"#,
                r#"persistent_cache_queue_errors_total{operation="receive"} 0"#,
            ]
        );
        assert_eq!(
            lines_of(&metrics, "persistent_cache_messages_failed_total"),
            [
                r#"persistent_cache_messages_failed_total{reason="expired"} 0"#,
                r#"persistent_cache_messages_failed_total{reason="malformed"} 0"#,
                r#"persistent_cache_messages_failed_total{reason="other"} 0"#,
                r#"persistent_cache_messages_failed_total{reason="panic"} 0"#,
                r#"persistent_cache_messages_failed_total{reason="redis"} 0"#,
            ]
        );
    }

    #[test]
    fn every_operation_of_the_queue_has_its_label() {
        use crate::sqs::Operation;
        let labels = [
            Operation::Receive,
            Operation::Delete,
            Operation::ChangeVisibility,
            Operation::GetAttributes,
        ]
        .map(Operation::label);
        assert_eq!(labels, QUEUE_OPERATIONS);
    }

    #[test]
    fn credentials_expiry_appears_only_once_temporary_credentials_are_there() {
        let metrics = Metrics::new().unwrap();
        let name = "persistent_cache_credentials_expiry_timestamp_seconds";
        assert_eq!(lines_of(&metrics, name), Vec::<String>::new());
        metrics
            .credentials_expiry
            .with_label_values::<&str>(&[])
            .set(1_754_215_088.458);
        assert_eq!(
            lines_of(&metrics, name),
            ["persistent_cache_credentials_expiry_timestamp_seconds 1754215088.458"]
        );
    }

    #[test]
    fn build_info_is_one_and_names_the_version() {
        let lines = lines_of(&Metrics::new().unwrap(), "persistent_cache_build_info");
        let version = format!(r#"version="{}""#, env!("CARGO_PKG_VERSION"));
        assert_eq!(lines.len(), 1);
        assert!(
            lines[0].contains(&version) && lines[0].contains("commit=") && lines[0].ends_with("} 1"),
            "{lines:?}"
        );
    }

    #[test]
    fn duration_buckets_reach_from_half_a_millisecond_to_ten_seconds_and_age_to_an_hour() {
        let metrics = Metrics::new().unwrap();
        for name in [
            "persistent_cache_write_duration_seconds",
            "persistent_cache_message_handling_duration_seconds",
        ] {
            let buckets = lines_of(&metrics, &format!("{name}_bucket"));
            assert_eq!(buckets[0], format!(r#"{name}_bucket{{le="0.0005"}} 0"#));
            assert_eq!(
                buckets[buckets.len() - 2],
                format!(r#"{name}_bucket{{le="10"}} 0"#)
            );
        }
        let buckets = lines_of(&metrics, "persistent_cache_message_age_seconds_bucket");
        assert_eq!(
            buckets[0],
            r#"persistent_cache_message_age_seconds_bucket{le="0.01"} 0"#
        );
        assert_eq!(
            buckets[buckets.len() - 2],
            r#"persistent_cache_message_age_seconds_bucket{le="3600"} 0"#
        );
    }

    const INFO: &str = "# Stats\r\ntotal_connections_received:5\r\nkeyspace_hits:30\r\nkeyspace_misses:10\r\n\r\n\
                        # Memory\r\nused_memory:1048576\r\nused_memory_human:1.00M\r\nused_memory_rss:9\r\n";

    #[test]
    fn redis_info_becomes_hits_misses_ratio_and_memory() {
        let metrics = Metrics::new().unwrap();
        metrics.observe_redis_info(INFO);
        assert_eq!(
            lines_of(&metrics, "persistent_cache_hits_total"),
            ["persistent_cache_hits_total 30"]
        );
        assert_eq!(
            lines_of(&metrics, "persistent_cache_misses_total"),
            ["persistent_cache_misses_total 10"]
        );
        assert_eq!(
            lines_of(&metrics, "persistent_cache_hit_ratio"),
            ["persistent_cache_hit_ratio 75"]
        );
        assert_eq!(
            lines_of(&metrics, "persistent_cache_memory_usage_bytes"),
            ["persistent_cache_memory_usage_bytes 1048576"]
        );
    }

    #[test]
    fn a_field_that_redis_left_out_or_garbled_leaves_its_gauge_as_it_was() {
        let metrics = Metrics::new().unwrap();
        metrics.observe_redis_info(INFO);
        metrics.observe_redis_info("keyspace_hits:99\r\nkeyspace_misses:NaN\r\nused_memory:\r\n:::\r\n");
        assert_eq!(
            lines_of(&metrics, "persistent_cache_hits_total"),
            ["persistent_cache_hits_total 99"]
        );
        assert_eq!(
            lines_of(&metrics, "persistent_cache_misses_total"),
            ["persistent_cache_misses_total 10"]
        );
        assert_eq!(
            lines_of(&metrics, "persistent_cache_hit_ratio"),
            ["persistent_cache_hit_ratio 75"]
        );
        assert_eq!(
            lines_of(&metrics, "persistent_cache_memory_usage_bytes"),
            ["persistent_cache_memory_usage_bytes 1048576"]
        );
    }

    #[test]
    fn numbers_that_redis_cannot_count_to_leave_the_ratio_a_percentage() {
        let metrics = Metrics::new().unwrap();
        metrics.observe_redis_info(INFO);
        metrics.observe_redis_info("keyspace_hits:1e308\r\nkeyspace_misses:1.7e308\r\n");
        assert_eq!(
            lines_of(&metrics, "persistent_cache_hit_ratio"),
            ["persistent_cache_hit_ratio 75"]
        );
    }

    #[test]
    fn the_ratio_is_zero_before_the_first_look_up_after_a_redis_restart() {
        let metrics = Metrics::new().unwrap();
        metrics.observe_redis_info(INFO);
        metrics.observe_redis_info("keyspace_hits:0\nkeyspace_misses:0\n");
        assert_eq!(
            lines_of(&metrics, "persistent_cache_hit_ratio"),
            ["persistent_cache_hit_ratio 0"]
        );
    }
}
