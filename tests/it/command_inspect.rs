//! `inspect` says of a customer what the published SDK 3.95.0 then finds: a hit, or a miss.

use serde_json::Value;

use crate::support::command::{Ended, run};
use crate::support::messages::{Shape, entitlements_updated};
use crate::support::sdk::{Owner, Sdk};
use crate::support::service::{Service, Settings};
use crate::support::stage::{PREFIX, Stage};
use crate::support::state::{State, credit, every_kind, hours_ago};

/// Where Redis is, and no more: a customer is inspected without queue, key and credentials.
fn settings(stage: &Stage) -> Settings {
    Settings::default().set("REDIS_HOST", "127.0.0.1").set("REDIS_PORT", stage.redis.port.to_string())
}

fn inspect(stage: &Stage, owner: Owner) -> Ended {
    let mut arguments = vec!["inspect", owner.customer, "--json"];
    if let Some(resource) = owner.resource {
        arguments.extend(["--resource", resource]);
    }
    run(&settings(stage), &arguments)
}

fn outcome(report: &Value, sdk: &str) -> String {
    let reader = report["readers"].as_array().expect("a list").iter();
    let reader = reader.clone().find(|reader| reader["sdk"] == sdk).expect("a reader");
    reader["outcome"].as_str().expect("a text").to_owned()
}

/// What is done to a cache that was whole: a name, the keys that go (`K` stands for the customer key), and whose
/// cache is then asked for.
const DAMAGES: [(&str, &[&str], bool); 8] = [
    ("whole", &[], false),
    ("whole-resource", &[], true),
    ("no-list", &["K"], false),
    ("no-list-timestamp", &["K#timestamp"], false),
    ("no-usage", &["K:f_feature-api-calls"], false),
    ("no-usage-timestamp", &["K:f_feature-api-calls#timestamp"], false),
    ("no-metadata", &["K:metadata", "K:metadata#timestamp"], false),
    ("no-list-of-the-customer", &["K", "K#timestamp"], true),
];

#[test]
fn inspect_says_hit_or_miss_as_the_published_sdk_then_does() {
    let stage = Stage::new();
    let service = Service::start(&stage.settings().set("CACHE_UPDATE_POLICY", "UPSERT"));
    let mut messages = Vec::new();
    let states = |customer: &str| {
        let (global, resource) = (Owner::customer(customer), Owner::resource(customer, "site-1"));
        [State::new(global, hours_ago(4), &every_kind(0)), State::new(resource, hours_ago(3), &every_kind(1))]
    };
    for (customer, _, _) in DAMAGES {
        messages.extend(states(customer).map(|state| entitlements_updated(&state, Shape::GraphqlV2).raw()));
    }
    // A resource whose state is older than its customer's.
    let late = Owner::resource("late", "site-1");
    messages.push(
        entitlements_updated(
            &State::new(Owner::customer("late"), hours_ago(1), &every_kind(0)),
            Shape::GraphqlV2,
        )
        .raw(),
    );
    messages
        .push(entitlements_updated(&State::new(late, hours_ago(2), &every_kind(0)), Shape::GraphqlV2).raw());
    stage.deliver(&service, &messages);
    for (customer, gone, _) in DAMAGES {
        let key = Owner::customer(customer).key(PREFIX);
        for key in gone.iter().map(|name| name.replacen('K', &key, 1)) {
            assert_eq!(stage.redis.command::<u64>(&["DEL", &key]), 1, "{key}");
        }
    }

    let sdk = Sdk::open(&stage.redis, PREFIX);
    let mut seen = Vec::new();
    let asked = DAMAGES
        .into_iter()
        .map(
            |(customer, _, is_resource)| {
                if is_resource { Owner::resource(customer, "site-1") } else { Owner::customer(customer) }
            },
        )
        .chain([late, Owner::customer("nobody")]);
    for owner in asked {
        let before = stage.redis.contents();
        let ended = inspect(&stage, owner);
        assert_eq!(stage.redis.contents(), before, "inspect changes nothing");
        let report = ended.json();
        let calls = sdk.calls().len();
        sdk.entitlements(owner);
        let is_miss = sdk.calls().len() > calls;
        let by_sdk = if is_miss { "miss" } else { "hit" };
        assert_eq!(outcome(&report, "3.x"), by_sdk, "{owner:?}: {report:#}");
        assert_eq!(ended.status == 3, !report["cached"].as_bool().unwrap(), "{ended:?}");
        seen.push((
            owner.customer.to_owned(),
            ["2.x", "3.x", "4.x"].map(|sdk| outcome(&report, sdk)).join(" "),
        ));
    }
    let expected = [
        ("whole", "hit hit hit"),
        ("whole-resource", "hit hit hit"),
        ("no-list", "miss miss miss"),
        ("no-list-timestamp", "hit hit miss"),
        ("no-usage", "hit miss miss"),
        ("no-usage-timestamp", "hit hit miss"),
        ("no-metadata", "hit hit hit"),
        ("no-list-of-the-customer", "hit miss miss"),
        ("late", "hit miss miss"),
        ("nobody", "miss miss miss"),
    ]
    .map(|(customer, outcomes)| (customer.to_owned(), outcomes.to_owned()));
    assert_eq!(seen, expected);
    service.stop();
}

