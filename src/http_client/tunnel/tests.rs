//! What a proxy may do wrong, and what is asked of it. These run on a machine that trusts some authority.

use std::time::{Duration, Instant};

use url::Url;

use crate::config::{NoProxy, Proxy, Secret};
use crate::http_client::stub::{Reply, Stub, dead_url};
use crate::http_client::{HttpClient, HttpError, HttpErrorKind, HttpOptions, ProxyFault};

fn proxy(address: &Url, login: Option<&str>) -> Proxy {
    Proxy {
        address: address.clone(),
        login: login.map(Secret::inline),
        no_proxy: NoProxy::default(),
    }
}

fn call(peer: &str, proxy: Proxy, deadline_ms: u64) -> HttpError {
    let options = HttpOptions {
        pool_size: 1,
        answer_bytes_max: 1000,
        deadline: Duration::from_millis(deadline_ms),
        proxy: Some(proxy),
    };
    let request = http::Request::get(peer).body(Vec::new()).unwrap();
    HttpClient::new(&Url::parse(peer).unwrap(), options)
        .send(request, None)
        .unwrap_err()
}

#[test]
fn the_peer_is_asked_for_by_name_with_the_login_and_without_a_look_up_of_ours() {
    let stub = Stub::start([
        Reply::Answer(403, "", String::new()),
        Reply::Answer(403, "", String::new()),
    ]);
    // No resolver knows this name.
    call(
        "https://peer.invalid/path",
        proxy(&stub.url, Some("user:s3cret")),
        5_000,
    );
    let asked = stub.asked();
    assert_eq!(asked.line, "CONNECT peer.invalid:443");
    assert_eq!(asked.header("host"), "peer.invalid:443");
    assert_eq!(asked.header("proxy-authorization"), "Basic dXNlcjpzM2NyZXQ=");
    assert!(
        asked
            .header("user-agent")
            .starts_with("persistent-cache-service/")
    );

    call("https://[::1]:8443/", proxy(&stub.url, None), 5_000);
    let asked = stub.asked();
    assert_eq!(asked.line, "CONNECT [::1]:8443");
    assert_eq!(asked.header("proxy-authorization"), "");
}

#[test]
fn each_fault_of_a_proxy_has_its_own_words_and_shows_no_login() {
    let peer = "https://peer.invalid/";
    let login = Some("user:s3cret");
    let answered = |reply: Reply, login: Option<&str>| {
        let stub = Stub::start([reply]);
        let shown = stub.url.as_str().trim_end_matches('/').to_owned();
        let error = call(peer, proxy(&stub.url, login), 5_000);
        (error.kind, error.words.replace(&shown, "http://proxy"))
    };
    let answer = |status: u16| Reply::Answer(status, "", String::new());
    let fault = |fault, words: &str| {
        (
            HttpErrorKind::Proxy(fault),
            format!("the proxy at http://proxy {words}"),
        )
    };
    assert_eq!(
        answered(answer(407), login),
        fault(
            ProxyFault::SignIn,
            "refuses the user and password that it was given (407)"
        )
    );
    assert_eq!(
        answered(answer(407), None),
        fault(ProxyFault::SignIn, "asks for a user and a password (407)")
    );
    assert_eq!(
        answered(answer(403), login),
        fault(
            ProxyFault::Refused,
            "refuses to connect to peer.invalid:443 (CONNECT answered with 403)"
        )
    );
    assert_eq!(
        answered(Reply::Bytes(b"SSH-2.0-OpenSSH_9.2\r\n\r\n".to_vec()), login),
        fault(ProxyFault::NotAProxy, "does not answer as an HTTP proxy")
    );
    assert_eq!(
        answered(Reply::Bytes(vec![b'x'; 20_000]), login),
        fault(ProxyFault::NotAProxy, "does not answer as an HTTP proxy")
    );
    let (kind, words) = answered(Reply::Bytes(Vec::new()), login);
    assert_eq!(kind, HttpErrorKind::Proxy(ProxyFault::NotAProxy));
    assert!(words.contains("peer.invalid:443"), "{words}");

    let dead = dead_url();
    let error = call(peer, proxy(&dead, login), 5_000);
    assert_eq!(error.kind, HttpErrorKind::Proxy(ProxyFault::Unreachable));
    let shown = dead.as_str().trim_end_matches('/');
    assert_eq!(
        error.words,
        format!("cannot connect to the proxy at {shown}: connection refused")
    );
    let unknown = Url::parse("http://a..b.invalid:3128").unwrap();
    let error = call(peer, proxy(&unknown, login), 5_000);
    assert_eq!(error.kind, HttpErrorKind::Proxy(ProxyFault::Unreachable));
    assert!(
        error
            .words
            .starts_with("cannot connect to the proxy at http://a..b.invalid:3128: cannot resolve"),
        "{error}"
    );
}

#[test]
fn a_proxy_that_says_nothing_or_drips_costs_the_deadline_and_no_more() {
    for reply in [Reply::Silence, Reply::Drip] {
        let stub = Stub::start([reply]);
        let began = Instant::now();
        let error = call("https://peer.invalid/", proxy(&stub.url, None), 500);
        // The drip's head is a 200, after which come bytes that are no TLS.
        assert!(
            matches!(error.kind, HttpErrorKind::Timeout | HttpErrorKind::Tls),
            "{error:?}"
        );
        assert!(
            error.words.contains("(through the proxy at http://127.0.0.1:"),
            "{error}"
        );
        assert!(
            began.elapsed() < Duration::from_secs(5),
            "took {:?}",
            began.elapsed()
        );
    }
}

#[test]
fn a_proxys_answer_that_never_ends_costs_the_deadline_and_no_more() {
    let stub = Stub::start([Reply::DripHead]);
    let began = Instant::now();
    let error = call("https://peer.invalid/", proxy(&stub.url, None), 500);
    assert_eq!(error.kind, HttpErrorKind::Timeout, "{error:?}");
    assert!(
        began.elapsed() < Duration::from_secs(5),
        "took {:?}",
        began.elapsed()
    );
}
