//! Stands in for Sentry: keeps the envelopes that are posted to the project.

use super::http_stub::{HttpStub, Reply, body};

/// The stub.
pub struct SentryStub {
    /// `127.0.0.1:port`
    pub address: String,
    pub dsn: String,
    stub: HttpStub<Vec<String>>,
}

impl SentryStub {
    /// Listens.
    pub fn start() -> Self {
        let stub = HttpStub::start("sentry-stub", Vec::new(), |envelopes, request| {
            assert_eq!(request.url(), "/api/7/envelope/");
            envelopes.lock().unwrap().push(body(request));
            Reply::new(200, "application/json", "{}")
        });
        let address = stub.url.trim_start_matches("http://").to_owned();
        Self { dsn: format!("http://publickey@{address}/7"), address, stub }
    }

    /// All that was reported.
    pub fn reports(&self) -> String {
        self.stub.state().join("\n")
    }
}
