//! Internal errors and panics, told to Sentry; never anything a customer sent.
//!
//! Reporting never waits for Sentry: reports go through a short queue to one thread of the library, and what does
//! not fit is dropped. Three habits of the library are turned off for that: its panic hook waits for delivery on the
//! panicking thread, closing it joins the thread however long a request hangs, and it reads settings and
//! proxies from the environment by itself. A formatted panic message may quote what was being handled, so only the
//! place of such a panic is told.

mod delivery;

use std::collections::HashMap;
use std::fmt;
use std::panic::PanicHookInfo;
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex, Once, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use sentry::integrations::contexts::ContextIntegration;
use sentry::protocol::{Event, Exception, Level, Mechanism};
use sentry::{Client, ClientOptions, Hub, Scope};

use self::delivery::{Switch, SwitchFactory, parse_dsn};
use crate::config::Proxy;

/// What a stop may spend on delivering the last reports.
const FLUSH_MAX: Duration = Duration::from_secs(2);
/// An error that repeats is one report in this time; the log has every one.
const SAME_AGAIN_AFTER: Duration = Duration::from_mins(5);
/// Different texts remembered for that. When all are in use, further ones wait too: that many is a flood.
const REMEMBERED_MAX: usize = 100;

/// A handle to report by. Cheap to clone; does nothing until [`start`] has been called with it.
#[derive(Clone, Default)]
pub struct Reporter {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    client: OnceLock<Arc<Client>>,
    limiter: Mutex<Limiter>,
}

/// Reports are delivered while this lives. Dropping it delivers the last ones, for at most 2 s.
#[must_use = "reporting ends when the guard is dropped"]
pub struct Guard {
    client: Arc<Client>,
    switch: Arc<Switch>,
}

/// Lets `reporter`, and every panic from now on, report to the project of this DSN. May be called late and from any
/// thread, but once: a reporter that has been started is left as it is, and that is an error.
///
/// The error is one line that does not repeat the DSN.
pub fn start(
    reporter: &Reporter,
    dsn: &str,
    release: &str,
    environment: &str,
    proxy: Option<Proxy>,
) -> Result<Guard, String> {
    let dsn = parse_dsn(dsn)?;
    let switch = Arc::new(Switch::new(dsn.clone(), proxy)?);
    let mut options = ClientOptions::new()
        .release(release.to_owned())
        .environment(environment.to_owned())
        .default_integrations(false)
        .add_integration(ContextIntegration::new())
        .transport(SwitchFactory(Arc::clone(&switch)));
    // The client's own: it is on as long as it has one. Where reports go is the switch's to know.
    options.dsn = Some(dsn);
    let client = Arc::new(Client::with_options(options));
    if reporter.shared.client.set(Arc::clone(&client)).is_err() {
        return Err("cannot report to Sentry: reporting has been started before".to_owned());
    }
    // The panic hook asks the hub of the thread that panics, and that is made from the process's.
    Hub::main().bind_client(Some(Arc::clone(&client)));
    Hub::current().bind_client(Some(Arc::clone(&client)));
    report_panics();
    Ok(Guard { client, switch })
}

impl Guard {
    /// From now on reports, and panics, go to the project of this DSN; reporting itself is not interrupted. After
    /// an error they go where they went. The error is one line that does not repeat the DSN.
    pub fn turn_to(&self, dsn: &str) -> Result<(), String> {
        self.switch.turn_to(parse_dsn(dsn)?)
    }
}

impl Reporter {
    /// Reports an internal error. The text must hold no secret and nothing a customer sent. Returns at once.
    pub fn report_error(&self, message: &str) {
        let Some(client) = self.shared.client.get() else {
            return;
        };
        let mut limiter = self.shared.limiter.lock().unwrap_or_else(PoisonError::into_inner);
        if limiter.lets_through(message, Instant::now()) {
            drop(limiter);
            let event = Event {
                message: Some(message.to_owned()),
                level: Level::Error,
                ..Event::default()
            };
            client.capture_event(event, Some(&Scope::default()));
        }
    }

    /// True once [`start`] has been called with it.
    pub fn is_enabled(&self) -> bool {
        self.shared.client.get().is_some()
    }
}

// The library's own `Debug` shows the DSN, which is a secret here.
impl fmt::Debug for Reporter {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Reporter")
            .field("enabled", &self.is_enabled())
            .finish()
    }
}

