//! A stand-in for ElastiCache: a TLS front before a real redis-server that lets in whoever shows a valid IAM token.
//!
//! A redis-server checks no tokens, so the front does, as AWS documents them: a pre-signed URL for this cache and
//! user, for the action `connect`, of this minute, at most 15 minutes valid, its signature recomputed here from
//! the secret. After authentication, bytes are passed on unchanged.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hmac::{Hmac, KeyInit, Mac};
use persistent_cache_service::clock;
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use sha2::{Digest, Sha256};
use time::PrimitiveDateTime;
use time::macros::format_description;

use super::child::thread;
use super::moto::AccessKey;
use super::redis::{TestRedis, private_directory};
use super::tls::Certificate;
use crate::fakes::acceptor::Acceptor;

/// The region of the cache.
pub const REGION: &str = "eu-west-1";
/// The cache's name.
pub const CACHE: &str = "stigg-cache";
/// The only user.
pub const USER: &str = "stigg-user";

/// Slower than this, a direction of a connection waits for the other.
const TURN: Duration = Duration::from_millis(2);

/// What the front accepts.
#[derive(Clone)]
pub struct Rules {
    /// Who may connect.
    pub key: AccessKey,
    /// The cache is a serverless one.
    pub is_serverless: bool,
}

/// A running front.
pub struct ElastiCache {
    pub port: u16,
    authority: String,
    log: Arc<Mutex<Log>>,
    _acceptor: Acceptor,
}

#[derive(Default)]
struct Log {
    tokens: Vec<String>,
    refusals: Vec<String>,
}

impl ElastiCache {
    /// In front of this server.
    pub fn before(redis: &TestRedis, rules: Rules) -> Self {
        let certificate = Certificate::make_for(&private_directory(), &[]);
        let (tls, log, server) = (certificate.server_config(), Arc::<Mutex<Log>>::default(), redis.port);
        let shared = Arc::clone(&log);
        let acceptor = Acceptor::start("elasticache", 0, move |stream| {
            let (tls, log, rules) = (Arc::clone(&tls), Arc::clone(&shared), rules.clone());
            // An end of either side ends the connection; what follows is for the service to report.
            thread("elasticache-connection", move || {
                let _ = serve(stream, tls, server, &rules, &log);
            });
        });
        let authority = certificate.authority.display().to_string();
        Self { port: acceptor.port, authority, log, _acceptor: acceptor }
    }

    /// The PEM file of the authority that signed the front's certificate.
    pub fn authority_file(&self) -> &str {
        &self.authority
    }

    /// The tokens that were shown and accepted, in order.
    pub fn tokens(&self) -> Vec<String> {
        self.log.lock().unwrap().tokens.clone()
    }

    /// Why others were refused.
    pub fn refusals(&self) -> Vec<String> {
        self.log.lock().unwrap().refusals.clone()
    }
}

fn serve(
    stream: TcpStream,
    tls: Arc<ServerConfig>,
    server: u16,
    rules: &Rules,
    log: &Mutex<Log>,
) -> std::io::Result<()> {
    let session = ServerConnection::new(tls).map_err(std::io::Error::other)?;
    let mut client = BufReader::new(StreamOwned::new(session, stream));
    let words = read_command(&mut client)?;
    let verdict = match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["AUTH", user, token] => judge(user, token, rules).map(|()| token.to_owned()),
        ref other => Err(format!("{} is no AUTH with user and token", other.first().unwrap_or(&""))),
    };
    let answer: &[u8] = match &verdict {
        Ok(_) => b"+OK\r\n",
        Err(_) => b"-WRONGPASS invalid username-password pair or user is disabled.\r\n",
    };
    {
        let mut log = log.lock().unwrap();
        match verdict {
            Ok(token) => log.tokens.push(token),
            Err(why) => {
                log.refusals.push(why);
                drop(log);
                return client.get_mut().write_all(answer);
            }
        }
    }
    client.get_mut().write_all(answer)?;
    let already_read = client.buffer().to_vec();
    let mut client = client.into_inner();
    let mut server = TcpStream::connect(("127.0.0.1", server))?;
    server.write_all(&already_read)?;
    client.sock.set_read_timeout(Some(TURN))?;
    server.set_read_timeout(Some(TURN))?;
    loop {
        let mut server_reader = &server;
        carry(&mut client, &mut &server)?;
        carry(&mut server_reader, &mut client)?;
    }
}

/// Carries on what there is; an error at the end of the stream.
fn carry(from: &mut impl Read, to: &mut impl Write) -> std::io::Result<()> {
    let mut buffer = [0; 16 * 1024];
    match from.read(&mut buffer) {
        Ok(0) => Err(ErrorKind::UnexpectedEof.into()),
        Ok(count) => {
            to.write_all(&buffer[..count])?;
            to.flush()
        }
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => Ok(()),
        Err(error) => Err(error),
    }
}

