//! The real parts: a redis-server, the fake queue, two instances of the service.

use std::time::{Duration, Instant};

use fastrand::Rng;

use super::run::Variant;
use crate::fakes::queue::{Counts, FakeQueue, Faults, QueueOptions};
use crate::support::fake_stage::settings;
use crate::support::redis::TestRedis;
use crate::support::service::{Service, Settings};
use crate::support::wait::{PATIENCE, wait_for};

/// Malformed bodies are received so often; what can be read never is.
const RECEIVES_MAX: u32 = 10;
/// Longer than the service hides anything for.
const ALL_VISIBLE: Duration = Duration::from_mins(16);
/// So long the queue stands still before time is made to pass.
const STANDSTILL: Duration = Duration::from_millis(150);

pub struct Rig {
    pub redis: TestRedis,
    pub queue: FakeQueue,
    options: QueueOptions,
    variant: Variant,
    pub deletes_malformed: bool,
    /// The first lives all the time.
    services: Vec<Service>,
}

impl Rig {
    pub fn new(seed: u64, variant: Variant) -> Self {
        let options = QueueOptions {
            seed,
            max_receive_count: Some(RECEIVES_MAX),
            deny_attributes: seed.is_multiple_of(2),
            ..QueueOptions::default()
        };
        let mut rig = Self {
            redis: TestRedis::start(),
            queue: FakeQueue::start(options.clone()),
            options,
            variant,
            deletes_malformed: seed.is_multiple_of(3),
            services: Vec::new(),
        };
        let both = [Service::spawn(&rig.settings()), Service::spawn(&rig.settings())];
        for service in &both {
            service.wait_until_ready();
        }
        rig.services.extend(both);
        rig
    }

    fn settings(&self) -> Settings {
        settings(&self.redis, &self.queue, &self.options)
            .set("KEYS_TTL_IN_SECS", "600")
            .set("CONSUMERS", "3")
            .set("CACHE_UPDATE_POLICY", self.variant.policy)
            .set("CACHE_FORMAT", self.variant.format)
            .set("POISON_POLICY", if self.deletes_malformed { "delete" } else { "redrive" })
    }

    /// Kills the second instance (SIGKILL), or starts it again.
    pub fn kill_or_restart(&mut self) {
        if self.services.len() > 1 {
            self.services.truncate(1);
        } else {
            let service = Service::spawn(&self.settings());
            self.services.push(service);
        }
    }

    /// Other faults than before.
    pub fn change_faults(&self, rng: &mut Rng) {
        let mut share = |most: f64| if rng.bool() { rng.f64() * most } else { 0.0 };
        let faults = Faults {
            error_500: share(0.05),
            unavailable_503: share(0.03),
            throttled: share(0.03),
            hang: share(0.01),
            reset: share(0.05),
            answer_lost: share(0.1),
            duplicate: share(0.3),
            disorder: true,
            entry_fails: share(0.1),
            entry_fails_sender: share(0.05),
            slow: Some((share(0.1), Duration::from_millis(20))),
            answers_late: None,
        };
        self.queue.set_faults(faults);
    }

    /// Something happens to the connections to Redis, or to its memory of the scripts.
    pub fn shake_redis(&self, rng: &mut Rng) {
        match rng.u8(..3) {
            0 => {
                let _: u64 = self.redis.command(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
            }
            1 => self.redis.command::<()>(&["CLIENT", "PAUSE", "30", "WRITE"]),
            _ => self.redis.command::<()>(&["SCRIPT", "FLUSH"]),
        }
    }

    /// Lets the service work for a moment: until nothing is visible, or for so many questions to Redis.
    pub fn breathe(&self, questions: u32) {
        let mut connection = self.redis.connection();
        for _ in 0..questions {
            if self.queue.counts().visible == 0 {
                return;
            }
            redis::cmd("PING").exec(&mut connection).expect("redis answers");
        }
    }

    /// Ends the faults and waits until the queue is empty and nothing is in flight.
    pub fn drain(&self) {
        self.queue.set_faults(Faults { disorder: true, ..Faults::default() });
        let mut before = (Counts::default(), Instant::now());
        let drained = || {
            let counts = self.queue.counts();
            let is_empty = counts.visible + counts.in_flight == 0;
            if counts != before.0 {
                before = (counts, Instant::now());
            }
            if (is_empty || before.1.elapsed() > STANDSTILL) && self.in_flight() == 0.0 {
                if is_empty {
                    return Some(());
                }
                // What is in flight at no instance was lost on the way, or is hidden until its next try.
                self.queue.advance(ALL_VISIBLE);
                before.1 = Instant::now();
            }
            None
        };
        wait_for(PATIENCE, "an empty queue and nothing in flight", drained, || {
            let last: Vec<String> =
                self.services.iter().map(|service| service.log_lines().join("\n")).collect();
            format!("{:?}\n{}", self.queue.counts(), last.join("\n--- the second:\n"))
        });
    }

    fn in_flight(&self) -> f64 {
        let of = |service: &Service| {
            assert!(service.exit_status().is_none(), "it ended: {:?}", service.log_lines());
            // One that was just started may not listen yet: then nothing is known of it.
            let page = service.try_get("/metrics");
            page.map_or(f64::NAN, |page| {
                crate::support::http::Metrics::parse(&page.body).value("persistent_cache_in_flight_messages")
            })
        };
        self.services.iter().map(of).sum()
    }
}
