//! What one record looks like. Pure: time and thread are arguments.

use std::fmt::Write;
use std::time::Duration;

use log::kv::{Error, Key, Value, VisitSource};
use log::{Level, Record};
use serde_json::{Map, Value as Json};

use super::text::{printable, printable_json};
use crate::clock::EpochMs;
use crate::clock::rfc3339;

/// A record's parts.
#[derive(Debug, Clone)]
pub(super) struct RecordParts {
    pub(super) level: Level,
    target: String,
    /// In the source file.
    line: u32,
    thread: String,
    message: String,
    /// What code gives under the key `err`: `log::warn!(err:% = error; …)`.
    error: Option<Json>,
    /// The other keys.
    fields: Map<String, Json>,
}

impl RecordParts {
    pub(super) fn new(record: &Record<'_>, thread: Option<&str>) -> Self {
        let mut fields = Fields(Map::new());
        let _ = record.key_values().visit(&mut fields); // it never fails
        Self {
            level: record.level(),
            target: record.target().to_owned(),
            line: record.line().unwrap_or_default(),
            thread: thread.unwrap_or("unnamed").to_owned(),
            message: record.args().to_string(),
            error: fields.0.shift_remove("err"),
            fields: fields.0,
        }
    }

    pub(super) fn warning(target: &str, message: &str) -> Self {
        let mut record = Record::builder();
        let record = record.level(Level::Warn).target(target);
        Self::new(&record.args(format_args!("{message}")).build(), None)
    }

    /// As the summary of this many records.
    pub(super) fn repeated(mut self, repeated: u64, window: Duration) -> Self {
        self.fields.insert("repeated".to_owned(), repeated.into());
        self.fields.insert("window_secs".to_owned(), window.as_secs().into());
        self
    }

    /// The record's source, and how many records of that source are written in a window: one for a kind of fault, ten if they
    /// name messages, and thirty for a place in the code.
    pub(super) fn source(&self) -> (String, u32) {
        match self.fields.get("fault").and_then(Json::as_str) {
            Some(kind) if self.fields.contains_key("message_id") => (kind.to_owned(), 10),
            Some(kind) => (kind.to_owned(), 1),
            None => (format!("{}:{}", self.target, self.line), 30),
        }
    }

    /// One JSON object, without line break. No key comes twice: of two, the first stays.
    pub(super) fn to_json(&self, now: EpochMs, message_key: &str, error_key: &str) -> String {
        let standard = [
            ("time", rfc3339(now)),
            ("level", self.level.as_str().to_ascii_lowercase()),
            ("target", self.target.clone()),
            ("thread", self.thread.clone()),
            (message_key, self.message.clone()),
        ];
        let mut object: Map<String, Json> =
            standard.into_iter().map(|(name, value)| (name.to_owned(), value.into())).collect();
        if let Some(error) = &self.error {
            object.insert(error_key.to_owned(), error.clone());
        }
        for (name, value) in &self.fields {
            object.entry(name).or_insert_with(|| value.clone());
        }
        printable_json(&Json::Object(object).to_string())
    }

    /// One line for people, without line break: time, level and thread in columns, then what happened, why, and the
    /// fields. The target follows at debug and below, and for records of other crates.
    pub(super) fn to_text(&self, now: EpochMs, is_coloured: bool) -> String {
        let colour = match self.level {
            Level::Error => "\u{1b}[31m",
            Level::Warn => "\u{1b}[33m",
            Level::Info => "\u{1b}[32m",
            Level::Debug | Level::Trace => "\u{1b}[2m",
        };
        let [colour, dim, plain] = if is_coloured { [colour, "\u{1b}[2m", "\u{1b}[0m"] } else { [""; 3] };
        let (time, level, thread) = (rfc3339(now), self.level.as_str(), printable(&self.thread));
        let message = printable(&self.message);
        let mut line = format!("{time} {colour}{level:5}{plain} {thread:14} {message}");
        // Writing to a String cannot fail.
        if let Some(error) = &self.error {
            let _ = write!(line, ": {colour}{}{plain}", text_of(error));
        }
        for (index, (name, value)) in self.fields.iter().enumerate() {
            let gap = if index == 0 { "  " } else { " " };
            let value = match value.as_str() {
                Some(text) if text.is_empty() || text.contains([' ', '"', '=']) => format!("{text:?}"),
                _ => text_of(value),
            };
            let _ = write!(line, "{gap}{dim}{}={plain}{value}", printable(name));
        }
        let own = self.target.strip_prefix("persistent_cache_service::");
        if own.is_none() || self.level >= Level::Debug {
            let _ = write!(line, "  {dim}[{}]{plain}", printable(own.unwrap_or(&self.target)));
        }
        line
    }
}

fn text_of(value: &Json) -> String {
    value.as_str().map_or_else(|| value.to_string(), printable)
}

/// Numbers and booleans as such, anything else as its text; of two with one name the later stays.
struct Fields(Map<String, Json>);

