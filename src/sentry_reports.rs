//! Reports internal errors and panics to Sentry; never anything a customer sent.
//!
//! Reporting never waits for Sentry: reports go through a short queue to one thread of the library, and what does not fit
//! is dropped. The library is given our HTTP agent, since its own reads settings and proxies from the environment. Its
//! panic integration is not used: it waits for the delivery on the thread that panics.

use std::collections::HashMap;
use std::fmt::Display;
use std::panic::PanicHookInfo;
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use sentry::integrations::contexts::ContextIntegration;
use sentry::protocol::{Event, Level};
use sentry::transports::UreqHttpTransportOptions;
use sentry::types::Dsn;
use sentry::{Client, ClientOptions, Scope, TransportOptions};

use crate::config::Proxy;
use crate::http_client::{HttpClient, HttpOptions};

/// What a stop may spend on delivering the last reports.
const FLUSH_MAX: Duration = Duration::from_secs(2);
/// A repeated text is reported once in this time; the log has every occurrence.
const REPEATED_AFTER: Duration = Duration::from_mins(5);
/// Texts that are remembered for that. Beyond these, new texts are not reported: so many are a flood.
const REMEMBERED_MAX: usize = 100;

/// Reports errors. Cheap to clone; does nothing until it is started.
#[derive(Clone, Default)]
pub struct Reporter {
    client: Arc<OnceLock<Arc<Client>>>,
    reported: Arc<Mutex<HashMap<String, Instant>>>,
}

impl Reporter {
    /// From now on reports go to the project of this DSN. May be called late and from any thread; the first call counts. The
    /// error is one line that does not repeat the DSN.
    pub fn start(&self, dsn: &str, environment: &str, proxy: Option<Proxy>) -> Result<(), String> {
        let invalid =
            |cause: &dyn Display| format!("cannot report to Sentry: invalid DSN: {cause}; check SENTRY_DSN");
        let dsn: Dsn = dsn.trim().parse().map_err(|error| invalid(&error))?;
        let http_options = HttpOptions {
            pool_size: 1,
            answer_bytes_max: 64 * 1024,
            deadline: Duration::from_secs(10),
            proxy,
        };
        let agent = HttpClient::new(&dsn.envelope_api_url(), http_options).agent();
        let mut options = ClientOptions::new()
            .release(env!("CARGO_PKG_VERSION"))
            .environment(environment.to_owned())
            .default_integrations(false)
            .add_integration(ContextIntegration::new());
        options.dsn = Some(dsn);
        let transport =
            TransportOptions::try_from_client_options(&options).ok_or_else(|| invalid(&"it is empty"))?;
        let transport = Arc::new(UreqHttpTransportOptions::from(transport).with_agent(agent).build());
        // Never dropped: that would join the library's thread, however long a request hangs.
        std::mem::forget(Arc::clone(&transport));
        self.client.get_or_init(|| Arc::new(Client::with_options(options.transport(transport))));
        Ok(())
    }

    /// Reports an internal error. The text must hold no secret and nothing a customer sent. Returns at once.
    pub fn report_error(&self, text: &str) {
        self.report(Level::Error, text);
    }

    /// From now on every panic of the process is reported, and handled as before.
    pub fn report_panics(&self) {
        let (reporter, before) = (self.clone(), std::panic::take_hook());
        std::panic::set_hook(Box::new(move |panic| {
            reporter.report(Level::Fatal, &panic_text(panic));
            before(panic);
        }));
    }

    fn report(&self, level: Level, text: &str) {
        let Some(client) = self.client.get() else { return };
        let mut reported = self.reported.lock().unwrap_or_else(PoisonError::into_inner);
        if is_new(&mut reported, text, Instant::now()) {
            drop(reported);
            let event = Event { message: Some(text.to_owned()), level, ..Event::default() };
            client.capture_event(event, Some(&Scope::default()));
        }
    }

    /// Delivers the last reports, for at most 2 s. Later ones are dropped.
    pub fn close(&self) {
        let Some(client) = self.client.get().cloned() else { return };
        let (done, is_done) = sync_channel(1);
        // On a thread that is left behind when time is up: closing waits for room in the queue and for the request
        // in flight, neither of which the library bounds.
        let closer = std::thread::Builder::new().name("sentry-close".to_owned());
        let close = move || done.send(client.close(Some(FLUSH_MAX)));
        if closer.spawn(close).is_ok() {
            let _ = is_done.recv_timeout(FLUSH_MAX);
        }
    }
}

/// What may be reported of a panic: its place, and its text if it is a literal in the source. A formatted text may quote what
/// was being handled.
fn panic_text(panic: &PanicHookInfo<'_>) -> String {
    let place = panic.location().map(ToString::to_string).unwrap_or_default();
    match panic.payload().downcast_ref::<&'static str>() {
        Some(text) => format!("panic: {text}, at {place}"),
        None => format!("panic at {place}: its message may quote what was being handled"),
    }
}

