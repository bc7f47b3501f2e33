//! Numbers, choices, booleans, older names, secrets in files, the log, Sentry.

use super::super::{CacheUpdatePolicy, Expiry, LogFormat, PoisonPolicy, Secret, SentryConfig};
use super::{LEAST, TestFile, config, faults, notices, settings};
use crate::entitlement::stored::CacheFormat;

#[test]
fn a_number_beyond_its_bounds_is_a_fault_and_the_bounds_themselves_are_taken() {
    for (variable, least, most, below, above) in [
        ("BATCH_SIZE", "1", "10", "0", "11"),
        ("PORT", "0", "65535", "-1", "65536"),
        ("REDIS_PORT", "1", "65535", "0", "65536"),
        ("REDIS_DB", "0", "65535", "-1", "65536"),
        ("CONSUMERS", "1", "256", "0", "257"),
        ("WORKERS", "1", "256", "0", "257"),
        ("WAIT_TIME_SECS", "0", "20", "-1", "21"),
        ("SHUTDOWN_TIMEOUT_SECS", "1", "3600", "0", "3601"),
    ] {
        for good in [least, most] {
            assert!(notices(&[(variable, good)]).is_empty(), "{variable}={good}");
        }
        for bad in [below, above, "ten", "1.5", "0x1"] {
            assert_eq!(
                faults(&[(variable, bad)]),
                [format!("{variable}: '{bad}' is not a whole number from {least} to {most}; set one")]
            );
        }
    }
}

#[test]
fn numbers_arrive_where_they_belong() {
    let config = config(&[
        ("BATCH_SIZE", "2"),
        ("PORT", "3"),
        ("CONSUMERS", "4"),
        ("WORKERS", "5"),
        ("WAIT_TIME_SECS", "6"),
        ("SHUTDOWN_TIMEOUT_SECS", "7"),
    ]);
    assert_eq!((config.batch_size, config.port, config.consumers, config.workers), (2, 3, 4, 5));
    assert_eq!((config.wait_time.as_secs(), config.shutdown_timeout.as_secs()), (6, 7));
}

#[test]
fn booleans_are_taken_in_every_spelling_and_case() {
    for (value, is_disabled) in [
        ("1", true),
        ("TRUE", true),
        ("Yes", true),
        ("on", true),
        ("0", false),
        ("False", false),
        ("NO", false),
        ("off", false),
    ] {
        let is = config(&[("DISABLE_SENTRY", value)]).sentry == SentryConfig::Disabled;
        assert_eq!(is, is_disabled, "{value}");
    }
    assert_eq!(
        faults(&[("REDIS_TLS", "2")]),
        ["REDIS_TLS: '2' is not known; set one of 0, 1, false, true, no, yes, off, on"]
    );
}

#[test]
fn choices_are_taken_in_any_case_and_a_fault_lists_them() {
    let config = config(&[
        ("CACHE_UPDATE_POLICY", "upsert"),
        ("CACHE_FORMAT", "V4"),
        ("POISON_POLICY", "Delete"),
        ("LOG_LEVEL", "WARN"),
        ("LOG_FORMAT", "TEXT"),
    ]);
    assert_eq!(config.cache_update_policy, CacheUpdatePolicy::Upsert);
    assert_eq!(config.cache_format, CacheFormat::V4);
    assert_eq!(config.poison_policy, PoisonPolicy::Delete);
    assert_eq!((config.log.level, config.log.format), (log::LevelFilter::Warn, LogFormat::Text));
    for (variable, accepted) in [
        ("CACHE_UPDATE_POLICY", "UPDATE_IF_EXISTS, UPSERT"),
        ("CACHE_FORMAT", "compatible, v3, v4"),
        ("POISON_POLICY", "redrive, delete"),
        ("LOG_LEVEL", "error, warn, info, debug, trace"),
        ("LOG_FORMAT", "json, text"),
    ] {
        assert_eq!(
            faults(&[(variable, "silly")]),
            [format!("{variable}: 'silly' is not known; set one of {accepted}")]
        );
    }
}

#[test]
fn every_log_level_is_taken_and_trace_too() {
    for (level, filter) in [
        ("error", log::LevelFilter::Error),
        ("info", log::LevelFilter::Info),
        ("debug", log::LevelFilter::Debug),
        ("trace", log::LevelFilter::Trace),
    ] {
        assert_eq!(config(&[("LOG_LEVEL", level)]).log.level, filter);
    }
}

