//! How a failed queue call is reported: what failed, for which queue, why, and the remedy, in one line. Pure.

use super::client::SqsSettings;
use super::protocol::QueueRefusal;
use super::{EntryFailure, Operation, QueueError, region};
use crate::aws::{Credentials, CredentialsProvider, quotable};
use crate::http_client::{HttpError, HttpErrorKind};
use crate::log::peer_text;

/// AWS refuses signatures that are 5 minutes off; from here on this machine's clock is reported.
pub(super) const SKEW_MS_MIN: i64 = 4 * 60 * 1000;
/// Kinds become labels in the log: a peer's code must not be longer than a name is.
const KIND_CHARS_MAX: usize = 60;
/// The settings that decide where calls go.
const ENDPOINT_SETTINGS: &str = "QUEUE_URL (or AWS_ENDPOINT_URL_SQS, AWS_ENDPOINT_URL)";

/// The call that failed, and what it was signed with.
#[derive(Clone, Copy)]
pub(super) struct FailedCall<'a> {
    pub(super) operation: Operation,
    pub(super) settings: &'a SqsSettings,
    pub(super) credentials: &'a Credentials,
    pub(super) provider: &'a dyn CredentialsProvider,
}

/// The refusals that have a remedy of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    UnknownKey,
    Unsigned,
    WrongSignature,
    WrongTime,
    Expired,
    Denied,
    NoSuchQueue,
    TooManyInFlight,
    Throttled,
    KmsDenied,
    KmsUnusable,
    ServerSide,
    NotSqs,
    Other,
}

impl Fault {
    #[rustfmt::skip] // a table
    pub(super) fn of(status: u16, code: &str, message: &str) -> Self {
        let message = message.to_ascii_lowercase();
        match code {
            // AWS reports a clock that is off as SignatureDoesNotMatch, too.
            _ if message.contains("signature expired") || message.contains("signature not yet current") => Self::WrongTime,
            "RequestExpired" | "RequestTimeTooSkewed" => Self::WrongTime,
            "InvalidClientTokenId" | "UnrecognizedClientException" | "InvalidAccessKeyId" | "InvalidSecurity" => Self::UnknownKey,
            "MissingAuthenticationToken" | "MissingAuthenticationTokenException"
            | "IncompleteSignature" | "IncompleteSignatureException" => Self::Unsigned,
            "SignatureDoesNotMatch" | "InvalidSignatureException" | "InvalidSignature" => Self::WrongSignature,
            "ExpiredToken" | "ExpiredTokenException" => Self::Expired,
            "AccessDenied" | "AccessDeniedException" | "NotAuthorized" | "UnauthorizedOperation" => Self::Denied,
            "QueueDoesNotExist" | "NonExistentQueue" | "QueueDeletedRecently" | "InvalidAddress" => Self::NoSuchQueue,
            "OverLimit" => Self::TooManyInFlight,
            "RequestThrottled" | "RequestThrottledException" | "Throttling" | "ThrottlingException" | "ThrottledException"
            | "TooManyRequestsException" | "RequestLimitExceeded" | "SlowDown" | "KmsThrottled" | "KMS.ThrottlingException" => Self::Throttled,
            "KmsAccessDenied" | "KMS.AccessDeniedException" => Self::KmsDenied,
            _ if code.starts_with("Kms") || code.starts_with("KMS.") => Self::KmsUnusable,
            _ if status == 429 => Self::Throttled,
            _ if status >= 500 => Self::ServerSide,
            // The answer named no code.
            _ if code.starts_with("Http") => Self::NotSqs,
            _ => code.strip_prefix("AWS.SimpleQueueService.").map_or(Self::Other, |code| Self::of(status, code, "")),
        }
    }

    /// The same call may be accepted with another key.
    pub(super) fn concerns_the_key(self, status: u16) -> bool {
        self == Self::Expired || (status == 403 && !matches!(self, Self::TooManyInFlight | Self::WrongTime))
    }

