use std::time::Instant;

use super::stub::{Reply, Stub, dead_url};
use super::*;
use rustls::crypto::CryptoProvider;

fn client(base: &Url, deadline_ms: u64) -> HttpClient {
    let deadline = Duration::from_millis(deadline_ms);
    HttpClient::new(base, HttpOptions { pool_size: 2, answer_bytes_max: 1000, deadline, proxy: None })
}

fn get(base: &Url, path: &str) -> http::Request<Vec<u8>> {
    http::Request::get(base.join(path).unwrap().as_str()).body(Vec::new()).unwrap()
}

fn fault(reply: Reply) -> HttpError {
    let stub = Stub::start([reply]);
    client(&stub.url, 2_000).send(get(&stub.url, "/"), None).unwrap_err()
}

#[test]
fn any_status_is_an_answer_and_a_redirect_is_not_followed() {
    let stub = Stub::start([
        Reply::Answer(503, "Retry-After: 7\r\n", "busy".to_owned()),
        Reply::Answer(302, "Location: /elsewhere\r\n", String::new()),
    ]);
    let client = client(&stub.url, 2_000);
    let busy = client.send(get(&stub.url, "/a"), None).unwrap();
    assert_eq!((busy.status().as_u16(), busy.body().as_slice()), (503, b"busy".as_slice()));
    assert_eq!(busy.headers()["retry-after"], "7");
    assert_eq!(client.send(get(&stub.url, "/b"), None).unwrap().status(), 302);

    assert_eq!(stub.asked().line, "GET /a");
    let second = stub.asked();
    assert_eq!(
        (second.line.as_str(), second.connection),
        ("GET /b", 0),
        "the connection is kept and used again"
    );
    assert!(second.header("user-agent").starts_with("persistent-cache-service/"));
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
        assert!(started.elapsed() < Duration::from_secs(5), "took {:?}", started.elapsed());
    }
}

#[test]
fn the_clients_own_deadline_holds_where_a_call_names_none() {
    let stub = Stub::start([Reply::Silence]);
    let error = client(&stub.url, 200).send(get(&stub.url, "/"), None).unwrap_err();
    assert_eq!(error.to_string(), "timed out: no complete answer within the deadline");
}

#[test]
fn network_faults_are_distinguished() {
    let refused = dead_url();
    let error = client(&refused, 2_000).send(get(&refused, "/"), None).unwrap_err();
    assert_eq!(
        (error.kind, error.message.as_str()),
        (HttpErrorKind::ConnectionRefused, "connection refused")
    );

    // A name that the resolver refuses by itself, without asking anybody.
    let unknown = Url::parse("http://a..b.invalid").unwrap();
    let error = client(&unknown, 2_000).send(get(&unknown, "/"), None).unwrap_err();
    assert_eq!(error.kind, HttpErrorKind::HostNotFound, "{error}");
    assert!(error.message.starts_with("cannot resolve the host name"), "{error}");
}