#[test]
fn a_long_or_odd_value_is_shown_short_and_in_one_line() {
    let odd = format!("a\nb{}", "x".repeat(500));
    let faults = faults(&[("LOG_LEVEL", &odd)]);
    assert!(faults[0].starts_with("LOG_LEVEL: 'a\\nbxxx") && faults[0].len() < 150, "{faults:?}");
}

#[test]
fn older_names_work_where_the_newer_is_not_set_and_a_notice_names_the_newer() {
    let older = config(&[
        ("REDIS_ENVIRONMENT_PREFIX", "staging"),
        ("REDIS_USER", "stigg"),
        ("REDIS_PASSWORD", "p"),
        ("TTL_IN_SECS", "60"),
    ]);
    assert_eq!(older.environment_prefix, "staging");
    assert_eq!(older.redis.username.as_deref(), Some("stigg"));
    assert_eq!(older.expiry, Expiry::Seconds(60));
    assert_eq!(
        older.notices,
        [
            "REDIS_USER: is the older name of REDIS_USERNAME; use REDIS_USERNAME",
            "REDIS_ENVIRONMENT_PREFIX: is the older name of ENVIRONMENT_PREFIX; use ENVIRONMENT_PREFIX",
            "TTL_IN_SECS: is the older name of KEYS_TTL_IN_SECS; use KEYS_TTL_IN_SECS",
        ]
    );

    let both = config(&[("TTL_IN_SECS", "60"), ("KEYS_TTL_IN_SECS", "604800")]);
    assert_eq!(both.expiry, Expiry::Seconds(604_800), "the newer wins, even with its default");
    assert_eq!(both.notices, ["TTL_IN_SECS: has no effect, as KEYS_TTL_IN_SECS is set"]);
    assert!(faults(&[("TTL_IN_SECS", "x")])[0].starts_with("TTL_IN_SECS: 'x' "));
}

#[test]
fn the_count_of_lock_retries_is_accepted_without_effect_and_said_so() {
    assert_eq!(
        notices(&[("CACHE_LOCK_RETRY_COUNT", "3")]),
        ["CACHE_LOCK_RETRY_COUNT: has no effect: this service takes no lock, so there is nothing to retry"]
    );
}

#[test]
fn the_life_of_keys_is_seconds_negative_for_ever_and_never_zero() {
    for (value, expiry) in [("1", Expiry::Seconds(1)), ("-1", Expiry::Never), ("-604800", Expiry::Never)] {
        assert_eq!(config(&[("KEYS_TTL_IN_SECS", value)]).expiry, expiry);
    }
    let remedy = "is not a lifetime; set 1 to 3153600000 seconds (100 years), or -1 for ever";
    for value in ["0", "7d", "604800000000"] {
        assert_eq!(faults(&[("KEYS_TTL_IN_SECS", value)]), [format!("KEYS_TTL_IN_SECS: '{value}' {remedy}")]);
    }
    assert_eq!(
        notices(&[("KEYS_TTL_IN_SECS", "604800000")]),
        ["KEYS_TTL_IN_SECS: 604800000 seconds are more than a year; the unit is seconds, not milliseconds"]
    );
}

#[test]
fn a_secret_may_come_from_a_file_which_is_read_again_at_each_use() {
    let file = TestFile::new("secret-file", b"first\n");
    let path = file.path();
    let config = config(&[
        ("SERVER_API_KEY", ""),
        ("SERVER_API_KEY_FILE", &path),
        ("AWS_ACCESS_KEY_ID", "AKIA123"),
        ("AWS_SECRET_ACCESS_KEY_FILE", &path),
        ("REDIS_PASSWORD_FILE", &path),
    ]);
    assert_eq!(config.redis.password, Some(Secret::file(&path)));
    assert_eq!(config.server_api_key.read().unwrap(), "first");
    std::fs::write(&path, "second\r\n").unwrap();
    assert_eq!(config.server_api_key.read().unwrap(), "second");
    assert!(!format!("{config:?}").contains("second"));
}

