use super::*;
use crate::clock::EpochMs;
use crate::config::Secret;
use crate::http_client::stub::{Asked, Reply, Stub, dead_url};

const ROLE_ARN: &str = "arn:aws:iam::123456789012:role/reader";

fn keys() -> Credentials {
    Credentials {
        access_key_id: "AKIA1".to_owned(),
        secret_access_key: "hunter2-hunter2".to_owned(),
        session_token: Some("session-tok3n".to_owned()),
        expires_at: None,
    }
}

fn at(region: &str, url: Option<Url>) -> Result<StsClient, CredentialsError> {
    let region = region.to_owned();
    StsClient::new(&StsEndpoint { region, url }, None, "get credentials of role r")
}

fn sts(url: &Url) -> StsClient {
    at("eu-central-1", Some(url.clone())).unwrap()
}

fn answer() -> Reply {
    Stub::ok(
        "<AssumeRoleWithWebIdentityResponse><AssumeRoleWithWebIdentityResult><Credentials><AccessKeyId>ASIA1</AccessKeyId>\
         <SecretAccessKey>s</SecretAccessKey><SessionToken>t</SessionToken><Expiration>2030-01-01T00:00:00Z</Expiration>\
         </Credentials></AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>",
    )
}

fn form(asked: &Asked) -> Vec<(String, String)> {
    url::form_urlencoded::parse(asked.body.as_bytes()).into_owned().collect()
}

fn refusal(status: u16, code: &str, words: &str) -> Reply {
    let body = format!(
        "<ErrorResponse><Error><Code>{code}</Code><Message>{words}</Message></Error></ErrorResponse>"
    );
    Reply::Answer(status, "", body)
}

