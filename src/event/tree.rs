//! A body as a tree of values that borrows its texts from the body, without a piece of memory for each.
//!
//! `serde_json`'s own tree copies every key and text and keeps a hash table an object: for a list of fifty features
//! that was two thirds of all the work of a message. Here everything of a body lies in one room, a [`Bump`], which is
//! given back as a whole: no value has memory of its own, and none has to be dropped. What is passed on as it came
//! becomes a [`Value`] then.
//!
//! There are two readers: one for texts as Stigg writes them, and one for any. What the first has put into a room before
//! it finds a text unusual stays there, so whoever calls begins again with the other one, in another room.
//!
//! What a tree may take is bounded while it grows: see [`json`](crate::json).

mod plain;

use std::cell::{Cell, RefCell};
use std::fmt;

use bumpalo::Bump;
use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use crate::json;

/// One value. Nothing but what can be copied byte by byte: so a number lies in the room as well.
#[derive(Debug, Clone, Copy)]
pub(super) enum Json<'a> {
    Null,
    Bool(bool),
    Number(&'a Number),
    Text(&'a str),
    List(&'a [Json<'a>]),
    Object(Fields<'a>),
}

/// The fields of one object, in their order. Of a name that is there twice the last one counts, as everywhere.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Fields<'a> {
    list: &'a [Field<'a>],
    /// Where there are more than a few fields: where one of each [`sort`] stands, so that one is found, or not there,
    /// without a search.
    places: Option<&'a Places>,
}

/// A name and its value.
type Field<'a> = (&'a str, Json<'a>);

/// By its sort, the place of the last field: one for the first place, none where no field is of that sort.
type Places = [u8; SORTS];

const SORTS: usize = 64;
/// So few are looked through sooner than a table of places is filled.
const FEW: usize = 4;

/// Which texts are read.
#[derive(Debug, Clone, Copy)]
pub(super) enum Reading {
    /// Those as Stigg writes them. Quicker than the other.
    Usual,
    /// Any, and it tells what is wrong.
    Any,
}

/// Why a text is no tree.
#[derive(Debug)]
pub(super) enum TreeError {
    /// It has to be read as [`Reading::Any`].
    Unusual,
    /// It holds more values than its length allows.
    TooMany,
    /// It is no JSON.
    Syntax(serde_json::Error),
}

impl<'a> Json<'a> {
    /// Reads a text into a room.
    pub(super) fn parse(text: &'a str, room: &'a Bump, reading: Reading) -> Result<Self, TreeError> {
        let values_max = json::values_plausible(text.len());
        match reading {
            Reading::Usual => plain::read(text, values_max, room).ok_or(TreeError::Unusual),
            Reading::Any => Self::parse_any(text, values_max, room),
        }
    }

    fn parse_any(text: &'a str, values_max: usize, room: &'a Bump) -> Result<Self, TreeError> {
        let left = Cell::new(values_max);
        let mut deserializer = serde_json::Deserializer::from_str(text);
        let piles = Piles::default();
        let grower = Grower {
            left: &left,
            piles: &piles,
            room,
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

    pub(super) fn as_str(&self) -> Option<&'a str> {
        match self {
            Self::Text(text) => Some(text),
            Self::Null | Self::Bool(_) | Self::Number(_) | Self::List(_) | Self::Object(_) => None,
        }
    }

    pub(super) fn as_object(&self) -> Option<Fields<'a>> {
        match self {
            Self::Object(fields) => Some(*fields),
            Self::Null | Self::Bool(_) | Self::Number(_) | Self::Text(_) | Self::List(_) => None,
        }
    }

    /// A copy that stands for itself.
    pub(super) fn to_value(self) -> Value {
        match self {
            Self::Null => Value::Null,
            Self::Bool(flag) => Value::Bool(flag),
            Self::Number(number) => Value::Number(number.clone()),
            Self::Text(text) => Value::String(text.to_owned()),
            Self::List(list) => Value::Array(list.iter().copied().map(Json::to_value).collect()),
            Self::Object(fields) => Value::Object(fields.to_map()),
        }
    }
}

impl<'a> Fields<'a> {
    /// The fields that lie above this height of a pile.
    fn above(height: usize, pile: &mut Vec<Field<'a>>, room: &'a Bump) -> Self {
        let list = above(height, pile, room);
        let is_table_of_use = list.len() > FEW && u8::try_from(list.len()).is_ok();
        let places = is_table_of_use.then(|| {
            let places = room.alloc([0; SORTS]);
            for ((name, _), place) in list.iter().zip(1..=u8::MAX) {
                places[sort(name)] = place;
            }
            &*places
        });
        Self { list, places }
    }

    /// In line, as in `fields`: the sort of a name in the source is known then.
    #[expect(clippy::inline_always, reason = "measured: see fields")]
    #[inline(always)]
    pub(super) fn get(&self, key: &str) -> Option<&'a Json<'a>> {
        if let Some(places) = self.places {
            let place = usize::from(places[sort(key)]).checked_sub(1)?;
            let (name, value) = &self.list[place];
            if *name == key {
                return Some(value);
            }
        }
        self.search(key)
    }