#[test]
fn a_secret_given_twice_or_whose_file_is_of_no_use_is_a_fault() {
    let empty = TestFile::new("empty-secret", b" \n");
    let dsn = "https://key@sentry.example/1";
    for name in ["SERVER_API_KEY", "AWS_SECRET_ACCESS_KEY", "REDIS_PASSWORD", "SENTRY_DSN"] {
        let file = format!("{name}_FILE");
        let id = if name.starts_with("AWS") { "AKIA123" } else { "" };
        let others =
            [("AWS_ACCESS_KEY_ID", id), ("SERVER_API_KEY", if name == "SERVER_API_KEY" { "" } else { "k" })];
        let of = |more: &[(&str, &str)]| faults(&[&others[..], more].concat());
        assert_eq!(
            of(&[(name, dsn), (&file, &empty.path())]),
            [format!("{name}: is given together with {file}; unset one")]
        );
        assert_eq!(
            of(&[(&file, &empty.path())]),
            [format!("{file}: {} is empty or not UTF-8; put the secret into it", empty.path())]
        );
        assert_eq!(
            of(&[(&file, "/nonexistent/secret")]),
            [format!(
                "{file}: cannot read /nonexistent/secret: no such file; check the path and its permissions"
            )]
        );
    }
}

#[test]
fn a_secret_put_where_its_file_belongs_does_not_show() {
    let faults = faults(&[("REDIS_PASSWORD_FILE", "hunter2")]);
    assert_eq!(
        faults,
        [
            "REDIS_PASSWORD_FILE: cannot read the file (its name is not shown, as it may be the secret itself): \
             no such file; check the path and its permissions"
        ]
    );
}

#[cfg(unix)]
#[test]
fn what_cannot_be_read_again_is_no_file_for_a_secret() {
    for (path, why) in [("/dev/null", "seek on unseekable file"), ("/", "is a directory")] {
        assert_eq!(
            faults(&[("REDIS_PASSWORD_FILE", path)]),
            [format!("REDIS_PASSWORD_FILE: cannot read {path}: {why}; check the path and its permissions")]
        );
    }
}

#[test]
fn log_keys_that_would_come_twice_in_a_line_are_faults() {
    assert_eq!(
        faults(&[("LOG_MESSAGE_KEY", "level")]),
        [
            "LOG_MESSAGE_KEY: 'level' is the key of another field; set one other than time, level, target and thread"
        ]
    );
    assert_eq!(
        faults(&[("LOG_MESSAGE_KEY", "err")]),
        ["LOG_ERROR_KEY: is the same key as LOG_MESSAGE_KEY; set another"]
    );
    let log = config(&[("LOG_MESSAGE_KEY", "message"), ("LOG_ERROR_KEY", "error")]).log;
    assert_eq!((log.message_key.as_str(), log.error_key.as_str()), ("message", "error"));
}

#[test]
fn sentry_is_off_or_has_a_dsn_or_asks_for_one() {
    let dsn = "https://key@sentry.example/prefix/42";
    assert_eq!(config(&[]).sentry, SentryConfig::RemoteConfiguration);
    for spaced in [dsn.to_owned(), format!(" {dsn} \n")] {
        assert_eq!(config(&[("SENTRY_DSN", &spaced)]).sentry, SentryConfig::Dsn(Secret::inline(dsn)));
    }
    let off = config(&[("SENTRY_DSN", "whatever"), ("DISABLE_SENTRY", "1")]);
    assert_eq!(off.sentry, SentryConfig::Disabled);
    for not_a_dsn in
        ["sentry.example", "https://sentry.example/1", "https://key@sentry.example/", "ftp://key@h/1"]
    {
        assert_eq!(
            faults(&[("SENTRY_DSN", not_a_dsn)]),
            [
                "SENTRY_DSN: is not a Sentry DSN (https://<key>@<host>/<project>); copy it from Sentry, or set \
                 DISABLE_SENTRY=1"
            ]
        );
    }
}

#[test]
fn a_value_in_quotes_is_kept_and_told() {
    let quoted = "starts and ends with quotes, which are part of the value (docker --env-file keeps them); remove them";
    for (name, value) in [
        ("ENVIRONMENT_PREFIX", "\"production\""),
        ("REDIS_USERNAME", "'stigg'"),
        ("REDIS_PASSWORD", "\"p\""),
        ("LOG_MESSAGE_KEY", "\"message\""),
    ] {
        let notices = notices(&[("REDIS_PASSWORD", "p"), (name, value)]);
        assert_eq!(notices, [format!("{name}: {quoted}")], "{value}");
    }
    let kept = config(&[("ENVIRONMENT_PREFIX", "'staging'")]);
    assert_eq!(kept.environment_prefix, "'staging'");
    for value in ["\"", "'a", "a\"", "\"a'"] {
        assert!(notices(&[("ENVIRONMENT_PREFIX", value)]).is_empty(), "{value}");
    }
    assert_eq!(
        faults(&[("PORT", "\"4000\""), ("REDIS_TLS", "'1'")]),
        [
            "REDIS_TLS: '\\'1\\'' is not known; set one of 0, 1, false, true, no, yes, off, on; remove the quotes around the value",
            "PORT: '\\\"4000\\\"' is not a whole number from 0 to 65535; set one; remove the quotes around the value",
        ]
    );
}