/// `*3\r\n$4\r\nAUTH\r\n…`.
fn read_command(from: &mut impl BufRead) -> std::io::Result<Vec<String>> {
    let number = |prefix: char, from: &mut dyn BufRead| -> std::io::Result<usize> {
        let mut line = String::new();
        from.read_line(&mut line)?;
        line.trim_end()
            .strip_prefix(prefix)
            .and_then(|number| number.parse().ok())
            .ok_or_else(|| ErrorKind::InvalidData.into())
    };
    let count = number('*', from)?;
    let mut words = Vec::new();
    for _ in 0..count {
        let mut word = vec![0; number('$', from)? + 2];
        from.read_exact(&mut word)?;
        word.truncate(word.len() - 2);
        words.push(String::from_utf8(word).map_err(std::io::Error::other)?);
    }
    Ok(words)
}

/// Whether the token is valid for this user. The error says why not.
fn judge(user: &str, token: &str, rules: &Rules) -> Result<(), String> {
    let check = |holds: bool, what: &str| if holds { Ok(()) } else { Err(what.to_owned()) };
    check(user == USER, "another user")?;
    let query = token.strip_prefix(&format!("{CACHE}/?")).ok_or("not for this cache")?;
    let pairs: Vec<(String, String)> = url::form_urlencoded::parse(query.as_bytes()).into_owned().collect();
    let parameters: BTreeMap<&str, &str> =
        pairs.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    check(parameters.len() == pairs.len(), "a parameter twice")?;
    let get = |name: &str| parameters.get(name).copied();
    check(get("Action") == Some("connect"), "another action")?;
    check(get("User") == Some(USER), "signed for another user")?;
    let resource_type = rules.is_serverless.then_some("ServerlessCache");
    check(get("ResourceType") == resource_type, "another type of cache")?;
    check(get("X-Amz-Algorithm") == Some("AWS4-HMAC-SHA256"), "another algorithm")?;
    check(get("X-Amz-SignedHeaders") == Some("host"), "other headers")?;
    check(get("X-Amz-Security-Token") == rules.key.session_token.as_deref(), "another session token")?;

    let date = get("X-Amz-Date").ok_or("no date")?;
    let format = format_description!("[year][month][day]T[hour][minute][second]Z");
    let signed_at =
        PrimitiveDateTime::parse(date, format).map_err(|_| "not a date")?.assume_utc().unix_timestamp();
    let age_secs = clock::now().0 / 1_000 - signed_at;
    check((-5..60).contains(&age_secs), "not of this minute")?;
    let valid_secs: i64 = get("X-Amz-Expires").and_then(|secs| secs.parse().ok()).unwrap_or(0);
    check((1..=900).contains(&valid_secs), "not valid for 15 minutes at most")?;

    let scope = format!("{}/{REGION}/elasticache/aws4_request", &date[..8]);
    let credential = format!("{}/{scope}", rules.key.id);
    check(get("X-Amz-Credential") == Some(&credential), "another key, region or service")?;
    let expected = signature(&parameters, date, &scope, &rules.key.secret);
    check(get("X-Amz-Signature") == Some(&expected), "another signature")
}

/// Signature Version 4 of `GET https://<cache>/` with these parameters in the query.
fn signature(parameters: &BTreeMap<&str, &str>, date: &str, scope: &str, secret: &str) -> String {
    // In the order of their names, as a map keeps them; each encoded but for what RFC 3986 leaves as it is.
    let query: Vec<String> = parameters
        .iter()
        .filter(|(name, _)| **name != "X-Amz-Signature")
        .map(|(name, value)| format!("{}={}", encoded(name), encoded(value)))
        .collect();
    let canonical =
        format!("GET\n/\n{}\nhost:{CACHE}\n\nhost\n{}", query.join("&"), hex(&Sha256::digest(b"")));
    let to_sign =
        format!("AWS4-HMAC-SHA256\n{date}\n{scope}\n{}", hex(&Sha256::digest(canonical.as_bytes())));
    let key = scope.split('/').fold(format!("AWS4{secret}").into_bytes(), |key, part| mac(&key, part));
    hex(&mac(&key, &to_sign))
}

fn mac(key: &[u8], text: &str) -> Vec<u8> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("any length");
    mac.update(text.as_bytes());
    mac.finalize().into_bytes().to_vec()
}

fn hex(bytes: &[u8]) -> String {
    let digits: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    digits.concat()
}

fn encoded(text: &str) -> String {
    text.bytes()
        .map(|byte| {
            if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
                char::from(byte).to_string()
            } else {
                format!("%{byte:02X}")
            }
        })
        .collect()
}
