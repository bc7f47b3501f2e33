//! What systemd hears of the service: that it runs, that its loops live, that it stops. Nothing that is unavailable makes it
//! kill the service, dead loops do.

use std::time::{Duration, Instant};

use crate::faulty::{self, Defect};
use crate::support::child::Signal;
use crate::support::notify_socket::NotifySocket;
use crate::support::service::{Service, Settings};
use crate::support::stage::Stage;
use crate::support::wait::PATIENCE;

/// A watchdog of a second: it is fed twice a second.
const WATCHDOG_USEC: &str = "1000000";

fn under_systemd(stage: &Stage) -> (NotifySocket, Settings) {
    let socket = NotifySocket::bind(stage.redis.directory());
    let settings = stage
        .settings()
        .set("NOTIFY_SOCKET", socket.name())
        .set("WATCHDOG_USEC", WATCHDOG_USEC)
        .set("SHUTDOWN_TIMEOUT_SECS", "5");
    (socket, settings)
}

#[test]
fn it_hears_once_that_the_service_runs_then_that_it_lives_and_once_that_it_stops_and_how_long_that_may_take()
{
    let stage = Stage::new();
    let (systemd, settings) = under_systemd(&stage);
    let service = Service::spawn(&settings);
    service.wait_until("READY=1", || systemd.count("READY=1") == 1);
    assert_eq!(
        service.try_get("/livez").map(|answer| answer.status),
        Some(200),
        "the endpoints are served by then"
    );
    service.wait_until("three signs of life", || systemd.count("WATCHDOG=1") >= 3);
    service
        .wait_until("the state as text", || systemd.count("STATUS=ready: 2 pollers, Redis connected") >= 1);
    assert_eq!(systemd.count("STOPPING=1"), 0);

    service.signal(Signal::Terminate);
    assert_eq!(service.wait_for_exit(PATIENCE).code(), Some(0));
    let heard = systemd.heard();
    let stopping: Vec<&String> = heard.iter().filter(|message| message.contains("STOPPING=1\n")).collect();
    assert_eq!(stopping.len(), 1, "{heard:?}");
    assert!(
        stopping[0].contains("EXTEND_TIMEOUT_USEC=10000000\n"),
        "the budget of the stop and a little more: {stopping:?}"
    );
    assert_eq!(systemd.count("READY=1"), 1);
}

#[test]
fn a_redis_that_is_unavailable_neither_delays_the_start_nor_starves_the_watchdog() {
    let stage = Stage::new();
    stage.redis.stop();
    let (systemd, settings) = under_systemd(&stage);
    let service = Service::spawn(&settings);
    service.wait_until("READY=1", || systemd.count("READY=1") == 1);
    assert_eq!(service.get("/readyz").status, 503);
    let fed_so_far = systemd.count("WATCHDOG=1");
    service.wait_until("three more signs of life", || systemd.count("WATCHDOG=1") >= fed_so_far + 3);
    service.wait_until("the state as text", || {
        let heard = systemd.heard();
        heard
            .iter()
            .any(|message| message.contains("STATUS=not ready: ") && message.contains("Redis unavailable"))
    });
    stage.redis.run();
    service.wait_until_ready();
    service.stop();
}

#[test]
fn dead_loops_are_not_fed_for() {
    let stage = Stage::new();
    let (systemd, settings) = under_systemd(&stage);
    let service = faulty::spawn(Defect::ReceiveHangs, &settings.set("SHUTDOWN_TIMEOUT_SECS", "2"));
    service.wait_until("READY=1", || systemd.count("READY=1") == 1);
    service.wait_until("the loops to be dead", || {
        systemd.count("STATUS=dead: no poller makes progress, waiting for the restart") >= 1
    });
    let fed = systemd.count("WATCHDOG=1");
    assert!(fed >= 1, "a start is no silence");
    let since = Instant::now();
    service.wait_until("twice the watchdog's time to pass", || {
        assert_eq!(systemd.count("WATCHDOG=1"), fed);
        since.elapsed() > Duration::from_secs(2)
    });
    // What the unit makes of it: SIGTERM, and what is in flight is released.
    service.signal(Signal::Terminate);
    assert_eq!(service.wait_for_exit(PATIENCE).code(), Some(0));
    assert_eq!(systemd.count("STOPPING=1"), 1);
}

#[test]
fn a_notify_socket_that_is_not_there_is_a_warning_and_no_fault() {
    let stage = Stage::new();
    let settings = stage.settings().set("NOTIFY_SOCKET", "/nowhere/notify");
    let service = Service::start(&settings);
    service.wait_for_complaint(&["systemd", "NOTIFY_SOCKET"]);
    service.stop();
}
