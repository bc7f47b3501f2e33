//! https calls through a CONNECT proxy: SQS, the Edge API and Sentry, by every kind of queue host, from a machine that
//! can resolve none of these names.

use std::path::Path;

use persistent_cache_service::clock;

use crate::support::aws::{Directory, ROLE, StsStub, apply_one, assert_hidden};
use crate::support::connect_proxy::ConnectProxy;
use crate::support::edge::EdgeStub;
use crate::support::moto::REGION;
use crate::support::sentry::SentryStub;
use crate::support::service::{Service, Settings};
use crate::support::stage::Stage;
use crate::support::tls_front::TlsFront;

/// As it stands in a URL, and as it is.
const LOGIN_IN_URL: &str = "proxy-user:pr0xy%2Fpa%3Ass";
const LOGIN: &str = "proxy-user:pr0xy/pa:ss";

/// A network with a way out by a proxy alone: behind it are AWS's hosts, that is moto with TLS in front.
struct Network {
    stage: Stage,
    front: TlsFront,
    proxy: ConnectProxy,
}

impl Network {
    fn new(host: &str) -> Self {
        let stage = Stage::new();
        let upstream = stage.queue.moto.endpoint.strip_prefix("http://").expect("http");
        let front = TlsFront::start(stage.redis.directory(), &[host], upstream);
        let proxy = ConnectProxy::start();
        proxy.allow(&format!("{host}:443"), front.port);
        Self { stage, front, proxy }
    }

    /// Settings for the queue on this host (and port, if it is not 443), without the region: it follows from the host.
    fn settings(&self, host: &str) -> Settings {
        let path = url::Url::parse(&self.stage.queue.url).expect("a URL").path().to_owned();
        self.stage
            .settings()
            .unset("AWS_REGION")
            .set("QUEUE_URL", format!("https://{host}{path}"))
            .set("SSL_CERT_FILE", self.front.authority.display().to_string())
            .set("CACHE_UPDATE_POLICY", "UPSERT")
            .set("LOG_LEVEL", "debug")
    }

    /// TLS as this host in front of another neighbour, which the proxy leads to.
    fn with_front(&self, files: &Directory, host: &str, upstream: &str) -> TlsFront {
        let directory = Path::new(files.path()).join(host);
        std::fs::create_dir_all(&directory).expect("a directory");
        let upstream = upstream.strip_prefix("http://").unwrap_or(upstream);
        let front = TlsFront::start(&directory, &[host], upstream);
        self.proxy.allow(&format!("{host}:443"), front.port);
        front
    }

    /// A file of the authorities of these and of the queue's host.
    fn authorities(&self, files: &Directory, fronts: &[&TlsFront]) -> String {
        let all: String = [&self.front]
            .iter()
            .chain(fronts)
            .map(|front| std::fs::read_to_string(&front.authority).expect("a certificate"))
            .collect();
        files.write("authorities.pem", &all)
    }
}

/// No part of the proxy's login shows.
const LOGIN_PARTS: [&str; 3] = ["proxy-user", "pr0xy%2F", "pr0xy/pa"];

#[test]
fn the_queue_is_reached_through_it_with_its_login_and_no_look_up_of_ours() {
    let host = format!("sqs.{REGION}.amazonaws.com");
    let network = Network::new(&host);
    network.proxy.ask_for(LOGIN);
    let settings = network.settings(&host).set("HTTPS_PROXY", network.proxy.url(Some(LOGIN_IN_URL)));
    let service = Service::start(&settings);
    apply_one(&network.stage, &service, "customer-1");
    let connects = network.proxy.connects();
    assert!(!connects.is_empty());
    for connect in connects {
        assert_eq!((connect.target, connect.status), (format!("{host}:443"), 200));
    }
    assert!(network.front.served() > 0, "TLS was spoken with the queue's host itself");
    assert_hidden(&service, &LOGIN_PARTS);
    service.stop();
}

#[test]
fn every_kind_of_queue_host_tells_its_region_and_is_called_by_its_own_name() {
    for host in [
        format!("sqs-fips.{REGION}.amazonaws.com"),
        format!("sqs.{REGION}.api.aws"),
        format!("vpce-0a1b-2c3d-{REGION}a.sqs.{REGION}.vpce.amazonaws.com"),
        format!("{REGION}.queue.amazonaws.com"),
    ] {
        let network = Network::new(&host);
        // The name in small letters, as most programs have it.
        let settings = network.settings(&host).set("https_proxy", network.proxy.url(None));
        let service = Service::start(&settings);
        apply_one(&network.stage, &service, "customer-1");
        assert_eq!(network.proxy.connected_to(), [format!("{host}:443")]);
        service.stop();
    }
}

