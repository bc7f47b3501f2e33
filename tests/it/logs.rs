//! The log: one JSON object a line, keys as asked for, and nothing in it that is nobody's business.

use serde_json::Value;

use crate::fakes::queue::QueueOptions;
use crate::fakes::refusing_redis::{How, Refusal, RefusingRedis};
use crate::support::child::Signal;
use crate::support::command::run;
use crate::support::fake_stage::FakeStage;
use crate::support::hostile::{Hostile, Mode};
use crate::support::messages::{Shape, entitlements_updated, purge, usage_updated};
use crate::support::sdk::Owner;
use crate::support::service::{SERVER_API_KEY, Service, binary};
use crate::support::stage::{PREFIX, Stage};
use crate::support::state::{State, boolean, every_kind, hours_ago};
use crate::support::tools::system_program;

const CUSTOMER: &str = "customer-who-is-nobodys-business";

/// Every kind of message that names the customer, and one that cannot be read.
fn telling_messages() -> Vec<String> {
    let owner = Owner::customer(CUSTOMER);
    let state = State::new(owner, hours_ago(2), &every_kind(0));
    vec![
        entitlements_updated(&state, Shape::Webhook).raw(),
        usage_updated(&state, "feature-api-calls", 43, hours_ago(1), Shape::Webhook).raw(),
        purge(owner, hours_ago(1)).raw(),
        format!("{{\"type\":\"entitlements.updated\",\"customer\":{{\"id\":\"{CUSTOMER}\""),
    ]
}

#[test]
fn every_line_is_a_json_object_with_time_level_and_message_under_the_keys_asked_for() {
    let stage = Stage::new();
    let settings = stage
        .settings()
        .set("LOG_LEVEL", "debug")
        .set("LOG_MESSAGE_KEY", "message")
        .set("LOG_ERROR_KEY", "error")
        .set("POISON_POLICY", "delete");
    let service = Service::start(&settings);
    stage.deliver(&service, &telling_messages());
    let log = service.log();
    assert!(log.len() > 3, "{log:?}");
    for record in &log {
        for key in ["time", "level", "target", "message"] {
            assert!(record[key].is_string(), "{key} in {record}");
        }
        assert!(record.get("msg").is_none() && record.get("err").is_none(), "{record}");
    }
    service.stop();
}

#[test]
fn an_error_stands_under_its_own_key() {
    let stage = Stage::new();
    let settings =
        stage.settings().set("AWS_ENDPOINT_URL_SQS", "http://127.0.0.1:9").set("LOG_ERROR_KEY", "cause");
    let service = Service::spawn(&settings);
    service.wait_for_complaint(&["127.0.0.1:9"]);
    let with_error = service.log().into_iter().find(|record| record["cause"].is_string());
    assert!(with_error.is_some(), "{:?}", service.log_lines());
    service.stop();
}

#[test]
fn no_secret_and_no_customer_is_in_it_at_level_info() {
    let stage = Stage::new();
    let settings = stage
        .settings()
        .set("LOG_LEVEL", "info")
        .set("CACHE_UPDATE_POLICY", "UPSERT")
        .set("POISON_POLICY", "delete")
        .set("REDIS_USERNAME", "default");
    let service = Service::start(&settings);
    stage.deliver(&service, &telling_messages());
    let secret = stage.queue.moto.service_user.secret.clone();
    let (lines, stderr) = (service.log_lines(), service.stderr());
    service.stop();
    assert!(!lines.is_empty(), "a start is worth a line");
    for line in lines.iter().chain(&stderr) {
        for hidden in [CUSTOMER, "feature-api-calls", "demo@example.com", secret.as_str(), SERVER_API_KEY] {
            assert!(!line.contains(hidden), "{hidden} in {line}");
        }
    }
}

#[test]
fn no_secret_is_in_it_at_level_debug_either() {
    let stage = Stage::new();
    let service = Service::start(&stage.settings().set("LOG_LEVEL", "debug").set("POISON_POLICY", "delete"));
    stage.deliver(&service, &telling_messages());
    let secret = stage.queue.moto.service_user.secret.clone();
    for line in service.log_lines().iter().chain(&service.stderr()) {
        for hidden in [secret.as_str(), SERVER_API_KEY] {
            assert!(!line.contains(hidden), "{line}");
        }
    }
    service.stop();
}

