//! One run of one seed.

use fastrand::Rng;
use persistent_cache_service::clock;

use super::cache::{Cache, look};
use super::expectation::differences;
use super::origin::Origin;
use super::reader::Reader;
use super::rig::Rig;
use super::truth::{Subject, Truth};

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
/// Lines of a subject's story that a failure tells.
const LAST_LINES: usize = 25;

/// Runs a seed; panics with it and what differs.
pub fn run(seed: u64, variant: Variant) {
    let mut run = Run {
        seed,
        variant,
        rig: Rig::new(seed, variant),
        origin: Origin::new(clock::now().0 - 3_600_000),
        readers: Vec::new(),
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
    /// Redis at the last look.
    before: Cache,
}

impl Run {
    fn phase(&mut self, phase: u64) {
        let mut chance = Rng::with_seed(self.seed ^ (phase << 48));
        let babbles = chance.u8(..3) == 0;
        if self.variant.policy == "UPDATE_IF_EXISTS" && phase > 0 && chance.u8(..3) == 0 {
            // At the beginning of a phase, when nothing is under way: see what is kept out.
            self.origin.invalidate(&mut chance);
        }
        for step in 0..STEPS {
            // Each step has its own chances: what Redis held at another step changes none of them.
            let mut rng = Rng::with_seed(self.seed.rotate_left(17) ^ (phase << 32) ^ (step * 0x9E37_79B9));
            rng.u64(..);
            self.step(&mut rng, babbles);
            for sent in std::mem::take(&mut self.origin.outgoing) {
                self.rig.queue.send_at(sent.body, sent.sent_at);
            }
        }
        self.finish_readers();
        let mut rng = Rng::with_seed(self.seed ^ phase);
        self.origin.tell_all(|_| true, &mut rng);
        for sent in std::mem::take(&mut self.origin.outgoing) {
            self.rig.queue.send_at(sent.body, sent.sent_at);
        }
        self.rig.settle();
    }

    fn subject(&self, rng: &mut Rng) -> Subject {
        rng.choice(self.origin.subjects()).expect("a subject")
    }

    fn step(&mut self, rng: &mut Rng, babbles: bool) {
        let subject = self.subject(rng);
        match rng.u8(..100) {
            0..18 => self.origin.change_list(&subject, rng),
            18..32 => self.origin.change_usage(&subject, rng),
            32..37 => self.origin.change_credit(&subject, rng),
            37..40 => self.origin.deny(&subject, rng),
            40..45 => self.origin.purge(&subject, rng),
            45..60 => self.origin.tell_some(rng),
            60..63 => self.origin.chat(&subject, rng),
            63..65 if babbles => self.origin.babble(&subject, rng),
            65 if self.variant.policy == "UPSERT" => {
                self.finish_readers();
                self.origin.invalidate(rng);
            }
            66..72 => self.begin_reader(&subject),
            72..84 => self.step_reader(rng),
            84 => self.rig.kill_or_restart(),
            85..88 => self.rig.change_faults(rng),
            88..90 => self.rig.shake_redis(rng),
            90..95 => self.rig.breathe(10),
            _ => self.rig.breathe(300),
        }
    }

    fn begin_reader(&mut self, subject: &Subject) {
        let denied = matches!(self.origin.story(subject).truth, Truth::Denied { .. });
        if self.readers.iter().any(|reader| reader.subject == *subject)
            || (denied && self.origin.has_lists_under_way(subject))
        {
            return;
        }
        let reader = Reader::begin(&self.rig.redis, subject, &mut self.origin);
        self.readers.extend(reader);
    }

    fn step_reader(&mut self, rng: &mut Rng) {
        if self.readers.is_empty() {
            return;
        }
        let index = rng.usize(..self.readers.len());
        if self.readers[index].step(&self.rig.redis, &mut self.origin) {
            self.readers.swap_remove(index);
        }
    }

    fn finish_readers(&mut self) {
        for mut reader in std::mem::take(&mut self.readers) {
            while !reader.step(&self.rig.redis, &mut self.origin) {}
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
        let expected = if self.rig.deletes_malformed {
            Vec::new()
        } else {
            malformed
        };
        assert_eq!(dead, expected, "dead letters of seed {}", self.seed);
        assert_eq!(
            self.rig.queue.complaints(),
            [""; 0],
            "what SQS would have refused, of seed {}",
            self.seed
        );
    }
}
