//! Whatever a queue may hold: nothing panics, and a fault never tells what a body held.

use super::super::{Event, decode};
use super::{SAMPLES, SENT_AT};
use crate::entitlement::stored::{CacheFormat, entitlements_json, usage_json};
use crate::json::values_plausible;

/// A small generator with a fixed seed: a failure can be run again.
struct Xorshift(u64);

impl Xorshift {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % bound as u64).unwrap()
    }
}

/// Pieces that turn one kind of value into another, or break the syntax.
const PIECES: [&str; 20] = [
    "null",
    "true",
    "0",
    "-1e308",
    "1e999",
    "18446744073709551616",
    "\"\"",
    "\"x\"",
    "[]",
    "{}",
    "{",
    "}",
    "[",
    "]",
    "\"",
    "\\",
    ",",
    ":",
    "\\ud800",
    "\u{feff}",
];

fn mutated(random: &mut Xorshift, body: &str) -> String {
    let mut bytes = body.as_bytes().to_vec();
    for _ in 0..=random.below(4) {
        let start = random.below(bytes.len() + 1);
        let end = (start + random.below(12)).min(bytes.len());
        match random.below(4) {
            0 => drop(bytes.drain(start..end)),
            1 => drop(bytes.splice(start..end, PIECES[random.below(PIECES.len())].bytes())),
            2 => {
                let copy = bytes[start..end].to_vec();
                let at = random.below(bytes.len() + 1);
                bytes.splice(at..at, copy);
            }
            _ => replace_a_value(random, &mut bytes),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Replaces what follows a colon up to the next comma or line: the result is often JSON again, of another shape.
fn replace_a_value(random: &mut Xorshift, bytes: &mut Vec<u8>) {
    let colons: Vec<usize> = (0..bytes.len()).filter(|at| bytes[*at] == b':').collect();
    if colons.is_empty() {
        return;
    }
    let start = colons[random.below(colons.len())] + 1;
    let length = bytes[start..]
        .iter()
        .position(|byte| matches!(byte, b',' | b'\n' | b'}'))
        .unwrap_or(0);
    let piece = PIECES[random.below(10)];
    drop(bytes.splice(start..start + length, piece.bytes()));
}

#[test]
fn no_mutation_of_a_sample_panics_and_what_is_understood_can_be_stored() {
    let mut random = Xorshift(0x5EED_CAFE_F00D_0001);
    let mut understood = 0;
    let mut refused = 0;
    for round in 0..6_000 {
        let body = mutated(&mut random, SAMPLES[round % SAMPLES.len()].1);
        let Ok(event) = decode(&body, SENT_AT) else {
            refused += 1;
            continue;
        };
        understood += 1;
        for format in [CacheFormat::Compatible, CacheFormat::V3, CacheFormat::V4] {
            let json = match &event {
                Event::EntitlementsUpdated(updated) => entitlements_json(&updated.entitlements, format),
                Event::UsageUpdated(updated) => usage_json(&updated.measured.usage, format),
                Event::Purged(_) | Event::EnvironmentInvalidated | Event::Ignored { .. } => continue,
            };
            let stored: serde_json::Value = serde_json::from_str(&json).unwrap();
            assert!(stored.is_object(), "{stored}");
        }
    }
    // Both roads were taken often enough to say something of each.
    assert!(
        understood > 500 && refused > 500,
        "{understood} understood, {refused} refused"
    );
}

#[test]
fn a_fault_never_tells_what_the_body_held() {
    let mut random = Xorshift(0x5EED_CAFE_F00D_0002);
    for round in 0..3_000 {
        // Any text of the samples that is a customer's carries one of these.
        let body = mutated(&mut random, SAMPLES[round % SAMPLES.len()].1);
        if let Err(fault) = decode(&body, SENT_AT) {
            let fault = fault.to_string();
            for content in ["demo", "example.com", "feature-", "cred-type", "2026", "Storage"] {
                assert!(!fault.contains(content), "{fault}");
            }
        }
    }
}

#[test]
fn a_body_of_more_values_than_a_message_can_have_is_refused_before_it_takes_memory() {
    let values = "[0],".repeat(50_000);
    let body = format!(r#"{{"type":"SUBSCRIPTIONS_MIGRATED","customerIds":[{values}0]}}"#);
    let fault = decode(&body, SENT_AT).unwrap_err();
    assert_eq!(
        fault.to_string(),
        "body: holds more values than its length allows"
    );
    let ids = r#""id-01","#.repeat(100_000);
    let body = format!(r#"{{"type":"SUBSCRIPTIONS_MIGRATED","customerIds":[{ids}"id-02"]}}"#);
    assert!(matches!(decode(&body, SENT_AT), Ok(Event::Purged(subjects)) if subjects.len() == 2));
}

#[test]
fn what_is_read_twice_and_passed_on_takes_memory_once() {
    const LENGTH: usize = 1024 * 1024;
    // Of a body's length, as the fuzzer has it too.
    const TIMES_MAX: u64 = 48;
    for object in [r#"{"":0,"":0,"":0,"":0,"":0}"#, r#"{"":0}"#] {
        let count = (values_plausible(LENGTH) - 20) / (1 + object.matches(':').count());
        let objects: Vec<_> = (0..count).map(|index| format!(r#""{index}":{object}"#)).collect();
        // The name with an escape makes the whole body an unusual one, at its very end.
        let mut body = format!(
            r#"{{"type":"entitlements.updated","customerId":"c","entitlements":[{{"feature":{{"id":"f"}},"resetPeriodConfiguration":{{{}}}}}],"\u0061":1}}"#,
            objects.join(",")
        );
        body.push_str(&" ".repeat(LENGTH - body.len()));
        let used = allocation_counter::measure(|| drop(decode(&body, SENT_AT).unwrap()));
        let allowed = TIMES_MAX * LENGTH as u64;
        assert!(used.bytes_max < allowed, "{} of {allowed}", used.bytes_max);
    }
}
