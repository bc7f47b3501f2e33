//! `CACHE_FORMAT`: what is written for readers of 4.x, and for all of them at once. (`v3` is held by the golden
//! writes: it is what SDK 3.95.0 writes.)

use serde_json::{Value, json};

use crate::support::messages::{Shape, credit_balance, entitlements_updated, usage_updated};
use crate::support::sdk::Owner;
use crate::support::service::Service;
use crate::support::stage::{PREFIX, Stage};
use crate::support::state::{State, credit, every_kind, hours_ago};

const OWNER: Owner = Owner { customer: "customer-1", resource: None };
const FEATURE: &str = "feature-api-calls";
const CURRENCY: &str = "cred-type-ai";

/// Everything the service wrote of one state, one usage and one credit balance.
struct Written {
    state: State,
    usage_at: i64,
    balance_at: i64,
    stage: Stage,
}

impl Written {
    fn as_format(format: &str) -> Self {
        let stage = Stage::new();
        let settings = stage.settings().set("CACHE_UPDATE_POLICY", "UPSERT").set("CACHE_FORMAT", format);
        let service = Service::start(&settings);
        let entitlements = [every_kind(0), vec![credit(CURRENCY, 1000, 250)]].concat();
        let state = State::with_usage_times(OWNER, hours_ago(5), hours_ago(6), &entitlements);
        let (usage_at, balance_at) = (hours_ago(2), hours_ago(1));
        stage.deliver(&service, &[entitlements_updated(&state, Shape::GraphqlV2).raw()]);
        stage.deliver(
            &service,
            &[
                usage_updated(&state, FEATURE, 43, usage_at, Shape::GraphqlV2).raw(),
                credit_balance(OWNER, CURRENCY, 300, balance_at).raw(),
            ],
        );
        service.stop();
        Self { state, usage_at, balance_at, stage }
    }

    fn json(&self, suffix: &str) -> Value {
        self.find(suffix).unwrap_or_else(|| panic!("no {suffix}: {:?}", self.stage.redis.keys()))
    }

    fn find(&self, suffix: &str) -> Option<Value> {
        self.stage.redis.json(&format!("{}{suffix}", OWNER.key(PREFIX)))
    }

    /// A field of the state's metered feature, in epoch milliseconds.
    fn period(&self, name: &str) -> Value {
        let text = self.state.entitlements[0][name].as_str().expect("a time");
        let format = &time::format_description::well_known::Iso8601::DEFAULT;
        let time = time::OffsetDateTime::parse(text, format).expect("a time");
        json!(i64::try_from(time.unix_timestamp_nanos() / 1_000_000).expect("milliseconds"))
    }

    fn assert_times(&self) {
        let times = [
            ("#timestamp".to_owned(), self.state.updated_at_ms),
            (":metadata#timestamp".to_owned(), self.state.updated_at_ms),
            (format!(":f_{FEATURE}#timestamp"), self.usage_at),
            (format!(":credit_{CURRENCY}#timestamp"), self.balance_at),
        ];
        for (suffix, at) in times {
            assert_eq!(self.json(&suffix), json!(at), "{suffix}");
        }
    }
}

#[test]
fn v4_entries_carry_type_display_name_period_and_usage_data() {
    let written = Written::as_format("v4");
    written.assert_times();
    assert_eq!(written.json(":metadata"), json!({"accessDeniedReason": null}));
    let entries = written.json("");
    let metered = &entries[FEATURE];
    let calculated = &metered["calculatedEntitlement"];
    assert_eq!(calculated["type"], "FEATURE", "{calculated}");
    assert_eq!(calculated["feature"]["displayName"], format!("Name of {FEATURE}"), "{calculated}");
    assert_eq!(calculated["resetPeriod"], "MONTH");
    assert_eq!(
        calculated["resetPeriodConfiguration"],
        json!({"__typename": "MonthlyResetPeriodConfig", "monthlyAccordingTo": "SubscriptionStart"})
    );
    assert_eq!(calculated["usagePeriodAnchor"], written.period("usagePeriodAnchor"));
    let usage = &metered["usageData"];
    assert_eq!(usage["currentUsage"], 42, "{usage}");
    assert_eq!(usage["usagePeriodStart"], written.period("usagePeriodStart"));
    assert_eq!(usage["usagePeriodEnd"], written.period("usagePeriodEnd"));
    assert!(metered.get("featureUsage").is_none(), "{metered}");

    let credit = &entries[CURRENCY];
    assert_eq!(credit["calculatedEntitlement"]["type"], "CREDIT", "{credit}");
    assert_eq!(credit["calculatedEntitlement"]["currency"]["currencyId"], CURRENCY);
    assert_eq!(credit["calculatedEntitlement"]["currency"]["displayName"], "AI credits");
    assert_eq!(credit["calculatedEntitlement"]["usageLimit"], 1000);
    assert_eq!(credit["usageData"]["currentUsage"], 250);

    let usage_key = written.json(&format!(":f_{FEATURE}"));
    assert_eq!(usage_key["currentUsage"], 43);
    assert_eq!(usage_key["usagePeriodEnd"], written.period("usagePeriodEnd"));
    assert_eq!(written.json(&format!(":credit_{CURRENCY}"))["currentUsage"], 300);
}

#[test]
fn compatible_entries_carry_every_form_at_once() {
    let written = Written::as_format("compatible");
    written.assert_times();
    let entries = written.json("");
    let metered = &entries[FEATURE];
    let end = written.period("usagePeriodEnd");
    assert_eq!(metered["calculatedEntitlement"]["type"], "FEATURE");
    assert_eq!(metered["featureUsage"]["currentUsage"], 42, "for 2.x and 3.x: {metered}");
    assert_eq!(metered["featureUsage"]["usagePeriodEnd"], end);
    assert_eq!(metered["featureUsage"]["nextResetDate"], end, "for 2.x");
    assert_eq!(metered["usageData"]["currentUsage"], 42, "for 4.x");
    assert_eq!(entries[CURRENCY]["calculatedEntitlement"]["type"], "CREDIT");
    let usage_key = written.json(&format!(":f_{FEATURE}"));
    assert_eq!((&usage_key["usagePeriodEnd"], &usage_key["nextResetDate"]), (&end, &end), "{usage_key}");
    assert_eq!(written.json(":metadata"), json!({"accessDeniedReason": null}));
}

#[test]
fn v3_entries_leave_out_metadata_and_credit_entitlements() {
    let written = Written::as_format("v3");
    assert_eq!(written.find(":metadata"), None);
    assert_eq!(written.find(":metadata#timestamp"), None);
    let entries = written.json("");
    assert!(entries.get(CURRENCY).is_none(), "{entries}");
    assert_eq!(entries.as_object().map(serde_json::Map::len), Some(every_kind(0).len()));
}
