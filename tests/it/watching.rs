//! What operators watch it with: the alert rules and the dashboard of scripts/, against promtool and a real
//! Prometheus that scrapes a service with something to show.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;

use serde_json::Value;

use crate::fakes::queue::{KnownKey, QueueOptions};
use crate::support::aws::Directory;
use crate::support::edge::EdgeStub;
use crate::support::fake_stage::FakeStage;
use crate::support::messages::{Shape, entitlements_updated, event, usage_updated};
use crate::support::moto::AccessKey;
use crate::support::prometheus::{JOB, Prometheus, promtool};
use crate::support::sdk::Owner;
use crate::support::service::Service;
use crate::support::state::{State, every_kind, hours_ago};
use crate::support::tools::{free_port, repository_file};

const RULES: &str = "scripts/prometheus/alerts.yml";
const RULE_TESTS: &str = "scripts/prometheus/alerts.test.yml";
const PAGE: &str = "scripts/prometheus/README.md";
const DASHBOARD: &str = "scripts/grafana/dashboard.json";

fn path(relative: &str) -> String {
    repository_file(relative).to_str().expect("UTF-8").to_owned()
}

fn text(relative: &str) -> String {
    fs::read_to_string(repository_file(relative)).unwrap_or_else(|error| panic!("{relative}: {error}"))
}

/// An alert as the rules file spells it.
#[derive(Debug, Default)]
struct Alert {
    name: String,
    severity: String,
    summary: String,
    action: String,
    runbook: String,
}

/// The alerts. Each of their texts stands on one line in quotes, which is all that is read of the YAML here;
/// promtool reads the rest.
fn alerts() -> Vec<Alert> {
    let mut alerts: Vec<Alert> = Vec::new();
    for line in text(RULES).lines() {
        if let Some(name) = line.trim().strip_prefix("- alert: ") {
            alerts.push(Alert { name: name.to_owned(), ..Alert::default() });
        }
        let Some((alert, (key, value))) = alerts.last_mut().zip(line.trim().split_once(": ")) else {
            continue;
        };
        let value = value.trim_matches('"').to_owned();
        match key {
            "labels" => {
                let severity = value.strip_prefix("{severity: ").expect("a severity");
                severity.trim_end_matches('}').clone_into(&mut alert.severity);
            }
            "summary" => alert.summary = value,
            "action" => alert.action = value,
            "runbook_url" => alert.runbook = value,
            _ => {}
        }
    }
    alerts
}

/// The dashboard's panels, rows left out.
fn panels(dashboard: &Value) -> Vec<&Value> {
    let all = dashboard["panels"].as_array().expect("panels").iter();
    all.filter(|panel| panel["type"] != "row").collect()
}

/// Title and expression of every query.
fn queries(dashboard: &Value) -> Vec<(String, String)> {
    let of_panel = |panel: &&Value| {
        let title = panel["title"].as_str().expect("a title").to_owned();
        let targets = panel["targets"].as_array().expect("targets").clone();
        targets.into_iter().map(move |target| {
            let expression = target["expr"].as_str().expect("an expression").to_owned();
            (title.clone(), expression)
        })
    };
    panels(dashboard).iter().flat_map(of_panel).collect()
}

fn dashboard() -> Value {
    serde_json::from_str(&text(DASHBOARD)).expect("the dashboard is JSON")
}

#[test]
fn promtool_accepts_the_alert_rules_and_their_tests() {
    let checked = promtool(&["check", "rules", &path(RULES)], "");
    assert_eq!(checked.status, 0, "{checked:?}");
    let tested = promtool(&["test", "rules", &path(RULE_TESTS)], "");
    assert_eq!(tested.status, 0, "{tested:?}");
}

#[test]
fn every_alert_is_tested_to_fire_and_not_to_and_tells_what_to_do() {
    let tests = text(RULE_TESTS);
    let alerts = alerts();
    assert!(alerts.len() > 20, "{alerts:?}");
    for alert in alerts {
        let name = &alert.name;
        for way in ["fires", "does not"] {
            assert!(tests.contains(&format!("- name: '{name}: {way}: ")), "{name} {way}");
        }
        assert!(["critical", "warning", "info"].contains(&alert.severity.as_str()), "{alert:?}");
        assert!(!alert.summary.is_empty() && !alert.action.is_empty(), "{alert:?}");
        assert_eq!(alert.runbook, format!("{PAGE}#{}", name.to_lowercase()));
    }
}