#[test]
fn at_level_debug_each_change_has_a_line_with_its_outcome() {
    let stage = Stage::new();
    let service = Service::start(&stage.settings().set("LOG_LEVEL", "debug"));
    let state = State::new(Owner::customer(CUSTOMER), hours_ago(1), &[boolean("feature-sso")]);
    stage.deliver(&service, &[entitlements_updated(&state, Shape::GraphqlV2).raw()]);
    let line = service.log().into_iter().find(|record| record["change"] == "entitlements");
    let line = line.unwrap_or_else(|| panic!("{:?}", service.log_lines()));
    assert_eq!(line["key"], Owner::customer(CUSTOMER).key(PREFIX));
    let outcome = line["outcome"].as_str().expect("an outcome");
    assert!(outcome.contains("UPDATE_IF_EXISTS"), "{outcome}");
    service.stop();
}

#[test]
fn a_level_holds_back_what_is_below_it() {
    let stage = Stage::new();
    let service = Service::start(&stage.settings().set("LOG_LEVEL", "error"));
    stage.deliver(&service, &telling_messages()[..3]);
    assert_eq!(service.log_lines(), Vec::<String>::new());
    service.stop();
}

#[test]
fn a_body_that_cannot_be_read_is_logged_once_with_its_id_its_size_and_the_place_of_the_fault() {
    let stage = Stage::new();
    let service = Service::start(&stage.settings().set("POISON_POLICY", "delete"));
    let body = "{\"type\": \"entitlements.updated\", \"customer\": nonsense-of-nobodys-business}";
    let id = stage.queue.send(body);
    service.wait_until("an empty queue", || stage.queue.is_empty());
    let about_it: Vec<Value> =
        service.log().into_iter().filter(|record| record.to_string().contains(&id)).collect();
    assert_eq!(about_it.len(), 1, "{about_it:?}");
    let line = about_it[0].to_string();
    assert!(line.contains(&body.len().to_string()), "its size, {} bytes: {line}", body.len());
    assert!(line.contains("column"), "the place: {line}");
    assert!(!line.contains("nonsense-of-nobodys-business"), "{line}");
    service.wait_for_metric("persistent_cache_messages_malformed_total", 1.0);
    service.stop();
}

#[test]
fn a_burst_of_the_same_fault_is_not_a_line_each() {
    let stage = Stage::new();
    let settings = stage.settings().set("CONSUMERS", "10").set("AWS_ENDPOINT_URL_SQS", "http://127.0.0.1:9");
    let service = Service::spawn(&settings);
    let failed = "persistent_cache_queue_errors_total{operation=\"receive\"}";
    service.wait_for_metric(failed, 20.0);
    let complaints = service.log_lines().iter().filter(|line| line.contains("127.0.0.1:9")).count();
    assert!((1..=5).contains(&complaints), "{complaints} lines for 20 failures: {:?}", service.log_lines());
    service.stop();
}

/// Lines of the log whose message begins so.
fn that_begin(service: &Service, begins: &str) -> usize {
    let begins_so = |record: &Value| record["msg"].as_str().is_some_and(|text| text.starts_with(begins));
    service.log().iter().filter(|record| begins_so(record)).count()
}

#[test]
fn sigusr1_raises_the_level_and_again_lowers_it_and_each_time_a_line_says_so() {
    let stage = Stage::new();
    let service = Service::start(&stage.settings().set("LOG_LEVEL", "error"));
    let messages = &telling_messages()[..3];
    stage.deliver(&service, messages);
    assert_eq!(service.log_lines(), Vec::<String>::new(), "so far only errors are written");

    service.signal(Signal::User1);
    service.wait_until("a line about the raised level", || {
        that_begin(&service, "SIGUSR1: the log level is now debug") == 1
    });
    stage.deliver(&service, messages);
    let applied = "applied a message";
    service.wait_until("lines at debug", || that_begin(&service, applied) > 0);

    service.signal(Signal::User1);
    service.wait_until("a line about the lowered level", || {
        that_begin(&service, "SIGUSR1: the log level is now error again") == 1
    });
    let lines_before = service.log_lines().len();
    stage.deliver(&service, messages);
    assert_eq!(service.log_lines().len(), lines_before, "{:?}", service.log_lines());

    let secret = stage.queue.moto.service_user.secret.clone();
    for line in service.log_lines() {
        assert!(!line.contains(&secret) && !line.contains(SERVER_API_KEY), "{line}");
    }
    service.stop();
}

