//! Roles, assumed at AWS's Security Token Service: for the token of an identity provider, or with other credentials.
//!
//! One POST a role, with a deadline and a bounded answer, no retry. The caller's credentials and tokens show in no
//! error, whoever quotes them.

pub mod answer;
mod caller;

use std::time::Duration;

use http::header::CONTENT_TYPE;
use http::{Method, Request};
use url::Url;

use self::answer::Refusal;
use super::redaction::redact;
use super::signing::Signer;
use super::{Credentials, CredentialsError};
use crate::clock;
use crate::config::profiles::Role;
use crate::config::{Proxy, StsEndpoint};
use crate::http_client::{HttpClient, HttpErrorKind, HttpOptions, HttpResponse};

const SERVICE: &str = "sts";
const API_VERSION: &str = "2011-06-15";
const FORM: &str = "application/x-www-form-urlencoded; charset=utf-8";

const DEADLINE: Duration = Duration::from_secs(10);
/// Credentials are a few kilobytes.
const ANSWER_BYTES_MAX: u64 = 64 * 1024;

/// How STS is reached.
#[derive(Debug, Clone)]
pub struct StsAccess {
    /// Where, and the region.
    pub endpoint: StsEndpoint,
    /// The way there.
    pub proxy: Option<Proxy>,
}

/// STS of one region.
#[derive(Debug)]
pub struct StsClient {
    http: HttpClient,
    url: Url,
    region: String,
}

