//! What one record looks like. Decides, writes nothing: the time and the thread are told.

use std::fmt::Write;

use log::kv::{Error, Key, Value, VisitSource, VisitValue};
use log::{Level, Record};
use serde_json::{Map, Number, Value as Json};

use crate::clock::rfc3339;
use crate::entitlement::EpochMs;

/// The key under which code gives an error: `log::warn!(err:% = error; …)`.
const ERROR: &str = "err";

/// What targets of this crate begin with.
const OWN_PREFIX: &str = "persistent_cache_service::";
const DIM: &str = "\u{1b}[2m";
const PLAIN: &str = "\u{1b}[0m";

/// A record, taken apart.
pub(super) struct Line {
    time: String,
    level: Level,
    target: String,
    thread: String,
    message: String,
    error: Option<Json>,
    fields: Map<String, Json>,
}

impl Line {
    pub(super) fn new(record: &Record<'_>, now: EpochMs, thread: Option<&str>) -> Self {
        let mut fields = Fields(Map::new());
        // Our visitor refuses nothing, so a failure would be that of a value; what was read before it stays.
        let _ = record.key_values().visit(&mut fields);
        let error = fields.0.shift_remove(ERROR);
        Self {
            time: rfc3339(now),
            level: record.level(),
            target: record.target().to_owned(),
            thread: thread.unwrap_or("unnamed").to_owned(),
            message: record.args().to_string(),
            error,
            fields: fields.0,
        }
    }

    /// One JSON object, without line break. A field whose name a standard one has gets underscores, so that no
    /// key comes twice.
    pub(super) fn to_json(&self, message_key: &str, error_key: &str) -> String {
        let mut line = Map::new();
        line.insert("time".to_owned(), self.time.clone().into());
        line.insert(
            "level".to_owned(),
            self.level.as_str().to_ascii_lowercase().into(),
        );
        line.insert("target".to_owned(), self.target.clone().into());
        line.insert("thread".to_owned(), self.thread.clone().into());
        line.insert(message_key.to_owned(), self.message.clone().into());
        if let Some(error) = &self.error {
            line.insert(error_key.to_owned(), error.clone());
        }
        for (name, value) in &self.fields {
            let mut name = name.clone();
            while line.contains_key(&name) || name == error_key {
                name.push('_');
            }
            line.insert(name, value.clone());
        }
        Json::Object(line).to_string()
    }

    /// One line for people, without line break: when, how bad and which thread in columns, then what happened, why,
    /// and the fields. Where in the source it comes from is left out, unless it says more than the message does: at
    /// debug and below, and for the records of other crates.
    pub(super) fn to_text(&self, is_coloured: bool) -> String {
        let paint = |code: &'static str| if is_coloured { (code, PLAIN) } else { ("", "") };
        let (colour, plain) = paint(colour(self.level));
        let mut line = format!(
            "{} {colour}{:5}{plain} {:14} {}",
            self.time,
            self.level.as_str(),
            on_one_line(&self.thread),
            on_one_line(&self.message),
        );
        // A String takes everything, so that the results of writing need no look.
        if let Some(error) = &self.error {
            let _ = write!(line, ": {colour}{}{plain}", text_of(error));
        }
        let (dim, plain) = paint(DIM);
        let mut gap = "  ";
        for (name, value) in &self.fields {
            let value = quoted_if_needed(text_of(value));
            let _ = write!(line, "{gap}{dim}{}={plain}{value}", on_one_line(name));
            gap = " ";
        }
        let own = self.target.strip_prefix(OWN_PREFIX);
        if own.is_none() || self.level >= Level::Debug {
            let target = on_one_line(own.unwrap_or(&self.target));
            let _ = write!(line, "  {dim}[{target}]{plain}");
        }
        line
    }
}

/// A field's value in text.
fn text_of(value: &Json) -> String {
    value.as_str().map_or_else(|| value.to_string(), on_one_line)
}

/// In quotes where the end of the value, or that there is one, could not be seen.
fn quoted_if_needed(value: String) -> String {
    if value.is_empty() || value.contains([' ', '"', '=']) {
        format!("\"{}\"", value.replace('"', "\\\""))
    } else {
        value
    }
}

fn colour(level: Level) -> &'static str {
    match level {
        Level::Error => "\u{1b}[31m",
        Level::Warn => "\u{1b}[33m",
        Level::Info => "\u{1b}[32m",
        Level::Debug | Level::Trace => DIM,
    }
}

/// Line breaks and other control characters escaped: what came from outside can neither forge a line nor steer
/// a terminal.
fn on_one_line(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for letter in text.chars() {
        if letter.is_control() || matches!(letter, '\u{2028}' | '\u{2029}') {
            line.extend(letter.escape_default());
        } else {
            line.push(letter);
        }
    }
    line
}

/// Collects a record's key-values as JSON; of two with one name the later stays.
struct Fields(Map<String, Json>);

impl<'kvs> VisitSource<'kvs> for Fields {
    fn visit_pair(&mut self, key: Key<'kvs>, value: Value<'kvs>) -> Result<(), Error> {
        let mut json = AsJson(Json::Null);
        value.visit(&mut json)?;
        self.0.insert(key.as_str().to_owned(), json.0);
        Ok(())
    }
}

/// One value as JSON: numbers, booleans and null as such, anything else as its text.
struct AsJson(Json);

