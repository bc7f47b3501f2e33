//! `live` and `ready` ask a running service; `completions` and `man` document the commands.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;

use crate::support::child::thread;
use crate::support::command::run;
use crate::support::service::{Service, Settings};
use crate::support::stage::Stage;
use crate::support::tools::free_port;

#[test]
fn live_and_ready_say_what_the_endpoints_say_and_need_nothing_but_the_port() {
    let stage = Stage::new();
    let settings = stage.settings();
    let port = free_port().to_string();
    let service = Service::start(&settings.set("PORT", &port));
    let by_variable = Settings::default().set("PORT", &port);

    let live = run(&by_variable, &["live"]);
    assert_eq!((live.status, live.stdout.as_str()), (0, "{\"status\":\"UP\"}\n"), "{live:?}");
    let ready = run(&Settings::default(), &["ready", "--port", &port]);
    assert_eq!(ready.status, 0, "{ready:?}");
    assert_eq!(ready.json()["redis"], "CONNECTED", "{ready:?}");

    stage.redis.stop();
    service.wait_until("`ready` to notice that Redis is unavailable", || {
        run(&by_variable, &["ready"]).status == 1
    });
    let ready = run(&by_variable, &["ready"]);
    assert!(ready.stderr.contains("503") && ready.stderr.contains("DISCONNECTED"), "{ready:?}");
    assert_eq!(run(&by_variable, &["live"]).status, 0);
    service.stop();
}

#[test]
fn where_no_service_runs_a_probe_fails_with_the_port_and_a_remedy() {
    let port = free_port().to_string();
    let ended = run(&Settings::default().set("PORT", &port), &["live"]);
    assert_eq!(ended.status, 1, "{ended:?}");
    assert!(ended.stderr.contains(&port) && ended.stderr.contains("is the service running"), "{ended:?}");
}

#[test]
fn what_another_program_answers_on_the_port_does_not_steer_the_terminal() {
    for (status, exit_status) in [("200 OK", 0), ("503 No", 1)] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port().to_string();
        let other = thread("other-program", move || {
            let (mut stream, _) = listener.accept().unwrap();
            let _ = stream.read(&mut [0; 4096]).unwrap();
            let body = "\u{1b}[2Jgone\u{202e}";
            write!(stream, "HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{body}", body.len()).unwrap();
        });
        let ended = run(&Settings::default().set("PORT", &port), &["ready"]);
        other.join().unwrap();
        assert_eq!(ended.status, exit_status, "{ended:?}");
        let output = ended.stdout + &ended.stderr;
        assert!(output.contains("\\u001b[2Jgone\\u202e"), "{output}");
        assert!(!output.contains(['\u{1b}', '\u{202e}']), "{output}");
    }
}

#[test]
fn a_port_that_nobody_can_know_is_a_fault_of_the_configuration() {
    for port in ["0", "http"] {
        let ended = run(&Settings::default().set("PORT", port), &["ready"]);
        assert_eq!(ended.status, 78, "{port}: {ended:?}");
        assert!(ended.stderr.contains("PORT: "), "{ended:?}");
    }
}

#[test]
fn completions_name_every_command_in_every_shell() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let ended = run(&Settings::default(), &["completions", shell]);
        assert_eq!(ended.status, 0, "{shell}: {ended:?}");
        assert!(ended.stdout.contains("ready") && ended.stdout.contains("redis-host"), "{shell}");
    }
    assert_eq!(run(&Settings::default(), &["completions", "cmd.exe"]).status, 2);
}

#[test]
fn man_has_a_page_for_the_service_for_each_command_and_for_troubleshooting() {
    let page = run(&Settings::default(), &["man"]);
    assert_eq!(page.status, 0, "{page:?}");
    for part in [".TH persistent-cache-service 1", "REDIS_HOST", "ready"] {
        assert!(page.stdout.contains(part), "{part} in {}", page.stdout);
    }
    let page = run(&Settings::default(), &["man", "ready"]);
    assert_eq!(page.status, 0, "{page:?}");
    assert!(page.stdout.contains(".TH persistent-cache-service-ready 1"), "{page:?}");
    let page = run(&Settings::default(), &["man", "troubleshooting"]);
    for part in [
        ".TH persistent-cache-service-troubleshooting 7",
        ".SS \"Redis is unavailable\"",
        "\\fBWhat to do\\fR: ",
    ] {
        assert!(page.stdout.contains(part), "{part} in {}", page.stdout);
    }
    assert!(
        !page.stdout.contains("**") && !page.stdout.contains('`'),
        "no Markdown is left: {}",
        page.stdout
    );
    let unknown = run(&Settings::default(), &["man", "redy"]);
    assert_eq!(unknown.status, 2, "{unknown:?}");
    assert!(unknown.stderr.contains("'redy'"), "{unknown:?}");
}

#[test]
fn help_of_the_whole_names_the_commands_and_what_happens_without_one() {
    let help = run(&Settings::default(), &["--help"]);
    for part in ["without one, the service runs", "live", "ready", "completions", "man"] {
        assert!(help.stdout.contains(part), "{part} in {}", help.stdout);
    }
}
