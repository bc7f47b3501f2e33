//! The published Stigg SDK for Node, in Redis mode: what it reads is right by definition.
//!
//! One node process serves the whole test binary; each client in it has a stub of Stigg's API of its own, which
//! writes down every call.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::process::ChildStdin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use serde_json::{Value, json};

use super::child::{Process, thread};
use super::redis::TestRedis;
use super::state::State;
use super::tools::{repository_file, system_program, tool};
use super::wait::PATIENCE;

type Pending = Arc<Mutex<HashMap<u64, Sender<Result<Value, String>>>>>;

struct Driver {
    stdin: Mutex<ChildStdin>,
    pending: Pending,
    next_id: AtomicU64,
    process: Process,
}

static DRIVER: LazyLock<Driver> = LazyLock::new(|| {
    let script = repository_file("tests/sdk/driver.mjs").display().to_string();
    let modules = tool("sdk").display().to_string();
    let node = system_program("node");
    let (process, stdin, stdout) = Process::start_with_pipes("sdk-driver", &node, &[&script, &modules], &[]);
    let pending: Pending = Arc::default();
    let answers = Arc::clone(&pending);
    thread("sdk-answers", move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            let answer: Value = serde_json::from_str(&line).expect("the driver speaks JSON");
            let id = answer["id"].as_u64().expect("an answer has an id");
            let result = match answer.get("error") {
                Some(error) => Err(error.to_string()),
                None => Ok(answer["ok"].clone()),
            };
            if let Some(waiting) = answers.lock().unwrap().remove(&id) {
                let _ = waiting.send(result);
            }
        }
        // The driver is gone: nobody who waits will get an answer.
        answers.lock().unwrap().clear();
    });
    Driver { stdin: Mutex::new(stdin), pending, next_id: AtomicU64::new(1), process }
});

fn call(mut request: Value) -> Value {
    let id = DRIVER.next_id.fetch_add(1, Ordering::Relaxed);
    request["id"] = json!(id);
    let (reply, answer) = channel();
    DRIVER.pending.lock().unwrap().insert(id, reply);
    let written = writeln!(DRIVER.stdin.lock().unwrap(), "{request}");
    let what = request["op"].to_string();
    let result = match (written, answer.recv_timeout(PATIENCE)) {
        (Ok(()), Ok(result)) => result,
        (written, answer) => {
            panic!(
                "no answer from the SDK to {what} ({written:?}, {answer:?})\n{}",
                DRIVER.process.last_words()
            )
        }
    };
    result.unwrap_or_else(|error| panic!("the SDK driver failed at {what}: {error}"))
}

/// One SDK client. Closed when dropped.
pub struct Sdk(u64);

/// What is asked of the SDK.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Boolean,
    Numeric,
    Metered,
    Enum,
}

/// Whose entitlements.
#[derive(Debug, Clone, Copy)]
pub struct Owner<'a> {
    pub customer: &'a str,
    pub resource: Option<&'a str>,
}

/// The customer of most stories, and a resource of it.
pub const CUSTOMER: Owner = Owner { customer: "customer-1", resource: None };
pub const RESOURCE: Owner = Owner { customer: "customer-1", resource: Some("site-1") };

impl Sdk {
    /// A client that reads and writes this Redis under this prefix.
    pub fn open(redis: &TestRedis, prefix: &str) -> Self {
        Self::open_with(redis, prefix, Duration::from_secs(5))
    }

    /// The same, which waits this long for one answer of the API.
    pub fn open_with(redis: &TestRedis, prefix: &str, timeout: Duration) -> Self {
        let options = json!({"host": "127.0.0.1", "port": redis.port, "environmentPrefix": prefix});
        let timeout = u64::try_from(timeout.as_millis()).expect("a short time");
        Self(call(json!({"op": "open", "redis": options, "timeout": timeout})).as_u64().expect("a client"))
    }

    fn ask(&self, operation: &str, mut request: Value) -> Value {
        request["op"] = json!(operation);
        request["client"] = json!(self.0);
        call(request)
    }

    /// The API stub answers with this state, for its customer and resource.
    pub fn serve(&self, state: &State) {
        let request = json!({
            "customerId": state.customer,
            "resourceId": state.resource,
            "entitlements": state.entitlements,
        });
        self.ask("serve", request);
    }

    /// The API stub keeps its answers back from now on, until [`Self::release`]. They are of the state that was served
    /// when the question came.
    pub fn hold(&self) {
        self.ask("hold", json!({}));
    }

    /// The API stub sends what it kept back.
    pub fn release(&self) {
        self.ask("release", json!({}));
    }

    /// The API stub refuses every call from now on; the calls so far are forgotten.
    pub fn refuse(&self) {
        self.ask("refuse", json!({}));
    }

    /// The calls of the API since, one line each.
    pub fn calls(&self) -> Vec<String> {
        let calls = self.ask("calls", json!({}));
        calls
            .as_array()
            .expect("a list")
            .iter()
            .map(|call| call.as_str().expect("a text").to_owned())
            .collect()
    }

    /// What the SDK logged as an error.
    pub fn errors(&self) -> Value {
        self.ask("errors", json!({}))
    }

    /// `getEntitlements`.
    pub fn entitlements(&self, owner: Owner) -> Value {
        self.ask("entitlements", json!({"customerId": owner.customer, "resourceId": owner.resource}))
    }

    /// `getBooleanEntitlement`, `getNumericEntitlement` …
    pub fn entitlement(&self, kind: Kind, owner: Owner, feature: &str) -> Value {
        self.entitlement_for(kind, owner, feature, &Value::Null)
    }

    /// The same with options (`requestedUsage`, `requestedValues`).
    pub fn entitlement_for(&self, kind: Kind, owner: Owner, feature: &str, options: &Value) -> Value {
        let request = json!({
            "kind": format!("{kind:?}"),
            "customerId": owner.customer,
            "resourceId": owner.resource,
            "featureId": feature,
            "options": options,
        });
        self.ask("entitlement", request)
    }

    /// Lets the SDK fetch this state from its API and write it to Redis, as a cache miss does; the API refuses
    /// from then on.
    pub fn cache(&self, states: &[&State]) {
        for state in states {
            self.serve(state);
        }
        for state in states {
            self.entitlements(state.owner());
        }
        self.refuse();
    }
}

/// What the SDK's own cache in memory makes of a list of entries when a credit balance comes.
pub fn under_balance(entries: &Value, currency: &str, left: i64, valid_until: Option<i64>) -> Value {
    let mut balance = json!({"currencyId": currency, "currentBalance": left});
    if let Some(valid_until) = valid_until {
        balance["validUntil"] = json!(valid_until);
    }
    call(json!({"op": "underBalance", "entries": entries, "balance": balance}))
}

/// Whether ioredis takes a server with these TLS options: `host`, `port`, `ca`, `cert`, `key` (paths), `insecure`. Why not, if
/// it does not.
pub fn ioredis_connects(mut options: Value) -> Result<(), String> {
    options["op"] = json!("tls");
    let why = call(options);
    if why.is_null() { Ok(()) } else { Err(why.to_string()) }
}

impl Drop for Sdk {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.ask("close", json!({}));
        }
    }
}
