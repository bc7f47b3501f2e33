//! Where AWS credentials come from.

use std::path::PathBuf;

use super::super::profiles::ProfileFiles;
use super::super::values::Findings;
use super::super::{ContainerSource, CredentialSource, ProfileSource, Secret, StaticKeys, credentials};
use super::{TestFile, config, faults, notices, with};

const ROLE: &str = "arn:aws:iam::123456789012:role/reader";
const KEYS: [(&str, &str); 2] = [("AWS_ACCESS_KEY_ID", "AKIA123"), ("AWS_SECRET_ACCESS_KEY", "secret")];

/// The kind of the source that these settings come to.
fn kind(set: &[(&str, &str)]) -> &'static str {
    match config(set).credentials {
        CredentialSource::Static(_) => "static",
        CredentialSource::WebIdentity(_) => "web identity",
        CredentialSource::Container(_) => "container",
        CredentialSource::Profile(_) => "profile",
        CredentialSource::InstanceMetadata(_) => "instance",
        CredentialSource::EdgeApi => "edge",
    }
}

fn container(set: &[(&str, &str)]) -> ContainerSource {
    let CredentialSource::Container(source) = config(set).credentials else {
        panic!("no container for {set:?}")
    };
    source
}

fn profile(set: &[(&str, &str)]) -> ProfileSource {
    let CredentialSource::Profile(source) = config(set).credentials else { panic!("no profile for {set:?}") };
    source
}

#[test]
fn static_keys_are_used_where_both_are_given_else_the_edge_api_is_asked() {
    assert_eq!(config(&[]).credentials, CredentialSource::EdgeApi);
    assert_eq!(
        config(&[
            ("AWS_ACCESS_KEY_ID", "AKIA123"),
            ("AWS_SECRET_ACCESS_KEY", "secret"),
            ("AWS_SESSION_TOKEN", "token")
        ])
        .credentials,
        CredentialSource::Static(StaticKeys {
            access_key_id: "AKIA123".to_owned(),
            secret_access_key: Secret::inline("secret"),
            session_token: Some(Secret::inline("token")),
        })
    );
}

#[test]
fn one_key_without_the_other_is_a_fault_that_names_the_missing_one() {
    let secret = TestFile::new("half-keys", b"secret\n");
    assert_eq!(
        faults(&[("AWS_ACCESS_KEY_ID", "AKIA123")]),
        [
            "AWS_SECRET_ACCESS_KEY: is required with AWS_ACCESS_KEY_ID; set it (or AWS_SECRET_ACCESS_KEY_FILE), or \
             unset AWS_ACCESS_KEY_ID to use another source of credentials"
        ]
    );
    for (variable, value) in
        [("AWS_SECRET_ACCESS_KEY", "secret".to_owned()), ("AWS_SECRET_ACCESS_KEY_FILE", secret.path())]
    {
        assert_eq!(
            faults(&[(variable, &value)]),
            [format!(
                "AWS_ACCESS_KEY_ID: is required with {variable}; set it, or unset {variable} to use another \
                 source of credentials"
            )]
        );
    }
}

#[test]
fn keys_that_cannot_be_right_are_faults_and_those_that_may_not_be_are_notices() {
    let copied = "holds white space, a control character or a letter beyond ASCII; copy it once more";
    assert_eq!(
        faults(&[
            ("AWS_ACCESS_KEY_ID", "AKIA 123"),
            ("AWS_SECRET_ACCESS_KEY", "sec ret"),
            ("AWS_SESSION_TOKEN", "to\tken")
        ]),
        [
            format!("AWS_SECRET_ACCESS_KEY: the secret {copied}"),
            format!("AWS_ACCESS_KEY_ID: {copied}"),
            format!("AWS_SESSION_TOKEN: the secret {copied}"),
        ]
    );
    assert_eq!(
        notices(&[("AWS_ACCESS_KEY_ID", "ASIA123"), ("AWS_SECRET_ACCESS_KEY", "secret")]),
        [
            "AWS_SESSION_TOKEN: is not set, though AWS_ACCESS_KEY_ID is a temporary one, which needs it; SQS may \
             refuse it"
        ]
    );
    assert_eq!(
        notices(&[("AWS_SESSION_TOKEN", "token")]),
        [
            "AWS_SESSION_TOKEN: has no effect without AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY; the source of \
             credentials is edge"
        ]
    );
}

