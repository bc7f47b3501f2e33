//! `purge` deletes what is cached for a customer, a resource or the environment, after a question.

use crate::support::child::Process;
use crate::support::command::{Ended, run, run_with_input};
use crate::support::messages::{Shape, entitlements_updated};
use crate::support::redis::TestRedis;
use crate::support::sdk::Owner;
use crate::support::service::{Settings, binary};
use crate::support::stage::PREFIX;
use crate::support::state::{State, every_kind, hours_ago};
use crate::support::tools::system_program;
use crate::support::wait::PATIENCE;

fn settings(redis: &TestRedis) -> Settings {
    Settings::default()
        .set("REDIS_HOST", "127.0.0.1")
        .set("REDIS_PORT", redis.port.to_string())
        .set("CACHE_UPDATE_POLICY", "UPSERT")
}

fn fill(redis: &TestRedis, prefix: &str, owners: &[Owner], hours: i64) -> Ended {
    let lines: Vec<String> = owners
        .iter()
        .map(|owner| {
            entitlements_updated(&State::new(*owner, hours_ago(hours), &every_kind(0)), Shape::Webhook).raw()
        })
        .collect();
    let settings = settings(redis).set("ENVIRONMENT_PREFIX", prefix);
    let ended = run_with_input(&settings, &["replay", "-"], &lines.join("\n"));
    assert_eq!(ended.status, 0, "{ended:?}");
    ended
}

fn is_cached(redis: &TestRedis, owner: Owner) -> bool {
    redis.get(&owner.key(PREFIX)).is_some()
}

const ONE: Owner = Owner { customer: "one", resource: None };
const SITE: Owner = Owner { customer: "one", resource: Some("site") };
const TWO: Owner = Owner { customer: "two", resource: None };

#[test]
fn a_customer_or_a_resource_is_purged_and_the_deleted_keys_are_counted() {
    let redis = TestRedis::start();
    fill(&redis, PREFIX, &[ONE, SITE, TWO], 2);
    let ended = run(&settings(&redis), &["purge", "one", "--resource", "site", "--yes"]);
    assert_eq!(ended.status, 0, "{ended:?}");
    assert!(ended.stdout.contains("deleted 4 keys") && ended.stdout.contains(&SITE.key(PREFIX)), "{ended:?}");
    assert!(is_cached(&redis, ONE) && !is_cached(&redis, SITE));

    let ended = run(&settings(&redis), &["purge", "one", "--yes"]);
    assert_eq!(ended.status, 0, "{ended:?}");
    assert!(!is_cached(&redis, ONE) && is_cached(&redis, TWO));
    let usage = format!("{}:f_feature-api-calls", ONE.key(PREFIX));
    assert!(redis.get(&usage).is_some(), "usages stay, as for a purge from the queue");

    let again = run(&settings(&redis), &["purge", "one", "--yes"]);
    assert!(again.status == 0 && again.stdout.contains("nothing was cached"), "{again:?}");
}

#[test]
fn what_was_sent_before_a_purge_brings_nothing_back_and_what_is_sent_after_it_does() {
    let redis = TestRedis::start();
    fill(&redis, PREFIX, &[ONE], 2);
    assert_eq!(run(&settings(&redis), &["purge", "one", "--yes"]).status, 0);
    let late = fill(&redis, PREFIX, &[ONE], 2);
    assert!(late.stdout.contains("sent before a purge") && !is_cached(&redis, ONE), "{late:?}");
    // An hour ahead: sent after the purge, whatever the clock does meanwhile.
    fill(&redis, PREFIX, &[ONE], -1);
    assert!(is_cached(&redis, ONE));

    // Whose state is from the future is not kept from being cached again by it.
    assert_eq!(run(&settings(&redis), &["purge", "one", "--yes"]).status, 0);
    let tombstone = redis.get(&format!("{PREFIX}:purged:c_one")).expect("a tombstone");
    let future = hours_ago(-1) - 600_000;
    let remembered = tombstone.split(':').nth(1).map_or(0, |list| list.parse::<i64>().expect("a number"));
    assert!(remembered < future, "{tombstone}");
}

/// Fills, and fails to: whoever is sent anything new stays away.
fn is_blocked(redis: &TestRedis, owner: Owner) -> bool {
    fill(redis, PREFIX, &[owner], 0);
    !is_cached(redis, owner)
}

#[test]
fn tombstones_that_block_a_customer_are_cleared() {
    const YEAR_3000_MS: &str = "32503680000000";
    let an_hour_ago = hours_ago(1).to_string();
    // As a purge of a list with an impossible time left it in older versions, and as a wrong clock may have.
    for value in [
        format!("{an_hour_ago}:{YEAR_3000_MS}"),
        format!("{YEAR_3000_MS}:{an_hour_ago}"),
        YEAR_3000_MS.to_owned(),
        format!("{}", hours_ago(-10)),
    ] {
        for owner in [ONE, SITE] {
            let redis = TestRedis::start();
            let tombstone = format!("{PREFIX}:purged{}", &owner.key(PREFIX)[PREFIX.len()..]);
            redis.command::<()>(&["SET", &tombstone, &value, "EX", "43200"]);
            assert!(is_blocked(&redis, owner), "{value}");
            let mut arguments = vec!["purge", owner.customer, "--yes"];
            if let Some(resource) = owner.resource {
                arguments.extend(["--resource", resource]);
            }
            let ended = run(&settings(&redis), &arguments);
            assert_eq!(ended.status, 0, "{ended:?}");
            assert!(!is_blocked(&redis, owner), "{value}: {:?}", redis.contents());
            // The purge itself is remembered.
            assert_eq!(run(&settings(&redis), &arguments).status, 0);
            fill(&redis, PREFIX, &[owner], 2);
            assert!(!is_cached(&redis, owner), "{value}");
        }
    }
}

