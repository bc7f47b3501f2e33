//! What is sent to a Redis that answers as a test says.

use std::io::Write as _;
use std::os::unix::net::UnixListener;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use super::script::{Call, Step};
use super::*;
use crate::cache::{KeyWrite, UsageWrite};
use crate::clock::EpochMs;
use crate::config::{CacheUpdatePolicy, Expiry, RedisAddress, RedisConfig};
use crate::entitlement::{CustomerId, Subject};

/// Answers each command by its name.
struct ScriptedRedis {
    path: PathBuf,
    commands: Arc<Mutex<Vec<String>>>,
}

impl ScriptedRedis {
    fn start(answer: fn(&str) -> &'static str) -> Self {
        static STARTED: AtomicUsize = AtomicUsize::new(0);
        let number = STARTED.fetch_add(1, Ordering::SeqCst);
        let path = std::env::temp_dir().join(format!("pcs-scripted-{}-{number}", std::process::id()));
        let listener = UnixListener::bind(&path).unwrap();
        let commands = Arc::new(Mutex::new(Vec::new()));
        let heard = Arc::clone(&commands);
        let serve = move || {
            for mut stream in listener.incoming().map_while(Result::ok) {
                let mut parser = redis::Parser::new();
                while let Ok(command) = parser.parse_value(&mut stream) {
                    let command: Vec<String> = redis::from_redis_value(command).unwrap();
                    let reply = if command[0] == "PING" { "+PONG" } else { answer(&command[0]) };
                    heard.lock().unwrap().push(command[0].clone());
                    stream.write_all(format!("{reply}\r\n").as_bytes()).unwrap();
                }
            }
        };
        std::thread::Builder::new().spawn(serve).unwrap();
        Self { path, commands }
    }

    fn store(&self) -> RedisStore {
        let config = RedisConfig {
            address: RedisAddress::Unix(self.path.clone()),
            db: 0,
            username: None,
            password: None,
            iam: None,
            tls: None,
        };
        RedisStore::new(config, rules(), 2, None)
    }

    /// What came since the last time, but for new connections' greetings.
    fn commands(&self) -> Vec<String> {
        let mut commands = std::mem::take(&mut *self.commands.lock().unwrap());
        commands.retain(|command| command != "PING");
        commands
    }
}

impl Drop for ScriptedRedis {
    fn drop(&mut self) {
        std::fs::remove_file(&self.path).unwrap();
    }
}

fn rules() -> StoreRules {
    StoreRules {
        keyspace: Keyspace::new("p"),
        policy: CacheUpdatePolicy::Upsert,
        expiry: Expiry::Seconds(60),
    }
}

fn usage(number: usize) -> CacheChange {
    let subject = Subject { customer: CustomerId(format!("customer-{number}")), resource: None };
    let keyspace = Keyspace::new("p");
    let customer_key = keyspace.customer_key(&subject);
    CacheChange::WriteUsage(UsageWrite {
        locks: keyspace.reader_locks(&subject),
        write: KeyWrite {
            key: customer_key.clone(),
            value: r#"{"currentUsage":1}"#.to_owned(),
            timestamp: EpochMs(1),
        },
        customer_key,
    })
}

fn apply(store: &RedisStore) -> Result<Outcome, StoreError> {
    store.apply(&[(&usage(1), LockPatience::RESPECT)], &|| true)?.remove(0)
}

const WRITTEN: Outcome = Outcome::Applied { written: 1, stale: 0 };

#[test]
fn a_dry_run_writes_nothing_whatever_redis_answers() {
    let answers: [fn(&str) -> &'static str; 2] = [|_| "-INVENTED words", |_| "*1\r\n$14\r\nINVENTED words"];
    for answer in answers {
        let redis = ScriptedRedis::start(answer);
        let ran = redis.store().dry_run(&[&usage(1)]);
        let error = ran.and_then(|mut results| results.remove(0)).unwrap_err();
        assert!(error.message.contains("INVENTED words"), "{error}");
        let calls = redis.commands().len();
        assert!(calls <= 2, "EVALSHA and EVAL, and no probe: {calls}");
    }
}

#[test]
fn a_script_that_was_lost_is_sent_once() {
    static LOADED: AtomicUsize = AtomicUsize::new(0);
    let redis = ScriptedRedis::start(|name| match name {
        "EVAL" => {
            LOADED.fetch_add(1, Ordering::SeqCst);
            "*1\r\n:16"
        }
        _ if LOADED.load(Ordering::SeqCst) == 0 => "-NOSCRIPT No matching script",
        _ => "*1\r\n:16",
    });
    let store = redis.store();
    assert_eq!((apply(&store), apply(&store)), (Ok(WRITTEN), Ok(WRITTEN)));
    assert_eq!(redis.commands(), ["EVALSHA", "EVAL", "EVALSHA"]);
}

#[test]
fn a_server_that_refuses_evalsha_gets_the_source_and_is_asked_again_the_next_time() {
    let redis = ScriptedRedis::start(|name| if name == "EVALSHA" { "-INVENTED words" } else { "*1\r\n:16" });
    let store = redis.store();
    assert_eq!((apply(&store), apply(&store)), (Ok(WRITTEN), Ok(WRITTEN)));
    assert_eq!(redis.commands(), ["EVALSHA", "EVAL", "EVALSHA", "EVAL"]);
}

#[test]
fn a_connection_is_not_used_again_after_a_panic_since_replies_may_still_come() {
    let redis = ScriptedRedis::start(|_| "*1\r\n:16");
    let store = redis.store();
    assert_eq!(apply(&store), Ok(WRITTEN));
    let act = || store.connections.on_one(|_| -> Result<(), StoreError> { panic!("on purpose") });
    assert!(catch_unwind(AssertUnwindSafe(act)).is_err());
    assert_eq!(apply(&store), Ok(WRITTEN));
    let connections = redis.commands.lock().unwrap().iter().filter(|command| *command == "PING").count();
    assert_eq!(connections, 2);
}

#[test]
fn a_call_has_no_more_arguments_than_a_serverless_redis_takes() {
    let changes: Vec<CacheChange> = (0..1_000).map(usage).collect();
    let steps: Vec<Step<'_>> =
        changes.iter().map(|change| Step::Change(change, LockPatience::RESPECT)).collect();
    let mut done = 0;
    while done < steps.len() {
        let call = Call::of(&steps[done..]);
        let request = call.request("EVALSHA", "sha1", &rules(), false);
        let redis::Value::Array(arguments) = redis::parse_redis_value(&request).unwrap() else { panic!() };
        assert!((1..=3_903).contains(&arguments.len()));
        done += call.steps;
    }
    assert_eq!(done, steps.len());
}
