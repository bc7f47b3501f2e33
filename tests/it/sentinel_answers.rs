//! One of three sentinels is wrong, or silent: the service keeps the primary that works, and finds it in the first place.

use std::time::{Duration, Instant};

use crate::fakes::queue::QueueOptions;
use crate::fakes::refusing_redis::{How, Refusal, RefusingRedis};
use crate::support::at_once::run_at_once;
use crate::support::fake_stage::FakeStage;
use crate::support::messages::{Shape, entitlements_updated};
use crate::support::redis::TestRedis;
use crate::support::sdk::Owner;
use crate::support::sentinel::{MASTER, PASSWORD, TestSentinel, USER};
use crate::support::service::{Service, Settings};
use crate::support::stage::PREFIX;
use crate::support::state::{State, boolean, hours_ago};
use crate::support::tools::free_port;
use crate::support::wait::{PATIENCE, wait_for_every, wait_until};

/// The service asks every second.
const WATCHED_FOR: Duration = Duration::from_secs(10);
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// What is wrong with the sentinels, and with how many of the three.
struct Row {
    name: &'static str,
    how: How,
    /// The first ones of the list.
    wrong: usize,
    from_the_start: bool,
}

fn address(host: &str, port: u16) -> How {
    let port = port.to_string();
    let (host_length, port_length) = (host.len(), port.len());
    How::Answer(format!("*2\r\n${host_length}\r\n{host}\r\n${port_length}\r\n{port}\r\n").into_bytes())
}

fn answer(text: &str) -> How {
    How::Answer(text.as_bytes().to_vec())
}

/// What one sentinel may say; the service has a primary already, or looks for one.
fn rows(demoted: &TestRedis) -> Vec<Row> {
    let lies = || {
        [
            ("names an old primary that is gone", address("127.0.0.1", free_port())),
            ("names an old primary that is a replica now", address("127.0.0.1", demoted.port)),
            ("names a host that cannot be reached", address("192.0.2.1", 6379)),
            ("names a host that nobody knows", address("no-such-host.invalid", 6379)),
            ("does not know the primary", answer("*-1\r\n")),
            ("answers with a port that is none", answer("*2\r\n$9\r\n127.0.0.1\r\n$3\r\nxyz\r\n")),
            ("answers with a number", answer(":7\r\n")),
            ("answers with what is not Redis's protocol", answer("HTTP/1.1 400 Bad Request\r\n\r\n")),
            ("refuses in invented words", How::Error("QUOTA exceeded: an invented text")),
            ("hangs", How::Hang),
            ("closes the connection", How::Close),
        ]
    };
    let mut rows = Vec::new();
    for from_the_start in [false, true] {
        rows.extend(lies().map(|(name, how)| Row { name, how, wrong: 1, from_the_start }));
    }
    // With no sentinel left, a primary that works is still one.
    rows.push(Row {
        name: "closes the connection, like the other two",
        how: How::Close,
        wrong: 3,
        from_the_start: false,
    });
    rows
}

fn message(customer: &str) -> String {
    let state = State::new(Owner::customer(customer), hours_ago(1), &[boolean("feature-sso")]);
    entitlements_updated(&state, Shape::GraphqlV2).raw()
}

fn settings(base: &FakeStage, sentinels: &[RefusingRedis]) -> Settings {
    let sentinels: Vec<String> =
        sentinels.iter().map(|sentinel| format!("127.0.0.1:{}", sentinel.port())).collect();
    base.settings()
        .unset("REDIS_HOST")
        .unset("REDIS_PORT")
        .set("REDIS_SENTINELS", sentinels.join(","))
        .set("REDIS_SENTINEL_MASTER", MASTER)
        .set("REDIS_SENTINEL_USERNAME", USER)
        .set("REDIS_SENTINEL_PASSWORD", PASSWORD)
}

fn run(row: &Row, sentinel: &TestSentinel) {
    let base = FakeStage::new(QueueOptions::default());
    // Each has a primary of its own; the proxies say so in the sentinel's place.
    let truth = Refusal::of(&["SENTINEL"], address("127.0.0.1", base.redis.port));
    let sentinels = [0, 1, 2].map(|_| RefusingRedis::start(([127, 0, 0, 1], sentinel.port).into()));
    for sentinel in &sentinels {
        sentinel.refuse(std::slice::from_ref(&truth));
    }
    let begin = || {
        for sentinel in &sentinels[..row.wrong] {
            sentinel.refuse(&[Refusal::of(&["SENTINEL"], row.how.clone())]);
        }
    };
    if row.from_the_start {
        begin();
    }
    let service = Service::start(&settings(&base, &sentinels));
    base.queue.send(message("customer-before"));
    service.wait_until("an empty queue", || base.queue.is_empty());
    let lines_before = service.log_lines().len();
    begin();

    let (began, mut sent) = (Instant::now(), 0);
    let look = || {
        let lines = || service.log_lines().split_off(lines_before);
        assert_eq!(service.get("/readyz").status, 200, "the primary works: {:#?}", lines());
        if began.elapsed() > Duration::from_secs(sent) {
            base.queue.send(message(&format!("customer-{sent}")));
            sent += 1;
        }
        (began.elapsed() > WATCHED_FOR).then_some(())
    };
    wait_for_every(LOOK_EVERY, PATIENCE, "the end of the watch", look, String::new);
    wait_until(PATIENCE, "an empty queue", || base.queue.is_empty());
    for number in 0..sent {
        let key = Owner::customer(&format!("customer-{number}")).key(PREFIX);
        assert!(base.redis.get(&key).is_some(), "{key}");
    }
    assert_eq!(base.queue.counts().redelivered, 0);
    let lines = service.log_lines().split_off(lines_before);
    assert!(lines.len() <= 3, "{lines:#?}");
    service.stop();
}

#[test]
fn of_one_of_three_sentinels_that_is_wrong_take_nothing_from_a_primary_that_works() {
    let primary = TestRedis::start();
    let demoted = TestRedis::start();
    demoted.command::<()>(&["REPLICAOF", "127.0.0.1", &primary.port.to_string()]);
    let sentinel = TestSentinel::of(&primary);
    let name = |row: &Row| {
        let when = if row.from_the_start { "from the start" } else { "midway" };
        format!("{}, {when}", row.name)
    };
    run_at_once(&rows(&demoted), name, |row| run(row, &sentinel));
    assert_eq!(demoted.keys(), [""; 0]);
}
