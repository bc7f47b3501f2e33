//! The log: one line a record to stdout, as JSON for machines or as text for people.
//!
//! Code logs through the `log` crate with key-values: `log::warn!(err:% = error; "cannot reach Redis")`. The key
//! `err` comes out under `LOG_ERROR_KEY`, any other as a field. `line` is what a record looks like, `panics` makes a
//! panic one line, `faults` makes a burst of the same fault one line,
//! `recent` keeps the last ones for the status page.
//!
//! Below `debug` only this crate's own records are written, and warnings of others; r2d2's never, since it logs
//! every failed connection attempt, many a second, and the store says the same once. Others' `trace` is never
//! written: it holds the bytes of requests, keys and all. A reader of stdout that went away, or hangs, costs the
//! lines, not the process (`outlet`).

mod faults;
mod line;
mod outlet;
mod panics;
mod recent;

use std::io::{IsTerminal, stderr, stdout};
use std::sync::Arc;

use flexi_logger::writers::LogWriter;
use flexi_logger::{DeferredNow, ErrorChannel, FlexiLoggerError, LogSpecBuilder, LogSpecification, Logger};
use log::{Level, LevelFilter, Record};

pub use faults::{FaultLog, Outage};
pub use panics::install_panic_hook;
pub use recent::RecentFault;

use crate::clock;
use crate::config::{LogConfig, LogFormat};
use line::Line;
use outlet::Outlet;

/// This crate's targets, as `log` has them: the module path.
const OWN_TARGETS: &str = "persistent_cache_service";

/// Keeps the log going, and can change its level. Dropping the last clone ends the log.
#[must_use = "the log ends when this is dropped"]
#[derive(Clone)]
pub struct LogHandle {
    // The handle's own clones would each end the log when dropped.
    logger: Arc<flexi_logger::LoggerHandle>,
    level: LevelFilter,
}

impl LogHandle {
    /// The level that was configured.
    pub fn level(&self) -> LevelFilter {
        self.level
    }

    /// Logs at this level from now on, by the same rules as at start.
    pub fn set_level(&self, level: LevelFilter) {
        self.logger.set_new_spec(specification(level));
    }
}

/// Starts the log on standard output, once for a process. Fails if there is a logger already.
pub fn start(config: &LogConfig) -> Result<LogHandle, FlexiLoggerError> {
    start_on(Outlet::new(stdout()), stdout().is_terminal(), config)
}

/// The same on standard error: for commands, whose standard output is for what they found out.
pub fn start_on_stderr(config: &LogConfig) -> Result<LogHandle, FlexiLoggerError> {
    start_on(Outlet::new(stderr()), stderr().is_terminal(), config)
}

fn start_on(outlet: Outlet, is_terminal: bool, config: &LogConfig) -> Result<LogHandle, FlexiLoggerError> {
    let output = Output {
        outlet,
        is_coloured: config.colour && is_terminal,
        config: config.clone(),
    };
    let logger = Logger::with(specification(config.level))
        .log_to_writer(Box::new(output))
        // flexi_logger's own troubles have nowhere better to go, and its default is a panic.
        .error_channel(ErrorChannel::DevNull)
        .panic_if_error_channel_is_broken(false)
        .start()?;
    Ok(LogHandle {
        logger: Arc::new(logger),
        level: config.level,
    })
}

fn specification(level: LevelFilter) -> LogSpecification {
    // What others say below a warning is their own affair (bytes and headers of requests, in some), and would bury
    // what we say.
    let of_others = level.min(LevelFilter::Warn);
    LogSpecBuilder::new()
        .default(of_others)
        .module(OWN_TARGETS, level)
        .module("r2d2", LevelFilter::Off)
        .build()
}

/// Standard output, or standard error, and what a line looks like there.
struct Output {
    outlet: Outlet,
    is_coloured: bool,
    config: LogConfig,
}

impl Output {
    fn line(&self, record: &Record) -> String {
        let line = Line::new(record, clock::now(), std::thread::current().name());
        let mut text = match self.config.format {
            LogFormat::Json => line.to_json(&self.config.message_key, &self.config.error_key),
            LogFormat::Text => line.to_text(self.is_coloured),
        };
        text.push('\n');
        text
    }

    /// What is said when somebody reads again.
    fn lost(&self, lines: u64) -> String {
        let mut record = Record::builder();
        record.level(Level::Warn).target(module_path!());
        self.line(
            &record
                .args(format_args!(
                    "{lines} lines before this one are lost: whoever reads this log had stopped reading"
                ))
                .build(),
        )
    }
}

impl LogWriter for Output {
    fn write(&self, _now: &mut DeferredNow, record: &Record) -> std::io::Result<()> {
        self.outlet.write(&self.line(record), |lines| self.lost(lines));
        Ok(())
    }

    fn flush(&self) -> std::io::Result<()> {
        Ok(()) // nothing is held back
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

    #[test]
    fn r2d2_is_silent_at_every_level() {
        for level in [LevelFilter::Error, LevelFilter::Info, LevelFilter::Trace] {
            assert!(!specification(level).enabled(Level::Error, "r2d2"), "{level}");
        }
    }
}