#[test]
fn a_table_shows_limits_usages_ages_expiry_and_why_a_reader_misses() {
    let stage = Stage::new();
    let service = Service::start(&stage.settings().set("CACHE_UPDATE_POLICY", "UPSERT"));
    let owner = Owner::customer("customer-1");
    let mut entitlements = every_kind(0);
    entitlements.push(credit("cred-type-ai", 500, 120));
    let state = State::new(owner, hours_ago(3), &entitlements);
    stage.deliver(&service, &[entitlements_updated(&state, Shape::GraphqlV2).raw()]);
    let key = format!("{}:f_feature-api-calls", owner.key(PREFIX));
    stage.redis.command::<u64>(&["DEL", &key]);
    // A reader that refetches.
    let lock = owner.lock_key(PREFIX);
    stage.redis.command::<String>(&["SET", &lock, "x"]);

    let table = run(&settings(&stage), &["inspect", "customer-1"]);
    assert_eq!(table.status, 0, "{table:?}");
    println!("{}", table.stdout);
    for part in [
        "form compatible, of 20",
        "(3 h",
        "expires in 6 d 23 h",
        "SDK 2.x   hit",
        "SDK 3.x   miss  no usage is stored for feature-api-calls",
        "feature-api-calls",
        "metered",
        "no usage key",
        "cred-type-ai",
        "credit",
        "500",
        lock.as_str(),
    ] {
        assert!(table.stdout.contains(part), "{part} in\n{}", table.stdout);
    }
    assert!(!table.stdout.contains('\u{1b}'), "no colour in a pipe: {table:?}");
    service.stop();
}

#[test]
fn of_whom_nothing_is_cached_it_says_so_by_its_status_too() {
    let stage = Stage::new();
    let ended = run(&settings(&stage), &["inspect", "nobody"]);
    assert_eq!(ended.status, 3, "{ended:?}");
    assert!(
        ended.stdout.contains("not cached") && ended.stdout.contains("miss  nothing is cached"),
        "{ended:?}"
    );
}

#[test]
fn a_redis_that_is_unavailable_is_an_error_with_address_and_remedy() {
    let stage = Stage::new();
    stage.redis.stop();
    let ended = run(&settings(&stage), &["inspect", "customer-1"]);
    assert_eq!(ended.status, 1, "{ended:?}");
    assert!(
        ended.stderr.contains(&format!("127.0.0.1:{}", stage.redis.port)) && ended.stdout.is_empty(),
        "{ended:?}"
    );
    let ended = run(&Settings::default(), &["inspect", "customer-1"]);
    assert_eq!(ended.status, 78, "{ended:?}");
    assert!(ended.stderr.contains("REDIS_HOST") && !ended.stderr.contains("QUEUE_URL"), "{ended:?}");
}
