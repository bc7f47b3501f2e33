//! A field of a JSON object, read without deciding yet whether a value of another kind is a fault.
//!
//! `serde`'s derive refuses the whole message for a repeated field, or for a value of the wrong kind that nobody asks for.
//! JavaScript takes the last of a repeated field, and an event that changes nothing here may hold anything. So an object
//! reads the fields it knows into [`Field`]s. Whoever needs a value reports the fault, which knows the field's name.

use std::borrow::Cow;
use std::fmt::{Formatter, Result as FmtResult};
use std::marker::PhantomData;

use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
use serde::de::{Deserialize, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Number;

use super::MalformedBody;
use crate::entitlement::{Given, RawJson};

#[derive(Debug, Default)]
pub(super) enum Field<T> {
    #[default]
    Absent,
    Null,
    Value(T),
    /// A value that a `T` cannot be read from. Thin references keep a field hardly larger than its value.
    Other {
        key: &'static &'static str,
        found: &'static &'static str,
    },
}

/// What is read from a JSON value of one kind. Every kind that is not overridden is the wrong one.
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
        IgnoredAny.visit_seq(list).map(|_| None)
    }

    /// `levels`: how many objects may be read inside one another, for a type that holds itself.
    fn from_object<A: MapAccess<'de>>(object: A, _levels: usize) -> Result<Option<Self>, A::Error> {
        IgnoredAny.visit_map(object).map(|_| None)
    }
}

impl<'de, T: FromJson<'de>> Deserialize<'de> for Field<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        FieldSeed::levels(0).deserialize(deserializer)
    }
}

pub(super) struct FieldSeed<T>(usize, PhantomData<T>);

impl<T> FieldSeed<T> {
    pub(super) fn levels(levels: usize) -> Self {
        Self(levels, PhantomData)
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
        Ok(Field::new(T::from_bool(flag), &"true or false"))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Field<T>, E> {
        Ok(Field::new(T::from_number(number.into()), &"a number"))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Field<T>, E> {
        Ok(Field::new(T::from_number(number.into()), &"a number"))
    }

    fn visit_f64<E>(self, number: f64) -> Result<Field<T>, E> {
        let number = Number::from_f64(number).and_then(T::from_number);
        Ok(Field::new(number, &"a number"))
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Field<T>, E> {
        Ok(Field::new(T::from_text(Cow::Borrowed(text)), &"text"))
    }

    fn visit_str<E>(self, text: &str) -> Result<Field<T>, E> {
        Ok(Field::new(T::from_text(Cow::Owned(text.to_owned())), &"text"))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Field<T>, A::Error> {
        Ok(Field::new(T::from_list(list)?, &"a list"))
    }

    fn visit_map<A: MapAccess<'de>>(self, object: A) -> Result<Field<T>, A::Error> {
        Ok(Field::new(T::from_object(object, self.0)?, &"an object"))
    }
}

impl<T> Field<T> {
    fn new(value: Option<T>, found: &'static &'static str) -> Self {
        value.map_or(Self::Other { key: &"", found }, Self::Value)
    }

    pub(super) fn named(mut self, name: &'static &'static str) -> Self {
        if let Self::Other { key, .. } = &mut self {
            *key = name;
        }
        self
    }

    /// The value, if it is one of the right kind.
    pub(super) fn if_valid(&self) -> Option<&T> {
        if let Self::Value(value) = self {
            Some(value)
        } else {
            None
        }
    }

    pub(super) fn into_value(self) -> Option<T> {
        if let Self::Value(value) = self {
            Some(value)
        } else {
            None
        }
    }

    pub(super) fn is_present(&self) -> bool {
        matches!(self, Self::Value(_) | Self::Other { .. })
    }
}

impl<'de, T: FromJson<'de>> Field<T> {
    /// The value; none if the field is absent or null. A value of another kind is a fault.
    pub(super) fn get(&self) -> Result<Option<&T>, MalformedBody> {
        if let Self::Other { key, found } = self {
            return Err(MalformedBody::at(
                key,
                format!("expected {}, found {found}", T::WANTED),
            ));
        }
        Ok(self.if_valid())
    }

    pub(super) fn take(self) -> Result<Option<T>, MalformedBody> {
        self.get()?;
        Ok(self.into_value())
    }

    /// The value where readers tell an absent field from a null one.
    pub(super) fn given(self) -> Result<Given<T>, MalformedBody> {
        self.get()?;
        let absent = if self.is_absent() {
            Given::Absent
        } else {
            Given::Null
        };
        Ok(self.into_value().map_or(absent, Given::Value))
    }

    pub(super) fn is_absent(&self) -> bool {
        matches!(self, Self::Absent)
    }
}

impl Field<Cow<'_, str>> {
    /// The text; none if it is empty: an empty id or reason says as little as an absent one.
    pub(super) fn text(&self) -> Result<Option<&str>, MalformedBody> {
        self.get()?;
        Ok(self.caption())
    }

    /// The same for a text that only people read: one of another kind is left out.
    pub(super) fn caption(&self) -> Option<&str> {
        self.if_valid()
            .map(AsRef::as_ref)
            .filter(|text: &&str| !text.is_empty())
    }
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

/// A list that is passed on as it is.
#[derive(Debug)]
pub(super) struct RawList(pub(super) RawJson);

impl<'de> FromJson<'de> for RawList {
    const WANTED: &'static str = "a list";

    fn from_list<A: SeqAccess<'de>>(list: A) -> Result<Option<Self>, A::Error> {
        let list = RawJson::deserialize(SeqAccessDeserializer::new(list))?;
        Ok(Some(Self(list)))
    }
}

/// An object that is passed on as it is.
#[derive(Debug)]
pub(super) struct RawObject(pub(super) RawJson);

impl<'de> FromJson<'de> for RawObject {
    const WANTED: &'static str = "an object";

    fn from_object<A: MapAccess<'de>>(object: A, _levels: usize) -> Result<Option<Self>, A::Error> {
        let object = RawJson::deserialize(MapAccessDeserializer::new(object))?;
        Ok(Some(Self(object)))
    }
}

/// Spells a number as `JSON.stringify` does where that matters to a reader: a whole number that came with a fraction
/// of zero (`42.0`) is an integer. Beyond 2^53 a float is no longer known to be whole: it stays.
pub(super) fn as_javascript(number: Number) -> Number {
    const WHOLE_MAX: f64 = 9_007_199_254_740_992.0;
    let float = number.as_f64().filter(|_| number.is_f64());
    match float.filter(|float| float.fract() == 0.0 && float.abs() <= WHOLE_MAX) {
        #[expect(clippy::cast_possible_truncation, reason = "whole and within 2^53: exact")]
        Some(whole) => (whole as i64).into(),
        None => number,
    }
}

/// The next key of an object.
pub(super) fn next_key<'de, A: MapAccess<'de>>(object: &mut A) -> Result<Option<Cow<'de, str>>, A::Error> {
    Ok(object
        .next_key::<Field<Cow<'de, str>>>()?
        .and_then(Field::into_value))
}

