//! The rules of the source tree, checked on the source: which modules are pure, and what is named in one place only.

use std::fs;
use std::path::{Path, PathBuf};

/// Files below `src`, tests aside, with their text. Comments and test modules are cut.
fn sources() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut waiting = vec![root.clone()];
    let mut sources = Vec::new();
    while let Some(directory) = waiting.pop() {
        for entry in fs::read_dir(&directory).expect("src can be read") {
            let path: PathBuf = entry.expect("an entry of src").path();
            if path.is_dir() {
                waiting.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path.strip_prefix(&root).expect("below src").display().to_string();
                if name.contains("tests") {
                    continue;
                }
                let text = fs::read_to_string(&path).expect("a source can be read");
                let code = text.split("#[cfg(test)]").next().unwrap_or_default();
                let code: Vec<&str> =
                    code.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
                sources.push((name, code.join("\n")));
            }
        }
    }
    assert!(sources.len() > 30, "the source was found");
    sources
}

/// Each file that names one of these, outside of the modules that may.
fn who_names(what: &[&str], may: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    for (name, code) in sources() {
        if may.iter().any(|module| name.starts_with(module)) {
            continue;
        }
        found.extend(what.iter().filter(|word| code.contains(**word)).map(|word| format!("{name}: {word}")));
    }
    found
}

#[test]
fn pure_modules_do_no_io_and_read_no_clock() {
    let pure = [
        "message/",
        "entitlement/",
        "cache/",
        "sqs/bodies.rs",
        "sqs/errors.rs",
        "sqs/long_polls.rs",
        "sqs/protocol.rs",
        "sqs/region.rs",
        "sqs/server_clock.rs",
        "aws/answers.rs",
        "aws/signing.rs",
        "edge/answer.rs",
        "json",
        "store/iam_token.rs",
        "ops/health.rs",
        "ops/status.rs",
        "config/shown.rs",
        "commands/verify/compare.rs",
        "log/faults.rs",
        "log/record.rs",
        "log/text.rs",
    ];
    let impure = [
        "redis::",
        "ureq::",
        "tiny_http::",
        "crossbeam",
        "std::net",
        "std::fs",
        "std::env",
        "std::thread",
        "Instant::now",
        "SystemTime",
        "clock::now",
        "OffsetDateTime::now",
    ];
    for (name, code) in sources() {
        if pure.iter().any(|module| name.starts_with(module)) {
            let named: Vec<&&str> = impure.iter().filter(|word| code.contains(**word)).collect();
            assert!(named.is_empty(), "{name} is a pure module and names {named:?}");
        }
    }
}

#[test]
fn each_library_is_named_in_its_own_module() {
    assert_eq!(who_names(&["redis::"], &["store/", "config/"]), [""; 0]);
    assert_eq!(who_names(&["tiny_http::"], &["ops/"]), [""; 0]);
    assert_eq!(who_names(&["ureq::"], &["http_client", "sentry_reports", "config/proxy.rs"]), [""; 0]);
    assert_eq!(who_names(&["sentry::"], &["sentry_reports"]), [""; 0]);
}

#[test]
fn no_process_is_started() {
    assert_eq!(who_names(&["process::Command"], &[]), [""; 0]);
}

#[test]
fn the_environment_and_the_wall_clock_are_read_in_one_place() {
    assert_eq!(who_names(&["env::var", "env::vars"], &["config/"]), [""; 0]);
    assert_eq!(who_names(&["SystemTime::now", "OffsetDateTime::now"], &["clock.rs"]), [""; 0]);
}

#[test]
fn keys_are_spelled_in_the_keyspace_alone() {
    assert_eq!(
        who_names(&[":c_{", ":r_{", "#timestamp", ":metadata\"", ":credit_"], &["cache/keyspace.rs"]),
        [""; 0]
    );
}
