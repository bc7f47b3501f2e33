//! TLS towards Redis over time: certificates and authorities are renewed while the service runs, expire, do not fit, or
//! the handshake never ends.

use std::path::{Path, PathBuf};

use crate::fakes::proxy::{FaultProxy, Mode};
use crate::fakes::queue::QueueOptions;
use crate::support::fake_stage::FakeStage;
use crate::support::messages::{Shape, entitlements_updated};
use crate::support::redis::{TestRedis, private_directory};
use crate::support::sdk::Owner;
use crate::support::service::{Service, Settings, run_to_end};
use crate::support::stage::PREFIX;
use crate::support::state::{State, boolean, hours_ago};
use crate::support::tls::Certificate;

/// A Redis that speaks TLS, and a service's own copies of what it is to trust and to show.
struct Scene {
    stage: FakeStage,
    redis: TestRedis,
    authority: PathBuf,
    certificate: PathBuf,
    key: PathBuf,
}

impl Scene {
    fn new(asks_for_certificates: bool) -> Self {
        let redis = TestRedis::with_tls(asks_for_certificates);
        let own = private_directory();
        let (certificate, key) = redis.certificate_files();
        let scene = Self {
            stage: FakeStage::new(QueueOptions::default()),
            authority: own.join("trusted.crt"),
            certificate: own.join("client.crt"),
            key: own.join("client.key"),
            redis,
        };
        replace(&scene.authority, &scene.redis.authority_file());
        replace(&scene.certificate, &certificate);
        replace(&scene.key, &key);
        scene
    }

    fn settings(&self) -> Settings {
        let text = |path: &Path| path.display().to_string();
        self.stage
            .settings()
            .set("REDIS_PORT", self.redis.tls_port.expect("a TLS port").to_string())
            .set("REDIS_TLS", "1")
            .set("REDIS_TLS_CA_FILE", text(&self.authority))
            .set("REDIS_TLS_CERT_FILE", text(&self.certificate))
            .set("REDIS_TLS_KEY_FILE", text(&self.key))
    }

    /// The server shows this one from now on, to those who connect from now on, and trusts its authority.
    fn server_shows(&self, certificate: &Certificate) {
        self.redis.show(certificate);
        self.redis.command::<()>(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
    }

    /// A message reaches Redis, and the service is ready.
    fn works(&self, service: &Service, customer: &str) {
        let state = State::new(Owner::customer(customer), hours_ago(1), &[boolean("feature-sso")]);
        self.stage.queue.send(entitlements_updated(&state, Shape::GraphqlV2).raw());
        let key = Owner::customer(customer).key(PREFIX);
        service.wait_until(&format!("{customer} in Redis"), || self.redis.get(&key).is_some());
        service.wait_until_ready();
    }
}

/// Puts a copy in the place of a file at once, as those who renew certificates do.
fn replace(file: &Path, by: &Path) {
    let fresh = file.with_extension("new");
    std::fs::copy(by, &fresh).expect("a copy");
    std::fs::rename(&fresh, file).expect("a file in its place");
}

#[test]
fn an_authority_that_is_renewed_in_its_file_is_trusted_by_new_connections_without_a_restart() {
    let scene = Scene::new(false);
    let service = Service::start(&scene.settings());
    scene.works(&service, "customer-before");

    let renewed = Certificate::make_for(&private_directory(), &[]);
    scene.server_shows(&renewed);
    service.wait_for_complaint(&["Redis cannot be used", "certificate", "REDIS_TLS_CA_FILE"]);
    replace(&scene.authority, &renewed.authority);
    scene.works(&service, "customer-after");
    service.stop();
}

#[test]
fn a_certificate_of_the_server_that_has_expired_is_named_and_recovers_when_it_is_renewed() {
    let scene = Scene::new(false);
    let service = Service::start(&scene.settings());
    let another = private_directory();
    let fresh = Certificate::make_for(&another, &[]);
    replace(&scene.authority, &fresh.authority);
    scene.server_shows(&fresh);
    scene.works(&service, "customer-before");

    let expired = fresh.expired();
    scene.server_shows(&expired);
    service.wait_for_complaint(&["Redis cannot be used", "certificate", "expired"]);
    scene.server_shows(&fresh);
    scene.works(&service, "customer-after");
    service.stop();
}

#[test]
fn a_client_certificate_that_is_renewed_in_its_files_is_shown_by_new_connections() {
    let scene = Scene::new(true);
    let service = Service::start(&scene.settings());
    scene.works(&service, "customer-before");

    // The server trusts clients of another authority alone from now on, and shows what the service trusts.
    let renewed = Certificate::make_for(&private_directory(), &[]);
    let (public, key) = scene.redis.certificate_files();
    let old = Certificate { public, key, authority: renewed.authority.clone() };
    scene.server_shows(&old);
    service.wait_for_complaint(&["Redis cannot be used", "REDIS_TLS_CERT_FILE"]);

    // Between the two files, they do not fit: that is named, and passes.
    replace(&scene.certificate, &renewed.public);
    service.wait_for_complaint(&["REDIS_TLS_KEY_FILE belongs to REDIS_TLS_CERT_FILE"]);
    replace(&scene.key, &renewed.key);
    scene.works(&service, "customer-after");
    service.stop();
}

#[test]
fn a_key_that_is_another_certificates_is_a_fault_of_the_configuration() {
    let scene = Scene::new(false);
    let another = Certificate::make_for(&private_directory(), &[]);
    replace(&scene.key, &another.key);
    let (status, text) = run_to_end(&scene.settings(), &[]);
    assert_eq!(status.code(), Some(78), "{text}");
    let fault = format!(
        "REDIS_TLS_KEY_FILE: {} is not the key of the certificate in REDIS_TLS_CERT_FILE, {}; set both to files of \
         one key pair",
        scene.key.display(),
        scene.certificate.display()
    );
    assert!(text.contains(&fault), "{text}");
}

#[test]
fn a_handshake_that_stalls_is_given_up_named_and_recovers() {
    let scene = Scene::new(false);
    let tls_port = scene.redis.tls_port.expect("a TLS port");
    for mode in [
        Mode::Stall,
        Mode::Drip { bytes_per_sec: 1 },
        Mode::ResetAfter { bytes: 20 },
        Mode::CutAfter { bytes: 20 },
        Mode::Garbage,
    ] {
        let proxy = FaultProxy::start(([127, 0, 0, 1], tls_port).into());
        proxy.set(mode);
        let service = Service::spawn(&scene.settings().set("REDIS_PORT", proxy.port().to_string()));
        let address = format!("127.0.0.1:{}", proxy.port());
        service.wait_for_complaint(&["Redis cannot be used", "cannot connect to Redis", &address]);
        assert_eq!(service.get("/readyz").status, 503, "{mode:?}");
        assert_eq!(service.get("/livez").status, 200, "{mode:?}");
        proxy.set(Mode::Pass);
        scene.works(&service, &format!("customer-{mode:?}"));
        service.stop();
    }
}
