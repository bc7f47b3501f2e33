//! The log of a command: to standard error, as its standard output is for what it found out.

use std::io::{IsTerminal, Write};

use flexi_logger::writers::LogWriter;
use flexi_logger::{DeferredNow, ErrorChannel, FlexiLoggerError, Logger};
use log::Record;

use super::line::Line;
use super::{LogHandle, specification};
use crate::clock;
use crate::config::{LogConfig, LogFormat};

/// Starts the log on standard error, once for a process. Fails if there is a logger already.
pub fn start_on_stderr(config: &LogConfig) -> Result<LogHandle, FlexiLoggerError> {
    let stderr = Stderr {
        is_coloured: std::io::stderr().is_terminal(),
        config: config.clone(),
    };
    let logger = Logger::with(specification(config.level))
        .log_to_writer(Box::new(stderr))
        .error_channel(ErrorChannel::DevNull)
        .panic_if_error_channel_is_broken(false)
        .start()?;
    Ok(LogHandle { _logger: logger })
}

struct Stderr {
    is_coloured: bool,
    config: LogConfig,
}

impl LogWriter for Stderr {
    fn write(&self, _now: &mut DeferredNow, record: &Record) -> std::io::Result<()> {
        let line = Line::new(record, clock::now(), std::thread::current().name());
        let mut text = match self.config.format {
            LogFormat::Json => line.to_json(&self.config.message_key, &self.config.error_key),
            LogFormat::Text => line.to_text(self.is_coloured),
        };
        text.push('\n');
        let _ = std::io::stderr().lock().write_all(text.as_bytes());
        Ok(())
    }

    fn flush(&self) -> std::io::Result<()> {
        Ok(())
    }
}
