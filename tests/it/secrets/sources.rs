//! Each source of AWS credentials, with secrets of its own and a peer that misbehaves on demand.

use persistent_cache_service::clock;
use serde_json::json;

use crate::support::aws::{Directory, ROLE};
use crate::support::hostile::{Hostile, Mode, Request};
use crate::support::moto::AccessKey;
use crate::support::state::iso;

/// A secret like no other, with letters that base64 and URLs spell otherwise.
pub fn secret(what: &str) -> String {
    format!("7Hq/{what}+wJalrXUtnFEMI/K7MDENG=bPx")
}

pub fn session_key(what: &str) -> AccessKey {
    AccessKey {
        id: format!("ASIA{}", what.to_uppercase().replace('-', "")),
        secret: secret(&format!("{what}-secret")),
        session_token: Some(secret(&format!("{what}-session-token"))),
    }
}

pub fn secrets_of(key: &AccessKey) -> Vec<String> {
    [Some(key.secret.clone()), key.session_token.clone()].into_iter().flatten().collect()
}

/// What misbehaves on demand.
pub enum Peer {
    Of(Hostile),
    /// The credentials are in a file.
    File(Directory),
    Nobody,
}

impl Peer {
    pub fn turn(&self, mode: Mode) {
        match self {
            Self::Of(peer) => peer.turn(mode),
            Self::File(_) | Self::Nobody => {}
        }
    }

    /// It did so, and the service has its answer. Where it says nothing, a second call shows that the first has ended.
    pub fn has_done(&self, mode: Mode) -> bool {
        match self {
            Self::Of(peer) => peer.calls(mode) >= if mode == Mode::Stall { 2 } else { 1 },
            Self::File(_) | Self::Nobody => true,
        }
    }
}

/// A source of secrets.
pub struct Source {
    pub name: &'static str,
    /// On top of those of the stage.
    pub settings: Vec<(&'static str, String)>,
    /// Whom the queue lets in.
    pub key: AccessKey,
    /// Beside those of the key.
    pub secrets: Vec<String>,
    pub peer: Peer,
}

pub fn json_refusal(words: &str) -> String {
    json!({"__type": "com.amazonaws#AccessDenied", "code": "AccessDenied", "message": words, "Message": words})
        .to_string()
}

fn xml_refusal(words: &str) -> String {
    let words = words.replace('<', "&lt;");
    format!(
        "<ErrorResponse><Error><Type>Sender</Type><Code>AccessDenied</Code><Message>{words}</Message></Error></ErrorResponse>"
    )
}

fn in_an_hour() -> String {
    iso(clock::now().0 + 3_600_000)
}

fn sts(key: &AccessKey) -> Hostile {
    let key = key.clone();
    Hostile::http(
        move |_| {
            format!(
                "<AssumeRoleWithWebIdentityResponse><AssumeRoleWithWebIdentityResult><Credentials><AccessKeyId>{}</AccessKeyId><SecretAccessKey>{}\
                 </SecretAccessKey><SessionToken>{}</SessionToken><Expiration>{}</Expiration></Credentials>\
                 </AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>",
                key.id,
                key.secret,
                key.session_token.as_deref().unwrap_or_default(),
                in_an_hour()
            )
        },
        xml_refusal,
    )
}

fn document(key: &AccessKey) -> String {
    json!({
        "Code": "Success", "Type": "AWS-HMAC", "LastUpdated": iso(clock::now().0),
        "AccessKeyId": key.id, "SecretAccessKey": key.secret, "Token": key.session_token,
        "Expiration": in_an_hour(),
    })
    .to_string()
}

pub fn in_the_environment() -> Source {
    let key = AccessKey { session_token: None, ..session_key("static") };
    Source {
        name: "static keys",
        settings: vec![("AWS_ACCESS_KEY_ID", key.id.clone()), ("AWS_SECRET_ACCESS_KEY", key.secret.clone())],
        key,
        secrets: Vec::new(),
        peer: Peer::Nobody,
    }
}

pub fn in_the_environment_for_a_while() -> Source {
    let key = session_key("session");
    Source {
        name: "static keys with a session token",
        settings: vec![
            ("AWS_ACCESS_KEY_ID", key.id.clone()),
            ("AWS_SECRET_ACCESS_KEY", key.secret.clone()),
            ("AWS_SESSION_TOKEN", key.session_token.clone().unwrap_or_default()),
        ],
        key,
        secrets: Vec::new(),
        peer: Peer::Nobody,
    }
}

pub fn web_identity(files: &Directory) -> Source {
    let key = session_key("web-identity");
    let token = secret("identity-token");
    let sts = sts(&key);
    Source {
        name: "web identity",
        settings: vec![
            ("AWS_WEB_IDENTITY_TOKEN_FILE", files.write("identity", &token)),
            ("AWS_ROLE_ARN", ROLE.to_owned()),
            ("AWS_ENDPOINT_URL_STS", sts.url()),
        ],
        key,
        secrets: vec![token],
        peer: Peer::Of(sts),
    }
}

pub fn container(files: &Directory) -> Source {
    let key = session_key("container");
    let (token, path) = (secret("container-token"), "b1e5-path-of-the-task-4711");
    let answer = key.clone();
    let endpoint = Hostile::http(move |_| document(&answer), json_refusal);
    Source {
        name: "container",
        settings: vec![
            ("AWS_CONTAINER_CREDENTIALS_FULL_URI", format!("{}/v2/credentials/{path}", endpoint.url())),
            ("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", files.write("container", &token)),
        ],
        key,
        secrets: vec![token, path.to_owned()],
        peer: Peer::Of(endpoint),
    }
}

pub fn instance() -> Source {
    let key = session_key("instance");
    let token = secret("instance-token");
    let (answer, issued) = (key.clone(), token.clone());
    let imds = Hostile::http(
        move |request: &Request| match request.line.as_str() {
            "PUT /latest/api/token" => issued.clone(),
            line if line.ends_with("/security-credentials/") => "role-of-the-instance".to_owned(),
            _ => document(&answer),
        },
        str::to_owned,
    );
    Source {
        name: "instance metadata",
        settings: vec![
            ("CREDENTIAL_SOURCE", "instance-metadata".to_owned()),
            ("AWS_EC2_METADATA_SERVICE_ENDPOINT", imds.url()),
        ],
        key,
        secrets: vec![token],
        peer: Peer::Of(imds),
    }
}

pub fn profile() -> Source {
    let key = session_key("profile");
    let files = Directory::new();
    let text = format!(
        "[work]\naws_access_key_id = {}\naws_secret_access_key = {}\naws_session_token = {}\n",
        key.id,
        key.secret,
        key.session_token.clone().unwrap_or_default()
    );
    Source {
        name: "profile with keys",
        settings: vec![
            ("AWS_PROFILE", "work".to_owned()),
            ("AWS_SHARED_CREDENTIALS_FILE", files.write("credentials", &text)),
        ],
        key,
        secrets: Vec::new(),
        peer: Peer::File(files),
    }
}

pub fn edge() -> Source {
    let key = session_key("edge");
    let server_key = secret("server-api-key");
    let answer = key.clone();
    let edge = Hostile::http(
        move |_| {
            json!({
                "accessKeyId": answer.id, "secretAccessKey": answer.secret, "sessionToken": answer.session_token,
                "expiration": in_an_hour(),
            })
            .to_string()
        },
        json_refusal,
    );
    Source {
        name: "Edge API",
        settings: vec![("SERVER_API_KEY", server_key.clone()), ("EDGE_API_URL", edge.url())],
        key,
        secrets: vec![server_key],
        peer: Peer::Of(edge),
    }
}
