//! Warnings about http URLs over which AWS credentials travel.

use url::Url;

use super::queue::is_loopback;
use super::settings::Settings;
use super::values::{Findings, raw};
use super::{CredentialSource, StaticKeys};

pub(super) fn notices(settings: &Settings, credentials: &CredentialSource, findings: &mut Findings) {
    let sqs = raw!(settings, queue.aws_endpoint_url_sqs);
    let sts = raw!(settings, credentials.aws_endpoint_url_sts);
    let any = raw!(settings, queue.aws_endpoint_url);
    let queue = raw!(settings, queue.queue_url);
    let (has_session_token, asks_sts) = match credentials {
        CredentialSource::Static(StaticKeys { session_token, .. }) => (session_token.is_some(), false),
        CredentialSource::WebIdentity(_) => (true, true),
        CredentialSource::Container(_)
        | CredentialSource::InstanceMetadata(_)
        | CredentialSource::EdgeApi => (true, false),
        // As its files are now; what is wrong with them has been reported.
        CredentialSource::Profile(profile) => {
            let keys = profile.files.keys(&profile.name);
            (keys.is_ok_and(|keys| keys.session_token.is_some()), false)
        }
    };
    for (applies, settings, what) in [
        (has_session_token, vec![sqs, any, queue], "the session token travels"),
        (asks_sts, vec![sts, any], "the role's token and keys travel"),
    ] {
        // The first that is given is the endpoint.
        let endpoint = settings.into_iter().find(|raw| raw.value.is_some());
        let is_plain =
            |text: &str| Url::parse(text).is_ok_and(|url| url.scheme() == "http" && !is_loopback(&url));
        if let Some(raw) = endpoint.filter(|raw| applies && raw.value.is_some_and(is_plain)) {
            findings.notice(raw, format!("is not https: {what} unencrypted"));
        }
    }
}