#[test]
fn the_proxy_itself_may_speak_tls() {
    let host = format!("sqs.{REGION}.amazonaws.com");
    let network = Network::new(&host);
    network.proxy.ask_for(LOGIN);
    let files = Directory::new();
    let of_proxy = TlsFront::start_raw(Path::new(files.path()), &format!("127.0.0.1:{}", network.proxy.port));
    let settings = network
        .settings(&host)
        .set("SSL_CERT_FILE", network.authorities(&files, &[&of_proxy]))
        .set("HTTPS_PROXY", format!("https://{LOGIN_IN_URL}@localhost:{}", of_proxy.port));
    let service = Service::start(&settings);
    apply_one(&network.stage, &service, "customer-1");
    assert_eq!(network.proxy.connected_to(), [format!("{host}:443")]);
    assert!(network.front.served() > 0, "TLS within TLS, to the queue's host itself");
    assert_hidden(&service, &LOGIN_PARTS);
    service.stop();
}

#[test]
fn a_host_of_no_proxy_is_called_without_it() {
    let network = Network::new("localhost");
    let host = format!("localhost:{}", network.front.port);
    let settings = network
        .settings(&host)
        .set("AWS_REGION", REGION)
        .set("HTTPS_PROXY", network.proxy.url(None))
        .set("NO_PROXY", "169.254.169.254, .svc,localhost");
    let service = Service::start(&settings);
    apply_one(&network.stage, &service, "customer-1");
    assert_eq!(network.proxy.connects(), []);
    assert!(network.front.served() > 0);
    service.stop();
}

#[test]
fn a_plain_http_queue_is_called_without_it() {
    let stage = Stage::new();
    let proxy = ConnectProxy::start();
    let service = Service::start(&stage.settings().set("HTTPS_PROXY", proxy.url(None)));
    assert_eq!(proxy.connects(), []);
    service.stop();
}

#[test]
fn values_that_are_not_understood_are_skipped_with_a_notice_and_the_service_works() {
    let stage = Stage::new();
    let proxy = ConnectProxy::start();
    let through_none = &["HTTPS_PROXY", "has no effect", "https calls are made directly"];
    for (https_proxy, no_proxy, notice) in [
        (String::new(), "*.local, 169.254/16", None),
        ("socks5://user:s0cks-pass@proxy:1080".to_owned(), "", Some(through_none.as_slice())),
        ("http://user:s0cks-pass@[proxy".to_owned(), "", Some(through_none.as_slice())),
        (proxy.url(None), "*.local, 169.254/16", Some(&["NO_PROXY", "'169.254/16' is skipped"])),
        (proxy.url(None), "<local>;10.0.0.0/8", Some(&["NO_PROXY", "'<local>;10.0.0.0/8' is skipped"])),
    ] {
        let settings = stage
            .settings()
            .set("CACHE_UPDATE_POLICY", "UPSERT")
            .set("HTTPS_PROXY", &https_proxy)
            .set("NO_PROXY", no_proxy);
        let service = Service::start(&settings);
        apply_one(&stage, &service, "customer-1");
        if let Some(words) = notice {
            service.wait_for_complaint(words);
        }
        assert_hidden(&service, &["s0cks-pass"]);
        service.stop();
    }
    assert_eq!(proxy.connects(), []);
}

#[test]
fn that_refuses_the_login_is_a_complaint_and_recovers() {
    let host = format!("sqs.{REGION}.amazonaws.com");
    let network = Network::new(&host);
    network.proxy.ask_for(LOGIN);
    let settings =
        network.settings(&host).set("HTTPS_PROXY", network.proxy.url(Some("proxy-user:wr0ng-pr0xy%2Fpa")));
    let service = Service::spawn(&settings);
    service.wait_for_complaint(&[
        &format!("the proxy at http://127.0.0.1:{}", network.proxy.port),
        "refuses the user and password",
        "407",
        "HTTPS_PROXY",
    ]);
    assert_eq!(service.get("/livez").status, 200);
    assert_eq!(service.get("/readyz").status, 503);
    network.proxy.ask_for("proxy-user:wr0ng-pr0xy/pa");
    service.wait_until_ready();
    apply_one(&network.stage, &service, "customer-1");
    assert_hidden(&service, &LOGIN_PARTS);
    service.stop();
}

#[test]
fn that_does_not_let_the_queue_through_is_a_complaint() {
    let host = format!("sqs.{REGION}.amazonaws.com");
    let network = Network::new("elsewhere.example");
    let settings = network.settings(&host).set("HTTPS_PROXY", network.proxy.url(None));
    let service = Service::spawn(&settings);
    service.wait_for_complaint(&[
        &format!("the proxy at http://127.0.0.1:{}", network.proxy.port),
        "does not connect to this host",
        "403",
        "allow this host and port on the proxy",
        "NO_PROXY",
    ]);
    network.proxy.allow(&format!("{host}:443"), network.front.port);
    // The proxy lets it through now, but the certificate is another host's: no proxy may stand in for the queue.
    service.wait_for_complaint(&["TLS handshake failed", "through the proxy at"]);
    assert_eq!(network.front.served(), 0);
    service.stop();
}

