//! Many inputs, on threads with the stack size of the service's threads, and the report about them.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::panic::{self, AssertUnwindSafe};
use std::path::Path;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::judge::{Fault, InputId, Measured, judge, keep_panics, last_panic};
use crate::targets::{TARGETS, Target};
use crate::{Plan, failures};

/// As in `service::threads`: an input that nests deep must be refused within it.
const STACK_BYTES: usize = 512 * 1024;
/// Inputs that a thread takes at once.
const BLOCK: u64 = 64;
/// One input, before it is taken for one that never ends.
const HANGS_AFTER: Duration = Duration::from_mins(1);
/// Enough faults to look at.
const FAULTS_MAX: usize = 20;
/// Inputs below this size say little about bytes per byte: what is constant outweighs it.
const TELLING_BYTES: usize = 32 * 1024;

/// So much of an input is shown.
const SHOWN_BYTES: usize = 1000;

/// What one target's inputs did.
#[derive(Debug, Default, Clone, Copy)]
struct Tally {
    inputs: u64,
    understood: u64,
    bytes: u64,
    /// Of small inputs.
    peak_max: u64,
    /// Of the others.
    ratio_max: u64,
    slowest: Duration,
    slowest_seed: u64,
}

#[derive(Debug)]
struct Shared {
    seed: u64,
    targets: Vec<&'static Target>,
    inputs: u64,
    end: Option<Instant>,
    next: AtomicU64,
    faults: AtomicUsize,
    tallies: Mutex<Vec<Tally>>,
}

/// What a thread is doing, for the watch.
#[derive(Debug, Default)]
struct Running {
    /// Counts inputs, so that the same one is known again.
    count: AtomicU64,
    target: AtomicUsize,
    seed: AtomicU64,
}

/// The file that outlives an abort and names the input of it.
pub fn running_file(thread: usize) -> std::path::PathBuf {
    failures().join(format!("running-{thread}"))
}

