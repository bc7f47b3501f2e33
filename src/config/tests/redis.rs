//! Redis by its settings, by URL, and what this version does not do.

use std::path::PathBuf;

use super::super::{RedisAddress, RedisConfig, RedisIam, RedisTls, Secret, SentinelConfig};
use super::{config, faults, notices, settings};

fn tcp(host: &str, port: u16) -> RedisAddress {
    RedisAddress::Tcp { host: host.to_owned(), port }
}

fn by_url(url: &str) -> RedisConfig {
    config(&[("REDIS_HOST", ""), ("REDIS_URL", url)]).redis
}

#[test]
fn redis_is_reached_by_its_own_settings() {
    assert_eq!(
        config(&[
            ("REDIS_HOST", "db-1"),
            ("REDIS_PORT", "6380"),
            ("REDIS_DB", "2"),
            ("REDIS_USERNAME", "stigg"),
            ("REDIS_PASSWORD", "p:@/#"),
            ("REDIS_TLS", "Yes"),
        ])
        .redis,
        RedisConfig {
            address: tcp("db-1", 6380),
            db: 2,
            username: Some("stigg".to_owned()),
            password: Some(Secret::inline("p:@/#")),
            iam: None,
            tls: Some(RedisTls::default()),
        }
    );
}

#[test]
fn an_ipv6_address_is_taken_with_and_without_brackets() {
    for host in ["fd00::1", "[fd00::1]"] {
        assert_eq!(config(&[("REDIS_HOST", host)]).redis.address, tcp("fd00::1", 6379));
    }
}

#[test]
fn what_is_no_host_name_is_a_fault_with_its_remedy() {
    for (host, shown) in [
        ("redis://db-1:6379", "'redis://db-1:6379'"),
        ("/run/redis.sock", "'/run/redis.sock'"),
        ("db-1:6379", "'db-1:6379'"),
        ("[fd00::1]:6379", "'[fd00::1]:6379'"),
        ("db-1,db-2", "'db-1,db-2'"),
        ("user@db-1", "the value (not shown, it may hold a password)"),
        ("db 1", "'db 1'"),
    ] {
        let remedy = "set just that here, a port in REDIS_PORT, and a URL or the path of a socket in REDIS_URL (unix:///path)";
        let fault = format!("REDIS_HOST: {shown} is not a host name or an address; {remedy}");
        assert_eq!(faults(&[("REDIS_HOST", host)]), [fault]);
    }
}

#[test]
fn the_port_that_kubernetes_sets_for_a_service_named_redis_counts_as_not_set() {
    for (value, beside, address) in [
        ("tcp://10.96.0.7:6380", ("REDIS_HOST", "db-1"), tcp("db-1", 6379)),
        ("udp://[fd00::7]:6380", ("REDIS_URL", "redis://db-2:7000"), tcp("db-2", 7000)),
        ("sctp://10.0.0.1:1", ("REDIS_HOST", "db-3"), tcp("db-3", 6379)),
    ] {
        let config = config(&[("REDIS_HOST", ""), ("REDIS_PORT", value), beside]);
        assert_eq!(config.redis.address, address);
        let notice = format!(
            "REDIS_PORT: '{value}' is ignored: Kubernetes sets it for a Service of that name (service links); set a \
             number yourself, or enableServiceLinks: false in the pod"
        );
        assert_eq!(config.notices, [notice]);
    }
    // Not in a flag, which Kubernetes does not set; nor in a variable of another name.
    let flag = settings(&["--redis-port", "tcp://10.96.0.7:6379"], &super::LEAST);
    assert_eq!(flag.validate().unwrap_err().0.len(), 1);
    let url = faults(&[("REDIS_HOST", ""), ("REDIS_URL", "tcp://10.96.0.7:6379")]);
    assert!(url[0].contains("is not a URL of Redis; set redis://"), "{url:?}");
}