    /// The same call may be accepted with another time.
    pub(super) fn concerns_the_time(self) -> bool {
        matches!(self, Self::WrongSignature | Self::WrongTime)
    }
}

/// SQS refused, or something before it did. `ahead_ms` is how far this machine's clock is ahead of the answer's `Date`.
pub(super) fn refused(call: FailedCall<'_>, refusal: &QueueRefusal, ahead_ms: Option<i64>) -> QueueError {
    let (status, fault) = (refusal.status, refusal.fault());
    let mut code = refusal.code.clone();
    // A known code holds no secret, and stays readable whatever the secret is.
    if matches!(fault, Fault::Other | Fault::NotSqs | Fault::ServerSide) {
        code = call.credentials.redact(&code);
    }
    // Redacted before it is shortened: half of a secret would not be found.
    let mut message = peer_text(&call.credentials.redact(quotable(&refusal.message)));
    if !message.is_empty() {
        message = format!(" ({message})");
    }
    let mut parts = vec![format!("HTTP {status} {code}{message}"), remedy(call, fault)];
    if let Some(ahead_ms) = ahead_ms.filter(|_| fault.concerns_the_time()) {
        parts.push(if ahead_ms.abs() > SKEW_MS_MIN {
            let off_by = off_by(ahead_ms);
            format!("this machine's clock is {off_by} the server's: set it by NTP, AWS allows 5 minutes")
        } else {
            "this machine's clock is right".to_owned()
        });
    }
    let region = &call.settings.region;
    if let Some(other) = region::of_queue_url(&call.settings.queue_url)
        && other != *region
        && status < 500
    {
        parts.push(format!("QUEUE_URL is in region {other} but AWS_REGION is {region}: make them agree"));
    }
    let kind: String = code.chars().take(KIND_CHARS_MAX).collect();
    QueueError {
        refused: matches!(fault, Fault::Denied | Fault::Other),
        ..call.failed(&kind, &parts.join("; "))
    }
}

/// There was no answer.
pub(super) fn unanswered(call: FailedCall<'_>, error: &HttpError) -> QueueError {
    let unreachable = if error.kind == HttpErrorKind::HostNotFound {
        "check this machine's DNS, and"
    } else if error.kind == HttpErrorKind::ConnectionRefused {
        "nothing listens there: check"
    } else {
        "check the network on the way (firewall, proxy, VPC endpoint) and"
    };
    let (unreachable, wrong_peer) = (format!("{unreachable} {ENDPOINT_SETTINGS}"), call.is_this_sqs());
    let remedy = error.kind.remedy(&unreachable, &wrong_peer);
    let cause = format!("no answer from {}: {error}; {remedy}", call.endpoint());
    call.failed(&error.kind.to_string(), &cause)
}

impl EntryFailure {
    /// Retrying the same entry cannot help: its receipt handle is expired or invalid, or its message is gone.
    pub fn is_final(&self) -> bool {
        // SQS calls throttling and a missing permission the sender's fault, too; but they pass.
        let is_the_senders = self.sender_fault && Fault::of(400, &self.code, &self.message) == Fault::Other;
        let code = self.code.rsplit('.').next().unwrap_or(&self.code);
        is_the_senders || ["ReceiptHandleIsInvalid", "MessageNotInflight"].contains(&code)
    }
}

impl FailedCall<'_> {
    pub(super) fn failed(&self, kind: &str, cause: &str) -> QueueError {
        let what = match self.operation {
            Operation::Receive => "receive messages from",
            Operation::Delete => "delete messages from",
            Operation::ChangeVisibility => "change the visibility of messages in",
            Operation::GetAttributes => "read the attributes of",
        };
        let (queue_url, region) = (&self.settings.queue_url, &self.settings.region);
        QueueError {
            message: format!("cannot {what} queue {queue_url} in region {region}: {cause}"),
            kind: kind.to_owned(),
            refused: false,
        }
    }

    fn endpoint(&self) -> &str {
        self.settings.endpoint.as_str().trim_end_matches('/')
    }

    pub(super) fn is_this_sqs(&self) -> String {
        let endpoint = self.endpoint();
        format!(
            "is this an SQS endpoint? {endpoint}, or a proxy in between, answered: check {ENDPOINT_SETTINGS}"
        )
    }
}

