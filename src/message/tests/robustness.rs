//! Whatever a queue may hold: nothing panics, and a fault never tells what a body held.

use super::super::{Event, Message, decode};
use super::{SAMPLES, SENT_AT, described_text};
use crate::entitlement::stored::{CacheFormat, entitlements_json, usage_json};

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
    let length = bytes[start..].iter().position(|byte| matches!(byte, b',' | b'\n' | b'}')).unwrap_or(0);
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
        let Ok(Message { event, .. }) = decode(&body, SENT_AT) else {
            refused += 1;
            continue;
        };
        understood += 1;
        for format in [CacheFormat::Compatible, CacheFormat::V3, CacheFormat::V4] {
            let json = match &event {
                Event::EntitlementsUpdated(updated) => entitlements_json(&updated.entitlements, format),
                Event::UsageUpdated(updated) => usage_json(&updated.usage, format),
                Event::Purged(_) | Event::EnvironmentInvalidated | Event::Ignored { .. } => continue,
            };
            let stored: serde_json::Value = serde_json::from_str(&json).unwrap();
            assert!(stored.is_object(), "{stored}");
        }
    }
    // Both roads were taken often enough to say something of each.
    assert!(understood > 500 && refused > 500, "{understood} understood, {refused} refused");
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

/// The most bytes that decoding holds at one time, its result included.
fn peak(body: &str) -> u64 {
    allocation_counter::measure(|| drop(std::hint::black_box(decode(body, SENT_AT)))).bytes_max
}

