//! Every server that the contract names: the essentials of delivery, purge and policy on each, and what a cluster asks
//! for.
//!
//! Redis 6.2 and Valkey 9 are installed by scripts/tools, 7.0 is the system's. The cluster is one node that holds all
//! slots, as a service does that shards behind one endpoint.

use std::time::Duration;

use serde_json::json;

use crate::fakes::queue::QueueOptions;
use crate::fakes::refusing_redis::{How, Refusal, RefusingRedis};
use crate::support::command::run;
use crate::support::fake_stage::FakeStage;
use crate::support::messages::{
    Message, Shape, credit_balance, entitlements_updated, event, package_published, purge,
    subscriptions_migrated, usage_updated,
};
use crate::support::redis::{RedisOptions, TestRedis};
use crate::support::sdk::{CUSTOMER, Kind, Owner, RESOURCE, Sdk};
use crate::support::service::{Service, Settings};
use crate::support::state::{State, boolean, every_kind, hours_ago, metered};
use crate::support::tools::{free_port, tool};
use crate::support::wait::{PATIENCE, wait_until};

/// Where a story runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Server {
    Redis62,
    Redis70,
    Valkey9,
    Cluster,
}

impl Server {
    fn start(self) -> TestRedis {
        let program = match self {
            Self::Redis62 => Some(tool("servers/redis-6.2")),
            Self::Valkey9 => Some(tool("servers/valkey-9")),
            Self::Redis70 | Self::Cluster => None,
        };
        let redis = if self == Self::Cluster {
            cluster_node().0
        } else {
            TestRedis::start_with(RedisOptions { program, ..RedisOptions::default() })
        };
        match self {
            Self::Redis62 => assert!(version(&redis).contains("redis_version:6.2")),
            Self::Redis70 => assert!(version(&redis).contains("redis_version:7.0")),
            Self::Valkey9 => assert!(version(&redis).contains("valkey_version:9")),
            Self::Cluster => {
                redis.command::<()>(&["CLUSTER", "ADDSLOTSRANGE", "0", "16383"]);
                wait_until_complete(&redis);
            }
        }
        redis
    }

    fn prefix(self) -> &'static str {
        match self {
            Self::Cluster => "{production}",
            Self::Redis62 | Self::Redis70 | Self::Valkey9 => "production",
        }
    }

    fn stage(self) -> FakeStage {
        let options = QueueOptions {
            visibility_timeout: Duration::from_secs(3),
            max_receive_count: Some(3),
            ..QueueOptions::default()
        };
        FakeStage::with_redis(self.start(), options)
    }

    fn settings(self, stage: &FakeStage) -> Settings {
        stage.settings().set("ENVIRONMENT_PREFIX", self.prefix()).set("REDIS_DB", "0")
    }

    fn key(self, owner: Owner) -> String {
        owner.key(self.prefix())
    }
}

/// A node without slots, and the port of its cluster bus.
fn cluster_node() -> (TestRedis, String) {
    let bus: &str = free_port().to_string().leak();
    let arguments = vec!["--cluster-enabled", "yes", "--cluster-port", bus];
    (TestRedis::start_with(RedisOptions { arguments, ..RedisOptions::default() }), bus.to_owned())
}

fn wait_until_complete(redis: &TestRedis) {
    wait_until(PATIENCE, "a cluster that is complete", || {
        redis.command::<String>(&["CLUSTER", "INFO"]).contains("cluster_state:ok")
    });
}

fn version(redis: &TestRedis) -> String {
    redis.command(&["INFO", "server"])
}

/// Sends messages and waits until each is complete.
fn deliver(stage: &FakeStage, service: &Service, messages: &[Message]) {
    for message in messages {
        stage.queue.send(message.raw());
    }
    service.wait_until("an empty queue", || stage.queue.is_empty());
    assert_eq!(stage.queue.dead_letters(), [""; 0]);
}

/// A customer whose whole state was true at one moment.
fn state(owner: Owner, hours: i64) -> State {
    State::new(owner, hours_ago(hours), &every_kind(hours))
}

fn list(owner: Owner, hours: i64) -> Message {
    entitlements_updated(&state(owner, hours), Shape::GraphqlV2)
}

