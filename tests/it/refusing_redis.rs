//! The Redis that refuses: it refuses what it was set to, and otherwise behaves like the server behind it.

use redis::{Commands, RedisResult};

use crate::fakes::refusing_redis::{How, Refusal, RefusingRedis};
use crate::support::redis::TestRedis;
use crate::support::wait::PATIENCE;

fn stage() -> (TestRedis, RefusingRedis) {
    let redis = TestRedis::start();
    let proxy = RefusingRedis::start(([127, 0, 0, 1], redis.port).into());
    (redis, proxy)
}

fn connection(proxy: &RefusingRedis) -> redis::Connection {
    let address = format!("redis://127.0.0.1:{}/", proxy.port());
    let connection = redis::Client::open(address)
        .and_then(|client| client.get_connection_with_timeout(PATIENCE))
        .expect("the proxy accepts");
    connection.set_read_timeout(Some(PATIENCE)).expect("a deadline");
    connection
}

fn set(connection: &mut redis::Connection, key: &str) -> RedisResult<()> {
    connection.set(key, "value")
}

#[test]
fn passes_every_form_of_an_answer_on() {
    let (_redis, proxy) = stage();
    let mut connection = connection(&proxy);
    set(&mut connection, "key").expect("a write");
    let answers: (String, Option<String>, i64, Vec<Option<String>>) = redis::pipe()
        .get("key")
        .get("no-key")
        .strlen("key")
        .mget(&["key", "no-key"])
        .query(&mut connection)
        .expect("answers");
    let value = Some("value".to_owned());
    assert_eq!(answers, ("value".into(), None, 5, vec![value, None]));
    let error = connection.hget::<_, _, String>("key", "field").unwrap_err();
    assert_eq!(error.code(), Some("WRONGTYPE"));
    assert_eq!((proxy.refused(), proxy.first_refused_at()), (0, None));
    assert_eq!(proxy.arguments_max(), 4, "CLIENT SETINFO name value");
}

#[test]
fn refuses_the_commands_that_it_was_set_to_and_no_others() {
    let (redis, proxy) = stage();
    let mut connection = connection(&proxy);
    proxy.refuse(&[Refusal {
        only_with: Some("unlucky"),
        ..Refusal::of(&["SET"], How::Error("QUOTA exceeded"))
    }]);
    let error = set(&mut connection, "key-unlucky").unwrap_err();
    assert_eq!((error.code(), error.detail()), (Some("QUOTA"), Some("exceeded")));
    set(&mut connection, "key-lucky").expect("a write");
    assert_eq!(redis.keys(), ["key-lucky"]);
    assert_eq!(proxy.refused(), 1);
    proxy.pass();
    set(&mut connection, "key-unlucky").expect("a write");
}

#[test]
fn closes_hangs_and_answers_by_half() {
    let (redis, proxy) = stage();
    for (how, reaches_the_server) in [(How::Close, false), (How::HalfAnswer, true)] {
        let mut connection = connection(&proxy);
        proxy.refuse(&[Refusal::of(&["SET"], how)]);
        assert!(set(&mut connection, "key").unwrap_err().is_io_error());
        assert_eq!(redis.get("key").is_some(), reaches_the_server);
    }
    let mut hanging = connection(&proxy);
    proxy.refuse(&[Refusal::of(&["SET"], How::Hang)]);
    std::thread::scope(|scope| {
        scope.spawn(|| assert!(set(&mut hanging, "another").unwrap_err().is_io_error()));
        crate::support::wait::wait_until(PATIENCE, "the write", || proxy.refused() == 3);
        proxy.pass();
    });
    assert_eq!(redis.get("another"), None);
}