#[test]
fn that_is_not_there_is_a_complaint_about_the_proxy_and_not_about_the_queue() {
    let host = format!("sqs.{REGION}.amazonaws.com");
    let network = Network::new(&host);
    let settings = network.settings(&host).set("HTTPS_PROXY", "http://proxy-user:pr0xy%2Fpa@127.0.0.1:9");
    let service = Service::spawn(&settings);
    service.wait_for_complaint(&[
        "cannot connect to the proxy at http://127.0.0.1:9: connection refused",
        "check HTTPS_PROXY",
    ]);
    assert_hidden(&service, &LOGIN_PARTS);
    service.stop();
}

#[test]
fn the_edge_api_and_sentry_are_reached_through_it_too() {
    let host = format!("sqs.{REGION}.amazonaws.com");
    let network = Network::new(&host);
    let files = Directory::new();
    let (edge, sentry) = (EdgeStub::start(), SentryStub::start());
    let expiry = clock::now().0 + 3_600_000;
    edge.give_credentials(&network.stage.queue.moto.temporary_credentials(), expiry);
    edge.give_sentry_dsn("https://publickey@o1.ingest.sentry.example/7");
    let of_edge = network.with_front(&files, "edge.api.stigg.io", &edge.url);
    let of_sentry = network.with_front(&files, "o1.ingest.sentry.example", &sentry.address);
    let settings = network
        .settings(&host)
        .set("SSL_CERT_FILE", network.authorities(&files, &[&of_edge, &of_sentry]))
        .set("HTTPS_PROXY", network.proxy.url(None))
        .unset("AWS_ACCESS_KEY_ID")
        .unset("AWS_SECRET_ACCESS_KEY")
        // The default is the real one.
        .unset("EDGE_API_URL")
        .unset("DISABLE_SENTRY");
    let service = Service::start(&settings);
    apply_one(&network.stage, &service, "customer-1");
    network.stage.queue.send(r#"{"type":"measurement.reported","customer":{"id":"customer-1"}}"#);
    service.wait_until("a report", || sentry.reports().contains("cannot read a message"));
    assert_eq!(
        network.proxy.connected_to(),
        [
            "edge.api.stigg.io:443".to_owned(),
            "o1.ingest.sentry.example:443".to_owned(),
            format!("{host}:443"),
        ]
    );
    service.stop();
}

#[test]
fn sts_is_reached_through_it_too() {
    const TOKEN: &str = "eyJhbGciOiJSUzI1NiJ9.identity-token";
    let host = format!("sqs.{REGION}.amazonaws.com");
    let network = Network::new(&host);
    let (files, sts) = (Directory::new(), StsStub::start());
    sts.take_token(TOKEN);
    let in_an_hour = persistent_cache_service::clock::now().0 + 3_600_000;
    sts.give(&network.stage.queue.moto.temporary_credentials(), in_an_hour);
    let of_sts = network.with_front(&files, &format!("sts.{REGION}.amazonaws.com"), &sts.url);
    let settings = network
        .settings(&host)
        .set("SSL_CERT_FILE", network.authorities(&files, &[&of_sts]))
        .set("HTTPS_PROXY", network.proxy.url(None))
        .unset("AWS_ACCESS_KEY_ID")
        .unset("AWS_SECRET_ACCESS_KEY")
        .set("AWS_WEB_IDENTITY_TOKEN_FILE", files.write("token", TOKEN))
        .set("AWS_ROLE_ARN", ROLE);
    let service = Service::start(&settings);
    apply_one(&network.stage, &service, "customer-1");
    assert_eq!(sts.answered(200), 1);
    assert_eq!(
        network.proxy.connected_to(),
        [format!("{host}:443"), format!("sts.{REGION}.amazonaws.com:443")]
    );
    service.stop();
}

#[test]
fn a_new_connection_to_the_queue_goes_on_with_the_tls_session_of_an_earlier_one() {
    let network = Network::new("localhost");
    let host = format!("localhost:{}", network.front.port);
    let settings = network.settings(&host).set("AWS_REGION", REGION);
    // The front closes each connection behind its answer.
    let service = Service::start(&settings);
    apply_one(&network.stage, &service, "customer-1");
    service.wait_until("resumed sessions", || network.front.resumed() > 0);
    service.stop();
}
