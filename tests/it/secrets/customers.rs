//! Customers are named nowhere above debug: in whatever place a message or a peer's error carries one's id.

use serde_json::{Value, json};

use super::sources::json_refusal;
use super::{pages, texts_of};
use crate::fakes::queue::QueueOptions;
use crate::fakes::refusing_redis::{How, Refusal, RefusingRedis};
use crate::support::aws::{Directory, ROLE};
use crate::support::fake_stage::FakeStage;
use crate::support::hostile::{Hostile, Mode};
use crate::support::messages::{
    Envelope, Message, Shape, credit_balance, customer_deleted, entitlements_updated, event, purge,
    subscriptions_migrated, usage_updated,
};
use crate::support::sdk::Owner;
use crate::support::sentry::SentryStub;
use crate::support::service::{Service, run_to_end};
use crate::support::state::{State, boolean, hours_ago, metered};

const ALICE: &str = "alice@example.com";
/// What is looked for, in lower case.
const SPELLINGS: [&str; 3] = ["alice", "ywxpy2v", "616c696365"];

fn assert_unnamed(name: &str, texts: &[(String, String)]) {
    for (place, text) in texts {
        for line in text.lines() {
            let lower = line.to_lowercase();
            let spelling = SPELLINGS.iter().find(|spelling| lower.contains(**spelling));
            assert!(spelling.is_none(), "{name}: {spelling:?} shows in {place}: {line}");
        }
    }
}

/// A service that writes everything at the default log level, with error reports.
fn spawn(stage: &FakeStage, sentry: &SentryStub, settings: &[(&str, String)]) -> Service {
    let mut all = stage.settings().unset("DISABLE_SENTRY").set("SENTRY_DSN", &sentry.dsn);
    for (name, value) in settings {
        all = if value.is_empty() { all.unset(name) } else { all.set(name, value) };
    }
    Service::spawn(&all)
}

/// Messages in which each id is hers, in every shape and envelope.
fn messages_about_her() -> Vec<String> {
    let owner = Owner::resource(ALICE, "resource-of-alice@example.com");
    let features = [boolean("feature-alice@example.com"), metered("metered-alice@example.com", 10, 3)];
    let mut messages: Vec<Message> = Vec::new();
    for shape in [Shape::Webhook, Shape::GraphqlV1, Shape::GraphqlV2, Shape::EventLog] {
        for owner in [owner, Owner::customer(ALICE)] {
            let mut state = State::new(owner, hours_ago(2), &features);
            messages.push(entitlements_updated(&state, shape));
            messages.push(usage_updated(&state, "metered-alice@example.com", 4, hours_ago(1), shape));
            state.access_denied_reason = Some(ALICE.to_owned());
            messages.push(entitlements_updated(&state, shape));
        }
    }
    messages.push(credit_balance(owner, "currency-alice@example.com", 1_000, hours_ago(1)));
    messages.push(subscriptions_migrated(&[ALICE], hours_ago(1)));
    messages.push(customer_deleted(ALICE, hours_ago(1)));
    messages.push(purge(owner, hours_ago(1)));
    messages.push(event(ALICE, hours_ago(1), &json!({"customerId": ALICE})));
    // An impossible time.
    messages.push(purge(Owner::customer(ALICE), hours_ago(-1_000)));
    let wrapped = messages.iter().flat_map(|message| {
        [Envelope::Sns, Envelope::EventBridge]
            .map(|envelope| message.wrapped(envelope).replace("arn:aws:sns", ALICE))
    });
    messages.iter().map(Message::raw).chain(wrapped).collect()
}