/// What a role is assumed by.
#[derive(Clone, Copy)]
enum By<'a> {
    /// A token; the file it is from, and the token.
    Token(&'a str),
    /// A signature with these.
    Keys(&'a Credentials),
}

impl StsClient {
    /// The STS of this region, else of the endpoint's own. Calls nobody yet. None if the region is no part of a
    /// host's name.
    pub fn new(access: &StsAccess, region: Option<&str>) -> Option<Self> {
        let region = region.unwrap_or(&access.endpoint.region);
        let mut url = match &access.endpoint.url {
            Some(url) => url.clone(),
            None => regional_url(region)?,
        };
        url.set_query(None);
        url.set_fragment(None);
        let options = HttpOptions {
            pool_size: 1,
            answer_bytes_max: ANSWER_BYTES_MAX,
            deadline: DEADLINE,
            proxy: access.proxy.clone(),
        };
        Some(Self {
            http: HttpClient::new(&url, options),
            url,
            region: region.to_owned(),
        })
    }

    /// Where it is, for logs: scheme, host and port.
    pub fn address(&self) -> String {
        self.url.origin().ascii_serialization()
    }

    /// Credentials of the role for a token of an identity provider that it trusts. Needs no other credentials.
    pub fn assume_role_with_web_identity(
        &self,
        role: &Role,
        session_name: &str,
        token: &str,
    ) -> Result<Credentials, CredentialsError> {
        self.assume(role, session_name, By::Token(token))
    }

    /// Credentials of the role for credentials that may assume it.
    pub fn assume_role(
        &self,
        role: &Role,
        session_name: &str,
        with: &Credentials,
    ) -> Result<Credentials, CredentialsError> {
        self.assume(role, session_name, By::Keys(with))
    }

    fn assume(&self, role: &Role, session_name: &str, by: By<'_>) -> Result<Credentials, CredentialsError> {
        let request = self.request(role, session_name, by)?;
        let answer = self.http.send(request, None).map_err(|error| {
            let remedy = match error.kind {
                HttpErrorKind::AnswerTooLarge | HttpErrorKind::Protocol => {
                    "is this STS? check AWS_ENDPOINT_URL_STS and AWS_ENDPOINT_URL"
                }
                HttpErrorKind::Tls => {
                    "check AWS_ENDPOINT_URL_STS and the trusted certificates of this machine"
                }
                HttpErrorKind::Timeout
                | HttpErrorKind::HostNotFound
                | HttpErrorKind::ConnectionRefused
                | HttpErrorKind::Connection => {
                    "check AWS_REGION and the way there (DNS, firewall, VPC endpoint of STS); AWS_ENDPOINT_URL_STS \
                     names another endpoint"
                }
                HttpErrorKind::Proxy(fault) => fault.remedy(),
            };
            self.fault(role, error.kind.label(), &format!("{error}; {remedy}"))
        })?;
        if answer.status == 200 {
            return answer::credentials(by.action(), &answer.body).map_err(|what| {
                let cause = format!(
                    "the answer is not as documented: {what}; is this STS? check AWS_ENDPOINT_URL_STS"
                );
                self.fault(role, "unexpected_answer", &cause)
            });
        }
        Err(self.refused(role, by, &answer))
    }

    fn request(
        &self,
        role: &Role,
        session_name: &str,
        by: By<'_>,
    ) -> Result<Request<Vec<u8>>, CredentialsError> {
        let mut form = url::form_urlencoded::Serializer::new(String::new());
        form.append_pair("Action", by.action())
            .append_pair("Version", API_VERSION)
            .append_pair("RoleArn", &role.arn)
            .append_pair("RoleSessionName", session_name);
        if let Some(secs) = role.duration_secs {
            form.append_pair("DurationSeconds", &secs.to_string());
        }
        match by {
            By::Token(token) => {
                form.append_pair("WebIdentityToken", token);
            }
            By::Keys(_) => {
                if let Some(external_id) = &role.external_id {
                    form.append_pair("ExternalId", external_id);
                }
            }
        }
        let mut request = Request::builder()
            .method(Method::POST)
            .uri(self.url.as_str())
            .header(CONTENT_TYPE, FORM)
            .header("accept", "text/xml")
            .body(form.finish().into_bytes())
            .map_err(|_| {
                let cause = "the endpoint is not a URI; check AWS_ENDPOINT_URL_STS";
                self.fault(role, "not_a_uri", cause)
            })?;
        if let By::Keys(credentials) = by {
            Signer::new(SERVICE, &*self.region)
                .sign(&mut request, credentials, clock::now())
                .map_err(|error| {
                    let key_id = &credentials.access_key_id;
                    let cause = format!("{error}; check the secret of key id {key_id}");
                    self.fault(role, "not_signable", &cause)
                })?;
        }
        Ok(request)
    }

    fn refused(&self, role: &Role, by: By<'_>, answer: &HttpResponse) -> CredentialsError {
        // Secrets go before anything is shortened: half of one would not be found any more.
        let body = by.redact(&String::from_utf8_lossy(&answer.body));
        let Refusal { code, words } = answer::refusal(answer.status, &body);
        let quoted = if words.is_empty() {
            String::new()
        } else {
            format!(" ({words})")
        };
        let status = answer.status;
        let remedy = self.remedy(by, status, &code);
        self.fault(role, &code, &format!("HTTP {status} {code}{quoted}; {remedy}"))
    }

    fn remedy(&self, by: By<'_>, status: u16, code: &str) -> String {
        match (code, by) {
            ("ExpiredTokenException" | "ExpiredToken", By::Token(_)) => {
                "the identity token has expired: whoever writes its file (AWS_WEB_IDENTITY_TOKEN_FILE) must renew it"
                    .to_owned()
            }
            ("InvalidIdentityToken" | "IDPRejectedClaim", By::Token(_)) => {
                "check that the token's file (AWS_WEB_IDENTITY_TOKEN_FILE) holds one of the identity provider that the role's trust \
                 policy names, and that the provider is known to IAM with the token's audience"
                    .to_owned()
            }
            ("AccessDenied", By::Token(_)) => {
                "check the role's ARN (AWS_ROLE_ARN), and that its trust policy allows sts:AssumeRoleWithWebIdentity to the \
                 token's subject (namespace and service account) and audience"
                    .to_owned()
            }
            ("IDPCommunicationError", _) => {
                "AWS could not reach the identity provider: it is tried again later".to_owned()
            }
            ("AccessDenied" | "AccessDeniedException", By::Keys(with)) => format!(
                "allow key id {} sts:AssumeRole on this role (its own policy), and name it in the role's trust \
                 policy (with external_id, if that asks for one)",
                with.access_key_id
            ),
            ("InvalidClientTokenId" | "UnrecognizedClientException" | "InvalidAccessKeyId", By::Keys(with)) => {
                format!(
                    "AWS does not know key id {}, which is to assume it: check the keys of the profile's source, and \
                     the region",
                    with.access_key_id
                )
            }
            ("ExpiredToken" | "ExpiredTokenException", By::Keys(with)) => format!(
                "the session of key id {}, which is to assume it, is over: renew the keys of the profile's source",
                with.access_key_id
            ),
            ("SignatureDoesNotMatch" | "RequestExpired" | "InvalidSignatureException", By::Keys(with)) => {
                format!(
                    "check the secret of key id {} and this machine's clock",
                    with.access_key_id
                )
            }
            ("RegionDisabledException", _) => format!(
                "STS of region {} is not active for this account: activate it in the account's settings, or name \
                 another region's in AWS_ENDPOINT_URL_STS",
                self.region
            ),
            ("ValidationError" | "MalformedPolicyDocument" | "PackedPolicyTooLarge", _) => {
                "check the role's ARN, its session name, and that duration_seconds is not beyond the role's longest \
                 session"
                    .to_owned()
            }
            _ if status == 429 || code.starts_with("Throttl") => {
                "too many calls: it is tried again later".to_owned()
            }
            _ if status >= 500 => "STS has a fault of its own: it is tried again later".to_owned(),
            _ if code.starts_with("Http") => {
                "is this STS? check AWS_ENDPOINT_URL_STS and AWS_ENDPOINT_URL".to_owned()
            }
            _ => "the STS API reference tells what this code means".to_owned(),
        }
    }

    fn fault(&self, role: &Role, kind: &str, cause_and_remedy: &str) -> CredentialsError {
        CredentialsError {
            message: format!(
                "cannot assume role {} at STS, {}: {cause_and_remedy}",
                role.arn,
                self.address()
            ),
            kind: format!("sts_{kind}"),
        }
    }
}

impl By<'_> {
    fn action(self) -> &'static str {
        match self {
            Self::Token(_) => "AssumeRoleWithWebIdentity",
            Self::Keys(_) => "AssumeRole",
        }
    }

    fn redact(self, text: &str) -> String {
        match self {
            Self::Token(token) => redact(text, [token]),
            Self::Keys(credentials) => credentials.redact(text),
        }
    }
}

/// A session name for those who gave none: it tells this service, and which start of it, in CloudTrail.
pub fn made_up_session_name() -> String {
    format!("persistent-cache-service-{}", clock::now().0 / 1_000)
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
    let url = Url::parse(&format!("https://sts.{region}.{domain}/")).ok()?;
    // A region with a slash or the like in it would have moved the rest out of the host.
    let expected = format!("sts.{region}.{domain}");
    (url.host_str() == Some(expected.as_str())).then_some(url)
}

#[cfg(test)]
mod tests;
