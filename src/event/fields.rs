//! Typed access to the fields of a JSON object: gives the value and names the field when the
//! value is not of the kind that is needed there.
//!
//! The rule for what is odd: absent and null are the same unless a reader tells them apart ([`Given`]); a date
//! that is none is missing, as it is for the SDKs; any other wrong kind is refused, since writing a guess to the
//! cache would be an answer nobody gave.
#![expect(
    clippy::inline_always,
    reason = "measured: an eighth of reading and deciding a list, as the names that are asked for stand in the source"
)]

use serde_json::Number;

pub(super) use super::tree::Fields;
use super::tree::Json;
use super::{MalformedBody, dates};
use crate::entitlement::{EpochMs, Given};

/// A field that is neither absent nor null.
#[inline(always)]
fn present<'a>(fields: &Fields<'a>, key: &str) -> Option<&'a Json<'a>> {
    fields.get(key).filter(|value| !value.is_null())
}

/// A text that is not empty: an empty id or reason says as little as an absent one.
#[inline(always)]
pub(super) fn text<'a, T: From<&'a str>>(fields: &Fields<'a>, key: &str) -> Result<Option<T>, MalformedBody> {
    match present(fields, key) {
        None => Ok(None),
        Some(Json::Text(text)) => Ok(Some(*text).filter(|text| !text.is_empty()).map(T::from)),
        Some(other) => Err(unexpected(key, "text", other)),
    }
}

/// A text that only people read (a name, a unit): one of the wrong kind is left out, as no decision hangs on it.
#[inline(always)]
pub(super) fn caption<'a, T: From<&'a str>>(fields: &Fields<'a>, key: &str) -> Option<T> {
    match present(fields, key) {
        Some(Json::Text(text)) if !text.is_empty() => Some(T::from(text)),
        _ => None,
    }
}

/// A text whose absence and null are told apart.
#[inline(always)]
pub(super) fn given_text<'a, T: From<&'a str>>(
    fields: &Fields<'a>,
    key: &str,
) -> Result<Given<T>, MalformedBody> {
    match fields.get(key) {
        None => Ok(Given::Absent),
        Some(Json::Null) => Ok(Given::Null),
        Some(Json::Text(text)) => Ok(Given::Value(T::from(text))),
        Some(other) => Err(unexpected(key, "text", other)),
    }
}

/// A number, spelled as JavaScript would spell it.
#[inline(always)]
pub(super) fn number(fields: &Fields<'_>, key: &str) -> Result<Option<Number>, MalformedBody> {
    match present(fields, key) {
        None => Ok(None),
        Some(Json::Number(number)) => Ok(Some(as_javascript(number))),
        Some(other) => Err(unexpected(key, "a number", other)),
    }
}

/// A number whose absence and null are told apart.
#[inline(always)]
pub(super) fn given_number(fields: &Fields<'_>, key: &str) -> Result<Given<Number>, MalformedBody> {
    match fields.get(key) {
        None => Ok(Given::Absent),
        Some(Json::Null) => Ok(Given::Null),
        Some(Json::Number(number)) => Ok(Given::Value(as_javascript(number))),
        Some(other) => Err(unexpected(key, "a number", other)),
    }
}

/// A flag whose absence and null are told apart.
#[inline(always)]
pub(super) fn given_flag(fields: &Fields<'_>, key: &str) -> Result<Given<bool>, MalformedBody> {
    match fields.get(key) {
        None => Ok(Given::Absent),
        Some(Json::Null) => Ok(Given::Null),
        Some(Json::Bool(flag)) => Ok(Given::Value(*flag)),
        Some(other) => Err(unexpected(key, "true or false", other)),
    }
}

/// A flag that is false where it is not given.
#[inline(always)]
pub(super) fn flag(fields: &Fields<'_>, key: &str) -> Result<bool, MalformedBody> {
    Ok(matches!(given_flag(fields, key)?, Given::Value(true)))
}

/// A date in any of the forms of [`dates`]; one that is none is missing.
#[inline(always)]
pub(super) fn date(fields: &Fields<'_>, key: &str) -> Option<EpochMs> {
    present(fields, key).and_then(dates::of)
}

/// An object.
#[inline(always)]
pub(super) fn object<'a>(fields: &Fields<'a>, key: &str) -> Result<Option<Fields<'a>>, MalformedBody> {
    match present(fields, key) {
        None => Ok(None),
        Some(Json::Object(object)) => Ok(Some(*object)),
        Some(other) => Err(unexpected(key, "an object", other)),
    }
}

