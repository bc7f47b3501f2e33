//! Settings: all faults at once with their remedies and exit status 78; help and version for people.

use crate::support::service::{Settings, run_to_end};
use crate::support::stage::Stage;

/// What sysexits calls a configuration error.
const EX_CONFIG: i32 = 78;

#[test]
fn every_fault_is_told_at_once() {
    let settings = Settings::default()
        .set("PORT", "99999")
        .set("BATCH_SIZE", "11")
        .set("KEYS_TTL_IN_SECS", "soon")
        .set("CACHE_UPDATE_POLICY", "SOMETIMES")
        .set("REDIS_TLS", "perhaps")
        .set("LOG_LEVEL", "loud")
        .set("SERVER_API_KEY", "");
    let (status, output) = run_to_end(&settings, &[]);
    assert_eq!(status.code(), Some(EX_CONFIG), "{output}");
    let at_fault = [
        "PORT",
        "BATCH_SIZE",
        "KEYS_TTL_IN_SECS",
        "CACHE_UPDATE_POLICY",
        "REDIS_TLS",
        "LOG_LEVEL",
        "SERVER_API_KEY",
        "QUEUE_URL",
    ];
    for name in at_fault {
        assert!(output.contains(name), "{name} is not named:\n{output}");
    }
    assert!(
        output.contains("UPDATE_IF_EXISTS") && output.contains("UPSERT"),
        "the remedy:\n{output}"
    );
}

#[test]
fn a_secret_that_is_half_given_is_told_without_the_other_half() {
    let stage = Stage::new();
    let settings = stage
        .settings()
        .unset("AWS_ACCESS_KEY_ID")
        .set("AWS_SECRET_ACCESS_KEY", "half-of-a-pair");
    let (status, output) = run_to_end(&settings, &[]);
    assert_eq!(status.code(), Some(EX_CONFIG), "{output}");
    assert!(output.contains("AWS_ACCESS_KEY_ID"), "{output}");
    assert!(!output.contains("half-of-a-pair"), "{output}");
}

#[test]
fn an_unknown_flag_is_a_configuration_error_too() {
    let (status, output) = run_to_end(&Settings::default(), &["--no-such-flag"]);
    assert!(!status.success(), "{output}");
    assert!(output.contains("--no-such-flag"), "{output}");
}

#[test]
fn help_names_every_setting_with_its_default() {
    let (status, output) = run_to_end(&Settings::default(), &["--help"]);
    assert_eq!(status.code(), Some(0), "{output}");
    let names = [
        "AWS_REGION",
        "QUEUE_URL",
        "SERVER_API_KEY",
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
        "ENVIRONMENT_PREFIX",
        "REDIS_HOST",
        "REDIS_PORT",
        "REDIS_DB",
        "REDIS_USERNAME",
        "REDIS_PASSWORD",
        "REDIS_TLS",
        "BATCH_SIZE",
        "KEYS_TTL_IN_SECS",
        "EDGE_API_URL",
        "SENTRY_DSN",
        "DISABLE_SENTRY",
        "PORT",
        "CACHE_UPDATE_POLICY",
        "LOG_LEVEL",
        "LOG_MESSAGE_KEY",
        "LOG_ERROR_KEY",
        "CACHE_FORMAT",
        "CONSUMERS",
        "WORKERS",
        "WAIT_TIME_SECS",
        "SHUTDOWN_TIMEOUT_SECS",
        "POISON_POLICY",
        "REDIS_URL",
        "REDIS_TLS_CA_FILE",
        "LOG_FORMAT",
    ];
    for name in names {
        assert!(output.contains(name), "{name} is not in the help:\n{output}");
    }
    for default in [
        "production",
        "6379",
        "604800",
        "https://edge.api.stigg.io",
        "4000",
        "UPDATE_IF_EXISTS",
        "compatible",
    ] {
        assert!(
            output.contains(default),
            "the default {default} is not in the help:\n{output}"
        );
    }
}

#[test]
fn version_is_the_packages() {
    let (status, output) = run_to_end(&Settings::default(), &["--version"]);
    assert_eq!(status.code(), Some(0), "{output}");
    assert!(output.contains(env!("CARGO_PKG_VERSION")), "{output}");
}

#[test]
fn a_secret_in_help_or_error_output_is_never_shown() {
    let settings = Settings::default()
        .set("SERVER_API_KEY", "key-that-must-not-show")
        .set("REDIS_PASSWORD", "password-that-must-not-show")
        .set("AWS_SECRET_ACCESS_KEY", "secret-that-must-not-show")
        .set("SENTRY_DSN", "https://dsn-that-must-not-show@127.0.0.1/1");
    for arguments in [&["--help"][..], &[][..]] {
        let (_, output) = run_to_end(&settings, arguments);
        assert!(!output.contains("must-not-show"), "{arguments:?}:\n{output}");
    }
}
