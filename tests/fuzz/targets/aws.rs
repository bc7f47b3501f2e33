//! What AWS answers to those who ask for credentials: STS, the endpoints of containers and of instances.

use std::sync::LazyLock;

use fastrand::Rng;
use persistent_cache_service::aws::{Credentials, answers};
use serde_json::json;

use super::{Memory, Target, hold, is_a_line, refuses_depth};
use crate::judge::Probe;
use crate::mutate::json::Samples;
use crate::mutate::{json_input, xml};

pub const STS: Target = Target {
    name: "sts",
    about: "STS's answers to AssumeRoleWithWebIdentity and GetCallerIdentity, and its refusals",
    weight: 6,
    memory: Memory {
        per_byte: 16,
        // Room for as many nodes as an answer may have.
        constant: 512 * 1024,
    },
    input: xml::input,
    check: sts,
};

pub const DOCUMENT: Target = Target {
    name: "metadata",
    about: "the document with credentials of ECS, EKS Pod Identity and IMDSv2, and their refusals",
    weight: 6,
    memory: Memory {
        per_byte: 16,
        // What as many values as a document may hold take.
        constant: 512 * 1024,
    },
    input: |rng: &mut Rng| json_input(rng, &DOCUMENTS),
    check: metadata,
};

static DOCUMENTS: LazyLock<Samples> = LazyLock::new(|| {
    let answers = [
        json!({"Code": "Success", "LastUpdated": "2026-11-20T08:00:00Z", "Type": "AWS-HMAC", "AccessKeyId": "ASIA1",
            "SecretAccessKey": "s3cret", "Token": "t0ken-of-a-pod", "Expiration": "2030-01-01T00:00:00Z"}),
        json!({"AccessKeyId": "ASIA1", "SecretAccessKey": "s3cret", "Token": "t0ken-of-a-pod", "AccountId": "1",
            "Expiration": "2030-01-01T00:00:00Z", "RoleArn": "arn:aws:iam::123456789012:role/r"}),
        json!({"code": "NoIdInRequest", "message": "CredentialEndpoint: no id in the request"}),
        json!({"Code": "AssumeRoleUnauthorizedAccess", "Message": "EC2 cannot assume the role r."}),
    ];
    let texts = ["-9999-12-31T23:59:59.999Z", "9999-12-31T23:59:60.999999999+23:59", "a\nb\u{1b}[31m"];
    Samples::new(answers, &["Code", "code", "Message", "message"], &texts)
});

/// An error contains no secret. The mutator may put one where an error code is expected.
fn tells_nothing(fault: &str) -> Result<(), String> {
    is_a_line(fault, 300)?;
    hold(!fault.contains("s3cret") && !fault.contains("t0ken-of-a-pod"), || {
        format!("an error quotes nothing of the answer: {fault}")
    })
}

fn are_whole(credentials: &Credentials) -> Result<(), String> {
    let token = credentials.session_token.as_ref().is_some_and(|token| !token.is_empty());
    let texts = !credentials.access_key_id.is_empty() && !credentials.secret_access_key.is_empty();
    hold(token && texts && credentials.expires_at.is_some(), || "temporary credentials are whole".to_owned())
}

/// The code of a refusal. Both it and the text are a line, without the token.
fn refusal(input: &[u8], probe: &mut Probe) -> Result<String, String> {
    let (code, text) = probe.measure(|| {
        let (code, message) = answers::error(input).unwrap_or_default();
        answers::refusal(403, &code, &message, &["t0ken-of-a-pod"])
    });
    is_a_line(&code, 60)?;
    is_a_line(&text, 400)?;
    hold(!text.contains("t0ken-of-a-pod"), || format!("the token is cut out of a refusal: {text}"))?;
    Ok(code)
}

fn sts(input: &[u8], probe: &mut Probe) -> Result<bool, String> {
    let credentials = probe.measure(|| answers::sts_credentials(input));
    match &credentials {
        Ok(credentials) => are_whole(credentials)?,
        Err(fault) => tells_nothing(fault)?,
    }
    let caller = probe.measure(|| answers::caller_arn(input));
    match &caller {
        Ok(arn) => is_a_line(arn, input.len())?,
        Err(fault) => tells_nothing(fault)?,
    }
    let code = refusal(input, probe)?;
    Ok(credentials.is_ok() || !code.is_empty())
}

fn metadata(input: &[u8], probe: &mut Probe) -> Result<bool, String> {
    let read = probe.measure(|| answers::document_credentials(input));
    refuses_depth(input, read.is_ok())?;
    let code = refusal(input, probe)?;
    match &read {
        Ok(credentials) => are_whole(credentials)?,
        Err(fault) => tells_nothing(fault)?,
    }
    Ok(read.is_ok() || !code.is_empty())
}