#[test]
fn the_first_source_that_is_set_applies_and_what_stands_behind_it_is_not_looked_at() {
    let token = TestFile::new("order-token", b"token\n");
    let profiles = TestFile::new("order-profiles", b"[work]\naws_access_key_id=A\naws_secret_access_key=s\n");
    let (token, profiles) = (token.path(), profiles.path());
    let mut set = vec![
        ("AWS_ROLE_ARN", ROLE),
        ("AWS_WEB_IDENTITY_TOKEN_FILE", token.as_str()),
        ("AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://169.254.170.23/v1/credentials"),
        ("AWS_PROFILE", "work"),
        ("AWS_SHARED_CREDENTIALS_FILE", profiles.as_str()),
    ];
    assert_eq!(kind(&[&KEYS[..], &set].concat()), "static");
    assert_eq!(kind(&set), "web identity");
    set.drain(..2);
    assert_eq!(kind(&set), "container");
    set.drain(..1);
    assert_eq!(kind(&set), "profile");
    set.drain(..1);
    assert_eq!(kind(&set), "edge");

    let moot = [("AWS_ROLE_ARN", "nonsense"), ("AWS_PROFILE", "nowhere")];
    assert_eq!(kind(&[&KEYS[..], &moot].concat()), "static");
}

#[test]
fn one_source_can_be_asked_for_by_name() {
    let token = TestFile::new("named-token", b"token");
    let token = token.path();
    let set = [
        ("AWS_ACCESS_KEY_ID", "AKIA123"),
        ("AWS_SECRET_ACCESS_KEY", "secret"),
        ("AWS_ROLE_ARN", ROLE),
        ("AWS_WEB_IDENTITY_TOKEN_FILE", token.as_str()),
    ];
    for (choice, expected) in [
        ("auto", "static"),
        ("static", "static"),
        ("web-identity", "web identity"),
        ("Instance-Metadata", "instance"),
        ("edge", "edge"),
    ] {
        assert_eq!(kind(&[&set[..], &[("CREDENTIAL_SOURCE", choice)]].concat()), expected);
    }
    assert_eq!(
        faults(&[("CREDENTIAL_SOURCE", "container")]),
        [
            "CREDENTIAL_SOURCE: is 'container', but nothing of it is set; set AWS_CONTAINER_CREDENTIALS_FULL_URI or \
             AWS_CONTAINER_CREDENTIALS_RELATIVE_URI, or another CREDENTIAL_SOURCE"
        ]
    );
    assert_eq!(
        faults(&[("CREDENTIAL_SOURCE", "vault")]),
        [
            "CREDENTIAL_SOURCE: 'vault' is not known; set one of auto, static, web-identity, container, profile, \
             instance-metadata, edge"
        ]
    );
}

#[test]
fn a_web_identity_needs_its_role_and_a_role_its_token() {
    let token = TestFile::new("web-token", b"token\n");
    let path = token.path();
    let file = ("AWS_WEB_IDENTITY_TOKEN_FILE", path.as_str());
    let CredentialSource::WebIdentity(source) = config(&[
        file,
        ("AWS_ROLE_ARN", ROLE),
        ("AWS_ROLE_SESSION_NAME", "pod-1"),
        ("AWS_ENDPOINT_URL", "http://127.0.0.1:1/"),
        ("AWS_ENDPOINT_URL_STS", "http://127.0.0.1:2/"),
    ])
    .credentials
    else {
        panic!("no web identity")
    };
    assert_eq!((source.role_arn.as_str(), source.session_name.as_deref()), (ROLE, Some("pod-1")));
    assert_eq!(source.token.read().unwrap(), "token");
    assert_eq!(source.sts.region, "us-east-1");
    assert_eq!(source.sts.url.unwrap().as_str(), "http://127.0.0.1:2/");

    assert_eq!(
        faults(&[file]),
        [
            "AWS_ROLE_ARN: is required with AWS_WEB_IDENTITY_TOKEN_FILE; set the role's ARN, or CREDENTIAL_SOURCE=edge \
             to use the Edge API's credentials"
        ]
    );
    assert_eq!(
        faults(&[("AWS_ROLE_ARN", ROLE)]),
        [
            "AWS_WEB_IDENTITY_TOKEN_FILE: is required with AWS_ROLE_ARN; set it, or unset AWS_ROLE_ARN (no role is \
             assumed with keys)"
        ]
    );
    assert_eq!(
        faults(&[
            ("AWS_WEB_IDENTITY_TOKEN_FILE", "/nonexistent/token"),
            ("AWS_ROLE_ARN", "reader"),
            ("AWS_ROLE_SESSION_NAME", "a b"),
            ("AWS_ENDPOINT_URL_STS", "sts"),
        ]),
        [
            "AWS_WEB_IDENTITY_TOKEN_FILE: cannot read /nonexistent/token: no such file; check the path and its \
             permissions",
            "AWS_ROLE_ARN: 'reader' is not the ARN of a role; set arn:aws:iam::<account>:role/<name>",
            "AWS_ROLE_SESSION_NAME: 'a b' is not a name that STS takes; set 2 to 64 letters, digits or any of _=,.@+-",
            "AWS_ENDPOINT_URL_STS: is not a URL (relative URL without a base); set one that starts with https://",
        ]
    );
}

