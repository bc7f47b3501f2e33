//! Inputs that are made to cost: depth, width, length, and envelopes inside one another.

use fastrand::Rng;

use super::json::{Node, Samples, quoted, wrapped};

/// How large such an input is: an SQS message may have 1 MiB.
fn size(rng: &mut Rng) -> usize {
    match rng.u32(..100) {
        0 => 1024 * 1024,
        1..8 => 64 * 1024 + rng.usize(..64 * 1024),
        _ => rng.usize(..16 * 1024),
    }
}

/// One of them. `samples` gives the keys under which it is put, so that it gets past the door.
pub fn input(rng: &mut Rng, samples: &Samples) -> Vec<u8> {
    let size = size(rng);
    let cost = match rng.u32(..9) {
        0 => deep(rng, size),
        1 => wide(rng, samples, size),
        2 => keys(rng, samples, size),
        3 => entries(rng, samples, size),
        4 => text(rng, size),
        5 => b"9".repeat(size),
        6 => [b"0.".as_slice(), &b"0".repeat(size), b"1"].concat(),
        7 => return envelopes(rng, samples),
        _ => b"[\xEF\xBB\xBF".repeat(size / 4),
    };
    if rng.u32(..4) == 0 {
        return cost;
    }
    // In the place of something that is looked for.
    let mut tree = samples.pick(rng).clone();
    if let Node::Object(fields) = &mut tree {
        let key = samples.key(rng);
        fields.insert(rng.usize(..=fields.len()), (key, Node::Leaf(cost)));
    }
    tree.rendered()
}

fn deep(rng: &mut Rng, size: usize) -> Vec<u8> {
    match rng.u32(..3) {
        0 => b"[".repeat(size),
        1 => b"{\"a\":".repeat(size / 5),
        _ => {
            let depth = size / 2;
            [b"[".repeat(depth), b"]".repeat(depth)].concat()
        }
    }
}

/// The shortest values, as many as there is room for: each costs the parser more than itself.
fn wide(rng: &mut Rng, samples: &Samples, size: usize) -> Vec<u8> {
    let value: Vec<u8> = match rng.u32(..8) {
        0 => b"0".to_vec(),
        1 => b"[]".to_vec(),
        2 => b"{}".to_vec(),
        3 => b"[0]".to_vec(),
        4 => b"{\"\":0}".to_vec(),
        5 => b"\"\"".to_vec(),
        6 => b"\"a\"".to_vec(),
        _ => samples.leaf(rng).rendered(),
    };
    let count = size / (value.len() + 1);
    list((0..count).map(|_| value.clone()))
}

/// An object of thousands of keys, different ones or all the same.
fn keys(rng: &mut Rng, samples: &Samples, size: usize) -> Vec<u8> {
    let same = samples.key(rng);
    let is_same = rng.bool();
    let mut text = b"{".to_vec();
    let mut number: u32 = 0;
    while text.len() < size {
        if number > 0 {
            text.push(b',');
        }
        if is_same {
            text.extend_from_slice(&same);
        } else {
            text.extend_from_slice(&quoted(&format!("{number:x}")));
        }
        text.extend_from_slice(b":0");
        number += 1;
    }
    text.push(b'}');
    text
}

/// A list of the smallest entries that are understood.
fn entries(rng: &mut Rng, samples: &Samples, size: usize) -> Vec<u8> {
    let template = [
        r#"{"feature":{"id":"#,
        r#"{"feature":{"featureType":"NUMBER","meterType":"Incremental","refId":"#,
        r#"{"currentUsage":1,"currency":{"currencyId":"#,
        r#"{"customerId":{"#,
    ][rng.usize(..4)];
    let prefix = ["", "credit_"][rng.usize(..2)];
    let count = size / (template.len() + 12);
    let is_same = rng.u32(..4) == 0;
    let entries = (0..count).map(|number| {
        let number = if is_same { 0 } else { number };
        let id = quoted(&format!("{}{number:x}", prefix.repeat(number % 8)));
        [template.as_bytes(), &id, b"}}"].concat()
    });
    let _ = samples;
    list(entries)
}

fn text(rng: &mut Rng, size: usize) -> Vec<u8> {
    let unit: &[u8] = [b"a".as_slice(), b"\\n", b"\\u0000", "é".as_bytes(), b"\\\\", b"\xFF"][rng.usize(..6)];
    [b"\"".as_slice(), &unit.repeat(size / unit.len()), b"\""].concat()
}

/// Envelopes inside one another: texts inside texts double their backslashes with each.
fn envelopes(rng: &mut Rng, samples: &Samples) -> Vec<u8> {
    let mut tree = samples.pick(rng).clone();
    for _ in 0..rng.u32(1..14) {
        tree = wrapped(rng, samples, &tree);
        if tree.rendered().len() > 1024 * 1024 {
            break;
        }
    }
    tree.rendered()
}

fn list(values: impl Iterator<Item = Vec<u8>>) -> Vec<u8> {
    let mut text = b"[".to_vec();
    for (index, value) in values.enumerate() {
        if index > 0 {
            text.push(b',');
        }
        text.extend(value);
    }
    text.push(b']');
    text
}
