//! The queue: moto, an SQS that checks signatures and permissions, and a small signed client for it.
//!
//! moto is slow (about 35 messages a second, fewer the deeper the queue), so one serves the whole test binary,
//! with a queue for each test.

use std::collections::HashMap;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use aws_credential_types::Credentials;
use aws_sigv4::http_request::{SignableBody, SignableRequest, SigningSettings, sign};
use aws_sigv4::sign::v4;
use persistent_cache_service::clock;
use serde_json::{Value, json};

use super::child::Process;
use super::tools::{free_port, tool};
use super::wait::PATIENCE;

/// The region that queues are in, unless a test says otherwise.
pub const REGION: &str = "us-east-2";

/// moto's own account.
const ACCOUNT: &str = "123456789012";

/// The actions the service may use, and no other: what it needs beyond these it must do without.
const SERVICE_ACTIONS: [&str; 3] =
    ["sqs:ReceiveMessage", "sqs:DeleteMessage*", "sqs:ChangeMessageVisibility*"];

/// An access key, of a user or temporary.
#[derive(Debug, Clone)]
pub struct AccessKey {
    pub id: String,
    pub secret: String,
    pub session_token: Option<String>,
}

/// A running moto. Every call after the first three is refused unless it is signed by a user it knows.
pub struct Moto {
    /// `http://127.0.0.1:port`
    pub endpoint: String,
    /// A user who may do anything: the tests' own.
    admin: AccessKey,
    /// A user who may do what the service has to: receive, delete, change visibility.
    pub service_user: AccessKey,
    agent: ureq::Agent,
    _process: Process,
}

