use super::*;
use crate::entitlement::EpochMs;
use crate::http_client::stub::{Asked, Reply, Stub, dead_url};

const ROLE_ARN: &str = "arn:aws:iam::123456789012:role/reader";

fn role() -> Role {
    Role {
        arn: ROLE_ARN.to_owned(),
        session_name: None,
        external_id: None,
        duration_secs: None,
        region: None,
    }
}

fn keys() -> Credentials {
    Credentials {
        access_key_id: "AKIA1".to_owned(),
        secret_access_key: "hunter2-hunter2".to_owned(),
        session_token: Some("session-tok3n".to_owned()),
        expires_at: None,
    }
}

fn access(url: Option<Url>) -> StsAccess {
    let region = "us-east-1".to_owned();
    StsAccess {
        endpoint: StsEndpoint { region, url },
        proxy: None,
    }
}

fn sts(url: &Url) -> StsClient {
    StsClient::new(&access(Some(url.clone())), Some("eu-central-1")).unwrap()
}

fn answer(action: &str) -> Reply {
    Stub::ok(format!(
        "<{action}Response xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><{action}Result><Credentials>\
         <AccessKeyId>ASIA1</AccessKeyId><SecretAccessKey>s</SecretAccessKey><SessionToken>t</SessionToken>\
         <Expiration>2030-01-01T00:00:00Z</Expiration></Credentials></{action}Result></{action}Response>"
    ))
}

fn form(asked: &Asked) -> Vec<(String, String)> {
    url::form_urlencoded::parse(asked.body.as_bytes())
        .into_owned()
        .collect()
}

fn refusal(status: u16, code: &str, words: &str) -> Reply {
    let body = format!(
        "<ErrorResponse><Error><Code>{code}</Code><Message>{words}</Message></Error></ErrorResponse>"
    );
    Reply::Answer(status, "", body)
}

#[test]
fn a_token_is_exchanged_without_a_signature() {
    let stub = Stub::start([answer("AssumeRoleWithWebIdentity")]);
    let credentials = sts(&stub.url)
        .assume_role_with_web_identity(&role(), "pod 1", "token.of.a.pod")
        .unwrap();
    assert_eq!(credentials.access_key_id, "ASIA1");
    assert_eq!(credentials.expires_at, Some(EpochMs(1_893_456_000_000)));
    let asked = stub.asked();
    assert_eq!(asked.line, "POST /");
    assert_eq!(asked.header("content-type"), FORM);
    assert_eq!(asked.header("authorization"), "");
    let expected = [
        ("Action", "AssumeRoleWithWebIdentity"),
        ("Version", "2011-06-15"),
        ("RoleArn", ROLE_ARN),
        ("RoleSessionName", "pod 1"),
        ("WebIdentityToken", "token.of.a.pod"),
    ];
    assert_eq!(
        form(&asked),
        expected.map(|(name, value)| (name.to_owned(), value.to_owned()))
    );
}

#[test]
fn a_role_is_assumed_with_a_signature_for_sts_in_its_region() {
    let stub = Stub::start([answer("AssumeRole")]);
    let role = Role {
        external_id: Some("x/1".to_owned()),
        duration_secs: Some(900),
        ..role()
    };
    sts(&stub.url).assume_role(&role, "me", &keys()).unwrap();
    let asked = stub.asked();
    let authorization = asked.header("authorization");
    assert!(
        authorization.starts_with("AWS4-HMAC-SHA256 Credential=AKIA1/")
            && authorization.contains("/eu-central-1/sts/aws4_request"),
        "{authorization}"
    );
    assert_eq!(asked.header("x-amz-security-token"), "session-tok3n");
    let expected = [
        ("Action", "AssumeRole"),
        ("Version", "2011-06-15"),
        ("RoleArn", ROLE_ARN),
        ("RoleSessionName", "me"),
        ("DurationSeconds", "900"),
        ("ExternalId", "x/1"),
    ];
    assert_eq!(
        form(&asked),
        expected.map(|(name, value)| (name.to_owned(), value.to_owned()))
    );
}