/// Bodies that cannot be read, with her in every place.
fn malformed_about_her() -> Vec<String> {
    let right = purge(Owner::customer(ALICE), hours_ago(1)).raw();
    let mut bodies: Vec<String> = (1..right.len()).step_by(7).map(|end| right[..end].to_owned()).collect();
    let odd = [
        json!({"alice@example.com": ALICE}),
        json!([ALICE]),
        json!(7),
        json!({"id": [ALICE]}),
        json!({"id": {ALICE: 1}}),
    ];
    for value in &odd {
        for field in ["customer", "customerId", "resourceId", "entitlements", "feature", "usage", "timestamp"]
        {
            for kind in
                ["entitlements.updated", "measurement.reported", "CREDIT_BALANCE_UPDATED", "customer.deleted"]
            {
                let mut body = json!({"type": kind, "customer": {"id": ALICE}, "entitlements": [{"feature": {"id": ALICE}}]});
                body[field] = value.clone();
                bodies.push(body.to_string());
            }
        }
    }
    bodies.extend([
        ALICE.to_owned(),
        format!("\"{ALICE}\""),
        format!("[\"{ALICE}\"]"),
        json!({ALICE: ALICE}).to_string(),
        json!({"type": [ALICE]}).to_string(),
        json!({"Type": "Notification", "Message": ALICE}).to_string(),
        json!({"Type": "Notification", "Message": {ALICE: 1}}).to_string(),
        json!({"Type": "Notification", "Message": format!("{{\"type\":\"{ALICE}")}).to_string(),
        json!({"detail-type": "entitlements.updated", "detail": ALICE}).to_string(),
        json!({"data": {"entitlementsUpdatedV2": [ALICE]}}).to_string(),
        format!("{{\"type\":\"entitlements.updated\",\"customer\":{{\"id\":\"{ALICE}\\ud83d\"}},{ALICE}}}"),
    ]);
    bodies
}

#[test]
fn none_of_a_message_is_named_whether_it_can_be_read_or_not() {
    let (stage, sentry) = (FakeStage::new(QueueOptions::default()), SentryStub::start());
    let service = spawn(&stage, &sentry, &[("POISON_POLICY", "delete".to_owned())]);
    let (read, malformed) = (messages_about_her(), malformed_about_her());
    stage.deliver(&service, &read);
    stage.deliver(&service, &malformed);
    service.wait_for_metric("persistent_cache_messages_malformed_total", 20.0);
    service.wait_for_metric("persistent_cache_messages_processed_total", 20.0);
    service.wait_until("a report", || sentry.reports().contains("cannot read a message"));
    let mut all = texts_of(&service, &sentry);
    service.stop();
    all.push(("the last reports".to_owned(), sentry.reports()));
    assert_unnamed("messages", &all);
}

/// What servers, and what stands before them, say of a key, and what of it is logged. Of three that follow each other,
/// each has a code of its own.
const REDIS_SAYS: [(&str, &str); 9] = [
    ("QUOTA the key production:c_alice@example.com is too long", "QUOTA the key…"),
    (
        "ERR unknown command `EVALSHA`, with args beginning with: `alice`, `production-alice@example.com`, ",
        "unknown command `EVALSHA`;",
    ),
    (
        "CROSSSLOT Keys don't hash to one slot (context='within script', first-key='production:c_alice@example.com')",
        "CROSSSLOT Keys don't hash to one slot…; it is a cluster",
    ),
    ("alice@example.com is a customer of mine", "ERR is a customer of mine"),
    ("DENIED 'alice smith@example.com' may not", "DENIED …"),
    ("LIMIT {\"customerId\":\"alice@example.com\"}", "LIMIT …"),
    ("production:c_alice:r_x nobody knows", "ERR nobody knows"),
    (
        "NOPERM no permissions to access the key \"production-alice%40example.com\"",
        "NOPERM no permissions to access the key…",
    ),
    ("SCRIPTED @user_script:7: bad argument 'alice@example.com'", "SCRIPTED @user_script:7: bad argument…"),
];

#[test]
fn none_of_what_redis_quotes_is_named_and_its_code_and_the_remedy_are() {
    let sentry = SentryStub::start();
    let mut all = Vec::new();
    for sayings in REDIS_SAYS.chunks(3) {
        let stage = FakeStage::new(QueueOptions::default());
        let proxy = RefusingRedis::start(stage.redis_address());
        let port = proxy.port().to_string();
        let service = spawn(&stage, &sentry, &[("REDIS_PORT", port.clone())]);
        let state = State::new(Owner::customer(ALICE), hours_ago(1), &[]);
        stage.queue.send(entitlements_updated(&state, Shape::GraphqlV2).raw());
        for (text, shown) in sayings {
            proxy.refuse(&[Refusal::of(&["EVALSHA", "EVAL", "SET", "SCAN"], How::Error(text))]);
            let (status, output) = run_to_end(&stage.settings().set("REDIS_PORT", &port), &["check"]);
            assert!(!status.success(), "{output}");
            all.push((format!("check, where Redis says {text}"), output));
            stage.queue.send(entitlements_updated(&state, Shape::GraphqlV2).raw());
            service.wait_for_complaint(&[shown]);
            let words = shown.split(';').next().unwrap_or_default();
            let status = service.get("/status").body;
            assert!(status.contains(words), "{words}: {status}");
        }
        proxy.pass();
        service.wait_until("an empty queue", || stage.queue.is_empty());
        all.extend(texts_of(&service, &sentry));
        service.stop();
        stage.queue.complaints();
    }
    assert_unnamed("Redis", &all);
}

