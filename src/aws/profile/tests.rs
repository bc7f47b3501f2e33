use std::path::PathBuf;

use super::*;
use crate::aws::{Renewal, RenewingCredentials};
use crate::config::{StaticKeys, StsEndpoint};
use crate::entitlement::EpochMs;
use crate::http_client::stub::{Stub, dead_url};

/// A source that gives this key id.
struct Gives(&'static str);

impl Fetch for Gives {
    fn fetch(&self) -> Result<Credentials, CredentialsError> {
        Ok(Credentials {
            access_key_id: self.0.to_owned(),
            secret_access_key: "s".to_owned(),
            session_token: None,
            expires_at: Some(EpochMs(5)),
        })
    }

    fn source(&self) -> String {
        self.0.to_owned()
    }
}

/// A config file of one test, gone at its end.
struct File(PathBuf);

impl File {
    fn new(name: &str, text: &str) -> Self {
        let path = std::env::temp_dir().join(format!("pcs-profile-{}-{name}", std::process::id()));
        std::fs::write(&path, text).unwrap();
        Self(path)
    }

    fn profile(&self, name: &str, sts: url::Url) -> ProfileCredentials {
        let files = ProfileFiles {
            config: Some(self.0.clone()),
            credentials: None,
        };
        let named = NamedSources {
            environment: None,
            container: Some(Box::new(Gives("ASIACONTAINER"))),
            instance_metadata: Box::new(Gives("ASIAINSTANCE")),
        };
        let sts = StsAccess {
            endpoint: StsEndpoint {
                region: "us-east-1".to_owned(),
                url: Some(sts),
            },
            proxy: None,
        };
        ProfileCredentials::new(name.to_owned(), files, sts, named, Stop::never())
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn assumed(key_id: &str) -> crate::http_client::stub::Reply {
    Stub::ok(format!(
        "<AssumeRoleResponse><AssumeRoleResult><Credentials><AccessKeyId>{key_id}</AccessKeyId>\
         <SecretAccessKey>s</SecretAccessKey><SessionToken>t</SessionToken>\
         <Expiration>2030-01-01T00:00:00Z</Expiration></Credentials></AssumeRoleResult></AssumeRoleResponse>"
    ))
}

#[test]
fn each_role_is_assumed_with_what_the_one_before_it_gave_in_its_own_region() {
    let stub = Stub::start([assumed("ASIA1"), assumed("ASIA2")]);
    let file = File::new(
        "chain",
        "[profile a]\nrole_arn = arn:aws:iam::1:role/a\nsource_profile = b\nrole_session_name = me\n\
         [profile b]\nrole_arn = arn:aws:iam::1:role/b\ncredential_source = EcsContainer\nregion = eu-west-1\n",
    );
    let credentials = file.profile("a", stub.url.clone()).fetch().unwrap();
    assert_eq!(credentials.access_key_id, "ASIA2");
    let (first, second) = (stub.asked(), stub.asked());
    assert!(
        first
            .header("authorization")
            .contains("Credential=ASIACONTAINER/")
    );
    assert!(first.header("authorization").contains("/eu-west-1/sts/"));
    assert!(
        first
            .body
            .contains("role%2Fb&RoleSessionName=persistent-cache-service-")
    );
    assert!(second.header("authorization").contains("Credential=ASIA1/"));
    assert!(second.header("authorization").contains("/us-east-1/sts/"));
    assert!(second.body.contains("role%2Fa&RoleSessionName=me"));
}

#[test]
fn the_named_sources_and_programs_give_the_first_credentials() {
    let stub = Stub::start([assumed("ASIA1")]);
    let file = File::new(
        "bases",
        "[profile instance]\nrole_arn = arn:aws:iam::1:role/r\ncredential_source = Ec2InstanceMetadata\n\
         [profile environment]\nrole_arn = arn:aws:iam::1:role/r\ncredential_source = Environment\n\
         [profile program]\ncredential_process = printf \"{\\\"Version\\\": 1, \\\"AccessKeyId\\\": \\\"AKIA9\\\", \
         \\\"SecretAccessKey\\\": \\\"s\\\"}\"\n[profile broken]\ncredential_process = false\n",
    );
    file.profile("instance", stub.url.clone()).fetch().unwrap();
    assert!(
        stub.asked()
            .header("authorization")
            .contains("Credential=ASIAINSTANCE/")
    );
    let program = file.profile("program", dead_url());
    assert_eq!(program.fetch().unwrap().access_key_id, "AKIA9");
    assert_eq!(program.source(), "credentials of profile 'program'");
    for (name, words) in [
        ("environment", "set AWS_ACCESS_KEY_ID"),
        (
            "broken",
            "its credential_process: false ended with exit status: 1",
        ),
        ("absent", "profile 'absent' is not in"),
    ] {
        let error = file.profile(name, dead_url()).fetch().unwrap_err();
        let start = format!("cannot get the credentials of profile '{name}': ");
        assert!(
            error.message.starts_with(&start) && error.message.contains(words),
            "{error}"
        );
    }
}

#[test]
fn a_fault_of_a_role_says_whose_profile_it_is() {
    let file = File::new(
        "fault",
        "[profile a]\nrole_arn = arn:aws:iam::1:role/a\ncredential_source = EcsContainer\n",
    );
    let error = file.profile("a", dead_url()).fetch().unwrap_err();
    assert_eq!(error.kind, "profile_sts_connection_refused");
    let start =
        "cannot get the credentials of profile 'a': cannot assume role arn:aws:iam::1:role/a at STS, http://";
    assert!(error.message.starts_with(start), "{error}");
}

#[test]
fn an_edit_of_the_file_is_taken_up_at_the_next_look() {
    let text = |id: &str| format!("[profile a]\naws_access_key_id = {id}\naws_secret_access_key = s\n");
    let file = File::new("edit", &text("AKIA1"));
    let provider = RenewingCredentials::new(Box::new(file.profile("a", dead_url())));
    assert_eq!(provider.current(EpochMs(0)).unwrap().access_key_id, "AKIA1");
    assert_eq!(provider.renew_if_due(EpochMs(6_000)), Renewal::NotDue);

    std::fs::write(&file.0, text("AKIA23")).unwrap();
    assert_eq!(provider.current(EpochMs(6_000)).unwrap().access_key_id, "AKIA1");
    assert_eq!(
        provider.renew_if_due(EpochMs(6_000)),
        Renewal::Renewed { expires_at: None }
    );
    assert_eq!(provider.current(EpochMs(6_000)).unwrap().access_key_id, "AKIA23");

    // A broken one changes nothing, and is looked at again.
    std::fs::write(&file.0, "[profile a]\n").unwrap();
    assert!(matches!(
        provider.renew_if_due(EpochMs(20_000)),
        Renewal::Failed(_)
    ));
    assert_eq!(provider.current(EpochMs(20_000)).unwrap().access_key_id, "AKIA23");
    std::fs::write(&file.0, text("AKIA345")).unwrap();
    assert!(matches!(
        provider.renew_if_due(EpochMs(40_000)),
        Renewal::Renewed { .. }
    ));
    assert_eq!(
        provider.current(EpochMs(40_000)).unwrap().access_key_id,
        "AKIA345"
    );
}

#[test]
fn the_environments_keys_are_those_that_were_given() {
    let stub = Stub::start([assumed("ASIA1")]);
    let file = File::new(
        "environment",
        "[profile a]\nrole_arn = arn:aws:iam::1:role/a\ncredential_source = Environment\n",
    );
    let keys = StaticKeys {
        access_key_id: "AKIAENV".to_owned(),
        secret_access_key: Secret::inline("s"),
        session_token: None,
    };
    let mut profile = file.profile("a", stub.url.clone());
    profile.named.environment = Some(StaticCredentials::new(
        keys.access_key_id,
        keys.secret_access_key,
        keys.session_token,
    ));
    profile.fetch().unwrap();
    assert!(
        stub.asked()
            .header("authorization")
            .contains("Credential=AKIAENV/")
    );
}