#[test]
fn a_fault_of_the_general_endpoint_is_told_once() {
    let token = TestFile::new("general-token", b"token\n");
    let path = token.path();
    assert_eq!(
        faults(&[
            ("AWS_WEB_IDENTITY_TOKEN_FILE", &path),
            ("AWS_ROLE_ARN", ROLE),
            ("AWS_ENDPOINT_URL", "localhost:4566"),
        ]),
        ["AWS_ENDPOINT_URL: is not an http or https URL; set one that starts with https://"]
    );
}

#[test]
fn a_containers_uri_is_https_or_an_address_that_nobody_outside_answers_on() {
    for uri in [
        "https://credentials.example/x?y=z",
        "http://127.0.0.1:8080/x",
        "http://127.9.9.9/x",
        "http://localhost:1338/x",
        "http://[::1]/x",
        "http://169.254.170.2/x",
        "http://169.254.170.23/v1/credentials",
        "http://[fd00:ec2::23]/v1/credentials",
    ] {
        let source = container(&[("AWS_CONTAINER_CREDENTIALS_FULL_URI", uri)]);
        assert_eq!((source.uri.as_str(), source.authorization), (uri, None));
    }
    for uri in [
        "http://credentials.example/x",
        "http://10.0.0.1/x",
        "http://169.254.169.254/x",
        "http://169.254.170.24/x",
        "http://[fd00:ec2::24]/x",
        "http://localhost.example/x",
    ] {
        let faults = faults(&[("AWS_CONTAINER_CREDENTIALS_FULL_URI", uri)]);
        assert_eq!(faults.len(), 1, "{uri}: {faults:?}");
        assert!(
            faults[0]
                .starts_with("AWS_CONTAINER_CREDENTIALS_FULL_URI: would send credentials unencrypted to '"),
            "{faults:?}"
        );
    }
    for (uri, words) in [
        ("credentials", "is not a URL"),
        ("file:///x", "is not an http or https URL"),
        ("https://u:hunter2@credentials.example/x", "holds a user or password"),
    ] {
        let faults = faults(&[("AWS_CONTAINER_CREDENTIALS_FULL_URI", uri)]);
        assert!(faults[0].contains(words) && !faults[0].contains("hunter2"), "{faults:?}");
    }
}

