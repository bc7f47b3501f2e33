//! Settings: all faults at once with their remedies and exit status 78; help and version for people; what else sets
//! variables, and what a start warns of.

use std::fs::{Permissions, set_permissions};
use std::os::unix::fs::PermissionsExt;

use crate::fakes::queue::QueueOptions;
use crate::support::aws::Directory;
use crate::support::fake_stage::FakeStage;
use crate::support::messages::{Shape, entitlements_updated};
use crate::support::sdk::Owner;
use crate::support::service::{SERVER_API_KEY, Service, Settings, binary, run_to_end};
use crate::support::stage::{PREFIX, Stage};
use crate::support::state::{State, every_kind, hours_ago};

/// What sysexits calls a configuration error.
const EX_CONFIG: i32 = 78;

#[test]
fn every_fault_is_reported_at_once() {
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
    assert!(output.contains("UPDATE_IF_EXISTS") && output.contains("UPSERT"), "the remedy:\n{output}");
}

#[test]
fn a_secret_that_is_half_given_is_reported_without_the_other_half() {
    let stage = Stage::new();
    let settings = stage.settings().unset("AWS_ACCESS_KEY_ID").set("AWS_SECRET_ACCESS_KEY", "half-of-a-pair");
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
        assert!(output.contains(default), "the default {default} is not in the help:\n{output}");
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

/// Warnings of a running service that begin with this variable.
fn warnings(service: &Service, variable: &str) -> Vec<String> {
    let log = service.log();
    let warnings = log.iter().filter(|record| record["level"] == "warn");
    let texts = warnings.filter_map(|record| record["msg"].as_str());
    let begin = format!("{variable}: ");
    texts.filter(|text| text.starts_with(&begin)).map(str::to_owned).collect()
}

/// Applies a message to a customer of nobody's; the keys are those of this prefix.
fn writes_below(prefix: &str, stage: &FakeStage, service: &Service) {
    let state = State::new(Owner::customer("customer-1"), hours_ago(1), &every_kind(0));
    stage.deliver(service, &[entitlements_updated(&state, Shape::GraphqlV2).raw()]);
    let key = format!("{}#timestamp", state.owner().key(prefix));
    assert!(stage.redis.get(&key).is_some(), "{key} in {:?}", stage.redis.keys());
}

#[test]
fn what_kubernetes_sets_for_a_service_named_redis_counts_as_not_set() {
    let stage = FakeStage::new(QueueOptions::default());
    for value in ["udp://[fd00::7]:6380", "tcp://10.43.0.9:16379"] {
        let settings = stage
            .settings()
            .unset("REDIS_HOST")
            .set("REDIS_URL", format!("unix://{}", stage.redis.socket().display()))
            .set("REDIS_PORT", value)
            // The others that come with it are nobody's.
            .set("REDIS_SERVICE_HOST", "10.43.0.9")
            .set("REDIS_SERVICE_PORT", "16379")
            .set("REDIS_PORT_16379_TCP", value);
        let service = Service::start(&settings);
        writes_below(PREFIX, &stage, &service);
        let warnings = warnings(&service, "REDIS_PORT");
        assert_eq!(warnings.len(), 1, "{warnings:?}");
        for part in [value, "service links", "enableServiceLinks: false"] {
            assert!(warnings[0].contains(part), "{part}: {warnings:?}");
        }
        service.stop();
    }
    // A port that is given by hand is a fault beside a URL, as ever.
    let settings = stage.settings().set("REDIS_URL", "redis://db-1").set("REDIS_PORT", "6379");
    let (status, output) = run_to_end(&settings, &[]);
    assert_eq!(status.code(), Some(EX_CONFIG), "{output}");
}

#[test]
fn quotes_that_a_tool_kept_are_reported_and_belong_to_the_value() {
    let stage = FakeStage::new(QueueOptions::default());
    for prefix in ["'staging'", "\"eu-1\""] {
        let settings = stage.settings().set("ENVIRONMENT_PREFIX", prefix);
        let service = Service::start(&settings);
        writes_below(prefix, &stage, &service);
        let warnings = warnings(&service, "ENVIRONMENT_PREFIX");
        assert_eq!(warnings.len(), 1, "{warnings:?}");
        assert!(warnings[0].contains("quotes"), "{warnings:?}");
        service.stop();
    }
    let settings = stage.settings().set("REDIS_DB", "\"1\"").set("LOG_FORMAT", "'json'");
    let (status, output) = run_to_end(&settings, &[]);
    assert_eq!(status.code(), Some(EX_CONFIG), "{output}");
    assert_eq!(output.matches("remove the quotes").count(), 2, "{output}");
}

#[test]
fn a_secret_that_every_user_can_see_is_one_warning_which_does_not_show_it() {
    let (stage, files) = (FakeStage::new(QueueOptions::default()), Directory::new());
    let settings = stage.settings().unset("SERVER_API_KEY");
    let service = Service::spawn_program(binary(), &["--server-api-key", SERVER_API_KEY], &settings);
    service.wait_until_ready();
    let of_flag = warnings(&service, "SERVER_API_KEY");
    assert_eq!(of_flag.len(), 1, "{of_flag:?}");
    assert!(of_flag[0].contains("flag"), "{of_flag:?}");
    assert!(!service.log_lines().join("\n").contains(SERVER_API_KEY));
    service.stop();

    let file = files.write("server-api-key", SERVER_API_KEY);
    for (mode, warnings_expected) in [(0o666, 1), (0o646, 1), (0o444, 1), (0o600, 0), (0o440, 0)] {
        set_permissions(&file, Permissions::from_mode(mode)).expect("a file of our own");
        let service = Service::start(&settings.clone().set("SERVER_API_KEY_FILE", &file));
        let of_file = warnings(&service, "SERVER_API_KEY_FILE");
        assert_eq!(of_file.len(), warnings_expected, "{mode:o}: {of_file:?}");
        assert!(of_file.iter().all(|line| line.contains(&format!("mode {mode:04o}"))), "{of_file:?}");
        assert!(!service.log_lines().join("\n").contains(SERVER_API_KEY));
        service.stop();
    }
}

#[test]
fn a_session_token_that_leaves_the_machine_without_tls_is_one_warning() {
    let stage = FakeStage::new(QueueOptions::default());
    let token = stage.settings().set("AWS_SESSION_TOKEN", "a-token-of-the-tests");
    for (endpoint, warnings_expected) in [("http://queue.invalid:9324", 1), ("http://127.0.0.1:9", 0)] {
        let service = Service::spawn(&token.clone().set("AWS_ENDPOINT_URL_SQS", endpoint));
        service.get("/livez");
        let warnings = warnings(&service, "AWS_ENDPOINT_URL_SQS");
        assert_eq!(warnings.len(), warnings_expected, "{endpoint}: {warnings:?}");
        service.stop();
    }
}
