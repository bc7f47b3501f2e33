//! The way of a line to standard output: whoever reads there may stop reading, and must stop no thread by it.
//!
//! A pipe takes some 64 KiB and then makes its writers wait, for as long as it likes: a container's log driver that
//! hangs would hold up every loop that has something to say, the stop included. So a line is written only where there
//! is room for it. When there has been none for a while, lines are dropped until there is room again; how many were
//! dropped is told then. A file always has room; a reader that has gone costs the lines.

use std::os::fd::AsFd;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

/// How long there may be no room: a reader may be busy.
const PATIENCE: Duration = Duration::from_secs(1);
/// What a pipe that has room takes without waiting (`PIPE_BUF`).
const PIECE_BYTES: usize = 4_096;

/// A stream that is written to without waiting for long.
pub(super) struct Outlet {
    stream: Box<dyn AsFd + Send + Sync>,
    patience: Duration,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// There was no room last time: it is not waited for again.
    is_stuck: bool,
    /// Lines that were dropped and not yet told of.
    lost: u64,
    /// The last line was written in part.
    is_torn: bool,
}

impl Outlet {
    pub(super) fn new(stream: impl AsFd + Send + Sync + 'static) -> Self {
        Self {
            stream: Box::new(stream),
            patience: PATIENCE,
            state: Mutex::default(),
        }
    }

    /// Writes a line, which brings its line break; after those that were lost before it, what `told` says of them.
    pub(super) fn write(&self, line: &str, told: impl FnOnce(u64) -> String) {
        // One line after the other, so that lines of several threads do not mix.
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let patience = if state.is_stuck {
            Duration::ZERO
        } else {
            self.patience
        };
        if !self.has_room(Instant::now() + patience) {
            state.is_stuck = true;
            state.lost += 1;
            return;
        }
        let mut text = String::new();
        if state.is_torn {
            text.push('\n');
        }
        if state.lost > 0 {
            text.push_str(&told(state.lost));
        }
        text.push_str(line);
        let is_whole = self.write_text(text.as_bytes(), Instant::now() + self.patience);
        *state = State {
            is_stuck: !is_whole,
            lost: u64::from(!is_whole),
            is_torn: !is_whole,
        };
    }

    /// False if there was no room for all of it. Nobody could be told of any other failure.
    fn write_text(&self, text: &[u8], deadline: Instant) -> bool {
        let mut rest = text;
        while !rest.is_empty() {
            if !self.has_room(deadline) {
                return false;
            }
            let piece = rest.get(..PIECE_BYTES).unwrap_or(rest);
            match rustix::io::write(&self.stream, piece) {
                Ok(written) => rest = rest.get(written..).unwrap_or_default(),
                Err(Errno::INTR | Errno::AGAIN) => {}
                Err(_) => return true,
            }
        }
        true
    }

    /// Waits until something can be written without waiting, or until the deadline.
    fn has_room(&self, deadline: Instant) -> bool {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let wait = Timespec::try_from(left).unwrap_or_default();
            let mut streams = [PollFd::from_borrowed_fd(self.stream.as_fd(), PollFlags::OUT)];
            match poll(&mut streams, Some(&wait)) {
                Ok(ready) => return ready > 0,
                Err(Errno::INTR) if !left.is_zero() => {}
                // What cannot be waited for is written to, and fails there.
                Err(_) => return true,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, pipe};

    use super::*;

    const LINES: u64 = 2_000;

    fn line(number: u64) -> String {
        format!("{number:099}\n")
    }

    fn told(lost: u64) -> String {
        format!("{lost} lost\n")
    }

    #[test]
    fn a_reader_that_stops_reading_costs_lines_and_nobody_waits_for_it() {
        let (reader, writer) = pipe().unwrap();
        let outlet = Outlet {
            patience: Duration::from_millis(20),
            ..Outlet::new(writer)
        };
        // More than any pipe holds: this ends only if nobody waits.
        for number in 0..LINES {
            outlet.write(&line(number), told);
        }
        let lost = outlet.state.lock().unwrap().lost;
        assert!((1..LINES).contains(&lost), "{lost}");

        let mut reader = BufReader::new(reader);
        let mut next = || {
            let mut line = String::new();
            reader.read_line(&mut line).unwrap();
            line
        };
        for number in 0..LINES - lost {
            assert_eq!(
                next(),
                line(number),
                "what there was room for is whole and in order"
            );
        }
        outlet.write("again\n", told);
        assert_eq!(next(), told(lost));
        assert_eq!(next(), "again\n");
        outlet.write("and again\n", told);
        assert_eq!(next(), "and again\n", "it is told once");
    }

    #[test]
    fn a_line_that_was_cut_short_is_ended_before_the_next() {
        let (reader, writer) = pipe().unwrap();
        let outlet = Outlet {
            patience: Duration::from_millis(20),
            ..Outlet::new(writer)
        };
        let long = "x".repeat(1024 * 1024);
        outlet.write(&format!("{long}\n"), told);
        assert!(outlet.state.lock().unwrap().is_torn);

        let mut reader = BufReader::new(reader);
        let held = reader.fill_buf().unwrap().len();
        reader.consume(held);
        outlet.write("next\n", told);
        drop(outlet);
        let lines: Vec<String> = reader.lines().map(Result::unwrap).collect();
        assert!(lines[0].starts_with("xxx") && lines[0].len() < long.len());
        assert_eq!(lines[1..], ["1 lost", "next"]);
    }

    #[test]
    fn a_reader_that_has_gone_costs_the_lines_and_no_time() {
        let (reader, writer) = pipe().unwrap();
        drop(reader);
        let outlet = Outlet::new(writer);
        for number in 0..LINES {
            outlet.write(&line(number), told);
        }
        assert!(!outlet.state.lock().unwrap().is_stuck);
    }
}
