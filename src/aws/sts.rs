//! AWS's Security Token Service: credentials of a role for the token of an identity provider, and who a caller is.

use std::time::Duration;

use http::Request;
use http::header::CONTENT_TYPE;
use url::Url;
use url::form_urlencoded::Serializer;

use super::endpoint::{Endpoint, EndpointDescription};
use super::signing::Signer;
use super::{Credentials, CredentialsError, Fetch, answers};
use crate::clock;
use crate::config::{Proxy, StsEndpoint, WebIdentitySource};
use crate::http_client::HttpResponse;

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

    /// Scheme, host and port, for logs.
    pub fn address(&self) -> String {
        self.endpoint.address()
    }

    /// Credentials of the role for a token of an identity provider that it trusts. The call is not signed.
    pub fn assume_role_with_web_identity(
        &self,
        role_arn: &str,
        session_name: &str,
        token: &str,
    ) -> Result<Credentials, CredentialsError> {
        let fields = [
            ("Action", "AssumeRoleWithWebIdentity"),
            ("RoleArn", role_arn),
            ("RoleSessionName", session_name),
            ("WebIdentityToken", token),
        ];
        let answer = self.endpoint.send(self.request(&fields))?;
        self.read(&answer, &[token], answers::sts_credentials)
    }

    /// The ARN of the caller. AWS returns it for any valid credentials, whatever their permissions.
    pub fn caller(&self, with: &Credentials) -> Result<String, CredentialsError> {
        let mut request = self.request(&[("Action", "GetCallerIdentity")]);
        if let Ok(request) = &mut request {
            Signer::new("sts", &*self.region)
                .sign(request, with, clock::now())
                .map_err(|error| self.endpoint.fault("not_signable", &error.to_string()))?;
        }
        let answer = self.endpoint.send(request)?;
        self.read(&answer, &with.secrets(), answers::caller_arn)
    }

    fn request(&self, fields: &[(&str, &str)]) -> http::Result<Request<Vec<u8>>> {
        let mut form = Serializer::new(String::new());
        form.append_pair("Version", API_VERSION).extend_pairs(fields);
        Request::post(self.endpoint.url.as_str())
            .header(CONTENT_TYPE, FORM)
            .header("accept", "text/xml")
            .body(form.finish().into_bytes())
    }

    fn read<T>(
        &self,
        answer: &HttpResponse,
        secrets: &[&str],
        parse: fn(&str) -> Result<T, String>,
    ) -> Result<T, CredentialsError> {
        let body = String::from_utf8_lossy(&answer.body);
        if answer.status == 200 {
            return parse(&body).map_err(|what| self.endpoint.unexpected(&what));
        }
        let error = answers::xml_error(&body);
        Err(self.endpoint.refused(answer.status, error, secrets, remedy))
    }
}

fn remedy(code: &str) -> &'static str {
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
        "IDPCommunicationError" => "AWS could not reach the identity provider: it is tried again later",
        "RegionDisabledException" => {
            "STS of this region is not active for this account: activate it in the account's settings, or name another \
             region's endpoint in AWS_ENDPOINT_URL_STS"
        }
        "ValidationError" => "check AWS_ROLE_ARN and AWS_ROLE_SESSION_NAME",
        _ if code.starts_with("Throttl") => "too many requests: it is tried again later",
        "" => "is this STS? check AWS_ENDPOINT_URL_STS and AWS_ENDPOINT_URL",
        _ => "the STS API reference explains this code",
    }
}

/// Credentials of a role for the token that a file holds at that moment: IAM roles for service accounts (IRSA), and
/// whatever else writes such tokens.
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
        let sts = self.sts.as_ref().map_err(Clone::clone)?;
        let secret = &self.source.token;
        let token = sts.endpoint.token(secret, "AWS_WEB_IDENTITY_TOKEN_FILE")?;
        sts.assume_role_with_web_identity(&self.source.role_arn, &self.session_name, &token)
    }

    fn source(&self) -> String {
        let role_arn = &self.source.role_arn;
        let address = self.sts.as_ref().map(StsClient::address).unwrap_or_default();
        format!("temporary credentials of role {role_arn} by web identity, from STS at {address}")
    }
}

/// STS of this region, in the domain of the region's partition.
fn regional_url(region: &str) -> Option<Url> {
    let domain = match region {
        region if region.starts_with("cn-") => "amazonaws.com.cn",
        region if region.starts_with("eusc-") => "amazonaws.eu",
        region if region.starts_with("us-iso-") => "c2s.ic.gov",
        region if region.starts_with("us-isob-") => "sc2s.sgov.gov",
        region if region.starts_with("us-isof-") => "csp.hci.ic.gov",
        region if region.starts_with("eu-isoe-") => "cloud.adc-e.uk",
        _ => "amazonaws.com",
    };
    // A slash in the region would end the host early.
    let is_plain = region.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    let url = Url::parse(&format!("https://sts.{region}.{domain}/"));
    url.ok().filter(|_| is_plain)
}

#[cfg(test)]
mod tests;
