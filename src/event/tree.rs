//! A body as a tree of values that borrows its texts from the body.
//!
//! `serde_json`'s own tree copies every key and text and keeps a hash table an object: for a list of fifty features
//! that was two thirds of all the work of a message. Of most fields nothing is wanted, and objects have few of them,
//! so here a field is looked for from one end to the other. What is passed on as it came becomes a [`Value`] then.
//!
//! What a tree may take is bounded while it grows: see [`json`](crate::json).

mod plain;

use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use crate::json;

/// One value.
#[derive(Debug, Clone, Default)]
pub(super) enum Json<'a> {
    #[default]
    Null,
    Bool(bool),
    Number(Number),
    Text(Cow<'a, str>),
    List(Vec<Json<'a>>),
    Object(Fields<'a>),
}

/// The fields of one object, in their order. Of a name that is there twice the last one counts, as everywhere.
#[derive(Debug, Clone, Default)]
pub(super) struct Fields<'a> {
    list: Box<[Field<'a>]>,
    /// Of each name its [`sort`]: half of what is looked for is not there, which shows here without a search.
    sorts: u64,
}

/// A name and its value.
type Field<'a> = (Cow<'a, str>, Json<'a>);

/// Why a text is no tree.
#[derive(Debug)]
pub(super) enum TreeError {
    /// It holds more values than its length allows.
    TooMany,
    /// It is no JSON.
    Syntax(serde_json::Error),
}

impl<'a> Json<'a> {
    /// Reads a text.
    pub(super) fn parse(text: &'a str) -> Result<Self, TreeError> {
        match plain::read(text, json::values_plausible(text.len())) {
            Some(tree) => Ok(tree),
            None => Self::parse_odd(text),
        }
    }

    /// The same for what is out of the ordinary: slower, and it tells what is wrong.
    fn parse_odd(text: &'a str) -> Result<Self, TreeError> {
        let left = Cell::new(json::values_plausible(text.len()));
        let mut deserializer = serde_json::Deserializer::from_str(text);
        let piles = Piles::default();
        let grower = Grower {
            left: &left,
            piles: &piles,
        };
        let read = grower.deserialize(&mut deserializer);
        match read.and_then(|tree| deserializer.end().map(|()| tree)) {
            Ok(tree) => Ok(tree),
            // Of a text that is no JSON as well, that is what is told.
            Err(_) if left.get() == 0 || !json::is_plausible(text.as_bytes()) => Err(TreeError::TooMany),
            Err(error) => Err(TreeError::Syntax(error)),
        }
    }

    pub(super) fn is_null(&self) -> bool {
        matches!(self, Self::Null)
    }

    pub(super) fn as_str(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            Self::Null | Self::Bool(_) | Self::Number(_) | Self::List(_) | Self::Object(_) => None,
        }
    }

    pub(super) fn as_object(&self) -> Option<&Fields<'a>> {
        match self {
            Self::Object(fields) => Some(fields),
            Self::Null | Self::Bool(_) | Self::Number(_) | Self::Text(_) | Self::List(_) => None,
        }
    }

    pub(super) fn as_object_mut(&mut self) -> Option<&mut Fields<'a>> {
        match self {
            Self::Object(fields) => Some(fields),
            Self::Null | Self::Bool(_) | Self::Number(_) | Self::Text(_) | Self::List(_) => None,
        }
    }

    /// A copy that stands for itself.
    pub(super) fn into_value(self) -> Value {
        match self {
            Self::Null => Value::Null,
            Self::Bool(flag) => Value::Bool(flag),
            Self::Number(number) => Value::Number(number),
            Self::Text(text) => Value::String(text.into_owned()),
            Self::List(list) => Value::Array(list.into_iter().map(Json::into_value).collect()),
            Self::Object(fields) => Value::Object(fields.into_map()),
        }
    }
}

impl<'a> Fields<'a> {
    fn surely_lacks(&self, key: &str) -> bool {
        self.sorts & sort(key) == 0
    }

    pub(super) fn get(&self, key: &str) -> Option<&Json<'a>> {
        if self.surely_lacks(key) {
            return None;
        }
        let of_that_name = |(name, _): &&Field<'a>| is_same(name, key);
        self.list.iter().rev().find(of_that_name).map(|(_, value)| value)
    }

    pub(super) fn get_mut(&mut self, key: &str) -> Option<&mut Json<'a>> {
        if self.surely_lacks(key) {
            return None;
        }
        let of_that_name = |(name, _): &&mut Field<'a>| is_same(name, key);
        self.list
            .iter_mut()
            .rev()
            .find(of_that_name)
            .map(|(_, value)| value)
    }

    pub(super) fn contains_key(&self, key: &str) -> bool {
        self.get(key).is_some()
    }

    /// A copy that stands for itself.
    pub(super) fn into_map(self) -> Map<String, Value> {
        let field = |(name, value): (Cow<'_, str>, Json<'_>)| (name.into_owned(), value.into_value());
        self.list.into_iter().map(field).collect()
    }
}

impl<'a> From<Vec<Field<'a>>> for Fields<'a> {
    fn from(list: Vec<Field<'a>>) -> Self {
        let sorts = list.iter().fold(0, |sorts, (name, _)| sorts | sort(name));
        let list = list.into_boxed_slice();
        Self { list, sorts }
    }
}

/// One bit of 64, by a name's length and end: names that have the same one may differ.
fn sort(name: &str) -> u64 {
    let end = name.bytes().next_back().unwrap_or_default();
    1 << ((name.len() * 17 + usize::from(end)) % 64)
}

/// Most names that are not the same differ in length or at an end, which shows without comparing memory.
fn is_same(name: &str, key: &str) -> bool {
    name.len() == key.len() && name.bytes().next_back() == key.bytes().next_back() && name == key
}