impl<'kvs> VisitSource<'kvs> for Fields {
    fn visit_pair(&mut self, key: Key<'kvs>, value: Value<'kvs>) -> Result<(), Error> {
        let json = (value.to_bool().map(Json::from))
            .or_else(|| value.to_u64().map(Json::from))
            .or_else(|| value.to_i64().map(Json::from))
            .or_else(|| value.to_f64().map(Json::from))
            .unwrap_or_else(|| value.to_string().into());
        self.0.insert(key.to_string(), json);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: EpochMs = EpochMs(1_793_491_200_123);

    fn json(message: &str, fields: &[(&str, Value<'_>)]) -> String {
        with_parts(message, fields, |parts| parts.to_json(NOW, "msg", "error"))
    }

    fn text(message: &str, fields: &[(&str, Value<'_>)]) -> String {
        with_parts(message, fields, |parts| parts.to_text(NOW, false))
    }

    fn with_parts(
        message: &str,
        fields: &[(&str, Value<'_>)],
        format: impl FnOnce(&RecordParts) -> String,
    ) -> String {
        let fields: Vec<(Key<'_>, Value<'_>)> =
            fields.iter().map(|(key, value)| (Key::from_str(key), value.clone())).collect();
        let args = format_args!("{message}");
        let mut record = Record::builder();
        record.level(Level::Warn).target("persistent_cache_service::store");
        let record = record.args(args).key_values(&fields).build();
        format(&RecordParts::new(&record, Some("worker-3")))
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
            ],
        );
        assert!(
            line.ends_with(
                r#""msg":"cannot reach Redis","error":"refused","attempts":3,"ratio":0.5,"late":true,"at":"Some(1)"}"#
            ),
            "{line}"
        );
    }

    #[test]
    fn a_field_named_like_a_standard_one_never_makes_a_key_come_twice_or_hides_the_error() {
        let fields =
            [("time", 1_u64.into()), ("error", "y".into()), ("msg", "x".into()), ("err", "why".into())];
        let line = json("m", &fields);
        assert!(line.ends_with(r#""msg":"m","error":"why"}"#), "{line}");
    }

    #[test]
    fn whatever_a_message_holds_a_line_is_one_line_of_valid_json() {
        let nasty = "a\"b\\c\nd\r\te\u{0}f\u{1b}[31m\u{2028}é\u{10ffff}\u{202e}\u{9b}\u{200b}";
        let line = json(nasty, &[("k\"\n", nasty.into()), ("inf", f64::INFINITY.into())]);
        assert_eq!(line.lines().count(), 1, "{line}");
        for steering in ['\u{0}', '\u{2028}', '\u{202e}', '\u{9b}', '\u{200b}'] {
            assert!(!line.contains(steering), "{line}");
        }
        let parsed: Json = serde_json::from_str(&line).unwrap();
        assert_eq!(parsed["msg"], nasty);
        assert_eq!(parsed["k\"\n"], nasty);
        assert_eq!(parsed["inf"], Json::Null);
    }

    #[test]
    fn text_has_columns_then_what_happened_why_and_the_fields() {
        let line = text(
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
            line,
            "2026-11-01T00:00:00.123Z WARN  worker-3       cannot receive messages: connection refused  repeated=7 \
             queue=\"https://sqs.example/1?a=b\" user=\"\" said=\"no \\\"entry\\\"\""
        );
    }

    #[test]
    fn text_is_one_line_in_which_control_characters_are_escaped() {
        let line = text(
            "stop\nforged \u{1b}[31mline",
            &[("err", "a\r\nb".into()), ("role", "\u{2066}x\u{200f}".into())],
        );
        assert_eq!(
            line,
            "2026-11-01T00:00:00.123Z WARN  worker-3       stop\\nforged \\u{1b}[31mline: a\\r\\nb  role=\\u{2066}x\\u{200f}"
        );
    }

    #[test]
    fn text_says_where_it_comes_from_for_others_and_at_debug() {
        let text = |target: &str, level| {
            let args = format_args!("m");
            let record = Record::builder().args(args).level(level).target(target).build();
            RecordParts::new(&record, Some("main")).to_text(NOW, false)
        };
        let own = "persistent_cache_service::store";
        assert!(text(own, Level::Info).ends_with(" main           m"));
        assert!(text(own, Level::Debug).ends_with(" m  [store]"));
        assert!(text("rustls::conn", Level::Warn).ends_with(" m  [rustls::conn]"));
    }

    #[test]
    fn text_is_coloured_only_where_asked_for() {
        assert!(!text("m", &[]).contains('\u{1b}'));
        let coloured = with_parts("m", &[], |parts| parts.to_text(NOW, true));
        assert!(coloured.contains("\u{1b}[33mWARN \u{1b}[0m"));
    }

    #[test]
    fn a_time_beyond_the_calendar_is_written_as_the_number_it_is() {
        assert_eq!(rfc3339(EpochMs(i64::MAX)), i64::MAX.to_string());
    }
}
