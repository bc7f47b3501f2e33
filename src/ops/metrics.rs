//! Every metric that the service exports, in one table. scripts/prometheus/README.md says how to read each,
//! and what to do.
//!
//! Names and types of the first eight are Stigg's and are kept exactly, the gauges called `_total` too: existing
//! dashboards and alerts use them. Known label values exist from the start, so that `rate()` is right from the first
//! fault on. No label is ever made of a customer's data: a registry only grows.

use prometheus::process_collector::ProcessCollector;
use prometheus::{
    Error, Gauge, GaugeVec, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, Opts, Registry,
    TextEncoder,
};

use crate::build_info::{COMMIT, VERSION};

/// The `reason`s of `persistent_cache_messages_failed_total`.
pub const FAILURE_REASONS: [&str; 5] = ["redis", "panic", "malformed", "expired", "other"];
/// The `reason`s of `persistent_cache_writes_skipped_total`.
pub const SKIP_REASONS: [&str; 3] = ["stale", "policy", "no_customer"];
/// The `result`s of `persistent_cache_refreshes_total`.
pub const REFRESH_RESULTS: [&str; 4] = ["refreshed", "skipped", "failed", "dropped"];
/// The `operation`s of `persistent_cache_queue_errors_total`.
pub const QUEUE_OPERATIONS: [&str; 4] = ["receive", "delete", "change_visibility", "get_attributes"];

/// From 0.5 ms (a pipelined write on the same host takes less) to 10 s (the readers' lock is 5 s).
const DURATION_BUCKETS_SECS: [f64; 14] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
/// From 10 ms (nothing was waiting) to 1 h (a backlog after an outage).
const AGE_BUCKETS_SECS: [f64; 16] =
    [0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 1800.0, 3600.0];

/// Declares each metric once: its field, its type, and how it is created from its name and help text.
macro_rules! metrics {
    ($($field:ident: $type:ident = $($create:ident)::+($name:literal, $help:literal $(, $detail:expr)*);)*) => {
        /// All metrics. Shared by all threads.
        #[derive(Debug)]
        pub struct Metrics {
            registry: Registry,
            $(#[doc = $help] pub $field: $type,)*
        }

        impl Metrics {
            /// All metrics at 0. Fails only if Prometheus does not accept a name or label, which a test rules out.
            pub fn new() -> Result<Self, Error> {
                let registry = Registry::new();
                registry.register(Box::new(ProcessCollector::for_self()))?;
                $(
                    let $field = $($create)::+($name, $help $(, $detail)*)?;
                    registry.register(Box::new($field.clone()))?;
                )*
                let metrics = Self { registry, $($field),* };
                metrics.build_info.with_label_values(&[VERSION, COMMIT]).set(1.0);
                Ok(metrics)
            }
        }
    };
}

metrics! {
    write_duration: Histogram = histogram("persistent_cache_write_duration_seconds", "time taken to write to Redis", &DURATION_BUCKETS_SECS);
    write_errors: IntCounter = IntCounter::new("persistent_cache_write_errors_total", "failed Redis writes");
    hit_ratio: Gauge = Gauge::new("persistent_cache_hit_ratio", "hits as a percentage (0-100) of all key look-ups, from Redis `INFO stats`");
    memory_usage: Gauge = Gauge::new("persistent_cache_memory_usage_bytes", "Redis `used_memory`");
    hits: Gauge = Gauge::new("persistent_cache_hits_total", "Redis `keyspace_hits`");
    misses: Gauge = Gauge::new("persistent_cache_misses_total", "Redis `keyspace_misses`");
    message_handling_duration: Histogram = histogram("persistent_cache_message_handling_duration_seconds", "receipt to completion of one message", &DURATION_BUCKETS_SECS);
    messages_processed: IntCounter = IntCounter::new("persistent_cache_messages_processed_total", "messages processed");
    messages_received: IntCounter = IntCounter::new("persistent_cache_messages_received_total", "received from the queue, redeliveries included");
    messages_ignored: IntCounterVec = counters("persistent_cache_messages_ignored_total", "types that change nothing here; the label is bounded: known names, else `other`", "type", &["other"]);
    messages_malformed: IntCounter = IntCounter::new("persistent_cache_messages_malformed_total", "bodies that could not be read");
    implausible_timestamps: IntCounter = IntCounter::new("persistent_cache_implausible_timestamps_total", "timestamps in messages that cannot be true: more than an hour ahead, or before 2015");
    messages_failed: IntCounterVec = counters("persistent_cache_messages_failed_total", "attempts without effect, whose messages are delivered again", "reason", &FAILURE_REASONS);
    writes_skipped: IntCounterVec = counters("persistent_cache_writes_skipped_total", "writes that were not due, by reason: `stale`, `policy`, `no_customer`", "reason", &SKIP_REASONS);
    message_age: Histogram = histogram("persistent_cache_message_age_seconds", "SQS SentTimestamp to written: how fresh the cache is", &AGE_BUCKETS_SECS);
    queue_errors: IntCounterVec = counters("persistent_cache_queue_errors_total", "failed calls to the queue: `receive`, `delete`, `change_visibility`, `get_attributes`", "operation", &QUEUE_OPERATIONS);
    in_flight: IntGauge = IntGauge::new("persistent_cache_in_flight_messages", "received and not yet completed");
    last_poll: Gauge = Gauge::new("persistent_cache_last_poll_timestamp_seconds", "last successful poll of the queue; 0 before the first");
    last_write: Gauge = Gauge::new("persistent_cache_last_write_timestamp_seconds", "last successful write to Redis; 0 before the first");
    consumers: IntGauge = IntGauge::new("persistent_cache_consumers", "live pollers: they get answers from the queue, or have failed for less than 15 s");
    redis_up: IntGauge = IntGauge::new("persistent_cache_redis_up", "1 while Redis answers, else 0");
    credentials_expiry: GaugeVec = gauges("persistent_cache_credentials_expiry_timestamp_seconds", "when the temporary credentials expire; absent for static ones", &[]);
    refreshes: IntCounterVec = counters("persistent_cache_refreshes_total", "purged customers and resources with `REFRESH_AFTER_PURGE`, by result: `refreshed`, `skipped`, `failed`, `dropped`", "result", &REFRESH_RESULTS);
    refreshes_queued: IntGauge = IntGauge::new("persistent_cache_refreshes_queued", "purged customers and resources that wait to be refreshed");
    build_info: GaugeVec = gauges("persistent_cache_build_info", "always 1: the labels say which build runs", &["version", "commit"]);
}

fn histogram(name: &str, help: &str, buckets: &[f64]) -> Result<Histogram, Error> {
    Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets.to_vec()))
}

