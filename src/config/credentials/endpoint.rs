//! Where a container's credentials may be asked for, as the AWS SDKs have it.

use url::{Host, Url};

use crate::config::values::{Findings, Raw, shown};

/// ECS's own address, which relative URIs are on.
const ECS: &str = "http://169.254.170.2";

/// True for what can stand in `Authorization`.
pub(super) fn fits_a_header(token: &str) -> bool {
    token
        .chars()
        .all(|letter| letter.is_ascii_graphic() || letter == ' ' || letter == '\t')
}

/// The URI of a path on ECS's address.
pub(super) fn relative_uri(findings: &mut Findings, raw: Raw<'_>) -> Option<Url> {
    let path = raw.value?;
    if !path.starts_with('/') {
        findings.fault(raw, "is not a path; set one that begins with /");
        return None;
    }
    match Url::parse(&format!("{ECS}{path}")) {
        Ok(url) => Some(url),
        Err(error) => {
            findings.fault(
                raw,
                format!("is not a path ({error}); set one that begins with /"),
            );
            None
        }
    }
}

/// An https URL, or an http one of an address that nobody outside of this machine answers on: the answer holds
/// secrets, and the question may.
pub(super) fn full_uri(findings: &mut Findings, raw: Raw<'_>) -> Option<Url> {
    let remedy = "set the URL that ECS or EKS gave";
    let fault = match Url::parse(raw.value?) {
        Err(error) => format!("is not a URL ({error}); {remedy}"),
        Ok(url) if !matches!(url.scheme(), "http" | "https") => {
            format!("is not an http or https URL; {remedy}")
        }
        Ok(url) if !url.username().is_empty() || url.password().is_some() => {
            "holds a user or password; remove them, and set AWS_CONTAINER_AUTHORIZATION_TOKEN".to_owned()
        }
        Ok(url) if url.scheme() == "http" && !is_the_containers(&url) => format!(
            "would send credentials unencrypted to {}: http is for loopback, ECS (169.254.170.2) and EKS \
             (169.254.170.23, fd00:ec2::23) alone; set https, or {remedy}",
            url.host_str().map(shown).unwrap_or_default()
        ),
        Ok(url) => return Some(url),
    };
    findings.fault(raw, fault);
    None
}

fn is_the_containers(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => {
            address.is_loopback() || matches!(address.octets(), [169, 254, 170, 2 | 23])
        }
        Some(Host::Ipv6(address)) => {
            address.is_loopback() || address.segments() == [0xfd00, 0x0ec2, 0, 0, 0, 0, 0, 0x23]
        }
        None => false,
    }
}
