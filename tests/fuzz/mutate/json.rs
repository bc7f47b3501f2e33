//! Inputs as JSON: changed value by value, so that the result is mostly JSON again, of another shape.
//!
//! The tree is our own, since it must hold what a JSON library does not: the same key twice, numbers and texts that
//! are none.

use std::mem;

use fastrand::Rng;
use serde_json::Value;

use super::bytes;

/// A JSON value, or something in its place.
#[derive(Debug, Clone)]
pub enum Node {
    /// Text that is rendered as it is: a number, a text with its quotes, a literal, or nonsense.
    Leaf(Vec<u8>),
    /// A list.
    List(Vec<Node>),
    /// An object; keys with their quotes.
    Object(Vec<(Vec<u8>, Node)>),
}

/// What a target's inputs are made of.
#[derive(Debug)]
pub struct Samples {
    /// Whole inputs.
    trees: Vec<Node>,
    /// Every key of them, and those that the parser knows beside.
    keys: Vec<Vec<u8>>,
    /// Every leaf of them, and texts that the parser knows beside.
    leaves: Vec<Vec<u8>>,
}

/// Values that are read in more than one way.
const LEAVES: [&str; 40] = [
    "null",
    "true",
    "false",
    "0",
    "-0",
    "-0.0",
    "1",
    "-1",
    "0.5",
    "42.0",
    "1e3",
    "1e308",
    "-1e308",
    "1e309",
    "1e-400",
    "9007199254740993",
    "9223372036854775807",
    "9223372036854775808",
    "-9223372036854775808",
    "18446744073709551615",
    "18446744073709551616",
    "123456789012345678901234567890.5",
    "8640000000000000",
    "8640000000000001",
    "\"\"",
    "\" \"",
    "\"0\"",
    "\"\\u0000\"",
    "\"\\ud800\"",
    "\"\\ud83d\\ude00\"",
    "\"#timestamp\"",
    "\":r_\"",
    "\"2026-11-20T08:00:00.000Z\"",
    "\"2026-02-29\"",
    "\"9999-12-31T23:59:59.999-23:59\"",
    "\"0000-01-01T00:00:00+23:59\"",
    "\"999999999999999999999999\"",
    "\"1795161600000\"",
    "[]",
    "{}",
];

impl From<&Value> for Node {
    fn from(value: &Value) -> Self {
        match value {
            Value::Array(list) => Self::List(list.iter().map(Self::from).collect()),
            Value::Object(fields) => {
                Self::Object(fields.iter().map(|(key, value)| (quoted(key), Self::from(value))).collect())
            }
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {
                Self::Leaf(value.to_string().into_bytes())
            }
        }
    }
}

/// A text in JSON's quotes.
pub fn quoted(text: &str) -> Vec<u8> {
    serde_json::to_vec(text).expect("text is JSON")
}

impl Node {
    /// The text.
    pub fn rendered(&self) -> Vec<u8> {
        let mut text = Vec::with_capacity(1024);
        self.render(&mut text);
        text
    }

    fn render(&self, out: &mut Vec<u8>) {
        match self {
            Self::Leaf(leaf) => out.extend_from_slice(leaf),
            Self::List(list) => {
                out.push(b'[');
                for (index, value) in list.iter().enumerate() {
                    if index > 0 {
                        out.push(b',');
                    }
                    value.render(out);
                }
                out.push(b']');
            }
            Self::Object(fields) => {
                out.push(b'{');
                for (index, (key, value)) in fields.iter().enumerate() {
                    if index > 0 {
                        out.push(b',');
                    }
                    out.extend_from_slice(key);
                    out.push(b':');
                    value.render(out);
                }
                out.push(b'}');
            }
        }
    }

    fn count(&self) -> usize {
        1 + match self {
            Self::Leaf(_) => 0,
            Self::List(list) => list.iter().map(Self::count).sum(),
            Self::Object(fields) => fields.iter().map(|(_, value)| value.count()).sum(),
        }
    }

    /// The node of that number, counted from the outside in.
    fn nth(&mut self, number: &mut usize) -> Option<&mut Self> {
        if *number == 0 {
            return Some(self);
        }
        *number -= 1;
        match self {
            Self::Leaf(_) => None,
            Self::List(list) => list.iter_mut().find_map(|value| value.nth(number)),
            Self::Object(fields) => fields.iter_mut().find_map(|(_, value)| value.nth(number)),
        }
    }

