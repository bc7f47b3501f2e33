//! Redis: does it answer, is it the primary, may it be written to, whose customers are in it.

use super::{Area, Finding};
use crate::cache::keyspace::Keyspace;
use crate::cache::{CacheChange, KeyWrite, UsageWrite};
use crate::config::Config;
use crate::entitlement::{CustomerId, EpochMs, Subject};
use crate::store::admin::ServerFacts;
use crate::store::{CacheStore, Cause, LockPatience, RedisStore, StoreError, server_name};

/// Tested with 7.0; the scripts and UNLINK need 4.0, ACLs 6.0.
const OLDEST_MAJOR: u32 = 6;
/// So many steps of the look whose customers are there: a hundred thousand keys.
const STEPS_MAX: u32 = 100;

pub(super) fn check(config: &Config, store: &RedisStore, findings: &mut Vec<Finding>) {
    let at = server_name(&config.redis);
    let facts = match store.facts() {
        Ok(facts) => facts,
        Err(error) => {
            findings.push(Area::Redis.failure(error.message));
            return;
        }
    };
    findings.extend(of_server(&at, &facts));
    let keyspace = Keyspace::new(config.environment_prefix.clone());
    let token = format!("{:x}", fastrand::u64(..));
    let probe = keyspace.probe_key(&token);
    findings.push(match store.write_read_delete(&probe) {
        Ok(()) => Area::Redis.ok("a key below the prefix was written, read and deleted"),
        Err(error) => Area::Redis.failure(error.message),
    });
    findings.push(match run_a_script(store, &keyspace, &token, &probe) {
        Ok(()) => Area::Redis.ok("the scripts that write may be run, and the SDKs' locks looked at"),
        Err(error) => Area::Redis.failure(error.message),
    });
    let steps = std::cell::Cell::new(0);
    let go_on = || {
        steps.set(steps.get() + 1);
        steps.get() < STEPS_MAX
    };
    let prefix = &config.environment_prefix;
    match store.scan_prefixes(&keyspace, &go_on) {
        Ok(survey) if survey.has_own => {
            findings.push(Area::Redis.ok(format!("customers of environment '{prefix}' are cached")));
        }
        Ok(survey) if !survey.others.is_empty() => {
            let others: Vec<String> = survey
                .others
                .iter()
                .take(5)
                .map(|other| format!("'{other}'"))
                .collect();
            findings.push(Area::Redis.warning(format!(
                "no customer of environment '{prefix}' is cached, but some of {}; check that ENVIRONMENT_PREFIX is the \
                 environmentPrefix of the SDKs",
                others.join(", ")
            )));
        }
        Ok(_) => {
            findings.push(Area::Redis.ok(format!("no customer of environment '{prefix}' is cached yet")));
        }
        Err(error) if error.cause == Cause::NoPermission => findings.push(Area::Redis.warning(format!(
            "{}: an invalidation of the environment needs SCAN",
            error.message
        ))),
        // A large Redis: what was not looked at tells nothing.
        Err(_) => {}
    }
}

/// Writes go out as scripts, which an ACL has to allow for themselves, and which look at the SDKs' locks (`P-*`). The
/// usage of a customer that there never was changes nothing.
fn run_a_script(store: &RedisStore, keyspace: &Keyspace, token: &str, probe: &str) -> Result<(), StoreError> {
    let nobody = Subject {
        customer: CustomerId(format!("check-{token}")),
        resource: None,
    };
    let change = CacheChange::WriteUsage(UsageWrite {
        locks: keyspace.reader_locks(&nobody),
        customer_key: probe.to_owned(),
        write: KeyWrite {
            key: probe.to_owned(),
            value: String::new(),
            timestamp: EpochMs(1),
        },
    });
    let outcomes = store.apply(&[(&change, LockPatience::RESPECT)], &|| true)?;
    outcomes.into_iter().try_for_each(|outcome| outcome.map(|_| ()))
}

fn of_server(at: &str, facts: &ServerFacts) -> Vec<Finding> {
    let mut findings = Vec::new();
    let version = facts.version.as_deref().unwrap_or("of unknown version");
    let role = facts.role.as_deref().unwrap_or("unknown");
    if role == "slave" {
        findings.push(Area::Redis.failure(format!(
            "{at} is a replica, which takes no writes; name the primary in REDIS_HOST, or use REDIS_SENTINELS"
        )));
    } else {
        let role = if role == "master" { "primary" } else { role };
        findings.push(Area::Redis.ok(format!("{at} answers: Redis {version}, role {role}")));
    }
    let major = facts
        .version
        .as_ref()
        .and_then(|version| version.split('.').next()?.parse::<u32>().ok());
    if major.is_some_and(|major| major < OLDEST_MAJOR) {
        findings.push(Area::Redis.warning(format!(
            "Redis {version} is old: this service is tested with 7.0; upgrade it"
        )));
    }
    if !facts.is_known {
        findings
            .push(Area::Redis.ok(
                "INFO is not allowed: version, role and memory are not known, and no statistics are had",
            ));
    }
    let Some(policy) = &facts.maxmemory_policy else {
        return findings;
    };
    let is_bounded = facts.maxmemory.is_some_and(|bytes| bytes > 0);
    findings.push(match (is_bounded, policy.as_str()) {
        (false, _) => Area::Redis.ok(format!("maxmemory is not set (policy {policy})")),
        (true, "noeviction") => Area::Redis.warning(
            "maxmemory-policy is noeviction: when Redis is full it refuses writes, and messages wait; set one that evicts, such as \
             volatile-lru, or watch its memory",
        ),
        (true, policy) => Area::Redis.ok(format!("maxmemory-policy is {policy}: an evicted entry is a reader's miss")),
    });
    findings
}

#[cfg(test)]
mod tests {
    use super::super::Status::{Failure, Ok, Warning};
    use super::*;

    #[test]
    fn a_replica_a_bound_without_eviction_and_an_old_server_are_told() {
        let facts = |version: &str, role: &str, policy: &str| ServerFacts {
            is_known: true,
            version: Some(version.to_owned()),
            role: Some(role.to_owned()),
            maxmemory: Some(1),
            maxmemory_policy: Some(policy.to_owned()),
        };
        let statuses = |facts: &ServerFacts| {
            let findings = of_server("db:6379", facts);
            findings.iter().map(|finding| finding.status).collect::<Vec<_>>()
        };
        assert_eq!(statuses(&facts("7.0.15", "master", "volatile-lru")), [Ok, Ok]);
        assert_eq!(statuses(&facts("7.0.15", "slave", "volatile-lru")), [Failure, Ok]);
        assert_eq!(
            statuses(&facts("5.0.1", "master", "noeviction")),
            [Ok, Warning, Warning]
        );
    }
}
