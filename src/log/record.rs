//! What a record looks like as a line. Pure: time and thread are arguments.

use std::fmt::Write;

use log::kv::{Error, Key, Value, VisitSource};
use log::{Level, Record};
use serde_json::{Map, Value as Json};

use super::text::printable;
use crate::clock::EpochMs;
use crate::clock::rfc3339;
use crate::config::LogConfig;

/// The key under which code gives an error: `log::warn!(err:% = error; …)`.
const ERROR: &str = "err";

/// The record's source, and how many records of that source are written in a window: one for a kind of fault, ten if they
/// name messages, and thirty for a place in the code.
pub(super) fn source(record: &Record<'_>) -> (String, u32) {
    let field = |name| record.key_values().get(Key::from_str(name));
    match field("fault") {
        Some(kind) if field("message_id").is_some() => (kind.to_string(), 10),
        Some(kind) => (kind.to_string(), 1),
        None => (format!("{}:{}", record.target(), record.line().unwrap_or_default()), 30),
    }
}

/// One JSON object. No key comes twice: of two, the first stays.
pub(super) fn to_json(record: &Record<'_>, thread: &str, now: EpochMs, config: &LogConfig) -> String {
    let (error, fields) = fields(record);
    let standard = [
        ("time", rfc3339(now).into()),
        ("level", record.level().as_str().to_ascii_lowercase().into()),
        ("target", record.target().into()),
        ("thread", thread.into()),
        (&*config.message_key, record.args().to_string().into()),
    ];
    let error = error.map(|error| (&*config.error_key, error));
    let standard = standard.into_iter().chain(error).map(|(name, value)| (name.to_owned(), value));
    let mut object: Map<String, Json> = standard.collect();
    for (name, value) in fields {
        object.entry(name).or_insert(value);
    }
    printable(&Json::Object(object).to_string())
}

/// A line for people: time, level and thread in columns, then what happened, why, and the fields. The target follows at
/// debug and below, and for records of other crates.
pub(super) fn to_text(record: &Record<'_>, thread: &str, now: EpochMs, is_coloured: bool) -> String {
    let colour = match record.level() {
        Level::Error => "\u{1b}[31m",
        Level::Warn => "\u{1b}[33m",
        Level::Info => "\u{1b}[32m",
        Level::Debug | Level::Trace => "\u{1b}[2m",
    };
    let [colour, dim, plain] = if is_coloured { [colour, "\u{1b}[2m", "\u{1b}[0m"] } else { [""; 3] };
    let (time, level, message) = (rfc3339(now), record.level().as_str(), record.args().to_string());
    let mut line = format!("{time} {colour}{level:5}{plain} {thread:14} {}", printable(&message));
    let text_of = |value: &Json| value.as_str().map_or_else(|| value.to_string(), printable);
    let (error, fields) = fields(record);
    // Writing to a String cannot fail.
    if let Some(error) = error {
        let _ = write!(line, ": {colour}{}{plain}", text_of(&error));
    }
    for (index, (name, value)) in fields.iter().enumerate() {
        let gap = if index == 0 { "  " } else { " " };
        let mut value = text_of(value);
        if value.is_empty() || value.contains([' ', '"', '=']) {
            value = format!("\"{}\"", value.replace('"', "\\\""));
        }
        let _ = write!(line, "{gap}{dim}{}={plain}{value}", printable(name));
    }
    let own = record.target().strip_prefix("persistent_cache_service::");
    if own.is_none() || record.level() >= Level::Debug {
        let _ = write!(line, "  {dim}[{}]{plain}", printable(own.unwrap_or(record.target())));
    }
    line
}

/// The error, and the other fields: numbers and booleans as such, anything else as its text.
fn fields(record: &Record<'_>) -> (Option<Json>, Map<String, Json>) {
    let mut fields = Fields(Map::new());
    let _ = record.key_values().visit(&mut fields); // it never fails
    (fields.0.shift_remove(ERROR), fields.0)
}

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
    use crate::config::LogFormat;

    const NOW: EpochMs = EpochMs(1_793_491_200_123);

    fn json(message: &str, fields: &[(&str, Value<'_>)]) -> String {
        let config = LogConfig {
            level: log::LevelFilter::Info,
            format: LogFormat::Json,
            colour: false,
            message_key: "msg".to_owned(),
            error_key: "error".to_owned(),
        };
        with_record(message, fields, |record| to_json(record, "worker-3", NOW, &config))
    }

    fn text(message: &str, fields: &[(&str, Value<'_>)]) -> String {
        with_record(message, fields, |record| to_text(record, "worker-3", NOW, false))
    }

    fn with_record(
        message: &str,
        fields: &[(&str, Value<'_>)],
        format: impl FnOnce(&Record<'_>) -> String,
    ) -> String {
        let fields: Vec<(Key<'_>, Value<'_>)> =
            fields.iter().map(|(key, value)| (Key::from_str(key), value.clone())).collect();
        let args = format_args!("{message}");
        let mut record = Record::builder();
        record.level(Level::Warn).target("persistent_cache_service::store");
        let record = record.args(args).key_values(&fields).build();
        format(&record)
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
            "2026-11-01T00:00:00.123Z WARN  worker-3       stop\\u000aforged \\u001b[31mline: a\\u000d\\u000ab  role=\\u2066x\\u200f"
        );
    }

    #[test]
    fn text_says_where_it_comes_from_for_others_and_at_debug() {
        let text = |target: &str, level| {
            let args = format_args!("m");
            let record = Record::builder().args(args).level(level).target(target).build();
            to_text(&record, "main", NOW, false)
        };
        let own = "persistent_cache_service::store";
        assert!(text(own, Level::Info).ends_with(" main           m"));
        assert!(text(own, Level::Debug).ends_with(" m  [store]"));
        assert!(text("rustls::conn", Level::Warn).ends_with(" m  [rustls::conn]"));
    }

    #[test]
    fn text_is_coloured_only_where_asked_for() {
        assert!(!text("m", &[]).contains('\u{1b}'));
        let coloured = with_record("m", &[], |record| to_text(record, "worker-3", NOW, true));
        assert!(coloured.contains("\u{1b}[33mWARN \u{1b}[0m"));
    }

    #[test]
    fn a_time_beyond_the_calendar_is_written_as_the_number_it_is() {
        assert_eq!(rfc3339(EpochMs(i64::MAX)), i64::MAX.to_string());
    }
}
