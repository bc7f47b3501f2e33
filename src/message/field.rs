//! Reading one field of a JSON object without deciding yet whether a value of another kind is a fault.
//!
//! `serde`'s derive refuses the whole message for a repeated field or for a value of the wrong kind, even where nobody
//! asks for that field. JavaScript takes the last of a repeated field, and a field of an event that changes nothing
//! here may hold anything. So an object reads each field it knows into a [`Field`], and the conversion that needs it
//! reports the fault, with its location.

use std::borrow::Cow;
use std::fmt::{Formatter, Result as FmtResult};
use std::marker::PhantomData;

use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
use serde::de::{Deserialize, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Number;

use super::MalformedBody;
use crate::entitlement::{Given, RawJson};

/// A field as the message has it.
#[derive(Debug, Default)]
pub(super) enum Field<T> {
    #[default]
    Absent,
    Null,
    Value(T),
    /// A value of a kind that a `T` cannot be read from, and the name of the field (a thin reference, so that a field is
    /// hardly larger than its value).
    Other {
        key: &'static &'static str,
        found: Kind,
    },
}

/// A kind of JSON value.
#[derive(Debug, Clone, Copy)]
pub(super) enum Kind {
    Bool,
    Number,
    Text,
    List,
    Object,
}

/// What a JSON value of the right kind is read into. Every kind that is not overridden is the wrong one.
pub(super) trait FromJson<'de>: Sized {
    /// The right kind, for the fault of a wrong one.
    const WANTED: &'static str;

    fn from_bool(_: bool) -> Option<Self> {
        None
    }

    fn from_number(_: Number) -> Option<Self> {
        None
    }

    fn from_text(_: Cow<'de, str>) -> Option<Self> {
        None
    }

    fn from_list<A: SeqAccess<'de>>(list: A) -> Result<Option<Self>, A::Error> {
        IgnoredAny.visit_seq(list)?;
        Ok(None)
    }

    /// `levels`: how many objects may be read inside one another, for a type that holds itself.
    fn from_object<A: MapAccess<'de>>(object: A, _levels: usize) -> Result<Option<Self>, A::Error> {
        IgnoredAny.visit_map(object)?;
        Ok(None)
    }
}

impl<'de, T: FromJson<'de>> Deserialize<'de> for Field<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        FieldSeed::new(0).deserialize(deserializer)
    }
}

/// Reads a field.
pub(super) struct FieldSeed<T> {
    levels: usize,
    _reads: PhantomData<T>,
}

impl<T> FieldSeed<T> {
    pub(super) fn new(levels: usize) -> Self {
        Self {
            levels,
            _reads: PhantomData,
        }
    }
}

