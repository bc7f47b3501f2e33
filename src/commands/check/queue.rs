//! The queue: may it be received and deleted from, and what else does it tell.
//!
//! A delete of a receipt that there never was has no effect, and is refused like any other where it is not allowed.
//!
//! A receive raises the receive count of the message that it brings, also where it hides it for no time. A dead-letter
//! rule that bears few receives would then give the message up sooner. So the attributes are read first, and where
//! messages wait under such a rule, or under one that cannot be read, nothing is received unless that is asked for.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use super::{Area, Finding};
use crate::aws::CredentialsProvider;
use crate::config::{Config, CredentialSource};
use crate::sqs::client::{SqsClient, SqsSettings};
use crate::sqs::{Queue, QueueError, ReceiptHandle};

/// A rule that bears fewer receives than this counts them closely.
const RECEIVES_FEW: u64 = 5;

/// What a queue reports about itself. IAM may hide any of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct QueueFacts {
    /// About how many messages wait.
    visible: Option<u64>,
    /// About how many were received and not deleted.
    in_flight: Option<u64>,
    visibility_secs: Option<u64>,
    /// After so many receives a message goes to the dead-letter queue; none without a redrive policy.
    max_receives: Option<u64>,
}

impl QueueFacts {
    fn of(attributes: &HashMap<String, String>) -> Self {
        let number = |name: &str| attributes.get(name)?.parse().ok();
        let redrive_policy = attributes.get("RedrivePolicy");
        let redrive_policy: Option<Value> =
            redrive_policy.and_then(|policy| serde_json::from_str(policy).ok());
        Self {
            visible: number("ApproximateNumberOfMessages"),
            in_flight: number("ApproximateNumberOfMessagesNotVisible"),
            visibility_secs: number("VisibilityTimeout"),
            // A number, or the same as text: SQS accepts both and gives back what it got.
            max_receives: redrive_policy.and_then(|policy| {
                let times = policy.get("maxReceiveCount")?;
                times.as_u64().or_else(|| times.as_str()?.parse().ok())
            }),
        }
    }
}

pub(super) fn check(
    config: &Config,
    credentials: Arc<dyn CredentialsProvider>,
    is_forced: bool,
    findings: &mut Vec<Finding>,
) {
    let settings = SqsSettings {
        endpoint: config.sqs_endpoint.clone(),
        queue_url: config.queue_url.clone(),
        region: config.region.clone(),
        pool_size: 1,
        receive_slack: Duration::from_secs(5),
        proxy: config.proxy.clone(),
    };
    let queue = SqsClient::new(settings, credentials);
    let facts = queue
        .attributes("All")
        .map(|attributes| QueueFacts::of(&attributes));
    findings.push(match &facts {
        Ok(facts) => Area::Queue.ok(shown(facts)),
        // Stigg's credentials may be for receiving and deleting alone.
        Err(error) if error.refused && config.credentials == CredentialSource::EdgeApi => {
            Area::Queue.ok("its attributes may not be read with these credentials; the service does without")
        }
        Err(error) if error.refused => Area::Queue.warning(format!("{error}; the service does without")),
        Err(error) => Area::Queue.warning(error.to_string()),
    });
    // What becomes of the entry is no matter: the call was let in, or not.
    findings.push(match queue.delete_batch(&[ReceiptHandle("check".to_owned())]) {
        Ok(_) => Area::Queue.ok("reached; messages may be deleted"),
        Err(error) => Area::Queue.failure(error.message),
    });
    findings.push(match why_not_to_receive(facts.as_ref()) {
        Some(why) if !is_forced => Area::Queue.warning(format!(
            "nothing was received: {why}; with --receive it is done all the same"
        )),
        _ => match queue.peek() {
            Ok(None) => Area::Queue.ok("may be received from; no message was waiting"),
            Ok(Some(receives)) => Area::Queue.ok(format!(
                "may be received from: one message came, hidden from nobody (its receive count is {receives} now)"
            )),
            Err(error) => Area::Queue.failure(error.message),
        },
    });
}

fn why_not_to_receive(facts: Result<&QueueFacts, &QueueError>) -> Option<String> {
    let facts = match facts {
        Ok(facts) => facts,
        // A call that nobody answers will not be answered a second time, but then it says why.
        Err(error) if !error.refused => return None,
        Err(_) => {
            return Some(
                "a receive raises a message's receive count, and whether a dead-letter rule counts it cannot be read"
                    .to_owned(),
            );
        }
    };
    let max_receives = facts.max_receives?;
    (max_receives < RECEIVES_FEW && facts.visible != Some(0)).then(|| {
        format!(
            "a receive raises a message's receive count, and after {max_receives} of them the dead-letter rule takes it"
        )
    })
}

fn shown(facts: &QueueFacts) -> String {
    let count = |count: Option<u64>| count.map_or_else(|| "?".to_owned(), |count| count.to_string());
    let rule = match facts.max_receives {
        Some(times) => format!("a dead-letter rule after {times} receives"),
        None => {
            "no dead-letter rule: with POISON_POLICY=redrive an unreadable message stays until it is too old"
                .to_owned()
        }
    };
    format!(
        "about {} messages wait, {} are in hand; {} s of visibility timeout; {rule}",
        count(facts.visible),
        count(facts.in_flight),
        count(facts.visibility_secs),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_read_and_none_is_needed() {
        let attributes = [
            ("ApproximateNumberOfMessages", "3"),
            ("VisibilityTimeout", "30"),
            (
                "RedrivePolicy",
                r#"{"deadLetterTargetArn":"arn","maxReceiveCount":"4"}"#,
            ),
        ];
        let attributes = attributes.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let expected = QueueFacts {
            visible: Some(3),
            in_flight: None,
            visibility_secs: Some(30),
            max_receives: Some(4),
        };
        assert_eq!(QueueFacts::of(&HashMap::from(attributes)), expected);
        assert_eq!(QueueFacts::of(&HashMap::new()), QueueFacts::default());
    }

    #[test]
    fn nothing_is_received_where_a_close_count_would_suffer() {
        let facts = |max_receives, visible| QueueFacts {
            visible,
            max_receives,
            ..QueueFacts::default()
        };
        let may = |facts: &QueueFacts| why_not_to_receive(Ok(facts)).is_none();
        assert!(may(&facts(None, Some(7))));
        assert!(may(&facts(Some(10), Some(7))));
        assert!(may(&facts(Some(1), Some(0))));
        assert!(!may(&facts(Some(1), Some(7))));
        assert!(!may(&facts(Some(4), None)));
        let refused = |refused| QueueError {
            message: String::new(),
            kind: String::new(),
            refused,
        };
        assert!(why_not_to_receive(Err(&refused(true))).is_some());
        assert!(why_not_to_receive(Err(&refused(false))).is_none());
    }
}
