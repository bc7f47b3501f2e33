//! What `check` asks of the queue, and the service does not.

use std::time::Duration;

use serde_json::{Value, json};

use super::SqsClient;
use crate::sqs::wire::{self, WireError, WireRequest};
use crate::sqs::{Operation, QueueError};

/// What a queue says of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct QueueFacts {
    /// About how many messages wait.
    pub visible: Option<u64>,
    /// About how many were received and not deleted.
    pub in_flight: Option<u64>,
    /// The visibility timeout.
    pub visibility_secs: Option<u64>,
    /// After so many receives the dead-letter rule takes a message; none without a rule.
    pub max_receives: Option<u64>,
}

impl SqsClient {
    /// What the queue says of itself. IAM may deny the question.
    pub fn facts(&self) -> Result<QueueFacts, QueueError> {
        let request = WireRequest {
            target: "AmazonSQS.GetQueueAttributes",
            body: json!({"QueueUrl": self.queue_url, "AttributeNames": ["All"]})
                .to_string()
                .into_bytes(),
        };
        self.call(Operation::GetAttributes, request, (&self.http, None), facts)
    }

    /// Receives one message that stays visible to everyone, without waiting. Its receive count, if there was one: that
    /// is higher by one for it, which a dead-letter rule counts.
    pub fn peek(&self) -> Result<Option<u32>, QueueError> {
        let request = wire::receive_request(&self.queue_url, 1, Duration::ZERO, Some(Duration::ZERO));
        let deadline = Some(Duration::from_secs(5));
        let messages = self.call(
            Operation::Receive,
            request,
            (&self.http, deadline),
            wire::parse_receive,
        )?;
        Ok(messages.first().map(|message| message.receive_count))
    }
}

fn facts(answer: &[u8]) -> Result<QueueFacts, WireError> {
    let answer: Value = serde_json::from_slice(answer)
        .map_err(|_| WireError("the answer to GetQueueAttributes is not JSON".to_owned()))?;
    let attribute = |name: &str| answer.get("Attributes")?.get(name)?.as_str();
    let number = |name: &str| attribute(name)?.parse().ok();
    let rule: Option<Value> = attribute("RedrivePolicy").and_then(|rule| serde_json::from_str(rule).ok());
    Ok(QueueFacts {
        visible: number("ApproximateNumberOfMessages"),
        in_flight: number("ApproximateNumberOfMessagesNotVisible"),
        visibility_secs: number("VisibilityTimeout"),
        // A number, or the same as text: SQS takes both and gives back what it got.
        max_receives: rule.and_then(|rule| {
            let times = rule.get("maxReceiveCount")?;
            times.as_u64().or_else(|| times.as_str()?.parse().ok())
        }),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_read_and_none_is_needed() {
        let answer = json!({"Attributes": {
            "ApproximateNumberOfMessages": "3",
            "VisibilityTimeout": "30",
            "RedrivePolicy": "{\"deadLetterTargetArn\":\"arn\",\"maxReceiveCount\":\"4\"}",
        }});
        let read = facts(answer.to_string().as_bytes()).unwrap();
        let expected = QueueFacts {
            visible: Some(3),
            in_flight: None,
            visibility_secs: Some(30),
            max_receives: Some(4),
        };
        assert_eq!(read, expected);
        assert_eq!(facts(b"{}").unwrap(), QueueFacts::default());
        assert!(facts(b"<html>").is_err());
    }
}
