//! What commands print, and how people read it: times, durations, colours, columns, progress.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::io::{self, Write};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::Value;
use tabwriter::TabWriter;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::{CommandError, DONE};
use crate::log::printable;

/// Writes a result. A closed pipe is no error.
pub(super) fn print(text: impl AsRef<[u8]>) -> Result<u8, CommandError> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_ref()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
        Ok(()) | Err(_) => Ok(DONE),
    }
}

/// Writes a result as JSON, in which nothing steers a terminal, or for people.
pub(super) fn show(is_json: bool, value: &Value, text: impl FnOnce() -> String) -> Result<u8, CommandError> {
    let json = || format!("{value:#}").lines().map(|line| printable(line) + "\n").collect();
    print(if is_json { json() } else { text() })
}

/// Says what went wrong.
pub(super) fn complain(what: impl Display) {
    let _ = writeln!(io::stderr(), "{what}");
}

/// Something that is counted: its place in the summary, and its text.
pub(super) type Counted = (u8, &'static str);

/// How many there were of each kind.
pub(super) struct Tally(BTreeMap<Counted, u64>);

impl Tally {
    /// This kind is shown even if there was none.
    pub fn of(first: Counted) -> Self {
        Self(BTreeMap::from([(first, 0)]))
    }

    pub fn add(&mut self, what: Counted, count: u64) {
        if count > 0 {
            *self.0.entry(what).or_default() += count;
        }
    }

    pub fn has(&self, what: Counted) -> bool {
        self.0.contains_key(&what)
    }

    /// A line for each kind.
    pub fn summary(&self) -> String {
        let lines = self.0.iter().map(|((_, what), count)| format!("{count} {what}\n"));
        lines.collect::<Vec<_>>().concat()
    }
}

/// `2026-11-24T12:00:00Z`; the number itself if it is no date.
pub(super) fn date(epoch_ms: i64) -> String {
    let date = OffsetDateTime::from_unix_timestamp(epoch_ms.div_euclid(1_000)).ok();
    let date = date.and_then(|date| date.format(&Rfc3339).ok());
    date.unwrap_or_else(|| epoch_ms.to_string())
}

/// The two largest units: `6 d 23 h`, `4 min 3 s`, `12 s`.
pub(super) fn span(secs: u64) -> String {
    let (large, small) = match secs {
        86_400.. => ((secs / 86_400, "d"), (secs % 86_400 / 3_600, "h")),
        3_600.. => ((secs / 3_600, "h"), (secs % 3_600 / 60, "min")),
        60.. => ((secs / 60, "min"), (secs % 60, "s")),
        _ => ((secs, "s"), (0, "")),
    };
    match small {
        (0, _) => format!("{} {}", large.0, large.1),
        _ => format!("{} {} {} {}", large.0, large.1, small.0, small.1),
    }
}

/// How long ago something was: `3 h ago`, `5 s ahead`.
pub(super) fn ago(secs: i64) -> String {
    let direction = if secs < 0 { "ahead" } else { "ago" };
    format!("{} {direction}", span(secs.unsigned_abs()))
}

/// Lines whose cells, with tabs in between, become columns. The last cell of a line may be of any width.
pub(super) fn columns(lines: &[String]) -> String {
    let mut writer = TabWriter::new(Vec::new()).padding(2);
    let _ = writer.write_all(lines.join("\n").as_bytes()); // a vector accepts everything
    let columns = writer.into_inner().unwrap_or_default();
    String::from_utf8_lossy(&columns).into_owned() + "\n"
}

/// A progress bar on standard error if that is a terminal. Without a total it counts.
pub(super) fn bar(total: Option<u64>, what: &'static str) -> ProgressBar {
    let bar = total.map_or_else(ProgressBar::no_length, ProgressBar::new);
    let template = if total.is_some() {
        "{bar:40} {pos} of {len} {msg} ({per_sec}, {eta} left)"
    } else {
        "{spinner} {pos} {msg} ({per_sec})"
    };
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar.set_message(what);
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_two_units_at_most() {
        for (secs, text) in [
            (0, "0 s"),
            (59, "59 s"),
            (61, "1 min 1 s"),
            (3_600, "1 h"),
            (7_199, "1 h 59 min"),
            (604_790, "6 d 23 h"),
            (86_401, "1 d"),
        ] {
            assert_eq!(span(secs), text);
        }
    }

    #[test]
    fn dates_are_utc_and_the_future_is_recognizable() {
        assert_eq!(date(1_795_521_600_123), "2026-11-24T12:00:00Z");
        assert_eq!(date(i64::MAX), i64::MAX.to_string());
        assert_eq!(ago(5), "5 s ago");
        assert_eq!(ago(-5), "5 s ahead");
    }

    #[test]
    fn columns_are_as_wide_as_their_widest_cell_on_a_terminal() {
        let lines = ["a\tbb\tc", "äää\tb\t", "客户\tb\tc"].map(str::to_owned);
        assert_eq!(columns(&lines), "a     bb  c\näää   b   \n客户  b   c\n");
    }
}
