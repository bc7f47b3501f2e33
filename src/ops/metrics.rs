//! Every metric that the service exports: registered from one table, from which the README is generated too.
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
/// The `operation`s of `persistent_cache_queue_errors_total`.
pub const QUEUE_OPERATIONS: [&str; 4] = ["receive", "delete", "change_visibility", "get_attributes"];

/// From 0.5 ms (a pipelined write on the same host takes less) to 10 s (the readers' lock is 5 s).
const DURATION_BUCKETS_SECS: [f64; 14] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
/// From 10 ms (nothing was waiting) to 1 h (a backlog after an outage).
const AGE_BUCKETS_SECS: [f64; 16] =
    [0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 1800.0, 3600.0];

/// A metric of this type; in parentheses a histogram's buckets, or the label values that exist from the start.
macro_rules! create {
    (Histogram($buckets:expr), $opts:expr, $labels:expr) => {
        Histogram::with_opts(HistogramOpts::from($opts).buckets($buckets.to_vec()))
    };
    (IntCounterVec($known:expr), $opts:expr, $labels:expr) => {
        IntCounterVec::new($opts, $labels).inspect(|counters| {
            for value in $known {
                counters.with_label_values(&[value]);
            }
        })
    };
    (GaugeVec(), $opts:expr, $labels:expr) => {
        GaugeVec::new($opts, $labels)
    };
    ($type:ident(), $opts:expr, $labels:expr) => {
        $type::with_opts($opts)
    };
}

/// Declares each metric as a field and all of them as one table: its type, name and labels, what it says (its help text),
/// how to read it, and what to do about it.
macro_rules! metrics {
    ($($field:ident: $type:ident($($detail:expr)?) $name:literal [$($label:literal),*] $help:literal
        read $reading:literal
        do $action:literal;)*) => {
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
                    let $field = create!($type($($detail)?), Opts::new($name, $help), &[$($label),*])?;
                    registry.register(Box::new($field.clone()))?;
                )*
                let metrics = Self { registry, $($field),* };
                metrics.build_info.with_label_values(&[VERSION, COMMIT]).set(1.0);
                Ok(metrics)
            }
        }

        /// In the order of the documentation's table.
        #[cfg(test)]
        const ALL: &[tests::Series] = &[$(tests::Series {
            name: $name,
            type_name: stringify!($type),
            labels: &[$($label),*],
            help: $help,
            reading: $reading,
            action: $action,
        }),*];
    };
}