impl Moto {
    /// The one that all tests share.
    pub fn shared() -> &'static Self {
        static SHARED: LazyLock<Moto> = LazyLock::new(Moto::start);
        &SHARED
    }

    fn start() -> Self {
        let port = free_port();
        let environment = [("INITIAL_NO_AUTH_ACTION_COUNT", "3"), ("PYTHONUNBUFFERED", "1")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()));
        let arguments = ["--host", "127.0.0.1", "--port", &port.to_string()].map(str::to_owned);
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let process = Process::start("moto", &tool("moto/bin/moto_server"), &arguments, &environment);
        let endpoint = format!("http://127.0.0.1:{port}");
        let config =
            ureq::Agent::config_builder().http_status_as_error(false).timeout_global(Some(PATIENCE)).build();
        let agent = config.new_agent();
        process.wait_for(PATIENCE, "an answer from moto", || {
            agent.get(format!("{endpoint}/moto-api/data.json")).call().ok().map(|_| ())
        });

        let nobody = AccessKey { id: "AKIANOBODY".into(), secret: "none".into(), session_token: None };
        let mut moto =
            Self { endpoint, admin: nobody.clone(), service_user: nobody, agent, _process: process };
        moto.admin = moto.create_user("admin", &["*"]);
        moto.service_user = moto.create_user("service", &SERVICE_ACTIONS);
        moto
    }

    fn create_user(&self, name: &str, actions: &[&str]) -> AccessKey {
        self.iam(&[("Action", "CreateUser"), ("UserName", name)]);
        let key = self.iam(&[("Action", "CreateAccessKey"), ("UserName", name)]);
        let policy = policy_allowing(actions);
        self.iam(&[
            ("Action", "PutUserPolicy"),
            ("UserName", name),
            ("PolicyName", "tests"),
            ("PolicyDocument", &policy),
        ]);
        AccessKey {
            id: element(&key, "AccessKeyId"),
            secret: element(&key, "SecretAccessKey"),
            session_token: None,
        }
    }

    /// A new user who may do this.
    pub fn user(&self, actions: &[&str]) -> AccessKey {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        self.create_user(&format!("user-{}", NEXT.fetch_add(1, Ordering::Relaxed)), actions)
    }

    /// A new user who may do what the service has to.
    pub fn another_service_user(&self) -> AccessKey {
        self.user(&SERVICE_ACTIONS)
    }

    /// The ARN of a new role that may do what the service has to.
    pub fn service_role(&self) -> String {
        self.role(&SERVICE_ACTIONS)
    }

    /// The ARN of a new role that may do this, and that whoever may assume roles may assume.
    pub fn role(&self, actions: &[&str]) -> String {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let role = format!("role-{}", NEXT.fetch_add(1, Ordering::Relaxed));
        let trust = json!({"Version": "2012-10-17", "Statement": [
            {"Effect": "Allow", "Principal": {"AWS": "*"}, "Action": "sts:AssumeRole"}]})
        .to_string();
        self.iam(&[("Action", "CreateRole"), ("RoleName", &role), ("AssumeRolePolicyDocument", &trust)]);
        let policy = policy_allowing(actions);
        self.iam(&[
            ("Action", "PutRolePolicy"),
            ("RoleName", &role),
            ("PolicyName", "tests"),
            ("PolicyDocument", &policy),
        ]);
        format!("arn:aws:iam::{ACCOUNT}:role/{role}")
    }

    /// Fresh temporary credentials that may do what the service has to.
    pub fn temporary_credentials(&self) -> AccessKey {
        let role = self.service_role();
        let answer = self.query(
            "sts",
            &[
                ("Action", "AssumeRole"),
                ("Version", "2011-06-15"),
                ("RoleArn", &role),
                ("RoleSessionName", "tests"),
            ],
        );
        AccessKey {
            id: element(&answer, "AccessKeyId"),
            secret: element(&answer, "SecretAccessKey"),
            session_token: Some(element(&answer, "SessionToken")),
        }
    }

    /// Makes credentials from `temporary_credentials` useless, as their expiry would.
    pub fn revoke(&self, credentials: &AccessKey) {
        let answer = self.signed(
            "sts",
            "us-east-1",
            credentials,
            "Action=GetCallerIdentity&Version=2011-06-15",
            &FORM,
        );
        let arn = element(&answer.1, "Arn");
        let role = arn.split('/').nth(1).expect("the ARN of an assumed role");
        self.iam(&[("Action", "DeleteRolePolicy"), ("RoleName", role), ("PolicyName", "tests")]);
    }

    /// Makes the key of a user from `user` useless.
    pub fn revoke_user(&self, key: &AccessKey) {
        let body = "Action=GetCallerIdentity&Version=2011-06-15";
        let (_, answer) = self.signed("sts", "us-east-1", key, body, &FORM);
        let arn = element(&answer, "Arn");
        let user = arn.rsplit('/').next().expect("the ARN of a user");
        self.iam(&[("Action", "DeleteUserPolicy"), ("UserName", user), ("PolicyName", "tests")]);
    }

    fn iam(&self, parameters: &[(&str, &str)]) -> String {
        let mut parameters = parameters.to_vec();
        parameters.push(("Version", "2010-05-08"));
        self.query("iam", &parameters)
    }

    fn query(&self, service: &str, parameters: &[(&str, &str)]) -> String {
        let body = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(parameters).finish();
        // moto checks the signature of the form as Python would have spelled it.
        let body = body.replace('*', "%2A").replace("%7E", "~");
        let (status, answer) = self.signed(service, "us-east-1", &self.admin, &body, &FORM);
        assert_eq!(status, 200, "{service} {}: {answer}", parameters[0].1);
        answer
    }

    /// One SQS call by a user of the caller's choice: status and body.
    pub fn sqs_as(&self, key: &AccessKey, region: &str, action: &str, body: &Value) -> (u16, String) {
        let target = format!("AmazonSQS.{action}");
        let headers = [("content-type", "application/x-amz-json-1.0"), ("x-amz-target", target.as_str())];
        self.signed("sqs", region, key, &body.to_string(), &headers)
    }

    fn sqs(&self, region: &str, action: &str, body: &Value) -> Value {
        let (status, answer) = self.sqs_as(&self.admin, region, action, body);
        assert_eq!(status, 200, "{action}: {answer}");
        if answer.is_empty() { Value::Null } else { serde_json::from_str(&answer).expect("JSON from moto") }
    }

    fn signed(
        &self,
        service: &str,
        region: &str,
        key: &AccessKey,
        body: &str,
        headers: &[(&str, &str)],
    ) -> (u16, String) {
        let url = format!("{}/", self.endpoint);
        let identity =
            Credentials::new(&key.id, &key.secret, key.session_token.clone(), None, "tests").into();
        let now = std::time::UNIX_EPOCH + Duration::from_millis(clock::now().0.unsigned_abs());
        let parameters = v4::SigningParams::builder()
            .identity(&identity)
            .region(region)
            .name(service)
            .time(now)
            .settings(SigningSettings::default())
            .build()
            .expect("signing parameters")
            .into();
        let signable =
            SignableRequest::new("POST", &url, headers.iter().copied(), SignableBody::Bytes(body.as_bytes()));
        let signature = sign(signable.expect("a signable request"), &parameters).expect("a signature");
        let (instructions, _) = signature.into_parts();
        let mut request = self.agent.post(&url);
        for (name, value) in headers.iter().copied().chain(instructions.headers()) {
            request = request.header(name, value);
        }
        let mut response = request.send(body).expect("moto answers");
        (response.status().as_u16(), response.body_mut().read_to_string().expect("text from moto"))
    }

    /// A new, empty queue with a name of its own.
    pub fn queue(&'static self) -> Queue {
        self.queue_with(&json!({}))
    }

    /// One with attributes, e.g. `VisibilityTimeout` (text, as SQS wants them).
    pub fn queue_with(&'static self, attributes: &Value) -> Queue {
        let queue = self.absent_queue();
        queue.create(attributes);
        queue
    }

    /// A FIFO queue; everything sent to it is of one message group.
    pub fn fifo_queue(&'static self) -> Queue {
        let mut queue = self.absent_queue();
        queue.is_fifo = true;
        queue.name.push_str(".fifo");
        queue.url.push_str(".fifo");
        queue.create(&json!({"FifoQueue": "true", "ContentBasedDeduplication": "true"}));
        queue
    }

    /// A queue that is not there yet: it has a name and a URL.
    pub fn absent_queue(&'static self) -> Queue {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("state-changes-{}", NEXT.fetch_add(1, Ordering::Relaxed));
        Queue {
            url: format!("{}/{ACCOUNT}/{name}", self.endpoint),
            name,
            region: REGION.into(),
            is_fifo: false,
            moto: self,
        }
    }
}

