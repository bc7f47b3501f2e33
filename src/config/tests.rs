//! Settings -> Config as an operator sees it: what is set on the one side, the configuration, its faults and its
//! notices as text on the other. The environment is a map; nothing here reads that of the process.

mod credentials;
mod proxy;
mod queue;
mod redis;
mod redis_tls;
mod shown;
mod values;

use std::ffi::OsString;
use std::fmt::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use super::table::{TABLE, UNLISTED};
use super::{Config, Environment, Settings};

/// The least that a configuration needs.
const LEAST: [(&str, &str); 3] = [
    ("QUEUE_URL", "https://sqs.us-east-1.amazonaws.com/123456789012/changes"),
    ("SERVER_API_KEY", "server-key-4711"),
    ("REDIS_HOST", "redis.internal"),
];

fn settings(flags: &[&str], environment: &[(&str, &str)]) -> Settings {
    let environment: Environment =
        environment.iter().map(|(name, value)| (name.into(), value.into())).collect();
    let flags = ["persistent-cache-service"].iter().chain(flags);
    read(flags, &environment).unwrap()
}

/// The settings in these arguments (the first is the program's name) and this environment.
fn read<A: Into<OsString> + Clone>(
    arguments: impl IntoIterator<Item = A>,
    environment: &Environment,
) -> Result<Settings, clap::Error> {
    let matches = Settings::flags().try_get_matches_from(arguments)?;
    Ok(Settings::from_matches(&[&matches], environment))
}

/// The least, with these on top; an empty value takes one away.
fn with(more: &[(&str, &str)]) -> Settings {
    settings(&[], &[&LEAST[..], more].concat())
}

fn config(more: &[(&str, &str)]) -> Config {
    with(more).validate().unwrap()
}

fn faults(more: &[(&str, &str)]) -> Vec<String> {
    with(more).validate().expect_err("should have faults").0
}

fn notices(more: &[(&str, &str)]) -> Vec<String> {
    config(more).notices
}

/// A file in a directory of its own, gone at the end of the test.
struct TestFile(PathBuf);