#[test]
fn the_readme_lists_exactly_the_alerts_of_the_rules() {
    const BEGIN: &str = "<!-- alerts:begin -->\n";
    const END: &str = "<!-- alerts:end -->";
    let mut table = String::from("| alert | severity | what it means | what to do |\n|---|---|---|---|\n");
    for alert in alerts() {
        let (name, anchor) = (&alert.name, alert.name.to_lowercase());
        assert!(!alert.summary.contains('|') && !alert.action.contains('|'), "{name}");
        let severity = &alert.severity;
        writeln!(
            table,
            "| <a id=\"{anchor}\"></a>`{name}` | {severity} | {} | {} |",
            alert.summary, alert.action
        )
        .expect("a String takes everything");
    }
    let readme = text(PAGE);
    let (before, rest) = readme.split_once(BEGIN).expect("the page has the marker");
    let (block, after) = rest.split_once(END).expect("the page has the end of the block");
    if option_env!("UPDATE_README").is_some_and(|value| value == "1") {
        fs::write(repository_file(PAGE), format!("{before}{BEGIN}{table}{END}{after}"))
            .expect("the page can be written");
    } else {
        assert_eq!(block, table, "run the tests with UPDATE_README=1 to rewrite the block");
    }
}

#[test]
fn promtool_accepts_every_query_of_the_dashboard() {
    let mut rules = String::new();
    for (number, (_, expression)) in queries(&dashboard()).iter().enumerate() {
        let expression = expression.replace("$__rate_interval", "1m");
        let rule = format!("      - record: panel:query_{number}\n        expr: '{expression}'\n");
        rules.push_str(&rule);
    }
    let directory = Directory::new();
    let file = directory.write("queries.yml", &format!("groups:\n  - name: dashboard\n    rules:\n{rules}"));
    let checked = promtool(&["check", "rules", &file], "");
    assert_eq!(checked.status, 0, "{checked:?}");
}

#[test]
fn every_panel_says_what_it_shows_in_which_unit_and_takes_the_chosen_datasource() {
    let dashboard = dashboard();
    let mut ids = BTreeSet::new();
    for panel in panels(&dashboard) {
        let title = panel["title"].as_str().unwrap_or_default();
        let says_something = |value: &Value| value.as_str().is_some_and(|text| !text.is_empty());
        assert!(says_something(&panel["title"]), "{panel}");
        assert!(says_something(&panel["description"]), "{title}");
        assert!(says_something(&panel["fieldConfig"]["defaults"]["unit"]), "{title}");
        assert_eq!(panel["datasource"]["uid"], "${datasource}", "{title}");
        assert!(ids.insert(panel["id"].as_u64()), "{title}: an id twice");
    }
    for (title, expression) in queries(&dashboard) {
        let selector = r#"job=~"$job", instance=~"$instance", environment=~"$environment""#;
        assert!(expression.contains(selector), "{title} minds the variables: {expression}");
    }
}

#[test]
fn promtool_complains_of_nothing_on_the_metrics_page_but_stiggs_own_names() {
    let stage = FakeStage::new(QueueOptions::default());
    let service = Service::start(&stage.settings());
    let checked = promtool(&["check", "metrics"], &service.get("/metrics").body);
    let complaints: Vec<&str> = checked.stderr.lines().chain(checked.stdout.lines()).collect();
    // Gauges under names of counters: Stigg documents them so, and what exists is written against them.
    assert_eq!(
        complaints,
        [
            "persistent_cache_hits_total non-counter metrics should not have \"_total\" suffix",
            "persistent_cache_misses_total non-counter metrics should not have \"_total\" suffix",
        ]
    );
    service.stop();
}

/// A service with something to show in every panel: temporary credentials, and a queue that gets all sorts.
struct Watched {
    stage: FakeStage,
    _edge: EdgeStub,
    service: Service,
    port: String,
}