fn messages_of_every_shape_reach_readers(server: Server) {
    let stage = server.stage();
    let service = Service::start(&server.settings(&stage));
    let customers = Shape::ALL.map(|shape| (shape, format!("customer-{shape:?}")));
    let mut messages = vec![list(CUSTOMER, 3), list(RESOURCE, 3)];
    for (shape, customer) in &customers {
        messages.push(entitlements_updated(&state(Owner::customer(customer), 3), *shape));
    }
    // A type that nobody knows is acknowledged.
    messages.push(event("SOMETHING_ELSE", hours_ago(1), &json!({"customerId": "customer-1"})));
    deliver(&stage, &service, &messages);
    let usages = customers.each_ref().map(|(shape, customer)| {
        let state = state(Owner::customer(customer), 3);
        usage_updated(&state, "feature-api-calls", 77, hours_ago(1), *shape)
    });
    deliver(&stage, &service, &usages);

    let sdk = Sdk::open(&stage.redis, server.prefix());
    for (_, customer) in &customers {
        let owner = Owner::customer(customer);
        let answers = sdk.entitlements(owner);
        assert_eq!(answers.as_array().map(Vec::len), Some(every_kind(3).len()), "{answers}");
        let usage = sdk.entitlement(Kind::Metered, owner, "feature-api-calls");
        assert_eq!((&usage["currentUsage"], &usage["isFallback"]), (&json!(77), &json!(false)));
    }
    assert_eq!(sdk.entitlements(RESOURCE).as_array().map(Vec::len), Some(every_kind(3).len()));
    assert_eq!(sdk.calls(), [""; 0], "readers find all of it in Redis");
    service.stop();
}

fn newer_wins_whatever_the_order(server: Server) {
    let stage = server.stage();
    let service = Service::start(&server.settings(&stage));
    deliver(&stage, &service, &[list(CUSTOMER, 2)]);
    let newest = usage_updated(&state(CUSTOMER, 2), "feature-api-calls", 90, hours_ago(0), Shape::Webhook);
    let older = usage_updated(&state(CUSTOMER, 2), "feature-api-calls", 80, hours_ago(1), Shape::Webhook);
    deliver(&stage, &service, &[newest, older, list(CUSTOMER, 5)]);
    let key = server.key(CUSTOMER);
    let usage = stage.redis.json(&format!("{key}:f_feature-api-calls")).expect("a usage");
    assert_eq!(usage["currentUsage"], 90, "{usage}");
    let list = stage.redis.json(&key).expect("a list");
    assert_eq!(list["feature-seats"]["calculatedEntitlement"]["usageLimit"], 27, "the list of two hours ago");
    service.stop();
}

fn purges_forget_what_they_name(server: Server) {
    let stage = server.stage();
    let service = Service::start(&server.settings(&stage));
    let owners = ["customer-1", "customer-2", "customer-3", "customer-4"].map(Owner::customer);
    let mut lists = owners.map(|owner| list(owner, 5)).to_vec();
    lists.push(list(RESOURCE, 5));
    deliver(&stage, &service, &lists);
    let there = || {
        [owners[0], owners[1], owners[2], owners[3], RESOURCE]
            .map(|owner| stage.redis.get(&server.key(owner)).is_some())
    };
    assert_eq!(there(), [true; 5]);

    deliver(&stage, &service, &[purge(RESOURCE, hours_ago(1))]);
    assert_eq!(there(), [true, true, true, true, false]);
    deliver(&stage, &service, &[purge(owners[1], hours_ago(1))]);
    assert_eq!(there(), [true, false, true, true, false]);
    let migrated = subscriptions_migrated(&["customer-3", "customer-none"], hours_ago(1));
    deliver(&stage, &service, &[migrated]);
    assert_eq!(there(), [true, false, false, true, false]);
    // A message that says it is older than a purge brings nothing back, though it was sent after it.
    let older = [owners[1], owners[2]].map(|owner| entitlements_updated(&state(owner, 4), Shape::Webhook));
    deliver(&stage, &service, &older);
    assert_eq!(there(), [true, false, false, true, false]);
    let newer = entitlements_updated(&state(owners[1], 0), Shape::Webhook);
    deliver(&stage, &service, &[newer]);
    assert_eq!(there(), [true, true, false, true, false]);
    service.stop();
}