#[test]
fn a_customers_tombstone_that_blocks_its_resources_is_cleared_with_it() {
    let redis = TestRedis::start();
    let tombstone = format!("{PREFIX}:purged:c_one");
    redis.command::<()>(&["SET", &tombstone, "32503680000000", "EX", "43200"]);
    assert!(is_blocked(&redis, SITE));
    assert_eq!(run(&settings(&redis), &["purge", "one", "--yes"]).status, 0);
    assert!(!is_blocked(&redis, SITE), "{:?}", redis.contents());
}

#[test]
fn a_tombstone_of_the_environment_that_blocks_everybody_is_cleared_with_the_environment() {
    let redis = TestRedis::start();
    let tombstone = format!("{PREFIX}:purged");
    redis.command::<()>(&["SET", &tombstone, "32503680000000", "EX", "43200"]);
    assert!(is_blocked(&redis, ONE));
    let ended = run(&settings(&redis), &["purge", "--environment", "--yes"]);
    assert_eq!(ended.status, 0, "{ended:?}");
    assert!(!is_blocked(&redis, ONE), "{:?}", redis.contents());
}

#[test]
fn a_list_from_the_year_3000_is_forgotten_and_blocks_nothing_after_that() {
    let redis = TestRedis::start();
    let key = ONE.key(PREFIX);
    let stamp = format!("{key}#timestamp");
    redis.command::<()>(&["MSET", &key, "{}", &stamp, "32503680000000"]);
    assert_eq!(run(&settings(&redis), &["purge", "one", "--yes"]).status, 0);
    assert!(!is_cached(&redis, ONE));
    assert!(!is_blocked(&redis, ONE), "{:?}", redis.contents());
}

#[test]
fn an_environment_is_purged_and_no_other() {
    let redis = TestRedis::start();
    fill(&redis, PREFIX, &[ONE, SITE, TWO], 2);
    fill(&redis, "staging", &[ONE], 2);
    let staging: Vec<String> = redis.keys().into_iter().filter(|key| key.starts_with("staging")).collect();
    let ended = run(&settings(&redis), &["purge", "--environment", "--yes"]);
    assert_eq!(ended.status, 0, "{ended:?}");
    let left: Vec<String> = redis.keys().into_iter().filter(|key| !key.contains(":purged")).collect();
    assert_eq!(left, staging);
    assert!(ended.stdout.contains("keys of customers of 'production'"), "{ended:?}");
    let late = fill(&redis, PREFIX, &[TWO], 2);
    assert!(late.stdout.contains("sent before a purge") && !is_cached(&redis, TWO), "{late:?}");
}

#[test]
fn without_a_terminal_and_without_yes_nothing_is_done() {
    let redis = TestRedis::start();
    fill(&redis, PREFIX, &[ONE], 2);
    for arguments in [&["purge", "one"][..], &["purge", "--environment"]] {
        let ended = run_with_input(&settings(&redis), arguments, "y\n");
        assert_eq!(ended.status, 2, "{ended:?}");
        assert!(ended.stderr.contains("--yes"), "{ended:?}");
    }
    for arguments in
        [&["purge"][..], &["purge", "one", "--environment"], &["purge", "--resource", "r", "--environment"]]
    {
        assert_eq!(run(&settings(&redis), arguments).status, 2, "{arguments:?}");
    }
    assert!(is_cached(&redis, ONE));
}

#[test]
fn on_a_terminal_it_asks_and_only_yes_is_taken_for_it() {
    let redis = TestRedis::start();
    fill(&redis, PREFIX, &[ONE], 2);
    for (answer, is_kept) in [("n", true), ("", true), ("yes", false)] {
        // `script` gives it a terminal.
        let command = format!("echo {answer} | script -qec '{} purge one' /dev/null", binary().display());
        let environment = settings(&redis).set("PATH", "/usr/bin:/bin").environment();
        let process = Process::start("script", &system_program("sh"), &["-c", &command], &environment);
        process.wait_for_exit(PATIENCE);
        crate::support::wait::wait_until(PATIENCE, "the end of the output", || process.stdout.are_complete());
        let shown = process.stdout.all().join("\n");
        assert!(
            shown.contains("Delete what is cached for customer 'one'") && shown.contains("[y/N]"),
            "{shown}"
        );
        assert_eq!(is_cached(&redis, ONE), is_kept, "{answer}: {shown}");
    }
}
