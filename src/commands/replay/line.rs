//! One line of a replay: a message's body as it is, or a message as `aws sqs receive-message` prints it.

use serde_json::Value;

use crate::entitlement::EpochMs;
use crate::message;
use crate::sqs::protocol::sent_at;

/// A message.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Line {
    pub body: String,
    /// When it was sent: as the queue said, else as the message itself says, else now.
    pub sent_at: EpochMs,
}

/// Reads a line. The error says what is wrong with it.
pub(super) fn read(line: &[u8], now: EpochMs) -> Result<Line, String> {
    let text = std::str::from_utf8(line)
        .map_err(|_| "it is not UTF-8".to_owned())?
        .trim();
    let (body, told) = match serde_json::from_str::<Value>(text) {
        // SQS's own field, capital, which no event has.
        Ok(Value::Object(mut message)) if message.get("Body").is_some_and(Value::is_string) => {
            let told = message
                .get("Attributes")
                .and_then(|attributes| attributes.get("SentTimestamp"))
                .and_then(|at| at.as_i64().or_else(|| at.as_str()?.parse().ok()));
            match message.remove("Body") {
                Some(Value::String(body)) => (body, sent_at(told)),
                _ => (text.to_owned(), None),
            }
        }
        // What is wrong with it, decoding tells, with the place.
        Ok(_) | Err(_) => (text.to_owned(), None),
    };
    let sent_at = told.or_else(|| message::message_time(&body)).unwrap_or(now);
    Ok(Line { body, sent_at })
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: EpochMs = EpochMs(1_800_000_000_000);

    #[test]
    fn a_body_was_sent_when_it_says_so_else_now() {
        let told = r#"{"type":"customer.deleted","timestamp":"2026-11-24T12:00:00Z","customer":{"id":"c"}}"#;
        assert_eq!(
            read(told.as_bytes(), NOW).unwrap().sent_at,
            EpochMs(1_795_521_600_000)
        );
        let untold = read(b" {\"type\":\"x\"}\r", NOW).unwrap();
        assert_eq!((untold.body.as_str(), untold.sent_at), (r#"{"type":"x"}"#, NOW));
    }

    #[test]
    fn a_message_as_the_aws_cli_prints_it_is_unwrapped() {
        let line = r#"{"MessageId":"1","Body":"{\"type\":\"x\"}","Attributes":{"SentTimestamp":"5"}}"#;
        let expected = Line {
            body: r#"{"type":"x"}"#.to_owned(),
            sent_at: EpochMs(5),
        };
        assert_eq!(read(line.as_bytes(), NOW).unwrap(), expected);
    }

    #[test]
    fn a_time_of_sending_that_is_none_is_as_good_as_untold() {
        for odd in ["0", "-5", "9223372036854775807", "soon"] {
            let line =
                format!(r#"{{"Body":"{{\\"type\\":\\"x\\"}}","Attributes":{{"SentTimestamp":"{odd}"}}}}"#);
            assert_eq!(read(line.as_bytes(), NOW).unwrap().sent_at, NOW, "{odd}");
        }
    }

    #[test]
    fn bytes_that_are_no_text_are_refused() {
        assert_eq!(read(b"\xff", NOW).unwrap_err(), "it is not UTF-8");
    }
}
