//! A Redis that refuses: whatever it says, and whichever commands it refuses, no message is given up.
//!
//! Each row has a Redis, a queue with a dead-letter rule, a service and a proxy of its own, and the rows of a table
//! run at the same time. A refusal that leaves no way to write pauses the service; one that leaves a way is survived.

mod rows;

use std::time::{Duration, Instant};

use redis::Commands;

use crate::fakes::queue::QueueOptions;
use crate::fakes::refusing_redis::RefusingRedis;
use crate::support::at_once::run_at_once;
use crate::support::fake_stage::FakeStage;
use crate::support::messages::{Shape, credit_balance, entitlements_updated, purge, usage_updated};
use crate::support::redis::{RedisOptions, TestRedis};
use crate::support::sdk::Owner;
use crate::support::service::Service;
use crate::support::stage::PREFIX;
use crate::support::state::{State, boolean, hours_ago, metered};
use crate::support::wait::wait_for_every;

use rows::{Outcome, Refused, Row};

/// How long a refusal that pauses the service lasts: twice as long as it takes to give up a message that is not deleted and not
/// hidden for longer.
const REFUSED_FOR: Duration = Duration::from_secs(18);
/// How long the others are watched.
const WATCHED_FOR: Duration = Duration::from_secs(10);
/// From the first refused write on, /readyz may be wrong for so long.
const NOTICED_WITHIN: Duration = Duration::from_secs(10);
/// From the end of a refusal until everything is written.
const RECOVERED_WITHIN: Duration = Duration::from_secs(30);
/// A row may log so much while its refusal lasts.
const LINES_MAX: usize = 3;
/// Many rows look at once.
const LOOK_EVERY: Duration = Duration::from_millis(250);

#[test]
fn of_writes_pauses_the_service_whatever_the_text_is() {
    run_at_once(&rows::of_writes(), |row| row.name.to_owned(), run);
}

#[test]
fn of_all_commands_or_of_new_connections_pauses_the_service() {
    run_at_once(&rows::of_connections(), |row| row.name.to_owned(), run);
}

#[test]
fn of_some_commands_is_survived_where_others_do() {
    run_at_once(&rows::of_single_commands(), |row| row.name.to_owned(), run);
}

#[test]
fn by_a_redis_that_was_set_up_so_gives_no_message_up() {
    run_at_once(&rows::by_the_server_itself(), |row| row.name.to_owned(), run);
}

/// What a message does to Redis, seen from outside.
enum Effect {
    Present(String),
    Absent(String),
    Usage(String, i64),
}

impl Effect {
    fn is_there(&self, redis: &mut redis::Connection) -> bool {
        let (Self::Present(key) | Self::Absent(key) | Self::Usage(key, _)) = self;
        let value: Option<String> = redis.get(key).expect("redis answers");
        match self {
            Self::Absent(_) => value.is_none(),
            Self::Present(_) => value.is_some(),
            Self::Usage(_, usage) => {
                value.is_some_and(|value| value.contains(&format!("\"currentUsage\":{usage}")))
            }
        }
    }
}

/// A customer with a metered feature, true two hours ago.
fn cached(customer: &str) -> State {
    State::new(
        Owner::customer(customer),
        hours_ago(2),
        &[metered("feature-calls", 1_000, 1), boolean("feature-sso")],
    )
}

fn key_of(customer: &str) -> String {
    Owner::customer(customer).key(PREFIX)
}

/// Customers that later messages change.
fn baseline() -> (Vec<String>, Vec<Effect>) {
    ["customer-metered", "customer-purged-0", "customer-purged-1"]
        .iter()
        .map(|customer| {
            let list = entitlements_updated(&cached(customer), Shape::GraphqlV2);
            (list.raw(), Effect::Present(key_of(customer)))
        })
        .unzip()
}

