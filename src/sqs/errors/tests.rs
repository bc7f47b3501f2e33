use url::Url;

use super::*;
use crate::aws::tests::provider_of;
use crate::clock::EpochMs;

/// What each call is signed with.
fn credentials() -> Credentials {
    Credentials {
        access_key_id: "AKIA1".to_owned(),
        secret_access_key: "the-secret-key".to_owned(),
        session_token: Some("FwoGtoken".to_owned()),
        expires_at: None,
    }
}

fn settings(region: &str, queue: &str) -> SqsSettings {
    SqsSettings {
        endpoint: Url::parse("https://sqs.eu-central-1.amazonaws.com/").unwrap(),
        queue_url: format!("https://sqs.eu-central-1.amazonaws.com/123456789012/{queue}"),
        region: region.to_owned(),
        pool_size: 1,
        long_poll_deadline: Duration::ZERO,
        proxy: None,
    }
}

/// What is reported of a call to this queue.
fn report<T>(operation: Operation, settings: &SqsSettings, of: impl FnOnce(FailedCall<'_>) -> T) -> T {
    let provider = provider_of("temporary credentials from the Edge API", || Ok(credentials()));
    provider.current(EpochMs(0)).unwrap();
    of(FailedCall { operation, settings, credentials: &credentials(), provider: &provider })
}

fn refused(call: FailedCall<'_>, status: u16, code: &str, message: &str) -> QueueError {
    let refusal = QueueRefusal { status, code: code.to_owned(), message: message.to_owned() };
    call.refused(&refusal, Fault::of(status, code, message))
}

fn line(status: u16, code: &str, message: &str) -> String {
    let settings = settings("eu-central-1", "events");
    let error = report(Operation::Receive, &settings, |call| refused(call, status, code, message));
    assert_eq!(error.kind, code);
    error.message
}

#[test]
fn a_refusal_names_call_queue_region_status_code_message_and_remedy() {
    assert_eq!(
        line(403, "InvalidClientTokenId", "The security token included in the request is invalid."),
        "cannot receive messages from queue https://sqs.eu-central-1.amazonaws.com/123456789012/events in region \
         eu-central-1: HTTP 403 InvalidClientTokenId (The security token included in the request is invalid.); AWS does \
         not know this key in this region (deleted, inactive, of another account?): signed with temporary credentials from \
         the Edge API with key id AKIA1, which are read or fetched again now; if this persists, check THE_SETTING, and \
         AWS_REGION"
    );
}

/// Status, code, a part of the remedy, whether the call is refused for good.
#[rustfmt::skip]
const REMEDIES: &[(u16, &str, &str, bool)] = &[
    (403, "InvalidClientTokenId", "AWS does not know this key", false),
    (403, "UnrecognizedClientException", "AWS does not know this key", false),
    (403, "InvalidAccessKeyId", "AWS does not know this key", false),
    (403, "MissingAuthenticationToken", "does a proxy remove headers?", false),
    (400, "IncompleteSignature", "does a proxy remove headers?", false),
    (403, "SignatureDoesNotMatch", "does not belong to this key", false),
    (400, "InvalidSignatureException", "does not belong to this key", false),
    (403, "RequestTimeTooSkewed", "the time of the signature was not accepted", false),
    (403, "ExpiredToken", "has expired: signed with", false),
    (403, "AccessDenied", "lacks sqs:ReceiveMessage on this queue: allow it", true),
    (400, "QueueDoesNotExist", "check QUEUE_URL and AWS_REGION", false),
    (400, "AWS.SimpleQueueService.NonExistentQueue", "check QUEUE_URL and AWS_REGION", false),
    (403, "OverLimit", "120,000 messages are in flight (received, not deleted)", false),
    (400, "RequestThrottled", "too many calls: retrying later", false),
    (400, "KMS.ThrottlingException", "too many calls: retrying later", false),
    (429, "Http429", "too many calls: retrying later", false),
    (400, "KmsAccessDenied", "allow access key ID AKIA1 kms:Decrypt on it", false),
    (400, "KmsDisabled", "check that its KMS key is enabled", false),
    (502, "Http502", "the fault is on the side of https://sqs.eu-central-1", false),
    (500, "InternalError", "the fault is on the side of https://sqs.eu-central-1", false),
    (301, "Http301", "is this an SQS endpoint?", false),
    (400, "InvalidParameterValue", "the SQS API reference explains this code", true),
];

#[test]
fn each_code_has_its_remedy() {
    let settings = settings("eu-central-1", "events");
    for (status, code, remedy, is_refused) in REMEDIES {
        let message = line(*status, code, "");
        assert!(message.contains(&format!("HTTP {status} {code}; ")), "{message}");
        assert!(message.contains(remedy), "{message}");
        let error = report(Operation::Receive, &settings, |call| refused(call, *status, code, ""));
        assert_eq!(error.refused, *is_refused, "{code}");
    }
}

#[test]
fn too_many_messages_in_flight_is_no_matter_of_permissions_and_not_for_good() {
    let fault = Fault::of(403, "OverLimit", "");
    assert!(!fault.concerns_the_key(403));
    let settings = settings("eu-central-1", "events");
    let error = report(Operation::Receive, &settings, |call| refused(call, 403, "OverLimit", ""));
    assert!(!error.refused);
    assert!(error.message.contains("; 120,000 messages are in flight"), "{error}");
    assert!(!error.message.contains("policy"), "{error}");
}

#[test]
fn a_wrong_signature_names_both_secret_and_region_and_a_wrong_time_the_clock() {
    let wrong = line(403, "SignatureDoesNotMatch", "The request signature does not match.");
    let cause = "the secret does not belong to this key, or the queue is not in this region (a clock that is off is corrected): \
                 signed with";
    assert!(wrong.contains(cause), "{wrong}");
    let expired = "Signature expired: 20261102T115000Z is now earlier than 20261102T120000Z";
    let late = line(403, "SignatureDoesNotMatch", expired);
    assert!(
        late.ends_with("was not accepted: set this machine's clock by NTP, AWS allows 5 minutes"),
        "{late}"
    );
}

#[test]
fn secrets_and_the_signed_request_that_aws_quotes_are_cut() {
    let message = "The request signature we calculated does not match. The Canonical String for this request \
                   should have been 'POST / x-amz-security-token:other";
    let cut = line(403, "SignatureDoesNotMatch", message);
    assert!(cut.contains("(The request signature we calculated does not match.)"), "{cut}");
    // A secret that crosses the end of what is quoted.
    let long = format!("{} the-secret-key FwoGtoken", "x".repeat(190));
    let cut = line(400, "InvalidParameterValue", &long);
    assert!(cut.contains("x [redacte") && !cut.contains("the-s"), "{cut}");
}

#[test]
fn a_code_that_holds_a_secret_is_redacted() {
    let settings = settings("eu-central-1", "events");
    let error = report(Operation::Receive, &settings, |call| refused(call, 400, "Bad-the-secret-key", ""));
    assert_eq!(error.kind, "Bad-[redacted]");
}

#[test]
fn a_foreign_text_is_quoted_on_one_short_line() {
    let page = "bad\r\n\u{1b}[31mgateway ".repeat(1000);
    let message = line(502, "Http502", &page);
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
        let error = report(operation, &settings, |call| refused(call, 403, "AccessDenied", "not authorized"));
        assert!(error.message.contains(permission), "{error}");
    }
}