const FORM: [(&str, &str); 1] = [("content-type", "application/x-www-form-urlencoded")];

fn policy_allowing(actions: &[&str]) -> String {
    json!({"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": actions, "Resource": "*"}]})
        .to_string()
}

/// The text of the first XML element of this name.
fn element(xml: &str, name: &str) -> String {
    let (_, rest) = xml.split_once(&format!("<{name}>")).unwrap_or_else(|| panic!("no {name} in {xml}"));
    let (text, _) = rest.split_once("</").expect("an end tag");
    text.to_owned()
}

/// A queue of one test.
pub struct Queue {
    pub url: String,
    pub name: String,
    /// Where it is: a change of it, before `create`, makes the queue of another region.
    pub region: String,
    is_fifo: bool,
    pub moto: &'static Moto,
}

/// What is in a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    pub visible: usize,
    pub in_flight: usize,
}

impl Queue {
    /// Creates it.
    pub fn create(&self, attributes: &Value) {
        self.call("CreateQueue", json!({"QueueName": self.name, "Attributes": attributes}));
    }

    /// Removes it, with all that is in it.
    pub fn remove(&self) {
        self.call("DeleteQueue", json!({}));
    }

    fn call(&self, action: &str, mut body: Value) -> Value {
        if action != "CreateQueue" {
            body["QueueUrl"] = json!(self.url);
        }
        self.moto.sqs(&self.region, action, &body)
    }

    /// Its ARN, for a redrive policy.
    pub fn arn(&self) -> String {
        format!("arn:aws:sqs:{}:{ACCOUNT}:{}", self.region, self.name)
    }

    /// Sends one message; gives its id.
    pub fn send(&self, body: &str) -> String {
        let mut message = json!({"MessageBody": body});
        if self.is_fifo {
            message["MessageGroupId"] = json!("group-1");
        }
        let answer = self.call("SendMessage", message);
        answer["MessageId"].as_str().expect("a message id").to_owned()
    }

    /// Sends many, in order, in batches of ten.
    pub fn send_all(&self, bodies: &[String]) {
        for batch in bodies.chunks(10) {
            let entries: Vec<Value> = batch
                .iter()
                .enumerate()
                .map(|(index, body)| json!({"Id": index.to_string(), "MessageBody": body}))
                .collect();
            let answer = self.call("SendMessageBatch", json!({"Entries": entries}));
            assert!(answer["Failed"].as_array().is_none_or(Vec::is_empty), "{answer}");
        }
    }

    /// What is in it now.
    pub fn counts(&self) -> Counts {
        let names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"];
        let answer = self.call("GetQueueAttributes", json!({"AttributeNames": names}));
        let [visible, in_flight] = names
            .map(|name| answer["Attributes"][name].as_str().expect("a count").parse().expect("a number"));
        Counts { visible, in_flight }
    }

    /// True if nothing is in it, visible or not.
    pub fn is_empty(&self) -> bool {
        self.counts() == Counts { visible: 0, in_flight: 0 }
    }

    /// Takes everything that is visible out of it: bodies by message id.
    pub fn drain(&self) -> HashMap<String, String> {
        let mut bodies = HashMap::new();
        loop {
            let answer = self.call("ReceiveMessage", json!({"MaxNumberOfMessages": 10}));
            let messages = answer["Messages"].as_array().cloned().unwrap_or_default();
            if messages.is_empty() {
                return bodies;
            }
            for message in messages {
                let text = |name: &str| message[name].as_str().expect("a text").to_owned();
                self.call("DeleteMessage", json!({"ReceiptHandle": text("ReceiptHandle")}));
                bodies.insert(text("MessageId"), text("Body"));
            }
        }
    }
}
