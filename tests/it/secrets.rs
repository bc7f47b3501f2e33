//! Secrets appear nowhere: through every source of credentials, and through peers that refuse in the words they
//! were sent, answer with half a document, or say nothing, nothing of a secret is in the log at debug level, on standard
//! error, on any page of the service or in its error reports. Neither as it is nor in base64 nor percent-encoded. Nor is
//! a customer (`customers`).

mod customers;
mod sources;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};

use crate::fakes::queue::{KnownKey, QueueOptions};
use crate::support::aws::Directory;
use crate::support::elasticache::{self, ElastiCache, Rules};
use crate::support::fake_stage::FakeStage;
use crate::support::hostile::{Hostile, Mode};
use crate::support::moto::AccessKey;
use crate::support::redis::{RedisOptions, TestRedis};
use crate::support::sentinel::{self, TestSentinel};
use crate::support::sentry::SentryStub;
use crate::support::service::{Service, Settings, run_to_end};
use crate::support::wait::{PATIENCE, wait_until};
use sources::{
    Peer, Source, container, edge, in_the_environment, in_the_environment_for_a_while, instance,
    json_refusal, profile, secret, secrets_of, session_key, web_identity,
};

/// Modes in which a peer quotes what it should not, or sends nothing.
const BAD: [Mode; 3] = [Mode::Refuse, Mode::Garbage, Mode::Stall];
const UNREADABLE: &str = r#"{"type":"measurement.reported","customer":{"id":"customer-of-the-test"}}"#;

/// Every spelling of a secret that is looked for, and the first half of it.
fn spellings(secret: &str) -> Vec<String> {
    assert!(secret.len() >= 12, "too short to be looked for: {secret}");
    let percent = |lower: bool| -> String {
        let letters = secret.bytes().map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                char::from(byte).to_string()
            }
            _ if lower => format!("%{byte:02x}"),
            _ => format!("%{byte:02X}"),
        });
        letters.collect()
    };
    let mut spellings = vec![
        secret.to_owned(),
        secret.chars().take(secret.chars().count() / 2).collect(),
        percent(false),
        percent(true),
    ];
    // In base64 it looks otherwise behind one or two other bytes, as a password does behind a user's name.
    for before in 0..3 {
        let bytes = [vec![0; before], secret.as_bytes().to_vec()].concat();
        for encoded in [STANDARD.encode(&bytes), URL_SAFE.encode(&bytes)] {
            let encoded = encoded.trim_end_matches('=');
            spellings.push(encoded[[0, 2, 3][before]..encoded.len() - 1].to_owned());
        }
    }
    spellings
}

/// Everything that anybody could read, by where it was read.
fn pages(service: &Service) -> Vec<(String, String)> {
    ["/metrics", "/livez", "/readyz", "/", "/status", "/nowhere"]
        .iter()
        .filter_map(|path| Some(((*path).to_owned(), service.try_get(path)?.body)))
        .collect()
}

fn assert_absent(name: &str, texts: &[(String, String)], secrets: &[String]) {
    for secret in secrets {
        for spelling in spellings(secret) {
            for (place, text) in texts {
                if let Some(line) = text.lines().find(|line| line.contains(&spelling)) {
                    panic!("{name}: '{secret}' shows in {place} as '{spelling}': {line}");
                }
            }
        }
    }
}

/// Without keys, at debug level, with error reports; calls to the queue go to `queue`.
fn settings(stage: &FakeStage, queue: &Hostile, sentry: &str) -> Settings {
    stage
        .settings()
        .unset("AWS_ACCESS_KEY_ID")
        .unset("AWS_SECRET_ACCESS_KEY")
        .unset("DISABLE_SENTRY")
        .set("AWS_ENDPOINT_URL_SQS", queue.url())
        .set("LOG_LEVEL", "debug")
        .set("SENTRY_DSN", sentry)
}

