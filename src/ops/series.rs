//! The name, type, labels and help text of every series, in the order of the README: stated once, registered
//! from here and printed from here, so that the table cannot say what the service does not export.
//!
//! Names and types of the first eight are Stigg's and are kept exactly, the gauges called `_total` too:
//! dashboards and alerts that exist are written against them.

use std::fmt::Write as _;

/// The type that Prometheus is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Counter,
    Gauge,
    Histogram,
}

impl Kind {
    /// As in a `# TYPE` line.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// One series (or, with labels, one family of them).
#[derive(Debug)]
pub(super) struct Series {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) labels: &'static [&'static str],
    pub(super) help: &'static str,
}

/// Declares each series as a constant and all of them as one list, so that none can be left out of the table.
macro_rules! series {
    ($($constant:ident = $kind:ident $name:literal [$($label:literal),*] $help:literal;)*) => {
        $(pub(super) const $constant: Series =
            Series { name: $name, kind: Kind::$kind, labels: &[$($label),*], help: $help };)*
        /// Every series, in the README's order.
        pub(super) const ALL: &[Series] = &[$($constant),*];
    };
}

series! {
    WRITE_DURATION = Histogram "persistent_cache_write_duration_seconds" []
        "time taken to write to Redis";
    WRITE_ERRORS = Counter "persistent_cache_write_errors_total" []
        "failed Redis writes";
    HIT_RATIO = Gauge "persistent_cache_hit_ratio" []
        "hits as a percentage (0-100) of all key look-ups, from Redis `INFO stats`";
    MEMORY_USAGE = Gauge "persistent_cache_memory_usage_bytes" []
        "Redis `used_memory`";
    HITS = Gauge "persistent_cache_hits_total" []
        "Redis `keyspace_hits`";
    MISSES = Gauge "persistent_cache_misses_total" []
        "Redis `keyspace_misses`";
    MESSAGE_HANDLING_DURATION = Histogram "persistent_cache_message_handling_duration_seconds" []
        "receipt to completion of one message";
    MESSAGES_PROCESSED = Counter "persistent_cache_messages_processed_total" []
        "messages processed";
    MESSAGES_RECEIVED = Counter "persistent_cache_messages_received_total" []
        "received from the queue, redeliveries included";
    MESSAGES_IGNORED = Counter "persistent_cache_messages_ignored_total" ["type"]
        "types that change nothing here; the label is bounded: known names, else `other`";
    MESSAGES_MALFORMED = Counter "persistent_cache_messages_malformed_total" []
        "bodies that could not be read";
    MESSAGES_FAILED = Counter "persistent_cache_messages_failed_total" ["reason"]
        "tries that ended without effect and will come again";
    WRITES_SKIPPED = Counter "persistent_cache_writes_skipped_total" ["reason"]
        "writes that were not due, by reason: `stale`, `policy`, `no_customer`";
    MESSAGE_AGE = Histogram "persistent_cache_message_age_seconds" []
        "SQS SentTimestamp to written: how fresh the cache is";
    QUEUE_ERRORS = Counter "persistent_cache_queue_errors_total" ["operation"]
        "failed calls to the queue: `receive`, `delete`, `change_visibility`, `get_attributes`";
    IN_FLIGHT = Gauge "persistent_cache_in_flight_messages" []
        "received and not yet settled";
    LAST_POLL = Gauge "persistent_cache_last_poll_timestamp_seconds" []
        "last successful poll of the queue; 0 before the first";
    LAST_WRITE = Gauge "persistent_cache_last_write_timestamp_seconds" []
        "last successful write to Redis; 0 before the first";
    CONSUMERS = Gauge "persistent_cache_consumers" []
        "live pollers: they get answers from the queue, or have failed for less than 15 s";
    REDIS_UP = Gauge "persistent_cache_redis_up" []
        "1 while Redis answers, else 0";
    CREDENTIALS_EXPIRY = Gauge "persistent_cache_credentials_expiry_timestamp_seconds" []
        "when the temporary credentials expire; absent for static ones";
    BUILD_INFO = Gauge "persistent_cache_build_info" ["version", "commit"]
        "always 1: the labels tell what runs";
}

/// The README's table of series (name with labels, type, meaning) as Markdown, one line a series, ending in a
/// line break. Without `process_*`, which is Prometheus's own standard set.
pub fn metrics_table() -> String {
    let mut table = String::from("| name | type | meaning |\n|---|---|---|\n");
    for Series {
        name,
        kind,
        labels,
        help,
    } in ALL
    {
        let labels = if labels.is_empty() {
            String::new()
        } else {
            format!("{{{}}}", labels.join(", "))
        };
        // Writing to a String cannot fail.
        let _ = writeln!(table, "| `{name}{labels}` | {} | {help} |", kind.as_str());
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEGIN: &str = "<!-- metrics:begin -->\n";
    const END: &str = "<!-- metrics:end -->";

    /// What stands before, within and after the markers.
    fn split_at_markers(readme: &str) -> (&str, &str, &str) {
        let (before, rest) = readme
            .split_once(BEGIN)
            .expect("README.md has <!-- metrics:begin -->");
        let (block, after) = rest.split_once(END).expect("README.md has <!-- metrics:end -->");
        (before, block, after)
    }

    #[test]
    fn the_readme_lists_exactly_the_series_that_are_exported() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/README.md");
        let readme = std::fs::read_to_string(path).expect("README.md can be read");
        let (before, block, after) = split_at_markers(&readme);
        // Read at compile time (cargo rebuilds when it changes): the running service's environment belongs to
        // config.rs alone.
        if option_env!("UPDATE_README").is_some_and(|value| value == "1") {
            let updated = format!("{before}{BEGIN}{}{END}{after}", metrics_table());
            std::fs::write(path, updated).expect("README.md can be written");
        } else {
            assert_eq!(
                block,
                metrics_table(),
                "run the tests with UPDATE_README=1 to rewrite the block"
            );
        }
    }

    #[test]
    fn no_name_is_used_twice_and_no_help_text_would_break_the_table() {
        let mut names: Vec<_> = ALL.iter().map(|series| series.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), ALL.len());
        for series in ALL {
            assert!(
                !series.help.contains(['|', '\n']) && !series.help.is_empty(),
                "{}",
                series.name
            );
        }
    }
}
