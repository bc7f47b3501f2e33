use super::*;

const CALL: FailedCall<'_> = FailedCall {
    operation: Operation::Receive,
    queue_url: "https://sqs.eu-central-1.amazonaws.com/123456789012/events",
    region: "eu-central-1",
    endpoint: "https://sqs.eu-central-1.amazonaws.com",
    access_key_id: "AKIA1",
    credentials: "static credentials with key id AKIA1",
    decided_by: None,
};
const FROM_EDGE: FailedCall<'_> = FailedCall {
    credentials: "temporary credentials from the Edge API at https://edge.api.stigg.io, with key id ASIA2",
    decided_by: Some("SERVER_API_KEY"),
    ..CALL
};

fn line(call: FailedCall<'_>, status: u16, code: &str, words: &str, ahead_ms: Option<i64>) -> String {
    let answer = ErrorAnswer {
        code: code.to_owned(),
        message: words.to_owned(),
    };
    let error = refused(call, status, &answer, ahead_ms);
    assert_eq!(error.kind, code);
    error.message
}

#[test]
fn an_unknown_key_is_named_with_its_region() {
    assert_eq!(
        line(
            CALL,
            403,
            "InvalidClientTokenId",
            "The security token included in the request is invalid.",
            None
        ),
        "cannot receive messages from queue https://sqs.eu-central-1.amazonaws.com/123456789012/events in region \
         eu-central-1: HTTP 403 InvalidClientTokenId (The security token included in the request is invalid.); AWS does \
         not know key id AKIA1 in region eu-central-1: check AWS_ACCESS_KEY_ID (deleted, inactive, of another \
         account or partition?), AWS_SESSION_TOKEN if it is a temporary one, and AWS_REGION"
    );
    for code in ["UnrecognizedClientException", "InvalidAccessKeyId"] {
        assert!(line(CALL, 403, code, "", None).contains("check AWS_ACCESS_KEY_ID"));
    }
    let renewed = line(FROM_EDGE, 403, "InvalidClientTokenId", "", None);
    assert!(
        renewed.contains("key id ASIA2: fresh ones are being fetched") && renewed.contains("SERVER_API_KEY")
    );
}

#[test]
fn a_wrong_signature_names_both_secret_and_region() {
    let message = line(
        CALL,
        403,
        "SignatureDoesNotMatch",
        "The request signature does not match.",
        Some(1_000),
    );
    assert!(message.ends_with(
        "the secret does not belong to key id AKIA1, or region eu-central-1 is not the queue's: check \
         AWS_SECRET_ACCESS_KEY and AWS_REGION; this machine's clock is right"
    ));
}

#[test]
fn a_clock_that_is_off_is_told_by_how_much() {
    let words = "Signature expired: 20261102T115000Z is now earlier than 20261102T120000Z";
    let behind = line(CALL, 403, "SignatureDoesNotMatch", words, Some(-10 * 60_000));
    assert!(
        behind.ends_with("; this machine's clock is 10 minutes behind the server's: set it, AWS allows 5")
    );
    let ahead = line(CALL, 400, "InvalidSignatureException", "", Some(5 * 60_000));
    assert!(
        ahead.ends_with("; this machine's clock is 5 minutes ahead of the server's: set it, AWS allows 5")
    );
    let right = line(CALL, 403, "SignatureDoesNotMatch", "", Some(4 * 60_000));
    assert!(right.ends_with("; this machine's clock is right"), "{right}");
}

#[test]
fn the_signed_request_that_aws_quotes_back_is_cut() {
    let words = "The request signature we calculated does not match. The Canonical String for this request \
                 should have been 'POST / x-amz-security-token:FwoGsecret";
    let message = line(FROM_EDGE, 403, "SignatureDoesNotMatch", words, None);
    assert!(
        message.contains("(The request signature we calculated does not match.)"),
        "{message}"
    );
    assert!(!message.contains("FwoG"), "{message}");
}

#[test]
fn an_expired_session_says_where_fresh_keys_come_from() {
    let given = line(CALL, 403, "ExpiredToken", "", None);
    assert!(
        given.contains("the session of key id AKIA1 is over: give fresh AWS_ACCESS_KEY_ID"),
        "{given}"
    );
    assert!(line(FROM_EDGE, 403, "ExpiredToken", "", None).ends_with("fresh ones are being fetched"));
}