#[test]
fn a_redis_url_says_it_all_with_user_and_password_percent_decoded() {
    assert_eq!(
        by_url("redis://us%65r:p%40ss%2F%C3%A9@db-1:6380/2"),
        RedisConfig {
            address: tcp("db-1", 6380),
            db: 2,
            username: Some("user".to_owned()),
            password: Some(Secret::inline("p@ss/é")),
            iam: None,
            tls: None,
        }
    );
    assert_eq!(
        by_url("rediss://:secret@[fd00::1]"),
        RedisConfig {
            address: tcp("fd00::1", 6379),
            db: 0,
            username: None,
            password: Some(Secret::inline("secret")),
            iam: None,
            tls: Some(RedisTls::default()),
        }
    );
    assert_eq!(
        by_url("unix:///run/my%20redis.sock?db=1&user=stigg&pass=p%40ss"),
        RedisConfig {
            address: RedisAddress::Unix(PathBuf::from("/run/my redis.sock")),
            db: 1,
            username: Some("stigg".to_owned()),
            password: Some(Secret::inline("p@ss")),
            iam: None,
            tls: None,
        }
    );
    assert_eq!(by_url("redis+unix:///run/redis.sock"), by_url("unix:///run/redis.sock"));
    assert_eq!(by_url("redis://db-1/"), by_url("redis://db-1:6379/0"));
    assert!(by_url("rediss://db-1/#insecure").tls.is_some_and(|tls| tls.insecure));
}

#[test]
fn what_is_no_redis_url_is_a_fault_with_its_remedy_that_does_not_show_it() {
    for (url, fault) in [
        ("db-1:6379", "is not a URL of Redis"),
        ("http://db-1", "is not a URL of Redis"),
        ("redis://db-1:port", "is not a URL (invalid port number)"),
        ("redis:///0", "names no host"),
        ("redis://db-1/one", "holds a database that is not a number from 0 to 65535"),
        ("redis://db-1/65536", "holds a database that is not a number from 0 to 65535"),
        ("redis://db-1/1/2", "holds a database that is not a number from 0 to 65535"),
        ("redis://db-1?db=1", "holds a query or a fragment that is not known"),
        ("redis://db-1#insecure", "holds a query or a fragment that is not known"),
        ("redis://:%ff@db-1", "holds a percent-encoded part that is not UTF-8"),
        ("unix://run/redis.sock", "names no absolute path"),
        ("unix:run.sock", "names no absolute path"),
        ("unix:///run/redis.sock?tls=1", "holds a query or a fragment that is not known"),
    ] {
        let remedy = "set redis://user:password@host:6379/0 (rediss:// for TLS) or unix:///path?db=0&user=…&pass=…, \
                      with user and password percent-encoded";
        assert_eq!(
            faults(&[("REDIS_HOST", ""), ("REDIS_URL", url)]),
            [format!("REDIS_URL: {fault}; {remedy}")],
            "{url}"
        );
    }
}

#[test]
fn a_url_together_with_what_it_says_is_a_fault_that_names_both() {
    assert_eq!(
        faults(&[
            ("REDIS_URL", "redis://db-1"),
            ("REDIS_PORT", "6379"),
            ("REDIS_DB", "0"),
            ("REDIS_USERNAME", "u"),
            ("REDIS_USER", "u"),
            ("REDIS_PASSWORD", "p"),
            ("REDIS_PASSWORD_FILE", "/p"),
            ("REDIS_TLS", "0"),
        ]),
        [
            "REDIS_URL: is given together with REDIS_HOST, REDIS_PORT, REDIS_DB, REDIS_USERNAME, REDIS_PASSWORD, \
             REDIS_PASSWORD_FILE, REDIS_TLS, REDIS_USER; unset one or the other"
        ]
    );
}

#[test]
fn a_user_without_a_password_is_a_notice() {
    assert_eq!(
        notices(&[("REDIS_USERNAME", "stigg")]),
        ["REDIS_USERNAME: is given without a password, and Redis needs both; set REDIS_PASSWORD"]
    );
}

/// Settings under which IAM works, with these on top.
fn iam<'a>(more: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    let works = [
        ("AWS_ACCESS_KEY_ID", "AKIA1"),
        ("AWS_SECRET_ACCESS_KEY", "s3cret"),
        ("REDIS_TLS", "1"),
        ("REDIS_USERNAME", "stigg"),
        ("REDIS_IAM_AUTH", "1"),
        ("REDIS_IAM_CACHE_NAME", "My-Cache"),
    ];
    [&works[..], more].concat()
}

