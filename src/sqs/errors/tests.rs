use std::sync::Arc;
use std::time::Duration;

use url::Url;

use super::*;
use crate::aws::CredentialsError;
use crate::clock::EpochMs;

/// Keys of this source.
struct Keys {
    source: &'static str,
    decided_by: Option<&'static str>,
}

const STATIC: Keys = Keys { source: "static credentials with key id AKIA1", decided_by: None };
const FROM_EDGE: Keys = Keys {
    source: "temporary credentials from the Edge API at https://edge.api.stigg.io, with key id ASIA2",
    decided_by: Some("SERVER_API_KEY"),
};

impl CredentialsProvider for Keys {
    fn current(&self, _now: EpochMs) -> Result<Arc<Credentials>, CredentialsError> {
        unreachable!("nothing is signed here")
    }
    fn invalidate(&self, _access_key_id: &str, _now: EpochMs) {}
    fn describe(&self) -> String {
        self.source.to_owned()
    }
    fn expiry(&self) -> Option<EpochMs> {
        None
    }
    fn decided_by(&self) -> Option<&str> {
        self.decided_by
    }
}

fn settings(region: &str, queue: &str) -> SqsSettings {
    SqsSettings {
        endpoint: Url::parse("https://sqs.eu-central-1.amazonaws.com/").unwrap(),
        queue_url: format!("https://sqs.eu-central-1.amazonaws.com/123456789012/{queue}"),
        region: region.to_owned(),
        pool_size: 1,
        receive_slack: Duration::ZERO,
        proxy: None,
    }
}

