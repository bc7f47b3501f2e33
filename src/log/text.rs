//! Text from peers: which part of it may be shown, and how, so that it neither reveals a customer nor controls a terminal. Pure.

use std::fmt::Write;
use std::sync::OnceLock;

/// How much of a peer's text is shown.
const CHARS_MAX: usize = 300;
/// Parts of our keys, and other spellings of `@`.
const NEVER_SHOWN: [&str; 4] = [":c_", "CacheMiss-", "%40", "u0040"];
/// What every key begins with.
static KEY_PREFIX: OnceLock<String> = OnceLock::new();

/// From now on, [`peer_text`] takes text that begins as the keys of this environment prefix do for a key.
pub fn hide_keys(environment_prefix: &str) {
    KEY_PREFIX.get_or_init(|| environment_prefix.to_owned());
}

/// A peer's text as it may be shown above debug: printable, on one line, short, and cut where it begins to quote what
/// the peer was sent. Errors quote arguments: our keys, message contents, passwords. A quoted name is kept, since it is
/// what the error is about.
pub fn peer_text(text: &str) -> String {
    // Redis quotes the arguments of a command that it does not know.
    let text = text.split(", with args").next().unwrap_or_default();
    let words: Vec<&str> = text.split_whitespace().collect();
    let kept = words.iter().position(|word| quotes_data(word)).unwrap_or(words.len());
    let mut shown = printable(&words[..kept].join(" "));
    let end = shown.char_indices().nth(CHARS_MAX).map(|(end, _)| end);
    if end.is_some() || kept < words.len() {
        shown.truncate(end.unwrap_or(shown.len()));
        shown.push('…');
    }
    shown
}

/// A peer's error code, if it looks like one: codes become labels in the log.
pub fn peer_code(code: &str) -> Option<&str> {
    let is_code = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    (matches!(code.len(), 1..=60) && code.bytes().all(is_code)).then_some(code)
}

/// True if the word may be part of a key, a JSON text, a form, or an address with a user or a query, or if it quotes something
/// other than a name. The apostrophe of `can't` is no quote.
fn quotes_data(word: &str) -> bool {
    let is_name = |text: &&str| text.bytes().all(|byte| byte.is_ascii_alphabetic());
    let pieces: Vec<&str> = word.split(['\'', '`']).collect();
    let quotes_names = match pieces.as_slice() {
        [before, _] => before.ends_with(char::is_alphanumeric),
        pieces => pieces.len() % 2 == 1 && pieces.iter().skip(1).step_by(2).all(is_name),
    };
    !quotes_names
        || word.contains(['{', '"', '\\', '='])
        || is_telling_address(word)
        // Lua's chunks are called `@user_script`.
        || word.trim_start_matches(['(', '@']).contains('@')
        || NEVER_SHOWN.iter().any(|part| word.contains(part))
        || is_key(word)
}

/// True for the readers' write lock too, which has nothing but the prefix and the customer.
fn is_key(word: &str) -> bool {
    let word = word.trim_start_matches(['(', '[', '<', ',', ';']);
    let rest = KEY_PREFIX.get().and_then(|prefix| word.strip_prefix(prefix.as_str()));
    rest.is_some_and(|rest| rest.starts_with([':', '-']))
}

/// The text without addresses that hold a user or a query.
pub(super) fn without_addresses(text: &str) -> String {
    let shown = |word| if is_telling_address(word) { "…" } else { word };
    text.split(' ').map(shown).collect::<Vec<_>>().join(" ")
}

fn is_telling_address(word: &str) -> bool {
    word.contains("://") && word.contains(['@', '?'])
}