    fn any(&mut self, rng: &mut Rng) -> &mut Self {
        let mut number = rng.usize(..self.count());
        // A node of that number is there; the borrow checker wants a way out.
        if number == 0 {
            return self;
        }
        self.nth(&mut number).expect("the count is right")
    }

    /// Any list or object, the tree itself if there is none.
    fn any_container(&mut self, rng: &mut Rng) -> &mut Self {
        let count = self.count();
        for _ in 0..8 {
            let number = rng.usize(..count);
            let is_container = |node: &Self| matches!(node, Self::List(_) | Self::Object(_));
            if self.nth(&mut number.clone()).is_some_and(|node| is_container(node)) {
                return self.nth(&mut number.clone()).expect("it was just there");
            }
        }
        self
    }

    fn visit(&self, keys: &mut Vec<Vec<u8>>, leaves: &mut Vec<Vec<u8>>) {
        match self {
            Self::Leaf(leaf) => leaves.push(leaf.clone()),
            Self::List(list) => list.iter().for_each(|value| value.visit(keys, leaves)),
            Self::Object(fields) => {
                for (key, value) in fields {
                    keys.push(key.clone());
                    value.visit(keys, leaves);
                }
            }
        }
    }
}

impl Samples {
    /// Samples, and the words that the parser knows beside those in them.
    pub fn new(samples: impl IntoIterator<Item = Value>, keys: &[&str], texts: &[&str]) -> Self {
        let trees: Vec<Node> = samples.into_iter().map(|value| Node::from(&value)).collect();
        let mut all_keys: Vec<_> = keys.iter().map(|key| quoted(key)).collect();
        let mut leaves: Vec<_> = texts.iter().map(|text| quoted(text)).collect();
        leaves.extend(LEAVES.iter().map(|leaf| leaf.as_bytes().to_vec()));
        for tree in &trees {
            tree.visit(&mut all_keys, &mut leaves);
        }
        for list in [&mut all_keys, &mut leaves] {
            list.sort();
            list.dedup();
        }
        Self { trees, keys: all_keys, leaves }
    }

    /// A sample.
    pub fn pick(&self, rng: &mut Rng) -> &Node {
        &self.trees[rng.usize(..self.trees.len())]
    }

    /// A key with its quotes.
    pub fn key(&self, rng: &mut Rng) -> Vec<u8> {
        self.keys[rng.usize(..self.keys.len())].clone()
    }

    /// A leaf.
    pub fn leaf(&self, rng: &mut Rng) -> Node {
        Node::Leaf(self.leaves[rng.usize(..self.leaves.len())].clone())
    }
}

/// Changes one thing.
pub fn mutate(rng: &mut Rng, samples: &Samples, tree: &mut Node) {
    match rng.u32(..20) {
        0..3 => drop_one(rng, tree),
        3..5 => repeat_one(rng, tree),
        5..7 => rename_one(rng, samples, tree),
        7..9 => add_one(rng, samples, tree),
        9..13 => *tree.any(rng) = samples.leaf(rng),
        13 => {
            let mut other = samples.pick(rng).clone();
            let part = mem::replace(other.any(rng), Node::Leaf(Vec::new()));
            *tree.any(rng) = part;
        }
        14 => {
            let part = tree.any(rng).clone();
            *tree.any(rng) = part;
        }
        15 => {
            let node = tree.any(rng);
            let inner = mem::replace(node, Node::Leaf(Vec::new()));
            *node = nested(rng, samples, &inner);
        }
        16 => {
            let inner = mem::replace(tree, Node::Leaf(Vec::new()));
            *tree = wrapped(rng, samples, &inner);
        }
        17 => {
            // A value as the text of itself.
            let node = tree.any(rng);
            *node = Node::Leaf(quoted(&String::from_utf8_lossy(&node.rendered())));
        }
        18 => {
            if let Node::Leaf(leaf) = tree.any(rng) {
                bytes::mutate(rng, leaf);
            }
        }
        _ => *tree.any(rng) = long_text(rng),
    }
}