#[test]
fn no_answer_names_the_endpoint_and_where_it_is_set() {
    let error =
        HttpError { kind: HttpErrorKind::ConnectionRefused, message: "connection refused".to_owned() };
    let settings = settings("eu-central-1", "events");
    let error = report(Operation::Receive, &settings, |call| call.unanswered(&error));
    assert_eq!(error.kind, "connection_refused");
    assert!(error.message.ends_with(
        ": no answer from https://sqs.eu-central-1.amazonaws.com: connection refused; check the network path \
         (DNS, firewall, proxy, VPC endpoint) and QUEUE_URL (or AWS_ENDPOINT_URL_SQS, AWS_ENDPOINT_URL)"
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

#[test]
fn a_long_poll_that_is_cut_suggests_a_lower_wait() {
    let wait = Duration::from_secs(20);
    let reported = |kind: &str, age_ms: u64| {
        let error = QueueError {
            message: "cannot receive messages".to_owned(),
            kind: kind.to_owned(),
            refused: false,
        };
        of_receive(error, Duration::from_millis(age_ms), wait)
    };
    for kind in ["Http504", "connection_failed"] {
        let cut = reported(kind, 10_900);
        assert_eq!(cut.kind, "long_poll_cut");
        assert!(cut.message.starts_with("cannot receive messages; the long poll was cut after about 10 s"));
        assert!(cut.message.ends_with("or set WAIT_TIME_SECS=9"), "{cut}");
    }
    for (kind, age_ms) in [("timeout", 10_000), ("Http503", 10_000), ("Http504", 2_900), ("Http504", 20_000)]
    {
        assert_eq!(reported(kind, age_ms).kind, kind);
    }
}