#[test]
fn a_relative_uri_is_on_ecss_own_address_and_goes_before_the_full_one() {
    let source = container(&[
        ("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "/v2/credentials/4711?a=b"),
        ("AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://127.0.0.1/x"),
    ]);
    assert_eq!(source.uri.as_str(), "http://169.254.170.2/v2/credentials/4711?a=b");
    let elsewhere = container(&[("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "//attacker.example/x")]);
    assert_eq!(elsewhere.uri.host_str(), Some("169.254.170.2"));
    assert_eq!(
        faults(&[("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "@attacker.example/x")]),
        ["AWS_CONTAINER_CREDENTIALS_RELATIVE_URI: is not a path; set one that begins with /"]
    );
}

#[test]
fn a_containers_token_fits_a_header_and_needs_a_uri() {
    let uri = ("AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://169.254.170.23/x");
    let token = TestFile::new("container-token", b"Bearer abc\n");
    let source = container(&[uri, ("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", &token.path())]);
    assert_eq!(source.authorization, Some(Secret::file(token.path())));
    let source = container(&[uri, ("AWS_CONTAINER_AUTHORIZATION_TOKEN", "Basic a b")]);
    assert_eq!(source.authorization, Some(Secret::inline("Basic a b")));

    let broken = TestFile::new("container-token-2", b"hunter2\r\nX-Evil: 1\n");
    let path = broken.path();
    for (variable, value) in [
        ("AWS_CONTAINER_AUTHORIZATION_TOKEN", "hunter2\nX-Evil: 1"),
        ("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", path.as_str()),
    ] {
        assert_eq!(
            faults(&[uri, (variable, value)]),
            [format!(
                "{variable}: holds a line break or another character that no HTTP header may hold; copy it once more"
            )]
        );
        assert_eq!(
            faults(&[(variable, value)]),
            [format!(
                "AWS_CONTAINER_CREDENTIALS_FULL_URI: is required with {variable}; set it, or unset {variable}"
            )]
        );
    }
}

#[test]
fn the_shared_files_are_below_the_home_unless_they_are_named() {
    let home = TestFile::new("home", b"");
    let directory = PathBuf::from(home.path()).parent().unwrap().to_owned();
    std::fs::create_dir_all(directory.join(".aws")).unwrap();
    std::fs::write(
        directory.join(".aws/credentials"),
        "[work]\naws_access_key_id = A\naws_secret_access_key = s\n[default]\naws_access_key_id = D\n\
         aws_secret_access_key = s\n",
    )
    .unwrap();
    let home = ("HOME", directory.to_str().unwrap());
    let source = profile(&[home, ("AWS_PROFILE", "work")]);
    let below = ProfileFiles {
        config: Some(directory.join(".aws/config")),
        credentials: Some(directory.join(".aws/credentials")),
    };
    assert_eq!((source.name.as_str(), source.files), ("work", below));

    let asked_for = profile(&[home, ("CREDENTIAL_SOURCE", "profile")]);
    assert_eq!(asked_for.name, "default");

    let tilde = profile(&[home, ("AWS_PROFILE", "work"), ("AWS_CONFIG_FILE", "~/.aws/credentials")]);
    assert_eq!(tilde.files.config, Some(directory.join(".aws/credentials")));
}

#[test]
fn a_profile_that_cannot_be_used_is_a_fault_with_its_remedy() {
    let file = TestFile::new(
        "profiles",
        b"[default]\n[profile role]\nrole_arn=arn:aws:iam::1:role/r\nsource_profile=default\n[bare]\n",
    );
    let path = file.path();
    let with_file = |name: &str| faults(&[("AWS_CONFIG_FILE", &path), ("AWS_PROFILE", name)]);
    for name in ["nobody", "bare"] {
        assert_eq!(
            with_file(name),
            [format!(
                "AWS_PROFILE: profile '{name}' is not in {path}, which have default, role; its section is [profile {name}] \
                 in the config file and [{name}] in the credentials file"
            )]
        );
    }
    assert_eq!(
        with_file("default"),
        ["AWS_PROFILE: profile 'default' holds no keys; add aws_access_key_id and aws_secret_access_key"]
    );
    assert_eq!(
        with_file("role"),
        [
            "AWS_PROFILE: profile 'role' has role_arn, and this service takes only static keys from a profile; run the \
             service with a role of its own (web identity, the container's role or CREDENTIAL_SOURCE=instance-metadata), or \
             write keys into the profile"
        ]
    );
    assert_eq!(
        faults(&[("AWS_PROFILE", "x")]),
        ["AWS_CONFIG_FILE: is required with AWS_PROFILE where HOME is not set; set it, or \
             AWS_SHARED_CREDENTIALS_FILE"]
    );
    assert_eq!(
        faults(&[("AWS_PROFILE", "x"), ("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")]),
        ["AWS_SHARED_CREDENTIALS_FILE: there is no such file; correct the path, or unset it"]
    );
}

#[test]
fn the_instances_metadata_is_where_aws_has_it_unless_told() {
    let endpoint = |set: &[(&str, &str)]| {
        let CredentialSource::InstanceMetadata(source) = config(set).credentials else {
            panic!("no instance metadata for {set:?}")
        };
        source.endpoint.to_string()
    };
    let asked_for = ("CREDENTIAL_SOURCE", "instance-metadata");
    assert_eq!(endpoint(&[asked_for]), "http://169.254.169.254/");
    assert_eq!(
        endpoint(&[asked_for, ("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://[fd00:ec2::254]")]),
        "http://[fd00:ec2::254]/"
    );
}

#[test]
fn aws_credentials_of_ones_own_are_found_beside_the_edge_apis() {
    let settings = with(&[&KEYS[..], &[("CREDENTIAL_SOURCE", "edge")]].concat());
    assert_eq!(settings.validate().unwrap().credentials, CredentialSource::EdgeApi);
    let own = credentials::aws_source(&settings, &mut Findings::default(), Some("us-east-1"));
    assert!(matches!(own, Ok(Some(CredentialSource::Static(_)))), "{own:?}");
    let none = credentials::aws_source(&with(&[]), &mut Findings::default(), Some("us-east-1"));
    assert_eq!(none, Ok(None));
}
