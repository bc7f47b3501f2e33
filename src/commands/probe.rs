//! `live` and `ready`: probes of a running service, for images that have no shell and no curl.

use std::time::Duration;

use http::Request;
use url::Url;

use super::{CommandError, DONE, print};
use crate::config::Settings;
use crate::http_client::{Answer, HttpClient, HttpError, HttpErrorKind, HttpOptions};

/// The service answers at once or is in trouble, and orchestrators do not give a probe much more.
const DEADLINE: Duration = Duration::from_secs(5);
const ANSWER_BYTES_MAX: u64 = 64 * 1024;

pub(super) fn run(settings: &Settings, path: &str) -> Result<u8, CommandError> {
    let port = settings.port_to_probe()?;
    // The service listens on all addresses; a host has one of these loopbacks, or both.
    let answer = match ask("127.0.0.1", port, path) {
        Err(error)
            if matches!(
                error.kind,
                HttpErrorKind::ConnectionRefused | HttpErrorKind::Connection
            ) =>
        {
            ask("[::1]", port, path).map_err(|_| error)
        }
        answer => answer,
    };
    let answer = answer.map_err(|error| {
        CommandError::Failed(format!(
            "no answer to GET {path} on port {port} of this machine: {error}; is the service running here, and is PORT the same?"
        ))
    })?;
    let body = String::from_utf8_lossy(&answer.body);
    let body = body.trim_end();
    if answer.status != 200 {
        return Err(CommandError::Failed(format!(
            "GET {path} on port {port} answers {}: {body}; the service's log and its /metrics tell why",
            answer.status
        )));
    }
    print(format!("{body}\n"))?;
    Ok(DONE)
}

fn ask(host: &str, port: u16, path: &str) -> Result<Answer, HttpError> {
    let not_http = |error: &dyn std::fmt::Display| HttpError {
        kind: HttpErrorKind::Protocol,
        words: error.to_string(),
    };
    let url = format!("http://{host}:{port}{path}");
    let base = Url::parse(&url).map_err(|error| not_http(&error))?;
    let request = Request::get(url)
        .body(Vec::new())
        .map_err(|error| not_http(&error))?;
    let options = HttpOptions {
        pool_size: 1,
        answer_bytes_max: ANSWER_BYTES_MAX,
        deadline: DEADLINE,
        proxy: None,
    };
    HttpClient::new(&base, options).send(request, None)
}
