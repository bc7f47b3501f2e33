//! The run: everything is set up, messages are sent while all goes wrong, then the queue has to become empty and
//! every key is checked.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use fastrand::Rng;
use persistent_cache_service::shutdown::{Stop, stop_pair};

use crate::fakes::proxy::FaultProxy;
use crate::fakes::queue::{FakeQueue, QueueOptions};
use crate::fleet::{Fleet, QueueAccess};
use crate::journal::Journal;
use crate::redis_pair::RedisPair;
use crate::report::Report;
use crate::world::World;
use crate::{check, faults, watch};

/// Short, so that what a killed instance held comes again soon, and what waits for Redis comes twice.
const VISIBILITY_TIMEOUT: Duration = Duration::from_secs(10);
/// Messages between two checks of the queue.
const SENT_TOGETHER: usize = 250;
/// So few that the faults may end.
const NEARLY_EMPTY: u64 = 1_000;
/// The longest time without a delete, at the end: far more than any deadline of the service and the queue.
const PATIENCE: Duration = Duration::from_mins(2);

/// What is to be done.
#[derive(Debug)]
pub struct Plan {
    pub messages: u64,
    pub seconds: Option<u64>,
    pub seed: u64,
    pub instances: usize,
    pub waiting_at_most: u64,
}

/// Everything that all threads of the run share.
pub struct Stage {
    pub queue: FakeQueue,
    redis: Mutex<RedisPair>,
    pub proxies: Vec<FaultProxy>,
    pub fleet: Fleet,
    pub journal: Journal,
}

impl Stage {
    fn new(plan: &Plan) -> Self {
        let options = QueueOptions {
            seed: plan.seed,
            visibility_timeout: VISIBILITY_TIMEOUT,
            ..QueueOptions::default()
        };
        let queue = FakeQueue::start(options.clone());
        let redis = RedisPair::start();
        let proxies: Vec<FaultProxy> =
            (0..plan.instances).map(|_| FaultProxy::start(redis.address())).collect();
        let access = QueueAccess {
            url: queue.url(),
            region: options.region,
            access_key_id: options.access_key_id,
            secret_access_key: options.secret_access_key,
        };
        let fleet = Fleet::start(&access, &proxies);
        Self { queue, redis: Mutex::new(redis), proxies, fleet, journal: Journal::default() }
    }

    /// Redis, which stays as it is for as long as this is held.
    pub fn redis(&self) -> MutexGuard<'_, RedisPair> {
        self.redis.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn waiting(&self) -> u64 {
        let counts = self.queue.counts();
        counts.visible + counts.in_flight
    }

    /// Runs a thread's work; a panic of it is a failure of the run.
    fn reporting_panics(&self, work: impl FnOnce()) {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(work)) {
            let message = panic
                .downcast_ref::<String>()
                .cloned()
                .or_else(|| panic.downcast_ref::<&str>().map(|message| (*message).to_owned()));
            self.journal.fail(message.unwrap_or_else(|| "a panic".to_owned()));
        }
    }
}

/// Runs it, and reports the result.
pub fn run(plan: &Plan) -> Report {
    let stage = Stage::new(plan);
    let mut world = World::new(plan.seed);
    let keys: Vec<String> = world.keys.iter().map(|key| key.name.clone()).collect();
    let went_back = watch::WentBack::default();
    let started = Instant::now();
    let mut took = Duration::ZERO;
    std::thread::scope(|scope| {
        let (watching, watch_until) = stop_pair();
        let (disturbing, disturb_until) = stop_pair();
        let (stage, keys, went_back) = (&stage, &keys, &went_back);
        let until = watch_until.clone();
        scope.spawn(move || stage.reporting_panics(|| watch::for_stale(stage, keys, went_back, &until)));
        scope.spawn(move || stage.reporting_panics(|| watch::for_outages(stage, &watch_until)));
        stage.reporting_panics(|| {
            for subject in 0..world.subjects() {
                stage.queue.send(world.first(subject));
            }
            wait_until_left(stage, 0);
            // Each has numbers of its own, so that one does not shift the others.
            let mut seeds = Rng::with_seed(plan.seed ^ 0xC4A05);
            let mut disturbances = Vec::new();
            for disturb in [
                faults::kill_instances as fn(&Stage, &Stop, Rng),
                faults::disturb_redis,
                faults::disturb_queue,
            ] {
                let (random, until) = (seeds.fork(), disturb_until.clone());
                disturbances
                    .push(scope.spawn(move || stage.reporting_panics(|| disturb(stage, &until, random))));
            }
            send(stage, &mut world, plan);
            // What waits then is to meet faults too, unless the time is over.
            if plan.seconds.is_none() {
                wait_until_left(stage, NEARLY_EMPTY);
            }
            drop(disturbing);
            for disturbance in disturbances {
                let _ = disturbance.join();
            }
            wait_until_left(stage, 0);
        });
        took = started.elapsed();
        drop(watching);
    });
    stage.reporting_panics(|| {
        if let Err(ended) = stage.fleet.check() {
            stage.journal.fail(ended);
        }
    });
    let lost = check::lost(&stage.redis(), &world.keys);
    if !stage.journal.has_failed() {
        stage.reporting_panics(|| {
            if let Err(ended) = stage.fleet.stop() {
                stage.journal.fail(ended);
            }
        });
    }
    Report {
        seed: plan.seed,
        counts: stage.queue.counts(),
        dead_letters: stage.queue.dead_letters().len(),
        complaints: stage.queue.complaints(),
        keys: keys.len(),
        took,
        tallies: stage.journal.tallies(),
        longest_outage: stage.journal.longest_outage(),
        failures: stage.journal.failures(),
        lost,
        stale: went_back.found(),
    }
}

/// Sends until there is enough, or something has failed.
fn send(stage: &Stage, world: &mut World, plan: &Plan) {
    let started = Instant::now();
    let seconds = plan.seconds.map_or(Duration::MAX, Duration::from_secs);
    let mut left = plan.messages.saturating_sub(world.subjects() as u64);
    let never = Stop::never();
    while left > 0 && started.elapsed() < seconds && !stage.journal.has_failed() {
        if stage.waiting() >= plan.waiting_at_most {
            never.wait(Duration::from_millis(10));
            continue;
        }
        for _ in 0..SENT_TOGETHER.min(usize::try_from(left).unwrap_or(SENT_TOGETHER)) {
            stage.queue.send(world.next());
            left -= 1;
        }
    }
}

/// Waits until no more than so many messages are left, visible or in flight, or something has failed.
fn wait_until_left(stage: &Stage, at_most: u64) {
    let never = Stop::never();
    let mut deleted = 0;
    let mut went_on_at = Instant::now();
    while stage.waiting() > at_most && !stage.journal.has_failed() {
        never.wait(Duration::from_millis(20));
        let now = stage.queue.counts().deleted;
        if now != deleted {
            deleted = now;
            went_on_at = Instant::now();
        }
        if went_on_at.elapsed() > PATIENCE {
            stage.journal.fail(format!(
                "the queue did not become empty: no message was deleted for {PATIENCE:?}, {:?}\n{}",
                stage.queue.counts(),
                stage.fleet.last_words()
            ));
        }
    }
}