/// Runs the plan in this process.
pub fn run(plan: &Plan) -> ExitCode {
    keep_panics();
    let started = Instant::now();
    let shared = Arc::new(Shared {
        seed: plan.seed,
        targets: plan.targets.clone(),
        inputs: plan.inputs,
        end: plan.time_max.map(|time| started + time),
        next: AtomicU64::new(0),
        faults: AtomicUsize::new(0),
        tallies: Mutex::new(vec![Tally::default(); TARGETS.len()]),
    });
    let (done, all_done) = channel();
    let running: Vec<Arc<Running>> = (0..plan.threads)
        .map(|index| {
            let running = Arc::new(Running::default());
            start(index, Arc::clone(&shared), Arc::clone(&running), done.clone());
            running
        })
        .collect();
    drop(done);
    if !watch(&running, &shared, &all_done, started) {
        return ExitCode::FAILURE;
    }
    print_report(&shared, started.elapsed());
    if shared.faults.load(Ordering::Relaxed) > 0 {
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

fn start(index: usize, shared: Arc<Shared>, running: Arc<Running>, done: Sender<()>) {
    thread::Builder::new()
        .name(format!("fuzz-{index}"))
        .stack_size(STACK_BYTES)
        .spawn(move || {
            let trace = File::create(running_file(index)).expect("the trace can be written");
            let ended = panic::catch_unwind(AssertUnwindSafe(|| work(&shared, &running, &trace)));
            if ended.is_err() {
                println!("FAULT in the fuzzer itself: {}", last_panic());
                shared.faults.fetch_add(1, Ordering::Relaxed);
            }
            drop(done);
        })
        .expect("a thread can be started");
}

fn work(shared: &Shared, running: &Running, trace: &File) {
    let weights: u64 = shared.targets.iter().map(|target| target.weight).sum();
    let mut tallies = vec![Tally::default(); TARGETS.len()];
    loop {
        let block = shared.next.fetch_add(BLOCK, Ordering::Relaxed);
        let is_over = shared.end.is_some_and(|end| Instant::now() >= end);
        if block >= shared.inputs || is_over || shared.faults.load(Ordering::Relaxed) >= FAULTS_MAX {
            break;
        }
        for number in block..(block + BLOCK).min(shared.inputs) {
            let seed = mixed(shared.seed.wrapping_add(number));
            let target = chosen(&shared.targets, mixed(seed) % weights);
            let id = InputId { target, seed };
            let index = TARGETS.iter().position(|other| other.name == target.name);
            let index = index.expect("a target is in the list");
            running.target.store(index, Ordering::Relaxed);
            running.seed.store(seed, Ordering::Relaxed);
            running.count.fetch_add(1, Ordering::Release);
            trace
                .write_all_at(format!("{:<60}\n", id.to_string()).as_bytes(), 0)
                .expect("the trace can be written");
            let input = id.input();
            match judge(target, &input) {
                Ok(measured) => tallies[index].add(seed, input.len(), measured),
                Err(fault) => {
                    print_fault(&id.to_string(), &input, &fault);
                    shared.faults.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
    }
    let mut all = shared.tallies.lock().unwrap_or_else(PoisonError::into_inner);
    for (all, mine) in all.iter_mut().zip(tallies) {
        all.merge(mine);
    }
}

/// SplitMix64: neighbours become strangers.
fn mixed(number: u64) -> u64 {
    let mut mixed = number.wrapping_add(0x9E37_79B9_7F4A_7C15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^ (mixed >> 31)
}

fn chosen(targets: &[&'static Target], mut ticket: u64) -> &'static Target {
    for target in targets {
        if ticket < target.weight {
            return target;
        }
        ticket -= target.weight;
    }
    targets[0]
}

/// Waits until all threads are done. False if one hangs.
fn watch(running: &[Arc<Running>], shared: &Shared, all_done: &Receiver<()>, started: Instant) -> bool {
    let mut seen = vec![(0, Instant::now()); running.len()];
    let mut printed_at = Instant::now();
    loop {
        match all_done.recv_timeout(Duration::from_millis(250)) {
            Err(RecvTimeoutError::Disconnected) => return true,
            Ok(()) | Err(RecvTimeoutError::Timeout) => {}
        }
        if printed_at.elapsed() > Duration::from_secs(20) {
            printed_at = Instant::now();
            let inputs = shared.next.load(Ordering::Relaxed).min(shared.inputs);
            println!("   {inputs} inputs in {} s", started.elapsed().as_secs());
        }
        for (running, (count, since)) in running.iter().zip(&mut seen) {
            let now = running.count.load(Ordering::Acquire);
            if now != *count {
                (*count, *since) = (now, Instant::now());
            } else if now > 0 && since.elapsed() > HANGS_AFTER && Arc::strong_count(running) > 1 {
                let id = InputId {
                    target: &TARGETS[running.target.load(Ordering::Relaxed)],
                    seed: running.seed.load(Ordering::Relaxed),
                };
                println!("FAULT {id}: has not ended within {} s", HANGS_AFTER.as_secs());
                keep(&id.to_string(), &id.input());
                return false;
            }
        }
    }
}

impl Tally {
    fn add(&mut self, seed: u64, length: usize, measured: Measured) {
        self.merge(Self {
            inputs: 1,
            understood: measured.understood.into(),
            bytes: length as u64,
            peak_max: if length < TELLING_BYTES { measured.peak } else { 0 },
            ratio_max: if length < TELLING_BYTES { 0 } else { measured.peak.div_ceil(length as u64) },
            slowest: measured.took,
            slowest_seed: seed,
        });
    }

    fn merge(&mut self, other: Self) {
        self.inputs += other.inputs;
        self.understood += other.understood;
        self.bytes += other.bytes;
        self.peak_max = self.peak_max.max(other.peak_max);
        self.ratio_max = self.ratio_max.max(other.ratio_max);
        if other.slowest > self.slowest {
            (self.slowest, self.slowest_seed) = (other.slowest, other.slowest_seed);
        }
    }
}

fn print_report(shared: &Shared, took: Duration) {
    let tallies = shared.tallies.lock().unwrap_or_else(PoisonError::into_inner);
    println!(
        "{:<18} {:>10} {:>11} {:>9} {:>17} {:>12} {:>9}  of seed",
        "target", "inputs", "understood", "mean size", "memory per byte", "small ones", "slowest"
    );
    let mut sum = Tally::default();
    for (target, tally) in TARGETS.iter().zip(tallies.iter()) {
        if tally.inputs == 0 {
            continue;
        }
        sum.merge(*tally);
        println!(
            "{:<18} {:>10} {:>10}% {:>8}B {:>6} of {:>3} max {:>8} KiB {:>6} ms  {:016x}",
            target.name,
            tally.inputs,
            tally.understood * 100 / tally.inputs,
            tally.bytes / tally.inputs,
            tally.ratio_max,
            target.memory.per_byte,
            tally.peak_max.div_ceil(1024),
            tally.slowest.as_millis(),
            tally.slowest_seed,
        );
    }
    let faults = shared.faults.load(Ordering::Relaxed);
    println!("{} inputs in {} s, {faults} faults", sum.inputs, took.as_secs().max(1));
}

fn print_fault(id: &str, input: &[u8], fault: &Fault) {
    let path = keep(id, input);
    println!("FAULT {id}: {fault}");
    println!("   {} bytes, kept in {}", input.len(), path.display());
    println!("   again: cargo test --test fuzz -- --replay {id}");
}

/// Writes a failing input to a file.
pub fn keep(id: &str, input: &[u8]) -> std::path::PathBuf {
    let path = failures().join(id.replace(':', "-"));
    fs::write(&path, input).expect("a failing input can be written");
    path
}

/// Runs one input again.
pub fn replay(id: InputId) -> ExitCode {
    shown(id.target, id.input())
}

/// Runs the content of a file.
pub fn replay_file(target: &'static Target, path: &Path) -> ExitCode {
    shown(target, fs::read(path).expect("the file can be read"))
}

fn shown(target: &'static Target, input: Vec<u8>) -> ExitCode {
    keep_panics();
    let head = &input[..input.len().min(SHOWN_BYTES)];
    let cut = if head.len() < input.len() { " …" } else { "" };
    println!("{} bytes: {}{cut}", input.len(), head.escape_ascii());
    let judged = thread::Builder::new()
        .stack_size(STACK_BYTES)
        .spawn(move || judge(target, &input))
        .expect("a thread can be started")
        .join();
    match judged {
        Ok(Ok(measured)) => {
            println!(
                "{}, {} bytes of memory, {} us: nothing wrong",
                if measured.understood { "understood" } else { "refused" },
                measured.peak,
                measured.took.as_micros()
            );
            ExitCode::SUCCESS
        }
        Ok(Err(fault)) => {
            println!("FAULT {fault}");
            ExitCode::FAILURE
        }
        Err(_) => {
            println!("FAULT in the fuzzer itself");
            ExitCode::FAILURE
        }
    }
}