impl<'de, T: FromJson<'de>> DeserializeSeed<'de> for FieldSeed<T> {
    type Value = Field<T>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Field<T>, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de, T: FromJson<'de>> Visitor<'de> for FieldSeed<T> {
    type Value = Field<T>;

    fn expecting(&self, formatter: &mut Formatter<'_>) -> FmtResult {
        formatter.write_str("any JSON value")
    }

    fn visit_unit<E>(self) -> Result<Field<T>, E> {
        Ok(Field::Null)
    }

    fn visit_bool<E>(self, flag: bool) -> Result<Field<T>, E> {
        Ok(Field::new(T::from_bool(flag), Kind::Bool))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Field<T>, E> {
        Ok(Field::new(T::from_number(number.into()), Kind::Number))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Field<T>, E> {
        Ok(Field::new(T::from_number(number.into()), Kind::Number))
    }

    fn visit_f64<E>(self, number: f64) -> Result<Field<T>, E> {
        let number = Number::from_f64(number);
        Ok(Field::new(number.and_then(T::from_number), Kind::Number))
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Field<T>, E> {
        Ok(Field::new(T::from_text(Cow::Borrowed(text)), Kind::Text))
    }

    fn visit_str<E>(self, text: &str) -> Result<Field<T>, E> {
        Ok(Field::new(T::from_text(Cow::Owned(text.to_owned())), Kind::Text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Field<T>, A::Error> {
        Ok(Field::new(T::from_list(list)?, Kind::List))
    }

    fn visit_map<A: MapAccess<'de>>(self, object: A) -> Result<Field<T>, A::Error> {
        Ok(Field::new(T::from_object(object, self.levels)?, Kind::Object))
    }
}

impl<T> Field<T> {
    fn new(value: Option<T>, found: Kind) -> Self {
        value.map_or(Self::Other { key: &"", found }, Self::Value)
    }

    /// The same field with its name, for a fault.
    #[inline]
    pub(super) fn named(mut self, name: &'static &'static str) -> Self {
        if let Self::Other { key, .. } = &mut self {
            *key = name;
        }
        self
    }

    /// The value, if it is one of the right kind.
    pub(super) fn if_valid(&self) -> Option<&T> {
        match self {
            Self::Value(value) => Some(value),
            Self::Absent | Self::Null | Self::Other { .. } => None,
        }
    }

    /// The same, taken out.
    pub(super) fn into_value(self) -> Option<T> {
        match self {
            Self::Value(value) => Some(value),
            Self::Absent | Self::Null | Self::Other { .. } => None,
        }
    }

    /// True unless the field is absent or null.
    pub(super) fn is_present(&self) -> bool {
        matches!(self, Self::Value(_) | Self::Other { .. })
    }
}

impl<'de, T: FromJson<'de>> Field<T> {
    /// The value; none if the field is absent or null. A value of another kind is a fault.
    pub(super) fn get(&self) -> Result<Option<&T>, MalformedBody> {
        match self {
            Self::Absent | Self::Null => Ok(None),
            Self::Value(value) => Ok(Some(value)),
            Self::Other { key, found } => Err(unexpected::<T>(key, *found)),
        }
    }

    /// The same, taken out.
    pub(super) fn take(self) -> Result<Option<T>, MalformedBody> {
        match self {
            Self::Absent | Self::Null => Ok(None),
            Self::Value(value) => Ok(Some(value)),
            Self::Other { key, found } => Err(unexpected::<T>(key, found)),
        }
    }

    /// The same, where readers tell an absent field from a null one.
    pub(super) fn given(self) -> Result<Given<T>, MalformedBody> {
        match self {
            Self::Absent => Ok(Given::Absent),
            Self::Null => Ok(Given::Null),
            Self::Value(value) => Ok(Given::Value(value)),
            Self::Other { key, found } => Err(unexpected::<T>(key, found)),
        }
    }
}

impl Field<Cow<'_, str>> {
    /// The text; none if it is empty: an empty id or reason says as little as an absent one.
    pub(super) fn text(&self) -> Result<Option<&str>, MalformedBody> {
        Ok(self
            .get()?
            .map(AsRef::as_ref)
            .filter(|text: &&str| !text.is_empty()))
    }

    /// The same for a text that only people read: one of another kind is left out.
    pub(super) fn caption(&self) -> Option<&str> {
        self.if_valid()
            .map(AsRef::as_ref)
            .filter(|text: &&str| !text.is_empty())
    }
}

fn unexpected<'de, T: FromJson<'de>>(key: &str, found: Kind) -> MalformedBody {
    let found = match found {
        Kind::Bool => "true or false",
        Kind::Number => "a number",
        Kind::Text => "text",
        Kind::List => "a list",
        Kind::Object => "an object",
    };
    MalformedBody::at(key, format!("expected {}, found {found}", T::WANTED))
}

impl FromJson<'_> for bool {
    const WANTED: &'static str = "true or false";

    fn from_bool(flag: bool) -> Option<Self> {
        Some(flag)
    }
}

impl FromJson<'_> for Number {
    const WANTED: &'static str = "a number";

    fn from_number(number: Number) -> Option<Self> {
        Some(as_javascript(number))
    }
}

impl<'de> FromJson<'de> for Cow<'de, str> {
    const WANTED: &'static str = "text";

    fn from_text(text: Cow<'de, str>) -> Option<Self> {
        Some(text)
    }
}

/// Any value, passed on as it is.
impl<'de> FromJson<'de> for RawJson {
    const WANTED: &'static str = "any value";

    fn from_bool(flag: bool) -> Option<Self> {
        Self::new(&flag).ok()
    }

    fn from_number(number: Number) -> Option<Self> {
        Self::new(&as_javascript(number)).ok()
    }

    fn from_text(text: Cow<'de, str>) -> Option<Self> {
        Self::new(&text).ok()
    }

    fn from_list<A: SeqAccess<'de>>(list: A) -> Result<Option<Self>, A::Error> {
        Self::deserialize(SeqAccessDeserializer::new(list)).map(Some)
    }

    fn from_object<A: MapAccess<'de>>(object: A, _levels: usize) -> Result<Option<Self>, A::Error> {
        Self::deserialize(MapAccessDeserializer::new(object)).map(Some)
    }
}