#[test]
fn a_token_is_exchanged_without_a_signature() {
    let stub = Stub::start([answer()]);
    let credentials =
        sts(&stub.url).assume_role_with_web_identity(ROLE_ARN, "pod 1", "token.of.a.pod").unwrap();
    assert_eq!(credentials.access_key_id, "ASIA1");
    assert_eq!(credentials.expires_at, Some(EpochMs(1_893_456_000_000)));
    let asked = stub.asked();
    assert_eq!(asked.line, "POST /");
    assert_eq!(asked.header("content-type"), FORM);
    assert_eq!(asked.header("authorization"), "");
    let expected = [
        ("Version", "2011-06-15"),
        ("Action", "AssumeRoleWithWebIdentity"),
        ("RoleArn", ROLE_ARN),
        ("RoleSessionName", "pod 1"),
        ("WebIdentityToken", "token.of.a.pod"),
    ];
    assert_eq!(form(&asked), expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
}

#[test]
fn the_caller_is_asked_for_with_a_signature_for_sts_in_its_region() {
    let stub = Stub::start([Stub::ok(
        "<GetCallerIdentityResponse><GetCallerIdentityResult><Arn>arn:aws:iam::1:user/u</Arn></GetCallerIdentityResult>\
         </GetCallerIdentityResponse>",
    )]);
    assert_eq!(sts(&stub.url).caller(&keys()).unwrap(), "arn:aws:iam::1:user/u");
    let asked = stub.asked();
    let authorization = asked.header("authorization");
    assert!(
        authorization.starts_with("AWS4-HMAC-SHA256 Credential=AKIA1/")
            && authorization.contains("/eu-central-1/sts/aws4_request"),
        "{authorization}"
    );
    assert_eq!(asked.header("x-amz-security-token"), "session-tok3n");
    let expected = [("Version", "2011-06-15"), ("Action", "GetCallerIdentity")];
    assert_eq!(form(&asked), expected.map(|(name, value)| (name.to_owned(), value.to_owned())));

    let stub = Stub::start([refusal(403, "SignatureDoesNotMatch", "hunter2-hunter2 and session-tok3n")]);
    let error = sts(&stub.url).caller(&keys()).unwrap_err();
    assert!(error.message.contains("HTTP 403 SignatureDoesNotMatch ([redacted] and [redacted])"), "{error}");
}

#[test]
fn the_region_of_each_partition_has_its_own_address() {
    for (region, address) in [
        ("us-east-1", "https://sts.us-east-1.amazonaws.com"),
        ("us-gov-west-1", "https://sts.us-gov-west-1.amazonaws.com"),
        ("cn-north-1", "https://sts.cn-north-1.amazonaws.com.cn"),
        ("eusc-de-east-1", "https://sts.eusc-de-east-1.amazonaws.eu"),
    ] {
        assert_eq!(at(region, None).unwrap().endpoint.address(), address);
    }
    let error = at("attacker.example/", None).unwrap_err();
    assert_eq!(error.message, "cannot get credentials of role r: the region has no STS; check AWS_REGION");
}

#[test]
fn each_refusal_of_a_token_has_its_remedy_and_never_the_token() {
    for (status, code, remedy) in [
        (400, "ExpiredTokenException", "must renew the file"),
        (400, "InvalidIdentityToken", "the identity provider that"),
        (403, "AccessDenied", "sts:AssumeRoleWithWebIdentity to the token's subject"),
        (400, "IDPCommunicationError", "it is retried later"),
        (403, "RegionDisabledException", "STS of this region is not active"),
        (400, "ValidationError", "check AWS_ROLE_ARN"),
        (400, "Throttling", "it is retried later"),
        (503, "ServiceUnavailable", "it is retried later"),
        (400, "SomethingNew", "the STS API reference"),
    ] {
        let stub = Stub::start([refusal(status, code, "Token token.of.a.pod is no good")]);
        let error =
            sts(&stub.url).assume_role_with_web_identity(ROLE_ARN, "me", "token.of.a.pod").unwrap_err();
        assert_eq!(error.kind, format!("sts_http_{status}"));
        let start = format!(
            "cannot get credentials of role r from {}: HTTP {status} {code} (Token [redacted] is no good); ",
            stub.url.as_str().trim_end_matches('/')
        );
        assert!(error.message.starts_with(&start), "{error}");
        assert!(error.message.contains(remedy), "{error}");
    }
}

#[test]
fn whoever_answers_in_place_of_sts_is_told_from_it() {
    let stub = Stub::start([
        Reply::Answer(502, "", "<html>Bad Gateway</html>".to_owned()),
        Reply::Answer(404, "", String::new()),
        Stub::ok("{}"),
        Stub::ok("x".repeat(100_000)),
    ]);
    for words in [
        "HTTP 502; the fault is on the other side",
        "HTTP 404; is this STS? check AWS_ENDPOINT_URL_STS",
        "the answer is not as documented: it is not XML; is this STS? check AWS_ENDPOINT_URL_STS",
        "the answer is longer than 65536 bytes; is this STS?",
    ] {
        let error =
            sts(&stub.url).assume_role_with_web_identity(ROLE_ARN, "me", "token.of.a.pod").unwrap_err();
        assert!(error.message.contains(words), "{error}");
    }
    let error = sts(&dead_url()).assume_role_with_web_identity(ROLE_ARN, "me", "token.of.a.pod").unwrap_err();
    assert_eq!(error.kind, "sts_connection_refused");
    assert!(error.message.contains("VPC endpoint of STS"), "{error}");
}

fn of_token(token: Secret, url: url::Url) -> Fetcher {
    let source = WebIdentitySource {
        token,
        role_arn: "arn:aws:iam::1:role/r".to_owned(),
        session_name: None,
        sts: StsEndpoint { region: "us-east-1".to_owned(), url: Some(url) },
    };
    web_identity(source, None)
}

#[test]
fn the_token_is_read_again_each_time_and_the_session_has_a_name() {
    let path = std::env::temp_dir().join(format!("pcs-web-identity-{}", std::process::id()));
    let refusals = [(); 2].map(|()| Reply::Answer(400, "", String::new()));
    let stub = Stub::start(refusals);
    let source = of_token(Secret::file(&path), stub.url.clone());
    for token in ["first", "second"] {
        std::fs::write(&path, format!("{token}\n")).unwrap();
        (source.fetch)().unwrap_err();
        let asked = stub.asked().body;
        assert!(asked.ends_with(&format!("&WebIdentityToken={token}")), "{asked}");
        assert!(asked.contains("RoleSessionName=persistent-cache-service-"), "{asked}");
    }
    std::fs::write(&path, "\n").unwrap();
    assert_eq!((source.fetch)().unwrap_err().kind, "credentials_unreadable");
    std::fs::remove_file(&path).unwrap();
    let error = (source.fetch)().unwrap_err();
    assert_eq!(error.kind, "credentials_unreadable");
    assert!(error.message.contains(&path.display().to_string()), "{error}");
    assert!(stub.was_left_alone());
}

#[test]
fn the_source_names_role_and_endpoint_but_not_the_token() {
    let source = of_token(Secret::inline("hunter2"), dead_url());
    assert!(
        source.source.starts_with(
            "temporary credentials of role arn:aws:iam::1:role/r by web identity, from STS at http://127.0.0.1:"
        ),
        "{}",
        source.source
    );
    assert!(!source.source.contains("hunter2"));
}