#[test]
fn tokens_are_signed_for_the_queues_region_unless_another_is_named() {
    let plain = config(&iam(&[]));
    let expected = RedisIam {
        cache_name: "my-cache".to_owned(),
        region: "us-east-1".to_owned(),
        is_serverless: false,
        credentials: Box::new(plain.credentials.clone()),
    };
    assert_eq!(plain.redis.iam, Some(expected.clone()));
    assert_eq!(plain.notices, [""; 0], "no password is missed");
    let more = [
        ("REDIS_IAM_REGION", "eu-west-1"),
        ("REDIS_IAM_SERVERLESS", "yes"),
        ("ENVIRONMENT_PREFIX", "{production}"),
    ];
    assert_eq!(
        config(&iam(&more)).redis.iam,
        Some(RedisIam { region: "eu-west-1".to_owned(), is_serverless: true, ..expected })
    );
    let url = [
        ("REDIS_HOST", ""),
        ("REDIS_TLS", ""),
        ("REDIS_USERNAME", ""),
        ("REDIS_URL", "rediss://stigg@cache.internal"),
    ];
    assert!(config(&iam(&url)).redis.iam.is_some(), "by a URL, too");
}

#[test]
fn what_iam_cannot_work_with_is_reported_with_its_remedy() {
    const NEEDS_TLS: &str = "REDIS_IAM_AUTH: needs the host of an ElastiCache cache, and TLS; set REDIS_HOST and REDIS_TLS=1, or a \
                             rediss:// URL";
    for (more, expected) in [
        (&[("REDIS_TLS", "0")][..], NEEDS_TLS),
        (
            &[("REDIS_USERNAME", "")],
            "REDIS_USERNAME: is required with REDIS_IAM_AUTH; set the ElastiCache user's id",
        ),
        (
            &[("REDIS_IAM_CACHE_NAME", "")],
            "REDIS_IAM_CACHE_NAME: is required with REDIS_IAM_AUTH; set the name of the serverless cache or replication \
             group",
        ),
        (
            &[("REDIS_IAM_CACHE_NAME", "my-cache.x.cache.amazonaws.com")],
            "REDIS_IAM_CACHE_NAME: 'my-cache.x.cache.amazonaws.com' is not the name of a cache; set that, not its host \
             name",
        ),
        (
            &[("REDIS_PASSWORD", "p")],
            "REDIS_IAM_AUTH: uses tokens instead of a password; unset one of the two",
        ),
        (
            &[("AWS_ACCESS_KEY_ID", ""), ("AWS_SECRET_ACCESS_KEY", "")],
            "REDIS_IAM_AUTH: needs AWS credentials other than those of Stigg's Edge API; set AWS_ACCESS_KEY_ID and \
             AWS_SECRET_ACCESS_KEY, or another source of credentials",
        ),
        (&[("REDIS_HOST", ""), ("REDIS_SENTINELS", "s-1"), ("REDIS_SENTINEL_MASTER", "m")], NEEDS_TLS),
        (
            &[("REDIS_IAM_AUTH", "0")],
            "REDIS_IAM_CACHE_NAME: is given while REDIS_IAM_AUTH is off; set REDIS_IAM_AUTH=1, or unset it",
        ),
    ] {
        assert_eq!(faults(&iam(more)), [expected]);
    }
    let unix = [
        ("REDIS_HOST", ""),
        ("REDIS_TLS", ""),
        ("REDIS_USERNAME", ""),
        ("REDIS_URL", "unix:///run/redis.sock?user=stigg&pass=p"),
    ];
    assert_eq!(
        faults(&iam(&unix)),
        [NEEDS_TLS, "REDIS_IAM_AUTH: uses tokens instead of a password; unset one of the two",]
    );
}

