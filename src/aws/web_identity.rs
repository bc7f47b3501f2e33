//! Temporary credentials of a role that trusts an identity provider, for its token: IAM roles for service accounts on
//! Kubernetes, and whoever else writes such a token into a file.

use super::sts::{StsAccess, StsClient, made_up_session_name};
use super::{Credentials, CredentialsError, Fetch};
use crate::config::profiles::Role;
use crate::config::{Proxy, Secret, WebIdentitySource};

/// Fetches from STS, with the token as it is in its file at that moment.
#[derive(Debug)]
pub struct WebIdentityCredentials {
    token: Secret,
    role: Role,
    session_name: String,
    sts: StsAccess,
    /// For logs: asked for at every call to the queue.
    source: String,
}

impl WebIdentityCredentials {
    /// `AWS_WEB_IDENTITY_TOKEN_FILE` and `AWS_ROLE_ARN`; STS is reached by this proxy.
    pub fn new(source: WebIdentitySource, proxy: Option<Proxy>) -> Self {
        let role = Role {
            arn: source.role_arn,
            session_name: source.session_name,
            external_id: None,
            duration_secs: None,
            region: None,
        };
        let endpoint = source.sts;
        Self::of_role(source.token, role, StsAccess { endpoint, proxy })
    }

    /// The same of a profile. The role's own region goes before that of `sts`.
    pub fn of_role(token: Secret, role: Role, sts: StsAccess) -> Self {
        let at = StsClient::new(&sts, role.region.as_deref())
            .map(|sts| format!(", from STS at {}", sts.address()))
            .unwrap_or_default();
        Self {
            token,
            session_name: role.session_name.clone().unwrap_or_else(made_up_session_name),
            source: format!("temporary credentials of role {} by web identity{at}", role.arn),
            role,
            sts,
        }
    }
}

impl Fetch for WebIdentityCredentials {
    fn fetch(&self) -> Result<Credentials, CredentialsError> {
        let fault = |kind: &str, cause: &str| CredentialsError {
            message: format!(
                "cannot assume role {} for the token of a web identity: {cause}",
                self.role.arn
            ),
            kind: format!("web_identity_{kind}"),
        };
        let token = self.token.read().map_err(|error| {
            fault(
                "token_unreadable",
                &format!("{error}; check the path (AWS_WEB_IDENTITY_TOKEN_FILE) and its permissions"),
            )
        })?;
        let token = token.trim();
        if token.is_empty() {
            return Err(fault(
                "token_empty",
                "its file is empty; whoever writes it (AWS_WEB_IDENTITY_TOKEN_FILE) must put a token into it",
            ));
        }
        let sts = StsClient::new(&self.sts, self.role.region.as_deref())
            .ok_or_else(|| fault("region", "its region has no STS; check AWS_REGION"))?;
        sts.assume_role_with_web_identity(&self.role, &self.session_name, token)
    }

    fn source(&self) -> String {
        self.source.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::StsEndpoint;
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
