//! One run of one seed.

use std::time::{Duration, Instant};

use fastrand::Rng;
use persistent_cache_service::clock;

use super::cache::{Cache, look};
use super::expectation::differences;
use super::origin::Origin;
use super::reader::Reader;
use super::rig::Rig;
use super::truth::{Subject, Truth};
use crate::support::wait::{PATIENCE, wait_until};

/// How the service is set up.
#[derive(Debug, Clone, Copy)]
pub struct Variant {
    pub policy: &'static str,
    pub format: &'static str,
}

/// Times the queue is emptied and looked at.
const PHASES: u64 = 4;
/// Steps between two looks.
const STEPS: u64 = 120;
/// One seed in so many has refetches that take seconds, in one of its phases.
pub const SLOW_EVERY: u64 = 6;
/// Readers in such a phase whose refetch takes that long.
const SLOW_READERS: usize = 4;
/// Changes while one of them is waited for.
const STEPS_A_SLOW_READER: u32 = 15;
/// The origin's clock begins so long ago: what it says is plausible, and in the past, for as long as a run may take.
const BEGINS_MS_AGO: i64 = 30 * 60_000;
/// Lines of a subject's history that a failure prints.
const LAST_LINES: usize = 40;

/// Some of its readers refetch for seconds.
pub fn is_slow(seed: u64) -> bool {
    seed.is_multiple_of(SLOW_EVERY)
}

/// Runs a seed; panics with it and what differs.
pub fn run(seed: u64, variant: Variant) {
    let mut run = Run {
        seed,
        variant,
        rig: Rig::new(seed, variant),
        origin: Origin::new(clock::now().0 - BEGINS_MS_AGO),
        readers: Vec::new(),
        slow_readers: 0,
        before: Cache::default(),
    };
    for phase in 0..PHASES {
        run.phase(phase);
        run.compare(phase);
    }
    run.end();
}

struct Run {
    seed: u64,
    variant: Variant,
    rig: Rig,
    origin: Origin,
    readers: Vec<Reader>,
    /// How many more readers of this phase are slow.
    slow_readers: usize,
    /// Redis at the last look.
    before: Cache,
}

impl Run {
    fn phase(&mut self, phase: u64) {
        let mut chance = Rng::with_seed(self.seed ^ (phase << 48));
        let babbles = chance.u8(..3) == 0;
        if is_slow(self.seed) && self.seed / SLOW_EVERY % (PHASES - 1) == phase {
            self.slow_readers = SLOW_READERS;
        }
        for step in 0..STEPS {
            // Each step has its own chances: what Redis held at another step changes none of them.
            let mut rng = Rng::with_seed(self.seed.rotate_left(17) ^ (phase << 32) ^ (step * 0x9E37_79B9));
            rng.u64(..);
            self.step(&mut rng, babbles);
            self.send();
        }
        self.finish_readers();
        self.slow_readers = 0;
        let mut rng = Rng::with_seed(self.seed ^ phase);
        self.origin.tell_all(|_| true, &mut rng);
        self.send();
        self.rig.drain();
    }

    fn send(&mut self) {
        for sent in std::mem::take(&mut self.origin.outgoing) {
            self.rig.queue.send_at(sent.body, sent.sent_at);
        }
    }

    fn subject(&self, rng: &mut Rng) -> Subject {
        rng.choice(self.origin.subjects()).expect("a subject")
    }

    fn step(&mut self, rng: &mut Rng, babbles: bool) {
        for reader in &mut self.readers {
            reader.extend_locks(&self.rig.redis);
        }
        let subject = self.subject(rng);
        match rng.u8(..100) {
            0..60 => self.change(&subject, rng),
            60..63 => self.origin.chat(&subject, rng),
            63..65 if babbles => self.origin.babble(&subject, rng),
            65 => {
                self.finish_readers();
                self.origin.invalidate(rng);
            }
            66..72 => self.begin_reader(&subject, rng),
            72..84 => self.step_reader(rng),
            84 => self.rig.kill_or_restart(),
            85..88 => self.rig.change_faults(rng),
            88..90 => self.rig.shake_redis(rng),
            90..95 => self.rig.breathe(10),
            _ => self.rig.breathe(300),
        }
    }