#[test]
fn a_serverless_cache_needs_a_prefix_with_a_hash_tag() {
    let remedy = "has no hash tag, which REDIS_IAM_SERVERLESS needs: it is a cluster, where all keys of an environment must be \
                  in one slot: put a hash tag into the prefix, as in ENVIRONMENT_PREFIX='{production}', in every SDK too, \
                  and set REDIS_DB=0";
    for prefix in ["production", "{}production", "production}{"] {
        for setting in ["ENVIRONMENT_PREFIX", "REDIS_ENVIRONMENT_PREFIX"] {
            let expected = [format!("{setting}: '{prefix}' {remedy}")];
            assert_eq!(faults(&iam(&[("REDIS_IAM_SERVERLESS", "1"), (setting, prefix)])), expected);
        }
        let _ = config(&iam(&[("ENVIRONMENT_PREFIX", prefix)])); // any other cache may have it
        let _ = config(&[("REDIS_IAM_SERVERLESS", "1"), ("ENVIRONMENT_PREFIX", prefix)]);
    }
    for prefix in ["{production}", "stigg-{a}", "{a}{b}"] {
        let _ = config(&iam(&[("REDIS_IAM_SERVERLESS", "1"), ("ENVIRONMENT_PREFIX", prefix)]));
    }
}

fn sentinels(more: &[(&str, &str)]) -> RedisConfig {
    let settings = [
        &[
            ("REDIS_HOST", ""),
            ("REDIS_SENTINELS", ",s-1:26380, ,, s-2 ,[fd00::1]:5000,"),
            ("REDIS_SENTINEL_MASTER", "mymaster"),
        ],
        more,
    ];
    config(&settings.concat()).redis
}

#[test]
fn sentinels_stand_in_for_the_host() {
    let expected = SentinelConfig {
        sentinels: vec![
            ("s-1".to_owned(), 26_380),
            ("s-2".to_owned(), 26_379),
            ("fd00::1".to_owned(), 5_000),
        ],
        master: "mymaster".to_owned(),
        username: Some("watcher".to_owned()),
        password: Some(Secret::inline("of-the-watcher")),
        tls: false,
    };
    let config = sentinels(&[
        ("REDIS_SENTINEL_USERNAME", "watcher"),
        ("REDIS_SENTINEL_PASSWORD", "of-the-watcher"),
        ("REDIS_PASSWORD", "of-redis"),
    ]);
    assert_eq!(config.address, RedisAddress::Sentinel(expected));
    assert_eq!(config.password, Some(Secret::inline("of-redis")));
}

#[test]
fn sentinels_speak_tls_as_redis_does_unless_told_otherwise() {
    for (settings, expected) in [
        (&[("REDIS_TLS", "1")][..], (true, true)),
        (&[("REDIS_TLS", "1"), ("REDIS_SENTINEL_TLS", "0")], (true, false)),
        (&[("REDIS_SENTINEL_TLS", "1")], (false, true)),
    ] {
        let config = sentinels(settings);
        let RedisAddress::Sentinel(sentinel) = config.address else { panic!("no sentinel") };
        assert_eq!((config.tls.is_some(), sentinel.tls), expected, "{settings:?}");
    }
}

#[test]
fn what_is_wrong_with_sentinels_is_reported_with_its_remedy() {
    assert_eq!(
        faults(&[("REDIS_SENTINELS", "s-1:x"), ("REDIS_HOST", "db-1")]),
        [
            "REDIS_HOST: is given together with REDIS_SENTINELS; unset one of the two",
            "REDIS_SENTINELS: 's-1:x' is not host:port; set a list like sentinel-1:26379,sentinel-2:26379",
            "REDIS_SENTINEL_MASTER: is required with REDIS_SENTINELS; set the name under which the sentinels monitor the \
             primary, often mymaster",
        ]
    );
    assert_eq!(
        faults(&[("REDIS_SENTINELS", ", ,"), ("REDIS_HOST", ""), ("REDIS_SENTINEL_MASTER", "m")]),
        ["REDIS_SENTINELS: names no sentinel; set a list like sentinel-1:26379,sentinel-2:26379"]
    );
    assert_eq!(
        faults(&[("REDIS_SENTINEL_MASTER", "mymaster")]),
        ["REDIS_SENTINEL_MASTER: is given without REDIS_SENTINELS; set that too, or unset it"]
    );
}
