//! `/livez` distinguishes dead loops, which only a restart repairs, from unavailable peers, which no restart brings back.

use std::time::{Duration, Instant};

use crate::faulty::{self, Defect, SILENT_AFTER};
use crate::support::child::Signal;
use crate::support::service::Service;
use crate::support::stage::Stage;
use crate::support::wait::PATIENCE;

#[test]
fn pollers_that_make_no_progress_turn_livez_to_503_and_the_log_says_so_once() {
    let stage = Stage::new();
    let settings = stage.settings().set("SHUTDOWN_TIMEOUT_SECS", "2");
    let service = faulty::spawn(Defect::ReceiveHangs, &settings);
    let began = Instant::now();
    let first = service.get("/livez");
    assert!(first.status == 200 || began.elapsed() > SILENT_AFTER, "a start is no silence");
    let dead = service
        .wait_for("/livez to say 503", || service.try_get("/livez").filter(|answer| answer.status == 503));
    assert_eq!(dead.body, r#"{"status":"DOWN"}"#);
    assert!(began.elapsed() < SILENT_AFTER + Duration::from_secs(20));
    assert_eq!(service.get("/readyz").status, 503);

    let complaint = service.wait_for_complaint(&["/livez", "restarted"]);
    let complaints = || {
        let lines = service.log_lines();
        lines.iter().filter(|line| **line == complaint).count()
    };
    assert_eq!(complaints(), 1);
    // What an orchestrator does next: the stop is not held up by what hangs.
    service.signal(Signal::Terminate);
    let asked = Instant::now();
    assert_eq!(service.wait_for_exit(PATIENCE).code(), Some(0));
    assert!(asked.elapsed() < Duration::from_secs(5), "{:?}", asked.elapsed());
    assert_eq!(complaints(), 1);
}

#[test]
fn a_redis_that_is_unavailable_for_longer_than_that_leaves_livez_at_200() {
    let stage = Stage::new();
    let service = faulty::spawn(Defect::None, &stage.settings());
    service.wait_until_ready();
    stage.redis.stop();
    service.wait_until("/readyz to say 503", || service.get("/readyz").status == 503);
    let away_since = Instant::now();
    service.wait_until("twice the time of a silence to pass", || {
        assert_eq!(service.get("/livez").status, 200);
        away_since.elapsed() > 2 * SILENT_AFTER
    });
    stage.redis.run();
    service.wait_until_ready();
    service.stop();
}

#[test]
fn a_queue_that_refuses_every_call_leaves_livez_at_200_and_costs_readiness_only_after_a_while() {
    let stage = Stage::new();
    let service = Service::start(&stage.settings());
    let failed = "persistent_cache_queue_errors_total{operation=\"receive\"}";
    stage.queue.remove();
    service.wait_for_metric(failed, 1.0);
    let failing_since = Instant::now();
    assert_eq!(service.get("/readyz").status, 200, "one failed call is no outage");
    service.wait_until("/readyz to say 503", || {
        assert_eq!(service.get("/livez").status, 200);
        service.get("/readyz").status == 503
    });
    let lasted = failing_since.elapsed();
    assert!(lasted > Duration::from_secs(8), "the grace is 15 s: {lasted:?}");
    service.stop();
}
