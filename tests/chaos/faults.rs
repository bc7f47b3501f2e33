//! What is done to the service: kills, Redis, the network before Redis, the queue. Each kind from a deck of its own
//! that is shuffled by the seed, so that a short run meets every kind too.

use std::time::Duration;

use fastrand::Rng;
use persistent_cache_service::shutdown::Stop;

use crate::fakes::proxy::{FaultProxy, Mode};
use crate::fakes::queue::Faults;
use crate::run::Stage;

/// The first is the shortest time, the second the longest.
type Span = (u64, u64);

const BETWEEN_KILLS_MS: Span = (1_500, 4_000);
const BETWEEN_REDIS_FAULTS_MS: Span = (1_000, 4_000);
const REDIS_DOWN_MS: Span = (100, 3_000);
/// How long the name still leads to the old primary after a failover.
const NAME_FOLLOWS_MS: Span = (0, 3_000);
const NETWORK_FAULT_MS: Span = (500, 6_000);
const QUEUE_WEATHER_MS: Span = (2_000, 6_000);

fn within(random: &mut Rng, (from, to): Span) -> Duration {
    Duration::from_millis(random.u64(from..=to))
}

/// Cards that come in an order by the seed, each as often as it is in the deck.
struct Deck<T: 'static> {
    cards: &'static [T],
    left: Vec<&'static T>,
}

impl<T> Deck<T> {
    fn of(cards: &'static [T]) -> Self {
        Self { cards, left: Vec::new() }
    }

    fn draw(&mut self, random: &mut Rng) -> &'static T {
        if self.left.is_empty() {
            self.left = self.cards.iter().collect();
            random.shuffle(&mut self.left);
        }
        self.left.pop().expect("a deck has cards")
    }
}

pub const KILL: &str = "instance killed (-9)";

/// Kills an instance every few seconds. It is started again at once.
pub fn kill_instances(stage: &Stage, stop: &Stop, mut random: Rng) {
    while !stop.wait(within(&mut random, BETWEEN_KILLS_MS)) {
        let index = random.usize(..stage.fleet.len());
        if let Err(ended) = stage.journal.during(KILL, || stage.fleet.kill(index)) {
            stage.journal.fail(ended);
        }
    }
}

#[derive(Clone, Copy)]
enum RedisFault {
    Restart,
    FailOver,
    Network,
}

pub const RESTART: &str = "Redis killed (-9) and started again";
pub const FAILOVER: &str = "Redis failed over";

/// One fault of Redis, or of the network before it, after the other.
pub fn disturb_redis(stage: &Stage, stop: &Stop, mut random: Rng) {
    use RedisFault::{FailOver, Network, Restart};
    let mut deck = Deck::of(&[Restart, FailOver, Network, Network, Network, Network]);
    let mut network = Deck::of(&NETWORK_FAULTS);
    while !stop.wait(within(&mut random, BETWEEN_REDIS_FAULTS_MS)) {
        match deck.draw(&mut random) {
            Restart => restart_redis(stage, stop, &mut random),
            FailOver => fail_over_redis(stage, stop, &mut random),
            Network => {
                let fault = network.draw(&mut random);
                disturb_network(stage, stop, &mut random, fault);
            }
        }
    }
}

fn restart_redis(stage: &Stage, stop: &Stop, random: &mut Rng) {
    let down = within(random, REDIS_DOWN_MS);
    // Held: no other thread calls a Redis that is not running.
    let mut redis = stage.redis();
    redis.wait_until_durable();
    stage.journal.during(RESTART, || {
        redis.kill_primary();
        stop.wait(down);
        redis.start_primary();
    });
}

/// The old primary stays as a replica, and open connections stay with it. The name follows a little later.
fn fail_over_redis(stage: &Stage, stop: &Stop, random: &mut Rng) {
    let follows = within(random, NAME_FOLLOWS_MS);
    let mut redis = stage.redis();
    redis.wait_until_in_step();
    let fail_over = || {
        let has_moved = redis.fail_over();
        let address = redis.address();
        drop(redis);
        if has_moved {
            stop.wait(follows);
            stage.proxies.iter().for_each(|proxy| proxy.retarget(address));
        }
        has_moved
    };
    if !stage.journal.during(FAILOVER, fail_over) {
        // The replica did not get everything in time, and they stay as they were.
        stage.journal.rename_latest(FAILOVER, "Redis gave up a failover");
    }
}

#[derive(Clone, Copy)]
struct NetworkFault {
    name: &'static str,
    act: NetworkAct,
}