impl TestFile {
    fn new(name: &str, content: &[u8]) -> Self {
        let directory = std::env::temp_dir().join(format!("pcs-config-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        std::fs::write(directory.join("file"), content).unwrap();
        std::fs::set_permissions(directory.join("file"), std::fs::Permissions::from_mode(0o600)).unwrap();
        Self(directory)
    }

    fn path(&self) -> String {
        self.0.join("file").to_str().unwrap().to_owned()
    }
}

impl Drop for TestFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn the_least_configuration_has_the_documented_defaults() {
    let mut config = config(&[]);
    assert!((2..=8).contains(&config.workers));
    config.workers = 4;
    config.shown.clear();
    let expected = r#"Config {
    region: "us-east-1",
    queue_url: "https://sqs.us-east-1.amazonaws.com/123456789012/changes",
    sqs_endpoint: Url {
        scheme: "https",
        cannot_be_a_base: false,
        username: "",
        password: None,
        host: Some(
            Domain(
                "sqs.us-east-1.amazonaws.com",
            ),
        ),
        port: None,
        path: "/",
        query: None,
        fragment: None,
    },
    credentials: EdgeApi,
    proxy: None,
    server_api_key: [redacted],
    edge_api_url: Url {
        scheme: "https",
        cannot_be_a_base: false,
        username: "",
        password: None,
        host: Some(
            Domain(
                "edge.api.stigg.io",
            ),
        ),
        port: None,
        path: "/",
        query: None,
        fragment: None,
    },
    environment_prefix: "production",
    redis: RedisConfig {
        address: Tcp {
            host: "redis.internal",
            port: 6379,
        },
        db: 0,
        username: None,
        password: None,
        iam: None,
        tls: None,
    },
    batch_size: 1,
    expiry: Seconds(
        604800,
    ),
    cache_update_policy: UpdateIfExists,
    cache_format: Compatible,
    refresh_rate: None,
    sentry: RemoteConfiguration,
    port: 4000,
    status_page: true,
    log: LogConfig {
        level: Info,
        format: Json,
        colour: true,
        message_key: "msg",
        error_key: "err",
    },
    consumers: 10,
    workers: 4,
    wait_time: 20s,
    shutdown_timeout: 10s,
    poison_policy: Redrive,
    notices: [],
    shown: [],
}"#;
    assert_eq!(format!("{config:#?}"), expected);
}

#[test]
fn all_faults_come_at_once_each_with_its_variable_and_its_remedy() {
    let faults = settings(
        &[],
        &[
            ("AWS_ACCESS_KEY_ID", "AKIA123"),
            ("BATCH_SIZE", "11"),
            ("REDIS_PORT", "6379x"),
            ("CACHE_UPDATE_POLICY", "always"),
            ("DISABLE_SENTRY", "maybe"),
            ("WORKERS", "0"),
        ],
    )
    .validate()
    .unwrap_err();
    let expected = "\
QUEUE_URL: is required; set the queue's URL, https://sqs.<region>.amazonaws.com/<account>/<name>
AWS_REGION: is required, as QUEUE_URL does not name it; set the queue's region, like us-east-1
AWS_SECRET_ACCESS_KEY: is required with AWS_ACCESS_KEY_ID; set it, or unset AWS_ACCESS_KEY_ID
SERVER_API_KEY: is required; set it, or SERVER_API_KEY_FILE, to a server API key of the environment
REDIS_HOST: is required (or REDIS_URL); set the host name of Redis
REDIS_PORT: '6379x' is not a whole number from 1 to 65535; set one
CACHE_UPDATE_POLICY: 'always' is not known; set one of UPDATE_IF_EXISTS, UPSERT
DISABLE_SENTRY: 'maybe' is not known; set one of 0, 1, false, true, no, yes, off, on
BATCH_SIZE: '11' is not a whole number from 1 to 10; set one
WORKERS: '0' is not a whole number from 1 to 256; set one";
    assert_eq!(faults.to_string(), expected);
}

#[test]
fn every_setting_is_a_flag_too_and_the_flag_wins_over_the_variable() {
    let flags = [
        "--port=5000",
        "--redis-tls",
        "--redis-db",
        "3",
        "--keys-ttl-in-secs",
        "-1",
        "--redis-password",
        "p w",
    ];
    let config = settings(&flags, &[&LEAST[..], &[("PORT", "6000"), ("BATCH_SIZE", "7")]].concat())
        .validate()
        .unwrap();
    assert_eq!((config.port, config.redis.db, config.batch_size), (5000, 3, 7));
    assert_eq!(config.expiry, super::Expiry::Never);
    assert!(config.redis.tls.is_some());
    assert_eq!(config.redis.password, Some(super::Secret::inline("p w")));
}

#[test]
fn an_empty_or_blank_value_counts_as_not_set() {
    let empty =
        config(&[("PORT", ""), ("AWS_ACCESS_KEY_ID", "  "), ("REDIS_URL", "\n"), ("REDIS_PASSWORD", "")]);
    assert_eq!(empty, config(&[]));
    let settings = settings(&["--port="], &[&LEAST[..], &[("PORT", "6000")]].concat());
    assert_eq!(settings.validate().unwrap().port, 6000, "an empty flag leaves it to the variable");
}

#[test]
fn white_space_around_a_value_is_dropped_but_that_of_a_secret_counts() {
    let config = config(&[("PORT", " 5000\n"), ("REDIS_HOST", " db-1 "), ("REDIS_PASSWORD", " p w \n")]);
    assert_eq!(config.port, 5000);
    assert_eq!(config.redis.address, super::RedisAddress::Tcp { host: "db-1".to_owned(), port: 6379 });
    assert_eq!(config.redis.password, Some(super::Secret::inline(" p w ")));
}

#[cfg(unix)]
#[test]
fn a_value_that_is_not_utf_8_is_a_fault_and_does_not_hide_the_others() {
    use std::os::unix::ffi::OsStringExt;

    let broken = || OsString::from_vec(b"a\xffb".to_vec());
    let environment: Environment = [(OsString::from("REDIS_PASSWORD"), broken())].into();
    let mut flag = OsString::from("--environment-prefix=");
    flag.push(broken());
    let faults = read([OsString::from("x"), flag], &environment).unwrap().validate().unwrap_err();
    assert!(faults.0.contains(&"REDIS_PASSWORD: is not UTF-8; set plain text".to_owned()), "{faults}");
    assert!(faults.0.contains(&"ENVIRONMENT_PREFIX: is not UTF-8; set plain text".to_owned()), "{faults}");
    assert!(faults.0.iter().any(|fault| fault.starts_with("QUEUE_URL: ")), "{faults}");
}

#[test]
fn an_unknown_flag_is_refused_the_usual_way_and_help_and_version_end_well() {
    let exit = |flag: &str| read(["x", flag], &Environment::new()).unwrap_err().exit_code();
    assert_eq!((exit("--redis-hots=db-1"), exit("--help"), exit("--version")), (2, 0, 0));
}

#[test]
fn help_names_each_variable_fits_100_columns_and_never_shows_a_value_of_the_environment() {
    let environment: Environment = [("REDIS_PASSWORD".into(), "hunter2".into())].into();
    let help = read(["x", "--help"], &environment).unwrap_err().to_string();
    for text in ["[env: QUEUE_URL]", "[env: REDIS_PASSWORD]", "[default: 6379]", "\nRedis:\n", "\nRunning:\n"]
    {
        assert!(help.contains(text), "{text}");
    }
    assert!(!help.contains("hunter2") && !help.contains('`'));
    assert!(!help.contains("cache-lock-retry-count"), "names from before are hidden");
    let widest = help.lines().map(|line| line.chars().count()).max();
    assert!(widest <= Some(100), "{widest:?}");
}

#[test]
fn a_secret_shows_neither_in_debug_nor_in_faults_nor_in_notices() {
    let secrets = [
        ("AWS_ACCESS_KEY_ID", "AKIA123"),
        ("AWS_SECRET_ACCESS_KEY", "hunter2-aws"),
        ("AWS_SESSION_TOKEN", "hunter2-token"),
        ("SERVER_API_KEY", "hunter2-stigg"),
        ("REDIS_PASSWORD", "hunter2-redis"),
        ("SENTRY_DSN", "https://hunter2@sentry.example/1"),
    ];
    let valid = with(&secrets);
    assert!(!format!("{valid:?} {:?}", valid.validate()).contains("hunter2"));

    // The same with everything wrong that can be wrong with a secret, or with the place it was put into.
    let wrong = with(&[
        ("AWS_SECRET_ACCESS_KEY", "hunter2 aws"),
        ("AWS_SESSION_TOKEN", "hunter2 token"),
        ("SERVER_API_KEY", "hunter2 stigg"),
        ("SENTRY_DSN", "hunter2"),
        ("REDIS_URL", "redis://:hunter2@db-1:hunter2/hunter2?hunter2#hunter2"),
        ("REDIS_HOST", "redis://:hunter2@db-1"),
        ("REDIS_PASSWORD", "hunter2"),
        ("REDIS_PASSWORD_FILE", "/nonexistent"),
        ("REDIS_SENTINEL_PASSWORD", "hunter2"),
        ("EDGE_API_URL", "https://hunter2:hunter2@edge.example/"),
        ("QUEUE_URL", "https://user:hunter2@sqs.us-east-1.amazonaws.com/1/q"),
        ("REDIS_PORT", "hunter2@6379"),
        ("REDIS_DB", "x:hunter2@db"),
    ]);
    let faults = wrong.validate().unwrap_err();
    assert!(faults.0.len() >= 8, "{faults}");
    assert!(!format!("{wrong:?} {faults} {faults:?}").contains("hunter2"), "{faults}");
}

/// README's settings: a table for each group (variable, default, meaning).
fn settings_table() -> String {
    let mut table = String::new(); // writing to it cannot fail
    let mut group = "";
    for setting in TABLE.iter().filter(|setting| setting.group != UNLISTED) {
        if setting.group != group {
            let gap = if group.is_empty() { "" } else { "\n" };
            group = setting.group;
            let header = "| Variable | Default | Meaning |\n|---|---|---|";
            let _ = writeln!(table, "{gap}**{group}**\n\n{header}");
        }
        let (variable, help) = (setting.variable, setting.help);
        let default = setting.default.map_or(String::new(), |default| format!("`{default}`"));
        let _ = writeln!(table, "| `{variable}` | {default} | {help} |");
    }
    table
}

#[test]
#[allow(clippy::disallowed_methods)] // UPDATE_README is for whoever runs the tests, not a setting
fn the_settings_in_the_readme_are_those_of_the_code() {
    const BEGIN: &str = "<!-- settings:begin -->\n";
    const END: &str = "<!-- settings:end -->";
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let readme = std::fs::read_to_string(&path).unwrap();
    let (before, rest) = readme.split_once(BEGIN).expect("README.md has a line <!-- settings:begin -->");
    let (written, after) = rest.split_once(END).expect("README.md has a line <!-- settings:end -->");
    if std::env::var("UPDATE_README").is_ok_and(|value| value == "1") {
        std::fs::write(&path, format!("{before}{BEGIN}{}{END}{after}", settings_table())).unwrap();
        return;
    }
    assert_eq!(
        written,
        settings_table(),
        "README.md's settings differ from the code; run UPDATE_README=1 cargo test --lib readme"
    );
}
