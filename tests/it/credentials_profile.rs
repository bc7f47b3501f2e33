//! Profiles of the shared files: keys, roles, programs. Roles are assumed at moto's own STS wherever the signature
//! matters, and at a stub where the parameters do.

use std::time::Instant;

use crate::support::aws::{
    Directory, ROLE, StsStub, apply_one, assert_hidden, receive_errors, wait_for_source, without_keys,
};
use crate::support::child::Signal;
use crate::support::moto::AccessKey;
use crate::support::service::{Service, run_to_end};
use crate::support::stage::Stage;
use crate::support::state::iso;
use crate::support::wait::{PATIENCE, wait_until};

/// The settings of a key in a profile.
fn keys(key: &AccessKey) -> String {
    let token = key
        .session_token
        .as_ref()
        .map(|token| format!("aws_session_token = {token}\n"))
        .unwrap_or_default();
    format!(
        "aws_access_key_id = {}\naws_secret_access_key = {}\n{token}",
        key.id, key.secret
    )
}

#[test]
fn keys_are_used_and_read_again_when_they_are_rotated() {
    let stage = Stage::new();
    let files = Directory::new();
    let moto = stage.queue.moto;
    let first = moto.another_service_user();
    let path = files.write("credentials", &format!("[work] # by hand\n{}", keys(&first)));
    let service = Service::start(
        &without_keys(&stage)
            .set("AWS_PROFILE", "work")
            .set("AWS_SHARED_CREDENTIALS_FILE", path),
    );
    wait_for_source(&service, "credentials of profile 'work'");
    apply_one(&stage, &service, "customer-1");

    let second = moto.another_service_user();
    files.write("credentials", &format!("[work]\n{}", keys(&second)));
    moto.revoke_user(&first);
    // Refused, the file is read again at once.
    apply_one(&stage, &service, "customer-2");
    assert_hidden(&service, &[&first.secret, &second.secret]);
    service.stop();
}

#[test]
fn a_chain_of_roles_is_assumed_with_signatures_that_sts_checks() {
    let stage = Stage::new();
    let files = Directory::new();
    let moto = stage.queue.moto;
    let user = moto.user(&["sts:AssumeRole"]);
    let between = moto.role(&["sts:AssumeRole"]);
    let reader = moto.service_role();
    files.write(
        "config",
        &format!(
            "[profile reader]\nrole_arn = {reader}\nsource_profile = between\nregion = us-west-2\ns3 =\n  region = nested\n\
             [profile between]\nrole_arn = {between}\nsource_profile = person\n"
        ),
    );
    files.write("credentials", &format!("[person]\n{}", keys(&user)));
    let settings = without_keys(&stage)
        .set("AWS_PROFILE", "reader")
        .set("AWS_CONFIG_FILE", format!("{}/config", files.path()))
        .set(
            "AWS_SHARED_CREDENTIALS_FILE",
            format!("{}/credentials", files.path()),
        )
        .set("AWS_ENDPOINT_URL_STS", &moto.endpoint);
    let service = Service::start(&settings);
    wait_for_source(&service, "credentials of profile 'reader', with key id ASIA");
    apply_one(&stage, &service, "customer-1");
    assert_hidden(&service, &[&user.secret]);
    service.stop();

    // The same with a secret that is not the key's: STS refuses, and the log says which role and which key.
    let wrong = AccessKey {
        secret: "not-the-secret-of-this-key".to_owned(),
        ..user
    };
    files.write("credentials", &format!("[person]\n{}", keys(&wrong)));
    let service = Service::spawn(&settings);
    service.wait_for_complaint(&[
        "profile 'reader'",
        &between,
        "HTTP 403 SignatureDoesNotMatch",
        &format!("check the secret of key id {}", wrong.id),
    ]);
    assert_hidden(&service, &[&wrong.secret]);
    service.stop();
}

#[test]
fn a_role_that_may_not_be_assumed_is_told_with_who_may_not() {
    let stage = Stage::new();
    let files = Directory::new();
    let moto = stage.queue.moto;
    let user = moto.another_service_user();
    let role = moto.service_role();
    let path = files.write(
        "config",
        &format!(
            "[default]\nrole_arn = {role}\nsource_profile = default\n{}",
            keys(&user)
        ),
    );
    let service = Service::spawn(
        &without_keys(&stage)
            .set("CREDENTIAL_SOURCE", "profile")
            .set("AWS_CONFIG_FILE", path)
            .set("AWS_ENDPOINT_URL_STS", &moto.endpoint),
    );
    service.wait_for_complaint(&[
        "profile 'default'",
        "HTTP 403 AccessDenied",
        &format!("allow key id {} sts:AssumeRole on this role", user.id),
    ]);
    assert_hidden(&service, &[&user.secret]);
    service.stop();
}