impl fmt::Debug for Guard {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Guard")
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let (done, is_done) = sync_channel(1);
        let client = Arc::clone(&self.client);
        // On a thread of its own, which is left behind when time is up: closing waits for a place in the queue and
        // for the request in flight, neither of which the library bounds.
        let closer = std::thread::Builder::new()
            .name("sentry-close".to_owned())
            .spawn(move || {
                client.close(Some(FLUSH_MAX));
                let _ = done.send(());
            });
        if closer.is_ok() {
            let _ = is_done.recv_timeout(FLUSH_MAX);
        }
    }
}

/// From now on every panic is reported as well as handled as before. The library's own integration brings all that names
/// the frames of a stack, a tenth of the binary, and what is shipped is stripped of the names.
fn report_panics() {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            Hub::current().capture_event(panic_event(info));
            before(info);
        }));
    });
}

/// Tells what may be told of a panic: a text that was in the source, and the place.
fn panic_event(info: &PanicHookInfo<'_>) -> Event<'static> {
    let place = info.location().map(ToString::to_string).unwrap_or_default();
    let value = match info.payload().downcast_ref::<&'static str>() {
        Some(text) => format!("{text}, at {place}"),
        None => {
            format!("panic at {place} (its message may quote what was being handled, so it stays in the log)")
        }
    };
    Event {
        exception: vec![Exception {
            ty: "panic".to_owned(),
            value: Some(value),
            mechanism: Some(Mechanism {
                ty: "panic".to_owned(),
                handled: Some(false),
                ..Mechanism::default()
            }),
            ..Exception::default()
        }]
        .into(),
        level: Level::Fatal,
        ..Event::default()
    }
}

/// Lets a text through once in a while.
#[derive(Debug, Default)]
struct Limiter {
    last: HashMap<String, Instant>,
}

