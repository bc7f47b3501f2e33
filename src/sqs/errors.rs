//! How a failed queue call is reported: what failed, for which queue, why, and the remedy, in one line. Pure.

use std::time::Duration;

use super::client::SqsSettings;
use super::protocol::QueueRefusal;
use super::{EntryFailure, Operation, QueueError};
use crate::aws::{Credentials, CredentialsProvider, answers};
use crate::http_client::{HttpError, HttpErrorKind};

/// The settings that decide where calls go.
const ENDPOINT_SETTINGS: &str = "QUEUE_URL (or AWS_ENDPOINT_URL_SQS, AWS_ENDPOINT_URL)";
/// A long poll that is cut sooner has other causes: a connection that was closed while it was idle, a restart.
const CUT_AGE_MIN: Duration = Duration::from_secs(3);

/// The call that failed, and what it was signed with.
#[derive(Clone, Copy)]
pub(super) struct FailedCall<'a> {
    pub(super) operation: Operation,
    pub(super) settings: &'a SqsSettings,
    pub(super) credentials: &'a Credentials,
    pub(super) provider: &'a CredentialsProvider,
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
    Kms,
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
            _ if code.starts_with("Kms") || code.starts_with("KMS.") => Self::Kms,
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
    /// SQS refused, or something before it did.
    pub(super) fn refused(self, refusal: &QueueRefusal, fault: Fault) -> QueueError {
        let QueueRefusal { status, code, message } = refusal;
        let (code, text) = answers::refusal(*status, code, message, &self.credentials.secrets());
        QueueError {
            refused: matches!(fault, Fault::Denied | Fault::Other),
            ..self.failed(&code, &format!("{text}; {}", self.remedy(fault)))
        }
    }

    /// There was no answer.
    pub(super) fn unanswered(self, error: &HttpError) -> QueueError {
        let wrong_peer = self.is_this_sqs();
        let unreachable =
            format!("check the network path (DNS, firewall, proxy, VPC endpoint) and {ENDPOINT_SETTINGS}");
        let remedy = error.kind.remedy(&unreachable, &wrong_peer);
        let cause = format!("no answer from {}: {error}; {remedy}", self.endpoint());
        self.failed(&error.kind.to_string(), &cause)
    }

    pub(super) fn failed(self, kind: &str, cause: &str) -> QueueError {
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

    pub(super) fn is_this_sqs(self) -> String {
        let endpoint = self.endpoint();
        format!(
            "is this an SQS endpoint? {endpoint}, or a proxy in between, answered: check {ENDPOINT_SETTINGS}"
        )
    }

    fn endpoint(&self) -> &str {
        self.settings.endpoint.as_str().trim_end_matches('/')
    }

    fn remedy(self, fault: Fault) -> String {
        let (key_id, endpoint) = (&self.credentials.access_key_id, self.endpoint());
        let of_key = |cause: &str| {
            let (source, settings) = (self.provider.describe(), self.provider.decided_by());
            format!(
                "{cause}: signed with {source}, which are read or fetched again now; if this persists, check {settings}, and \
                 AWS_REGION"
            )
        };
        match fault {
            Fault::UnknownKey => {
                of_key("AWS does not know this key in this region (deleted, inactive, of another account?)")
            }
            Fault::WrongSignature => of_key(
                "the secret does not belong to this key, or the queue is not in this region (a clock that is off is corrected)",
            ),
            Fault::Expired => of_key("the session of this key has expired"),
            Fault::WrongTime => {
                "the time of the signature was not accepted: set this machine's clock by NTP, AWS allows 5 minutes"
                    .to_owned()
            }
            Fault::Unsigned => {
                format!("the signature was lost on the way to {endpoint}: does a proxy remove headers?")
            }
            Fault::Denied => format!(
                "access key ID {key_id} lacks sqs:{} on this queue: allow it in the IAM policy and the queue policy, and \
                 check QUEUE_URL",
                self.operation.target().trim_start_matches("AmazonSQS.").trim_end_matches("Batch")
            ),
            Fault::NoSuchQueue => {
                format!("there is no such queue for access key ID {key_id}: check QUEUE_URL and AWS_REGION")
            }
            Fault::TooManyInFlight => {
                "120,000 messages are in flight (received, not deleted), and SQS delivers no more until some are deleted or \
                 become visible again: check whether deletes fail, or another consumer receives without deleting"
                    .to_owned()
            }
            Fault::Kms => format!(
                "the queue is encrypted: check that its KMS key is enabled, and allow access key ID {key_id} kms:Decrypt on it"
            ),
            Fault::Throttled => {
                "too many calls: retrying later; if this persists, lower CONSUMERS or raise BATCH_SIZE (or the KMS quota, \
                 if the queue is encrypted)"
                    .to_owned()
            }
            Fault::ServerSide => format!("the fault is on the side of {endpoint}: retrying later"),
            Fault::NotSqs => self.is_this_sqs(),
            Fault::Other => "the SQS API reference explains this code".to_owned(),
        }
    }
}

/// The error of a receive of this `wait` that ended after `age`. If the connection was closed or reset, or a gateway answered
/// 504, something on the way may have an idle timeout below the wait.
pub(super) fn of_receive(error: QueueError, age: Duration, wait: Duration) -> QueueError {
    let is_cut = error.kind == HttpErrorKind::Connection.to_string() || error.kind == "Http504";
    if !is_cut || !(CUT_AGE_MIN..wait).contains(&age) {
        return error;
    }
    let secs = age.as_secs();
    QueueError {
        message: format!(
            "{error}; the long poll was cut after about {secs} s: if others are too, raise the idle timeout of the proxy or \
             load balancer on the way, or set WAIT_TIME_SECS={}",
            secs - 1
        ),
        kind: "long_poll_cut".to_owned(),
        refused: false,
    }
}

#[cfg(test)]
mod tests;