/// The service in text, for people; on a terminal or not.
fn in_text(stage: &Stage, on_a_terminal: bool, no_color: &str) -> Service {
    let settings = stage.settings().set("LOG_FORMAT", "text").set("NO_COLOR", no_color);
    if on_a_terminal {
        // `script` is the terminal, and what is shown on it comes out of it.
        let program = binary().display().to_string();
        let arguments = ["-qfec", &program, "/dev/null"];
        Service::spawn_program(&system_program("script"), &arguments, &settings)
    } else {
        Service::spawn(&settings)
    }
}

#[test]
fn text_is_coloured_on_a_terminal_only_and_not_if_no_color_is_set() {
    for (on_a_terminal, no_color, is_coloured) in [(true, "", true), (true, "1", false), (false, "", false)] {
        let stage = Stage::new();
        let service = in_text(&stage, on_a_terminal, no_color);
        let line = service.wait_for("a line of the start", || {
            service.log_lines().into_iter().find(|line| line.contains("serving /livez"))
        });
        let level = if is_coloured { "\u{1b}[32mINFO \u{1b}[0m" } else { "INFO " };
        assert!(line.contains(&format!("Z {level} main           serving /livez")), "{line:?}");
        assert_eq!(line.contains('\u{1b}'), is_coloured, "{line:?}");
        assert!(line.contains("port="), "{line:?}");
        // A terminal that is closed ends what runs on it.
        drop(service);
    }
}

#[test]
fn an_error_in_text_is_one_line_that_says_what_and_why() {
    let stage = Stage::new();
    let settings =
        stage.settings().set("LOG_FORMAT", "text").set("AWS_ENDPOINT_URL_SQS", "http://127.0.0.1:9");
    let service = Service::spawn(&settings);
    let line = service.wait_for("a line about the queue", || {
        service.log_lines().into_iter().find(|line| line.contains("cannot receive messages: "))
    });
    let (_, why) = line.split_once("cannot receive messages: ").unwrap();
    assert!(line.contains("Z ERROR poller-"), "{line}");
    assert!(why.contains("127.0.0.1:9"), "{line}");
    service.stop();
}

#[test]
fn a_flood_of_messages_with_the_same_fault_is_ten_lines_with_their_ids_and_a_count() {
    const EACH: usize = 500;
    let stage = FakeStage::new(QueueOptions::default());
    let proxy = RefusingRedis::start(stage.redis_address());
    proxy.refuse(&[Refusal {
        only_with: Some("unlucky"),
        ..Refusal::of(&["EVALSHA", "EVAL"], How::Error("QUOTA of this key exceeded"))
    }]);
    let settings =
        stage.settings().set("POISON_POLICY", "delete").set("REDIS_PORT", proxy.port().to_string());
    let service = Service::start(&settings);
    let in_a_month = purge(Owner::customer("customer-1"), hours_ago(-700)).raw();
    let refused = purge(Owner::customer("unlucky"), hours_ago(1)).raw();
    let kinds = [
        ("malformed", "cannot read a message", "[\"no event\"]".to_owned()),
        ("implausible timestamp", "impossible timestamps", in_a_month),
        ("write QUOTA", "cannot apply message", refused),
    ];
    for (_, _, body) in &kinds {
        (0..EACH).for_each(|_| _ = stage.queue.send(body));
    }
    service.wait_for_metric("persistent_cache_messages_failed_total{reason=\"other\"}", EACH as f64);
    let status = service.get("/status").body;
    service.signal(Signal::Terminate);
    service.wait_for_exit(crate::support::wait::PATIENCE);
    let log = service.log();
    assert!(log.len() < 100, "{} lines", log.len());
    for (kind, words, _) in kinds {
        let (summaries, single): (Vec<&Value>, Vec<&Value>) = log
            .iter()
            .filter(|record| record["fault"] == kind)
            .partition(|record| record["repeated"].is_u64());
        assert!(single.len() >= 10, "{kind}: {log:#?}");
        let windows = summaries.len().max(1);
        assert!(single.len() <= 10 * windows, "{kind}: {single:?}");
        let ids: std::collections::HashSet<&str> =
            single.iter().filter_map(|record| record["message_id"].as_str()).collect();
        assert_eq!(ids.len(), single.len(), "each names a message of its own");
        let counted: u64 = summaries.iter().filter_map(|record| record["repeated"].as_u64()).sum();
        let all = counted + single.len() as u64;
        assert!(all >= EACH as u64, "{kind}: {all} are logged or counted");
        assert!(summaries.iter().all(|record| record["msg"].as_str().unwrap().contains(words)));
        assert!(status.contains(words), "{status}");
    }
    drop(service);
}