fn an_invalidation_empties_the_environment_and_no_other(server: Server) {
    let stage = server.stage();
    let service = Service::start(&server.settings(&stage));
    let owners: Vec<String> = (0..50).map(|number| format!("customer-{number}")).collect();
    let lists: Vec<Message> = owners.iter().map(|owner| list(Owner::customer(owner), 5)).collect();
    deliver(&stage, &service, &lists);
    let neighbour = Owner::customer("customer-1").key("neighbour");
    stage.redis.command::<()>(&["SET", &neighbour, "{}"]);
    let key = server.key(Owner::customer("customer-7"));
    assert!(stage.redis.get(&key).is_some());

    deliver(&stage, &service, &[package_published("ALL_CUSTOMERS")]);
    let mut left = stage.redis.keys();
    left.retain(|key| !key.starts_with(&format!("{}:purged", server.prefix())));
    assert_eq!(left, [neighbour]);
    service.stop();
}

fn the_policy_decides_who_is_written(server: Server) {
    let stage = server.stage();
    let settings =
        server.settings(&stage).set("CACHE_UPDATE_POLICY", "UPDATE_IF_EXISTS").set("KEYS_TTL_IN_SECS", "100");
    let service = Service::start(&settings);
    let usage = usage_updated(&state(CUSTOMER, 5), "feature-api-calls", 43, hours_ago(1), Shape::Webhook);
    let balance = credit_balance(CUSTOMER, "cred-type-ai", 10, hours_ago(1));
    deliver(&stage, &service, &[list(CUSTOMER, 5), usage.clone(), balance]);
    assert_eq!(stage.redis.keys(), [""; 0], "nobody has cached this customer");

    Sdk::open(&stage.redis, server.prefix()).cache(&[&state(CUSTOMER, 5)]);
    deliver(&stage, &service, &[list(CUSTOMER, 2), usage]);
    let key = server.key(CUSTOMER);
    let stored = stage.redis.json(&key).expect("a list");
    assert_eq!(stored["feature-seats"]["calculatedEntitlement"]["usageLimit"], 27);
    let contents = stage.redis.snapshot();
    for name in [key.clone(), format!("{key}#timestamp"), format!("{key}:f_feature-api-calls")] {
        let ttl = contents[&name].ttl;
        assert!((90..=100).contains(&ttl), "{name} lives for {ttl} s");
    }
    service.stop();
}

/// A list that takes more keys than one call may have arguments: ElastiCache Serverless takes 3,999.
fn a_huge_list_takes_several_calls(server: Server) {
    const FEATURES: i64 = 1_400;
    let stage = server.stage();
    let proxy = RefusingRedis::start(stage.redis_address());
    let service = Service::start(&server.settings(&stage).set("REDIS_PORT", proxy.port().to_string()));
    let features: Vec<_> =
        (0..FEATURES).map(|number| metered(&format!("feature-{number}"), 100, number)).collect();
    let whole = State::new(CUSTOMER, hours_ago(1), &features);
    // The rest of a round trip does not suffer from it.
    let others: Vec<String> = (0..9).map(|number| format!("customer-beside-{number}")).collect();
    let mut messages: Vec<Message> = others.iter().map(|owner| list(Owner::customer(owner), 1)).collect();
    messages.insert(4, entitlements_updated(&whole, Shape::Webhook));
    deliver(&stage, &service, &messages);
    let key = server.key(CUSTOMER);
    for number in [0, 700, FEATURES - 1] {
        let usage = stage.redis.json(&format!("{key}:f_feature-{number}")).expect("a usage");
        assert_eq!(usage["currentUsage"], number);
        assert!(stage.redis.get(&format!("{key}:f_feature-{number}#timestamp")).is_some());
    }
    assert!(others.iter().all(|owner| stage.redis.get(&server.key(Owner::customer(owner))).is_some()));
    assert!(proxy.arguments_max() <= 3_900, "{} arguments in one call", proxy.arguments_max());
    service.stop();
}