/// The text with everything escaped (`\u202e`) that would end its line, change how the rest is rendered or not be seen: control
/// and format characters, bidirectional and zero-width ones too, and whatever else is not printable. JSON keeps its value.
pub fn printable(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for letter in text.chars() {
        // The standard library knows what is printable.
        if matches!(letter, ' '..='~') || letter.escape_debug().len() == 1 {
            shown.push(letter);
        } else {
            for unit in letter.encode_utf16(&mut [0; 2]) {
                let _ = write!(shown, "\\u{unit:04x}");
            }
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_peer_quotes_is_cut() {
        hide_keys("production");
        for (text, shown) in [
            (
                "unknown command 'EVALSHA', with args beginning with: 'abc' '5' 'production-alice@example.com'",
                "unknown command 'EVALSHA'",
            ),
            ("unknown command `EVALSHA`, with args beginning with: `hunter`, ", "unknown command `EVALSHA`"),
            (
                "Keys in request don't hash to the same slot (context='within script', first-key='production:c_alice')",
                "Keys in request don't hash to the same slot…",
            ),
            ("no access to production:c_Alice Smith today", "no access to…"),
            ("the value 'alice smith' is odd", "the value…"),
            ("the value 'customer-4711' is odd", "the value…"),
            ("no such customer alice@example.com", "no such customer…"),
            ("no such customer alice%40example.com", "no such customer…"),
            ("cannot read {\"customer\":1}", "cannot read…"),
            ("cannot read \"alice\"", "cannot read…"),
            ("cannot read customerId=alice", "cannot read…"),
            ("see https://u:p@h/ for more", "see…"),
            ("see https://h/x?token=t for more", "see…"),
            ("O'Brien's key 'production:c_O'Brien'", "O'Brien's key…"),
            ("among 'GET','customer-4711'", "among…"),
            ("the lock (production-alice) is held", "the lock…"),
            ("the lock <production-alice:site-1> is held", "the lock…"),
        ] {
            assert_eq!(peer_text(text), shown, "{text}");
        }
    }

    #[test]
    fn what_an_error_is_about_is_kept() {
        for text in [
            "You can't write against a read only replica.",
            "command not allowed when used memory > 'maxmemory'.",
            "User default has no permissions to run the 'evalsha' command",
            "Error running script (call to f_1): @user_script:40: -OOM command not allowed",
            "Redis is configured to save RDB snapshots, but it's currently unable to persist to disk.",
            "User: arn:aws:iam::123456789012:user/stigg is not authorized to perform: sqs:ReceiveMessage",
            "access to the resource arn:aws:sqs:eu-west-1:123456789012:production-queue is denied",
            "the production environment is read-only",
            "max requests limit exceeded. Limit: 500000. See https://example.com/quota for details",
        ] {
            assert_eq!(peer_text(text), text);
        }
    }

    #[test]
    fn a_peers_text_is_one_printable_line_of_bounded_length() {
        assert_eq!(peer_text(" a\r\n b\u{202e}c\u{1b}[31m "), "a b\\u202ec\\u001b[31m");
        for long in ["ä".repeat(100_000), "ä ".repeat(100_000), "\u{200b}".repeat(100_000)] {
            assert_eq!(peer_text(&long).chars().count(), CHARS_MAX + 1);
        }
    }

    #[test]
    fn a_code_is_taken_for_one_only_if_it_looks_like_one() {
        for code in ["ERR", "AWS.SimpleQueueService.NonExistentQueue", "Http502", "no-code"] {
            assert_eq!(peer_code(code), Some(code));
        }
        for other in ["", "alice@example.com", "production:c_alice", "a b", "Ä", &"x".repeat(61)] {
            assert_eq!(peer_code(other), None, "{other}");
        }
    }

    #[test]
    fn characters_that_steer_a_terminal_or_are_not_seen_are_escaped_and_others_are_not() {
        let steering = "\u{0}\u{7}\t\u{1b}\u{7f}\u{85}\u{9b}\u{ad}\u{61c}\u{180e}\u{200b}\u{200d}\u{200e}\u{200f}\u{2028}\u{2029}\
                        \u{202a}\u{202b}\u{202c}\u{202d}\u{202e}\u{2060}\u{2066}\u{2067}\u{2068}\u{2069}\u{206f}\u{feff}\u{fff9}\
                        \u{e0001}\u{e0041}";
        for letter in steering.chars() {
            let text = format!("a{letter}b");
            let shown = printable(&text);
            assert!(!shown.contains(letter) && shown.starts_with("a\\"), "{shown}");
            let json = serde_json::to_string(&text).unwrap();
            let shown = printable(&json);
            assert!(!shown.contains(letter), "{shown}");
            assert_eq!(serde_json::from_str::<String>(&shown).unwrap(), text);
        }
        let harmless = "\"it's\" C:\\ £ é ß 日本語 עברית 🎉 …";
        assert_eq!(printable(harmless), harmless);
    }
}
