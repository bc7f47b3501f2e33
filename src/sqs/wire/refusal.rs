//! What a refused call was refused with, in whatever form it came: a bounded line that cannot flood or forge a log.

use serde_json::Value;

use super::object;

/// How much of a refusal is looked at, in bytes.
const REFUSAL_BYTES_MAX: usize = 16 * 1024;

/// How much of a foreign body an error quotes, in characters.
pub(super) const QUOTED_CHARS_MAX: usize = 200;

/// What a refused call was refused with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ErrorAnswer {
    /// SQS's code without its namespace (`QueueDoesNotExist`), or `Http<status>` if the body named none.
    pub code: String,
    /// SQS's words, or the start of what came instead: one line, shortened.
    pub message: String,
}

/// Code and words of a refusal: SQS's own JSON, the XML of its older protocol, or whatever a proxy on the way
/// made of it. `error_header` is `x-amzn-query-error` (`AWS.SimpleQueueService.NonExistentQueue;Sender`) or
/// `x-amzn-errortype`.
pub fn parse_error(status: u16, error_header: Option<&str>, body: &[u8]) -> ErrorAnswer {
    // A refusal is short. Of a proxy's page the beginning says what it is.
    let body = &body[..body.len().min(REFUSAL_BYTES_MAX)];
    let text_body = String::from_utf8_lossy(body);
    let from_header = error_header.map(bare_code).filter(|code| !code.is_empty());
    let fallback_code = || from_header.unwrap_or_else(|| format!("Http{status}"));

    if let Ok(answer) = object(body) {
        let field = |name: &str| answer.get(name).and_then(Value::as_str);
        let code = field("__type")
            .or_else(|| field("code"))
            .map(bare_code)
            .filter(|code| !code.is_empty());
        let message = field("message").or_else(|| field("Message")).unwrap_or_default();
        return ErrorAnswer {
            code: code.unwrap_or_else(fallback_code),
            message: one_line(message),
        };
    }
    if let Some(code) = xml_element(&text_body, "Code") {
        let message = xml_element(&text_body, "Message").unwrap_or_default();
        let code = Some(bare_code(code)).filter(|code| !code.is_empty());
        return ErrorAnswer {
            code: code.unwrap_or_else(fallback_code),
            message: one_line(message),
        };
    }
    ErrorAnswer {
        code: fallback_code(),
        message: one_line(&without_tags(&text_body)),
    }
}

/// `com.amazonaws.sqs#QueueDoesNotExist` -> `QueueDoesNotExist`; what follows `;` or `:` belongs to headers.
fn bare_code(code: &str) -> String {
    let code = code.rsplit_once('#').map_or(code, |(_, bare)| bare);
    one_line(code.split([';', ':']).next().unwrap_or_default())
}

fn xml_element<'a>(xml: &'a str, name: &str) -> Option<&'a str> {
    let (_, after) = xml.split_once(&format!("<{name}>"))?;
    Some(after.split_once(&format!("</{name}>"))?.0)
}

fn without_tags(html: &str) -> String {
    let mut text = String::new();
    for piece in html.split('<') {
        // The first piece has no tag before it, and then no `>` either.
        text.push_str(piece.split_once('>').map_or(piece, |(_, after)| after));
        text.push(' ');
    }
    text
}

/// One printable line of bounded length, so that a foreign body cannot flood or forge a log.
pub(super) fn one_line(text: &str) -> String {
    let mut line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    line.retain(|character| !character.is_control());
    if line.chars().count() > QUOTED_CHARS_MAX {
        line = line.chars().take(QUOTED_CHARS_MAX).collect();
        line.push('…');
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_read_in_every_form_it_comes_in() {
        let read = |header: Option<&str>, body: &str| {
            let answer = parse_error(403, header, body.as_bytes());
            format!("{}: {}", answer.code, answer.message)
        };
        let json = r#"{"__type":"com.amazonaws.sqs#QueueDoesNotExist","message":"The specified queue does not exist."}"#;
        let header = Some("AWS.SimpleQueueService.NonExistentQueue;Sender");
        assert_eq!(
            read(header, json),
            "QueueDoesNotExist: The specified queue does not exist."
        );
        let coral = r#"{"__type":"com.amazon.coral.service#UnrecognizedClientException","Message":"no"}"#;
        assert_eq!(read(None, coral), "UnrecognizedClientException: no");
        assert_eq!(read(header, "{}"), "AWS.SimpleQueueService.NonExistentQueue: ");
        let xml = "<?xml version=\"1.0\"?><ErrorResponse><Error><Type>Sender</Type><Code>InvalidClientTokenId</Code>\
                   <Message>The security token\n is invalid.</Message></Error></ErrorResponse>";
        assert_eq!(
            read(None, xml),
            "InvalidClientTokenId: The security token is invalid."
        );
        let nameless = "<Error><Code></Code><Message>who knows</Message></Error>";
        assert_eq!(read(None, nameless), "Http403: who knows");
        assert_eq!(
            read(header, nameless),
            "AWS.SimpleQueueService.NonExistentQueue: who knows"
        );
        assert_eq!(
            read(None, "<html><h1>Blocked</h1> by <b>proxy</b></html>"),
            "Http403: Blocked by proxy"
        );
        assert_eq!(read(None, ""), "Http403: ");
    }

    #[test]
    fn a_foreign_body_is_quoted_on_one_short_line() {
        let answer = parse_error(502, None, "bad\r\n\u{1b}[31mgateway ".repeat(1000).as_bytes());
        assert!(
            answer.message.starts_with("bad [31mgateway bad"),
            "{}",
            answer.message
        );
        assert_eq!(answer.message.chars().count(), QUOTED_CHARS_MAX + 1);
    }
}
