//! Where changes come from: an SQS queue, spoken to with signed HTTP calls.

pub mod client;
pub mod faults;
pub mod region;
pub mod sign;
pub mod wire;

use std::time::{Duration, Instant};

use crate::entitlement::EpochMs;

/// The handle that settles one receipt of a message. Changes with each receipt.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ReceiptHandle(pub String);

/// One receipt of one message.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// The message's id: the same for each receipt.
    pub message_id: String,
    /// Settles this receipt.
    pub receipt_handle: ReceiptHandle,
    /// The body, as text.
    pub body: String,
    /// `SentTimestamp`; the time of receipt if the queue told none.
    pub sent_at: EpochMs,
    /// `ApproximateReceiveCount`, at least 1.
    pub receive_count: u32,
    /// When the call that brought it returned.
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
}

/// A queue call that failed.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct QueueError {
    /// What, for what, why, and the remedy: one line that tells a stranger what to do. No secret.
    pub message: String,
    /// A short stable name of the fault (`InvalidClientTokenId`, `timeout` …): equal faults fold into one log line.
    pub kind: String,
    /// The queue answered that it will not do this for this caller: asking again does not help.
    pub refused: bool,
}

/// What became of one entry of a batch call, in the order given: `None` is success.
pub type BatchOutcome = Vec<Option<EntryFailure>>;

/// One entry of a batch that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EntryFailure {
    /// SQS's code, e.g. `ReceiptHandleIsInvalid`.
    pub code: String,
    /// SQS's words.
    pub message: String,
    /// The caller is at fault, says SQS: see [`EntryFailure::is_final`].
    pub sender_fault: bool,
}

/// The queue, as the loops need it. Every call ends within its own deadline, whatever the peer does.
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
    /// The queue's own visibility timeout, in whole seconds; where it is 0, receives ask for 30 s from now on. IAM may
    /// deny the question.
    fn visibility_timeout(&self) -> Result<Duration, QueueError>;
}
