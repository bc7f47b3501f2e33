//! The harness refuses what the real neighbours refuse: a story that passes against it means something.

use serde_json::{Value, json};

use crate::support::moto::{AccessKey, Counts, Moto, REGION};
use crate::support::redis::TestRedis;
use crate::support::sdk::{Kind, Owner, Sdk};
use crate::support::state::{State, every_kind, hours_ago};

#[test]
fn the_queue_refuses_a_wrong_secret_an_unknown_key_and_an_action_that_was_not_allowed() {
    let queue = Moto::shared().queue();
    let moto = queue.moto;
    let receive = json!({"QueueUrl": queue.url});

    let (status, _) = moto.sqs_as(&moto.service_user, REGION, "ReceiveMessage", &receive);
    assert_eq!(status, 200);

    let wrong_secret = AccessKey { secret: "not-the-secret".into(), ..moto.service_user.clone() };
    let (status, answer) = moto.sqs_as(&wrong_secret, REGION, "ReceiveMessage", &receive);
    assert_eq!(status, 403, "{answer}");
    assert!(answer.contains("SignatureDoesNotMatch"), "{answer}");

    let unknown = AccessKey { id: "AKIAUNKNOWN".into(), ..moto.service_user.clone() };
    let (status, answer) = moto.sqs_as(&unknown, REGION, "ReceiveMessage", &receive);
    assert_eq!(status, 403, "{answer}");

    let (status, answer) =
        moto.sqs_as(&moto.service_user, REGION, "PurgeQueue", &json!({"QueueUrl": queue.url}));
    assert_eq!(status, 403, "{answer}");

    let (status, answer) = moto.sqs_as(&moto.service_user, "eu-north-1", "ReceiveMessage", &receive);
    assert_eq!(status, 400, "{answer}");
}

#[test]
fn temporary_credentials_work_until_they_are_revoked() {
    let queue = Moto::shared().queue();
    let moto = queue.moto;
    let temporary = moto.temporary_credentials();
    let receive = json!({"QueueUrl": queue.url});
    assert_eq!(moto.sqs_as(&temporary, REGION, "ReceiveMessage", &receive).0, 200);

    let without_token = AccessKey { session_token: None, ..temporary.clone() };
    assert_eq!(moto.sqs_as(&without_token, REGION, "ReceiveMessage", &receive).0, 403);

    moto.revoke(&temporary);
    assert_eq!(moto.sqs_as(&temporary, REGION, "ReceiveMessage", &receive).0, 403);
}

#[test]
fn a_queue_counts_and_returns_what_was_sent() {
    let queue = Moto::shared().queue();
    let bodies: Vec<String> = (0..12).map(|number| format!("body {number}")).collect();
    queue.send_all(&bodies);
    queue.send("one more");
    assert_eq!(queue.counts(), Counts { visible: 13, in_flight: 0 });
    let mut received: Vec<String> = queue.drain().into_values().collect();
    received.sort();
    let mut sent = [bodies, vec!["one more".to_owned()]].concat();
    sent.sort();
    assert_eq!(received, sent);
    assert!(queue.is_empty());
}

#[test]
fn the_sdk_answers_from_redis_what_it_fetched_once_and_asks_its_api_when_redis_is_empty() {
    let redis = TestRedis::start();
    let state = State::new(Owner::customer("customer-1"), hours_ago(1), &every_kind(0));
    let sdk = Sdk::open(&redis, "production");
    sdk.cache(&[&state]);

    let owner = state.owner();
    let answers = sdk.entitlements(owner);
    assert_eq!(answers.as_array().map(Vec::len), Some(state.entitlements.len()), "{answers}");
    let usage = sdk.entitlement(Kind::Metered, owner, "feature-api-calls");
    assert_eq!((&usage["currentUsage"], &usage["usageLimit"]), (&json!(42), &json!(100)), "{usage}");
    assert_eq!(usage["isFallback"], false, "{usage}");
    for (kind, feature) in state.questions() {
        let answer = sdk.entitlement(kind, owner, &feature);
        assert_eq!(answer["isFallback"], false, "{feature}: {answer}");
    }
    assert_eq!(sdk.calls(), Vec::<String>::new());
    assert_eq!(sdk.errors(), json!([]));

    redis.restart();
    assert_eq!(redis.keys(), Vec::<String>::new());
    let fallback = crate::support::wait::wait_for(
        crate::support::wait::PATIENCE,
        "the SDK to find the new redis and to ask its API",
        || {
            let answer = sdk.entitlement(Kind::Metered, owner, "feature-api-calls");
            (!sdk.calls().is_empty()).then_some(answer)
        },
        String::new,
    );
    assert_eq!(fallback["isFallback"], Value::Bool(true), "{fallback}");
}