/// Declares an object of a message: its fields, and the name that each has in JSON.
macro_rules! object {
    ($(#[$meta:meta])* $name:ident { $($field:ident: $type:ty = $key:literal,)* }) => {
        $(#[$meta])*
        #[derive(Debug, Default)]
        pub(super) struct $name<'a> {
            $(pub(super) $field: Field<$type>,)*
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
                while let Some(key) = next_key(&mut object)? {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_whole_float_is_spelled_as_an_integer_and_every_other_number_is_kept() {
        for (given, spelled) in [
            ("42.0", "42"),
            ("-0.0", "0"),
            ("1e3", "1000"),
            ("9007199254740992.0", "9007199254740992"),
            ("7.5", "7.5"),
            ("-3", "-3"),
            ("18446744073709551615", "18446744073709551615"),
            ("1e300", "1e+300"),
        ] {
            let number: Number = serde_json::from_str(given).unwrap();
            assert_eq!(as_javascript(number).to_string(), spelled);
        }
    }

    #[test]
    fn a_text_is_known_from_an_empty_an_absent_and_a_wrong_one() {
        let field = |json: &'static str| {
            serde_json::from_str::<Field<Cow<'static, str>>>(json)
                .unwrap()
                .named(&"x")
        };
        assert_eq!(field("\"a\"").text(), Ok(Some("a")));
        assert_eq!(field("\"\"").text(), Ok(None));
        assert_eq!(field("null").text(), Ok(None));
        assert_eq!(
            field("5").text().unwrap_err().to_string(),
            "x: expected text, found a number"
        );
        assert_eq!(field("5").caption(), None);
        assert_eq!(field("null").given(), Ok(Given::Null));
        assert_eq!(field("\"\"").given(), Ok(Given::Value("".into())));
    }

    #[test]
    fn a_place_is_a_path_from_the_body_to_the_field() {
        let fault = MalformedBody::at("usageLimit", "missing")
            .within("[3]")
            .within("entitlements")
            .within("data");
        assert_eq!(fault.place, "data.entitlements[3].usageLimit");
        assert_eq!(fault.within("").place, "data.entitlements[3].usageLimit");
        assert_eq!(
            MalformedBody::at("", "missing")
                .within("[3]")
                .within("list")
                .place,
            "list[3]"
        );
    }
}
