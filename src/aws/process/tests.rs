use super::*;
use crate::shutdown::stop_pair;

const WHOLE: &str = r#"{"Version": 1, "AccessKeyId": "ASIA1", "SecretAccessKey": "hunter2", "SessionToken": "tok3n", "Expiration": "2030-01-01T00:00:00+00:00"}"#;
const LONG: Duration = Duration::from_secs(30);

fn run_it(command: &str) -> Result<Credentials, String> {
    credentials(command, LONG, &Stop::never())
}

/// A program that prints this, given to a shell.
fn printing(text: &str) -> String {
    format!("sh -c 'cat <<\"END\"\n{text}\nEND'")
}

#[test]
fn what_a_program_prints_becomes_credentials() {
    let credentials = run_it(&printing(WHOLE)).unwrap();
    assert_eq!(credentials.access_key_id, "ASIA1");
    assert_eq!(credentials.secret_access_key, "hunter2");
    assert_eq!(credentials.session_token.as_deref(), Some("tok3n"));
    assert_eq!(credentials.expires_at, Some(EpochMs(1_893_456_000_000)));

    let lasting = run_it(&printing(
        r#"{"Version": 1, "AccessKeyId": "AKIA1", "SecretAccessKey": "s", "Expiration": null}"#,
    ))
    .unwrap();
    assert_eq!((lasting.session_token, lasting.expires_at), (None, None));
}

#[test]
fn words_are_split_at_spaces_outside_of_quotes_and_no_shell_reads_them() {
    // With a shell the second word would be the home, and the third another program's output.
    let command = format!("printf \"%.0s%.0s%.0s%s\" $HOME `id` 'a b' {WHOLE:?}");
    assert_eq!(run_it(&command).unwrap().access_key_id, "ASIA1");
    assert!(
        run_it("program \"open")
            .unwrap_err()
            .contains("quotes do not match")
    );
    assert!(run_it("  ").unwrap_err().contains("name a program"));
}

#[test]
fn what_is_printed_wrongly_says_what_is_wrong_and_repeats_nothing() {
    for (text, what) in [
        ("hunter2", "it is not JSON"),
        (
            r#"{"Version": 2, "AccessKeyId": "hunter2"}"#,
            "its Version is not 1",
        ),
        (
            r#"{"Version": 1, "AccessKeyId": "hunter2"}"#,
            "it has no SecretAccessKey",
        ),
        (
            r#"{"Version": 1, "AccessKeyId": ["hunter2"]}"#,
            "its AccessKeyId is not a text",
        ),
        (
            r#"{"Version": 1, "AccessKeyId": "a", "SecretAccessKey": "s", "Expiration": "hunter2"}"#,
            "its Expiration is not a date",
        ),
    ] {
        let error = run_it(&printing(text)).unwrap_err();
        assert!(
            error.starts_with("sh printed something else than documented: "),
            "{error}"
        );
        assert!(error.contains(what) && !error.contains("hunter2"), "{error}");
    }
}

#[test]
fn a_program_that_fails_is_told_by_its_status_and_not_by_what_it_wrote() {
    let error = run_it("sh -c 'echo hunter2; echo hunter2 >&2; exit 3'").unwrap_err();
    assert!(
        error.starts_with("sh ended with exit status: 3; run it by hand"),
        "{error}"
    );
    assert!(!error.contains("hunter2"), "{error}");
    let error = run_it("/nonexistent/program --password hunter2").unwrap_err();
    assert!(
        error.starts_with("cannot start /nonexistent/program: No such file"),
        "{error}"
    );
    assert!(!error.contains("hunter2"), "{error}");
}

#[test]
fn a_program_that_prints_without_end_is_stopped() {
    let error =
        run_it("sh -c 'while :; do echo 0123456789012345678901234567890123456789; done'").unwrap_err();
    assert!(error.contains("printed more than 65536 bytes"), "{error}");
}

/// A program that waits, and so does another that it started; each would hold its output open.
const WAITS: &str = "sh -c 'sleep 4711 & sleep 4711'";

fn waits_still(marker: &str) -> bool {
    let commands = std::fs::read_dir("/proc").unwrap().filter_map(|entry| {
        let path = entry.ok()?.path();
        std::fs::read(path.join("cmdline")).ok()
    });
    let wanted = format!("sleep\0{marker}\0");
    commands.into_iter().any(|command| command == wanted.as_bytes())
}

#[test]
fn a_program_that_does_not_end_is_killed_with_all_that_it_started() {
    let begun = Instant::now();
    let error = credentials(
        &WAITS.replace("4711", "4712"),
        Duration::from_millis(300),
        &Stop::never(),
    )
    .unwrap_err();
    assert!(error.contains("did not end within"), "{error}");
    assert!(begun.elapsed() < Duration::from_secs(20));
    // Killed ones are gone once their new parent has waited for them.
    let deadline = Instant::now() + Duration::from_secs(10);
    while waits_still("4712") {
        assert!(Instant::now() < deadline, "something lives on");
        std::thread::yield_now();
    }
}

#[test]
fn a_program_that_closes_its_output_and_stays_is_killed_too() {
    let error = credentials(
        "sh -c 'exec >&-; sleep 4713'",
        Duration::from_millis(300),
        &Stop::never(),
    )
    .unwrap_err();
    assert!(error.contains("did not end within"), "{error}");
}

#[test]
fn the_stop_of_the_service_ends_it() {
    let (trigger, stop) = stop_pair();
    drop(trigger);
    let error = credentials(&WAITS.replace("4711", "4714"), LONG, &stop).unwrap_err();
    assert!(error.contains("as the service stops"), "{error}");
}