impl VisitValue<'_> for AsJson {
    fn visit_any(&mut self, value: Value<'_>) -> Result<(), Error> {
        self.0 = value.to_string().into();
        Ok(())
    }

    fn visit_null(&mut self) -> Result<(), Error> {
        self.0 = Json::Null;
        Ok(())
    }

    fn visit_u64(&mut self, value: u64) -> Result<(), Error> {
        self.0 = value.into();
        Ok(())
    }

    fn visit_i64(&mut self, value: i64) -> Result<(), Error> {
        self.0 = value.into();
        Ok(())
    }

    fn visit_f64(&mut self, value: f64) -> Result<(), Error> {
        // JSON has no infinities and no NaN.
        self.0 = Number::from_f64(value).map_or_else(|| value.to_string().into(), Json::Number);
        Ok(())
    }

    fn visit_bool(&mut self, value: bool) -> Result<(), Error> {
        self.0 = value.into();
        Ok(())
    }

    fn visit_str(&mut self, value: &str) -> Result<(), Error> {
        self.0 = value.into();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: EpochMs = EpochMs(1_793_491_200_123);

    fn json(message: &str, fields: &[(&str, Value<'_>)]) -> String {
        line(message, fields).to_json("msg", "error")
    }

    fn line(message: &str, fields: &[(&str, Value<'_>)]) -> Line {
        let fields: Vec<(Key<'_>, Value<'_>)> = fields
            .iter()
            .map(|(key, value)| (Key::from_str(key), value.clone()))
            .collect();
        Line::new(
            &Record::builder()
                .args(format_args!("{message}"))
                .level(Level::Warn)
                .target("persistent_cache_service::store")
                .key_values(&fields)
                .build(),
            NOW,
            Some("worker-3"),
        )
    }

    #[test]
    fn a_line_has_time_level_target_thread_and_the_message_under_its_key() {
        assert_eq!(
            json("hello", &[]),
            r#"{"time":"2026-11-01T00:00:00.123Z","level":"warn","target":"persistent_cache_service::store","thread":"worker-3","msg":"hello"}"#
        );
    }

    #[test]
    fn the_error_comes_under_its_key_and_other_values_as_fields_of_their_type() {
        let line = json(
            "cannot reach Redis",
            &[
                ("attempts", 3_u64.into()),
                ("ratio", 0.5_f64.into()),
                ("late", true.into()),
                ("err", Value::from_display(&"refused")),
                ("at", Value::from_debug(&Some(1))),
                ("nothing", Value::null()),
            ],
        );
        assert!(
            line.ends_with(
                r#""msg":"cannot reach Redis","error":"refused","attempts":3,"ratio":0.5,"late":true,"at":"Some(1)","nothing":null}"#
            ),
            "{line}"
        );
    }

    #[test]
    fn a_field_named_like_a_standard_one_never_makes_a_key_come_twice() {
        let line = json(
            "m",
            &[
                ("time", 1_u64.into()),
                ("msg", "x".into()),
                ("error", "y".into()),
                ("time_", 2_u64.into()),
            ],
        );
        assert!(
            line.ends_with(r#""msg":"m","time_":1,"msg_":"x","error_":"y","time__":2}"#),
            "{line}"
        );
    }

    #[test]
    fn whatever_a_message_holds_a_line_is_one_line_of_valid_json() {
        let nasty = "a\"b\\c\nd\r\te\u{0}f\u{1b}[31m\u{2028}é\u{10ffff}";
        let line = json(nasty, &[("k\"\n", nasty.into()), ("inf", f64::INFINITY.into())]);
        assert_eq!(line.lines().count(), 1, "{line}");
        let parsed: Json = serde_json::from_str(&line).unwrap();
        assert_eq!(parsed["msg"], nasty);
        assert_eq!(parsed["k\"\n"], nasty);
        assert_eq!(parsed["inf"], "inf");
    }

    #[test]
    fn text_has_columns_then_what_happened_why_and_the_fields() {
        let line = line(
            "cannot receive messages",
            &[
                ("repeated", 7_u64.into()),
                ("err", "connection refused".into()),
                ("queue", "https://sqs.example/1?a=b".into()),
                ("user", "".into()),
                ("said", "no \"entry\"".into()),
            ],
        );
        assert_eq!(
            line.to_text(false),
            "2026-11-01T00:00:00.123Z WARN  worker-3       cannot receive messages: connection refused  repeated=7 \
             queue=\"https://sqs.example/1?a=b\" user=\"\" said=\"no \\\"entry\\\"\""
        );
    }

    #[test]
    fn text_is_one_line_in_which_control_characters_are_escaped() {
        let line = line("stop\nforged \u{1b}[31mline", &[("err", "a\r\nb".into())]);
        assert_eq!(
            line.to_text(false),
            "2026-11-01T00:00:00.123Z WARN  worker-3       stop\\nforged \\u{1b}[31mline: a\\r\\nb"
        );
    }

    #[test]
    fn text_says_where_it_comes_from_for_others_and_at_debug() {
        let text = |target: &str, level| {
            let record = Record::builder()
                .args(format_args!("m"))
                .level(level)
                .target(target)
                .build();
            Line::new(&record, NOW, Some("main")).to_text(false)
        };
        let own = "persistent_cache_service::store";
        assert!(text(own, Level::Info).ends_with(" main           m"));
        assert!(text(own, Level::Debug).ends_with(" m  [store]"));
        assert!(text("rustls::conn", Level::Warn).ends_with(" m  [rustls::conn]"));
    }

    #[test]
    fn text_is_coloured_only_where_asked_for() {
        assert!(!line("m", &[]).to_text(false).contains('\u{1b}'));
        assert!(line("m", &[]).to_text(true).contains("\u{1b}[33mWARN \u{1b}[0m"));
    }

    #[test]
    fn a_time_beyond_the_calendar_is_written_as_the_number_it_is() {
        assert_eq!(rfc3339(EpochMs(i64::MAX)), i64::MAX.to_string());
    }
}