macro_rules! stories_on {
    ($($name:ident: $server:expr;)*) => {$(
        mod $name {
            use super::*;

            #[test]
            fn messages_of_every_shape_reach_readers() {
                super::messages_of_every_shape_reach_readers($server);
            }

            #[test]
            fn newer_wins_whatever_the_order() {
                super::newer_wins_whatever_the_order($server);
            }

            #[test]
            fn purges_forget_what_they_name() {
                super::purges_forget_what_they_name($server);
            }

            #[test]
            fn an_invalidation_empties_the_environment_and_no_other() {
                super::an_invalidation_empties_the_environment_and_no_other($server);
            }

            #[test]
            fn the_policy_decides_who_is_written() {
                super::the_policy_decides_who_is_written($server);
            }

            #[test]
            fn a_huge_list_takes_several_calls() {
                super::a_huge_list_takes_several_calls($server);
            }
        }
    )*};
}

stories_on! {
    on_redis_6_2: Server::Redis62;
    on_redis_7_0: Server::Redis70;
    on_valkey_9: Server::Valkey9;
    on_a_cluster_node: Server::Cluster;
}

#[test]
fn a_prefix_without_a_hash_tag_on_a_cluster_pauses_the_service_names_the_remedy_and_loses_nothing() {
    let stage = Server::Cluster.stage();
    let wrong = Server::Cluster.settings(&stage).set("ENVIRONMENT_PREFIX", "production");
    let service = Service::spawn(&wrong);
    let customers: Vec<String> = (0..10).map(|number| format!("customer-{number}")).collect();
    for customer in &customers {
        stage.queue.send(list(Owner::customer(customer), 1).raw());
    }
    service.wait_for_complaint(&["ENVIRONMENT_PREFIX", "{production}"]);
    service.wait_until("/readyz to say 503", || service.get("/readyz").status == 503);
    // Longer than it takes to receive a message as often as the queue allows.
    let began = std::time::Instant::now();
    service.wait_until("three visibility timeouts to pass", || {
        assert_eq!(stage.queue.counts().dead, 0, "{:#?}", service.log_lines());
        assert_eq!(service.get("/readyz").status, 503, "{:#?}", service.log_lines());
        began.elapsed() > Duration::from_secs(12)
    });
    let complaints = service.log().iter().filter(|line| line["level"] != "info").count();
    assert!(complaints <= 3, "{:#?}", service.log_lines());
    service.stop();
    let counts = stage.queue.counts();
    assert_eq!((counts.deleted, counts.dead), (0, 0), "{counts:?}");

    let service = Service::start(&Server::Cluster.settings(&stage));
    service.wait_until("an empty queue", || stage.queue.is_empty());
    for customer in &customers {
        let key = Server::Cluster.key(Owner::customer(customer));
        assert!(stage.redis.get(&key).is_some(), "{key}");
    }
    assert_eq!(stage.queue.dead_letters(), [""; 0]);
    service.stop();
}

#[test]
fn a_cluster_that_lacks_the_slot_pauses_the_service_until_it_has_it() {
    let stage = Server::Cluster.stage();
    // The slot of {production} belongs to nobody now.
    stage.redis.command::<()>(&["CONFIG", "SET", "cluster-require-full-coverage", "no"]);
    stage.redis.command::<()>(&["CLUSTER", "DELSLOTSRANGE", "0", "16382"]);
    let service = Service::spawn(&Server::Cluster.settings(&stage));
    stage.queue.send(list(CUSTOMER, 1).raw());
    service.wait_for_complaint(&["Redis cannot be used", "CLUSTERDOWN"]);
    service.wait_until("/readyz to say 503", || service.get("/readyz").status == 503);
    stage.redis.command::<()>(&["CLUSTER", "ADDSLOTSRANGE", "0", "16382"]);
    service.wait_until("an empty queue", || stage.queue.is_empty());
    assert!(stage.redis.get(&Server::Cluster.key(CUSTOMER)).is_some());
    service.wait_until_ready();
    service.stop();
}

#[test]
fn a_database_other_than_0_on_a_cluster_is_reported_as_such() {
    let stage = Server::Cluster.stage();
    let service = Service::spawn(&Server::Cluster.settings(&stage).set("REDIS_DB", "1"));
    service.wait_for_complaint(&["REDIS_DB"]);
    assert_eq!(service.get("/readyz").status, 503);
    service.stop();
}

