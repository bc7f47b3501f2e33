//! A body as a flat list of nodes in the order of its text, from which they borrow. `serde_json` reads it, and an event takes
//! what it needs.
//!
//! A value of the wrong type is a fault only if the event needs it: an event that changes nothing here may hold anything. Of a
//! repeated field the last counts, as in JavaScript. Structs with serde's derive refuse the whole message for either. Structs
//! with lenient fields took 370 more lines, and 782,000 instructions for a list of 50 features instead of 697,000.

use std::borrow::Cow;
use std::fmt::{Formatter, Result as FmtResult};

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::Number;

use super::{Decoded, MalformedBody, timestamp};
use crate::clock::EpochMs;
use crate::json::{JsonText, Put};

/// A value, or the name of a field, which precedes its value.
pub(super) enum Node<'a> {
    Null,
    Bool(bool),
    Number(Number),
    Text(Cow<'a, str>),
    /// The number of following nodes that belong to it.
    List(usize),
    Object(usize),
}

/// A parsed body.
pub(super) struct Tree<'a>(Vec<Node<'a>>);

impl<'a> Tree<'a> {
    pub(super) fn parse(text: &'a str) -> Result<Self, serde_json::Error> {
        let mut tree = Self(Vec::with_capacity(text.len() / 8));
        let mut json = serde_json::Deserializer::from_str(text);
        tree.deserialize(&mut json)?;
        json.end().map(|()| tree)
    }

    /// The whole body.
    pub(super) fn root(&self) -> Field<'_> {
        Field { key: "", nodes: &self.0 }
    }

    #[expect(clippy::unnecessary_wraps, reason = "what a visitor returns")]
    fn push<E>(&mut self, node: Node<'a>) -> Result<(), E> {
        self.0.push(node);
        Ok(())
    }
}

impl<'a> DeserializeSeed<'a> for &mut Tree<'a> {
    type Value = ();

    fn deserialize<D: Deserializer<'a>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'a> Visitor<'a> for &mut Tree<'a> {
    type Value = ();

    fn expecting(&self, formatter: &mut Formatter<'_>) -> FmtResult {
        formatter.write_str("any JSON value")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        self.push(Node::Null)
    }

    fn visit_bool<E>(self, flag: bool) -> Result<(), E> {
        self.push(Node::Bool(flag))
    }

    fn visit_i64<E>(self, number: i64) -> Result<(), E> {
        self.push(Node::Number(number.into()))
    }

    fn visit_u64<E>(self, number: u64) -> Result<(), E> {
        self.push(Node::Number(number.into()))
    }

    fn visit_f64<E>(self, number: f64) -> Result<(), E> {
        self.push(as_javascript(number).map_or(Node::Null, Node::Number))
    }

    fn visit_borrowed_str<E>(self, text: &'a str) -> Result<(), E> {
        self.push(Node::Text(Cow::Borrowed(text)))
    }

    fn visit_str<E>(self, text: &str) -> Result<(), E> {
        self.push(Node::Text(Cow::Owned(text.to_owned())))
    }

    fn visit_seq<A: SeqAccess<'a>>(self, mut list: A) -> Result<(), A::Error> {
        let start = self.0.len();
        self.0.push(Node::Null);
        while list.next_element_seed(&mut *self)?.is_some() {}
        self.0[start] = Node::List(self.0.len() - start - 1);
        Ok(())
    }

    fn visit_map<A: MapAccess<'a>>(self, mut object: A) -> Result<(), A::Error> {
        let start = self.0.len();
        self.0.push(Node::Null);
        while object.next_key_seed(&mut *self)?.is_some() {
            object.next_value_seed(&mut *self)?;
        }
        self.0[start] = Node::Object(self.0.len() - start - 1);
        Ok(())
    }
}

