//! One input: made from its seed, run through its target, and judged.

use std::cell::RefCell;
use std::fmt;
use std::panic::{self, AssertUnwindSafe};
use std::time::{Duration, Instant};

use fastrand::Rng;

use crate::targets::Target;

/// Longer than this, three times in a row, is a fault: the slowest good input takes a fiftieth of it when optimized.
const TIME_MAX: Duration = Duration::from_secs(5);

/// An input's name: all that is needed to make it again.
#[derive(Debug, Clone, Copy)]
pub struct InputId {
    /// Whose input.
    pub target: &'static Target,
    /// What it follows from.
    pub seed: u64,
}

/// What an input must not do.
#[derive(Debug)]
pub enum Fault {
    /// It panicked, with this message.
    Panic(String),
    /// It allocated more than allowed.
    Memory {
        /// The most bytes that were allocated at one time.
        peak: u64,
        /// The most that the target may take for an input of this length.
        allowed: u64,
    },
    /// It took long.
    Slow(Duration),
    /// A property of the target does not hold.
    Property(String),
}

/// What an input did.
#[derive(Debug, Default, Clone, Copy)]
pub struct Measured {
    /// The most bytes that the parsing held at one time, beside the input.
    pub peak: u64,
    /// How long it took, the checks included.
    pub took: Duration,
    /// It was understood, not refused.
    pub understood: bool,
}

/// Measures what a target calls to be measured.
#[derive(Debug, Default)]
pub struct Probe {
    peak: u64,
}

impl Probe {
    /// Runs the parsing and notes the most memory that it held at one time, its result included.
    pub fn measure<T>(&mut self, parse: impl FnOnce() -> T) -> T {
        let mut result = None;
        let used = allocation_counter::measure(|| {
            // A panic must not pass through the counter, which would then count into the wrong measurement.
            result = Some(panic::catch_unwind(AssertUnwindSafe(parse)));
        });
        self.peak = self.peak.max(used.bytes_max);
        match result.expect("the closure was run") {
            Ok(value) => value,
            Err(panicked) => panic::resume_unwind(panicked),
        }
    }
}

impl InputId {
    /// Reads `TARGET:SEED`.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (name, seed) = text.split_once(':').ok_or("it is written TARGET:SEED")?;
        Ok(Self { target: crate::target(name)?, seed: crate::hexadecimal(seed)? })
    }

    /// The input itself.
    pub fn input(self) -> Vec<u8> {
        (self.target.input)(&mut Rng::with_seed(self.seed))
    }
}

impl fmt::Display for InputId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}:{:016x}", self.target.name, self.seed)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Panic(message) => write!(formatter, "panicked: {message}"),
            Self::Memory { peak, allowed } => {
                write!(formatter, "allocated {peak} bytes at one time, allowed are {allowed}")
            }
            Self::Slow(took) => write!(formatter, "took {} ms, three times", took.as_millis()),
            Self::Property(what) => write!(formatter, "does not hold: {what}"),
        }
    }
}

/// Runs an input through its target.
pub fn judge(target: &Target, input: &[u8]) -> Result<Measured, Fault> {
    let mut measured = once(target, input)?;
    // The machine may be busy with something else: what counts is the quickest of three.
    for _ in 0..2 {
        if measured.took <= TIME_MAX {
            break;
        }
        let again = once(target, input)?;
        measured.took = measured.took.min(again.took);
    }
    if measured.took > TIME_MAX {
        return Err(Fault::Slow(measured.took));
    }
    let allowed = target.memory.allowed(input.len());
    if measured.peak > allowed {
        return Err(Fault::Memory { peak: measured.peak, allowed });
    }
    Ok(measured)
}

fn once(target: &Target, input: &[u8]) -> Result<Measured, Fault> {
    let mut probe = Probe::default();
    let started = Instant::now();
    let checked = panic::catch_unwind(AssertUnwindSafe(|| (target.check)(input, &mut probe)));
    let took = started.elapsed();
    match checked {
        Ok(Ok(understood)) => Ok(Measured { peak: probe.peak, took, understood }),
        Ok(Err(property)) => Err(Fault::Property(property)),
        Err(_) => Err(Fault::Panic(last_panic())),
    }
}

thread_local! {
    static LAST_PANIC: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Makes panics be kept instead of printed.
pub fn keep_panics() {
    panic::set_hook(Box::new(|info| {
        let message = info.to_string().replace('\n', " ");
        LAST_PANIC.with_borrow_mut(|last| *last = message);
    }));
}

/// What this thread last panicked with.
pub fn last_panic() -> String {
    LAST_PANIC.take()
}