/// A counter for each value of a label; those of the known values exist from the start.
fn counters(name: &str, help: &str, label: &str, known: &[&str]) -> Result<IntCounterVec, Error> {
    let counters = IntCounterVec::new(Opts::new(name, help), &[label])?;
    for value in known {
        counters.with_label_values(&[value]);
    }
    Ok(counters)
}

fn gauges(name: &str, help: &str, labels: &[&str]) -> Result<GaugeVec, Error> {
    GaugeVec::new(Opts::new(name, help), labels)
}

impl Metrics {
    /// All metrics in the Prometheus text format (version 0.0.4), sorted by name.
    pub fn render(&self) -> String {
        // The encoder refuses only a family without name or samples, which the registry does not gather.
        TextEncoder::new().encode_to_string(&self.registry.gather()).unwrap_or_default()
    }

    /// Takes hits, misses, their ratio and the memory in use from what Redis replies to `INFO stats` and `INFO memory`.
    /// A field that is missing, or larger than Redis can count, leaves its gauge as it was.
    pub fn observe_redis_info(&self, info: &str) {
        let field = |name| {
            let mut fields = info.lines().filter_map(|line| line.trim().split_once(':'));
            let value: u64 = fields.find(|(field, _)| *field == name)?.1.parse().ok()?;
            Some(as_f64(value))
        };
        let (hits, misses) = (field("keyspace_hits"), field("keyspace_misses"));
        // Before the first look-up 0, as a ratio of nothing would be NaN.
        let ratio = hits.zip(misses).map(|(hits, misses)| 100.0 * hits / (hits + misses).max(1.0));
        hits.inspect(|hits| self.hits.set(*hits));
        misses.inspect(|misses| self.misses.set(*misses));
        ratio.inspect(|ratio| self.hit_ratio.set(*ratio));
        field("used_memory").inspect(|bytes| self.memory_usage.set(*bytes));
    }
}

