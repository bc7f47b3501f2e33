//! What a failed queue call is called, and what to do about it: one line that a stranger can act on. Pure.
//!
//! A line names the call, the queue, the region and the key id, quotes SQS's code and words, and ends with the
//! remedy. It never holds a secret: where AWS quotes the signed request back, the quotation is cut.

use super::wire::{ErrorAnswer, WireError};
use super::{EntryFailure, Operation, QueueError, region};
use crate::aws::quotable;
use crate::http_client::{HttpError, HttpErrorKind};

/// AWS accepts signatures that are up to 5 minutes off; from here on the clock is worth a word.
const SKEW_MENTIONED_MS: i64 = 4 * 60 * 1000;

/// Kinds become labels of log lines: a foreign code must not be longer than a name is.
const KIND_CHARS_MAX: usize = 60;

/// The call that failed.
#[derive(Debug, Clone, Copy)]
pub struct FailedCall<'a> {
    /// Which.
    pub operation: Operation,
    /// The queue, as configured.
    pub queue_url: &'a str,
    /// The region it was signed for.
    pub region: &'a str,
    /// Scheme, host and port that were called.
    pub endpoint: &'a str,
    /// The key id it was signed with.
    pub access_key_id: &'a str,
    /// Where that key came from, as [`CredentialsProvider::describe`](crate::aws::CredentialsProvider) has it.
    pub credentials: &'a str,
    /// What decides about the key, if it is fetched and renewed by this service and not given by the operator; as
    /// [`CredentialsProvider::decided_by`](crate::aws::CredentialsProvider::decided_by) has it.
    pub decided_by: Option<&'a str>,
}

/// SQS refused, or something before it did. `ahead_ms` is how far this machine's clock is ahead of the answer's
/// `Date`, if it had one.
pub fn refused(call: FailedCall<'_>, status: u16, answer: &ErrorAnswer, ahead_ms: Option<i64>) -> QueueError {
    let fault = Fault::of(status, &answer.code, &answer.message);
    let words = match quotable(&answer.message) {
        "" => String::new(),
        words => format!(" ({words})"),
    };
    let clock = if fault.concerns_the_signature() {
        ahead_ms.and_then(|ahead_ms| clock_words(fault, ahead_ms))
    } else {
        None
    };
    let mut parts = vec![
        format!("{}: HTTP {status} {}{words}", call.what(), answer.code),
        remedy(call, status, fault),
    ];
    parts.extend(clock);
    if (400..500).contains(&status) {
        parts.extend(regions_differ(call));
    }
    QueueError {
        message: parts.join("; "),
        kind: answer.code.chars().take(KIND_CHARS_MAX).collect(),
        refused: matches!(fault, Fault::Denied | Fault::Other),
    }
}

/// There was no answer.
pub fn unanswered(call: FailedCall<'_>, error: &HttpError) -> QueueError {
    let remedy = match error.kind {
        HttpErrorKind::Timeout | HttpErrorKind::Connection => {
            "check the way there (firewall, proxy, VPC endpoint); QUEUE_URL, AWS_ENDPOINT_URL_SQS and \
             AWS_ENDPOINT_URL say where it leads"
        }
        HttpErrorKind::HostNotFound => {
            "check the host name in QUEUE_URL (or AWS_ENDPOINT_URL_SQS, AWS_ENDPOINT_URL) and this machine's DNS"
        }
        HttpErrorKind::ConnectionRefused => {
            "nothing listens there: check host and port in QUEUE_URL (or AWS_ENDPOINT_URL_SQS, AWS_ENDPOINT_URL)"
        }
        HttpErrorKind::Tls => {
            "check the trusted certificates of this machine (package ca-certificates, SSL_CERT_FILE), and that the \
             endpoint speaks https"
        }
        HttpErrorKind::AnswerTooLarge | HttpErrorKind::Protocol => {
            "is this an SQS endpoint? check QUEUE_URL (or AWS_ENDPOINT_URL_SQS, AWS_ENDPOINT_URL)"
        }
        HttpErrorKind::Proxy(fault) => fault.remedy(),
    };
    QueueError {
        message: format!(
            "{}: no answer from {}: {error}; {remedy}",
            call.what(),
            call.endpoint
        ),
        kind: error.kind.label().to_owned(),
        refused: false,
    }
}