impl Limiter {
    fn lets_through(&mut self, message: &str, now: Instant) -> bool {
        self.last
            .retain(|_, at| now.saturating_duration_since(*at) < SAME_AGAIN_AFTER);
        if self.last.contains_key(message) || self.last.len() >= REMEMBERED_MAX {
            return false;
        }
        self.last.insert(message.to_owned(), now);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use url::Url;

    use crate::http_client::stub::{Asked, Reply, Stub, dead_url};

    /// Each test that starts reporting takes its own reporter and client; the panic hook is the process's, and
    /// asks the hub of its thread.
    fn started(peer: &Url) -> (Reporter, Guard) {
        let reporter = Reporter::default();
        let dsn = format!(
            "http://key@{}:{}/1",
            peer.host_str().unwrap(),
            peer.port().unwrap()
        );
        let guard = start(
            &reporter,
            &dsn,
            "persistent-cache-service@0.1.0",
            "production",
            None,
        )
        .unwrap();
        (reporter, guard)
    }

    fn items(asked: &Asked) -> Vec<serde_json::Value> {
        asked
            .body
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect()
    }

    #[test]
    fn an_error_and_a_panic_arrive_with_release_and_environment_and_repeats_do_not() {
        let stub = Stub::start([Stub::ok("{}"), Stub::ok("{}"), Stub::ok("{}")]);
        let (reporter, guard) = started(&stub.url);
        let also = reporter.clone();
        assert!(also.is_enabled());
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
        assert_eq!(event["release"], "persistent-cache-service@0.1.0");
        assert_eq!(event["environment"], "production");

        // As a worker would: on a thread of its own that has not spoken to Sentry before.
        let client = Arc::clone(&guard.client);
        let worker = std::thread::Builder::new()
            .name("worker-0".to_owned())
            .spawn(move || {
                Hub::current().bind_client(Some(client));
                let customer = "customer-4711";
                panic!("cannot handle {customer}");
            });
        assert!(worker.unwrap().join().is_err());
        let asked = stub.asked();
        assert!(
            asked.body.contains("panic at src/sentry_reports.rs:"),
            "{}",
            asked.body
        );
        assert!(!asked.body.contains("customer-4711"), "{}", asked.body);
        drop(guard);
        reporter.report_error("too late, and harmless");
        assert!(stub.was_left_alone());
    }

    #[test]
    fn without_a_start_reports_go_nowhere() {
        let reporter = Reporter::default();
        assert!(!reporter.is_enabled());
        reporter.report_error("nobody listens");
    }

    #[test]
    fn an_invalid_dsn_is_an_error_that_does_not_repeat_it() {
        let reporter = Reporter::default();
        for dsn in [
            "",
            "not a url",
            "https://sentry.example/1",
            "https://s3cret@sentry.example",
            "ftp://s3cret@x/1",
        ] {
            let error = start(&reporter, dsn, "r", "e", None).unwrap_err();
            assert!(
                error.starts_with("cannot report to Sentry: invalid DSN: "),
                "{error}"
            );
            assert!(
                error.ends_with("; check SENTRY_DSN") && !error.contains("s3cret"),
                "{error}"
            );
        }
        assert!(!reporter.is_enabled());
    }

    #[test]
    fn a_second_start_is_an_error() {
        let (reporter, _guard) = started(&dead_url());
        assert!(start(&reporter, "http://key@127.0.0.1:1/1", "r", "e", None).is_err());
    }

    #[test]
    fn a_new_dsn_is_taken_up_by_reports_and_by_panics_of_threads_that_have_reported_before() {
        let (old, new) = (
            Stub::start([Stub::ok("{}"), Stub::ok("{}")]),
            Stub::start([Stub::ok("{}"), Stub::ok("{}")]),
        );
        let (reporter, guard) = started(&old.url);
        let (client, (go, may_go)) = (Arc::clone(&guard.client), std::sync::mpsc::channel::<()>());
        let worker = std::thread::Builder::new()
            .name("worker-0".to_owned())
            .spawn(move || {
                Hub::current().bind_client(Some(client));
                may_go.recv().unwrap();
                panic!("a text of the source");
            })
            .unwrap();
        reporter.report_error("to the old one");
        assert!(old.asked().body.contains("to the old one"));

        assert!(
            guard
                .turn_to("https://s3cret@")
                .unwrap_err()
                .starts_with("cannot report to Sentry: invalid DSN")
        );
        let port = new.url.port().unwrap();
        guard
            .turn_to(&format!("http://other@127.0.0.1:{port}/2\n"))
            .unwrap();
        reporter.report_error("to the new one");
        let asked = new.asked();
        assert_eq!(asked.line, "POST /api/2/envelope/");
        assert!(asked.header("x-sentry-auth").contains("sentry_key=other"));
        assert!(asked.body.contains("to the new one"), "{}", asked.body);

        go.send(()).unwrap();
        assert!(worker.join().is_err());
        let asked = new.asked();
        assert!(asked.body.contains("a text of the source"), "{}", asked.body);
        assert!(old.was_left_alone());
    }

    #[test]
    fn a_sentry_that_hangs_holds_up_neither_reports_nor_the_stop() {
        let stub = Stub::start([Reply::Silence]);
        let (reporter, guard) = started(&stub.url);
        let began = Instant::now();
        for number in 0..90 {
            // More than the library's queue takes.
            reporter.report_error(&format!("fault {number}"));
        }
        assert!(
            began.elapsed() < Duration::from_secs(1),
            "reporting took {:?}",
            began.elapsed()
        );
        stub.asked();
        let stopping = Instant::now();
        drop(guard);
        assert!(
            stopping.elapsed() < Duration::from_secs(3),
            "the stop took {:?}",
            stopping.elapsed()
        );
    }

    #[test]
    fn an_unreachable_sentry_is_no_obstacle() {
        let (reporter, guard) = started(&dead_url());
        let began = Instant::now();
        reporter.report_error("fault");
        drop(guard);
        assert!(began.elapsed() < Duration::from_secs(3));
    }

    #[test]
    fn a_repeated_text_passes_again_after_a_while_and_a_flood_does_not_pass() {
        let mut limiter = Limiter::default();
        let start = Instant::now();
        assert!(limiter.lets_through("a", start));
        assert!(!limiter.lets_through("a", start + Duration::from_secs(299)));
        assert!(limiter.lets_through("a", start + SAME_AGAIN_AFTER));
        let later = start + 2 * SAME_AGAIN_AFTER;
        let passed = (0..1000)
            .filter(|number| limiter.lets_through(&number.to_string(), later))
            .count();
        assert_eq!(passed, REMEMBERED_MAX);
    }
}