#[derive(Clone, Copy)]
enum NetworkAct {
    Cut,
    Reset,
    Become(Mode),
}

const NETWORK_FAULTS: [NetworkFault; 8] = [
    network("connections to Redis cut", NetworkAct::Cut),
    network("connections to Redis reset", NetworkAct::Reset),
    network("Redis refuses connections", NetworkAct::Become(Mode::Refuse)),
    network("network to Redis stalls", NetworkAct::Become(Mode::Stall)),
    network("connections to Redis half-open", NetworkAct::Become(Mode::HalfOpen)),
    network("answers of Redis drip", NetworkAct::Become(Mode::Drip { bytes_per_sec: 200 })),
    network("answers of Redis cut in the middle", NetworkAct::Become(Mode::CutAfter { bytes: 1_234 })),
    network("answers of Redis reset in the middle", NetworkAct::Become(Mode::ResetAfter { bytes: 777 })),
];

const fn network(name: &'static str, act: NetworkAct) -> NetworkFault {
    NetworkFault { name, act }
}

/// Between Redis and one instance, or all of them.
fn disturb_network(stage: &Stage, stop: &Stop, random: &mut Rng, fault: &NetworkFault) {
    let lasts = within(random, NETWORK_FAULT_MS);
    let chosen = random.usize(..stage.proxies.len());
    let everywhere = random.u8(..3) == 0;
    let proxies: Vec<&FaultProxy> = stage
        .proxies
        .iter()
        .enumerate()
        .filter(|(index, _)| everywhere || *index == chosen)
        .map(|(_, proxy)| proxy)
        .collect();
    stage.journal.during(fault.name, || match fault.act {
        NetworkAct::Cut => proxies.iter().for_each(|proxy| proxy.cut()),
        NetworkAct::Reset => proxies.iter().for_each(|proxy| proxy.reset()),
        NetworkAct::Become(mode) => {
            for proxy in &proxies {
                proxy.set(mode);
            }
            stop.wait(lasts);
            for proxy in &proxies {
                proxy.set(Mode::Pass);
            }
        }
    });
}

/// There is always a little of everything.
pub fn fair_weather() -> Faults {
    Faults {
        error_500: 0.01,
        unavailable_503: 0.01,
        throttled: 0.01,
        hang: 0.001,
        reset: 0.005,
        answer_lost: 0.01,
        duplicate: 0.02,
        disorder: true,
        entry_fails: 0.01,
        entry_fails_sender: 0.0005,
        slow: Some((0.02, Duration::from_millis(200))),
        answers_late: None,
    }
}

struct Weather {
    name: &'static str,
    worsen: fn(Faults) -> Faults,
}

/// What the queue's faults are at a time.
const WEATHER: [Weather; 8] = [
    Weather { name: "queue: a little of everything", worsen: |fair| fair },
    Weather {
        name: "queue: many errors (500, 503, throttling)",
        worsen: |fair| Faults { error_500: 0.1, unavailable_503: 0.1, throttled: 0.1, ..fair },
    },
    Weather {
        name: "queue: answers nothing but 503",
        worsen: |fair| Faults { unavailable_503: 1.0, ..fair },
    },
    Weather { name: "queue: calls hang", worsen: |fair| Faults { hang: 0.02, ..fair } },
    Weather {
        name: "queue: resets, lost answers",
        worsen: |fair| Faults { reset: 0.1, answer_lost: 0.1, ..fair },
    },
    Weather { name: "queue: many duplicates", worsen: |fair| Faults { duplicate: 0.3, ..fair } },
    Weather {
        name: "queue: batches half fail",
        worsen: |fair| Faults { entry_fails: 0.4, entry_fails_sender: 0.01, ..fair },
    },
    Weather {
        name: "queue: slow",
        worsen: |fair| Faults { slow: Some((0.3, Duration::from_millis(500))), ..fair },
    },
];

/// Changes the queue's faults every few seconds. There are always some, at the end too.
pub fn disturb_queue(stage: &Stage, stop: &Stop, mut random: Rng) {
    let mut deck = Deck::of(&WEATHER);
    while !stop.is_stopped() {
        let weather = deck.draw(&mut random);
        let lasts = within(&mut random, QUEUE_WEATHER_MS);
        stage.journal.during(weather.name, || {
            stage.queue.set_faults((weather.worsen)(fair_weather()));
            stop.wait(lasts);
        });
    }
    stage.queue.set_faults(fair_weather());
}
