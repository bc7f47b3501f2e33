//! Where AWS credentials come from.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use super::super::values::Validator;
use super::super::{
    ContainerSource, CredentialSource, ProfileSource, Secret, Settings, StaticKeys, credentials,
};
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
        ["AWS_SECRET_ACCESS_KEY: is required with AWS_ACCESS_KEY_ID; set it, or unset AWS_ACCESS_KEY_ID"]
    );
    for (variable, value) in
        [("AWS_SECRET_ACCESS_KEY", "secret".to_owned()), ("AWS_SECRET_ACCESS_KEY_FILE", secret.path())]
    {
        assert_eq!(
            faults(&[(variable, &value)]),
            [format!("AWS_ACCESS_KEY_ID: is required with {variable}; set it, or unset {variable}")]
        );
    }
}

#[test]
fn a_session_token_without_keys_is_a_notice() {
    let only_token = config(&[("AWS_SESSION_TOKEN", "token")]);
    assert!(matches!(only_token.credentials, CredentialSource::EdgeApi));
    let what = "has no effect without AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY; set them, or unset it";
    assert_eq!(only_token.notices, [format!("AWS_SESSION_TOKEN: {what}")]);
}

#[test]
fn keys_that_cannot_be_right_are_faults() {
    let copied =
        "the text holds white space, a control character or a letter beyond ASCII; copy it once more";
    assert_eq!(
        faults(&[
            ("AWS_ACCESS_KEY_ID", "AKIA 123"),
            ("AWS_SECRET_ACCESS_KEY", "sec ret"),
            ("AWS_SESSION_TOKEN", "to\tken")
        ]),
        [
            format!("AWS_SECRET_ACCESS_KEY: {copied}"),
            format!("AWS_ACCESS_KEY_ID: {copied}"),
            format!("AWS_SESSION_TOKEN: {copied}"),
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
            "CREDENTIAL_SOURCE: is 'container', but none of its settings is set; set AWS_CONTAINER_CREDENTIALS_FULL_URI or \
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

    let needs =
        |missing: &str, given: &str| format!("{missing}: is required with {given}; set it, or unset {given}");
    assert_eq!(faults(&[file]), [needs("AWS_ROLE_ARN", "AWS_WEB_IDENTITY_TOKEN_FILE")]);
    assert_eq!(faults(&[("AWS_ROLE_ARN", ROLE)]), [needs("AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_ROLE_ARN")]);
    assert_eq!(
        faults(&[
            ("AWS_WEB_IDENTITY_TOKEN_FILE", "/nonexistent/token"),
            ("AWS_ROLE_ARN", "reader"),
            ("AWS_ENDPOINT_URL_STS", "sts"),
        ]),
        [
            "AWS_WEB_IDENTITY_TOKEN_FILE: cannot read /nonexistent/token: no such file; check the path and its \
             permissions",
            "AWS_ROLE_ARN: 'reader' is not the ARN of a role; set arn:aws:iam::<account>:role/<name>",
            "AWS_ENDPOINT_URL_STS: is not an http or https URL; set one that starts with https://",
        ]
    );
}

#[test]
fn the_arn_of_a_role_is_told_from_what_is_not_one() {
    let token = TestFile::new("arn-token", b"token\n");
    let path = token.path();
    let with_arn = |arn| [("AWS_WEB_IDENTITY_TOKEN_FILE", path.as_str()), ("AWS_ROLE_ARN", arn)];
    for arn in [ROLE, "arn:aws-cn:iam::1:role/path/name"] {
        assert_eq!(kind(&with_arn(arn)), "web identity");
    }
    for arn in ["reader", "arn:aws:iam::1:user/x", "arn:aws:sts::1:role/x"] {
        let fault =
            format!("AWS_ROLE_ARN: '{arn}' is not the ARN of a role; set arn:aws:iam::<account>:role/<name>");
        assert_eq!(faults(&with_arn(arn)), [fault]);
    }
}

#[test]
fn a_fault_of_the_general_endpoint_is_reported_once() {
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
        ("credentials", "is not an http or https URL"),
        ("file:///x", "is not an http or https URL"),
        ("https://u:hunter2@credentials.example/x", "holds a user, password, query"),
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
fn a_containers_token_needs_a_uri() {
    let uri = ("AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://169.254.170.23/x");
    let token = TestFile::new("container-token", b"Bearer abc\n");
    let source = container(&[uri, ("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", &token.path())]);
    assert_eq!(source.authorization, Some(Secret::file(token.path())));
    let source = container(&[uri, ("AWS_CONTAINER_AUTHORIZATION_TOKEN", "Basic a b")]);
    assert_eq!(source.authorization, Some(Secret::inline("Basic a b")));

    let path = token.path();
    for (variable, value) in [
        ("AWS_CONTAINER_AUTHORIZATION_TOKEN", "Basic a b"),
        ("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", path.as_str()),
    ] {
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
    let below = ProfileSource {
        name: "work".to_owned(),
        files: [directory.join(".aws/config"), directory.join(".aws/credentials")],
    };
    assert_eq!(source, below);

    let asked_for = profile(&[home, ("CREDENTIAL_SOURCE", "profile")]);
    assert_eq!(asked_for.name, "default");

    let tilde = profile(&[home, ("AWS_PROFILE", "work"), ("AWS_CONFIG_FILE", "~/.aws/credentials")]);
    assert_eq!(tilde.files[0], directory.join(".aws/credentials"));
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
                "AWS_PROFILE: profile '{name}' is neither in {path} as [profile {name}] nor in ~/.aws/credentials as [{name}]; \
                 add it, or set AWS_CONFIG_FILE or AWS_SHARED_CREDENTIALS_FILE to the file that has it"
            )]
        );
    }
    for name in ["default", "role"] {
        assert_eq!(
            with_file(name),
            [format!(
                "AWS_PROFILE: profile '{name}' must have aws_access_key_id and aws_secret_access_key, and no role_arn: this \
                 service takes only static keys from a profile; write them into it, or run the service with a role of its \
                 own (AWS_WEB_IDENTITY_TOKEN_FILE and AWS_ROLE_ARN, the container's role or \
                 CREDENTIAL_SOURCE=instance-metadata)"
            )]
        );
    }
    let without_home = &faults(&[("AWS_PROFILE", "x")])[0];
    assert!(
        without_home.contains("neither in ~/.aws/config as [profile x] nor in ~/.aws/credentials as [x]"),
        "{without_home}"
    );
    let absent = &faults(&[("AWS_PROFILE", "x"), ("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")])[0];
    assert!(absent.contains("nor in /nonexistent as [x]"), "{absent}");
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
    let own = |settings: &Settings| credentials::own(&mut Validator::new(settings));
    assert!(matches!(own(&settings), Some(CredentialSource::Static(_))));
    assert_eq!(own(&with(&[])), None);
}

#[test]
fn a_shared_credentials_file_that_every_user_can_read_or_change_is_reported() {
    let file = TestFile::new("open-profiles", b"[work]\naws_access_key_id=A\naws_secret_access_key=s\n");
    let path = file.path();
    let set = [("AWS_PROFILE", "work"), ("AWS_SHARED_CREDENTIALS_FILE", path.as_str())];
    assert_eq!(notices(&set), [""; 0]);
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666)).unwrap();
    assert_eq!(
        notices(&set),
        [format!(
            "AWS_SHARED_CREDENTIALS_FILE: every user can read or change {path} (mode 0666); chmod 600 it"
        )]
    );
}