#[test]
fn the_environments_keys_assume_a_role_where_the_profile_says_so() {
    let stage = Stage::new();
    let files = Directory::new();
    let moto = stage.queue.moto;
    let user = moto.user(&["sts:AssumeRole"]);
    let role = moto.service_role();
    let path = files.write(
        "config",
        &format!("[profile reader]\nrole_arn = {role}\ncredential_source = Environment\n"),
    );
    let service = Service::start(
        &without_keys(&stage)
            .access_key(&user)
            .set("CREDENTIAL_SOURCE", "profile")
            .set("AWS_PROFILE", "reader")
            .set("AWS_CONFIG_FILE", path)
            .set("AWS_ENDPOINT_URL_STS", &moto.endpoint),
    );
    apply_one(&stage, &service, "customer-1");
    assert_hidden(&service, &[&user.secret]);
    service.stop();
}

#[test]
fn what_a_profile_says_of_a_role_reaches_sts() {
    let stage = Stage::new();
    let files = Directory::new();
    let sts = StsStub::start();
    sts.want_external_id("tenant-4711");
    sts.give(&stage.queue.moto.temporary_credentials(), 3600);
    let path = files.write(
        "config",
        &format!(
            "[profile reader]\nrole_arn = {ROLE}\nsource_profile = person\nexternal_id = tenant-4711\n\
             role_session_name = night-shift\nduration_seconds = 1800\nregion = eu-west-1\n\
             [profile person]\naws_access_key_id = AKIAPERSON\naws_secret_access_key = secret-of-the-person\n"
        ),
    );
    let service = Service::start(
        &without_keys(&stage)
            .set("AWS_PROFILE", "reader")
            .set("AWS_CONFIG_FILE", path)
            .set("AWS_ENDPOINT_URL_STS", &sts.url),
    );
    apply_one(&stage, &service, "customer-1");
    let calls = sts.calls();
    let form = &calls[0].form;
    for (name, value) in [
        ("Action", "AssumeRole"),
        ("RoleArn", ROLE),
        ("RoleSessionName", "night-shift"),
        ("DurationSeconds", "1800"),
        ("ExternalId", "tenant-4711"),
    ] {
        assert_eq!(form[name], value, "{calls:?}");
    }
    let authorization = calls[0].authorization.as_deref().unwrap_or_default();
    assert!(
        authorization.contains("Credential=AKIAPERSON/") && authorization.contains("/eu-west-1/sts/"),
        "{authorization}"
    );
    assert_hidden(&service, &["secret-of-the-person"]);
    service.stop();
}

#[test]
fn a_token_of_a_profile_is_exchanged_like_any_other() {
    let stage = Stage::new();
    let files = Directory::new();
    let sts = StsStub::start();
    sts.take_token("identity-token-of-the-profile");
    sts.give(&stage.queue.moto.temporary_credentials(), 3600);
    let token = files.write("token", "identity-token-of-the-profile");
    let path = files.write(
        "config",
        &format!("[profile reader]\nrole_arn = {ROLE}\nweb_identity_token_file = {token}\n"),
    );
    let service = Service::start(
        &without_keys(&stage)
            .set("AWS_PROFILE", "reader")
            .set("AWS_CONFIG_FILE", path)
            // The general endpoint is STS's too; the queue has its own.
            .set("AWS_ENDPOINT_URL", &sts.url)
            .set("AWS_ENDPOINT_URL_SQS", &stage.queue.moto.endpoint),
    );
    apply_one(&stage, &service, "customer-1");
    assert_eq!(sts.answered(200), 1);
    assert_hidden(&service, &["identity-token-of-the-profile"]);
    service.stop();
}

