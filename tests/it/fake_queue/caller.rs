//! Raw calls of the queue's protocol, signed by the library that the service signs with.

use std::time::Duration;

use aws_credential_types::Credentials;
use aws_sigv4::http_request::{SignableBody, SignableRequest, SigningSettings, sign};
use aws_sigv4::sign::v4;
use persistent_cache_service::clock;
use serde_json::{Value, json};

use crate::fakes::queue::{FakeQueue, QueueOptions};

/// An answer: status, code (if it is a refusal) and body.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    pub status: u16,
    pub body: Value,
}

impl Answer {
    /// The code without its namespace.
    pub fn code(&self) -> &str {
        let code = self.body["__type"].as_str().unwrap_or_default();
        code.rsplit('#').next().unwrap_or_default()
    }
}

/// Who calls, and how. A test changes what it is about.
pub struct Caller {
    pub endpoint: String,
    pub queue_url: String,
    pub key_id: String,
    pub secret: String,
    pub session_token: Option<String>,
    pub region: String,
    pub service: String,
    /// How far its clock is ahead of ours, in seconds.
    pub ahead_secs: i64,
    agent: ureq::Agent,
}

impl Caller {
    /// One who may call a queue that was started with these options.
    pub fn new(queue: &FakeQueue, options: &QueueOptions) -> Self {
        let queue_url = queue.url();
        let endpoint = queue_url[..queue_url.rfind("/000").expect("an account")].to_owned();
        Self {
            endpoint: format!("{endpoint}/"),
            queue_url,
            key_id: options.access_key_id.clone(),
            secret: options.secret_access_key.clone(),
            session_token: None,
            region: options.region.clone(),
            service: "sqs".into(),
            ahead_secs: 0,
            agent: ureq::Agent::config_builder()
                .http_status_as_error(false)
                .timeout_global(Some(Duration::from_secs(30)))
                .build()
                .new_agent(),
        }
    }

    /// A call of this queue; panics if nobody answers.
    pub fn call(&self, action: &str, body: Value) -> Answer {
        self.try_call(action, body).expect("an answer")
    }

    /// A call of this queue.
    pub fn try_call(&self, action: &str, mut body: Value) -> Result<Answer, ureq::Error> {
        if body.get("QueueUrl").is_none() {
            body["QueueUrl"] = json!(self.queue_url);
        }
        let headers = self.signed(&format!("AmazonSQS.{action}"), &body.to_string());
        self.post(&headers, &body.to_string())
    }

    /// The headers of a signed call.
    pub fn signed(&self, target: &str, body: &str) -> Vec<(String, String)> {
        let headers = [("content-type", "application/x-amz-json-1.0"), ("x-amz-target", target)];
        let token = self.session_token.clone();
        let identity = Credentials::new(&self.key_id, &self.secret, token, None, "tests").into();
        let at_ms = clock::now().0 + self.ahead_secs * 1_000;
        let parameters = v4::SigningParams::builder()
            .identity(&identity)
            .region(&self.region)
            .name(&self.service)
            .time(std::time::UNIX_EPOCH + Duration::from_millis(at_ms.unsigned_abs()))
            .settings(SigningSettings::default())
            .build()
            .expect("signing parameters")
            .into();
        let body = SignableBody::Bytes(body.as_bytes());
        let signable =
            SignableRequest::new("POST", &self.endpoint, headers.into_iter(), body).expect("a request");
        let (instructions, _) = sign(signable, &parameters).expect("a signature").into_parts();
        headers
            .into_iter()
            .chain(instructions.headers())
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect()
    }

    /// A call with these headers.
    pub fn post(&self, headers: &[(String, String)], body: &str) -> Result<Answer, ureq::Error> {
        let mut request = self.agent.post(&self.endpoint);
        for (name, value) in headers {
            request = request.header(name, value);
        }
        let mut response = request.send(body)?;
        let text = response.body_mut().read_to_string()?;
        Ok(Answer {
            status: response.status().as_u16(),
            body: serde_json::from_str(&text).unwrap_or(Value::String(text)),
        })
    }

    /// Up to ten messages.
    pub fn receive(&self, wait_secs: u64) -> Vec<Value> {
        let asked =
            json!({"MaxNumberOfMessages": 10, "WaitTimeSeconds": wait_secs, "AttributeNames": ["All"]});
        let answer = self.call("ReceiveMessage", asked);
        assert_eq!(answer.status, 200, "{}", answer.body);
        answer.body["Messages"].as_array().cloned().unwrap_or_default()
    }

    /// Bodies of up to ten messages.
    pub fn receive_bodies(&self) -> Vec<String> {
        self.receive(0).iter().map(|message| text(message, "Body")).collect()
    }

    /// Deletes messages; gives the entries that failed.
    pub fn delete(&self, messages: &[Value]) -> Vec<Value> {
        let entries: Vec<Value> = messages
            .iter()
            .enumerate()
            .map(|(index, message)| {
                json!({"Id": index.to_string(), "ReceiptHandle": message["ReceiptHandle"]})
            })
            .collect();
        self.batch("DeleteMessageBatch", &entries)
    }

    /// Hides a message for so long from now; gives the code of a failure.
    pub fn hide(&self, message: &Value, secs: u64) -> Option<String> {
        let entry = json!({"Id": "a", "ReceiptHandle": message["ReceiptHandle"], "VisibilityTimeout": secs});
        let failed = self.batch("ChangeMessageVisibilityBatch", &[entry]);
        failed.first().map(|failure| text(failure, "Code"))
    }

    fn batch(&self, action: &str, entries: &[Value]) -> Vec<Value> {
        let answer = self.call(action, json!({"Entries": entries}));
        assert_eq!(answer.status, 200, "{}", answer.body);
        let list = |name: &str| answer.body[name].as_array().cloned().unwrap_or_default();
        let (successful, failed) = (list("Successful"), list("Failed"));
        assert_eq!(successful.len() + failed.len(), entries.len(), "{}", answer.body);
        failed
    }
}

/// A text of a message or an entry.
pub fn text(value: &Value, name: &str) -> String {
    value[name].as_str().expect("a text").to_owned()
}