/// A list.
#[inline(always)]
pub(super) fn list<'a>(fields: &Fields<'a>, key: &str) -> Result<Option<&'a [Json<'a>]>, MalformedBody> {
    match present(fields, key) {
        None => Ok(None),
        Some(Json::List(list)) => Ok(Some(list)),
        Some(other) => Err(unexpected(key, "a list", other)),
    }
}

/// The fields of a value that has to be an object.
pub(super) fn of_object<'a>(value: &Json<'a>) -> Result<Fields<'a>, MalformedBody> {
    value
        .as_object()
        .ok_or_else(|| unexpected("", "an object", value))
}

/// The fault of a value that is not of the kind that is needed.
pub(super) fn unexpected(place: &str, wanted: &str, found: &Json<'_>) -> MalformedBody {
    let found = match found {
        Json::Null => "null",
        Json::Bool(_) => "true or false",
        Json::Number(_) => "a number",
        Json::Text(_) => "text",
        Json::List(_) => "a list",
        Json::Object(_) => "an object",
    };
    MalformedBody::at(place, format!("expected {wanted}, found {found}"))
}

/// Spells a number as `JSON.stringify` does where that matters to a reader: a whole number that came with a
/// fraction of zero (`42.0`) is an integer. Beyond 2^53 a float is no longer known to be whole: it stays.
pub(super) fn as_javascript(number: &Number) -> Number {
    const WHOLE_MAX: f64 = 9_007_199_254_740_992.0;
    if !number.is_f64() {
        return number.clone();
    }
    match number.as_f64() {
        Some(float) if float.fract() == 0.0 && float.abs() <= WHOLE_MAX => {
            #[expect(clippy::cast_possible_truncation, reason = "whole and within 2^53: exact")]
            let whole = float as i64;
            whole.into()
        }
        _ => number.clone(),
    }
}

impl MalformedBody {
    /// A fault at a field.
    pub(super) fn at(place: &str, problem: impl Into<String>) -> Self {
        Self {
            place: place.to_owned(),
            problem: problem.into(),
        }
    }

    /// The same fault, seen from the object that holds `outer`. Paths are put together this way, from the inside
    /// out, so that a message without a fault pays nothing for them.
    pub(super) fn within(mut self, outer: &str) -> Self {
        if self.place.is_empty() {
            outer.clone_into(&mut self.place);
        } else if !outer.is_empty() {
            let separator = if self.place.starts_with('[') { "" } else { "." };
            self.place = format!("{outer}{separator}{}", self.place);
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use bumpalo::Bump;
    use serde_json::json;

    use super::super::tree::Reading;
    use super::*;

    fn fields(value: &serde_json::Value) -> Fields<'static> {
        let room = Box::leak(Box::new(Bump::new()));
        let tree = Json::parse(room.alloc_str(&value.to_string()), room, Reading::Any);
        of_object(&tree.unwrap()).unwrap()
    }

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
            assert_eq!(as_javascript(&number).to_string(), spelled);
        }
    }

    #[test]
    fn a_value_of_the_wrong_kind_is_named_by_field_and_kinds_and_never_shown() {
        let wrong = fields(&json!({"text": 5, "number": "secret", "flag": "yes", "object": [], "list": {}}));
        let faults = [
            text::<String>(&wrong, "text").unwrap_err(),
            number(&wrong, "number").unwrap_err(),
            flag(&wrong, "flag").unwrap_err(),
            object(&wrong, "object").unwrap_err(),
            list(&wrong, "list").unwrap_err(),
        ]
        .map(|fault| fault.to_string());
        assert_eq!(
            faults,
            [
                "text: expected text, found a number",
                "number: expected a number, found text",
                "flag: expected true or false, found text",
                "object: expected an object, found a list",
                "list: expected a list, found an object",
            ]
        );
    }

    #[test]
    fn absent_and_null_are_told_apart_only_where_a_reader_does() {
        let given = fields(&json!({"null": null, "empty": "", "limit": 5.0}));
        assert_eq!(given_number(&given, "absent"), Ok(Given::Absent));
        assert_eq!(given_number(&given, "null"), Ok(Given::Null));
        assert_eq!(given_number(&given, "limit"), Ok(Given::Value(5.into())));
        assert_eq!(text::<String>(&given, "null"), Ok(None));
        assert_eq!(text::<String>(&given, "empty"), Ok(None));
        assert_eq!(given_text(&given, "empty"), Ok(Given::Value(String::new())));
    }

    #[test]
    fn a_caption_of_the_wrong_kind_is_left_out() {
        assert_eq!(caption::<String>(&fields(&json!({"name": 7})), "name"), None);
        assert_eq!(
            caption(&fields(&json!({"name": "seven"})), "name"),
            Some("seven".to_owned())
        );
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