impl Watched {
    fn start() -> Self {
        let stage = FakeStage::new(QueueOptions::default());
        let edge = EdgeStub::start();
        let key = AccessKey {
            id: "ASIAWATCHED".into(),
            secret: "secret-of-the-watched".into(),
            session_token: Some("token-of-the-watched".into()),
        };
        let known = KnownKey {
            secret: key.secret.clone(),
            session_token: key.session_token.clone(),
            expires_at_ms: None,
        };
        stage.queue.allow_key(&key.id, known);
        edge.give_credentials(&key, persistent_cache_service::clock::now().0 + 3_600_000);
        let port = free_port().to_string();
        let settings = stage
            .settings()
            .unset("AWS_ACCESS_KEY_ID")
            .unset("AWS_SECRET_ACCESS_KEY")
            .set("EDGE_API_URL", &edge.url)
            .set("PORT", &port)
            .set("POISON_POLICY", "delete");
        Self { service: Service::start(&settings), stage, _edge: edge, port }
    }

    /// One message that is written, one that is stale, one of a customer who is not there, one that changes
    /// nothing, one that cannot be read.
    fn feed(&self) {
        let fresh = State::new(
            Owner::customer("customer-1"),
            persistent_cache_service::clock::now().0,
            &every_kind(0),
        );
        let stale = State::new(Owner::customer("customer-1"), hours_ago(2), &every_kind(1));
        let absent = State::new(Owner::customer("absent"), hours_ago(1), &every_kind(0));
        for message in [
            entitlements_updated(&fresh, Shape::GraphqlV2),
            entitlements_updated(&stale, Shape::GraphqlV2),
            usage_updated(&absent, "feature-api-calls", 1, hours_ago(1), Shape::GraphqlV2),
            event("FEATURE_UPDATED", hours_ago(1), &serde_json::json!({})),
        ] {
            self.stage.queue.send(message.raw());
        }
        self.stage.queue.send("no JSON");
    }
}

#[test]
fn every_panel_of_the_dashboard_shows_something_of_a_service_that_prometheus_scrapes() {
    let watched = Watched::start();
    let service = &watched.service;
    let prometheus = Prometheus::start(&watched.port, &repository_file(RULES));

    watched.feed();
    service.wait_for_metric("persistent_cache_messages_processed_total", 4.0);
    watched.stage.redis.stop();
    service.wait_until("prometheus to see that Redis is unavailable", || {
        prometheus.values("persistent_cache_redis_up == 0").len() == 1
    });
    watched.stage.redis.begin();
    service.wait_until_ready();

    let mut empty: Vec<(String, String)> = queries(&dashboard())
        .into_iter()
        .map(|(title, expression)| {
            let shown = expression
                .replace("$__rate_interval", "10s")
                .replace("$environment", "test")
                .replace("$job", JOB)
                .replace("$instance", &format!("127.0.0.1:{}", watched.port));
            (title, shown)
        })
        .collect();
    assert!(empty.len() > 30, "{empty:?}");
    let started = std::time::Instant::now();
    service.wait_until("every panel to show something", || {
        watched.feed();
        empty.retain(|(_, expression)| prometheus.values(expression).is_empty());
        assert!(started.elapsed().as_secs() < 55, "panels that stay empty: {empty:#?}");
        empty.is_empty()
    });

    // What happened is in the panels, not only zeros.
    service.wait_until("what was skipped, ignored and unreadable to be counted", || {
        watched.feed();
        [
            r#"sum(rate(persistent_cache_writes_skipped_total{reason="stale"}[10s])) > 0"#,
            r#"sum(rate(persistent_cache_writes_skipped_total{reason="no_customer"}[10s])) > 0"#,
            r#"sum(rate(persistent_cache_messages_ignored_total{type="FEATURE_UPDATED"}[10s])) > 0"#,
            "sum(rate(persistent_cache_messages_malformed_total[10s])) > 0",
        ]
        .iter()
        .all(|expression| !prometheus.values(expression).is_empty())
    });

    // What the variables offer.
    let match_all = [("match[]", "persistent_cache_build_info")];
    for (label, value) in [
        ("job", JOB.to_owned()),
        ("environment", "test".to_owned()),
        ("instance", format!("127.0.0.1:{}", watched.port)),
    ] {
        let offered = prometheus.api(&format!("label/{label}/values"), &match_all);
        assert_eq!(offered, serde_json::json!([value]), "{label}");
    }

    // The rules can be evaluated on what the service exports.
    let rules = prometheus.api("rules", &[]);
    let groups = rules["groups"].as_array().expect("groups").iter();
    let rules: Vec<&Value> = groups.flat_map(|group| group["rules"].as_array().expect("rules")).collect();
    assert_eq!(rules.len(), alerts().len());
    for rule in rules {
        assert_eq!(rule["health"], "ok", "{rule}");
    }
    watched.service.stop();
}