/// Ten messages of every kind. `number` identifies the batch: 0 or 1.
fn batch(number: i64) -> (Vec<String>, Vec<Effect>) {
    let metered = cached("customer-metered");
    let at = hours_ago(1) + number;
    let purged = format!("customer-purged-{number}");
    let usage = 100 + number;
    let mut messages = vec![
        (
            usage_updated(&metered, "feature-calls", usage, at, Shape::Webhook),
            Effect::Usage(format!("{}:f_feature-calls", key_of("customer-metered")), usage),
        ),
        (
            credit_balance(metered.owner(), "credit-ai", usage, at),
            Effect::Usage(format!("{}:credit_credit-ai", key_of("customer-metered")), usage),
        ),
        (purge(Owner::customer(&purged), at), Effect::Absent(key_of(&purged))),
    ];
    messages.extend((0..7).map(|index| {
        let customer = format!("customer-{number}-{index}");
        let list = entitlements_updated(&cached(&customer), Shape::GraphqlV2);
        (list, Effect::Present(key_of(&customer)))
    }));
    messages.into_iter().map(|(message, effect)| (message.raw(), effect)).unzip()
}

struct Stage<'a> {
    row: &'a Row,
    base: FakeStage,
    proxy: RefusingRedis,
    service: Service,
    began_at: Instant,
    /// Lines of the log before the refusal.
    lines_before: usize,
}

fn run(row: &Row) {
    let redis = TestRedis::start_with(RedisOptions {
        password: row.password.map(str::to_owned),
        arguments: row.arguments.to_vec(),
        ..RedisOptions::default()
    });
    let base = FakeStage::with_redis(
        redis,
        QueueOptions {
            visibility_timeout: Duration::from_secs(3),
            max_receive_count: Some(3),
            ..QueueOptions::default()
        },
    );
    let proxy = RefusingRedis::start(base.redis_address());
    let mut settings =
        base.settings().set("REDIS_PORT", proxy.port().to_string()).set("REDIS_DB", row.database);
    if let Some(password) = row.password {
        settings = settings.set("REDIS_PASSWORD", password);
    }
    let mut stage = Stage {
        row,
        base,
        proxy,
        service: Service::start(&settings),
        began_at: Instant::now(),
        lines_before: 0,
    };
    stage.deliver(baseline(), "before the refusal");

    stage.lines_before = stage.service.log_lines().len();
    stage.begin();
    let (bodies, effects) = batch(0);
    stage.send(bodies);
    match row.outcome {
        Outcome::Pauses => stage.is_paused(),
        Outcome::Writes => stage.goes_on(&effects),
        Outcome::EitherWay => stage.is_not_wrong(&effects),
    }
    stage.end();
    stage.is_written(&effects, "what was sent during the refusal");
    stage.deliver(batch(1), "after the refusal");
    if row.outcome == Outcome::Pauses {
        let back = stage.lines_that_say("Redis recovered after");
        assert_eq!(back.len(), 1, "one outage ends once: {back:#?}");
    }
    stage.service.stop();
}