/// Where lists and objects are put together until they are whole, those inside upon those outside: so each takes one
/// piece of memory, of the right size.
#[derive(Default)]
struct Piles<'de> {
    elements: RefCell<Vec<Json<'de>>>,
    fields: RefCell<Vec<Field<'de>>>,
}

/// Takes off what lies above this height.
fn above<T>(pile: &RefCell<Vec<T>>, height: usize) -> Vec<T> {
    pile.borrow_mut().split_off(height)
}

/// Reads one value, for as long as there are values left that the text may hold.
#[derive(Clone, Copy)]
struct Grower<'b, 'de> {
    left: &'b Cell<usize>,
    piles: &'b Piles<'de>,
}

impl Grower<'_, '_> {
    fn spend<E: serde::de::Error>(self) -> Result<(), E> {
        match self.left.get() {
            0 => Err(E::custom("too many values")),
            left => {
                self.left.set(left - 1);
                Ok(())
            }
        }
    }
}

impl<'de> DeserializeSeed<'de> for Grower<'_, 'de> {
    type Value = Json<'de>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Json<'de>, D::Error> {
        self.spend()?;
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Grower<'_, 'de> {
    type Value = Json<'de>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("any valid JSON value")
    }

    fn visit_unit<E>(self) -> Result<Json<'de>, E> {
        Ok(Json::Null)
    }

    fn visit_bool<E>(self, flag: bool) -> Result<Json<'de>, E> {
        Ok(Json::Bool(flag))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Json<'de>, E> {
        Ok(Json::Number(number.into()))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Json<'de>, E> {
        Ok(Json::Number(number.into()))
    }

    fn visit_f64<E>(self, number: f64) -> Result<Json<'de>, E> {
        Ok(Number::from_f64(number).map_or(Json::Null, Json::Number))
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Json<'de>, E> {
        Ok(Json::Text(Cow::Borrowed(text)))
    }

    fn visit_str<E>(self, text: &str) -> Result<Json<'de>, E> {
        Ok(Json::Text(Cow::Owned(text.to_owned())))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Json<'de>, A::Error> {
        let pile = &self.piles.elements;
        let height = pile.borrow().len();
        while let Some(element) = elements.next_element_seed(self)? {
            pile.borrow_mut().push(element);
        }
        Ok(Json::List(above(pile, height)))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Json<'de>, A::Error> {
        let pile = &self.piles.fields;
        let height = pile.borrow().len();
        while let Some(name) = entries.next_key_seed(Name)? {
            let value = entries.next_value_seed(self)?;
            pile.borrow_mut().push((name, value));
        }
        Ok(Json::Object(above(pile, height).into()))
    }
}

/// Reads a field's name.
struct Name;

impl<'de> DeserializeSeed<'de> for Name {
    type Value = Cow<'de, str>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Cow<'de, str>, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for Name {
    type Value = Cow<'de, str>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a string")
    }

    fn visit_borrowed_str<E>(self, name: &'de str) -> Result<Cow<'de, str>, E> {
        Ok(Cow::Borrowed(name))
    }

    fn visit_str<E>(self, name: &str) -> Result<Cow<'de, str>, E> {
        Ok(Cow::Owned(name.to_owned()))
    }
}

#[cfg(test)]
impl From<Value> for Json<'_> {
    fn from(value: Value) -> Self {
        match value {
            Value::Null => Self::Null,
            Value::Bool(flag) => Self::Bool(flag),
            Value::Number(number) => Self::Number(number),
            Value::String(text) => Self::Text(text.into()),
            Value::Array(list) => Self::List(list.into_iter().map(Self::from).collect()),
            Value::Object(map) => {
                let fields = map.into_iter().map(|(name, value)| (name.into(), value.into()));
                Self::Object(fields.collect::<Vec<_>>().into())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Value, String> {
        match Json::parse(text) {
            Ok(tree) => Ok(tree.into_value()),
            Err(TreeError::TooMany) => Err("too many".to_owned()),
            Err(TreeError::Syntax(error)) => Err(error.to_string()),
        }
    }

    #[test]
    fn a_tree_holds_what_serde_jsons_own_does_and_refuses_what_that_refuses() {
        for text in [
            r#"{"a":[1,-2,3.5,-0,1e400,18446744073709551615],"b":{"c":null,"d":true},"e\n":"x\u00fcy","f":"plain"}"#,
            r#"{"a":1,"b":2,"a":3}"#,
            "[]",
            "{}",
            "nul",
            "{\"a\":}",
            "[1,]",
            "1 2",
            r#""\ud800""#,
            &"[".repeat(200),
        ] {
            let expected = serde_json::from_str::<Value>(text).map_err(|error| error.to_string());
            assert_eq!(parse(text), expected, "{text}");
        }
    }

    #[test]
    fn the_last_field_of_a_name_counts() {
        let Ok(Json::Object(mut fields)) = Json::parse(r#"{"a":1,"a":"two"}"#) else {
            panic!("an object");
        };
        assert_eq!(fields.get("a").and_then(Json::as_str), Some("two"));
        assert_eq!(fields.get_mut("a").and_then(|value| value.as_str()), Some("two"));
        assert!(fields.contains_key("a") && !fields.contains_key("b"));
    }

    #[test]
    fn a_text_may_hold_as_many_values_as_its_length_allows() {
        let list = |count: usize| format!("[{}0]", "0,".repeat(count - 1));
        let whole = list(4_000);
        assert!(parse(&whole).is_ok());
        let expected = Err("too many".to_owned());
        assert_eq!(parse(&list(100_000)), expected);
        assert_eq!(parse(&format!("[{}0]", "[],".repeat(50_000))), expected);
    }
}
