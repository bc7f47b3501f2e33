//! An HTTP server for one test. One thread answers each request from a state that the test can read and change.

use std::sync::{Arc, Mutex, MutexGuard};

use serde_json::Value;
use tiny_http::{Header, Request, Response, Server};

use super::child::thread;

/// The answer to a request.
pub struct Reply {
    pub status: u16,
    headers: Vec<(&'static str, String)>,
    body: String,
}

impl Reply {
    pub fn new(status: u16, content_type: &str, body: impl Into<String>) -> Self {
        Self { status, headers: vec![("content-type", content_type.to_owned())], body: body.into() }
    }

    pub fn json(status: u16, body: &Value) -> Self {
        Self::new(status, "application/json", body.to_string())
    }

    pub fn with(mut self, header: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((header, value.into()));
        self
    }
}

/// The server; dropping it ends it.
pub struct HttpStub<S> {
    /// `http://127.0.0.1:port`
    pub url: String,
    state: Arc<Mutex<S>>,
    server: Arc<Server>,
}

impl<S: Send + 'static> HttpStub<S> {
    /// Listens on a free port.
    pub fn start(
        name: &str,
        state: S,
        answer: impl Fn(&Mutex<S>, &mut Request) -> Reply + Send + 'static,
    ) -> Self {
        let server = Arc::new(Server::http("127.0.0.1:0").expect("a port"));
        let url = format!("http://{}", server.server_addr());
        let state = Arc::new(Mutex::new(state));
        let (shared_server, shared_state) = (Arc::clone(&server), Arc::clone(&state));
        thread(name, move || {
            for mut request in shared_server.incoming_requests() {
                let reply = answer(&shared_state, &mut request);
                let mut response = Response::from_string(reply.body).with_status_code(reply.status);
                for (name, value) in reply.headers {
                    response.add_header(Header::from_bytes(name, value).expect("a header"));
                }
                let _ = request.respond(response);
            }
        });
        Self { url, state, server }
    }
}

impl<S> HttpStub<S> {
    pub fn state(&self) -> MutexGuard<'_, S> {
        self.state.lock().unwrap()
    }
}

impl<S> Drop for HttpStub<S> {
    fn drop(&mut self) {
        self.server.unblock();
    }
}

/// The value of a request's header.
pub fn header(request: &Request, name: &'static str) -> Option<String> {
    let found = request.headers().iter().find(|header| header.field.equiv(name));
    found.map(|header| header.value.as_str().to_owned())
}

/// The body of a request, as text.
pub fn body(request: &mut Request) -> String {
    let mut body = Vec::new();
    let _ = request.as_reader().read_to_end(&mut body);
    String::from_utf8_lossy(&body).into_owned()
}