impl Stage<'_> {
    fn begin(&mut self) {
        self.began_at = Instant::now();
        match self.row.refused {
            Refused::ByProxy(ref refusals) => {
                self.proxy.refuse(refusals);
                if self.row.begins_with_new_connections {
                    self.proxy.cut();
                }
            }
            Refused::ByServer { begin, .. } => begin(&self.base.redis),
        }
        if self.row.forgets_scripts {
            self.base.redis.command::<()>(&["SCRIPT", "FLUSH"]);
        }
    }

    fn end(&self) {
        match self.row.refused {
            Refused::ByProxy(_) => self.proxy.pass(),
            Refused::ByServer { end, .. } => end(&self.base.redis),
        }
    }

    fn send(&self, bodies: Vec<String>) {
        for body in bodies {
            self.base.queue.send(body);
        }
    }

    fn deliver(&self, (bodies, effects): (Vec<String>, Vec<Effect>), when: &str) {
        self.send(bodies);
        self.is_written(&effects, when);
    }

    /// Waits until all of it is in Redis and gone from the queue, and /readyz says so.
    fn is_written(&self, effects: &[Effect], when: &str) {
        let what = format!("everything written, deleted and ready, {when}");
        self.wait_until(RECOVERED_WITHIN, &what, || {
            self.base.queue.is_empty() && self.is_there(effects) && self.readiness() == 200
        });
    }

    fn is_there(&self, effects: &[Effect]) -> bool {
        let mut redis = self.base.redis.connection();
        let select = redis::cmd("SELECT").arg(self.row.database).exec(&mut redis);
        select.expect("a database");
        effects.iter().all(|effect| effect.is_there(&mut redis))
    }

    /// Nothing can be written: the service says so, and waits.
    fn is_paused(&self) {
        self.wait_until(NOTICED_WITHIN, "/readyz to say 503", || self.readiness() == 503);
        for text in self.row.says {
            let what = format!("a line that says '{text}'");
            self.wait_until(NOTICED_WITHIN, &what, || !self.lines_that_say(text).is_empty());
        }
        self.watch(REFUSED_FOR, || {
            assert_eq!(self.readiness(), 503, "nothing can be written: {:#?}", self.lines());
        });
    }

    /// There is another way to write: it is taken.
    fn goes_on(&self, effects: &[Effect]) {
        self.is_written(effects, "in spite of the refusal");
        self.watch(WATCHED_FOR, || {
            assert_eq!(self.readiness(), 200, "all is written: {:#?}", self.lines());
        });
    }

    /// What is written is said to be ready, and what is not is kept.
    fn is_not_wrong(&self, effects: &[Effect]) {
        let mut unwritten_since = None;
        self.watch(REFUSED_FOR, || {
            let is_wrong = self.readiness() == 200 && !self.is_there(effects);
            let since = *unwritten_since.get_or_insert_with(Instant::now);
            if !is_wrong {
                unwritten_since = None;
            }
            assert!(since.elapsed() < NOTICED_WITHIN, "ready, and nothing is written: {:#?}", self.lines());
        });
    }

    /// Looks again and again, until so long after the refusal began.
    fn watch(&self, until: Duration, look: impl FnMut()) {
        let mut look = look;
        wait_for_every(
            LOOK_EVERY,
            until + Duration::from_secs(10),
            "the end of the watch",
            || {
                self.is_kept();
                look();
                (self.began_at.elapsed() > until).then_some(())
            },
            String::new,
        );
        assert!(
            self.lines().len() <= LINES_MAX,
            "{} lines in {until:?}: {:#?}",
            self.lines().len(),
            self.lines()
        );
    }

    /// Nothing was given up, and the service runs.
    fn is_kept(&self) {
        let counts = self.base.queue.counts();
        assert_eq!(counts.dead, 0, "dead letters: {counts:?} {:#?}", self.lines());
        let ended = self.service.exit_status();
        assert!(ended.is_none(), "the service ended: {ended:?}");
    }

    fn wait_until(&self, deadline: Duration, what: &str, mut condition: impl FnMut() -> bool) {
        let look = || {
            self.is_kept();
            condition().then_some(())
        };
        let otherwise = || {
            format!(
                "/readyz {}, {:?}, {} refused, log: {:#?}",
                self.readiness(),
                self.base.queue.counts(),
                self.proxy.refused(),
                self.lines()
            )
        };
        wait_for_every(LOOK_EVERY, deadline, what, look, otherwise);
    }

    fn readiness(&self) -> u16 {
        self.service.get("/readyz").status
    }

    /// What it has logged since the refusal began.
    fn lines(&self) -> Vec<String> {
        self.service.log_lines().split_off(self.lines_before)
    }

    fn lines_that_say(&self, text: &str) -> Vec<String> {
        let mut lines = self.lines();
        lines.retain(|line| line.contains(text));
        lines
    }
}