#[test]
fn the_prefix_check_and_a_boolean_list_need_no_second_slot() {
    // Nothing of ours may be in another slot than the prefix's: neither probes nor tombstones.
    let stage = Server::Cluster.stage();
    let service = Service::start(&Server::Cluster.settings(&stage));
    let short = State::new(CUSTOMER, hours_ago(1), &[boolean("feature-sso")]);
    deliver(&stage, &service, &[entitlements_updated(&short, Shape::Webhook), purge(CUSTOMER, hours_ago(0))]);
    let slot = |key: &str| stage.redis.command::<u32>(&["CLUSTER", "KEYSLOT", key]);
    let own = slot("{production}");
    for key in stage.redis.keys() {
        assert_eq!(slot(&key), own, "{key}");
    }
    assert_eq!(service.get("/readyz").status, 200);
    service.stop();
}

/// What `check` says about Redis. Nothing else fails on this stage.
fn checked(settings: &Settings, status: i32) -> String {
    let ended = run(settings, &["check"]);
    assert_eq!(ended.status, status, "{ended:?}");
    let of_redis: Vec<&str> = ended.stdout.lines().filter(|line| line.contains("  redis  ")).collect();
    of_redis.join("\n")
}

const REDIS_FAILS: i32 = 12;
/// Of STS and the Edge API, which this stage lacks.
const WARNINGS: i32 = 3;

#[test]
fn check_names_the_hash_tag_that_a_cluster_needs_before_it_writes() {
    let stage = Server::Cluster.stage();
    let proxy = RefusingRedis::start(stage.redis_address());
    let settings = Server::Cluster.settings(&stage).set("REDIS_PORT", proxy.port().to_string());
    let wrong = settings.clone().set("ENVIRONMENT_PREFIX", "production");
    // Whether the server says that it is a cluster, or refuses keys in different slots without saying why.
    for refusals in [vec![], vec![Refusal::of(&["INFO"], How::Error("ERR unknown command 'INFO'"))]] {
        proxy.refuse(&refusals);
        let told = checked(&wrong, REDIS_FAILS);
        assert!(told.contains("failure") && told.contains("ENVIRONMENT_PREFIX='{production}'"), "{told}");
        let commands: String = stage.redis.command(&["INFO", "commandstats"]);
        assert!(!commands.contains("cmdstat_set:"), "{commands}");
    }
    proxy.pass();
    let told = checked(&settings, WARNINGS);
    assert!(told.contains("cluster mode, and the prefix has a hash tag"), "{told}");
    assert!(!told.contains("failure") && !told.contains("warning"), "{told}");
    assert_eq!(stage.redis.keys(), [""; 0]);
    stage.queue.complaints();
}

#[test]
fn check_names_the_node_of_a_cluster_that_has_the_keys() {
    let stage = Server::Cluster.stage();
    let ((low, _), (high, bus)) = (cluster_node(), cluster_node());
    low.command::<()>(&["CLUSTER", "MEET", "127.0.0.1", &high.port.to_string(), &bus]);
    low.command::<()>(&["CLUSTER", "ADDSLOTSRANGE", "0", "8191"]);
    high.command::<()>(&["CLUSTER", "ADDSLOTSRANGE", "8192", "16383"]);
    wait_until_complete(&low);
    wait_until_complete(&high);
    let slot: u32 = low.command(&["CLUSTER", "KEYSLOT", "{production}"]);
    let (owner, other) = if slot < 8192 { (low, high) } else { (high, low) };
    let at = |node: &TestRedis| Server::Cluster.settings(&stage).set("REDIS_PORT", node.port.to_string());
    let told = checked(&at(&other), REDIS_FAILS);
    let address = format!("127.0.0.1:{}", owner.port);
    assert!(told.contains(&format!("MOVED {slot} {address}; another node")), "{told}");
    assert!(told.contains("REDIS_HOST and REDIS_PORT"), "{told}");
    let told = checked(&at(&owner), WARNINGS);
    assert!(!told.contains("failure"), "{told}");
    stage.queue.complaints();
}
