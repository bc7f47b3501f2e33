//! How reports get to Sentry, and how a new DSN is taken up while the service runs.
//!
//! The client, its hooks and its place in every thread's hub stay as they are for the life of the process; what
//! changes with the DSN is what lies behind: one thread of the library, with one connection to one project.

use std::mem::ManuallyDrop;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sentry::transports::{UreqHttpTransport, UreqHttpTransportOptions};
use sentry::types::Dsn;
use sentry::{ClientOptions, Envelope, Transport, TransportFactory, TransportOptions};
use url::Url;

use super::FLUSH_MAX;
use crate::config::Proxy;
use crate::http_client::{HttpClient, HttpOptions};

/// One delivery, on the library's own thread.
const DEADLINE: Duration = Duration::from_secs(10);
/// Sentry answers with an id.
const ANSWER_BYTES_MAX: u64 = 64 * 1024;

/// The DSN's text as the library takes it. The error is one line that does not repeat it.
pub fn parse_dsn(text: &str) -> Result<Dsn, String> {
    text.trim()
        .parse()
        .map_err(|error| format!("cannot report to Sentry: invalid DSN: {error}; check SENTRY_DSN"))
}

/// Delivers to the project of one DSN. Never simply dropped: the library's drop joins its thread, which may sit in a
/// request.
struct Delivery(ManuallyDrop<UreqHttpTransport>);

impl Delivery {
    /// On our own HTTP set-up: deadlines, the system's certificates, the proxy of the settings, no environment.
    fn to(dsn: Dsn, proxy: Option<Proxy>) -> Result<Self, String> {
        let peer = Url::parse(&format!("{}://{}:{}", dsn.scheme(), dsn.host(), dsn.port()))
            .map_err(|error| format!("cannot report to Sentry: invalid DSN: {error}; check SENTRY_DSN"))?;
        let http_options = HttpOptions {
            pool_size: 1,
            answer_bytes_max: ANSWER_BYTES_MAX,
            deadline: DEADLINE,
            proxy,
        };
        let agent = HttpClient::new(&peer, http_options)
            .agent()
            .map_err(|error| format!("cannot report to Sentry: {error}"))?;
        let mut options = ClientOptions::new();
        options.dsn = Some(dsn);
        let options = TransportOptions::try_from_client_options(&options)
            .ok_or("cannot report to Sentry: invalid DSN: it is empty; check SENTRY_DSN")?;
        let transport = UreqHttpTransportOptions::from(options).with_agent(agent).build();
        Ok(Self(ManuallyDrop::new(transport)))
    }
}

/// Delivers to the project of the DSN that holds now.
pub struct Switch {
    proxy: Option<Proxy>,
    current: Mutex<Arc<Delivery>>,
}

impl Switch {
    /// Delivers to this DSN, by this proxy if it is for that.
    pub fn new(dsn: Dsn, proxy: Option<Proxy>) -> Result<Self, String> {
        let delivery = Delivery::to(dsn, proxy.clone())?;
        Ok(Self {
            proxy,
            current: Mutex::new(Arc::new(delivery)),
        })
    }

    /// From now on delivers to this DSN. What is still on its way to the one before gets two seconds, in the
    /// background.
    pub fn turn_to(&self, dsn: Dsn) -> Result<(), String> {
        let new = Arc::new(Delivery::to(dsn, self.proxy.clone())?);
        let old = {
            let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::replace(&mut *current, new)
        };
        // A thread of its own, since the library bounds neither the wait for a place in its queue nor its end. If
        // there is none to be had, the reports under way are lost and a thread of the library stays, idle.
        let _ = std::thread::Builder::new()
            .name("sentry-close".to_owned())
            .spawn(move || {
                old.0.flush(FLUSH_MAX);
                if let Some(old) = Arc::into_inner(old) {
                    drop(ManuallyDrop::into_inner(old.0));
                }
            });
        Ok(())
    }

    fn current(&self) -> Arc<Delivery> {
        Arc::clone(&self.current.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Transport for Switch {
    fn send_envelope(&self, envelope: Envelope) {
        self.current().0.send_envelope(envelope);
    }

    fn flush(&self, _timeout: Duration) -> bool {
        // A thread that reports has work to go on with: only the end waits for delivery.
        true
    }

    fn shutdown(&self, timeout: Duration) -> bool {
        self.current().0.flush(timeout)
    }
}

/// Gives the client the switch that was made for it.
pub struct SwitchFactory(pub Arc<Switch>);

impl TransportFactory for SwitchFactory {
    fn create_transport_with_options(&self, _options: TransportOptions) -> Arc<dyn Transport> {
        Arc::clone(&self.0) as Arc<dyn Transport>
    }
}
