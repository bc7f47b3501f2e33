//! AWS's Security Token Service: credentials of a role for the token of an identity provider, and who a caller is.

use std::time::Duration;

use http::Request;
use http::header::CONTENT_TYPE;
use url::Url;
use url::form_urlencoded::Serializer;

use super::endpoint::{Endpoint, EndpointDescription};
use super::keys::read_secret;
use super::signing::Signer;
use super::{Credentials, CredentialsError, Fetcher, answers};
use crate::clock;
use crate::config::{Proxy, StsEndpoint, WebIdentitySource};

const API_VERSION: &str = "2011-06-15";
const FORM: &str = "application/x-www-form-urlencoded; charset=utf-8";

const DESCRIPTION: EndpointDescription = EndpointDescription {
    deadline: Duration::from_secs(10),
    kind: "sts",
    expected: "STS",
    settings: "AWS_ENDPOINT_URL_STS and AWS_ENDPOINT_URL",
    unreachable: "check AWS_REGION and the network (DNS, firewall, VPC endpoint of STS); AWS_ENDPOINT_URL_STS names another \
                  endpoint",
};

/// STS of one region.
#[derive(Debug)]
pub struct StsClient {
    endpoint: Endpoint,
    region: String,
}

impl StsClient {
    /// Makes no call. `purpose` begins the errors: "get credentials of role …".
    pub fn new(access: &StsEndpoint, proxy: Option<Proxy>, purpose: &str) -> Result<Self, CredentialsError> {
        let url = access.url.clone().or_else(|| regional_url(&access.region));
        let url = url.ok_or_else(|| CredentialsError {
            message: format!("cannot {purpose}: the region has no STS; check AWS_REGION"),
            kind: "sts_region".to_owned(),
        })?;
        Ok(Self { endpoint: Endpoint::new(url, proxy, purpose, DESCRIPTION), region: access.region.clone() })
    }

    /// Credentials of the role for a token of an identity provider that it trusts. The call is not signed.
    fn assume_role_with_web_identity(
        &self,
        role_arn: &str,
        session_name: &str,
        token: &str,
    ) -> Result<Credentials, CredentialsError> {
        let request = self.request(&[
            ("Action", "AssumeRoleWithWebIdentity"),
            ("RoleArn", role_arn),
            ("RoleSessionName", session_name),
            ("WebIdentityToken", token),
        ]);
        self.endpoint.call(request, &[token], answers::sts_credentials, remedy)
    }

    /// The ARN of the caller. AWS returns it for any valid credentials, whatever their permissions.
    pub fn caller(&self, with: &Credentials) -> Result<String, CredentialsError> {
        let mut request = self.request(&[("Action", "GetCallerIdentity")]);
        if let Ok(request) = &mut request {
            Signer::new("sts", &*self.region)
                .sign(request, with, clock::now())
                .map_err(|error| self.endpoint.fault("not_signable", &error.to_string()))?;
        }
        self.endpoint.call(request, &with.secrets(), answers::caller_arn, remedy)
    }

    fn request(&self, fields: &[(&str, &str)]) -> http::Result<Request<Vec<u8>>> {
        let mut form = Serializer::new(String::new());
        form.append_pair("Version", API_VERSION).extend_pairs(fields);
        Request::post(self.endpoint.url.as_str())
            .header(CONTENT_TYPE, FORM)
            .header("accept", "text/xml")
            .body(form.finish().into_bytes())
    }
}

/// Fetches credentials of a role for the token that a file holds at that moment: IAM roles for service accounts (IRSA), and
/// whatever else writes such tokens.
pub(super) fn web_identity(source: WebIdentitySource, proxy: Option<Proxy>) -> Fetcher {
    let WebIdentitySource { token, role_arn, session_name, sts } = source;
    // CloudTrail shows this service, and which start of it.
    let default_name = || format!("persistent-cache-service-{}", clock::now().0 / 1_000);
    let session_name = session_name.unwrap_or_else(default_name);
    let sts = StsClient::new(&sts, proxy, &format!("get credentials of role {role_arn}"));
    let address = sts.as_ref().map(|sts| sts.endpoint.address()).unwrap_or_default();
    Fetcher {
        source: format!("temporary credentials of role {role_arn} by web identity, from STS at {address}"),
        fetch: Box::new(move || {
            let sts = sts.as_ref().map_err(Clone::clone)?;
            let token = read_secret(&token, "AWS_WEB_IDENTITY_TOKEN_FILE")?;
            sts.assume_role_with_web_identity(&role_arn, &session_name, &token)
        }),
    }
}

fn remedy(_: u16, code: &str) -> &'static str {
    match code {
        "ExpiredTokenException" | "ExpiredToken" => {
            "the identity token has expired: its issuer must renew the file (AWS_WEB_IDENTITY_TOKEN_FILE)"
        }
        "InvalidIdentityToken" | "IDPRejectedClaim" => {
            "check that the file (AWS_WEB_IDENTITY_TOKEN_FILE) holds a token of the identity provider that the role's \
             trust policy names, and that IAM knows the provider with the token's audience"
        }
        "AccessDenied" => {
            "check AWS_ROLE_ARN, and that the role's trust policy allows sts:AssumeRoleWithWebIdentity to the token's \
             subject (namespace and service account) and audience"
        }
        "RegionDisabledException" => {
            "STS of this region is not active for this account: activate it in the account's settings, or name another \
             region's endpoint in AWS_ENDPOINT_URL_STS"
        }
        "ValidationError" => "check AWS_ROLE_ARN and AWS_ROLE_SESSION_NAME",
        "IDPCommunicationError" | "Throttling" => "it is retried later",
        "" => "is this STS? check AWS_ENDPOINT_URL_STS and AWS_ENDPOINT_URL",
        _ => "the STS API reference explains this code",
    }
}

/// STS of this region, in the domain of the region's partition.
fn regional_url(region: &str) -> Option<Url> {
    let domain = match region {
        region if region.starts_with("cn-") => "amazonaws.com.cn",
        region if region.starts_with("eusc-") => "amazonaws.eu",
        _ => "amazonaws.com",
    };
    // A slash in the region would end the host early.
    let is_plain = region.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    let url = Url::parse(&format!("https://sts.{region}.{domain}/"));
    url.ok().filter(|_| is_plain)
}

#[cfg(test)]
mod tests;