/// The service's life with this source: the source does wrong, then the queue does, then the key is known no more.
fn goes_untold(source: &Source) {
    let stage = FakeStage::new(QueueOptions::default());
    let known = KnownKey {
        secret: source.key.secret.clone(),
        session_token: source.key.session_token.clone(),
        expires_at_ms: None,
    };
    stage.queue.allow_key(&source.key.id, known);
    let queue = Hostile::before(stage.queue_address(), json_refusal);
    let sentry = SentryStub::start();
    let dsn_key = "9f3cdsnkey4711deadbeef0815cafe";
    let mut settings = settings(&stage, &queue, &sentry.dsn.replace("publickey", dsn_key));
    for (name, value) in &source.settings {
        settings = settings.set(name, value);
    }
    let name = source.name;
    let does_wrong = !matches!(source.peer, Peer::File(_) | Peer::Nobody);
    source.peer.turn(if does_wrong { Mode::Refuse } else { Mode::Serve });
    let service = Service::spawn(&settings);
    if does_wrong {
        for mode in BAD {
            source.peer.turn(mode);
            service.wait_until(&format!("{name}: the source to {mode:?}"), || source.peer.has_done(mode));
        }
        source.peer.turn(Mode::Serve);
    }
    let texts = queue_does_wrong(&service, source, &stage, &queue, &sentry);
    service.stop();
    // That the key was nobody's in the end is what the queue complains of.
    stage.queue.complaints();
    let mut secrets = secrets_of(&source.key);
    secrets.extend(source.secrets.iter().cloned());
    secrets.push(dsn_key.to_owned());
    assert_absent(name, &texts, &secrets);
}

/// Returns all that the service has written.
fn queue_does_wrong(
    service: &Service,
    source: &Source,
    stage: &FakeStage,
    queue: &Hostile,
    sentry: &SentryStub,
) -> Vec<(String, String)> {
    let name = source.name;
    service.wait_until_ready();
    stage.queue.send(UNREADABLE);
    service.wait_until(&format!("{name}: a report"), || sentry.reports().contains("cannot read a message"));
    for mode in BAD {
        queue.turn(mode);
        service.wait_until(&format!("{name}: the queue to {mode:?}"), || queue.calls(mode) >= 2);
    }
    // From now on the key is nobody's; where it came from a file, that holds half of it.
    stage.queue.forget_key(&source.key.id);
    if let Peer::File(files) = &source.peer {
        files.write(
            "credentials",
            &format!("[work]\naws_secret_access_key = {}\n{}\n[", source.key.secret, source.key.secret),
        );
    }
    queue.turn(Mode::Serve);
    service
        .wait_until(&format!("{name}: the queue to refuse the key"), || !stage.queue.complaints().is_empty());
    service.wait_for_complaint(&["cannot receive messages", "403"]);
    texts_of(service, sentry)
}

fn texts_of(service: &Service, sentry: &SentryStub) -> Vec<(String, String)> {
    let mut texts = pages(service);
    texts.push(("standard output".to_owned(), service.log_lines().join("\n")));
    texts.push(("standard error".to_owned(), service.stderr().join("\n")));
    texts.push(("the error reports".to_owned(), sentry.reports()));
    texts
}

/// All at once: most of the time they wait for peers that say nothing.
fn all_at_once(sources: &[Source]) {
    std::thread::scope(|scope| {
        for source in sources {
            scope.spawn(|| goes_untold(source));
        }
    });
}

#[test]
fn of_static_keys_and_of_profiles() {
    all_at_once(&[in_the_environment(), in_the_environment_for_a_while(), profile()]);
}

#[test]
fn of_sources_of_temporary_keys() {
    let files = Directory::new();
    all_at_once(&[web_identity(&files), container(&files), instance(), edge()]);
}

/// A service that works but for one peer, which misbehaves in every way.
fn with_a_bad_peer(
    peer: &Hostile,
    settings: impl FnOnce(Settings) -> Settings,
    secrets: &[String],
    name: &str,
) {
    let stage = FakeStage::new(QueueOptions::default());
    let sentry = SentryStub::start();
    let settings = settings(
        stage.settings().unset("DISABLE_SENTRY").set("LOG_LEVEL", "debug").set("SENTRY_DSN", &sentry.dsn),
    );
    peer.turn(Mode::Refuse);
    let service = Service::spawn(&settings);
    for mode in BAD {
        peer.turn(mode);
        service.wait_until(&format!("{name}: to {mode:?}"), || peer.calls(mode) >= 2);
    }
    let texts = texts_of(&service, &sentry);
    service.stop();
    stage.queue.complaints();
    assert_absent(name, &texts, secrets);
}