fn drop_one(rng: &mut Rng, tree: &mut Node) {
    match tree.any_container(rng) {
        Node::List(list) if !list.is_empty() => drop(list.remove(rng.usize(..list.len()))),
        Node::Object(fields) if !fields.is_empty() => drop(fields.remove(rng.usize(..fields.len()))),
        Node::Leaf(_) | Node::List(_) | Node::Object(_) => {}
    }
}

fn repeat_one(rng: &mut Rng, tree: &mut Node) {
    let times = if rng.u32(..50) == 0 { rng.usize(..300) } else { 1 };
    match tree.any_container(rng) {
        Node::List(list) if !list.is_empty() => {
            let one = list[rng.usize(..list.len())].clone();
            list.extend((0..times).map(|_| one.clone()));
        }
        Node::Object(fields) if !fields.is_empty() => {
            let one = fields[rng.usize(..fields.len())].clone();
            fields.extend((0..times).map(|_| one.clone()));
        }
        Node::Leaf(_) | Node::List(_) | Node::Object(_) => {}
    }
}

fn rename_one(rng: &mut Rng, samples: &Samples, tree: &mut Node) {
    if let Node::Object(fields) = tree.any_container(rng)
        && !fields.is_empty()
    {
        let index = rng.usize(..fields.len());
        fields[index].0 = samples.key(rng);
    }
}

fn add_one(rng: &mut Rng, samples: &Samples, tree: &mut Node) {
    let leaf = samples.leaf(rng);
    match tree.any_container(rng) {
        Node::Leaf(_) => {}
        Node::List(list) => list.insert(rng.usize(..=list.len()), leaf),
        Node::Object(fields) => fields.insert(rng.usize(..=fields.len()), (samples.key(rng), leaf)),
    }
}

/// A value inside lists and objects; sometimes deeper than any parser allows.
fn nested(rng: &mut Rng, samples: &Samples, inner: &Node) -> Node {
    let depth = match rng.u32(..10) {
        0 => rng.usize(..20_000),
        1 => 110 + rng.usize(..30),
        _ => 1 + rng.usize(..4),
    };
    let (open, close) = if rng.bool() {
        (b"[".to_vec(), b"]")
    } else {
        ([b"{".as_slice(), &samples.key(rng), b":"].concat(), b"}")
    };
    let mut text = open.repeat(depth);
    text.extend(inner.rendered());
    text.extend(close.repeat(depth));
    Node::Leaf(text)
}

/// An envelope around everything.
pub fn wrapped(rng: &mut Rng, samples: &Samples, inner: &Node) -> Node {
    let text = |text: &str| Node::Leaf(quoted(text));
    let field = |key: &str, value: Node| (quoted(key), value);
    match rng.u32(..4) {
        0 => Node::Object(vec![
            field("Type", text("Notification")),
            field("MessageId", text("1")),
            field("TopicArn", text("arn:aws:sns:us-east-1:1:t")),
            field("Message", text(&String::from_utf8_lossy(&inner.rendered()))),
        ]),
        1 => Node::Object(vec![
            field("id", text("1")),
            field("detail-type", samples.leaf(rng)),
            field("detail", inner.clone()),
        ]),
        2 => Node::Object(vec![field("type", samples.leaf(rng)), field("payload", inner.clone())]),
        _ => Node::Object(vec![field("data", inner.clone())]),
    }
}

fn long_text(rng: &mut Rng) -> Node {
    let length = bytes::length(rng);
    let unit = ["a", "\\n", "\\u00e9", "é", "\\ud83d\\ude00", "\\\\", " "][rng.usize(..7)];
    Node::Leaf(format!("\"{}\"", unit.repeat(length / unit.len())).into_bytes())
}

/// JSON's tokens in any order.
pub fn soup(rng: &mut Rng, samples: &Samples) -> Vec<u8> {
    let mut text = Vec::new();
    if rng.bool() {
        text.push(b'{');
    }
    for _ in 0..rng.u32(..60) {
        match rng.u32(..8) {
            0..2 => {
                text.extend(samples.key(rng));
                text.push(b':');
            }
            2..4 => text.extend(samples.leaf(rng).rendered()),
            _ => text.push(b"{}[],:,\" "[rng.usize(..9)]),
        }
    }
    text
}