#[test]
fn answers_that_are_no_answers_are_errors() {
    let garbage = fault(Reply::Bytes(b"SSH-2.0-OpenSSH_9.2\r\n".to_vec()));
    assert_eq!(garbage.kind, HttpErrorKind::Protocol, "{garbage}");

    let cut_short = fault(Reply::Bytes(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n12345".to_vec()));
    assert_eq!(cut_short.kind, HttpErrorKind::Connection, "{cut_short}");

    let closed = fault(Reply::Bytes(Vec::new()));
    assert_eq!(closed.kind, HttpErrorKind::Connection, "{closed}");

    let too_long = fault(Stub::ok("x".repeat(1001)));
    assert_eq!(too_long.message, "the answer is longer than 1000 bytes");
}

#[test]
fn https_without_certificates_is_an_error_of_the_call_and_never_panics() {
    let stub = Stub::start([Reply::Silence]);
    let https = Url::parse(&stub.url.as_str().replace("http:", "https:")).unwrap();
    let client = client(&https, 300);
    // With certificates or without: the peer never shakes hands.
    let error = client.send(get(&https, "/"), None).unwrap_err();
    assert!(matches!(error.kind, HttpErrorKind::Tls | HttpErrorKind::Timeout), "{error:?}");
}

#[test]
fn the_crypto_provider_can_be_installed_from_everywhere() {
    install_crypto_provider();
    install_crypto_provider();
    assert!(CryptoProvider::get_default().is_some());
}

fn call_through(proxy: &str, deadline_ms: u64) -> HttpError {
    // No resolver knows this name.
    let peer = Url::parse("https://peer.invalid/path").unwrap();
    let options = HttpOptions {
        pool_size: 1,
        answer_bytes_max: 1000,
        deadline: Duration::from_millis(deadline_ms),
        proxy: Some(Proxy::parse(proxy).unwrap()),
    };
    HttpClient::new(&peer, options).send(get(&peer, "/path"), None).unwrap_err()
}

fn with_login(stub: &Stub) -> String {
    stub.url.as_str().replace("http://", "http://user:s3cr%2Ft@")
}

#[test]
fn a_proxy_is_asked_for_the_peer_by_name_with_the_login() {
    let refusal = || Reply::Answer(403, "", String::new());
    let stub = Stub::start([refusal(), refusal()]);
    call_through(&with_login(&stub), 5_000);
    let asked = stub.asked();
    assert_eq!(asked.line, "CONNECT peer.invalid:443");
    assert_eq!(asked.header("host"), "peer.invalid:443");
    assert_eq!(asked.header("proxy-authorization"), "Basic dXNlcjpzM2NyL3Q=");
    assert!(asked.header("user-agent").starts_with("persistent-cache-service/"));

    call_through(stub.url.as_str(), 5_000);
    assert_eq!(stub.asked().header("proxy-authorization"), "");
}

#[test]
fn a_fault_of_a_proxy_has_a_kind_and_names_the_proxy_without_its_login() {
    for (status, kind, message) in [
        (407, HttpErrorKind::ProxyAuthentication, "refuses the user and password, or requires them"),
        (403, HttpErrorKind::ProxyRefused, "does not connect to this host"),
        (502, HttpErrorKind::ProxyRefused, "does not connect to this host"),
    ] {
        let stub = Stub::start([Reply::Answer(status, "", String::new())]);
        let at = stub.url.as_str().trim_end_matches('/');
        let error = call_through(&with_login(&stub), 5_000);
        assert_eq!(error.kind, kind);
        let why = format!("proxy server responded {status}/{status}");
        assert_eq!(error.message, format!("the proxy {message} ({why}) (through the proxy at {at})"));
    }

    let dead = dead_url();
    let at = dead.as_str().trim_end_matches('/');
    let error = call_through(&at.replace("http://", "http://user:s3cret@"), 5_000);
    assert_eq!(error.kind, HttpErrorKind::ProxyUnreachable);
    assert_eq!(error.message, format!("cannot connect to the proxy at {at}: connection refused"));

    let error = call_through("http://a..b.invalid:3128", 5_000);
    assert_eq!(error.kind, HttpErrorKind::ProxyUnreachable);
    let begins = "cannot connect to the proxy at http://a..b.invalid:3128: cannot resolve the host name: ";
    assert!(error.message.starts_with(begins), "{error}");
}

#[test]
fn a_proxy_that_speaks_something_else_is_an_error_that_names_it() {
    for bytes in [b"SSH-2.0-OpenSSH_9.2\r\n\r\n".to_vec(), vec![b'x'; 200_000], Vec::new()] {
        let stub = Stub::start([Reply::Bytes(bytes)]);
        let error = call_through(&with_login(&stub), 5_000);
        assert!(error.message.contains("the proxy at http://127.0.0.1:"), "{error}");
        assert!(!error.message.contains("s3cr"), "{error}");
    }
}

#[test]
fn a_proxy_that_is_silent_or_drips_costs_the_deadline_and_no_more() {
    for reply in [Reply::Silence, Reply::Drip, Reply::DripHead] {
        let stub = Stub::start([reply]);
        let began = Instant::now();
        let error = call_through(stub.url.as_str(), 500);
        // The drip's head is a 200, after which come bytes that are not TLS.
        assert!(matches!(error.kind, HttpErrorKind::Timeout | HttpErrorKind::Tls), "{error:?}");
        assert!(error.message.contains("(through the proxy at http://127.0.0.1:"), "{error}");
        assert!(began.elapsed() < Duration::from_secs(5), "took {:?}", began.elapsed());
    }
}