/// A list that is passed on as it is.
#[derive(Debug)]
pub(super) struct RawList(pub(super) RawJson);

impl<'de> FromJson<'de> for RawList {
    const WANTED: &'static str = "a list";

    fn from_list<A: SeqAccess<'de>>(list: A) -> Result<Option<Self>, A::Error> {
        Ok(RawJson::from_list(list)?.map(Self))
    }
}

/// An object that is passed on as it is.
#[derive(Debug)]
pub(super) struct RawObject(pub(super) RawJson);

impl<'de> FromJson<'de> for RawObject {
    const WANTED: &'static str = "an object";

    fn from_object<A: MapAccess<'de>>(object: A, levels: usize) -> Result<Option<Self>, A::Error> {
        Ok(RawJson::from_object(object, levels)?.map(Self))
    }
}

/// Spells a number as `JSON.stringify` does where that matters to a reader: a whole number that came with a fraction
/// of zero (`42.0`) is an integer. Beyond 2^53 a float is no longer known to be whole: it stays.
pub(super) fn as_javascript(number: Number) -> Number {
    const WHOLE_MAX: f64 = 9_007_199_254_740_992.0;
    if !number.is_f64() {
        return number;
    }
    match number.as_f64() {
        Some(float) if float.fract() == 0.0 && float.abs() <= WHOLE_MAX => {
            #[expect(clippy::cast_possible_truncation, reason = "whole and within 2^53: exact")]
            let whole = float as i64;
            whole.into()
        }
        _ => number,
    }
}

/// The name of a field, borrowed where it has no escape.
pub(super) struct Key<'de>(pub(super) Cow<'de, str>);

impl<'de> Deserialize<'de> for Key<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct KeyVisitor;

        impl<'de> Visitor<'de> for KeyVisitor {
            type Value = Key<'de>;

            fn expecting(&self, formatter: &mut Formatter<'_>) -> FmtResult {
                formatter.write_str("a field's name")
            }

            fn visit_borrowed_str<E>(self, name: &'de str) -> Result<Key<'de>, E> {
                Ok(Key(Cow::Borrowed(name)))
            }

            fn visit_str<E>(self, name: &str) -> Result<Key<'de>, E> {
                Ok(Key(Cow::Owned(name.to_owned())))
            }
        }

        deserializer.deserialize_str(KeyVisitor)
    }
}

/// Declares an object of a message: its fields, and the name that each has in JSON.
macro_rules! object {
    ($(#[$meta:meta])* $name:ident { $($(#[$field_meta:meta])* $field:ident: $type:ty = $key:literal,)* }) => {
        $(#[$meta])*
        #[derive(Debug, Default)]
        pub(super) struct $name<'a> {
            $($(#[$field_meta])* pub(super) $field: Field<$type>,)*
            _borrows: std::marker::PhantomData<&'a ()>,
        }

        impl<'a> $name<'a> {
            /// Reads the value of a field; of a repeated one the last counts. False if the field is not known.
            fn read<A: MapAccess<'a>>(&mut self, key: &str, object: &mut A) -> Result<bool, A::Error> {
                match key {
                    $($key => self.$field = object.next_value::<Field<$type>>()?.named(&$key),)*
                    _ => return Ok(false),
                }
                Ok(true)
            }
        }

        /// In place: the larger ones would be copied several times.
        impl<'a> FromJson<'a> for Box<$name<'a>> {
            const WANTED: &'static str = "an object";

            fn from_object<A: MapAccess<'a>>(mut object: A, _levels: usize) -> Result<Option<Self>, A::Error> {
                let mut read: Self = Box::default();
                while let Some(Key(key)) = object.next_key()? {
                    if !read.read(&key, &mut object)? {
                        object.next_value::<IgnoredAny>()?;
                    }
                }
                Ok(Some(read))
            }
        }
    };
}

pub(super) use object;