#[test]
fn a_secret_given_as_a_flag_is_reported_without_it() {
    let notices = |flags: &[&str], environment: &[(&str, &str)]| {
        let settings = settings(flags, &[&LEAST[..], environment].concat());
        settings.validate().unwrap().notices
    };
    for (flag, secret) in [
        ("--server-api-key", "hunter2"),
        ("--redis-password", "hunter2"),
        ("--sentry-dsn", "https://hunter2@sentry.example/1"),
        ("--https-proxy", "http://user:hunter2@proxy:3128"),
        ("--https-proxy", "user:hunter2@proxy:3128"),
    ] {
        let notices = notices(&[flag, secret], &[]);
        let name = flag.trim_start_matches('-').replace('-', "_").to_uppercase();
        assert_eq!(notices.len(), 1, "{notices:?}");
        assert!(notices[0].starts_with(&format!("{name}: is given as a flag, ")));
        assert!(!notices[0].contains("hunter2"), "{notices:?}");
    }
    for url in ["redis://:hunter2@db-1", "unix:///run/redis.sock?pass=hunter2"] {
        let notices = notices(&["--redis-url", url], &[("REDIS_HOST", "")]);
        assert!(notices[0].starts_with("REDIS_URL: is given as a flag, "), "{notices:?}");
    }
    let harmless = ["--redis-host", "db-1", "--environment-prefix", "a?b", "--https-proxy", "proxy:3128"];
    assert_eq!(notices(&harmless, &[]), [""; 0]);
}

#[test]
fn a_secret_file_that_every_user_can_read_or_change_is_reported() {
    use std::os::unix::fs::PermissionsExt;

    let file = TestFile::new("open-secret", b"secret");
    let path = file.path();
    let with_mode = |mode: u32| {
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        notices(&[("REDIS_PASSWORD_FILE", &path)])
    };
    for mode in [0o666, 0o644, 0o604, 0o602] {
        let expected = format!(
            "REDIS_PASSWORD_FILE: every user can read or change {path} (mode {mode:04o}); chmod 600 it"
        );
        assert_eq!(with_mode(mode), [expected]);
    }
    for mode in [0o600, 0o400, 0o440, 0o660, 0o601] {
        assert_eq!(with_mode(mode), [""; 0], "{mode:o}");
    }
}

#[test]
fn a_secret_that_kubernetes_mounts_is_reported_only_if_others_can_change_it() {
    use std::os::unix::fs::PermissionsExt;

    let volume = std::env::temp_dir().join(format!("pcs-volume-{}", std::process::id()));
    std::fs::create_dir_all(volume.join("..2026")).unwrap();
    std::os::unix::fs::symlink("..2026", volume.join("..data")).unwrap();
    let file = volume.join("password");
    std::fs::write(&file, "secret").unwrap();
    let notices_at = |mode: u32| {
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
        notices(&[("REDIS_PASSWORD_FILE", file.to_str().unwrap())]).len()
    };
    assert_eq!((notices_at(0o644), notices_at(0o666)), (0, 1));
    std::fs::remove_dir_all(&volume).unwrap();
}

#[test]
fn what_others_set_in_another_encoding_prevents_nothing() {
    use std::os::unix::ffi::OsStringExt;

    for name in ["HOME", "NO_PROXY", "https_proxy", "NO_COLOR"] {
        let least = LEAST.iter().map(|(name, value)| (name.into(), value.into()));
        let odd = std::ffi::OsString::from_vec(b"/home/\xe9".to_vec());
        let environment = least.chain([(name.into(), odd)]).collect();
        let config = super::read(["x"], &environment).unwrap().validate().unwrap();
        let name = name.to_uppercase();
        assert_eq!(config.notices, [format!("{name}: is not UTF-8, and is ignored")]);
    }
}