fn remedy(call: FailedCall<'_>, fault: Fault) -> String {
    let SqsSettings { region, queue_url, .. } = call.settings;
    let (key_id, endpoint) = (&call.credentials.access_key_id, call.endpoint());
    match (fault, call.provider.decided_by()) {
        (Fault::UnknownKey, None) => format!(
            "AWS does not know access key ID {key_id} in region {region} (deleted, inactive, of another account?): \
             check AWS_ACCESS_KEY_ID, AWS_REGION, and AWS_SESSION_TOKEN if the key is temporary"
        ),
        (Fault::WrongSignature, None) => format!(
            "the secret does not belong to access key ID {key_id}, or the queue is not in region {region}: check \
             AWS_SECRET_ACCESS_KEY and AWS_REGION"
        ),
        (Fault::Expired, None) => format!(
            "the session of access key ID {key_id} has expired: set new AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and \
             AWS_SESSION_TOKEN, or unset all three to get credentials from the Edge API"
        ),
        (Fault::UnknownKey | Fault::WrongSignature | Fault::Expired, Some(settings)) => format!(
            "signed with {}: new ones are being fetched; if this persists, check {settings}, and that QUEUE_URL and \
             AWS_REGION ({region}) belong to them",
            call.provider.describe()
        ),
        (Fault::WrongTime, _) => "the time of the signature was not accepted".to_owned(),
        (Fault::Unsigned, _) => {
            format!("the signature was lost on the way to {endpoint}: does a proxy remove headers?")
        }
        (Fault::Denied, _) => format!(
            "access key ID {key_id} lacks sqs:{} on this queue: allow it in the IAM policy and the queue policy, and \
             check QUEUE_URL",
            call.operation.names().1.trim_end_matches("Batch")
        ),
        (Fault::NoSuchQueue, _) => {
            format!("there is no such queue for access key ID {key_id}: check QUEUE_URL and AWS_REGION")
        }
        (Fault::TooManyInFlight, _) => {
            let max = if queue_url.rsplit('.').next() == Some("fifo") { "20,000" } else { "120,000" };
            format!(
                "{max} messages are in flight (received, not deleted), and SQS delivers no more until some are deleted or \
                 become visible again: check whether deletes fail, or another consumer receives without deleting"
            )
        }
        (Fault::KmsDenied, _) => {
            format!("the queue is encrypted: allow access key ID {key_id} kms:Decrypt on the queue's KMS key")
        }
        (Fault::KmsUnusable, _) => {
            "the queue is encrypted: check that its KMS key exists and is enabled".to_owned()
        }
        (Fault::Throttled, _) => {
            "too many calls: retrying later; if this persists, lower CONSUMERS or raise BATCH_SIZE (or the KMS quota, if \
             the queue is encrypted)"
                .to_owned()
        }
        (Fault::ServerSide, _) => format!("the fault is on the side of {endpoint}: retrying later"),
        (Fault::NotSqs, _) => call.is_this_sqs(),
        (Fault::Other, _) => "the SQS API reference explains this code".to_owned(),
    }
}

/// `10 minutes ahead of`, `10 minutes behind`.
pub(super) fn off_by(ahead_ms: i64) -> String {
    let minutes = (ahead_ms.saturating_abs() + 30_000) / 60_000;
    let side = if ahead_ms > 0 { "ahead of" } else { "behind" };
    format!("{minutes} minutes {side}")
}

#[cfg(test)]
mod tests;