/// True for a text that was not reported recently.
fn is_new(reported: &mut HashMap<String, Instant>, text: &str, now: Instant) -> bool {
    reported.retain(|_, at| now.saturating_duration_since(*at) < REPEATED_AFTER);
    !reported.contains_key(text)
        && reported.len() < REMEMBERED_MAX
        && reported.insert(text.to_owned(), now).is_none()
}

#[cfg(test)]
mod tests {
    use url::Url;

    use super::*;
    use crate::http_client::stub::{Asked, Reply, Stub, dead_url};

    fn dsn(peer: &Url) -> String {
        format!("http://key@{}:{}/1", peer.host_str().unwrap(), peer.port().unwrap())
    }

    fn started(peer: &Url) -> Reporter {
        let reporter = Reporter::default();
        reporter.start(&dsn(peer), "production", None).unwrap();
        reporter
    }

    fn items(asked: &Asked) -> Vec<serde_json::Value> {
        asked.body.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    #[test]
    fn an_error_arrives_with_release_and_environment_and_repeats_do_not() {
        let stub = Stub::start([Stub::ok("{}"), Stub::ok("{}")]);
        let reporter = started(&stub.url);
        let also = reporter.clone();
        also.report_error("cannot write to Redis");
        reporter.report_error("cannot write to Redis");

        let asked = stub.asked();
        assert_eq!(asked.line, "POST /api/1/envelope/");
        assert!(
            asked.header("x-sentry-auth").contains("sentry_key=key"),
            "{}",
            asked.header("x-sentry-auth")
        );
        let event = &items(&asked)[2];
        assert_eq!(event["message"], "cannot write to Redis");
        assert_eq!(event["release"], env!("CARGO_PKG_VERSION"));
        assert_eq!(event["environment"], "production");

        reporter.close();
        reporter.report_error("too late, and harmless");
        assert!(stub.was_left_alone());
    }

    #[test]
    fn without_a_start_reports_go_nowhere() {
        let reporter = Reporter::default();
        reporter.report_error("nobody listens");
    }

    #[test]
    fn an_invalid_dsn_is_an_error_that_does_not_repeat_it() {
        let reporter = Reporter::default();
        for dsn in
            ["", "not a url", "https://sentry.example/1", "https://s3cret@sentry.example", "ftp://s3cret@x/1"]
        {
            let error = reporter.start(dsn, "e", None).unwrap_err();
            assert!(error.starts_with("cannot report to Sentry: invalid DSN: "), "{error}");
            assert!(error.ends_with("; check SENTRY_DSN") && !error.contains("s3cret"), "{error}");
        }
        assert!(reporter.client.get().is_none());
    }

    #[test]
    fn of_a_panic_its_place_is_reported_and_its_text_only_if_it_stands_in_the_source() {
        let told = Arc::new(Mutex::new(Vec::new()));
        let (texts, before) = (Arc::clone(&told), std::panic::take_hook());
        std::panic::set_hook(Box::new(move |panic| {
            texts.lock().unwrap().push(panic_text(panic));
            before(panic);
        }));
        let customer = "customer-4711";
        assert!(std::panic::catch_unwind(|| panic!("cannot handle {customer}")).is_err());
        assert!(std::panic::catch_unwind(|| panic!("a text of the source")).is_err());
        let told = told.lock().unwrap().join("\n");
        assert!(told.contains("panic at src/sentry_reports.rs:"), "{told}");
        assert!(told.contains("panic: a text of the source, at src/sentry_reports.rs:"), "{told}");
        assert!(!told.contains(customer), "{told}");
    }

    #[test]
    fn a_sentry_that_hangs_holds_up_neither_reports_nor_the_stop() {
        let stub = Stub::start([Reply::Silence]);
        let reporter = started(&stub.url);
        let began = Instant::now();
        for number in 0..90 {
            // More than the library's queue takes.
            reporter.report_error(&format!("fault {number}"));
        }
        assert!(began.elapsed() < Duration::from_secs(1), "reporting took {:?}", began.elapsed());
        stub.asked();
        let stopping = Instant::now();
        reporter.close();
        assert!(stopping.elapsed() < Duration::from_secs(3), "the stop took {:?}", stopping.elapsed());
    }

    #[test]
    fn an_unreachable_sentry_is_no_obstacle() {
        let reporter = started(&dead_url());
        let began = Instant::now();
        reporter.report_error("fault");
        reporter.close();
        assert!(began.elapsed() < Duration::from_secs(3));
    }

    #[test]
    fn a_repeated_text_passes_again_after_a_while_and_a_flood_does_not_pass() {
        let mut reported = HashMap::new();
        let start = Instant::now();
        assert!(is_new(&mut reported, "a", start));
        assert!(!is_new(&mut reported, "a", start + Duration::from_secs(299)));
        assert!(is_new(&mut reported, "a", start + REPEATED_AFTER));
        let later = start + 2 * REPEATED_AFTER;
        let passed = (0..1000).filter(|number| is_new(&mut reported, &number.to_string(), later)).count();
        assert_eq!(passed, REMEMBERED_MAX);
    }
}