    /// Something happens at the origin.
    fn change(&mut self, subject: &Subject, rng: &mut Rng) {
        match rng.u8(..60) {
            0..17 => self.origin.change_list(subject, rng),
            17..29 => self.origin.change_usage(subject, rng),
            29..38 => self.origin.change_credit(subject, rng),
            38..41 => self.origin.deny(subject, rng),
            41..46 => self.origin.purge(subject, rng),
            46..50 => self.origin.redrive(rng),
            _ => self.origin.tell_some(rng),
        }
    }

    fn begin_reader(&mut self, subject: &Subject, rng: &mut Rng) {
        let may_be_emptied = match self.origin.story(subject).truth {
            Truth::Denied { .. } => true,
            Truth::Nothing => self.variant.policy == "UPDATE_IF_EXISTS",
            Truth::Unknown | Truth::Listed(_) => false,
        };
        if self.readers.iter().any(|reader| reader.subject == *subject)
            || (may_be_emptied && self.origin.has_lists_under_way(subject))
        {
            return;
        }
        // Most take a few seconds, one or the other nearly 20.
        let takes = Duration::from_secs_f64(1.0 + 19.0 * rng.f64().powi(2));
        let takes = (self.slow_readers > 0).then_some(takes);
        let reader = Reader::begin(&self.rig.redis, subject, &mut self.origin, takes);
        if reader.is_some() {
            self.slow_readers = self.slow_readers.saturating_sub(1);
        }
        self.readers.extend(reader);
    }

    fn step_reader(&mut self, rng: &mut Rng) {
        if self.readers.is_empty() {
            return;
        }
        let index = rng.usize(..self.readers.len());
        if !self.readers[index].is_waiting() && self.readers[index].step(&self.rig.redis, &mut self.origin) {
            self.readers.swap_remove(index);
        }
    }

    /// Lets every reader write. While one waits for its answer, the origin goes on.
    fn finish_readers(&mut self) {
        self.readers.sort_by_key(|reader| reader.answered_at);
        let mut rng = Rng::with_seed(self.seed);
        while !self.readers.is_empty() {
            if let Some(answered_at) = self.readers[0].answered_at {
                self.wait_for_an_answer(answered_at, &mut rng);
            }
            let mut reader = self.readers.remove(0);
            while !reader.step(&self.rig.redis, &mut self.origin) {}
        }
    }

    fn wait_for_an_answer(&mut self, answered_at: Instant, rng: &mut Rng) {
        let pause = answered_at.saturating_duration_since(Instant::now()) / STEPS_A_SLOW_READER;
        for _ in 0..STEPS_A_SLOW_READER {
            // What happens to somebody who is being refetched is what matters here.
            let subject = if rng.bool() {
                self.readers[rng.usize(..self.readers.len())].subject.clone()
            } else {
                self.subject(rng)
            };
            self.change(&subject, rng);
            self.origin.tell_some(rng);
            self.send();
            let until = Instant::now() + pause;
            wait_until(PATIENCE, "the time of the next change", || {
                for reader in &mut self.readers {
                    reader.extend_locks(&self.rig.redis);
                }
                Instant::now() >= until
            });
        }
    }

    fn compare(&mut self, phase: u64) {
        let now = look(&self.rig.redis, &self.origin.subjects());
        let differences = differences(&self.origin, &self.before, &now, self.variant);
        if !differences.is_empty() || !now.faults.is_empty() {
            let mut report = vec![format!(
                "Redis is not what the model says: seed {}, {:?}, after phase {phase}. \
                 Again: MODEL_SEED={} cargo test --test it model",
                self.seed, self.variant, self.seed
            )];
            report.extend(now.faults.iter().cloned());
            for (subject, lines) in differences {
                report.push(format!("{subject:?}:"));
                report.extend(lines.into_iter().map(|line| format!("  {line}")));
                let log = &self.origin.stories[&subject].log;
                report.push("  its last words:".to_owned());
                let last = &log[log.len().saturating_sub(LAST_LINES)..];
                report.extend(last.iter().map(|line| format!("    {line}")));
            }
            panic!("{}", report.join("\n"));
        }
        self.before = now;
        self.origin.forget_the_past();
    }

    fn end(&self) {
        let mut dead = self.rig.queue.dead_letters();
        dead.sort();
        let malformed: Vec<String> = self.origin.malformed.iter().cloned().collect();
        let expected = if self.rig.deletes_malformed { Vec::new() } else { malformed };
        assert_eq!(dead, expected, "dead letters of seed {}", self.seed);
        assert_eq!(
            self.rig.queue.complaints(),
            [""; 0],
            "what SQS would have refused, of seed {}",
            self.seed
        );
    }
}
