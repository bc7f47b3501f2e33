//! The name, type, labels and help text of every series, how to read it and what to do about it, in the order of
//! the README: stated once, registered from here and printed from here, so that the table cannot say what the service
//! does not export.
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
    /// What it says, as in a `# HELP` line.
    pub(super) help: &'static str,
    /// How to read it.
    reading: &'static str,
    /// What to do about it, and when.
    action: &'static str,
}

/// Declares each series as a constant and all of them as one list, so that none can be left out of the table. Below
/// the name: what it says (its help text), how to read it, what to do.
macro_rules! series {
    ($($constant:ident = $kind:ident $name:literal [$($label:literal),*]
        $help:literal
        read $reading:literal
        do $action:literal;)*) => {
        $(pub(super) const $constant: Series = Series {
            name: $name,
            kind: Kind::$kind,
            labels: &[$($label),*],
            help: $help,
            reading: $reading,
            action: $action,
        };)*
        /// Every series, in the README's order.
        pub(super) const ALL: &[Series] = &[$($constant),*];
    };
}

series! {
    WRITE_DURATION = Histogram "persistent_cache_write_duration_seconds" []
        "time taken to write to Redis"
        read "one round trip, which may carry many messages; a few milliseconds where Redis is near"
        do "rises: Redis or the way to it is slow, look at its `SLOWLOG` and CPU";
    WRITE_ERRORS = Counter "persistent_cache_write_errors_total" []
        "failed Redis writes"
        read "each is tried again, so a burst while Redis restarts is no loss"
        do "goes on: the error line of the log says why and what helps";
    HIT_RATIO = Gauge "persistent_cache_hit_ratio" []
        "hits as a percentage (0-100) of all key look-ups, from Redis `INFO stats`"
        read "of the whole server and since its start: also of other users of this Redis, and of this service's own look-ups"
        do "falls over days: keys expire before they are read (`KEYS_TTL_IN_SECS`) or are evicted (`maxmemory`)";
    MEMORY_USAGE = Gauge "persistent_cache_memory_usage_bytes" []
        "Redis `used_memory`"
        read "of the whole server"
        do "near its `maxmemory`: more memory, or a shorter `KEYS_TTL_IN_SECS`; a full Redis refuses writes";
    HITS = Gauge "persistent_cache_hits_total" []
        "Redis `keyspace_hits`"
        read "a gauge by name only: it counts up, and from 0 when Redis restarts, so `rate()` works"
        do "nothing by itself";
    MISSES = Gauge "persistent_cache_misses_total" []
        "Redis `keyspace_misses`"
        read "as the hits; an SDK that misses asks Stigg"
        do "rises against the hits: as for `persistent_cache_hit_ratio`";
    MESSAGE_HANDLING_DURATION = Histogram "persistent_cache_message_handling_duration_seconds" []
        "receipt to completion of one message"
        read "waiting for a worker, for a reader's lock (up to 5 s, a purge up to 60 s) and for Redis included"
        do "far above the write duration: raise `WORKERS`, or many SDKs refetch at once";
    MESSAGES_PROCESSED = Counter "persistent_cache_messages_processed_total" []
        "messages processed"
        read "handled and to be deleted from the queue, those that changed nothing too"
        do "below `received` for long: look at the failed and the malformed";
    MESSAGES_RECEIVED = Counter "persistent_cache_messages_received_total" []
        "received from the queue, redeliveries included"
        read "its rate is the load of this instance"
        do "0 while Stigg shows changes: another consumer takes them, or it is another queue";
    MESSAGES_IGNORED = Counter "persistent_cache_messages_ignored_total" ["type"]
        "types that change nothing here; the label is bounded: known names, else `other`"
        read "normal: a queue may carry every event of the environment. A type appears with its first message"
        do "`other` rises: Stigg sends a type that this version does not know; see the changelog of a newer one";
    MESSAGES_MALFORMED = Counter "persistent_cache_messages_malformed_total" []
        "bodies that could not be read"
        read "with `POISON_POLICY=redrive` each receipt of such a message counts"
        do "above 0: the warning has the message id and the place of the fault; look at the dead-letter queue";
    IMPLAUSIBLE_TIMESTAMPS = Counter "persistent_cache_implausible_timestamps_total" []
        "timestamps in messages that cannot be true: more than an hour ahead, or before 2015"
        read "such a timestamp is ignored and the next source is used; 0 is normal"
        do "above 0: the warning has the message id; the sender's clock or its unit (seconds instead of milliseconds) is wrong";
    MESSAGES_FAILED = Counter "persistent_cache_messages_failed_total" ["reason"]
        "tries that ended without effect and will come again"
        read "`redis`: tried again in place, counted for each try of a message (the log's `failed_tries` counts probes, too); `malformed`: left to the dead-letter rule; `expired`: the receipt handle \
              outlived its time; `other`: one change was refused; `panic`: a defect"
        do "`redis`: as for the write errors; `other`: the error line names the cause; `panic`: report it";
    WRITES_SKIPPED = Counter "persistent_cache_writes_skipped_total" ["reason"]
        "writes that were not due, by reason: `stale`, `policy`, `no_customer`"
        read "`stale`: something newer is stored; `policy`: the customer is not in the cache and `UPDATE_IF_EXISTS` holds; \
              `no_customer`: the same for a usage"
        do "nearly all are `policy` or `no_customer`: check that `ENVIRONMENT_PREFIX` and the Redis are those of the SDKs";
    MESSAGE_AGE = Histogram "persistent_cache_message_age_seconds" []
        "SQS SentTimestamp to written: how fresh the cache is"
        read "the one to watch: a backlog and an outage show here. Clocks that differ show here, too"
        do "p99 above what you can bear: more instances, `BATCH_SIZE=10`, or a Redis nearer by";
    QUEUE_ERRORS = Counter "persistent_cache_queue_errors_total" ["operation"]
        "failed calls to the queue: `receive`, `delete`, `change_visibility`, `get_attributes`"
        read "single ones are normal; `get_attributes` may be denied for good, which costs nothing"
        do "rises steadily: the warning names the queue's answer (permission, region, clock, network)";
    IN_FLIGHT = Gauge "persistent_cache_in_flight_messages" []
        "received and not yet settled"
        read "bounded by `CONSUMERS`, `BATCH_SIZE` and `WORKERS`; at its bound the queue holds the backlog"
        do "stands above 0 while nothing is processed and Redis is up: restart, and report it";
    LAST_POLL = Gauge "persistent_cache_last_poll_timestamp_seconds" []
        "last successful poll of the queue; 0 before the first"
        read "`time() - x` stays below `WAIT_TIME_SECS` and a little; receiving pauses while Redis is away"
        do "older than two minutes: as for `persistent_cache_consumers`";
    LAST_WRITE = Gauge "persistent_cache_last_write_timestamp_seconds" []
        "last successful write to Redis; 0 before the first"
        read "as old as the last message that changed something; says nothing where few come"
        do "old while messages are received: look at what was skipped, and why";
    CONSUMERS = Gauge "persistent_cache_consumers" []
        "live pollers: they get answers from the queue, or have failed for less than 15 s"
        read "equals `CONSUMERS` when all is well; 0 makes `/readyz` 503"
        do "0: the error line names key id, region and remedy";
    REDIS_UP = Gauge "persistent_cache_redis_up" []
        "1 while Redis answers, else 0"
        read "0 as well where it answers and cannot be written to: a replica, full, loading its data"
        do "0: the error line says why; the service goes on by itself when it is back";
    CREDENTIALS_EXPIRY = Gauge "persistent_cache_credentials_expiry_timestamp_seconds" []
        "when the temporary credentials expire; absent for static ones"
        read "renewed when a sixth of their life is left"
        do "`x - time()` below five minutes: their source refuses or is away, the error line has its words";
    BUILD_INFO = Gauge "persistent_cache_build_info" ["version", "commit"]
        "always 1: the labels tell what runs"
        read "two values of a label at once: a rollout is under way"
        do "nothing";
}

/// The README's table of series as Markdown, one line a series, ending in a line break. Without `process_*`, which is
/// Prometheus's own standard set.
pub fn metrics_table() -> String {
    let mut table =
        String::from("| name | type | what it says | how to read it | what to do |\n|---|---|---|---|---|\n");
    for series in ALL {
        let labels = if series.labels.is_empty() {
            String::new()
        } else {
            format!("{{{}}}", series.labels.join(", "))
        };
        // Writing to a String cannot fail.
        let _ = writeln!(
            table,
            "| `{}{labels}` | {} | {} | {} | {} |",
            series.name,
            series.kind.as_str(),
            series.help,
            series.reading,
            series.action
        );
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
