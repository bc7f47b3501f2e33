//! The sources of temporary credentials, each with the peer that gives them.

use crate::support::aws::{Directory, ROLE, StsStub};
use crate::support::container::{self, ContainerStub};
use crate::support::edge::EdgeStub;
use crate::support::imds::{self, ImdsStub};
use crate::support::moto::AccessKey;
use crate::support::service::Settings;

const FIRST: &str = "eyJhbGciOiJSUzI1NiJ9.first-token-of-the-tests";
const SECOND: &str = "eyJhbGciOiJSUzI1NiJ9.second-token-of-the-tests";
const WRONG: &str = "eyJhbGciOiJSUzI1NiJ9.wrong-token-of-the-tests";

pub struct Row {
    pub name: &'static str,
    pub source: fn() -> Source,
    /// What the log says of a refusal.
    pub complaint: &'static [&'static str],
}

pub const WEB_IDENTITY: Row = Row {
    name: "web identity",
    source: || Source::with(Peer::Sts(StsStub::start())),
    complaint: &[
        "there are no credentials for the queue",
        "HTTP 400 InvalidIdentityToken (refused by the stub [redacted])",
        "trust policy",
    ],
};

const CONTAINER: Row = Row {
    name: "container",
    source: || Source::with(Peer::Container(ContainerStub::start(FIRST))),
    complaint: &["container's credentials", "401", "InvalidToken", "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"],
};

pub const INSTANCE: Row = Row {
    name: "instance metadata",
    source: || Source::with(Peer::Instance(ImdsStub::start())),
    complaint: &["instance's credentials", "attach an instance profile"],
};

const EDGE: Row = Row {
    name: "Edge API",
    source: || Source::with(Peer::Edge(EdgeStub::start())),
    complaint: &["credentials", "401", "SERVER_API_KEY"],
};

pub const ROWS: [Row; 4] = [WEB_IDENTITY, CONTAINER, INSTANCE, EDGE];

enum Peer {
    Sts(StsStub),
    Container(ContainerStub),
    Instance(ImdsStub),
    Edge(EdgeStub),
}

/// A peer, and the file with the token or server key that the service signs in with there. An instance has none.
pub struct Source {
    peer: Peer,
    files: Directory,
}

impl Source {
    fn with(peer: Peer) -> Self {
        let source = Self { peer, files: Directory::new() };
        source.accept(FIRST);
        source.write(FIRST);
        source
    }

    /// The file holds this token from now on. Gives its path.
    fn write(&self, token: &str) -> String {
        self.files.write("token", &format!("{token}\n"))
    }

    /// The peer takes this token and no other from now on.
    fn accept(&self, token: &str) {
        match &self.peer {
            Peer::Sts(sts) => sts.take_token(token),
            Peer::Container(endpoint) => endpoint.accept_token(token),
            Peer::Instance(_) => {}
            Peer::Edge(edge) => edge.accept_key(token),
        }
    }

    pub fn settings(&self, settings: Settings) -> Settings {
        let token = format!("{}/token", self.files.path());
        match &self.peer {
            Peer::Sts(sts) => settings
                .set("AWS_WEB_IDENTITY_TOKEN_FILE", token)
                .set("AWS_ROLE_ARN", ROLE)
                .set("AWS_ROLE_SESSION_NAME", "pod-4711")
                .set("AWS_ENDPOINT_URL_STS", &sts.url),
            Peer::Container(endpoint) => without_proxy(settings)
                .set("AWS_CONTAINER_CREDENTIALS_FULL_URI", endpoint.uri())
                .set("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", token),
            Peer::Instance(imds) => without_proxy(settings)
                .set("CREDENTIAL_SOURCE", "instance-metadata")
                .set("AWS_EC2_METADATA_SERVICE_ENDPOINT", &imds.url),
            Peer::Edge(edge) => settings
                .unset("SERVER_API_KEY")
                .set("SERVER_API_KEY_FILE", token)
                .set("EDGE_API_URL", &edge.url),
        }
    }

    pub fn name_in_log(&self) -> String {
        match &self.peer {
            Peer::Sts(sts) => {
                format!("temporary credentials of role {ROLE} by web identity, from STS at {}", sts.url)
            }
            Peer::Container(endpoint) => {
                format!("the container's temporary credentials from {}", endpoint.address)
            }
            Peer::Instance(imds) => format!("the instance's temporary credentials from {}", imds.url),
            Peer::Edge(edge) => format!("temporary credentials from the Edge API at {}", edge.url),
        }
    }

