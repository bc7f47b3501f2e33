use std::time::Instant;

use super::stub::{Reply, Stub, dead_url};
use super::*;

fn client(base: &Url, deadline_ms: u64) -> HttpClient {
    let deadline = Duration::from_millis(deadline_ms);
    HttpClient::new(
        base,
        HttpOptions {
            pool_size: 2,
            answer_bytes_max: 1000,
            deadline,
            proxy: None,
        },
    )
}

fn get(base: &Url, path: &str) -> http::Request<Vec<u8>> {
    http::Request::get(base.join(path).unwrap().as_str())
        .body(Vec::new())
        .unwrap()
}

fn fault(reply: Reply) -> HttpError {
    let stub = Stub::start([reply]);
    client(&stub.url, 2_000)
        .send(get(&stub.url, "/"), None)
        .unwrap_err()
}

#[test]
fn any_status_is_an_answer_and_a_redirect_is_not_followed() {
    let stub = Stub::start([
        Reply::Answer(503, "Retry-After: 7\r\n", "busy".to_owned()),
        Reply::Answer(302, "Location: /elsewhere\r\n", String::new()),
    ]);
    let client = client(&stub.url, 2_000);
    let busy = client.send(get(&stub.url, "/a"), None).unwrap();
    assert_eq!((busy.status, busy.body.as_slice()), (503, b"busy".as_slice()));
    assert_eq!(busy.headers["retry-after"], "7");
    assert_eq!(client.send(get(&stub.url, "/b"), None).unwrap().status, 302);

    assert_eq!(stub.asked().line, "GET /a");
    let second = stub.asked();
    assert_eq!(
        (second.line.as_str(), second.connection),
        ("GET /b", 0),
        "the connection is kept and used again"
    );
    assert!(
        second
            .header("user-agent")
            .starts_with("persistent-cache-service/")
    );
    assert!(stub.was_left_alone());
}

#[test]
fn a_peer_that_never_answers_costs_the_deadline_and_no_more() {
    for reply in [Reply::Silence, Reply::Drip] {
        let stub = Stub::start([reply]);
        let started = Instant::now();
        let error = client(&stub.url, 60_000)
            .send(get(&stub.url, "/"), Some(Duration::from_millis(300)))
            .unwrap_err();
        assert_eq!(error.kind, HttpErrorKind::Timeout, "{error}");
        assert!(
            started.elapsed() < Duration::from_secs(5),
            "took {:?}",
            started.elapsed()
        );
    }
}

#[test]
fn the_clients_own_deadline_holds_where_a_call_names_none() {
    let stub = Stub::start([Reply::Silence]);
    let error = client(&stub.url, 200)
        .send(get(&stub.url, "/"), None)
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "timed out: no whole answer within the deadline"
    );
}

#[test]
fn faults_of_the_way_there_are_told_apart() {
    let refused = dead_url();
    let error = client(&refused, 2_000)
        .send(get(&refused, "/"), None)
        .unwrap_err();
    assert_eq!(
        (error.kind, error.words.as_str()),
        (HttpErrorKind::ConnectionRefused, "connection refused")
    );

    // A name that the resolver refuses by itself, without asking anybody.
    let unknown = Url::parse("http://a..b.invalid").unwrap();
    let error = client(&unknown, 2_000)
        .send(get(&unknown, "/"), None)
        .unwrap_err();
    assert_eq!(error.kind, HttpErrorKind::HostNotFound, "{error}");
    assert!(error.words.starts_with("cannot resolve the host name"), "{error}");
}

#[test]
fn answers_that_are_no_answers_are_errors() {
    let garbage = fault(Reply::Bytes(b"SSH-2.0-OpenSSH_9.2\r\n".to_vec()));
    assert_eq!(garbage.kind, HttpErrorKind::Protocol, "{garbage}");

    let cut_short = fault(Reply::Bytes(
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n12345".to_vec(),
    ));
    assert_eq!(cut_short.kind, HttpErrorKind::Connection, "{cut_short}");

    let closed = fault(Reply::Bytes(Vec::new()));
    assert_eq!(closed.kind, HttpErrorKind::Connection, "{closed}");

    let too_long = fault(Stub::ok("x".repeat(1001)));
    assert_eq!(too_long.words, "the answer is longer than 1000 bytes");
}

#[test]
fn https_needs_certificates_at_the_first_call_and_no_sooner_and_never_panics() {
    let stub = Stub::start([Reply::Silence]);
    let https = Url::parse(&stub.url.as_str().replace("http:", "https:")).unwrap();
    let client = client(&https, 300);
    // A machine without certificates says so; one with certificates meets a peer that never shakes hands.
    let error = client.send(get(&https, "/"), None).unwrap_err();
    assert!(
        matches!(error.kind, HttpErrorKind::Tls | HttpErrorKind::Timeout),
        "{error:?}"
    );
}

#[test]
fn the_crypto_provider_can_be_installed_from_everywhere() {
    install_crypto_provider();
    install_crypto_provider();
    assert!(CryptoProvider::get_default().is_some());
}