/// What is reported of a call to this queue that was signed with these keys.
fn report<T>(
    operation: Operation,
    settings: &SqsSettings,
    keys: &Keys,
    of: impl FnOnce(FailedCall<'_>) -> T,
) -> T {
    let credentials = Credentials {
        access_key_id: keys.source.rsplit(' ').next().unwrap().to_owned(),
        secret_access_key: "the-secret-key".to_owned(),
        session_token: Some("FwoGtoken".to_owned()),
        expires_at: None,
    };
    of(FailedCall { operation, settings, credentials: &credentials, provider: keys })
}

fn refusal(status: u16, code: &str, message: &str) -> QueueRefusal {
    QueueRefusal { status, code: code.to_owned(), message: message.to_owned() }
}

fn line(keys: &Keys, status: u16, code: &str, message: &str, ahead_ms: Option<i64>) -> String {
    let settings = settings("eu-central-1", "events");
    let error = report(Operation::Receive, &settings, keys, |call| {
        refused(call, &refusal(status, code, message), ahead_ms)
    });
    assert_eq!(error.kind, code);
    error.message
}

#[test]
fn a_refusal_names_call_queue_region_status_code_message_and_remedy() {
    assert_eq!(
        line(
            &STATIC,
            403,
            "InvalidClientTokenId",
            "The security token included in the request is invalid.",
            None
        ),
        "cannot receive messages from queue https://sqs.eu-central-1.amazonaws.com/123456789012/events in region \
         eu-central-1: HTTP 403 InvalidClientTokenId (The security token included in the request is invalid.); AWS does \
         not know access key ID AKIA1 in region eu-central-1 (deleted, inactive, of another account?): check \
         AWS_ACCESS_KEY_ID, AWS_REGION, and AWS_SESSION_TOKEN if the key is temporary"
    );
}

/// Status, code, a part of the remedy for static keys, whether the call is refused for good.
#[rustfmt::skip]
const REMEDIES: &[(u16, &str, &str, bool)] = &[
    (403, "InvalidClientTokenId", "check AWS_ACCESS_KEY_ID", false),
    (403, "UnrecognizedClientException", "check AWS_ACCESS_KEY_ID", false),
    (403, "InvalidAccessKeyId", "check AWS_ACCESS_KEY_ID", false),
    (403, "MissingAuthenticationToken", "does a proxy remove headers?", false),
    (400, "IncompleteSignature", "does a proxy remove headers?", false),
    (403, "SignatureDoesNotMatch", "AWS_SECRET_ACCESS_KEY and AWS_REGION", false),
    (400, "InvalidSignatureException", "AWS_SECRET_ACCESS_KEY and AWS_REGION", false),
    (403, "RequestTimeTooSkewed", "the time of the signature was not accepted", false),
    (403, "ExpiredToken", "has expired: set new AWS_ACCESS_KEY_ID", false),
    (403, "AccessDenied", "lacks sqs:ReceiveMessage on this queue: allow it", true),
    (400, "QueueDoesNotExist", "check QUEUE_URL and AWS_REGION", false),
    (400, "AWS.SimpleQueueService.NonExistentQueue", "check QUEUE_URL and AWS_REGION", false),
    (403, "OverLimit", "120,000 messages are in flight (received, not deleted)", false),
    (400, "RequestThrottled", "too many calls: retrying later", false),
    (400, "KMS.ThrottlingException", "too many calls: retrying later", false),
    (429, "Http429", "too many calls: retrying later", false),
    (400, "KmsAccessDenied", "allow access key ID AKIA1 kms:Decrypt", false),
    (400, "KmsDisabled", "check that its KMS key exists and is enabled", false),
    (502, "Http502", "the fault is on the side of https://sqs.eu-central-1", false),
    (500, "InternalError", "the fault is on the side of https://sqs.eu-central-1", false),
    (301, "Http301", "is this an SQS endpoint?", false),
    (400, "InvalidParameterValue", "the SQS API reference explains this code", true),
];

#[test]
fn each_code_has_its_remedy() {
    let settings = settings("eu-central-1", "events");
    for (status, code, remedy, is_refused) in REMEDIES {
        let message = line(&STATIC, *status, code, "", None);
        assert!(message.contains(&format!("HTTP {status} {code}; ")), "{message}");
        assert!(message.contains(remedy), "{message}");
        let error = report(Operation::Receive, &settings, &STATIC, |call| {
            refused(call, &refusal(*status, code, ""), None)
        });
        assert_eq!(error.refused, *is_refused, "{code}");
    }
}

#[test]
fn keys_that_the_service_fetches_are_fetched_again() {
    for code in ["InvalidClientTokenId", "SignatureDoesNotMatch", "ExpiredToken"] {
        let message = line(&FROM_EDGE, 403, code, "", None);
        assert!(message.contains("with key id ASIA2: new ones are being fetched"), "{message}");
        assert!(message.contains("check SERVER_API_KEY"), "{message}");
    }
}

#[test]
fn too_many_messages_in_flight_is_no_matter_of_permissions_and_not_for_good() {
    let fault = refusal(403, "OverLimit", "").fault();
    assert!(!fault.concerns_the_key(403));
    let fifo = settings("eu-central-1", "events.fifo");
    let error = report(Operation::Receive, &fifo, &STATIC, |call| {
        refused(call, &refusal(403, "OverLimit", ""), None)
    });
    assert!(!error.refused);
    assert!(error.message.contains("; 20,000 messages are in flight"), "{error}");
    assert!(!error.message.contains("policy"), "{error}");
}

#[test]
fn a_wrong_signature_names_both_secret_and_region_and_the_clock() {
    let message =
        line(&STATIC, 403, "SignatureDoesNotMatch", "The request signature does not match.", Some(1_000));
    assert!(message.ends_with(
        "the secret does not belong to access key ID AKIA1, or the queue is not in region eu-central-1: check \
         AWS_SECRET_ACCESS_KEY and AWS_REGION; this machine's clock is right"
    ));
}

#[test]
fn a_clock_that_is_off_is_reported_with_its_offset() {
    let expired = "Signature expired: 20261102T115000Z is now earlier than 20261102T120000Z";
    let behind = line(&STATIC, 403, "SignatureDoesNotMatch", expired, Some(-10 * 60_000));
    assert!(
        behind.ends_with(
            "; this machine's clock is 10 minutes behind the server's: set it by NTP, AWS allows 5 minutes"
        ),
        "{behind}"
    );
    let ahead = line(&STATIC, 400, "InvalidSignatureException", "", Some(5 * 60_000));
    assert!(ahead.contains("; this machine's clock is 5 minutes ahead of the server's"), "{ahead}");
    let right = line(&STATIC, 403, "SignatureDoesNotMatch", "", Some(4 * 60_000));
    assert!(right.ends_with("; this machine's clock is right"), "{right}");
}

#[test]
fn secrets_and_the_signed_request_that_aws_quotes_are_cut() {
    let message = "The request signature we calculated does not match. The Canonical String for this request \
                   should have been 'POST / x-amz-security-token:other";
    let cut = line(&FROM_EDGE, 403, "SignatureDoesNotMatch", message, None);
    assert!(cut.contains("(The request signature we calculated does not match.)"), "{cut}");
    // A secret that crosses the end of what is quoted.
    let long = format!("{} the-secret-key FwoGtoken", "x".repeat(190));
    let cut = line(&STATIC, 400, "InvalidParameterValue", &long, None);
    assert!(cut.contains("x [redacte") && !cut.contains("the-s"), "{cut}");
}

#[test]
fn a_code_of_ours_to_know_is_never_redacted_and_any_other_is() {
    let settings = settings("eu-central-1", "events");
    let kind = |secret: &str, status, code: &str| {
        let credentials = Credentials {
            access_key_id: "AKIA1".to_owned(),
            secret_access_key: secret.to_owned(),
            session_token: None,
            expires_at: None,
        };
        let call = FailedCall {
            operation: Operation::Receive,
            settings: &settings,
            credentials: &credentials,
            provider: &STATIC,
        };
        refused(call, &refusal(status, code, ""), None).kind
    };
    assert_eq!(kind("AccessDenied", 403, "AccessDenied"), "AccessDenied");
    assert_eq!(kind("the-secret-key", 400, "Bad-the-secret-key"), "Bad-[redacted]");
    assert_eq!(kind("secret", 400, "Bad-secret"), "Bad-secret");
}

#[test]
fn a_foreign_text_is_quoted_on_one_short_line() {
    let page = "bad\r\n\u{1b}[31mgateway ".repeat(1000);
    let message = line(&STATIC, 502, "Http502", &page, None);
    assert!(message.contains("(bad \\u001b[31mgateway bad"), "{message}");
    assert!(message.chars().count() < 700 && !message.contains(char::is_control), "{message}");
}

#[test]
fn a_denied_call_names_the_missing_permission() {
    let settings = settings("eu-central-1", "events");
    for (operation, permission) in [
        (Operation::Receive, "lacks sqs:ReceiveMessage"),
        (Operation::Delete, "lacks sqs:DeleteMessage"),
        (Operation::ChangeVisibility, "lacks sqs:ChangeMessageVisibility"),
        (Operation::GetAttributes, "lacks sqs:GetQueueAttributes"),
    ] {
        let error = report(operation, &settings, &STATIC, |call| {
            refused(call, &refusal(403, "AccessDenied", "not authorized"), None)
        });
        assert!(error.message.contains(permission), "{error}");
    }
}

#[test]
fn regions_that_disagree_are_reported_with_every_refusal_of_the_callers() {
    let elsewhere = settings("us-east-1", "events");
    let hint = "; QUEUE_URL is in region eu-central-1 but AWS_REGION is us-east-1: make them agree";
    for (status, code, has_hint) in [
        (400, "QueueDoesNotExist", true),
        (403, "SignatureDoesNotMatch", true),
        (404, "Http404", true),
        (503, "ServiceUnavailable", false),
    ] {
        let error = report(Operation::Receive, &elsewhere, &STATIC, |call| {
            refused(call, &refusal(status, code, ""), None)
        });
        assert_eq!(error.message.ends_with(hint), has_hint, "{error}");
        assert!(!line(&STATIC, status, code, "", None).contains("make them agree"));
    }
}

#[test]
fn no_answer_names_the_endpoint_and_where_it_is_set() {
    let error =
        HttpError { kind: HttpErrorKind::ConnectionRefused, message: "connection refused".to_owned() };
    let settings = settings("eu-central-1", "events");
    let error = report(Operation::Receive, &settings, &STATIC, |call| unanswered(call, &error));
    assert_eq!(error.kind, "connection_refused");
    assert!(error.message.ends_with(
        ": no answer from https://sqs.eu-central-1.amazonaws.com: connection refused; nothing listens there: check \
         QUEUE_URL (or AWS_ENDPOINT_URL_SQS, AWS_ENDPOINT_URL)"
    ));
}

#[test]
fn an_entry_is_final_if_its_receipt_handle_is_worthless_and_not_if_the_fault_passes() {
    let is_final = |code: &str, sender_fault: bool| {
        let failure = EntryFailure { code: code.to_owned(), message: String::new(), sender_fault };
        failure.is_final()
    };
    assert!(is_final("ReceiptHandleIsInvalid", true));
    assert!(is_final("AWS.SimpleQueueService.MessageNotInflight", false));
    assert!(is_final("InvalidParameterValue", true));
    assert!(is_final("SomethingOfTheSenders", true));
    for passing in ["RequestThrottled", "AccessDenied", "KMS.AccessDeniedException", "OverLimit"] {
        assert!(!is_final(passing, true), "{passing}");
    }
    assert!(!is_final("InternalError", false));
}