    pub fn give(&self, key: &AccessKey, expires_at_ms: i64) {
        match &self.peer {
            Peer::Sts(sts) => sts.give(key, expires_at_ms),
            Peer::Container(endpoint) => endpoint.give_credentials(key, expires_at_ms),
            Peer::Instance(imds) => imds.give_credentials(key, expires_at_ms),
            Peer::Edge(edge) => edge.give_credentials(key, expires_at_ms),
        }
    }

    /// What the service signed in with so far is refused from now on, and its file holds another.
    pub fn rotate(&self) {
        self.accept(SECOND);
        self.write(SECOND);
        if let Peer::Instance(imds) = &self.peer {
            imds.forget_tokens();
        }
    }

    /// The peer refuses, and the operator is at fault.
    pub fn refuse(&self) {
        self.write(WRONG);
        if let Peer::Instance(imds) = &self.peer {
            imds.set_has_role(false);
        }
    }

    /// The operator repairs it.
    pub fn mend(&self) {
        self.write(FIRST);
        if let Peer::Instance(imds) = &self.peer {
            imds.set_has_role(true);
        }
    }

    /// STS fails until it is given credentials again.
    pub fn go_down(&self) {
        if let Peer::Sts(sts) = &self.peer {
            sts.go_down();
        }
    }

    /// Every call so far.
    pub fn calls(&self) -> usize {
        match &self.peer {
            Peer::Sts(sts) => sts.calls().len(),
            Peer::Container(endpoint) => endpoint.calls().len(),
            Peer::Instance(imds) => imds.calls().len(),
            Peer::Edge(edge) => edge.calls().len(),
        }
    }

    /// How often credentials were issued.
    pub fn fetches(&self) -> usize {
        match &self.peer {
            Peer::Sts(sts) => sts.answered(200),
            Peer::Container(endpoint) => endpoint.answered(200),
            Peer::Instance(imds) => imds.fetches(),
            Peer::Edge(edge) => edge.calls().iter().filter(|call| call.status == 200).count(),
        }
    }

    /// Checks the first calls.
    pub fn assert_asked_as_documented(&self, queue_url: &str) {
        match &self.peer {
            Peer::Sts(sts) => {
                let form = &sts.calls()[0].form;
                assert_eq!((form["RoleArn"].as_str(), form["RoleSessionName"].as_str()), (ROLE, "pod-4711"));
            }
            Peer::Container(endpoint) => {
                let call = &endpoint.calls()[0];
                assert_eq!((call.method.as_str(), call.url.as_str()), ("GET", container::PATH));
                assert_eq!(call.authorization.as_deref(), Some(FIRST));
            }
            Peer::Instance(imds) => {
                let calls: Vec<(String, u16)> =
                    imds.calls().into_iter().map(|call| (call.line, call.status)).take(3).collect();
                let role_path = "GET /latest/meta-data/iam/security-credentials/";
                let expected = ["PUT /latest/api/token", role_path, &format!("{role_path}{}", imds::ROLE)];
                assert_eq!(calls, expected.map(|line| (line.to_owned(), 200)), "version 1 is not used");
            }
            Peer::Edge(edge) => {
                let queue_url: String = url::form_urlencoded::byte_serialize(queue_url.as_bytes()).collect();
                let call = &edge.calls()[0];
                assert!(call.authorised, "{call:?}");
                assert_eq!(call.version.as_deref(), Some("1"));
                assert_eq!(call.url, format!("/v1/credentials/event-queue.json?queueUrl={queue_url}"));
            }
        }
    }

    /// An instance gives a token for each fetch.
    pub fn assert_no_token_is_reused(&self) {
        if let Peer::Instance(imds) = &self.peer {
            assert!(imds.calls().iter().all(|call| call.status != 401), "{:?}", imds.calls());
        }
    }

    /// What nobody may read, beside the keys.
    pub fn secrets(&self) -> Vec<String> {
        let mut secrets = [FIRST, SECOND, WRONG, "proxy-password", "proxy-user"].map(str::to_owned).to_vec();
        match &self.peer {
            Peer::Container(_) => secrets.extend(container::PATH.rsplit('/').next().map(str::to_owned)),
            Peer::Instance(imds) => secrets.extend(imds.tokens()),
            Peer::Sts(_) | Peer::Edge(_) => {}
        }
        secrets
    }
}

/// Nobody is at that proxy: a call that did not go straight to the machine's own address would fail.
fn without_proxy(settings: Settings) -> Settings {
    settings.set("HTTPS_PROXY", "http://proxy-user:proxy-password@127.0.0.1:9")
}
