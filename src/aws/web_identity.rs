//! Temporary credentials of a role for the token of an identity provider: IAM roles for service accounts (IRSA), and
//! whatever else writes such a token into a file.

use super::sts::StsClient;
use super::{Credentials, CredentialsError, Fetch};
use crate::clock;
use crate::config::{Proxy, WebIdentitySource};

/// Fetches from STS with the token that the file holds at that moment.
#[derive(Debug)]
pub struct WebIdentityCredentials {
    source: WebIdentitySource,
    session_name: String,
    sts: Result<StsClient, CredentialsError>,
}

impl WebIdentityCredentials {
    /// `AWS_WEB_IDENTITY_TOKEN_FILE` and `AWS_ROLE_ARN`.
    pub fn new(source: WebIdentitySource, proxy: Option<Proxy>) -> Self {
        // CloudTrail shows this service, and which start of it.
        let default_name = || format!("persistent-cache-service-{}", clock::now().0 / 1_000);
        let purpose = format!("get credentials of role {}", source.role_arn);
        Self {
            session_name: source.session_name.clone().unwrap_or_else(default_name),
            sts: StsClient::new(&source.sts, proxy, &purpose),
            source,
        }
    }
}

impl Fetch for WebIdentityCredentials {
    fn fetch(&self) -> Result<Credentials, CredentialsError> {
        let role_arn = &self.source.role_arn;
        let fault = |kind: &str, cause: &str| CredentialsError {
            message: format!("cannot get credentials of role {role_arn}: {cause}"),
            kind: format!("web_identity_{kind}"),
        };
        let token = self.source.token.read().map_err(|error| {
            let cause = format!("cannot read the identity token: {error}");
            let remedy = "check the path (AWS_WEB_IDENTITY_TOKEN_FILE) and its permissions";
            fault("token_unreadable", &format!("{cause}; {remedy}"))
        })?;
        let token = token.trim();
        if token.is_empty() {
            let cause = "the file of the identity token (AWS_WEB_IDENTITY_TOKEN_FILE) is empty; its issuer must write it";
            return Err(fault("token_empty", cause));
        }
        let sts = self.sts.as_ref().map_err(Clone::clone)?;
        sts.assume_role_with_web_identity(role_arn, &self.session_name, token)
    }

    fn source(&self) -> String {
        let role_arn = &self.source.role_arn;
        let address = self.sts.as_ref().map(StsClient::address).unwrap_or_default();
        format!("temporary credentials of role {role_arn} by web identity, from STS at {address}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Secret, StsEndpoint};
    use crate::http_client::stub::{Reply, Stub, dead_url};

    fn credentials(token: Secret, url: url::Url) -> WebIdentityCredentials {
        let source = WebIdentitySource {
            token,
            role_arn: "arn:aws:iam::1:role/r".to_owned(),
            session_name: None,
            sts: StsEndpoint {
                region: "us-east-1".to_owned(),
                url: Some(url),
            },
        };
        WebIdentityCredentials::new(source, None)
    }

    #[test]
    fn the_token_is_read_anew_each_time_and_the_session_has_a_name() {
        let path = std::env::temp_dir().join(format!("pcs-web-identity-{}", std::process::id()));
        let refusals = [(); 2].map(|()| Reply::Answer(400, "", String::new()));
        let stub = Stub::start(refusals);
        let source = credentials(Secret::file(&path), stub.url.clone());
        for token in ["first", "second"] {
            std::fs::write(&path, format!("{token}\n")).unwrap();
            source.fetch().unwrap_err();
            let asked = stub.asked().body;
            assert!(asked.ends_with(&format!("&WebIdentityToken={token}")), "{asked}");
            assert!(
                asked.contains("RoleSessionName=persistent-cache-service-"),
                "{asked}"
            );
        }
        std::fs::write(&path, "\n").unwrap();
        assert_eq!(source.fetch().unwrap_err().kind, "web_identity_token_empty");
        std::fs::remove_file(&path).unwrap();
        let error = source.fetch().unwrap_err();
        assert_eq!(error.kind, "web_identity_token_unreadable");
        assert!(error.message.contains(&path.display().to_string()), "{error}");
        assert!(stub.was_left_alone());
    }

    #[test]
    fn the_source_names_role_and_endpoint_but_not_the_token() {
        let source = credentials(Secret::inline("hunter2"), dead_url());
        assert!(
            source.source().starts_with(
                "temporary credentials of role arn:aws:iam::1:role/r by web identity, from STS at http://127.0.0.1:"
            ),
            "{}",
            source.source()
        );
        assert!(!format!("{source:?}").contains("hunter2"));
    }
}
