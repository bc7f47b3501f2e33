//! Stands in for Sentry: keeps the envelopes that are posted to the project.

use std::sync::{Arc, Mutex};

use tiny_http::{Response, Server};

use super::child::thread;

/// The stub.
pub struct SentryStub {
    /// `127.0.0.1:port`
    pub address: String,
    pub dsn: String,
    envelopes: Arc<Mutex<Vec<String>>>,
    server: Arc<Server>,
}

impl SentryStub {
    /// Listens.
    pub fn start() -> Self {
        let server = Arc::new(Server::http("127.0.0.1:0").expect("a port"));
        let address = server.server_addr().to_string();
        let dsn = format!("http://publickey@{address}/7");
        let envelopes = Arc::new(Mutex::new(Vec::new()));
        let (shared_server, shared_envelopes) = (Arc::clone(&server), Arc::clone(&envelopes));
        thread("sentry-stub", move || {
            for mut request in shared_server.incoming_requests() {
                let mut body = Vec::new();
                let _ = request.as_reader().read_to_end(&mut body);
                assert_eq!(request.url(), "/api/7/envelope/");
                shared_envelopes.lock().unwrap().push(String::from_utf8_lossy(&body).into_owned());
                let _ = request.respond(Response::from_string("{}"));
            }
        });
        Self { address, dsn, envelopes, server }
    }

    /// All that was reported.
    pub fn reports(&self) -> String {
        self.envelopes.lock().unwrap().join("\n")
    }
}

impl Drop for SentryStub {
    fn drop(&mut self) {
        self.server.unblock();
    }
}
