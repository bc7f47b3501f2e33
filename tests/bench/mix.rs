//! The messages of a run: each is made from its number alone, so that the number determines what the
//! message leaves in Redis. Nothing is stored for it.
//!
//! What differs between two messages of a kind is at the end of the body. That costs a reader nothing (fields come in
//! any order), and the text and the MD5 of all that comes before are computed once.

use std::fmt::Write;

use clap::{Args, ValueEnum};
use md5::{Digest, Md5};

/// `ENVIRONMENT_PREFIX` of every run.
pub const PREFIX: &str = "production";
/// 2026-11-01T00:00:00Z: what was there before the first message was true then.
pub const BASE_MS: u64 = 1_793_491_200_000;
/// Every so many messages, one is of a probe: a customer whose writes are watched for in Redis.
pub const PROBE_EVERY: u64 = 50;
/// What a metered feature that nothing is new about has used.
pub const STEADY_USAGE: u64 = 7;

const DAY_MS: u64 = 86_400_000;

/// Which messages a queue holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// `measurement.reported` alone.
    Usage,
    /// `entitlements.updated` alone.
    Entitlements,
    /// Eight of ten are usages, two are entitlements.
    Mixed,
}

/// What the messages are about.
#[derive(Debug, Clone, Args)]
pub struct Mix {
    /// Which messages.
    #[arg(long = "mix", value_enum, default_value = "usage")]
    pub kind: Kind,
    /// Features of each customer; every second one is metered.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    pub features: u64,
    /// Customers that the messages are of, beside the probes.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub customers: u64,
    /// How many probes take turns: so many that the message of one is written long before it gets the next.
    #[arg(long, default_value_t = 400)]
    pub probes: u64,
}

/// Whose state is in a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Customer {
    Ordinary(u64),
    Probe(u64),
}

/// What a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sort {
    /// One feature's usage.
    Usage {
        feature: u64,
    },
    Entitlements,
}

impl std::fmt::Display for Customer {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Ordinary(number) => write!(formatter, "customer-{number}"),
            Self::Probe(number) => write!(formatter, "probe-{number}"),
        }
    }
}

impl Customer {
    /// The customer key.
    pub fn key(self) -> String {
        format!("{PREFIX}:c_{self}")
    }

    /// The key of a feature's usage.
    pub fn usage_key(self, feature: u64) -> String {
        format!("{PREFIX}:c_{self}:f_feature-{feature}")
    }
}

impl Mix {
    /// Whose and what the message of this number is.
    pub fn message(&self, number: u64) -> (Customer, Sort) {
        let chance = scattered(number);
        let probe = self.probe(number);
        let customer = probe.map_or(Customer::Ordinary(chance % self.customers), Customer::Probe);
        let is_usage = match self.kind {
            Kind::Usage => true,
            Kind::Entitlements => false,
            Kind::Mixed => (chance >> 32) % 10 < 8,
        };
        let sort = if is_usage {
            // A probe is watched by its first feature.
            let metered = if probe.is_some() { 0 } else { (chance >> 40) % self.metered() };
            Sort::Usage { feature: 2 * metered }
        } else {
            Sort::Entitlements
        };
        (customer, sort)
    }

    /// Which probe the message is of, if it is of one.
    pub fn probe(&self, number: u64) -> Option<u64> {
        let is_of_one = self.probes > 0 && number.is_multiple_of(PROBE_EVERY);
        is_of_one.then(|| number / PROBE_EVERY % self.probes)
    }

    /// How many features have a usage: 0, 2, 4 …
    pub fn metered(&self) -> u64 {
        self.features.div_ceil(2)
    }

    /// Everyone that messages may be of.
    pub fn everyone(&self) -> impl Iterator<Item = Customer> {
        let ordinary = (0..self.customers).map(Customer::Ordinary);
        ordinary.chain((0..self.probes).map(Customer::Probe))
    }
}

/// When the state in a message was true: later for each number.
pub fn moment_ms(number: u64) -> u64 {
    BASE_MS + 1 + number
}

/// The usage in a message.
pub fn usage_of(number: u64) -> u64 {
    number + 1
}

