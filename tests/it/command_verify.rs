//! `verify` compares a cache with what the Edge API says: it finds each difference, and nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crossbeam_channel::{RecvTimeoutError, bounded};
use persistent_cache_service::clock;
use serde_json::{Value, json};

use crate::command_warm::settings;
use crate::fakes::queue::QueueOptions;
use crate::readers::answers;
use crate::support::command::{Ended, run, run_with_input};
use crate::support::edge::EdgeStub;
use crate::support::fake_stage::FakeStage;
use crate::support::messages::{Shape, usage_updated};
use crate::support::redis::TestRedis;
use crate::support::sdk::{Owner, Sdk};
use crate::support::service::{Service, Settings};
use crate::support::stage::PREFIX;
use crate::support::state::{State, boolean, credit, every_kind, hours_ago, metered, number, with};

const API: &str = "feature-api-calls";

/// Customer, resource, id, what, and the SDK generations.
type Found = BTreeSet<(String, String, String, String, String)>;

fn found(ended: &Ended) -> Found {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let line = |line: &str| {
        let line: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        let sdks: Vec<String> = line["sdks"].as_array().expect("a list").iter().map(text).collect();
        let [customer, resource, id, what] =
            ["customer", "resource", "id", "what"].map(|name| text(&line[name]));
        (customer, resource, id, what, sdks.join(" "))
    };
    let found: Vec<_> = ended.stdout.lines().map(line).collect();
    let unique: Found = found.iter().cloned().collect();
    assert_eq!(unique.len(), found.len(), "each is reported once: {ended:?}");
    unique
}

/// A cache with differences in it, and what Stigg says.
struct Planted {
    redis: TestRedis,
    edge: EdgeStub,
    states: BTreeMap<&'static str, State>,
    entries: Vec<Value>,
    expected: Found,
}

impl Planted {
    fn new() -> Self {
        let (redis, edge) = (TestRedis::start(), EdgeStub::start());
        Self { redis, edge, states: BTreeMap::new(), entries: every_kind(0), expected: Found::new() }
    }

    fn settings(&self) -> Settings {
        settings(&self.redis, &self.edge)
    }

