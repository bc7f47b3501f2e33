//! The SQS queue that messages come from, called by signed HTTP requests.

mod bodies;
pub mod client;
pub mod errors;
pub mod protocol;
mod server_clock;

use std::time::{Duration, Instant};

use crate::clock::EpochMs;

/// Needed to delete a received message or to change its visibility. Each receive returns a new one.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ReceiptHandle(pub String);

/// One message, as one receive brought it.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// The message's id: the same in every receive.
    pub message_id: String,
    /// Deletes it, or changes its visibility.
    pub receipt_handle: ReceiptHandle,
    /// The body, as text.
    pub body: String,
    /// `SentTimestamp`; the time of the receive if the queue gave none.
    pub sent_at: EpochMs,
    /// `ApproximateReceiveCount`, at least 1.
    pub receive_count: u32,
    /// When the receive returned.
    pub received_at: Instant,
}

/// The calls that can fail, as metrics name them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Operation {
    /// `ReceiveMessage`.
    Receive,
    /// `DeleteMessageBatch`.
    Delete,
    /// `ChangeMessageVisibilityBatch`.
    ChangeVisibility,
    /// `GetQueueAttributes`.
    GetAttributes,
}

impl Operation {
    /// The metric label.
    pub fn label(self) -> &'static str {
        match self {
            Self::Receive => "receive",
            Self::Delete => "delete",
            Self::ChangeVisibility => "change_visibility",
            Self::GetAttributes => "get_attributes",
        }
    }

    /// SQS's name, as the header `X-Amz-Target` has it.
    fn target(self) -> &'static str {
        match self {
            Self::Receive => "AmazonSQS.ReceiveMessage",
            Self::Delete => "AmazonSQS.DeleteMessageBatch",
            Self::ChangeVisibility => "AmazonSQS.ChangeMessageVisibilityBatch",
            Self::GetAttributes => "AmazonSQS.GetQueueAttributes",
        }
    }
}

/// A queue call that failed.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct QueueError {
    /// What failed, for which queue, why, and the remedy, in one line. No secret.
    pub message: String,
    /// A short stable name of the fault (`InvalidClientTokenId`, `timeout` …): equal ones are summarized in one log line.
    pub kind: String,
    /// The queue does not allow this call for this caller: retrying does not help.
    pub refused: bool,
}

/// The outcome of each entry of a batch call, in the order given: `None` is success.
pub type BatchOutcome = Vec<Option<EntryFailure>>;

/// One entry of a batch that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EntryFailure {
    /// SQS's code, e.g. `ReceiptHandleIsInvalid`.
    pub code: String,
    /// SQS's message.
    pub message: String,
    /// SQS says that the caller is at fault: see [`EntryFailure::is_final`].
    pub sender_fault: bool,
}

/// The queue, as the loops need it. Every call has a deadline, whatever the peer does.
pub trait Queue: Send + Sync {
    /// Up to `max_messages` (1 to 10) messages, waiting up to `wait` (0 to 20 s, whole seconds) for the first.
    fn receive(&self, max_messages: u8, wait: Duration) -> Result<Vec<Delivery>, QueueError>;
    /// Deletes up to 10 messages.
    fn delete_batch(&self, receipt_handles: &[ReceiptHandle]) -> Result<BatchOutcome, QueueError>;
    /// Makes up to 10 messages visible again after the given time (0 s to 12 h, whole seconds).
    fn change_visibility_batch(
        &self,
        entries: &[(ReceiptHandle, Duration)],
    ) -> Result<BatchOutcome, QueueError>;
    /// The queue's own visibility timeout, in whole seconds; if it is 0, receives ask for 30 s from now on. IAM may
    /// deny this call.
    fn visibility_timeout(&self) -> Result<Duration, QueueError>;
}
