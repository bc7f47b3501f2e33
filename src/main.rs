//! parse -> validate -> run -> exit status.

use std::io::Write;
use std::process::ExitCode;

use persistent_cache_service::config::Settings;
use persistent_cache_service::{log as service_log, service};

/// `EX_CONFIG` of sysexits.h: the configuration has faults, a restart will not help.
const EXIT_CONFIG: u8 = 78;
/// What clap uses for flags that it does not know.
const EXIT_USAGE: u8 = 2;

fn main() -> ExitCode {
    let settings = match Settings::from_process() {
        Ok(settings) => settings,
        Err(help_or_fault) => {
            let _ = help_or_fault.print(); // a reader that has gone needs no help
            return ExitCode::from(u8::try_from(help_or_fault.exit_code()).unwrap_or(EXIT_USAGE));
        }
    };
    let config = match settings.validate() {
        Ok(config) => config,
        Err(faults) => {
            let _ = writeln!(
                std::io::stderr(),
                "the configuration has faults, nothing was started:\n{faults}"
            );
            return ExitCode::from(EXIT_CONFIG);
        }
    };
    let _log = match service_log::start(&config.log) {
        Ok(handle) => handle,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "cannot start the log: {error}");
            return ExitCode::FAILURE;
        }
    };
    service_log::install_panic_hook();
    log::info!(version = env!("CARGO_PKG_VERSION"), region = config.region.as_str(), queue = config.queue_url.as_str(); "starting");
    for notice in &config.notices {
        log::warn!("{notice}");
    }
    match service::run(&config) {
        Ok(ended) => ExitCode::from(ended.exit_status()),
        Err(error) => {
            log::error!(err:% = format!("{error:#}"); "the service ended with a fault");
            ExitCode::FAILURE
        }
    }
}
