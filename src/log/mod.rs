//! The log: one record a line to stdout, as JSON for machines or as text for people.
//!
//! Code logs through the `log` crate with key-values: `log::warn!(err:% = error; "cannot reach Redis")`. The key `err`
//! comes out under `LOG_ERROR_KEY`, any other as a field. Whatever repeats above `debug` is limited, so that no peer can
//! flood the log. Text of peers goes through [`peer_text`] where it enters.

mod faults;
mod record;
mod text;
mod writer;

use std::io::IsTerminal;
use std::os::fd::AsFd;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use flexi_logger::writers::LogWriter;
use flexi_logger::{
    DeferredNow, ErrorChannel, FlexiLoggerError, LogSpecBuilder, LogSpecification, Logger, LoggerHandle,
};
use log::{Level, LevelFilter, Record};

pub use faults::{FaultLog, Outage, RecentFault, WINDOW};
pub use text::{hide_keys, peer_code, peer_text, printable};

use crate::clock;
use crate::config::{LogConfig, LogFormat};
use faults::Limiter;
use writer::PatientWriter;

static OUTPUT: OnceLock<Output> = OnceLock::new();
static LOGGER: OnceLock<LoggerHandle> = OnceLock::new();

/// Starts the log on standard output, or for commands, whose standard output is for their results, on standard error. Once for
/// a process: fails if there is a logger already.
pub fn start(
    stream: impl IsTerminal + AsFd + Send + Sync + 'static,
    config: &LogConfig,
) -> Result<(), FlexiLoggerError> {
    let output: &'static Output = OUTPUT.get_or_init(|| Output {
        is_coloured: config.colour && stream.is_terminal(),
        writer: PatientWriter::new(stream),
        config: config.clone(),
        limiter: Mutex::default(),
    });
    let logger = Logger::with(specification(config.level))
        .log_to_writer(Box::new(output))
        .error_channel(ErrorChannel::DevNull) // flexi_logger's own faults have nowhere better to go
        .start()?;
    LOGGER.get_or_init(|| logger);
    Ok(())
}

/// Logs at this level from now on, by the same rules as at start.
pub fn set_level(level: LevelFilter) {
    LOGGER.get().inspect(|logger| logger.set_new_spec(specification(level)));
}

/// Logs the summaries of what was limited in windows that have lasted this long: to be called with [`WINDOW`] about every second,
/// and with zero at the end of the process.
pub fn log_summaries(at_least: Duration) {
    let Some(output) = OUTPUT.get() else { return };
    let now = Instant::now();
    let ended = output.limiter().end(at_least, now); // without the lock below: writing may block
    for window in ended {
        let (last, secs) = (window.last.trim_end(), now.duration_since(window.began).as_secs());
        output.write(&match (output.config.format, last.strip_suffix('}')) {
            (LogFormat::Json, Some(object)) => {
                format!("{object},\"repeated\":{},\"window_secs\":{secs}}}\n", window.repeated)
            }
            _ => format!("{last}  repeated={} window_secs={secs}\n", window.repeated),
        });
    }
}

/// Only warnings of other crates, since their debug records hold bytes of requests.
fn specification(level: LevelFilter) -> LogSpecification {
    LogSpecBuilder::new()
        .default(level.min(LevelFilter::Warn))
        .module(env!("CARGO_CRATE_NAME"), level)
        .build()
}

/// Logs every panic from now on as one error record. The standard hook writes several lines to stderr.
pub fn install_panic_hook() {
    std::panic::set_hook(Box::new(|panic| {
        let at = panic.location().map(ToString::to_string).unwrap_or_default();
        let text = panic.payload_as_str().unwrap_or("a panic without text");
        // A composed text may quote what was being handled: "byte index 4 is out of bounds of `…`".
        let is_safe = panic.payload().is::<&'static str>() || log::log_enabled!(Level::Debug);
        let text = if is_safe { text.to_owned() } else { peer_text(text) };
        log::error!(err = text.as_str(), at = at.as_str(); "a thread panicked: this is a fault of the service, please report it");
    }));
}

/// Standard output, or standard error, and what a record looks like there.
struct Output {
    writer: PatientWriter,
    is_coloured: bool,
    config: LogConfig,
    limiter: Mutex<Limiter>,
}

impl Output {
    fn line(&self, record: &Record<'_>) -> String {
        let (config, now, thread) = (&self.config, clock::now(), std::thread::current());
        let thread = thread.name().unwrap_or("unnamed");
        let line = match config.format {
            LogFormat::Json => record::to_json(record, thread, now, config),
            LogFormat::Text => record::to_text(record, thread, now, self.is_coloured),
        };
        line + "\n"
    }

    fn write(&self, lines: &str) {
        self.writer.write(lines, |lost| {
            let mut record = Record::builder();
            record.level(Level::Warn).target(module_path!());
            let loss = "lines before this one are lost: the reader of this log had stopped reading";
            self.line(&record.args(format_args!("{lost} {loss}")).build())
        });
    }

    fn limiter(&self) -> MutexGuard<'_, Limiter> {
        self.limiter.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl LogWriter for &'static Output {
    fn write(&self, _now: &mut DeferredNow, record: &Record) -> std::io::Result<()> {
        let (line, is_limited) = (self.line(record), record.level() <= Level::Info);
        let pass = |line| self.limiter().pass(record::source(record), line, Instant::now());
        let passed = if is_limited { pass(line) } else { Some(line) };
        passed.inspect(|line| Output::write(self, line)); // without the lock: this may block
        Ok(())
    }

    fn flush(&self) -> std::io::Result<()> {
        Ok(()) // nothing is buffered
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn at_info_only_our_own_records_and_the_warnings_of_others_are_written() {
        let specification = specification(LevelFilter::Info);
        assert!(specification.enabled(Level::Info, "persistent_cache_service::pipeline"));
        assert!(!specification.enabled(Level::Debug, "persistent_cache_service::pipeline"));
        assert!(specification.enabled(Level::Warn, "rustls::conn"));
        assert!(!specification.enabled(Level::Info, "ureq"));
    }

    #[test]
    fn at_error_the_warnings_of_others_are_silent_too() {
        assert!(!specification(LevelFilter::Error).enabled(Level::Warn, "rustls::conn"));
    }

    #[test]
    fn at_debug_and_trace_others_are_heard_from_warnings_on_all_the_same() {
        for level in [LevelFilter::Debug, LevelFilter::Trace] {
            assert!(specification(level).enabled(Level::Debug, "persistent_cache_service::pipeline"));
            assert!(specification(level).enabled(Level::Warn, "ureq::unversioned"));
            assert!(!specification(level).enabled(Level::Info, "ureq::unversioned"));
        }
        assert!(specification(LevelFilter::Trace).enabled(Level::Trace, "persistent_cache_service"));
    }
}