metrics! {
    write_duration: Histogram(DURATION_BUCKETS_SECS) "persistent_cache_write_duration_seconds" [] "time taken to write to Redis"
        read "one round trip, which may carry many messages; a few milliseconds where Redis is near"
        do "rises: Redis or the network is slow; look at its `SLOWLOG` and CPU";
    write_errors: IntCounter() "persistent_cache_write_errors_total" [] "failed Redis writes"
        read "each is retried, so a burst while Redis restarts loses nothing"
        do "keeps rising: the error in the log has the cause and the remedy";
    hit_ratio: Gauge() "persistent_cache_hit_ratio" [] "hits as a percentage (0-100) of all key look-ups, from Redis `INFO stats`"
        read "of the whole server and since its start: also of other users of this Redis, and of this service's own look-ups"
        do "falls over days: keys expire before they are read (`KEYS_TTL_IN_SECS`) or are evicted (`maxmemory`)";
    memory_usage: Gauge() "persistent_cache_memory_usage_bytes" [] "Redis `used_memory`"
        read "of the whole server"
        do "near its `maxmemory`: more memory, or a shorter `KEYS_TTL_IN_SECS`; a full Redis refuses writes";
    hits: Gauge() "persistent_cache_hits_total" [] "Redis `keyspace_hits`"
        read "a gauge by name only: it counts up, and from 0 when Redis restarts, so `rate()` works"
        do "nothing by itself";
    misses: Gauge() "persistent_cache_misses_total" [] "Redis `keyspace_misses`"
        read "like the hits; an SDK that misses asks Stigg"
        do "rises faster than the hits: see `persistent_cache_hit_ratio`";
    message_handling_duration: Histogram(DURATION_BUCKETS_SECS) "persistent_cache_message_handling_duration_seconds" [] "receipt to completion of one message"
        read "includes waiting for a worker, for a reader's locks (up to 5 s; up to a minute during a refetch) and for Redis"
        do "far above the write duration: raise `WORKERS`, or many SDKs refetch at once";
    messages_processed: IntCounter() "persistent_cache_messages_processed_total" [] "messages processed"
        read "handled and to be deleted from the queue; includes those that changed nothing"
        do "below `received` for long: look at the failed and the malformed";
    messages_received: IntCounter() "persistent_cache_messages_received_total" [] "received from the queue, redeliveries included"
        read "its rate is the load of this instance"
        do "0 while Stigg shows changes: another consumer receives them, or this is another queue";
    messages_ignored: IntCounterVec(["other"]) "persistent_cache_messages_ignored_total" ["type"] "types that change nothing here; the label is bounded: known names, else `other`"
        read "normal: a queue may carry every event of the environment. A type appears with its first message"
        do "`other` rises: Stigg sends a type that this version does not know; see the changelog of a newer one";
    messages_malformed: IntCounter() "persistent_cache_messages_malformed_total" [] "bodies that could not be read"
        read "with `POISON_POLICY=redrive` each receipt of such a message counts"
        do "above 0: the warning has the message id and where in the body the fault is; look at the dead-letter queue";
    implausible_timestamps: IntCounter() "persistent_cache_implausible_timestamps_total" [] "timestamps in messages that cannot be true: more than an hour ahead, or before 2015"
        read "such a timestamp is ignored and the next source is used; 0 is normal"
        do "above 0: the warning has the message id; the sender's clock or its unit (seconds instead of milliseconds) is wrong";
    messages_failed: IntCounterVec(FAILURE_REASONS) "persistent_cache_messages_failed_total" ["reason"] "tries that ended without effect and will come again"
        read "`redis`: retried in place, counted once per message and try (the log's `failed_tries` includes probes); `malformed`: left to the dead-letter rule; `expired`: the receipt handle outlived its time; `other`: one change was refused; `panic`: a defect"
        do "`redis`: see the write errors; `other`: the error in the log names the cause; `panic`: report it";
    writes_skipped: IntCounterVec(SKIP_REASONS) "persistent_cache_writes_skipped_total" ["reason"] "writes that were not due, by reason: `stale`, `policy`, `no_customer`"
        read "`stale`: something newer is stored; `policy`: the customer is not in the cache and `CACHE_UPDATE_POLICY` is `UPDATE_IF_EXISTS`; `no_customer`: the same for a usage"
        do "nearly all are `policy` or `no_customer`: check that the SDKs use the same `ENVIRONMENT_PREFIX` and Redis";
    message_age: Histogram(AGE_BUCKETS_SECS) "persistent_cache_message_age_seconds" [] "SQS SentTimestamp to written: how fresh the cache is"
        read "the end-to-end latency, and the one to watch: backlogs, outages and differing clocks show here"
        do "p99 too high: more instances, `BATCH_SIZE=10`, or a Redis that is nearer";
    queue_errors: IntCounterVec(QUEUE_OPERATIONS) "persistent_cache_queue_errors_total" ["operation"] "failed calls to the queue: `receive`, `delete`, `change_visibility`, `get_attributes`"
        read "single ones are normal; `get_attributes` may be denied permanently, which does no harm"
        do "rises steadily: the warning names the queue's answer (permission, region, clock, network)";
    in_flight: IntGauge() "persistent_cache_in_flight_messages" [] "received and not yet completed"
        read "bounded by `CONSUMERS`, `BATCH_SIZE` and `WORKERS`; at its bound the queue holds the backlog"
        do "stays above 0 while nothing is processed and Redis is up: restart, and report it";
    last_poll: Gauge() "persistent_cache_last_poll_timestamp_seconds" [] "last successful poll of the queue; 0 before the first"
        read "`time() - x` stays below `WAIT_TIME_SECS` plus a few seconds; receiving pauses while Redis is unavailable"
        do "older than two minutes: see `persistent_cache_consumers`";
    last_write: Gauge() "persistent_cache_last_write_timestamp_seconds" [] "last successful write to Redis; 0 before the first"
        read "as old as the last message that changed something; says little where messages are rare"
        do "old while messages are received: see `persistent_cache_writes_skipped_total`";
    consumers: IntGauge() "persistent_cache_consumers" [] "live pollers: they get answers from the queue, or have failed for less than 15 s"
        read "equals `CONSUMERS` when all is well; 0 makes `/readyz` 503"
        do "0: the error in the log names key id, region and remedy";
    redis_up: IntGauge() "persistent_cache_redis_up" [] "1 while Redis answers, else 0"
        read "also 0 if it answers but cannot be written to: a replica, full, loading its data"
        do "0: the error in the log says why; the service continues by itself when Redis is back";
    credentials_expiry: GaugeVec() "persistent_cache_credentials_expiry_timestamp_seconds" [] "when the temporary credentials expire; absent for static ones"
        read "renewed when a sixth of their life is left"
        do "`x - time()` below five minutes: their source refuses or is unavailable; the error in the log quotes it";
    build_info: GaugeVec() "persistent_cache_build_info" ["version", "commit"] "always 1: the labels say which build runs"
        read "two values of a label at once: a rollout is in progress"
        do "nothing";
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
            let value = fields.find(|(field, _)| *field == name)?.1.parse().ok();
            value.filter(|value: &f64| (0.0..=18_446_744_073_709_551_615.0).contains(value)) // 64 bits
        };
        let (hits, misses) = (field("keyspace_hits"), field("keyspace_misses"));
        // Before the first look-up 0, as a ratio of nothing would be NaN.
        let ratio = hits.zip(misses).map(|(hits, misses)| 100.0 * hits / (hits + misses).max(1.0));
        for (gauge, value) in [
            (&self.hits, hits),
            (&self.misses, misses),
            (&self.hit_ratio, ratio),
            (&self.memory_usage, field("used_memory")),
        ] {
            if let Some(value) = value {
                gauge.set(value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One row of the table.
    pub(super) struct Series {
        pub(super) name: &'static str,
        pub(super) type_name: &'static str,
        pub(super) labels: &'static [&'static str],
        pub(super) help: &'static str,
        pub(super) reading: &'static str,
        pub(super) action: &'static str,
    }

    /// As in a `# TYPE` line.
    fn kind_of(type_name: &str) -> &'static str {
        match type_name {
            "IntCounter" | "IntCounterVec" => "counter",
            "Histogram" => "histogram",
            _ => "gauge",
        }
    }

    /// The table of metrics in scripts/prometheus/README.md. Without `process_*`, which is Prometheus's own standard set.
    fn metrics_table() -> String {
        let mut table = String::from(
            "| name | type | what it says | how to read it | what to do |\n|---|---|---|---|---|\n",
        );
        for series in ALL {
            let labels = match series.labels {
                [] => String::new(),
                labels => format!("{{{}}}", labels.join(", ")),
            };
            let name = format!("`{}{labels}`", series.name);
            let cells = [&name, kind_of(series.type_name), series.help, series.reading, series.action];
            table.extend(["| ", &cells.join(" | "), " |\n"]);
        }
        table
    }

    fn lines_of(metrics: &Metrics, name: &str) -> Vec<String> {
        let is_sample = |line: &&str| line.starts_with(name) && !line.starts_with('#');
        metrics.render().lines().filter(is_sample).map(str::to_owned).collect()
    }

    #[test]
    fn every_series_shows_its_help_and_type_from_the_start() {
        let metrics = Metrics::new().unwrap();
        let text = metrics.render();
        for series in ALL {
            let type_line = format!("# TYPE {} {}\n", series.name, kind_of(series.type_name));
            let help_line = format!("# HELP {} {}\n", series.name, series.help);
            let is_for_temporary_credentials =
                series.name == "persistent_cache_credentials_expiry_timestamp_seconds";
            assert_eq!(text.contains(&type_line), !is_for_temporary_credentials, "{type_line}");
            assert_eq!(text.contains(&help_line), !is_for_temporary_credentials, "{help_line}");
        }
    }

    #[test]
    fn nothing_is_exported_that_the_table_does_not_list_but_the_process() {
        let metrics = Metrics::new().unwrap();
        let exported = metrics.registry.gather();
        let unlisted: Vec<_> = exported
            .iter()
            .map(prometheus::proto::MetricFamily::name)
            .filter(|name| ALL.iter().all(|series| series.name != *name))
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

    const BEGIN: &str = "<!-- metrics:begin -->\n";
    const END: &str = "<!-- metrics:end -->";

    /// What stands before, within and after the markers.
    fn split_at_markers(readme: &str) -> (&str, &str, &str) {
        let (before, rest) = readme.split_once(BEGIN).expect("the page has <!-- metrics:begin -->");
        let (block, after) = rest.split_once(END).expect("the page has <!-- metrics:end -->");
        (before, block, after)
    }

    #[test]
    fn the_readme_lists_exactly_the_series_that_are_exported() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/prometheus/README.md");
        let readme = std::fs::read_to_string(path).expect("the page can be read");
        let (before, block, after) = split_at_markers(&readme);
        // Read at compile time (cargo rebuilds when it changes): the running service's environment belongs to
        // config.rs alone.
        if option_env!("UPDATE_README").is_some_and(|value| value == "1") {
            let updated = format!("{before}{BEGIN}{}{END}{after}", metrics_table());
            std::fs::write(path, updated).expect("the page can be written");
        } else {
            assert_eq!(block, metrics_table(), "run the tests with UPDATE_README=1 to rewrite the block");
        }
    }

    #[test]
    fn no_name_is_used_twice_and_no_text_would_break_the_table() {
        let mut names: Vec<_> = ALL.iter().map(|series| series.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), ALL.len());
        for series in ALL {
            for text in [series.help, series.reading, series.action] {
                assert!(!text.contains(['|', '\n']) && !text.is_empty(), "{}", series.name);
            }
        }
    }
}