    /// From one end to the other.
    #[inline(never)]
    fn search(&self, key: &str) -> Option<&'a Json<'a>> {
        let of_that_name = |(name, _): &&Field<'a>| *name == key;
        self.list.iter().rev().find(of_that_name).map(|(_, value)| value)
    }

    pub(super) fn contains_key(&self, key: &str) -> bool {
        self.get(key).is_some()
    }

    /// A copy that stands for itself.
    pub(super) fn to_map(self) -> Map<String, Value> {
        let field = |(name, value): &Field<'_>| ((*name).to_owned(), value.to_value());
        self.list.iter().map(field).collect()
    }
}

/// Moves what lies above this height of a pile into the room.
fn above<'a, T: Copy>(height: usize, pile: &mut Vec<T>, room: &'a Bump) -> &'a [T] {
    let moved = room.alloc_slice_copy(&pile[height..]);
    pile.truncate(height);
    moved
}

/// One of 64, by a name's length and end: names that have the same one may differ.
fn sort(name: &str) -> usize {
    let end = name.bytes().next_back().unwrap_or_default();
    (name.len() * 17 + usize::from(end)) % SORTS
}

/// Where lists and objects are put together until they are whole, those inside upon those outside: so each takes as
/// much of the room as it needs.
#[derive(Default)]
struct Piles<'de> {
    elements: RefCell<Vec<Json<'de>>>,
    fields: RefCell<Vec<Field<'de>>>,
}

/// Reads one value, for as long as there are values left that the text may hold.
#[derive(Clone, Copy)]
struct Grower<'b, 'de> {
    left: &'b Cell<usize>,
    piles: &'b Piles<'de>,
    room: &'de Bump,
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
        Ok(Json::Number(self.room.alloc(number.into())))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Json<'de>, E> {
        Ok(Json::Number(self.room.alloc(number.into())))
    }

    fn visit_f64<E>(self, number: f64) -> Result<Json<'de>, E> {
        Ok(Number::from_f64(number).map_or(Json::Null, |number| Json::Number(self.room.alloc(number))))
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Json<'de>, E> {
        Ok(Json::Text(text))
    }

    fn visit_str<E>(self, text: &str) -> Result<Json<'de>, E> {
        Ok(Json::Text(self.room.alloc_str(text)))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Json<'de>, A::Error> {
        let pile = &self.piles.elements;
        let height = pile.borrow().len();
        while let Some(element) = elements.next_element_seed(self)? {
            pile.borrow_mut().push(element);
        }
        Ok(Json::List(above(height, &mut pile.borrow_mut(), self.room)))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Json<'de>, A::Error> {
        let pile = &self.piles.fields;
        let height = pile.borrow().len();
        while let Some(name) = entries.next_key_seed(Name(self.room))? {
            let value = entries.next_value_seed(self)?;
            pile.borrow_mut().push((name, value));
        }
        Ok(Json::Object(Fields::above(
            height,
            &mut pile.borrow_mut(),
            self.room,
        )))
    }
}

/// Reads a field's name.
struct Name<'de>(&'de Bump);

impl<'de> DeserializeSeed<'de> for Name<'de> {
    type Value = &'de str;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<&'de str, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for Name<'de> {
    type Value = &'de str;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a string")
    }

    fn visit_borrowed_str<E>(self, name: &'de str) -> Result<&'de str, E> {
        Ok(name)
    }

    fn visit_str<E>(self, name: &str) -> Result<&'de str, E> {
        Ok(self.0.alloc_str(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Value, String> {
        let usual = Json::parse(text, &Bump::new(), Reading::Usual).map(Json::to_value);
        match Json::parse(text, &Bump::new(), Reading::Any).map(Json::to_value) {
            Ok(whole) => {
                assert!(
                    usual.is_err() || usual.is_ok_and(|usual| usual == whole),
                    "{text}"
                );
                Ok(whole)
            }
            Err(TreeError::TooMany) => Err("too many".to_owned()),
            Err(TreeError::Syntax(error)) => Err(error.to_string()),
            Err(TreeError::Unusual) => Err("unusual".to_owned()),
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
    fn the_last_field_of_a_name_counts_and_each_is_found_among_few_or_many() {
        let of = |sign: &str, count: usize| -> Vec<String> {
            (0..count)
                .map(|index| format!(r#""name-{index}":{sign}{index}"#))
                .collect()
        };
        for count in [1, FEW, FEW + 1, SORTS, 254, 255, 256, 1_000] {
            let (once, before) = (of("", count), of("-1", count));
            for fields in [once.clone(), [before, once].concat()] {
                let text = format!("{{{}}}", fields.join(","));
                for reading in [Reading::Usual, Reading::Any] {
                    let room = Bump::new();
                    let tree = Json::parse(&text, &room, reading).unwrap();
                    let fields = tree.as_object().unwrap();
                    for index in 0..count {
                        let found = fields.get(&format!("name-{index}")).copied();
                        assert_eq!(found.map(Json::to_value), Some(index.into()), "{count}");
                    }
                    for absent in ["name", "name-", "name-00", "namf-0", ""] {
                        assert!(!fields.contains_key(absent), "{count} {absent}");
                    }
                }
            }
        }
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