    /// Customers as Stigg has them and as they are stored.
    fn customers(&mut self, customers: &[&'static str]) {
        for customer in customers {
            let (owner, resource) = customer.split_once('\t').unzip();
            let owner = Owner { customer: owner.unwrap_or(customer), resource };
            let state = State::new(owner, hours_ago(5), &self.entries);
            self.edge.give_entitlements(&state, &[]);
            self.states.insert(customer, state);
        }
        let arguments = ["warm", "-", "--rate", "500", "--parallel", "1"];
        let warmed = run_with_input(&self.settings(), &arguments, &customers.join("\n"));
        assert_eq!(warmed.stdout, format!("{} filled\n", customers.len()), "{warmed:?}");
    }

    /// The customer key.
    fn key(&self, customer: &str) -> String {
        self.states[customer].owner().key(PREFIX)
    }

    fn expect(&mut self, customer: &str, id: &str, what: &str, sdks: &str) {
        let (customer, resource) = customer.split_once('\t').unwrap_or((customer, ""));
        self.expected.insert([customer, resource, id, what, sdks].map(str::to_owned).into());
    }

    fn set(&self, key: &str, value: &str) {
        self.redis.command::<String>(&["SET", key, value]);
    }

    fn delete(&self, keys: &[String]) {
        for key in keys {
            assert_eq!(self.redis.command::<u64>(&["DEL", key]), 1, "{key}");
        }
    }

    /// Changes the stored JSON of a key, and leaves its timestamp.
    fn change(&self, key: &str, change: impl FnOnce(&mut Value)) {
        let mut value = self.redis.json(key).expect("a value");
        change(&mut value);
        self.set(key, &value.to_string());
    }

    fn verify(&self, flags: &[&str]) -> Ended {
        let list: Vec<String> = self.states.values().map(line).collect();
        let arguments = [&["verify", "--json", "--rate", "1000"], flags].concat();
        if flags.contains(&"--sample") {
            return run(&self.settings(), &arguments);
        }
        run_with_input(&self.settings(), &[arguments.as_slice(), &["-"]].concat(), &list.join("\n"))
    }
}

fn line(state: &State) -> String {
    state.resource.as_ref().map_or(state.customer.clone(), |id| format!("{}\t{id}", state.customer))
}

const ALL: &str = "2.x 3.x 4.x";

const CUSTOMERS: [&str; 24] = [
    "equal",
    "limit",
    "reason",
    "missing",
    "additional",
    "lost-usage",
    "lost-usage-timestamp",
    "usage-not-json",
    "usage",
    "period",
    "lost-timestamp",
    "metadata",
    "not-json",
    "hash",
    "v4-form",
    "unreadable-and-ahead",
    "year-3000",
    "half-emoji",
    "purged",
    "stale",
    "site",
    "unsubscribed",
    "forgotten",
    "site\tone",
];

/// A difference of every kind, each for a customer of its own; and customers for whom nothing differs.
fn planted() -> Planted {
    let mut planted = Planted::new();
    planted.customers(&CUSTOMERS);
    let key = planted.key("limit");
    planted.change(&key, |list| list["feature-seats"]["calculatedEntitlement"]["usageLimit"] = json!(7));
    planted.expect("limit", "feature-seats", "usageLimit", ALL);
    let key = planted.key("reason");
    planted.change(&key, |list| {
        list["feature-audit-log"]["calculatedEntitlement"]["accessDeniedReason"] = Value::Null;
    });
    planted.expect("reason", "feature-audit-log", "accessDeniedReason", ALL);
    let key = planted.key("missing");
    planted.change(&key, |list| drop(list.as_object_mut().expect("a list").remove("feature-sso")));
    planted.expect("missing", "feature-sso", "entitlement", ALL);
    let key = planted.key("additional");
    planted.change(&key, |list| {
        list["feature-more"] = list["feature-sso"].clone();
        list["feature-more"]["calculatedEntitlement"]["feature"]["id"] = json!("feature-more");
    });
    planted.expect("additional", "feature-more", "entitlement", ALL);

    let key = planted.key("lost-usage");
    planted.delete(&[format!("{key}:f_{API}"), format!("{key}:f_{API}#timestamp")]);
    planted.expect("lost-usage", API, "usage", "3.x 4.x");
    let key = planted.key("lost-usage-timestamp");
    planted.delete(&[format!("{key}:f_{API}#timestamp")]);
    planted.expect("lost-usage-timestamp", API, "usage timestamp", "4.x");
    let key = planted.key("usage-not-json");
    planted.set(&format!("{key}:f_{API}"), "oops");
    planted.expect("usage-not-json", API, "usage", "3.x 4.x");
    let key = planted.key("usage");
    planted.change(&format!("{key}:f_{API}"), |usage| usage["currentUsage"] = json!(41));
    planted.expect("usage", API, "currentUsage", ALL);
    let key = planted.key("period");
    planted.change(&format!("{key}:f_{API}"), |usage| usage["usagePeriodStart"] = json!(5));
    planted.expect("period", API, "usagePeriodStart", ALL);
    let key = planted.key("lost-timestamp");
    planted.delete(&[format!("{key}#timestamp")]);
    planted.expect("lost-timestamp", "", "list", "4.x");
    let key = planted.key("metadata");
    planted.set(&format!("{key}:metadata"), r#"{"accessDeniedReason":"CustomerIsArchived"}"#);
    planted.expect("metadata", "", "metadata", "4.x");

    let key = planted.key("not-json");
    planted.set(&key, "{");
    planted.expect("not-json", "", "list", ALL);
    let key = planted.key("hash");
    planted.delete(std::slice::from_ref(&key));
    planted.redis.command::<u64>(&["HSET", &key, "a", "b"]);
    planted.expect("hash", "", "list", ALL);
    let key = planted.key("v4-form");
    planted.change(&key, |list| {
        for entry in list.as_object_mut().expect("a list").values_mut() {
            entry.as_object_mut().expect("an entry").remove("featureUsage");
        }
    });
    planted.expect("v4-form", "", "list", "2.x 3.x");
    let key = planted.key("unreadable-and-ahead");
    planted.set(&key, "{");
    planted.set(&format!("{key}#timestamp"), &hours_ago(1).to_string());
    planted.expect("unreadable-and-ahead", "", "list", ALL);
    // Messages and warm would never replace it.
    let key = planted.key("year-3000");
    planted.change(&key, |list| list["feature-seats"]["calculatedEntitlement"]["usageLimit"] = json!(7));
    planted.set(&format!("{key}#timestamp"), "32503680000000");
    planted.expect("year-3000", "feature-seats", "usageLimit", ALL);
    // What an SDK may write is no difference.
    let key = planted.key("half-emoji");
    let list = planted.redis.get(&key).expect("a list");
    let with_half = list.replace(r#""featureUsage""#, r#""more":"\ud83d","featureUsage""#);
    assert_ne!(with_half, list);
    planted.set(&key, &with_half);
    let key = planted.key("purged");
    planted.delete(&[key.clone(), format!("{key}#timestamp")]);
    planted.expect("purged", "", "list", ALL);

    // A list that Stigg has replaced since.
    let mut entries = planted.entries.clone();
    entries[3] = number("feature-seats", 99);
    let newer = State::with_usage_times(Owner::customer("stale"), hours_ago(2), hours_ago(5), &entries);
    planted.edge.give_entitlements(&newer, &[]);
    planted.states.insert("stale", newer);
    planted.expect("stale", "feature-seats", "usageLimit", ALL);

    // A resource's list, with an entry of another resource in it.
    let entries = planted.entries.clone();
    let key = planted.key("site\tone");
    planted.change(&key, |list| list[API]["calculatedEntitlement"]["resourceId"] = json!("two"));
    planted.expect("site\tone", API, "resourceId", ALL);

    // Stigg has taken everything away, with a reason, and without.
    for (customer, reason) in [("unsubscribed", Some("NoActiveSubscription")), ("forgotten", None)] {
        let mut gone = State::new(Owner::customer(customer), 0, &[]);
        gone.access_denied_reason = reason.map(str::to_owned);
        planted.edge.give_entitlements(&gone, &[]);
        planted.states.insert(customer, gone);
        for entry in &entries {
            planted.expect(customer, entry["feature"]["refId"].as_str().expect("an id"), "entitlement", ALL);
        }
    }
    planted.expect("unsubscribed", "", "metadata", "4.x");

    // What a reader wrote, and what is newer than Stigg's answer, is right.
    let sdk = Sdk::open(&planted.redis, PREFIX);
    let read = State::new(Owner::customer("read"), hours_ago(3), &entries);
    sdk.cache(&[&read]);
    planted.edge.give_entitlements(&read, &[]);
    planted.states.insert("read", read);
    planted
}

#[test]
fn each_planted_difference_is_reported_fixed_and_then_gone() {
    let planted = planted();
    let first = planted.verify(&[]);
    assert_eq!(first.status, 3, "{first:?}");
    assert_eq!(found(&first), planted.expected);
    assert_eq!(first.stderr, "4 equal\n21 differ; --fix writes what Stigg says");

    let sampled = planted.verify(&["--sample", "1000"]);
    let without_purged: Found =
        planted.expected.iter().filter(|(customer, ..)| customer != "purged").cloned().collect();
    assert_eq!(found(&sampled), without_purged);
    let some = planted.verify(&["--sample", "5"]);
    assert!(found(&some).is_subset(&without_purged), "{some:?}");

    let fixed = planted.verify(&["--fix"]);
    assert_eq!((fixed.status, fixed.stderr.as_str()), (0, "4 equal\n21 differed and are fixed"), "{fixed:?}");
    assert_eq!(found(&fixed), planted.expected);
    let last = planted.verify(&[]);
    assert_eq!((last.status, last.stdout.as_str()), (0, ""), "{last:?}");

    // What verify calls equal, the SDK answers as from Stigg.
    let elsewhere = TestRedis::start();
    let (sdk, reference) = (Sdk::open(&planted.redis, PREFIX), Sdk::open(&elsewhere, PREFIX));
    for state in planted.states.values() {
        sdk.serve(state);
        reference.serve(state);
    }
    for state in planted.states.values() {
        let of = (&state.customer, &state.resource);
        for (ours, right) in answers(&sdk, state).into_iter().zip(answers(&reference, state)) {
            assert_eq!(ours, right, "{of:?} (left: from the cache, right: as fetched)");
        }
    }
    let asked = sdk.calls();
    assert!(
        asked.iter().all(|call| call.contains("/forgotten/")),
        "only who has nothing is asked for: {asked:?}"
    );
}

#[test]
fn what_is_newer_or_within_the_tolerance_is_equal() {
    let mut planted = Planted::new();
    planted.entries.push(credit("cred-type-ai", 500, 120));
    planted.customers(&["newer"]);
    let key = planted.key("newer");
    planted.change(&key, |list| {
        list["feature-seats"]["calculatedEntitlement"]["usageLimit"] = json!(7);
        list.as_object_mut().expect("a list").remove("feature-sso");
    });
    planted.set(&format!("{key}#timestamp"), &hours_ago(1).to_string());
    planted.set(&format!("{key}:f_{API}"), r#"{"currentUsage":43}"#);
    planted.set(&format!("{key}:f_{API}#timestamp"), &hours_ago(1).to_string());
    assert_eq!(planted.verify(&[]).status, 0);

    planted.set(&format!("{key}:f_feature-reports"), r#"{"currentUsage":3}"#);
    planted.set(&format!("{key}:credit_cred-type-ai"), "lost");
    planted.expect("newer", "feature-reports", "currentUsage", ALL);
    planted.expect("newer", "cred-type-ai", "usage", "4.x");
    assert_eq!(found(&planted.verify(&["--usage-tolerance", "1"])), planted.expected);
    planted.expected.retain(|(_, _, id, ..)| id != "feature-reports");
    assert_eq!(found(&planted.verify(&["--usage-tolerance", "2"])), planted.expected);
}

#[test]
fn a_line_says_what_differs_on_both_sides_and_for_which_sdks() {
    let mut planted = Planted::new();
    planted.customers(&["one"]);
    let key = planted.key("one");
    planted.change(&key, |list| list["feature-seats"]["calculatedEntitlement"]["usageLimit"] = json!(7));
    planted.delete(&[format!("{key}:f_{API}#timestamp")]);
    let ended = run(&planted.settings(), &["verify", "one"]);
    assert_eq!(ended.status, 3, "{ended:?}");
    let lines: Vec<&str> = ended.stdout.lines().collect();
    let at = planted.redis.get(&format!("{key}#timestamp")).expect("a timestamp");
    assert_eq!(lines.len(), 2, "{ended:?} {at}");
    assert!(
        lines[0].starts_with("one: feature-api-calls: usage timestamp: Redis nothing (no timestamp), Stigg ")
    );
    assert!(lines[0].ends_with("; only for SDK 4.x"), "{ended:?}");
    assert!(lines[1].starts_with("one: feature-seats: usageLimit: Redis 7 (20"), "{ended:?}");
    assert!(lines[1].contains("Z), Stigg 25 (20") && lines[1].ends_with("Z)"), "{ended:?}");
    assert_eq!(ended.stderr, "0 equal\n1 differ; --fix writes what Stigg says");
}

#[test]
fn a_mistyped_file_name_is_no_customer() {
    let mut planted = Planted::new();
    planted.customers(&["one"]);
    let list = planted.redis.directory().join("customers.txt").display().to_string();
    std::fs::write(&list, "one\n").expect("a list");
    let ended = run(&planted.settings(), &["verify", &list]);
    assert_eq!((ended.status, ended.stderr.as_str()), (0, "1 equal"), "{ended:?}");
    let asked = planted.edge.calls().len();
    for arguments in [["custmers.txt"].as_slice(), &["lists/customers"], &["one", &list]] {
        let ended = run(&planted.settings(), &[&["verify", "--fix"], arguments].concat());
        assert_eq!((ended.status, ended.stdout.as_str()), (2, ""), "{ended:?}");
        let file = arguments[arguments.len() - 1];
        assert!(ended.stderr.contains(&format!("'{file}' looks like a file")), "{ended:?}");
    }
    assert_eq!(planted.edge.calls().len(), asked, "nobody was asked for");
    // A customer with such an id can be listed. The stub knows none.
    let ended = run_with_input(&planted.settings(), &["verify", "-", "--retries", "0"], "acme/one");
    assert!(ended.status == 1 && ended.stderr.starts_with("acme/one: cannot get"), "{ended:?}");
}

#[test]
fn what_cannot_be_compared_is_a_failure() {
    let mut planted = Planted::new();
    planted.customers(&["one"]);
    let ended = run(&planted.settings(), &["verify", "one", "two", "--retries", "0"]);
    assert_eq!((ended.status, ended.stdout.as_str()), (1, ""), "{ended:?}");
    assert!(ended.stderr.ends_with("\n1 equal\n1 failed"), "{ended:?}");
    assert!(ended.stderr.contains("two: ") && ended.stderr.contains("500"), "{ended:?}");
    let ended = run_with_input(&planted.settings(), &["verify", "-"], "one\none\t\n");
    assert!(ended.status == 1 && ended.stderr.ends_with("\n1 equal\n1 failed"), "{ended:?}");
    assert!(ended.stderr.contains("neither a customer's id"), "{ended:?}");
    // Nothing was wrong, but nothing was compared either.
    for (prefix, arguments) in [(PREFIX, ["verify", "-"].as_slice()), ("other", &["verify", "--sample", "9"])]
    {
        let settings = planted.settings().set("ENVIRONMENT_PREFIX", prefix);
        let ended = run_with_input(&settings, arguments, "");
        assert!(ended.status == 1 && ended.stderr.contains("nothing was compared"), "{ended:?}");
    }
    assert_eq!(run(&planted.settings(), &["verify"]).status, 2);
    assert_eq!(run(&planted.settings(), &["verify", "one", "--sample", "3"]).status, 2);
    planted.redis.stop();
    let ended = run(&planted.settings(), &["verify", "one"]);
    assert!(ended.status == 1 && ended.stderr.contains("gave up: "), "{ended:?}");
}

#[test]
fn a_user_that_may_only_read_is_enough() {
    let mut planted = Planted::new();
    planted.customers(&["one"]);
    let rights = ["ACL", "SETUSER", "reader", "on", ">secret", "%R~*", "-@all", "+mget", "+scan"];
    planted.redis.command::<String>(&rights);
    let settings = planted.settings().set("REDIS_USERNAME", "reader").set("REDIS_PASSWORD", "secret");
    for whom in [["verify", "one"].as_slice(), &["verify", "--sample", "5"]] {
        let ended = run(&settings, whom);
        assert_eq!((ended.status, ended.stderr.as_str()), (0, "1 equal"), "{ended:?}");
    }
    planted.delete(&[format!("{}:f_{API}", planted.key("one"))]);
    let ended = run(&settings, &["verify", "one", "--fix"]);
    assert!(ended.status == 1 && ended.stderr.contains("lacks a permission"), "{ended:?}");
}

/// Usages change all the time, at Stigg first and then, by a message, in Redis.
#[test]
fn under_load_nothing_differs_in_ten_thousand_customers() {
    const CUSTOMERS: usize = 10_000;
    let stage = FakeStage::new(QueueOptions::default());
    let edge = EdgeStub::start();
    let service = Service::start(&stage.settings());
    let entries = [boolean("sso"), metered("api", 1_000_000, 1)];
    let names: Vec<String> = (0..CUSTOMERS).map(|number| format!("c{number}")).collect();
    let states: Vec<State> =
        names.iter().map(|name| State::new(Owner::customer(name), hours_ago(5), &entries)).collect();
    // As the service stores one, it stores all.
    edge.give_entitlements(&states[0], &[]);
    let settings = settings(&stage.redis, &edge);
    assert_eq!(run_with_input(&settings, &["warm", "-"], "c0").status, 0);
    let (contents, mut pipe) = (stage.redis.contents(), redis::pipe());
    for state in &states {
        edge.give_entitlements(state, &[]);
        let prefix = state.owner().key(PREFIX);
        for (key, value) in &contents {
            pipe.set(key.replacen(&states[0].owner().key(PREFIX), &prefix, 1), value).ignore();
        }
    }
    pipe.exec(&mut stage.redis.connection()).expect("redis answers");

    let (stop, stopped) = bounded::<()>(0);
    let (ended, sent) = std::thread::scope(|scope| {
        let load = scope.spawn(|| {
            let mut sent = 0;
            while stopped.recv_timeout(Duration::from_millis(3)) == Err(RecvTimeoutError::Timeout) {
                sent += 1;
                let state = &states[fastrand::usize(..CUSTOMERS)];
                let at = clock::now().0;
                let used = with(entries[1].clone(), &json!({"currentUsage": sent}));
                let used = State::with_usage_times(
                    state.owner(),
                    state.updated_at_ms,
                    at,
                    &[entries[0].clone(), used],
                );
                edge.give_entitlements(&used, &[]);
                stage.queue.send(usage_updated(state, "api", sent, at, Shape::GraphqlV2).raw());
            }
            sent
        });
        let arguments = ["verify", "-", "--json", "--rate", "1000", "--parallel", "32"];
        // In parts, since a command has a minute.
        let parts = names.chunks(CUSTOMERS / 5);
        let ended: Vec<Ended> =
            parts.map(|part| run_with_input(&settings, &arguments, &part.join("\n"))).collect();
        drop(stop);
        (ended, load.join().expect("the load"))
    });
    assert!(sent > 1_000, "there was load: {sent}");
    for ended in ended {
        assert_eq!((ended.status, ended.stdout.as_str(), ended.stderr.as_str()), (0, "", "2000 equal"));
    }
    service.stop();
}