#[test]
fn a_denied_call_names_the_missing_permission() {
    for (operation, permission) in [
        (Operation::Receive, "lacks sqs:ReceiveMessage: allow"),
        (Operation::Delete, "lacks sqs:DeleteMessage: allow"),
        (
            Operation::ChangeVisibility,
            "lacks sqs:ChangeMessageVisibility: allow",
        ),
    ] {
        let message = line(
            FailedCall { operation, ..CALL },
            403,
            "AccessDenied",
            "not authorized",
            None,
        );
        assert!(message.contains(permission), "{message}");
    }
    assert!(line(CALL, 400, "KmsAccessDenied", "", None).contains("kms:Decrypt"));
}

#[test]
fn an_absent_queue_points_at_its_url_and_region() {
    for code in ["QueueDoesNotExist", "AWS.SimpleQueueService.NonExistentQueue"] {
        let message = line(CALL, 400, code, "The specified queue does not exist.", None);
        assert!(
            message.contains("/123456789012/events in region eu-central-1"),
            "{message}"
        );
        assert!(message.ends_with("check QUEUE_URL and AWS_REGION"), "{message}");
    }
}

#[test]
fn regions_that_disagree_are_told_at_every_refusal_of_the_callers() {
    let elsewhere = FailedCall {
        region: "us-east-1",
        ..CALL
    };
    let hint = "; QUEUE_URL is in region eu-central-1 but AWS_REGION is us-east-1: make them agree";
    for (status, code) in [
        (400, "QueueDoesNotExist"),
        (403, "SignatureDoesNotMatch"),
        (404, "Http404"),
    ] {
        assert!(line(elsewhere, status, code, "", None).ends_with(hint));
        assert!(!line(CALL, status, code, "", None).contains("make them agree"));
    }
    assert!(!line(elsewhere, 503, "ServiceUnavailable", "", None).contains("make them agree"));
}

#[test]
fn what_passes_by_itself_says_so() {
    for (status, code) in [
        (400, "RequestThrottled"),
        (403, "OverLimit"),
        (400, "KMS.ThrottlingException"),
        (429, "Http429"),
    ] {
        assert!(
            line(CALL, status, code, "", None).contains("too many calls: it is tried again later"),
            "{code}"
        );
    }
    let fault = line(CALL, 502, "Http502", "Bad Gateway", None);
    assert!(
        fault.contains("Http502 (Bad Gateway); the fault is on the side of https://sqs.eu-central-1"),
        "{fault}"
    );
}

#[test]
fn a_refusal_that_is_not_sqss_own_asks_whether_the_endpoint_is() {
    let redirect = line(CALL, 301, "Http301", "Moved", None);
    assert!(redirect.contains("is this an SQS endpoint"), "{redirect}");
    let own = line(CALL, 400, "InvalidParameterValue", "", None);
    assert!(
        own.ends_with("the SQS API reference tells what this code means"),
        "{own}"
    );
}

#[test]
fn no_answer_names_the_endpoint_and_where_it_is_set() {
    let error = HttpError {
        kind: HttpErrorKind::ConnectionRefused,
        words: "connection refused".to_owned(),
    };
    let error = unanswered(CALL, &error);
    assert_eq!(error.kind, "connection_refused");
    assert!(error.message.contains(
        ": no answer from https://sqs.eu-central-1.amazonaws.com: connection refused; nothing listens there: check \
         host and port in QUEUE_URL"
    ));
}

#[test]
fn an_entry_is_final_if_its_receipt_handle_is_worth_nothing_and_not_if_the_fault_passes() {
    let is_final = |code: &str, sender_fault: bool| {
        let failure = EntryFailure {
            code: code.to_owned(),
            message: String::new(),
            sender_fault,
        };
        failure.is_final()
    };
    assert!(is_final("ReceiptHandleIsInvalid", true));
    assert!(is_final("AWS.SimpleQueueService.MessageNotInflight", false));
    assert!(is_final("InvalidParameterValue", true));
    assert!(is_final("SomethingOfTheSenders", true));
    for passing in ["RequestThrottled", "AccessDenied", "KMS.AccessDeniedException"] {
        assert!(!is_final(passing, true), "{passing}");
    }
    assert!(!is_final("InternalError", false));
}
