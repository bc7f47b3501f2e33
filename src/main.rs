//! parse -> validate -> run -> exit status.

use std::io::Write;
use std::process::ExitCode;

use persistent_cache_service::config::{Settings, of_process};
use persistent_cache_service::service::{self, Overrides};
use persistent_cache_service::{build_info, commands, log as service_log};
use tikv_jemallocator::Jemalloc;

/// scripts/bench.d/RESULTS.md (Allocators) compares it with others; its options are in `.cargo/config.toml`.
#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

fn main() -> ExitCode {
    host_lookup::use_what_is_built_in();
    let (args, environment) = of_process();
    let (settings, command) = match commands::args::parse(args, &environment) {
        Ok(line) => line,
        Err(help_or_fault) => {
            let _ = help_or_fault.print(); // whoever closed the pipe needs no help
            return ExitCode::from(u8::try_from(help_or_fault.exit_code()).unwrap_or(commands::USAGE));
        }
    };
    match &command {
        Some(command) => commands::run(command, &settings),
        None => run_service(&settings).unwrap_or_else(|(status, fault)| {
            let _ = writeln!(std::io::stderr(), "{fault}");
            ExitCode::from(status)
        }),
    }
}

/// The error is an exit status and what to print: there is no log yet.
fn run_service(settings: &Settings) -> Result<ExitCode, (u8, String)> {
    let config = settings.validate().map_err(|faults| {
        (commands::CONFIGURATION, format!("the configuration has faults, nothing was started:\n{faults}"))
    })?;
    service_log::start(std::io::stdout(), &config.log)
        .map_err(|error| (1, format!("cannot start the log: {error}")))?;
    service_log::hide_keys(&config.environment_prefix);
    service_log::install_panic_hook();
    log::info!(version = build_info::VERSION, commit = build_info::COMMIT, region = config.region.as_str(), queue = config.queue_url.as_str(); "starting");
    for notice in &config.notices {
        log::warn!("{notice}");
    }
    let overrides = Overrides { log_level: Some(config.log.level), ..Overrides::default() };
    match service::run(&config, overrides) {
        Ok(status) => Ok(ExitCode::from(status)),
        Err(error) => {
            log::error!(err:% = format!("{error:#}"); "the service ended with a fault");
            Ok(ExitCode::FAILURE)
        }
    }
}
