//! `live` and `ready`: probes of a running service, for images that have no shell and no curl.

use std::time::Duration;

use http::Request;
use url::Url;

use super::{DONE, FAILED, complain, complain_of_settings, print};
use crate::config::Settings;
use crate::http_client::{HttpClient, HttpErrorKind, HttpOptions, HttpResponse};

/// The service answers at once or is in trouble; orchestrators give a probe not much more.
const DEADLINE: Duration = Duration::from_secs(5);
/// The answers have a few dozen bytes.
const ANSWER_BYTES_MAX: u64 = 64 * 1024;
/// The service listens on all addresses; a host has the one or the other of these, or both.
const LOOPBACKS: [&str; 2] = ["127.0.0.1", "[::1]"];

pub(super) fn run(settings: &Settings, path: &str) -> u8 {
    let port = match settings.port_to_probe() {
        Ok(port) => port,
        Err(faults) => return complain_of_settings(&faults),
    };
    match ask(port, path) {
        Ok(answer) => {
            let body = String::from_utf8_lossy(&answer.body);
            let body = body.trim_end();
            if answer.status == 200 {
                print(&format!("{body}\n"));
                return DONE;
            }
            complain(format!(
                "GET {path} on port {port} answers {}: {body}; the service's log and its /metrics tell why",
                answer.status
            ));
        }
        Err(words) => complain(format!(
            "no answer to GET {path} on port {port} of this machine: {words}; is the service running here, and is PORT the same?"
        )),
    }
    FAILED
}

fn ask(port: u16, path: &str) -> Result<HttpResponse, String> {
    let mut words = String::new();
    for host in LOOPBACKS {
        let url = format!("http://{host}:{port}{path}");
        let (Ok(base), Ok(request)) = (Url::parse(&url), Request::get(&url).body(Vec::new())) else {
            continue;
        };
        let options = HttpOptions {
            pool_size: 1,
            answer_bytes_max: ANSWER_BYTES_MAX,
            deadline: DEADLINE,
            proxy: None,
        };
        match HttpClient::new(&base, options).send(request, None) {
            Ok(answer) => return Ok(answer),
            // Nobody is there by this address.
            Err(error)
                if matches!(
                    error.kind,
                    HttpErrorKind::ConnectionRefused | HttpErrorKind::Connection
                ) =>
            {
                if words.is_empty() {
                    words = error.message;
                }
            }
            Err(error) => return Err(error.message),
        }
    }
    Err(words)
}
