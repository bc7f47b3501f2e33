//! Every series the service exports: one field per series, the doc comment is its help text.

use prometheus::{Gauge, GaugeVec, Histogram, IntCounter, IntCounterVec, IntGauge, Registry};

/// All series. Shared by all threads.
#[derive(Debug)]
pub struct Metrics {
    /// The registry that `/metrics` gathers.
    pub registry: Registry,
    /// persistent_cache_write_duration_seconds
    pub write_duration: Histogram,
    /// persistent_cache_write_errors_total
    pub write_errors: IntCounter,
    /// persistent_cache_hit_ratio
    pub hit_ratio: Gauge,
    /// persistent_cache_memory_usage_bytes
    pub memory_usage: Gauge,
    /// persistent_cache_hits_total (a gauge, as documented)
    pub hits: Gauge,
    /// persistent_cache_misses_total (a gauge, as documented)
    pub misses: Gauge,
    /// persistent_cache_message_handling_duration_seconds
    pub message_handling_duration: Histogram,
    /// persistent_cache_messages_processed_total
    pub messages_processed: IntCounter,
    /// persistent_cache_messages_received_total
    pub messages_received: IntCounter,
    /// persistent_cache_messages_ignored_total{type}
    pub messages_ignored: IntCounterVec,
    /// persistent_cache_messages_malformed_total
    pub messages_malformed: IntCounter,
    /// persistent_cache_messages_failed_total{reason}
    pub messages_failed: IntCounterVec,
    /// persistent_cache_writes_skipped_total{reason}
    pub writes_skipped: IntCounterVec,
    /// persistent_cache_message_age_seconds
    pub message_age: Histogram,
    /// persistent_cache_queue_errors_total{operation}
    pub queue_errors: IntCounterVec,
    /// persistent_cache_in_flight_messages
    pub in_flight: IntGauge,
    /// persistent_cache_last_poll_timestamp_seconds
    pub last_poll: Gauge,
    /// persistent_cache_last_write_timestamp_seconds
    pub last_write: Gauge,
    /// persistent_cache_consumers
    pub consumers: IntGauge,
    /// persistent_cache_redis_up
    pub redis_up: IntGauge,
    /// persistent_cache_credentials_expiry_timestamp_seconds: no child, and so no series, for static ones
    pub credentials_expiry: GaugeVec,
}