/// A program that prints the file `credentials.json`, and tells each run and what it found in its environment.
fn program(files: &Directory) -> String {
    let path = files.path();
    let text = format!(
        "#!/bin/sh\necho \"$1|${{SERVER_API_KEY:-none}}\" >>{path}/runs\necho secret-on-standard-error >&2\n\
         cat {path}/credentials.json\n"
    );
    files.write("program", &text);
    files.write(
        "config",
        &format!("[profile made]\ncredential_process = sh {path}/program \"two words\"\n"),
    )
}

fn printed(key: &AccessKey, seconds: i64) -> String {
    serde_json::json!({
        "Version": 1,
        "AccessKeyId": key.id,
        "SecretAccessKey": key.secret,
        "SessionToken": key.session_token,
        "Expiration": iso(persistent_cache_service::clock::now().0 + seconds * 1000),
    })
    .to_string()
}

#[test]
fn a_program_is_run_again_before_what_it_printed_expires() {
    let stage = Stage::new();
    let files = Directory::new();
    let moto = stage.queue.moto;
    let (first, second) = (moto.temporary_credentials(), moto.temporary_credentials());
    let config = program(&files);
    files.write("credentials.json", &printed(&first, 15));
    // It has no PATH of its own: the system's default one has sh and cat.
    let service = Service::start(
        &without_keys(&stage)
            .set("AWS_PROFILE", "made")
            .set("AWS_CONFIG_FILE", config),
    );
    apply_one(&stage, &service, "customer-1");
    files.write("credentials.json", &printed(&second, 3600));
    wait_for_source(
        &service,
        &format!("credentials of profile 'made', with key id {}", second.id),
    );
    moto.revoke(&first);
    apply_one(&stage, &service, "customer-2");
    assert!(receive_errors(&service).abs() < f64::EPSILON, "there was no gap");
    let runs = std::fs::read_to_string(format!("{}/runs", files.path())).unwrap();
    assert!(
        runs.lines().count() >= 2 && runs.lines().all(|run| run == "two words|none"),
        "{runs}"
    );
    let tokens = [&first, &second].map(|key| key.session_token.clone().unwrap());
    assert_hidden(
        &service,
        &[
            &first.secret,
            &second.secret,
            &tokens[0],
            &tokens[1],
            "secret-on-standard-error",
        ],
    );
    service.stop();
}

#[test]
fn a_program_that_hangs_does_not_hold_up_the_stop_and_does_not_outlive_it() {
    let stage = Stage::new();
    let files = Directory::new();
    let config = program(&files);
    let path = files.path();
    files.write(
        "program",
        &format!("echo $$ >{path}/process\necho hanging >>{path}/runs\nexec sleep 600\n"),
    );
    let service = Service::spawn(
        &without_keys(&stage)
            .set("AWS_PROFILE", "made")
            .set("AWS_CONFIG_FILE", config)
            .set("SHUTDOWN_TIMEOUT_SECS", "4"),
    );
    let process = service.wait_for("the program to run", || {
        std::fs::read_to_string(format!("{path}/runs")).ok()?;
        std::fs::read_to_string(format!("{path}/process")).ok()
    });
    let began = Instant::now();
    service.signal(Signal::Terminate);
    let status = service.wait_for_exit(PATIENCE);
    let lasted = began.elapsed();
    assert!(status.success(), "{status}");
    assert!(lasted.as_secs_f64() < 5.0, "{lasted:?}");
    // It was killed; on a busy machine it takes a moment to be gone.
    wait_until(PATIENCE, "the end of the program", || {
        let alive = std::fs::read_to_string(format!("/proc/{}/cmdline", process.trim()));
        !alive.is_ok_and(|command| command.contains("sleep"))
    });
}

#[test]
fn what_needs_a_person_is_refused_at_the_start_with_what_to_do() {
    let stage = Stage::new();
    let files = Directory::new();
    let path = files.write(
        "config",
        "[profile work]\nsso_session = company\nsso_account_id = 123456789012\nsso_role_name = reader\n\
         [sso-session company]\nsso_start_url = https://company.example/start\nsso_region = us-east-1\n",
    );
    let settings = without_keys(&stage)
        .set("AWS_PROFILE", "work")
        .set("AWS_CONFIG_FILE", path);
    let (status, output) = run_to_end(&settings, &[]);
    assert_eq!(status.code(), Some(78), "{output}");
    assert!(
        output.contains("AWS_PROFILE: profile 'work' has sso_session"),
        "{output}"
    );
    assert!(
        output.contains("aws configure export-credentials --profile work"),
        "{output}"
    );
}