#[allow(clippy::cast_precision_loss)] // counts of one process stay below 2^53
pub(super) fn as_f64(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All that is exported once everything has happened, without the process: name, type, labels and help.
    fn exported() -> Vec<(String, String, Vec<String>, String)> {
        let metrics = Metrics::new().unwrap();
        metrics.credentials_expiry.with_label_values::<&str>(&[]).set(1.0);
        let families = metrics.registry.gather();
        let own = families.iter().filter(|family| !family.name().starts_with("process_"));
        own.map(|family| {
            let kind = format!("{:?}", family.get_field_type()).to_lowercase();
            let labels = family.get_metric()[0].get_label().iter();
            let labels = labels.map(|label| label.name().to_owned()).collect();
            (family.name().to_owned(), kind, labels, family.help().to_owned())
        })
        .collect()
    }

    fn lines_of(metrics: &Metrics, name: &str) -> Vec<String> {
        let is_sample = |line: &&str| line.starts_with(name) && !line.starts_with('#');
        metrics.render().lines().filter(is_sample).map(str::to_owned).collect()
    }

    #[test]
    fn every_series_but_that_of_temporary_credentials_is_there_from_the_start() {
        let text = Metrics::new().unwrap().render();
        for (name, kind, _, help) in exported() {
            let lines = format!("# HELP {name} {help}\n# TYPE {name} {kind}\n");
            let is_absent = name == "persistent_cache_credentials_expiry_timestamp_seconds";
            assert_eq!(text.contains(&lines), !is_absent, "{lines}");
        }
    }

    #[test]
    fn of_the_process_the_standard_metrics_are_exported() {
        let exported = Metrics::new().unwrap().registry.gather();
        let names = exported.iter().map(prometheus::proto::MetricFamily::name);
        let of_the_process: Vec<_> = names.filter(|name| name.starts_with("process_")).collect();
        assert_eq!(
            of_the_process,
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
        let labels =
            [Operation::Receive, Operation::Delete, Operation::ChangeVisibility, Operation::GetAttributes]
                .map(Operation::label);
        assert_eq!(labels, QUEUE_OPERATIONS);
    }

    #[test]
    fn credentials_expiry_appears_only_once_temporary_credentials_are_there() {
        let metrics = Metrics::new().unwrap();
        let name = "persistent_cache_credentials_expiry_timestamp_seconds";
        assert_eq!(lines_of(&metrics, name), Vec::<String>::new());
        metrics.credentials_expiry.with_label_values::<&str>(&[]).set(1_754_215_088.458);
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
        for name in
            ["persistent_cache_write_duration_seconds", "persistent_cache_message_handling_duration_seconds"]
        {
            let buckets = lines_of(&metrics, &format!("{name}_bucket"));
            assert_eq!(buckets[0], format!(r#"{name}_bucket{{le="0.0005"}} 0"#));
            assert_eq!(buckets[buckets.len() - 2], format!(r#"{name}_bucket{{le="10"}} 0"#));
        }
        let buckets = lines_of(&metrics, "persistent_cache_message_age_seconds_bucket");
        assert_eq!(buckets[0], r#"persistent_cache_message_age_seconds_bucket{le="0.01"} 0"#);
        assert_eq!(buckets[buckets.len() - 2], r#"persistent_cache_message_age_seconds_bucket{le="3600"} 0"#);
    }

    const INFO: &str = "# Stats\r\ntotal_connections_received:5\r\nkeyspace_hits:30\r\nkeyspace_misses:10\r\n\r\n\
                        # Memory\r\nused_memory:1048576\r\nused_memory_human:1.00M\r\nused_memory_rss:9\r\n";

    #[test]
    fn redis_info_becomes_hits_misses_ratio_and_memory() {
        let metrics = Metrics::new().unwrap();
        metrics.observe_redis_info(INFO);
        assert_eq!(lines_of(&metrics, "persistent_cache_hits_total"), ["persistent_cache_hits_total 30"]);
        assert_eq!(lines_of(&metrics, "persistent_cache_misses_total"), ["persistent_cache_misses_total 10"]);
        assert_eq!(lines_of(&metrics, "persistent_cache_hit_ratio"), ["persistent_cache_hit_ratio 75"]);
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
        assert_eq!(lines_of(&metrics, "persistent_cache_hits_total"), ["persistent_cache_hits_total 99"]);
        assert_eq!(lines_of(&metrics, "persistent_cache_misses_total"), ["persistent_cache_misses_total 10"]);
        assert_eq!(lines_of(&metrics, "persistent_cache_hit_ratio"), ["persistent_cache_hit_ratio 75"]);
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
        assert_eq!(lines_of(&metrics, "persistent_cache_hit_ratio"), ["persistent_cache_hit_ratio 75"]);
    }

    #[test]
    fn the_ratio_is_zero_before_the_first_look_up_after_a_redis_restart() {
        let metrics = Metrics::new().unwrap();
        metrics.observe_redis_info(INFO);
        metrics.observe_redis_info("keyspace_hits:0\nkeyspace_misses:0\n");
        assert_eq!(lines_of(&metrics, "persistent_cache_hit_ratio"), ["persistent_cache_hit_ratio 0"]);
    }

    /// Its last two columns, how to read a metric and what to do, are written by hand.
    #[test]
    fn the_page_lists_exactly_the_series_that_are_exported() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/prometheus/README.md");
        let readme = std::fs::read_to_string(path).expect("the page can be read");
        let (_, rest) = readme.split_once("<!-- metrics:begin -->\n").expect("the table of metrics");
        let (table, _) = rest.split_once("<!-- metrics:end -->").expect("its end");
        let expected = exported().into_iter().map(|(name, kind, labels, help)| {
            let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(", ")) };
            format!("| `{name}{labels}` | {kind} | {help}")
        });
        let mut expected: Vec<String> = expected.collect();
        let rows = table.lines().skip(2).map(|row| {
            let cells: Vec<&str> = row.split(" | ").collect();
            assert!(cells.len() == 5 && cells.iter().all(|cell| !cell.is_empty()), "{row}");
            cells[..3].join(" | ").replace("version, commit", "commit, version") // as Prometheus sorts labels
        });
        let mut rows: Vec<String> = rows.collect();
        expected.sort_unstable();
        rows.sort_unstable();
        assert_eq!(rows, expected);
    }
}
