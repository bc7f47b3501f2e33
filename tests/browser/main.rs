//! The status page in a real browser: the service between a queue and a Redis, messages that flow, and Chromium, driven
//! by `look.mjs`, which says what it sees. Apart from tests/it, since a browser is much to install: scripts/status-page
//! does, and runs this.

// A harness that cannot do its work fails the test, loudly and where it happened.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]
// As in the stories.
#![allow(clippy::similar_names, clippy::cast_precision_loss)]

#[path = "../fakes/mod.rs"]
mod fakes;
#[allow(dead_code)]
#[path = "../it/support/mod.rs"]
mod support;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use support::child::Process;
use support::messages::{Shape, entitlements_updated};
use support::sdk::Owner;
use support::service::Service;
use support::stage::Stage;
use support::state::{State, every_kind, hours_ago};
use support::tools::{repository_file, system_program, tool};

/// Longer than all that `look.mjs` waits for.
const DEADLINE: Duration = Duration::from_mins(5);

#[test]
fn people_can_read_and_use_the_status_page() {
    let stage = Stage::new();
    let settings = stage.settings().set("CACHE_UPDATE_POLICY", "UPSERT").set("POISON_POLICY", "delete");
    let service = Service::start(&settings);
    // Something to show under the recent errors.
    stage.queue.send("no JSON \u{202e}txet");
    stage.redis.stop();
    service.wait_until("Redis to be missed", || service.get("/readyz").status == 503);
    stage.redis.restart();
    service.wait_until_ready();

    let seen_enough = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let _stop = Set(&seen_enough);
        scope.spawn(|| deliver_until(&stage, &service, &seen_enough));
        let screenshots = tool("").parent().expect("a build").join("status-page");
        std::fs::create_dir_all(&screenshots).expect("a directory for screenshots");
        let script = repository_file("tests/browser/look.mjs");
        let arguments = [
            script.as_path(),
            service.url().as_ref(),
            &tool("browser"),
            &screenshots,
            &system_program("chromium"),
        ];
        let arguments = arguments.map(|argument| argument.display().to_string());
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let home = ("HOME".to_owned(), env!("CARGO_TARGET_TMPDIR").to_owned());
        let path = ("PATH".to_owned(), "/usr/bin:/bin".to_owned());
        let node = system_program("node");
        let look = Process::start("look.mjs", &node, &arguments, &[home, path]);
        let status = look.wait_for_exit(DEADLINE);
        let words = look.last_words();
        assert!(status.success(), "{status}\n{words}");
        for line in look.stdout.all() {
            println!("{line}");
        }
        assert!(words.contains("seen: on a phone"), "{words}");
    });
    service.stop();
}

/// Sets a flag also when a test fails, so that the thread that watches it can be joined.
struct Set<'a>(&'a AtomicBool);

impl Drop for Set<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

/// One message after the other, each newer than the one before.
fn deliver_until(stage: &Stage, service: &Service, seen_enough: &AtomicBool) {
    let owner = Owner::customer("customer-1");
    let mut round = 0;
    while !seen_enough.load(Ordering::Acquire) {
        round += 1;
        let state = State::new(owner, hours_ago(1) + round, &every_kind(0));
        let message = entitlements_updated(&state, Shape::GraphqlV2).raw();
        stage.deliver(service, &[message]);
    }
}
