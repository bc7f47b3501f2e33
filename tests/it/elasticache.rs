//! ElastiCache by IAM: each connection signs in with a fresh token, and a refusal says what to check.

use std::collections::BTreeSet;

use crate::support::elasticache::{CACHE, ElastiCache, REGION, Rules, USER};
use crate::support::messages::{Shape, entitlements_updated};
use crate::support::moto::AccessKey;
use crate::support::sdk::Owner;
use crate::support::service::{Service, Settings, run_to_end};
use crate::support::stage::{PREFIX, Stage};
use crate::support::state::{State, boolean, hours_ago};

fn message(customer: &str) -> String {
    let state = State::new(Owner::customer(customer), hours_ago(1), &[boolean("feature-sso")]);
    entitlements_updated(&state, Shape::GraphqlV2).raw()
}

fn has(stage: &Stage, customer: &str) -> bool {
    stage.redis.get(&Owner::customer(customer).key(PREFIX)).is_some()
}

/// A cache that lets this key in, and the settings to reach it.
fn cache(stage: &Stage, key: &AccessKey, is_serverless: bool) -> (ElastiCache, Settings) {
    let rules = Rules { key: key.clone(), is_serverless };
    let cache = ElastiCache::before(&stage.redis, rules);
    let settings = stage
        .settings()
        .access_key(key)
        .set("REDIS_PORT", cache.port.to_string())
        .set("REDIS_TLS", "1")
        .set("REDIS_TLS_CA_FILE", cache.authority_file())
        .set("REDIS_USERNAME", USER)
        .set("REDIS_IAM_AUTH", "1")
        // Names are kept in lower case, however they are given.
        .set("REDIS_IAM_CACHE_NAME", CACHE.to_uppercase())
        .set("REDIS_IAM_REGION", REGION)
        .set("CACHE_UPDATE_POLICY", "UPSERT")
        .set("LOG_LEVEL", "debug");
    (cache, settings)
}

fn signature_of(token: &str) -> &str {
    let (_, rest) = token.split_once("X-Amz-Signature=").expect("a signature");
    rest.split('&').next().expect("a value")
}

#[test]
fn each_connection_signs_in_with_a_token_of_its_own_time() {
    let stage = Stage::new();
    let key = stage.queue.moto.service_user.clone();
    let (cache, settings) = cache(&stage, &key, false);
    let service = Service::start(&settings);
    stage.deliver(&service, &[message("customer-1")]);
    assert!(has(&stage, "customer-1"));

    // A token has its second in it. The front takes none that is not of this minute.
    let distinct = || cache.tokens().into_iter().collect::<BTreeSet<String>>().len();
    let before = distinct();
    service.wait_until("a connection with another token", || {
        stage.redis.command::<()>(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
        distinct() > before
    });
    stage.deliver(&service, &[message("customer-2")]);
    assert!(has(&stage, "customer-2"));
    assert_eq!(cache.refusals(), [""; 0]);

    let log = service.log_lines().join("\n");
    assert!(log.contains(r#""auth":"IAM token""#), "{log}");
    for token in cache.tokens() {
        assert!(!log.contains(&token) && !log.contains(signature_of(&token)), "{log}");
    }
    service.stop();
}

#[test]
fn temporary_credentials_sign_in_with_their_session_token() {
    let stage = Stage::new();
    let key = stage.queue.moto.temporary_credentials();
    let (cache, settings) = cache(&stage, &key, false);
    let service = Service::start(&settings);
    stage.deliver(&service, &[message("customer-1")]);
    assert!(has(&stage, "customer-1"));
    assert_eq!(cache.refusals(), [""; 0]);
    service.stop();
}

#[test]
fn a_serverless_cache_wants_tokens_of_its_own_kind() {
    let stage = Stage::new();
    let key = stage.queue.moto.service_user.clone();
    let (cache, settings) = cache(&stage, &key, true);
    let service = Service::spawn(&settings);
    service.wait_for_complaint(&[&format!("'{USER}'"), "token", "WRONGPASS", "REDIS_IAM_SERVERLESS"]);
    assert_eq!(service.get("/readyz").status, 503);
    assert!(cache.refusals().iter().all(|why| why == "another type of cache"), "{:?}", cache.refusals());
    service.stop();

    let settings = settings.set("REDIS_IAM_SERVERLESS", "1");
    let (status, output) = run_to_end(&settings, &[]);
    assert_eq!(status.code(), Some(78), "{output}");
    assert!(output.contains("ENVIRONMENT_PREFIX: 'production' has no hash tag"), "{output}");
    assert!(output.contains("ENVIRONMENT_PREFIX='{production}', in every SDK too"), "{output}");

    let service = Service::start(&settings.set("ENVIRONMENT_PREFIX", "{production}"));
    stage.deliver(&service, &[message("customer-1")]);
    assert!(stage.redis.get(&Owner::customer("customer-1").key("{production}")).is_some());
    service.stop();
}

#[test]
fn a_wrong_secret_is_refused_and_recovers_when_its_file_becomes_right() {
    let stage = Stage::new();
    let key = stage.queue.moto.service_user.clone();
    let file = stage.redis.directory().join("aws-secret");
    std::fs::write(&file, "not-the-secret\n").expect("a file");
    let (cache, settings) = cache(&stage, &key, false);
    let settings =
        settings.unset("AWS_SECRET_ACCESS_KEY").set("AWS_SECRET_ACCESS_KEY_FILE", file.display().to_string());
    let service = Service::spawn(&settings);
    let complaint = service.wait_for_complaint(&["WRONGPASS", "elasticache:Connect", "clock"]);
    assert!(!complaint.contains("not-the-secret"), "{complaint}");
    assert!(cache.refusals().iter().all(|why| why == "another signature"), "{:?}", cache.refusals());

    std::fs::write(&file, &key.secret).expect("a file");
    service.wait_until_ready();
    stage.deliver(&service, &[message("customer-1")]);
    assert!(has(&stage, "customer-1"));
    service.stop();
}

#[test]
fn the_edge_apis_credentials_are_no_key_to_a_cache_of_ones_own() {
    let stage = Stage::new();
    let key = stage.queue.moto.service_user.clone();
    let (_cache, settings) = cache(&stage, &key, false);
    let settings = settings.unset("AWS_ACCESS_KEY_ID").unset("AWS_SECRET_ACCESS_KEY");
    let (status, output) = run_to_end(&settings, &[]);
    assert_eq!(status.code(), Some(78), "{output}");
    assert!(
        output.contains("REDIS_IAM_AUTH")
            && output.contains("Edge API")
            && output.contains("AWS_ACCESS_KEY_ID"),
        "{output}"
    );
}
