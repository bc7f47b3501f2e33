//! Chaos: many messages through several instances of the service, while everything around them fails by a seed.
//! Nothing may be lost and nothing stale.
//!
//! One queue (ours, with SQS's rules and faults of its own), one Redis of two servers with a replica, a fault proxy
//! before Redis for each instance. Instances are killed with -9, Redis is killed with -9 and started again, Redis
//! fails over and the address behind its name changes, the network cuts, stalls and forgets connections.
//!
//! The effect of each message is known, so at the end every key is compared with the newest state that was sent.
//! While it runs, stored timestamps are watched: none may ever go back.
//!
//! Two rules make the run fair, since Redis itself may lose what it confirmed:
//! - it runs with `appendonly yes` and `appendfsync always`, or a kill would lose the last second;
//! - a failover is the coordinated one (`FAILOVER TO …`), which waits until the replica has everything. Replication
//!   is asynchronous: promoting a replica that lags loses confirmed writes by Redis's own design, whoever wrote them.
//!
//! The seed replays the messages and the order of the faults. What meets what is up to the machine.

// Not a test harness: a panic here is a fault of the run, reported and counted.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]
// As in the stories: names are similar; counts become rates.
#![allow(clippy::similar_names, clippy::cast_precision_loss)]

mod check;
mod faults;
mod fleet;
mod journal;
mod redis_pair;
mod report;
mod run;
mod watch;
mod world;

#[path = "../fakes/mod.rs"]
mod fakes;
#[path = "../result_file.rs"]
mod result_file;
#[allow(dead_code)]
#[path = "../it/support/mod.rs"]
mod support;

use std::process::ExitCode;

use clap::Parser;

use crate::result_file::ResultFile;

/// Many messages through several instances while everything around them fails by a seed: nothing may be lost,
/// nothing stale. Without --messages and --seconds: 15 seconds.
#[derive(Debug, Parser)]
struct Arguments {
    /// Stop sending after so many messages.
    #[arg(long)]
    messages: Option<u64>,
    /// Stop sending after so many seconds.
    #[arg(long)]
    seconds: Option<u64>,
    /// Replays the messages and the order of the faults; a random one if it is not given.
    #[arg(long)]
    seed: Option<u64>,
    /// Instances of the service.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=16))]
    instances: u8,
    /// The sender waits while so many messages are in the queue.
    #[arg(long, default_value_t = 50_000)]
    waiting: u64,
    #[command(flatten)]
    result_file: ResultFile,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let plan = run::Plan {
        messages: arguments.messages.unwrap_or(u64::MAX),
        seconds: match (arguments.messages, arguments.seconds) {
            (None, None) => Some(15),
            (_, seconds) => seconds,
        },
        seed: arguments.seed.unwrap_or_else(|| fastrand::u64(..1_000_000_000)),
        instances: usize::from(arguments.instances),
        waiting_at_most: arguments.waiting,
    };
    println!("seed {}: scripts/chaos --seed {0} replays it", plan.seed);
    println!("{}", report::FAIRNESS);
    let report = run::run(&plan);
    println!("{report}");
    if !report.is_good() {
        return ExitCode::FAILURE;
    }
    arguments.result_file.write(&report.rows());
    ExitCode::SUCCESS
}
