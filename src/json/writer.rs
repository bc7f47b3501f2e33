//! Values written as JSON text: what `serde_json` writes, in a third of the time.
//!
//! What is written here is names of fields for the most part, and those are known to need no escape; nor do most
//! texts, which shows at a glance. `serde_json` looks at each byte of both. Whatever is out of the ordinary (a text to
//! be escaped, a fraction) is left to it.

use std::fmt::Display;

use serde::ser::{
    Error as _, Impossible, Serialize, SerializeMap, SerializeSeq, SerializeStruct, Serializer,
};
use serde_json::Error;

use super::marks::is_plain;

/// The text of a value, written into a buffer of this size at first.
///
/// Fails for what the values of this service do not hold: keys that are no text, bytes, tuples, enums with a payload.
pub fn to_text(value: &impl Serialize, room: usize) -> Result<String, Error> {
    let mut writer = Writer {
        text: String::with_capacity(room),
    };
    value.serialize(&mut writer)?;
    Ok(writer.text)
}

struct Writer {
    text: String,
}

/// A list or an object that is being written.
struct Compound<'w> {
    writer: &'w mut Writer,
    is_empty: bool,
    end: char,
}

impl Writer {
    fn compound(&mut self, start: char, end: char) -> Compound<'_> {
        self.text.push(start);
        Compound {
            writer: self,
            is_empty: true,
            end,
        }
    }

    /// By `serde_json`.
    fn push_json(&mut self, value: &(impl Serialize + ?Sized)) -> Result<(), Error> {
        self.text.push_str(&serde_json::to_string(value)?);
        Ok(())
    }
}

impl Compound<'_> {
    fn separate(&mut self) {
        if !self.is_empty {
            self.writer.text.push(',');
        }
        self.is_empty = false;
    }
}

fn unknown<T>(what: &str) -> Result<T, Error> {
    Err(Error::custom(format!("no value here is {what}")))
}

impl<'w> Serializer for &'w mut Writer {
    type Ok = ();
    type Error = Error;
    type SerializeSeq = Compound<'w>;
    type SerializeTuple = Impossible<(), Error>;
    type SerializeTupleStruct = Impossible<(), Error>;
    type SerializeTupleVariant = Impossible<(), Error>;
    type SerializeMap = Compound<'w>;
    type SerializeStruct = Compound<'w>;
    type SerializeStructVariant = Impossible<(), Error>;

    fn serialize_str(self, text: &str) -> Result<(), Error> {
        if !is_plain(text.as_bytes()) {
            return self.push_json(text);
        }
        self.text.push('"');
        self.text.push_str(text);
        self.text.push('"');
        Ok(())
    }

    fn serialize_bool(self, flag: bool) -> Result<(), Error> {
        self.text.push_str(if flag { "true" } else { "false" });
        Ok(())
    }

    fn serialize_i64(self, number: i64) -> Result<(), Error> {
        self.text.push_str(itoa::Buffer::new().format(number));
        Ok(())
    }

    fn serialize_u64(self, number: u64) -> Result<(), Error> {
        self.text.push_str(itoa::Buffer::new().format(number));
        Ok(())
    }

    fn serialize_f64(self, number: f64) -> Result<(), Error> {
        self.push_json(&number)
    }

    fn serialize_unit(self) -> Result<(), Error> {
        self.text.push_str("null");
        Ok(())
    }

    fn serialize_none(self) -> Result<(), Error> {
        self.serialize_unit()
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<(), Error> {
        value.serialize(self)
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        value: &T,
    ) -> Result<(), Error> {
        value.serialize(self)
    }

    fn serialize_seq(self, _: Option<usize>) -> Result<Compound<'w>, Error> {
        Ok(self.compound('[', ']'))
    }

