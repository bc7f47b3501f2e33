//! Writes records to a stream, and does not wait for long if its reader stops reading.
//!
//! A pipe holds some 64 KiB and then makes its writers wait: a log driver that hangs would hold up every loop that logs.
//! So a record is written only where there is room. When there has been none for a while, records are dropped until
//! there is, and then their number is reported. If the reader has gone, the records are lost.

use std::os::fd::AsFd;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, retry_on_intr};

/// How long there may be no room: a reader may be busy.
const PATIENCE: Duration = Duration::from_secs(1);
/// What a pipe that has room takes without waiting (`PIPE_BUF`).
const CHUNK_BYTES: usize = 4_096;

pub(super) struct PatientWriter {
    stream: Box<dyn AsFd + Send + Sync>,
    patience: Duration,
    lost: Mutex<Lost>,
}

/// Lost records that have not been reported yet. While there are some, nothing waits for room.
#[derive(Default)]
struct Lost {
    records: u64,
    /// The last one was written in part.
    is_torn: bool,
}

impl PatientWriter {
    pub(super) fn new(stream: impl AsFd + Send + Sync + 'static) -> Self {
        Self { stream: Box::new(stream), patience: PATIENCE, lost: Mutex::default() }
    }

    /// Writes records that end with a line break, after what `report` says of the number of those that were lost.
    pub(super) fn write(&self, records: &str, report: impl FnOnce(u64) -> String) {
        // Held while writing, so that records of several threads do not mix.
        let mut lost = self.lost.lock().unwrap_or_else(PoisonError::into_inner);
        let (began, had_lost) = (Instant::now(), lost.records > 0);
        let report = if had_lost { report(lost.records) } else { String::new() };
        let text = [if lost.is_torn { "\n" } else { "" }, &report, records].concat();
        let mut rest = text.as_bytes();
        while !rest.is_empty() {
            let is_torn = rest.len() < text.len();
            let patience = if had_lost && !is_torn { Duration::ZERO } else { self.patience };
            if !self.has_room(began + patience) {
                let records = if is_torn { 1 } else { lost.records + 1 };
                *lost = Lost { records, is_torn: is_torn || lost.is_torn };
                return;
            }
            let chunk = rest.get(..CHUNK_BYTES).unwrap_or(rest);
            match retry_on_intr(|| rustix::io::write(&self.stream, chunk)) {
                Ok(written) => rest = rest.get(written..).unwrap_or_default(),
                Err(Errno::AGAIN) => {}
                Err(_) => break, // there is nowhere to report it
            }
        }
        *lost = Lost::default();
    }

    fn has_room(&self, deadline: Instant) -> bool {
        let mut streams = [PollFd::from_borrowed_fd(self.stream.as_fd(), PollFlags::OUT)];
        let left =
            || Timespec::try_from(deadline.saturating_duration_since(Instant::now())).unwrap_or_default();
        // If waiting fails, so will the write, which handles it.
        retry_on_intr(|| poll(&mut streams, Some(&left()))).map_or(true, |ready| ready > 0)
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

    fn report(lost: u64) -> String {
        format!("{lost} lost\n")
    }

    #[test]
    fn a_reader_that_stops_reading_costs_lines_and_nobody_waits_for_it() {
        let (reader, stream) = pipe().unwrap();
        let writer = PatientWriter { patience: Duration::from_millis(20), ..PatientWriter::new(stream) };
        // More than any pipe holds: this ends only if nobody waits.
        for number in 0..LINES {
            writer.write(&line(number), report);
        }
        let lost = writer.lost.lock().unwrap().records;
        assert!((1..LINES).contains(&lost), "{lost}");

        let mut reader = BufReader::new(reader);
        let mut next = || {
            let mut line = String::new();
            reader.read_line(&mut line).unwrap();
            line
        };
        for number in 0..LINES - lost {
            assert_eq!(next(), line(number), "what there was room for is whole and in order");
        }
        writer.write("again\n", report);
        assert_eq!(next(), report(lost));
        assert_eq!(next(), "again\n");
        writer.write("and again\n", report);
        assert_eq!(next(), "and again\n", "it is report once");
    }

    #[test]
    fn a_line_that_was_cut_short_is_ended_before_the_next() {
        let (reader, stream) = pipe().unwrap();
        let writer = PatientWriter { patience: Duration::from_millis(20), ..PatientWriter::new(stream) };
        let long = "x".repeat(1024 * 1024);
        writer.write(&format!("{long}\n"), report);
        writer.write("there is no room for this\n", report);
        assert!(writer.lost.lock().unwrap().is_torn);

        let mut reader = BufReader::new(reader);
        let held = reader.fill_buf().unwrap().len();
        reader.consume(held);
        writer.write("next\n", report);
        drop(writer);
        let lines: Vec<String> = reader.lines().map(Result::unwrap).collect();
        assert!(lines[0].starts_with("xxx") && lines[0].len() < long.len());
        assert_eq!(lines[1..], ["2 lost", "next"]);
    }

    #[test]
    fn a_reader_that_has_gone_costs_the_lines_and_no_time() {
        let (reader, stream) = pipe().unwrap();
        drop(reader);
        let writer = PatientWriter::new(stream);
        for number in 0..LINES {
            writer.write(&line(number), report);
        }
        assert!(!writer.lost.lock().unwrap().is_torn);
    }
}
