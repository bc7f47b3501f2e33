//! What Stigg's Edge API answers.

use std::sync::LazyLock;

use persistent_cache_service::clock::EpochMs;
use persistent_cache_service::edge::EdgeErrorKind;
use persistent_cache_service::edge::answer::{credentials, entitlements_state, read, sentry_dsn};
use persistent_cache_service::entitlement::{CustomerId, Subject};
use persistent_cache_service::message;
use sentry::types::Dsn;
use serde_json::json;

use super::{Memory, Target, hold, is_a_line, refuses_depth};
use crate::judge::Probe;
use crate::mutate::json::Samples;
use crate::mutate::json_input;

pub const CREDENTIALS: Target = Target {
    name: "edge-credentials",
    about: "the Edge API's answer with credentials for the queue",
    weight: 4,
    memory: MEMORY,
    input: |rng| json_input(rng, &SAMPLES),
    check: check_credentials,
};

pub const CONFIGURATION: Target = Target {
    name: "edge-config",
    about: "the Edge API's answer with the remote configuration, and the DSN in it",
    weight: 4,
    memory: MEMORY,
    input: |rng| json_input(rng, &SAMPLES),
    check: check_configuration,
};

pub const STATE: Target = Target {
    name: "edge-state",
    about: "the Edge API's answer with a customer's entitlements, and the message that is made of it",
    weight: 4,
    memory: MEMORY,
    input: |rng| json_input(rng, &STATES),
    check: check_state,
};

const MEMORY: Memory = Memory {
    per_byte: 48,
    // What few enough values to be plausible in any text may take.
    constant: 1536 * 1024,
};

static SAMPLES: LazyLock<Samples> = LazyLock::new(|| {
    let answers = [
        json!({"accessKeyId": "ASIA1", "secretAccessKey": "s3cret", "sessionToken": "t0ken",
            "expiration": "2025-08-03T09:58:08.468Z"}),
        json!({"data": {"sdkConfiguration": {"sentryDsn": "https://s3cret@o1.ingest.sentry.io/42"}}}),
        json!({"data": null, "errors": [{"message": "s3cret", "extensions": {"code": "Unauthenticated"}}]}),
    ];
    let texts = [
        "-9999-12-31T23:59:59.999Z",
        "9999-12-31T23:59:60.999999999+23:59",
        "2025-08-03T09:58:08.468-00:00",
        "http://t0ken@[::1]:99999/1",
        "https://s3cret@host/path/1?x#y",
    ];
    Samples::new(answers, &["errors", "extensions", "code", "data"], &texts)
});

static STATES: LazyLock<Samples> = LazyLock::new(|| {
    let entry = json!({"__typename": "FeatureEntitlement", "hasUnlimitedUsage": false, "usageLimit": 10, "currentUsage": 3,
        "resetPeriod": "MONTH", "usagePeriodEnd": "2026-12-01T00:00:00.000Z",
        "feature": {"id": "feature-1", "featureType": "NUMBER", "meterType": "INCREMENTAL", "featureUnits": "call"}});
    let credit = json!({"__typename": "CreditEntitlement", "usageLimit": 5, "currentUsage": 1.5,
        "currency": {"currencyId": "credit-1", "displayName": "s3cret"}});
    let answers = [
        json!({"data": {"entitlementsState": {"__typename": "EntitlementsState", "entitlementsV2": [entry, credit],
            "accessDeniedReason": null}}}),
        json!({"data": {"entitlementsState": {"entitlements": [entry], "accessDeniedReason": "NoActiveSubscription"}}}),
        json!({"data": null, "errors": [{"message": "s3cret", "extensions": {"code": "CustomerNotFound"}}]}),
    ];
    let names = [
        "errors",
        "code",
        "data",
        "entitlementsState",
        "entitlementsV2",
        "entitlements",
        "feature",
        "currency",
    ];
    Samples::new(answers, &names, &["9999-12-31T23:59:60Z", "s3cret"])
});

/// An error must not contain any content of an answer.
fn tells_nothing(fault: &str) -> Result<(), String> {
    is_a_line(fault, 300)?;
    let quoted = ["s3cret", "t0ken", "ASIA1"];
    let quoted = quoted.iter().any(|content| fault.contains(content));
    // An error code is quoted as it is, and the mutator may put anything in its place.
    hold(!quoted || fault.contains("it lists errors"), || {
        format!("an error quotes nothing of the answer: {fault}")
    })
}

/// An accepted answer must satisfy `holds`, and the error of a refused one must quote nothing.
fn judge<T>(
    input: &[u8],
    answer: Result<T, (EdgeErrorKind, String)>,
    holds: impl FnOnce(T) -> Result<(), String>,
) -> Result<bool, String> {
    refuses_depth(input, answer.is_ok())?;
    match answer {
        Ok(taken) => holds(taken).map(|()| true),
        Err((_, fault)) => tells_nothing(&fault).map(|()| false),
    }
}

fn check_credentials(input: &[u8], probe: &mut Probe) -> Result<bool, String> {
    let answer = probe.measure(|| read(200, input, credentials));
    judge(input, answer, |credentials| {
        let texts = [&credentials.access_key_id, &credentials.secret_access_key];
        hold(texts.iter().all(|text| !text.is_empty()), || "credentials are not empty".to_owned())?;
        // The mutator may have put a secret in the place of the key id, which is shown.
        let shown = format!("{credentials:?}");
        let is_shown = |secret: &str| shown.contains(secret) && !credentials.access_key_id.contains(secret);
        hold(!is_shown("s3cret") && !is_shown("t0ken"), || "no secret is shown".to_owned())
    })
}

fn check_configuration(input: &[u8], probe: &mut Probe) -> Result<bool, String> {
    let answer = probe.measure(|| read(200, input, sentry_dsn));
    judge(input, answer, |dsn| {
        if let Some(dsn) = dsn {
            // Whoever reads it next must not stumble either.
            let _ = dsn.trim().parse::<Dsn>().map(|dsn| (dsn.port(), dsn.envelope_api_url()));
        }
        Ok(())
    })
}

fn check_state(input: &[u8], probe: &mut Probe) -> Result<bool, String> {
    let subject = Subject { customer: CustomerId("customer-1".to_owned()), resource: None };
    let answer = probe.measure(|| read(200, input, |answer| entitlements_state(answer, &subject)));
    judge(input, answer, |body| match probe.measure(|| message::decode(&body, EpochMs(1_795_200_000_000))) {
        Ok(_) => Ok(()),
        Err(fault) => is_a_line(&fault.to_string(), 400),
    })
}