/// An answer with status 200 that is not SQS's.
pub fn unreadable(call: FailedCall<'_>, error: &WireError) -> QueueError {
    QueueError {
        message: format!(
            "{}: {error}; is {} an SQS endpoint, with no proxy in between that answers for it? check QUEUE_URL \
             (or AWS_ENDPOINT_URL_SQS, AWS_ENDPOINT_URL)",
            call.what(),
            call.endpoint
        ),
        kind: "unreadable_answer".to_owned(),
        refused: false,
    }
}

impl Operation {
    /// The call in words, as the start of an error.
    fn words(self) -> &'static str {
        match self {
            Self::Receive => "cannot receive messages from",
            Self::Delete => "cannot delete messages from",
            Self::ChangeVisibility => "cannot change the visibility of messages in",
            Self::GetAttributes => "cannot read the attributes of",
        }
    }

    /// The permission it needs.
    fn permission(self) -> &'static str {
        match self {
            Self::Receive => "sqs:ReceiveMessage",
            Self::Delete => "sqs:DeleteMessage",
            Self::ChangeVisibility => "sqs:ChangeMessageVisibility",
            Self::GetAttributes => "sqs:GetQueueAttributes",
        }
    }
}

impl EntryFailure {
    /// Trying again with the same entry cannot help: its receipt handle has expired, or is none, or its message is gone.
    pub fn is_final(&self) -> bool {
        let code = self.code.rsplit('.').next().unwrap_or(&self.code);
        let names_the_handle = matches!(
            code,
            "ReceiptHandleIsInvalid" | "MessageNotInflight" | "InvalidParameterValue" | "InvalidIdFormat"
        );
        // Throttling and a missing permission are the sender's fault to SQS, too; but they pass.
        let may_pass = matches!(
            Fault::of(400, &self.code, &self.message),
            Fault::Throttled | Fault::Denied | Fault::KmsDenied | Fault::Expired
        );
        names_the_handle || (self.sender_fault && !may_pass)
    }
}

impl FailedCall<'_> {
    fn what(&self) -> String {
        format!(
            "{} queue {} in region {}",
            self.operation.words(),
            self.queue_url,
            self.region
        )
    }
}

/// The sorts of refusal that have a remedy of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    UnknownKey,
    Unsigned,
    WrongSignature,
    Expired,
    Denied,
    NoSuchQueue,
    Throttled,
    KmsDenied,
    ServerSide,
    NotSqs,
    Other,
}

impl Fault {
    fn of(status: u16, code: &str, words: &str) -> Self {
        let words = words.to_ascii_lowercase();
        match code {
            // Checked before the codes: AWS says SignatureDoesNotMatch of a clock that is off, too.
            _ if words.contains("signature expired") || words.contains("signature not yet current") => {
                Self::WrongSignature
            }
            "InvalidClientTokenId"
            | "UnrecognizedClientException"
            | "InvalidAccessKeyId"
            | "InvalidSecurity" => Self::UnknownKey,
            "MissingAuthenticationToken"
            | "MissingAuthenticationTokenException"
            | "IncompleteSignature"
            | "IncompleteSignatureException" => Self::Unsigned,
            "SignatureDoesNotMatch"
            | "InvalidSignatureException"
            | "RequestExpired"
            | "RequestTimeTooSkewed" => Self::WrongSignature,
            "ExpiredToken" | "ExpiredTokenException" => Self::Expired,
            "KmsAccessDenied" | "KMS.AccessDeniedException" => Self::KmsDenied,
            "KmsThrottled"
            | "KMS.ThrottlingException"
            | "RequestThrottled"
            | "RequestThrottledException"
            | "Throttling"
            | "ThrottlingException"
            | "ThrottledException"
            | "TooManyRequestsException"
            | "OverLimit"
            | "RequestLimitExceeded"
            | "SlowDown" => Self::Throttled,
            "AccessDenied" | "AccessDeniedException" | "NotAuthorized" | "UnauthorizedOperation" => {
                Self::Denied
            }
            "QueueDoesNotExist"
            | "AWS.SimpleQueueService.NonExistentQueue"
            | "NonExistentQueue"
            | "QueueDeletedRecently"
            | "InvalidAddress" => Self::NoSuchQueue,
            _ if status == 429 => Self::Throttled,
            _ if status >= 500 => Self::ServerSide,
            // The answer named no code of SQS's.
            _ if code.starts_with("Http") => Self::NotSqs,
            _ => Self::Other,
        }
    }