#[test]
fn of_redis_and_sentinel() {
    let password = secret("redis-password");
    let redis =
        TestRedis::start_with(RedisOptions { password: Some(password.clone()), ..RedisOptions::default() });
    let encoded: String = url::form_urlencoded::byte_serialize(password.as_bytes()).collect();
    let sentinel = TestSentinel::of(&redis);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let peer = Hostile::redis(redis.port);
            let settings = |settings: Settings| {
                settings.set("REDIS_PORT", peer.port.to_string()).set("REDIS_PASSWORD", &password)
            };
            with_a_bad_peer(&peer, settings, std::slice::from_ref(&password), "REDIS_PASSWORD");
        });
        scope.spawn(|| {
            let peer = Hostile::redis(redis.port);
            let url = format!("redis://:{encoded}@127.0.0.1:{}", peer.port);
            let settings =
                |settings: Settings| settings.unset("REDIS_HOST").unset("REDIS_PORT").set("REDIS_URL", &url);
            with_a_bad_peer(&peer, settings, std::slice::from_ref(&password), "REDIS_URL");
        });
        scope.spawn(|| {
            let peer = Hostile::redis(sentinel.port);
            let settings = |settings: Settings| {
                settings
                    .unset("REDIS_HOST")
                    .unset("REDIS_PORT")
                    .set("REDIS_PASSWORD", &password)
                    .set("REDIS_SENTINELS", format!("127.0.0.1:{}", peer.port))
                    .set("REDIS_SENTINEL_MASTER", sentinel::MASTER)
                    .set("REDIS_SENTINEL_USERNAME", sentinel::USER)
                    .set("REDIS_SENTINEL_PASSWORD", sentinel::PASSWORD)
            };
            let secrets = [password.clone(), sentinel::PASSWORD.to_owned()];
            with_a_bad_peer(&peer, settings, &secrets, "REDIS_SENTINEL_PASSWORD");
        });
    });
}

#[test]
fn of_a_proxy_and_of_sentry() {
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let password = secret("proxy-password");
            let encoded: String = url::form_urlencoded::byte_serialize(password.as_bytes()).collect();
            let peer = Hostile::proxy();
            let settings = |settings: Settings| {
                settings
                    .unset("AWS_ENDPOINT_URL_SQS")
                    .set("QUEUE_URL", "https://sqs.us-east-1.amazonaws.com/123456789012/state-changes")
                    .set("HTTPS_PROXY", format!("http://proxy-user:{encoded}@127.0.0.1:{}", peer.port))
            };
            with_a_bad_peer(&peer, settings, std::slice::from_ref(&password), "HTTPS_PROXY");
        });
        scope.spawn(|| {
            let stage = FakeStage::new(QueueOptions::default());
            let peer = Hostile::http(|_| "{}".to_owned(), json_refusal);
            let key = "9f3cdsnkey4711deadbeef0815cafe";
            let settings = stage
                .settings()
                .unset("DISABLE_SENTRY")
                .set("LOG_LEVEL", "debug")
                .set("SENTRY_DSN", format!("http://{key}@127.0.0.1:{}/7", peer.port));
            let service = Service::start(&settings);
            for mode in BAD {
                peer.turn(mode);
                service.wait_until(&format!("SENTRY_DSN: to {mode:?}"), || {
                    stage.queue.send(format!("{{\"no\":{}", stage.queue.counts().sent));
                    peer.calls(mode) >= 1
                });
            }
            let log = [service.log_lines(), service.stderr()].concat().join("\n");
            let mut texts = pages(&service);
            texts.push(("the log".to_owned(), log));
            service.stop();
            assert_absent("SENTRY_DSN", &texts, &[key.to_owned()]);
        });
    });
}

