//! The last kinds of fault, each once, for those who look after the lines have scrolled away. Bounded in number and in
//! length, whatever is told; pure.

use std::collections::VecDeque;
use std::time::Instant;

use log::Level;

/// More than a person reads.
const KINDS_MAX: usize = 20;
/// Of a text, in characters: a peer's own words may be long.
const CHARS_MAX: usize = 600;

/// A kind of fault, as it was met last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecentFault {
    /// The kind that it is counted under.
    pub kind: String,
    /// How bad.
    pub level: Level,
    /// What happened.
    pub message: String,
    /// Why. Of addresses in it neither user, password nor query are left.
    pub error: String,
    /// How often since `first_at`.
    pub times: u64,
    /// When it was met first.
    pub first_at: Instant,
    /// When it was met last.
    pub last_at: Instant,
    /// What it hindered was done again since.
    pub is_over: bool,
}

/// The newest last.
#[derive(Debug, Default)]
pub(super) struct RecentFaults(VecDeque<RecentFault>);

impl RecentFaults {
    pub(super) fn note(&mut self, kind: &str, level: Level, message: &str, error: &str, now: Instant) {
        let known = self.0.iter().position(|fault| fault.kind == kind);
        let known = known.and_then(|index| self.0.remove(index));
        let (times, first_at) = known.map_or((0, now), |fault| (fault.times, fault.first_at));
        if self.0.len() >= KINDS_MAX {
            self.0.pop_front();
        }
        self.0.push_back(RecentFault {
            kind: shortened(kind),
            level,
            message: shortened(&without_secrets(message)),
            error: shortened(&without_secrets(error)),
            times: times + 1,
            first_at,
            last_at: now,
            is_over: false,
        });
    }

    /// What all kinds that begin so hindered is done again.
    pub(super) fn over(&mut self, kinds: &str) {
        self.0
            .iter_mut()
            .filter(|fault| fault.kind.starts_with(kinds))
            .for_each(|fault| fault.is_over = true);
    }

    /// The newest first.
    pub(super) fn all(&self) -> Vec<RecentFault> {
        self.0.iter().rev().cloned().collect()
    }
}

fn shortened(text: &str) -> String {
    match text.char_indices().nth(CHARS_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// Addresses without user, password and query. What is told to the log holds none of them; but this is shown to
/// whoever reaches a port.
fn without_secrets(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(scheme_end) = rest.find("://") {
        let (before, address) = rest.split_at(scheme_end + 3);
        clean.push_str(before);
        let end = address
            .find(|letter: char| letter.is_whitespace() || matches!(letter, '"' | '\'' | '`' | '<' | '>'))
            .unwrap_or(address.len());
        let (address, after) = address.split_at(end);
        let authority_end = address.find(['/', '?', '#']).unwrap_or(address.len());
        let host_begins = address[..authority_end].rfind('@').map_or(0, |at| at + 1);
        if host_begins > 0 {
            clean.push_str("…@");
        }
        let host_and_path = &address[host_begins..];
        match host_and_path.find(['?', '#']) {
            Some(query) => {
                clean.push_str(&host_and_path[..=query]);
                clean.push('…');
            }
            None => clean.push_str(host_and_path),
        }
        rest = after;
    }
    clean.push_str(rest);
    clean
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noted(faults: &[(&str, &str)]) -> RecentFaults {
        let mut recent = RecentFaults::default();
        let now = Instant::now();
        for (kind, error) in faults {
            recent.note(kind, Level::Warn, "it failed", error, now);
        }
        recent
    }

    fn told(recent: &RecentFaults) -> Vec<(String, String, u64, bool)> {
        let all = recent.all().into_iter();
        all.map(|fault| (fault.kind, fault.error, fault.times, fault.is_over))
            .collect()
    }

    #[test]
    fn each_kind_is_there_once_with_its_last_error_and_its_count_the_newest_first() {
        let recent = noted(&[("redis io", "a"), ("queue", "b"), ("redis io", "c")]);
        let expected = [("redis io", "c", 2, false), ("queue", "b", 1, false)];
        let expected =
            expected.map(|(kind, error, times, over)| (kind.to_owned(), error.to_owned(), times, over));
        assert_eq!(told(&recent), expected);
    }

    #[test]
    fn what_is_over_says_so_until_it_comes_again() {
        let mut recent = noted(&[("redis io", "a"), ("queue", "b")]);
        recent.over("redis ");
        let over = |recent: &RecentFaults| told(recent).iter().map(|fault| fault.3).collect::<Vec<_>>();
        assert_eq!(over(&recent), [false, true]);
        recent.note("redis io", Level::Error, "it failed", "a", Instant::now());
        assert_eq!(over(&recent), [false, false]);
    }

    #[test]
    fn number_and_length_are_bounded() {
        let mut recent = RecentFaults::default();
        for kind in 0..1_000 {
            let long = "é".repeat(10_000);
            recent.note(&format!("kind {kind}"), Level::Warn, &long, &long, Instant::now());
        }
        let all = recent.all();
        assert_eq!((all.len(), all[0].kind.as_str()), (KINDS_MAX, "kind 999"));
        assert_eq!(all[0].error.chars().count(), CHARS_MAX + 1);
    }

    #[test]
    fn addresses_lose_user_password_and_query() {
        for (text, clean) in [
            ("refused", "refused"),
            ("at redis://u:p@ss@h:1/0: refused", "at redis://…@h:1/0: refused"),
            (
                "GET https://h/x?token=t#f failed, 'http://a:b@c?d' too",
                "GET https://h/x?… failed, 'http://…@c?…' too",
            ),
            ("mail a@b ://", "mail a@b ://"),
            ("https://h/path@x é://ü:ö@ä", "https://h/path@x é://…@ä"),
        ] {
            assert_eq!(without_secrets(text), clean);
        }
    }
}