#[test]
fn the_region_of_each_partition_has_its_own_address() {
    for (region, address) in [
        ("us-east-1", "https://sts.us-east-1.amazonaws.com"),
        ("us-gov-west-1", "https://sts.us-gov-west-1.amazonaws.com"),
        ("cn-north-1", "https://sts.cn-north-1.amazonaws.com.cn"),
        ("eusc-de-east-1", "https://sts.eusc-de-east-1.amazonaws.eu"),
    ] {
        let client = StsClient::new(&access(None), Some(region)).unwrap();
        assert_eq!(client.address(), address);
    }
    let own = StsClient::new(&access(None), None).unwrap();
    assert_eq!(own.address(), "https://sts.us-east-1.amazonaws.com");
    assert!(StsClient::new(&access(None), Some("attacker.example/")).is_none());
}

#[test]
fn each_refusal_of_a_token_has_its_remedy_and_never_the_token() {
    for (status, code, remedy) in [
        (400, "ExpiredTokenException", "must renew it"),
        (400, "InvalidIdentityToken", "the identity provider that"),
        (
            403,
            "AccessDenied",
            "sts:AssumeRoleWithWebIdentity to the token's subject",
        ),
        (400, "IDPCommunicationError", "it is tried again later"),
        (
            403,
            "RegionDisabledException",
            "STS of region eu-central-1 is not active",
        ),
        (400, "ValidationError", "check the role's ARN"),
        (400, "Throttling", "too many calls"),
        (503, "ServiceUnavailable", "a fault of its own"),
        (400, "SomethingNew", "the STS API reference"),
    ] {
        let stub = Stub::start([refusal(status, code, "Token token.of.a.pod is no good")]);
        let error = sts(&stub.url)
            .assume_role_with_web_identity(&role(), "me", "token.of.a.pod")
            .unwrap_err();
        assert_eq!(error.kind, format!("sts_{code}"));
        let start = format!(
            "cannot assume role {ROLE_ARN} at STS, {}: HTTP {status} {code} (Token [redacted] is no good); ",
            stub.url.as_str().trim_end_matches('/')
        );
        assert!(error.message.starts_with(&start), "{error}");
        assert!(error.message.contains(remedy), "{error}");
    }
}

#[test]
fn each_refusal_of_a_signature_names_the_key_and_never_its_secret() {
    for (status, code, remedy) in [
        (
            403,
            "AccessDenied",
            "allow key id AKIA1 sts:AssumeRole on this role",
        ),
        (403, "InvalidClientTokenId", "AWS does not know key id AKIA1"),
        (403, "ExpiredToken", "the session of key id AKIA1"),
        (
            403,
            "SignatureDoesNotMatch",
            "check the secret of key id AKIA1 and this machine's clock",
        ),
    ] {
        let stub = Stub::start([refusal(status, code, "hunter2-hunter2 and session-tok3n")]);
        let error = sts(&stub.url).assume_role(&role(), "me", &keys()).unwrap_err();
        assert!(error.message.contains(remedy), "{error}");
        assert!(error.message.contains("([redacted] and [redacted])"), "{error}");
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
        "HTTP 502 Http502; STS has a fault of its own",
        "HTTP 404 Http404; is this STS? check AWS_ENDPOINT_URL_STS",
        "the answer is not as documented: it is not XML; is this STS?",
        "the answer is longer than 65536 bytes; is this STS?",
    ] {
        let error = sts(&stub.url).assume_role(&role(), "me", &keys()).unwrap_err();
        assert!(error.message.contains(words), "{error}");
    }
    let error = sts(&dead_url()).assume_role(&role(), "me", &keys()).unwrap_err();
    assert_eq!(error.kind, "sts_connection_refused");
    assert!(error.message.contains("VPC endpoint of STS"), "{error}");
}