/// Refuses with her in every place, besides what was asked.
fn refuses_because_of_her(words: &str) -> String {
    let refusal: Value =
        serde_json::from_str(&json_refusal(&format!("no access for {ALICE}: {words}"))).unwrap();
    let mut refusal = refusal;
    refusal["__type"] = json!(ALICE);
    refusal["code"] = json!(ALICE);
    refusal.to_string()
}

fn refuses_in_xml(words: &str) -> String {
    let words = words.replace('<', " ");
    format!(
        "<ErrorResponse><Error><Code>{ALICE}</Code><Message>customer='alice' {words}</Message></Error></ErrorResponse>"
    )
}

#[test]
fn none_of_what_the_queue_sts_and_the_edge_api_quote_is_named() {
    let (stage, sentry) = (FakeStage::new(QueueOptions::default()), SentryStub::start());
    let files = Directory::new();
    let queue = Hostile::before(stage.queue_address(), refuses_because_of_her);
    let sts = Hostile::http(|_| format!("<{ALICE}>"), refuses_in_xml);
    let edge = Hostile::http(
        |_| json!({"errors": [{"message": ALICE, "extensions": {"code": ALICE}}]}).to_string(),
        refuses_because_of_her,
    );
    for peer in [&queue, &sts, &edge] {
        peer.turn(Mode::Refuse);
    }
    let with_queue = spawn(&stage, &sentry, &[("AWS_ENDPOINT_URL_SQS", queue.url())]);
    let without_keys = [
        ("AWS_ACCESS_KEY_ID", String::new()),
        ("AWS_SECRET_ACCESS_KEY", String::new()),
        ("PORT", crate::support::tools::free_port().to_string()),
    ];
    let mut of_sts = without_keys.to_vec();
    of_sts.extend([
        ("AWS_WEB_IDENTITY_TOKEN_FILE", files.write("identity", "a-token-of-nobody")),
        ("AWS_ROLE_ARN", ROLE.to_owned()),
        ("AWS_ENDPOINT_URL_STS", sts.url()),
    ]);
    let with_sts = spawn(&stage, &sentry, &of_sts);
    let mut of_edge = without_keys.to_vec();
    of_edge[2].1 = crate::support::tools::free_port().to_string();
    of_edge.extend([("EDGE_API_URL", edge.url()), ("SENTRY_DSN", String::new())]);
    let with_edge = spawn(&stage, &sentry, &of_edge);
    let services = [(&with_queue, &queue), (&with_sts, &sts), (&with_edge, &edge)];
    with_queue.wait_for_complaint(&["cannot receive messages", "no access for…"]);
    with_sts.wait_for_complaint(&["403"]);
    with_edge.wait_for_complaint(&["403"]);
    for mode in [Mode::Serve, Mode::Garbage] {
        for (_, peer) in services {
            peer.turn(mode);
        }
        for (service, peer) in services {
            service.wait_until(&format!("a peer to {mode:?}"), || peer.calls(mode) >= 1);
        }
    }
    let mut all = Vec::new();
    for (service, _) in services {
        all.extend(texts_of(service, &sentry));
        all.extend(pages(service));
    }
    queue.turn(Mode::Refuse);
    let settings = stage.settings().set("AWS_ENDPOINT_URL_SQS", queue.url()).set("EDGE_API_URL", edge.url());
    all.push(("check".to_owned(), run_to_end(&settings, &["check"]).1));
    for service in [with_queue, with_sts, with_edge] {
        service.stop();
    }
    stage.queue.complaints();
    assert_unnamed("the queue, STS and the Edge API", &all);
}