/// Neighbouring numbers become numbers far apart (the mixer of splitmix64).
pub fn scattered(number: u64) -> u64 {
    let mut mixed = number.wrapping_add(0x9E37_79B9_7F4A_7C15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^ (mixed >> 31)
}

/// Text that many messages begin with.
struct Beginning {
    escaped: String,
    md5: Md5,
}

impl Beginning {
    fn new(text: &str) -> Self {
        Self { escaped: text.replace('"', "\\\""), md5: Md5::new_with_prefix(text.as_bytes()) }
    }
}

/// Writes the bodies.
pub struct Bodies {
    pub mix: Mix,
    usage: Beginning,
    entitlements: Beginning,
}

impl Bodies {
    pub fn new(mix: Mix) -> Self {
        let mut entitlements = String::from(
            r#"{"messageId":"ce2605be-8eed-41cf-912c-def052682dbe","traceId":"49146c12-8af0-44ff-a666-1f46255aecd8","type":"entitlements.updated","trigger":"subscription_updated","entitlements":["#,
        );
        // The first feature comes last: it is the one whose usage differs.
        for feature in (1..mix.features).rev() {
            push_entitlement(&mut entitlements, feature, STEADY_USAGE);
            entitlements.push(',');
        }
        Self {
            mix,
            usage: Beginning::new(
                r#"{"type":"measurement.reported","messageId":"a6ce24ad-0000-4000-8000-000000000004","traceId":"549a0000","currentChange":1,"usageUsedPercentage":43,"hasUnlimitedUsage":false,"usageLimit":1000000000,"usagePeriodAnchor":"2026-01-01T00:00:00.000Z","usagePeriodStart":"2026-11-01T00:00:00.000Z","usagePeriodEnd":"2026-12-01T00:00:00.000Z","resetPeriod":"MONTH","resetPeriodConfiguration":{"accordingTo":"SubscriptionStart"},"resource":null,"activeSubscriptions":[],"#,
            ),
            entitlements: Beginning::new(&entitlements),
        }
    }

    /// The length of the longest body.
    pub fn bytes_of_the_longest(&self) -> usize {
        let longest = (0..100).map(|number| {
            let mut json = String::new();
            self.push_json(number, &mut json);
            serde_json::from_str::<String>(&json).expect("a JSON string").len()
        });
        longest.max().unwrap_or_default()
    }

    /// Appends the body as a JSON text, quotes included, and returns its MD5.
    pub fn push_json(&self, number: u64, out: &mut String) -> [u8; 16] {
        let (customer, sort) = self.mix.message(number);
        let mut end = String::with_capacity(1024);
        let beginning = match sort {
            Sort::Usage { feature } => {
                push_usage(&mut end, customer, feature, number);
                &self.usage
            }
            Sort::Entitlements => {
                push_entitlement(&mut end, 0, usage_of(number));
                end.push_str("],");
                push_end(&mut end, customer, number);
                &self.entitlements
            }
        };
        out.push('"');
        out.push_str(&beginning.escaped);
        for part in end.split_inclusive('"') {
            match part.strip_suffix('"') {
                Some(text) => {
                    out.push_str(text);
                    out.push_str("\\\"");
                }
                None => out.push_str(part),
            }
        }
        out.push('"');
        let mut md5 = beginning.md5.clone();
        md5.update(end.as_bytes());
        md5.finalize().into()
    }
}

fn push_usage(out: &mut String, customer: Customer, feature: u64, number: u64) {
    let usage = usage_of(number);
    let _ = write!(
        out,
        r#""currentUsage":{usage},"feature":{{"id":"feature-{feature}","name":"Feature {feature}","unit":"call","units":"calls","description":null,"featureType":"NUMBER","meterType":"INCREMENTAL","status":"ACTIVE"}},"#
    );
    push_end(out, customer, number);
}

fn push_end(out: &mut String, customer: Customer, number: u64) {
    let _ = write!(
        out,
        r#""customer":{{"entityId":"9b8f7a54-0000-4000-8000-000000000001","id":"{customer}","name":"Demo","email":"demo@example.com","billingId":null}},"resource":null,"timestamp":""#
    );
    push_iso(out, moment_ms(number));
    out.push_str("\"}");
}

/// Even ones are metered; of the others every second is a switch and every second a limit.
fn push_entitlement(out: &mut String, feature: u64, usage: u64) {
    let (feature_type, meter, unit, usage_limit, usage, period) = match feature % 4 {
        0 | 2 => (
            "NUMBER",
            "\"INCREMENTAL\"",
            r#""call","units":"calls""#,
            "1000000000",
            usage.to_string(),
            r#""usagePeriodAnchor":"2026-01-01T00:00:00.000Z","usagePeriodStart":"2026-11-01T00:00:00.000Z","usagePeriodEnd":"2026-12-01T00:00:00.000Z","resetPeriod":"MONTH","resetPeriodConfiguration":{"accordingTo":"SubscriptionStart"}"#,
        ),
        1 => ("BOOLEAN", "null", r#"null,"units":null"#, "null", "null".to_owned(), NO_PERIOD),
        _ => ("NUMBER", "\"NONE\"", r#""seat","units":"seats""#, "25", "null".to_owned(), NO_PERIOD),
    };
    let _ = write!(
        out,
        r#"{{"feature":{{"entityId":"4ff99f8c-0000-4000-8000-{feature:012}","id":"feature-{feature}","name":"Feature {feature}","description":"","featureType":"{feature_type}","meterType":{meter},"unit":{unit},"status":"ACTIVE","enumConfiguration":null}},"usageLimit":{usage_limit},"hasUnlimitedUsage":false,"hasSoftLimit":false,"currentUsage":{usage},{period},"enumValues":null,"creditBalance":null}}"#
    );
}

const NO_PERIOD: &str = r#""usagePeriodAnchor":null,"usagePeriodStart":null,"usagePeriodEnd":null,"resetPeriod":null,"resetPeriodConfiguration":null"#;

/// A moment of November 2026; runs are far shorter than the month.
fn push_iso(out: &mut String, at_ms: u64) {
    let since = at_ms - BASE_MS;
    let (day, of_day) = (1 + since / DAY_MS, since % DAY_MS);
    let (hour, minute) = (of_day / 3_600_000, of_day / 60_000 % 60);
    let (second, ms) = (of_day / 1_000 % 60, of_day % 1_000);
    let _ = write!(out, "2026-11-{day:02}T{hour:02}:{minute:02}:{second:02}.{ms:03}Z");
}
