//! The queue: whether messages can be received and deleted, and what else it says about itself.
//!
//! A delete of a receipt that never was has no effect, and is refused like any other where it is not allowed.
//!
//! A receive raises the receive count of its message, even if it hides it for no time. So a dead-letter rule that allows few
//! receives would give the message up sooner. The attributes are read first, and where messages wait under such a rule, or
//! under one that cannot be read, nothing is received unless that is asked for.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use super::{Area, Finding};
use crate::aws::CredentialsProvider;
use crate::config::{Config, CredentialSource};
use crate::sqs::client::{SqsClient, SqsSettings};
use crate::sqs::{Queue, QueueError, ReceiptHandle};

/// A rule that allows fewer receives than this must not be used up by a check.
const RECEIVES_FEW: u64 = 5;

/// A queue's attributes by name. IAM may hide any of them.
type Attributes = HashMap<String, String>;

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
    let attributes = queue.attributes("All");
    findings.push(match &attributes {
        Ok(attributes) => Area::Queue.ok(described(attributes)),
        // Stigg's credentials may be for receiving and deleting alone.
        Err(error) if error.refused && config.credentials == CredentialSource::EdgeApi => Area::Queue
            .note("its attributes may not be read with these credentials; the service does without"),
        Err(error) => Area::Queue.warning(format!("{error}; the service does without its attributes")),
    });
    findings.push(match queue.delete_batch(&[ReceiptHandle("check".to_owned())]) {
        Ok(_) => Area::Queue.ok("reached; messages may be deleted"),
        Err(error) => Area::Queue.failure(error.message),
    });
    findings.push(match why_not_to_receive(attributes.as_ref()) {
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

fn number(attributes: &Attributes, name: &str) -> Option<u64> {
    attributes.get(name)?.parse().ok()
}

/// After how many receives a message goes to the dead-letter queue; none without a redrive policy.
fn receives_max(attributes: &Attributes) -> Option<u64> {
    let policy: Value = serde_json::from_str(attributes.get("RedrivePolicy")?).ok()?;
    // A number, or the same as text: SQS accepts both and returns what it got.
    let max = policy.get("maxReceiveCount")?;
    max.as_u64().or_else(|| max.as_str()?.parse().ok())
}

fn why_not_to_receive(attributes: Result<&Attributes, &QueueError>) -> Option<String> {
    const COUNTS: &str = "a receive raises a message's receive count, and";
    match attributes {
        Ok(attributes) => {
            let max = receives_max(attributes).filter(|max| *max < RECEIVES_FEW)?;
            (number(attributes, "ApproximateNumberOfMessages") != Some(0))
                .then(|| format!("{COUNTS} after {max} of them the dead-letter rule takes it"))
        }
        Err(error) if error.refused => Some(format!(
            "{COUNTS} whether a dead-letter rule counts it cannot be read"
        )),
        // A call that nobody answered will hardly be answered now, but its error says why.
        Err(_) => None,
    }
}

fn described(attributes: &Attributes) -> String {
    let count = |name| number(attributes, name).map_or_else(|| "?".to_owned(), |count| count.to_string());
    let rule = match receives_max(attributes) {
        Some(max) => format!("a dead-letter rule after {max} receives"),
        None => {
            "no dead-letter rule: with POISON_POLICY=redrive an unreadable message stays until it is too old"
                .to_owned()
        }
    };
    format!(
        "about {} messages wait, {} are in flight; {} s of visibility timeout; {rule}",
        count("ApproximateNumberOfMessages"),
        count("ApproximateNumberOfMessagesNotVisible"),
        count("VisibilityTimeout"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attributes(visible: &str, redrive_policy: &str) -> Attributes {
        let named = [
            ("ApproximateNumberOfMessages", visible),
            ("RedrivePolicy", redrive_policy),
        ];
        named
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into()
    }

    #[test]
    fn attributes_are_read_and_none_is_needed() {
        let some = attributes("3", r#"{"deadLetterTargetArn":"arn","maxReceiveCount":"4"}"#);
        assert!(described(&some).starts_with("about 3 messages wait, ? are in flight; ? s"));
        assert!(described(&some).ends_with("a dead-letter rule after 4 receives"));
        assert!(described(&Attributes::new()).contains("no dead-letter rule"));
    }

    #[test]
    fn nothing_is_received_where_few_receives_are_allowed() {
        let may = |max: u64, visible: &str| {
            let policy = format!(r#"{{"maxReceiveCount":{max}}}"#);
            why_not_to_receive(Ok(&attributes(visible, &policy))).is_none()
        };
        assert!(may(10, "7") && may(1, "0"));
        assert!(!may(1, "7") && !may(4, "unknown"));
        assert!(why_not_to_receive(Ok(&attributes("7", ""))).is_none());
        let refused = |refused| QueueError {
            message: String::new(),
            kind: String::new(),
            refused,
        };
        assert!(why_not_to_receive(Err(&refused(true))).is_some());
        assert!(why_not_to_receive(Err(&refused(false))).is_none());
    }
}
