//! Static keys in a profile of the shared files, and what else a profile may hold, which is refused.

use crate::support::aws::{Directory, ROLE, apply_one, assert_hidden, wait_for_source, without_keys};
use crate::support::moto::AccessKey;
use crate::support::service::{Service, run_to_end};
use crate::support::stage::Stage;

/// The settings of a key in a profile.
fn keys(key: &AccessKey) -> String {
    let token =
        key.session_token.as_ref().map(|token| format!("aws_session_token = {token}\n")).unwrap_or_default();
    format!("aws_access_key_id = {}\naws_secret_access_key = {}\n{token}", key.id, key.secret)
}

#[test]
fn temporary_keys_of_the_default_profile_are_used_with_their_session_token() {
    let stage = Stage::new();
    let files = Directory::new();
    let key = stage.queue.moto.temporary_credentials();
    let config = files
        .write("config", &format!("[default]\nregion = nowhere\ns3 =\n  region = nested\n{}", keys(&key)));
    let credentials = files.write("credentials", "[another]\n");
    let service = Service::start(
        &without_keys(&stage)
            .set("CREDENTIAL_SOURCE", "profile")
            .set("AWS_CONFIG_FILE", config)
            .set("AWS_SHARED_CREDENTIALS_FILE", credentials),
    );
    wait_for_source(&service, &format!("credentials of profile 'default' with key id {}", key.id));
    apply_one(&stage, &service, "customer-1");
    let token = key.session_token.as_deref().expect("temporary ones");
    assert_hidden(&service, &[&key.secret, token]);
    service.stop();
}

#[test]
fn a_broken_edit_leaves_the_keys_in_use_and_the_mended_file_is_read_again() {
    let stage = Stage::new();
    let files = Directory::new();
    let moto = stage.queue.moto;
    let first = moto.another_service_user();
    let path = files.write("credentials", &format!("[work]\n{}", keys(&first)));
    let service = Service::start(
        &without_keys(&stage).set("AWS_PROFILE", "work").set("AWS_SHARED_CREDENTIALS_FILE", path),
    );
    apply_one(&stage, &service, "customer-1");

    // Refused, the file is read at once, and it has no secret.
    files.write("credentials", "[work]\naws_access_key_id = AKIAHALF\n");
    moto.revoke_user(&first);
    service.wait_for_complaint(&[
        "cannot renew the credentials of the queue: those at hand are used",
        "profile 'work' must have aws_access_key_id and aws_secret_access_key, and no role_arn",
    ]);
    let second = moto.another_service_user();
    files.write("credentials", &format!("[work]\n{}", keys(&second)));
    apply_one(&stage, &service, "customer-2");
    assert_hidden(&service, &[&first.secret, &second.secret]);
    service.stop();
}

#[test]
fn what_gives_no_static_keys_is_refused_at_the_start_with_what_to_do() {
    let stage = Stage::new();
    let files = Directory::new();
    let marker = format!("{}/it-ran", files.path());
    let keys = "aws_access_key_id = AKIAPERSON\naws_secret_access_key = secret-of-the-person\n";
    for settings in [
        format!("role_arn = {ROLE}\nsource_profile = person\n[profile person]\n{keys}"),
        format!("role_arn = {ROLE}\nsource_profile = work\n{keys}"),
        format!("role_arn = {ROLE}\ncredential_source = Ec2InstanceMetadata\n"),
        format!("role_arn = {ROLE}\nweb_identity_token_file = /var/run/token\n"),
        format!("credential_process = /bin/sh -c \"touch {marker}; echo secret-of-the-person\"\n"),
        "sso_session = company\nsso_account_id = 123456789012\n[sso-session company]\n\
         sso_start_url = https://company.example/start\n"
            .to_owned(),
    ] {
        let config = files.write("config", &format!("[profile work]\n{settings}"));
        let settings = without_keys(&stage).set("AWS_PROFILE", "work").set("AWS_CONFIG_FILE", config);
        let (status, output) = run_to_end(&settings, &[]);
        assert_eq!(status.code(), Some(78), "{output}");
        for part in [
            "AWS_PROFILE: profile 'work' must have aws_access_key_id and aws_secret_access_key, and no role_arn: ",
            "this service takes only static keys from a profile; ",
            "run the service with a role of its own",
            "AWS_WEB_IDENTITY_TOKEN_FILE and AWS_ROLE_ARN",
            "CREDENTIAL_SOURCE=instance-metadata",
        ] {
            assert!(output.contains(part), "{part}: {output}");
        }
        assert!(!output.contains("secret-of-the-person"), "{output}");
    }
    assert!(!std::path::Path::new(&marker).exists(), "no program is started");
}