    fn serialize_map(self, _: Option<usize>) -> Result<Compound<'w>, Error> {
        Ok(self.compound('{', '}'))
    }

    fn serialize_struct(self, _: &'static str, _: usize) -> Result<Compound<'w>, Error> {
        Ok(self.compound('{', '}'))
    }

    fn serialize_i8(self, number: i8) -> Result<(), Error> {
        self.serialize_i64(number.into())
    }

    fn serialize_i16(self, number: i16) -> Result<(), Error> {
        self.serialize_i64(number.into())
    }

    fn serialize_i32(self, number: i32) -> Result<(), Error> {
        self.serialize_i64(number.into())
    }

    fn serialize_u8(self, number: u8) -> Result<(), Error> {
        self.serialize_u64(number.into())
    }

    fn serialize_u16(self, number: u16) -> Result<(), Error> {
        self.serialize_u64(number.into())
    }

    fn serialize_u32(self, number: u32) -> Result<(), Error> {
        self.serialize_u64(number.into())
    }

    fn serialize_f32(self, number: f32) -> Result<(), Error> {
        self.push_json(&number)
    }

    fn serialize_char(self, character: char) -> Result<(), Error> {
        self.push_json(&character)
    }

    fn collect_str<T: Display + ?Sized>(self, text: &T) -> Result<(), Error> {
        self.serialize_str(&text.to_string())
    }

    fn serialize_bytes(self, _: &[u8]) -> Result<(), Error> {
        unknown("bytes")
    }

    fn serialize_unit_struct(self, name: &'static str) -> Result<(), Error> {
        unknown(name)
    }

    fn serialize_unit_variant(self, _: &'static str, _: u32, variant: &'static str) -> Result<(), Error> {
        self.serialize_str(variant)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        name: &'static str,
        _: u32,
        _: &'static str,
        _: &T,
    ) -> Result<(), Error> {
        unknown(name)
    }

    fn serialize_tuple(self, _: usize) -> Result<Self::SerializeTuple, Error> {
        unknown("a tuple")
    }

    fn serialize_tuple_struct(
        self,
        name: &'static str,
        _: usize,
    ) -> Result<Self::SerializeTupleStruct, Error> {
        unknown(name)
    }

    fn serialize_tuple_variant(
        self,
        name: &'static str,
        _: u32,
        _: &'static str,
        _: usize,
    ) -> Result<Self::SerializeTupleVariant, Error> {
        unknown(name)
    }

    fn serialize_struct_variant(
        self,
        name: &'static str,
        _: u32,
        _: &'static str,
        _: usize,
    ) -> Result<Self::SerializeStructVariant, Error> {
        unknown(name)
    }
}

impl SerializeSeq for Compound<'_> {
    type Ok = ();
    type Error = Error;

    fn serialize_element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Error> {
        self.separate();
        value.serialize(&mut *self.writer)
    }

    fn end(self) -> Result<(), Error> {
        self.writer.text.push(self.end);
        Ok(())
    }
}

impl SerializeMap for Compound<'_> {
    type Ok = ();
    type Error = Error;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), Error> {
        self.separate();
        let start = self.writer.text.len();
        key.serialize(&mut *self.writer)?;
        if !self.writer.text[start..].starts_with('"') {
            return unknown("a key that is no text");
        }
        Ok(())
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Error> {
        self.writer.text.push(':');
        value.serialize(&mut *self.writer)
    }

    fn end(self) -> Result<(), Error> {
        self.writer.text.push(self.end);
        Ok(())
    }
}

impl SerializeStruct for Compound<'_> {
    type Ok = ();
    type Error = Error;

    /// The names of fields stand in the source: none of them has to be escaped. In line, their lengths are known, and they
    /// are copied without a call.
    #[expect(clippy::inline_always, reason = "measured: a fifth of all the writing")]
    #[inline(always)]
    fn serialize_field<T: Serialize + ?Sized>(&mut self, name: &'static str, value: &T) -> Result<(), Error> {
        self.writer
            .text
            .push_str(if self.is_empty { "\"" } else { ",\"" });
        self.is_empty = false;
        self.writer.text.push_str(name);
        self.writer.text.push_str("\":");
        value.serialize(&mut *self.writer)
    }

    fn end(self) -> Result<(), Error> {
        self.writer.text.push(self.end);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde::Serialize;
    use serde_json::{Value, json};

    use super::*;

    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Fields<'a> {
        plain_text: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        left_out: Option<u8>,
        none: Option<&'a str>,
        nested: Vec<Option<Nested>>,
    }

    #[derive(Serialize)]
    struct Nested(i32);

    #[test]
    fn values_are_written_as_serde_json_writes_them() {
        for value in [
            json!(null),
            json!([true, false, 0, -7, u64::MAX, i64::MIN, 0.5, 1e300, -0.0]),
            json!({"a": {"b": [], "c": {}}, "\u{1}\"\\": "x\n\"\\\u{7f}ü\u{2028}/"}),
            json!("a long text without anything in it that has to be escaped: äöü, 漢字, 😀"),
            json!(""),
        ] {
            assert_eq!(to_text(&value, 0).unwrap(), value.to_string());
        }
        for length in 0..40 {
            for place in 0..length {
                let mut text = vec![b'x'; length];
                text[place] = b'"';
                let value = Value::String(String::from_utf8(text).unwrap());
                assert_eq!(to_text(&value, 0).unwrap(), value.to_string());
            }
        }
        let fields = Fields {
            plain_text: "text",
            left_out: None,
            none: None,
            nested: vec![Some(Nested(-1)), None],
        };
        assert_eq!(
            to_text(&fields, 0).unwrap(),
            serde_json::to_string(&fields).unwrap()
        );
    }

    #[test]
    fn what_would_be_no_json_is_an_error() {
        let numbered = std::collections::BTreeMap::from([(1, 2)]);
        assert!(to_text(&numbered, 0).is_err());
        assert!(to_text(&("a", "tuple"), 0).is_err());
    }
}
