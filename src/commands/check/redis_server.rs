//! Redis: whether the service can write to it, and what else it says about itself.

use std::cell::Cell;

use serde_json::json;

use super::{Area, Finding};
use crate::cache::changes;
use crate::clock;
use crate::commands::session::Session;
use crate::config::Config;
use crate::message;
use crate::pipeline::prefix_check;
use crate::store::admin::ServerFacts;
use crate::store::{CacheStore, LockPatience, StoreError};

/// Tested with 6.2 and later; the script and UNLINK need 4.0, ACLs 6.0.
const OLDEST_MAJOR: u32 = 6;
/// Steps of the prefix check: a hundred thousand keys.
const STEPS_MAX: u32 = 100;

pub(super) fn check(config: &Config, session: &Session, findings: &mut Vec<Finding>) {
    let (store, at) = (&session.store, &session.redis_at);
    let token = format!("{:x}", fastrand::u64(..));
    let facts = store.facts();
    let written = store.write_read_delete(&session.layout.keyspace.probe_key(&token));
    match (facts, &written) {
        (Ok(facts), _) => findings.extend(of_server(at, &facts, written.is_ok())),
        (Err(error), Ok(())) => findings.push(Area::Redis.note(format!(
            "{error}. The service does without: version, role and memory are not known, and there are no statistics"
        ))),
        // For the same reason.
        (Err(_), Err(_)) => {}
    }
    if let Err(error) = written {
        return findings.push(Area::Redis.failure(error.message));
    }
    findings.push(Area::Redis.ok("a key below the prefix was written, read and deleted"));
    findings.push(match apply_to_nobody(session, &token) {
        Ok(()) => Area::Redis.ok("the script that writes can be run, and the SDKs' locks can be read"),
        Err(error) => Area::Redis.failure(error.message),
    });
    let steps = Cell::new(0);
    let keep_going = || steps.replace(steps.get() + 1) < STEPS_MAX;
    let prefix = &config.environment_prefix;
    findings.extend(match store.scan_prefixes(&session.layout.keyspace, &keep_going) {
        Ok(scan) if scan.has_own => {
            Some(Area::Redis.ok(format!("customers of environment '{prefix}' are cached")))
        }
        Ok(scan) => Some(match prefix_check::warning(prefix, &scan) {
            Some(warning) => Area::Redis.warning(warning),
            None => Area::Redis.ok(format!("no customer of environment '{prefix}' is cached yet")),
        }),
        // A large Redis: what was not scanned proves nothing.
        Err(error) if error.is_stopped() => None,
        Err(error) => Some(Area::Redis.warning(format!(
            "{error}. Messages about customers are written; an invalidation of the environment needs SCAN"
        ))),
    });
}

/// Does what a worker does with the usage of a customer who never was, which changes nothing. An ACL has to allow scripts,
/// and the SDKs' locks (`P-*`).
fn apply_to_nobody(session: &Session, token: &str) -> Result<(), StoreError> {
    let body = json!({
        "type": "measurement.reported",
        "customer": {"id": format!("check-{token}")},
        "feature": {"id": "check"},
        "currentUsage": 0,
    });
    let message = message::decode(&body.to_string(), clock::now()).ok();
    for change in message
        .into_iter()
        .flat_map(|message| changes(message, &session.layout))
    {
        session
            .store
            .apply(&[(&change, LockPatience::RESPECT)], &|| true)?
            .remove(0)?;
    }
    Ok(())
}

fn of_server(at: &str, facts: &ServerFacts, is_writable: bool) -> Vec<Finding> {
    let mut findings = Vec::new();
    let version = facts.version.as_deref().unwrap_or("of unknown version");
    let role = match facts.role.as_deref() {
        Some("master") => "primary",
        Some("slave") => "replica",
        role => role.unwrap_or("unknown"),
    };
    findings.push(match (role, is_writable) {
        ("replica", false) => Area::Redis.failure(format!(
            "{at} is a replica, which takes no writes; name the primary in REDIS_HOST, or use REDIS_SENTINELS"
        )),
        ("replica", true) => Area::Redis.warning(format!(
            "{at} is a replica that takes writes, which its primary's next synchronization deletes; name the primary in \
             REDIS_HOST, or use REDIS_SENTINELS"
        )),
        _ => Area::Redis.ok(format!("{at} answers: Redis {version}, role {role}")),
    });
    let major = version
        .split('.')
        .next()
        .and_then(|major| major.parse::<u32>().ok());
    if major.is_some_and(|major| major < OLDEST_MAJOR) {
        findings.push(Area::Redis.warning(format!(
            "Redis {version} is old: this service is tested with 6.2 and later; upgrade it"
        )));
    }
    if !facts.is_known {
        findings.push(Area::Redis.note(
            "INFO is not available to this user: the service does without; version and memory are not known, and there are no \
             statistics",
        ));
    }
    let is_bounded = facts.maxmemory.is_some_and(|bytes| bytes > 0);
    findings.extend(facts.maxmemory_policy.as_ref().map(|policy| match policy.as_str() {
        _ if !is_bounded => Area::Redis.ok(format!("maxmemory is not set (policy {policy})")),
        "noeviction" => Area::Redis.warning(
            "maxmemory-policy is noeviction: when Redis is full it refuses writes, and messages wait; set one that evicts, \
             such as volatile-lru, or watch its memory",
        ),
        _ => Area::Redis.ok(format!("maxmemory-policy is {policy}: an evicted entry is a reader's miss")),
    }));
    findings
}

#[cfg(test)]
mod tests {
    use super::super::Severity::{self, Failure, Note, Ok, Warning};
    use super::*;

    fn severities(facts: &ServerFacts, is_writable: bool) -> Vec<Severity> {
        let findings = of_server("db:6379", facts, is_writable);
        findings.iter().map(|finding| finding.severity).collect()
    }

    #[test]
    fn a_replica_a_bound_without_eviction_and_an_old_server_are_reported() {
        let facts = |version: &str, role: &str, policy: &str| ServerFacts {
            is_known: true,
            version: Some(version.to_owned()),
            role: Some(role.to_owned()),
            maxmemory: Some(1),
            maxmemory_policy: Some(policy.to_owned()),
        };
        let replica = facts("7.0.15", "slave", "volatile-lru");
        assert_eq!(
            severities(&facts("7.0.15", "master", "volatile-lru"), true),
            [Ok, Ok]
        );
        assert_eq!(severities(&replica, false), [Failure, Ok]);
        assert_eq!(severities(&replica, true), [Warning, Ok]);
        let old = facts("5.0.1", "master", "noeviction");
        assert_eq!(severities(&old, true), [Ok, Warning, Warning]);
    }

    #[test]
    fn what_a_server_does_not_tell_is_a_note() {
        assert_eq!(severities(&ServerFacts::default(), true), [Ok, Note]);
    }
}