/// Removes the first value from the nodes. It has no name.
fn next_value<'t>(nodes: &mut &'t [Node<'t>]) -> Option<Field<'t>> {
    let inner = match nodes.first()? {
        Node::List(inner) | Node::Object(inner) => *inner,
        Node::Null | Node::Bool(_) | Node::Number(_) | Node::Text(_) => 0,
    };
    let value;
    (value, *nodes) = nodes.split_at_checked(1 + inner)?;
    Some(Field { key: "", nodes: value })
}

/// The fields of an object, in the order of the text.
#[derive(Clone, Copy, Default)]
pub(super) struct Object<'t>(&'t [Node<'t>]);

impl<'t> Object<'t> {
    /// A field of that name; absent if there is none.
    pub(super) fn get(self, key: &'t str) -> Field<'t> {
        let values = self.fields().filter(|(name, _)| *name == key);
        let nodes = values.last().map_or(&[][..], |(_, value)| value.nodes);
        Field { key, nodes }
    }

    /// Each name and its value.
    pub(super) fn fields(self) -> impl Iterator<Item = (&'t str, Field<'t>)> {
        let mut nodes = self.0;
        std::iter::from_fn(move || {
            let [Node::Text(name), rest @ ..] = nodes else {
                return None;
            };
            nodes = rest;
            Some((&**name, next_value(&mut nodes)?))
        })
    }
}

/// A field of an object, by its name: absent, or a value with the nodes in it. Each reader takes null for absent, and
/// reports a value of another kind as a fault.
#[derive(Clone, Copy)]
pub(super) struct Field<'t> {
    pub(super) key: &'t str,
    pub(super) nodes: &'t [Node<'t>],
}

impl<'t> Field<'t> {
    pub(super) fn is_absent(self) -> bool {
        self.nodes.is_empty()
    }

    /// It is there, and not null.
    pub(super) fn is_present(self) -> bool {
        !matches!(self.nodes, [] | [Node::Null, ..])
    }

    /// What a reader of another kind of value finds: nothing, or a fault.
    fn otherwise<T>(self, wanted: &str) -> Decoded<Option<T>> {
        let found = match self.nodes {
            [] | [Node::Null, ..] => return Ok(None),
            [Node::Bool(_), ..] => "true or false",
            [Node::Number(_), ..] => "a number",
            [Node::Text(_), ..] => "text",
            [Node::List(_), ..] => "a list",
            [Node::Object(_), ..] => "an object",
        };
        Err(MalformedBody::at(self.key, format!("expected {wanted}, found {found}")))
    }

    /// This field, or the other one where this has no value.
    pub(super) fn or(self, other: Self) -> Self {
        if self.is_present() { self } else { other }
    }

    /// A text; none if it is empty, since an empty id or reason means the same as an absent one.
    pub(super) fn text(self) -> Decoded<Option<&'t str>> {
        let [Node::Text(text)] = self.nodes else { return self.otherwise("text") };
        Ok(Some(&**text).filter(|text| !text.is_empty()))
    }

    /// The same, but a value of another type counts as absent.
    pub(super) fn text_if_any(self) -> Option<&'t str> {
        self.text().ok()?
    }

    pub(super) fn number(self) -> Decoded<Option<Number>> {
        let [Node::Number(number)] = self.nodes else { return self.otherwise("a number") };
        Ok(Some(number.clone()))
    }

    pub(super) fn flag(self) -> Decoded<Option<bool>> {
        let [Node::Bool(flag)] = self.nodes else { return self.otherwise("true or false") };
        Ok(Some(*flag))
    }

    /// A date; an invalid one counts as absent, as it does for the SDKs.
    pub(super) fn date(self) -> Option<EpochMs> {
        match self.nodes {
            [Node::Number(number), ..] => timestamp::of_number(number),
            [Node::Text(text), ..] => timestamp::of_text(text),
            _ => None,
        }
    }

    pub(super) fn object(self) -> Decoded<Option<Object<'t>>> {
        let [Node::Object(_), fields @ ..] = self.nodes else { return self.otherwise("an object") };
        Ok(Some(Object(fields)))
    }

    /// The values of a list.
    pub(super) fn list(self) -> Decoded<Option<impl Iterator<Item = Field<'t>>>> {
        let [Node::List(_), items @ ..] = self.nodes else { return self.otherwise("a list") };
        Ok(Some(values(items)))
    }

    /// The fault of an object without it.
    pub(super) fn missing(self) -> MalformedBody {
        MalformedBody::at(self.key, "missing")
    }

    /// The field, to be passed on: readers distinguish an absent field from a null one. `read` checks the type of its value.
    pub(super) fn given<T>(self, read: impl FnOnce(Self) -> Decoded<Option<T>>) -> Decoded<Option<Self>> {
        read(self).map(|_| (!self.is_absent()).then_some(self))
    }
}

/// The first that is a text.
pub(super) fn first_text<'t>(fields: impl IntoIterator<Item = Field<'t>>) -> Decoded<Option<&'t str>> {
    fields.into_iter().find_map(|field| field.text().transpose()).transpose()
}

fn values<'t>(mut nodes: &'t [Node<'t>]) -> impl Iterator<Item = Field<'t>> {
    std::iter::from_fn(move || next_value(&mut nodes))
}

impl Put for Field<'_> {
    fn put(self, json: &mut JsonText) {
        match self.nodes {
            [] | [Node::Null, ..] => json.raw("null"),
            [Node::Bool(flag), ..] => flag.put(json),
            [Node::Number(number), ..] => number.put(json),
            [Node::Text(text), ..] => (&**text).put(json),
            [Node::List(_), items @ ..] => {
                json.raw("[");
                for item in values(items) {
                    json.separate();
                    item.put(json);
                }
                json.raw("]");
            }
            [Node::Object(_), fields @ ..] => {
                json.raw("{");
                for (name, value) in Object(fields).fields() {
                    json.name(name);
                    value.put(json);
                }
                json.raw("}");
            }
        }
    }
}

/// Spells a number as `JSON.stringify` does where that matters to a reader: a whole number that came with a fraction
/// of zero (`42.0`) is an integer. Beyond 2^53 a float is no longer known to be whole: it stays.
pub(super) fn as_javascript(float: f64) -> Option<Number> {
    const WHOLE_MAX: f64 = 9_007_199_254_740_992.0;
    if float.fract() == 0.0 && float.abs() <= WHOLE_MAX {
        #[expect(clippy::cast_possible_truncation, reason = "whole and within 2^53: exact")]
        return Some((float as i64).into());
    }
    Number::from_f64(float)
}

/// Declares the fields that are read of an object, and the name that each has in JSON.
macro_rules! fields {
    ($(#[$meta:meta])* $name:ident { $($field:ident = $key:literal,)* }) => {
        $(#[$meta])*
        pub(super) struct $name<'t> {
            $(pub(super) $field: Field<'t>,)*
        }

        impl<'t> $name<'t> {
            pub(super) fn of(object: Object<'t>) -> Self {
                let mut fields = Self { $($field: Field { key: $key, nodes: &[] },)* };
                for (key, value) in object.fields() {
                    match key {
                        $($key => fields.$field.nodes = value.nodes,)*
                        _ => {}
                    }
                }
                fields
            }
        }
    };
}

pub(super) use fields;