#[test]
fn of_tokens_for_elasticache() {
    let stage = FakeStage::new(QueueOptions::default());
    let key = AccessKey { id: "AKIAELASTICACHE".to_owned(), ..session_key("elasticache") };
    let known = KnownKey {
        secret: key.secret.clone(),
        session_token: key.session_token.clone(),
        expires_at_ms: None,
    };
    stage.queue.allow_key(&key.id, known);
    let another = AccessKey { secret: secret("another"), ..key.clone() };
    for (holds, is_let_in) in [(&key, true), (&another, false)] {
        let rules = Rules { key: holds.clone(), is_serverless: false };
        let cache = ElastiCache::before(&stage.redis, rules);
        let settings = stage
            .settings()
            .access_key(&key)
            .set("REDIS_PORT", cache.port.to_string())
            .set("REDIS_TLS", "1")
            .set("REDIS_TLS_CA_FILE", cache.authority_file())
            .set("REDIS_USERNAME", elasticache::USER)
            .set("REDIS_IAM_AUTH", "1")
            .set("REDIS_IAM_CACHE_NAME", elasticache::CACHE)
            .set("REDIS_IAM_REGION", elasticache::REGION)
            .set("LOG_LEVEL", "debug");
        let service = Service::spawn(&settings);
        if is_let_in {
            service.wait_until_ready();
        } else {
            service.wait_for_complaint(&["WRONGPASS"]);
        }
        let mut secrets = secrets_of(&key);
        for token in cache.tokens() {
            let (_, signature) = token.split_once("X-Amz-Signature=").expect("a signature");
            secrets.push(signature.chars().take(64).collect());
            secrets.push(token);
        }
        let mut texts = pages(&service);
        texts.push(("the log".to_owned(), service.log_lines().join("\n")));
        texts.push(("standard error".to_owned(), service.stderr().join("\n")));
        service.stop();
        assert_absent("ElastiCache", &texts, &secrets);
    }
}

#[test]
fn of_a_configuration_that_is_refused() {
    let stage = FakeStage::new(QueueOptions::default());
    let hidden = secret("malformed");
    for (name, value) in [
        ("REDIS_URL", format!("redis://user:{hidden}@host:not-a-port")),
        ("REDIS_URL", format!("http://user:{hidden}@host")),
        ("REDIS_HOST", format!("user:{hidden}@host")),
        ("REDIS_SENTINELS", format!("user:{hidden}@host:26379")),
        ("HTTPS_PROXY", format!("http://user:{hidden}@host:not-a-port")),
        ("HTTPS_PROXY", format!("socks5://user:{hidden}@host:1")),
        ("SENTRY_DSN", format!("no-url-{hidden}")),
        ("SERVER_API_KEY", format!("{hidden}\nx")),
        ("AWS_SESSION_TOKEN", format!("{hidden}\u{1}")),
        ("AWS_SECRET_ACCESS_KEY", format!("{hidden}\u{1}\n")),
        ("QUEUE_URL", format!("https://user:{hidden}@sqs/1/q")),
        ("EDGE_API_URL", format!("ftp://user:{hidden}@edge")),
        ("AWS_CONTAINER_CREDENTIALS_FULL_URI", format!("http://example.com/{hidden}")),
        ("AWS_CONTAINER_AUTHORIZATION_TOKEN", format!("{hidden}\nx")),
    ] {
        let settings = stage
            .settings()
            .unset(if name == "REDIS_URL" { "REDIS_HOST" } else { "" })
            .set(name, &value)
            // Whatever else is right: this is not, so that it ends.
            .set("REDIS_DB", "no-number");
        let (status, text) = run_to_end(&settings, &[]);
        assert_eq!(status.code(), Some(78), "{name}: {text}");
        assert_absent(name, &[("its last words".to_owned(), text)], std::slice::from_ref(&hidden));
    }
    wait_until(PATIENCE, "the queue was not called", || stage.queue.counts().received == 0);
}