#[test]
fn a_migration_of_90_000_customers_takes_six_times_its_length() {
    let ids: Vec<_> = (0..90_000).map(|number| format!("\"c-{number:06}\"")).collect();
    let body = format!(r#"{{"type":"SUBSCRIPTIONS_MIGRATED","customerIds":[{}]}}"#, ids.join(","));
    let Event::Purged(subjects) = decode(&body, SENT_AT).unwrap().event else {
        panic!("not a purge");
    };
    assert_eq!(subjects.len(), 90_000);
    let (peak, length) = (peak(&body), body.len() as u64);
    assert!(peak <= 6 * length, "{peak} for {length}");
}

#[test]
fn what_costs_more_than_its_length_is_not_kept() {
    const LENGTH: usize = 1024 * 1024;
    // As the fuzzer has it.
    const TIMES_MAX: u64 = 48;
    let list = |value: &str| format!("[{}0]", format!("{value},").repeat(LENGTH / (value.len() + 1)));
    for value in ["0", "[]", "{}", "[0]", r#"{"":0}"#, r#""""#, r#"{"feature":{}}"#, r#"{"data":{}}"#] {
        let passed_on = format!(
            r#"{{"type":"entitlements.updated","customerId":"c","entitlements":[{{"feature":{{"id":"f"}},"enumValues":{}}}]}}"#,
            list(value)
        );
        assert!(decode(&passed_on, SENT_AT).is_ok(), "{value}");
        let entries =
            format!(r#"{{"type":"entitlements.updated","customerId":"c","entitlements":{}}}"#, list(value));
        let ignored = format!(r#"{{"type":"COUPON_CREATED","data":{{"x":{}}}}}"#, list(value));
        for body in [passed_on, entries, ignored] {
            let used = peak(&body);
            assert!(used < TIMES_MAX * LENGTH as u64, "{used} for {value}");
        }
    }
}

#[test]
fn the_smallest_entries_take_a_bounded_multiple_of_their_length() {
    for entry in [r#"{"feature":{"id":"00000"}}"#, r#"{"currencyId":"00000"}"#] {
        let entries: Vec<_> =
            (0..40_000).map(|index| entry.replace("00000", &format!("{index:x}"))).collect();
        let body = format!(
            r#"{{"type":"entitlements.updated","customerId":"c","entitlements":[{}]}}"#,
            entries.join(",")
        );
        let (peak, length) = (peak(&body), body.len() as u64);
        assert!(peak < 48 * length, "{peak} for {length}");
    }
}

#[test]
fn notifications_inside_one_another_are_bounded_whatever_their_escapes_cost() {
    let mut body = r#"{"type":"UsageUpdated","customerId":"c","featureId":"f","currentUsage":1}"#.to_owned();
    let (mut described, before, behind) = (Vec::new(), r#"{"payload":"#.repeat(30), "}".repeat(30));
    while body.len() < 1_000_000 {
        described.push(described_text(&body));
        // Other escapes double with each notification, these grow by five bytes.
        let message = body.replace('\\', r"\u005c").replace('"', r"\u0022");
        // The path would be too long to be kept.
        body = format!(r#"{before}{{"Type":"Notification","Message":"{message}"}}{behind}"#);
    }
    assert!(described.len() > 20, "{}", described.len());
    let (text, deep) = ("x".repeat(900_000), "[".repeat(120) + &"]".repeat(120));
    let mut body = format!(r#"{{"type":"COUPON_CREATED","text":"{text}","deep":{deep}}}"#);
    for _ in 0..8 {
        body = serde_json::json!({"Type": "Notification", "Message": body}).to_string();
    }
    let (peak, length) = (peak(&body), body.len() as u64);
    assert!(peak < 48 * length, "{peak} for {length}");
    let (read, refused) = described.split_at(9);
    assert!(read.iter().all(|text| text == "c used 1 of f at 1795200000000"), "{read:?}");
    assert!(refused.iter().all(|text| text.contains("more than 8 notifications inside one another")));
}

#[test]
fn half_an_emoji_anywhere_becomes_the_replacement_character() {
    let usage = |id: &str, more: &str| {
        format!(r#"{{"type":"UsageUpdated","customerId":"{id}","featureId":"f","currentUsage":1{more}}}"#)
    };
    for ignored in [r#","note":"\ud83d""#, r#","note":[{"\udc00":"\ud83d\ud83d"}]"#] {
        assert_eq!(described_text(&usage("c", ignored)), "c used 1 of f at 1795200000000");
    }
    let body = usage(r"half\ud83d", "");
    assert_eq!(described_text(&body), "half\u{fffd} used 1 of f at 1795200000000");
    let whole = usage(r"\ud83d\ude00", "");
    assert_eq!(described_text(&whole), "\u{1f600} used 1 of f at 1795200000000");
    // Inside the text of an SNS message, escaped with it and beside it.
    let sns = |message: &str| format!(r#"{{"Type":"Notification","Message":"{message}"}}"#);
    let twice_escaped = sns(&body.replace('\\', r"\\").replace('"', "\\\""));
    assert_eq!(described_text(&twice_escaped), "half\u{fffd} used 1 of f at 1795200000000");
    let once_escaped = sns(&body.replace('"', "\\\""));
    assert_eq!(described_text(&once_escaped), "half\u{fffd} used 1 of f at 1795200000000");
    // Other invalid JSON stays malformed.
    assert_eq!(
        described_text(&usage(r"\ud83d", r#","x":"\uzzzz""#)),
        "malformed: body: not JSON: invalid escape at line 1 column 89"
    );
}

#[test]
fn half_an_emoji_in_a_passed_on_value_is_replaced_too() {
    let body = r#"{"type":"entitlements.updated","customerId":"c","entitlements":[{"feature":{"id":"f"},"enumValues":["\ud83d"]}]}"#;
    let Event::EntitlementsUpdated(updated) = decode(body, SENT_AT).unwrap().event else {
        panic!("not a list");
    };
    assert!(entitlements_json(&updated.entitlements, CacheFormat::V4).contains("[\"\u{fffd}\"]"));
}

#[test]
fn of_a_repeated_field_the_last_counts() {
    for body in [
        r#"{"type":"UsageUpdated","customerId":"a","customerId":"c","featureId":"f","currentUsage":1}"#,
        r#"{"type":"UsageUpdated","data":{"customerId":"a"},"data":{"customerId":"c","featureId":"f","currentUsage":1}}"#,
        r#"{"type":"COUPON_CREATED","type":"UsageUpdated","customerId":{},"customerId":"c","feature":{"id":"g","id":"f"},"currentUsage":1}"#,
    ] {
        assert_eq!(described_text(body), "c used 1 of f at 1795200000000");
    }
}

#[test]
fn an_event_without_effect_may_hold_anything() {
    for odd in ["5", "\"text\"", "[[]]", "{\"id\":5}", "1e3"] {
        for field in
            ["customer", "entitlements", "feature", "usage", "customers", "payload", "id", "timestamp"]
        {
            let body = format!(r#"{{"type":"COUPON_CREATED","{field}":{odd}}}"#);
            assert_eq!(described_text(&body), "ignored COUPON_CREATED", "{body}");
        }
    }
}
