//! The board: what it gathers, from what the loops report.

use serde_json::Value;

use super::*;
use crate::config::ShownSetting;
use crate::ops::health::Patience;

const AT: EpochMs = EpochMs(1_793_491_200_000);

struct Story {
    board: StatusBoard,
    health: Arc<HealthBoard>,
    metrics: Arc<Metrics>,
    faults: Arc<FaultLog>,
    start: Instant,
}

impl Story {
    fn new() -> Self {
        let start = Instant::now();
        let health = Arc::new(HealthBoard::new(2, Patience::default(), start));
        let metrics = Arc::new(Metrics::new().unwrap());
        let faults = Arc::new(FaultLog::new());
        let setting = |name: &str, value| ShownSetting {
            name: name.to_owned(),
            group: "Queue".to_owned(),
            is_given: true,
            value,
        };
        let fixed = Fixed {
            credential_source: "static",
            settings: ShownSettings(vec![
                setting("QUEUE_URL", Shown::Text("https://sqs".to_owned())),
                setting("SERVER_API_KEY", Shown::Secret),
                setting("WORKERS", Shown::NotSet),
            ]),
            ..Fixed::default()
        };
        let board = StatusBoard::new(
            fixed,
            Arc::clone(&health),
            Arc::clone(&metrics),
            Arc::clone(&faults),
            start,
        );
        Self {
            board,
            health,
            metrics,
            faults,
            start,
        }
    }

    fn after(&self, secs: u64) -> Instant {
        self.start + Duration::from_secs(secs)
    }

    /// `/status`, asked so long after the start.
    fn json(&self, secs: u64) -> Value {
        let at = EpochMs(AT.0 + i64::try_from(secs).unwrap() * 1_000);
        serde_json::from_str(&self.board.json(self.after(secs), at)).unwrap()
    }

    fn become_ready(&self, secs: u64) {
        self.health.set_redis_connected(true);
        self.health.call_succeeded(0, self.after(secs));
    }
}

#[test]
fn the_state_is_told_with_its_reasons_and_since_when() {
    let story = Story::new();
    let state = |secs| {
        let json = story.json(secs);
        let reasons = json["reasons"].as_array().unwrap().len();
        (json["state"].clone(), reasons, json["state_since"].clone())
    };
    assert_eq!(
        state(1),
        ("not_ready".into(), 2, "2026-11-01T00:00:00.000Z".into())
    );
    story.become_ready(3);
    story.board.tick(story.after(3));
    assert_eq!(state(40), ("ready".into(), 0, "2026-11-01T00:00:03.000Z".into()));
    story.health.set_redis_connected(false);
    assert_eq!(
        state(50),
        ("not_ready".into(), 1, "2026-11-01T00:00:50.000Z".into())
    );
    assert_eq!(state(500).0, "dead", "no poller has come round");
    story.health.begin_stop();
    assert_eq!(
        state(501),
        ("stopping".into(), 1, "2026-11-01T00:08:21.000Z".into())
    );
}

#[test]
fn a_dead_loop_keeps_its_other_reasons() {
    let story = Story::new();
    assert_eq!(story.json(500)["started_at"], "2026-11-01T00:00:00.000Z");
    assert_eq!(story.json(500)["queue"]["pollers"]["silent"], 2);
}

#[test]
fn rates_and_history_are_what_the_counters_gained() {
    let story = Story::new();
    for second in 0..=60 {
        story.metrics.messages_processed.inc_by(10);
        story.metrics.message_age.observe(0.3);
        story.board.tick(story.after(second));
    }
    story
        .metrics
        .queue_errors
        .with_label_values(&["receive"])
        .inc_by(3);
    story
        .metrics
        .messages_failed
        .with_label_values(&["redis"])
        .inc_by(2);
    story.metrics.write_errors.inc();
    let json = story.json(60);
    let minute = &json["rates"][0];
    assert_eq!(minute["window_secs"], 60);
    assert_eq!(minute["processed_per_sec"], 10.0);
    assert_eq!(minute["errors_per_min"], 6.0);
    assert_eq!(minute["age"]["p95_at_most_secs"], 0.5);
    assert!(minute["handling"].is_null());
    assert_eq!(json["history"].as_array().unwrap().len(), 12);
    assert_eq!(json["history"][11]["processed_per_sec"], 10.0);
    assert_eq!(json["queue"]["errors"]["receive"], 3);
    assert_eq!(json["messages"]["failed_tries"], 2);
}

#[test]
fn expiry_is_told_once_it_is_known_and_asking_makes_no_series() {
    let story = Story::new();
    assert!(story.json(1)["credentials"]["expire_at"].is_null());
    assert!(!story.metrics.render().contains("credentials_expiry"));
    story
        .metrics
        .credentials_expiry
        .with_label_values::<&str>(&[])
        .set(1_793_494_800.5);
    assert_eq!(
        story.json(1)["credentials"]["expire_at"],
        "2026-11-01T01:00:00.500Z"
    );
}

#[test]
fn faults_are_told_with_their_times() {
    let story = Story::new();
    for secs in [10, 20] {
        story.faults.fault(
            "queue",
            log::Level::Warn,
            "it failed",
            "at https://u:p@h/",
            story.after(secs),
        );
    }
    story.faults.recovered("queue", Duration::ZERO, story.after(30));
    let errors = &story.json(60)["errors"];
    let expected = serde_json::json!([{
        "level": "warn", "what": "it failed", "why": "at …", "times": 2,
        "first_at": "2026-11-01T00:00:10.000Z", "last_at": "2026-11-01T00:00:20.000Z", "is_over": true,
    }]);
    assert_eq!(*errors, expected);
}

#[test]
fn a_secret_is_said_to_be_set_and_no_more() {
    let story = Story::new();
    let settings = &story.json(0)["settings"];
    let seen = |index: usize| {
        (
            settings[index]["value"].clone(),
            settings[index]["is_set"].clone(),
        )
    };
    assert_eq!(seen(0), ("https://sqs".into(), true.into()));
    assert_eq!(seen(1), (Value::Null, true.into()));
    assert_eq!(seen(2), (Value::Null, false.into()));
}
