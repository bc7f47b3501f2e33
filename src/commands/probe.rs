//! `live` and `ready`: probes of a running service, for images that have no shell and no curl.

use std::time::Duration;

use http::Request;
use url::Url;

use super::{CommandError, print};
use crate::config::Settings;
use crate::http_client::{HttpClient, HttpErrorKind, HttpOptions};

pub(super) fn run(settings: &Settings, path: &str) -> Result<u8, CommandError> {
    let port = settings.port_to_probe()?;
    let mut why = "there is no loopback interface".to_owned();
    // The service listens on all addresses; a host has one of these loopbacks, or both.
    for host in ["127.0.0.1", "[::1]"] {
        let url = format!("http://{host}:{port}{path}");
        let (Ok(base), Ok(request)) = (Url::parse(&url), Request::get(url).body(Vec::new())) else {
            continue;
        };
        let options = HttpOptions {
            pool_size: 1,
            answer_bytes_max: 64 * 1024,
            // Orchestrators do not give a probe much more.
            deadline: Duration::from_secs(5),
            proxy: None,
        };
        match HttpClient::new(&base, options).send(request, None) {
            Ok(answer) => {
                let body = String::from_utf8_lossy(&answer.body);
                return match (answer.status, body.trim_end()) {
                    (200, body) => print(format!("{body}\n")),
                    (status, body) => Err(CommandError::Failed(format!(
                        "GET {path} on port {port} answers {status}: {body}; the service's log and its /metrics tell why"
                    ))),
                };
            }
            Err(error) => {
                why = error.words;
                if !matches!(
                    error.kind,
                    HttpErrorKind::ConnectionRefused | HttpErrorKind::Connection
                ) {
                    break;
                }
            }
        }
    }
    Err(CommandError::Failed(format!(
        "no answer to GET {path} on port {port} of this machine: {why}; is the service running here, and is PORT the same?"
    )))
}