    fn concerns_the_signature(self) -> bool {
        matches!(
            self,
            Self::UnknownKey | Self::Unsigned | Self::WrongSignature | Self::Expired
        )
    }
}

fn remedy(call: FailedCall<'_>, status: u16, fault: Fault) -> String {
    let (key_id, region, source) = (call.access_key_id, call.region, call.credentials);
    match (fault, call.decided_by) {
        (Fault::UnknownKey, None) => format!(
            "AWS does not know key id {key_id} in region {region}: check AWS_ACCESS_KEY_ID (deleted, inactive, of \
             another account or partition?), AWS_SESSION_TOKEN if it is a temporary one, and AWS_REGION"
        ),
        (Fault::WrongSignature, None) => format!(
            "the secret does not belong to key id {key_id}, or region {region} is not the queue's: check \
             AWS_SECRET_ACCESS_KEY and AWS_REGION"
        ),
        (Fault::Expired, None) => format!(
            "the session of key id {key_id} is over: give fresh AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and \
             AWS_SESSION_TOKEN, or leave all three out to have them from the Edge API"
        ),
        (Fault::UnknownKey | Fault::WrongSignature, Some(settings)) => format!(
            "signed with {source}: fresh ones are being fetched; if it goes on, check {settings}, and that QUEUE_URL \
             and AWS_REGION ({region}) belong to them"
        ),
        (Fault::Expired, Some(_)) => format!("signed with {source}: fresh ones are being fetched"),
        (Fault::Unsigned, _) => {
            format!(
                "the signature was lost on the way to {}: is there a proxy that strips headers?",
                call.endpoint
            )
        }
        (Fault::Denied, _) if call.operation == Operation::GetAttributes => format!(
            "key id {key_id} lacks {}: allow it on this queue (IAM policy and queue policy), if the attributes are wanted",
            call.operation.permission()
        ),
        (Fault::Denied, _) => format!(
            "key id {key_id} lacks {}: allow sqs:ReceiveMessage, sqs:DeleteMessage and sqs:ChangeMessageVisibility \
             on this queue (IAM policy and queue policy), and check QUEUE_URL",
            call.operation.permission()
        ),
        (Fault::NoSuchQueue, _) => {
            format!("there is no such queue for key id {key_id}: check QUEUE_URL and AWS_REGION")
        }
        (Fault::KmsDenied, _) => {
            format!("the queue is encrypted: allow key id {key_id} kms:Decrypt on the queue's KMS key")
        }
        (Fault::Throttled, _) => {
            "too many calls: it is tried again later; if it goes on, lower CONSUMERS or raise \
                                  BATCH_SIZE (or the KMS quota, if the queue is encrypted)"
                .to_owned()
        }
        (Fault::ServerSide, _) => {
            format!(
                "the fault is on the side of {} (HTTP status {status}): it is tried again later",
                call.endpoint
            )
        }
        (Fault::NotSqs, _) => format!(
            "HTTP status {status} from {}: is this an SQS endpoint, with no proxy in between that answers for it? \
             check QUEUE_URL (or AWS_ENDPOINT_URL_SQS, AWS_ENDPOINT_URL)",
            call.endpoint
        ),
        (Fault::Other, _) => format!(
            "{} refused the call with HTTP status {status}: the SQS API reference tells what this code means",
            call.endpoint
        ),
    }
}

fn regions_differ(call: FailedCall<'_>) -> Option<String> {
    let queue_region = region::of_queue_url(call.queue_url).filter(|region| region != call.region)?;
    Some(format!(
        "QUEUE_URL is in region {queue_region} but AWS_REGION is {}: make them agree",
        call.region
    ))
}

/// A clock that is off spoils every signature; one that is right is worth a word where the signature itself is
/// in doubt, so that nobody looks there.
fn clock_words(fault: Fault, ahead_ms: i64) -> Option<String> {
    if ahead_ms.abs() <= SKEW_MENTIONED_MS {
        return (fault == Fault::WrongSignature).then(|| "this machine's clock is right".to_owned());
    }
    let minutes = (ahead_ms.abs() + 30_000) / 60_000;
    let side = if ahead_ms > 0 { "ahead of" } else { "behind" };
    Some(format!(
        "this machine's clock is {minutes} minutes {side} the server's: set it, AWS allows 5"
    ))
}

#[cfg(test)]
mod tests;