#[test]
fn a_peer_whose_every_answer_is_worth_a_line_does_not_flood_the_log() {
    let stage = FakeStage::new(QueueOptions::default());
    // Two servers behind one name, of which one's clock is wrong.
    let calls = std::sync::atomic::AtomicUsize::new(0);
    let queue = Hostile::http(
        move |_| {
            let is_wrong = calls.fetch_add(1, std::sync::atomic::Ordering::SeqCst) % 2 == 1;
            let date =
                if is_wrong { "Sun, 06 Nov 1994 08:49:37 GMT" } else { "Sun, 06 Nov 2095 08:49:37 GMT" };
            format!("HTTP/1.1 200 OK\r\ncontent-length: 2\r\ndate: {date}\r\nconnection: close\r\n\r\n{{}}")
        },
        str::to_owned,
    );
    let settings = stage
        .settings()
        .set("WAIT_TIME_SECS", "0")
        .set("CONSUMERS", "4")
        .set("AWS_ENDPOINT_URL_SQS", queue.url());
    let service = Service::start(&settings);
    service.wait_until("many answers", || queue.calls(Mode::Serve) >= 300);
    let lines = service.log_lines().iter().filter(|line| line.contains("clock")).count();
    assert!((1..=60).contains(&lines), "{lines} lines");
    service.stop();
    stage.queue.complaints();
}

/// Characters that steer a terminal, or are not seen, in what peers say and in what is logged of it.
const STEERING: &str =
    "\u{202e}\u{202a}\u{2066}\u{2069}\u{200e}\u{200f}\u{61c}\u{200b}\u{feff}\u{9b}\u{7f}\u{ad}\u{e0041}";

fn refuses_steering(_: &str) -> String {
    serde_json::json!({"__type": format!("Odd{STEERING}"), "message": format!("gnp.exe{STEERING} in the queue")}).to_string()
}

#[test]
fn no_text_of_others_steers_a_terminal_in_json_in_text_or_on_the_page() {
    for format in ["json", "text"] {
        let stage = FakeStage::new(QueueOptions::default());
        let proxy = RefusingRedis::start(stage.redis_address());
        let queue = Hostile::before(stage.queue_address(), refuses_steering);
        let settings = stage
            .settings()
            .set("LOG_FORMAT", format)
            .set("LOG_LEVEL", "debug")
            .set("CACHE_UPDATE_POLICY", "UPSERT")
            .set("AWS_ENDPOINT_URL_SQS", queue.url())
            .set("REDIS_PORT", proxy.port().to_string());
        let service = Service::start(&settings);
        // A key at debug.
        let customer = format!("customer{STEERING}");
        let state = State::new(Owner::customer(&customer), hours_ago(1), &[boolean("feature-sso")]);
        stage.deliver(&service, &[entitlements_updated(&state, Shape::GraphqlV2).raw()]);
        let inspected = ["--json", "--log-format=text"].map(|flag| {
            let ended = run(&settings, &["inspect", &customer, flag]);
            assert_eq!(ended.status, 0, "{ended:?}");
            ended.stdout + &ended.stderr
        });
        let said: &'static str = Box::leak(format!("ODD the{STEERING} disk is odd").into_boxed_str());
        proxy.refuse(&[Refusal::of(&["PING", "EVALSHA", "EVAL"], How::Error(said))]);
        queue.turn(Mode::Refuse);
        let logged = |part: &str| service.log_lines().iter().any(|line| line.contains(part));
        service.wait_until("both faults", || logged("disk is odd") && logged("in the queue"));
        let pages = ["/", "/status"].map(|path| service.get(path).body);
        assert!(pages[1].contains("disk is odd"), "{pages:?}");
        proxy.pass();
        queue.turn(Mode::Serve);
        service.signal(Signal::Terminate);
        service.wait_for_exit(crate::support::wait::PATIENCE);
        let lines = service.log_lines();
        assert!(
            lines.iter().any(|line| line.to_lowercase().contains("\\u{202e}") || line.contains("\\u202e"))
        );
        for text in lines.iter().chain(&pages).chain(&service.stderr()).chain(&inspected) {
            let found = text.chars().find(|letter| STEERING.contains(*letter));
            assert_eq!(found, None, "{text:?}");
        }
    }
}
