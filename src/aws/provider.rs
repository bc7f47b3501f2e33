//! The provider of a credential source.

use std::sync::Arc;

use super::sts::StsAccess;
use super::{
    ContainerCredentials, CredentialsProvider, EdgeCredentials, Fetch, InstanceMetadataCredentials,
    NamedSources, ProfileCredentials, RenewingCredentials, StaticCredentials, WebIdentityCredentials,
};
use crate::config::{CredentialSource, ProfileSource, Proxy, StaticKeys};
use crate::shutdown::Stop;

/// A provider, and the part of it to renew ahead of expiry: none for static keys. Without renewal a caller waits for
/// the fetch.
pub type Provider = (Arc<dyn CredentialsProvider>, Option<Arc<RenewingCredentials>>);

/// The provider of a source. `stop` ends a program that prints credentials.
pub fn provider(
    source: &CredentialSource,
    proxy: Option<Proxy>,
    edge: EdgeCredentials,
    stop: Stop,
) -> Provider {
    own_provider(source, proxy, stop).unwrap_or_else(|| renewing(source, Box::new(edge)))
}

/// The provider of AWS credentials of the operator's own. None for those of the Edge API.
pub fn own_provider(source: &CredentialSource, proxy: Option<Proxy>, stop: Stop) -> Option<Provider> {
    let fetch: Box<dyn Fetch> = match source {
        CredentialSource::Static(keys) => return Some((Arc::new(static_credentials(keys)), None)),
        CredentialSource::WebIdentity(source) => Box::new(WebIdentityCredentials::new(source.clone(), proxy)),
        CredentialSource::Container(source) => Box::new(ContainerCredentials::new(source.clone())),
        CredentialSource::Profile(source) => Box::new(profile(source, proxy, stop)),
        CredentialSource::InstanceMetadata(source) => {
            Box::new(InstanceMetadataCredentials::new(source.clone()))
        }
        CredentialSource::EdgeApi => return None,
    };
    Some(renewing(source, fetch))
}

fn renewing(source: &CredentialSource, fetch: Box<dyn Fetch>) -> Provider {
    let renewing = Arc::new(RenewingCredentials::new(fetch).decided_by(source.variables()));
    (
        Arc::clone(&renewing) as Arc<dyn CredentialsProvider>,
        Some(renewing),
    )
}

fn static_credentials(keys: &StaticKeys) -> StaticCredentials {
    StaticCredentials::new(
        keys.access_key_id.clone(),
        keys.secret_access_key.clone(),
        keys.session_token.clone(),
    )
}

fn profile(source: &ProfileSource, proxy: Option<Proxy>, stop: Stop) -> ProfileCredentials {
    let container = source.container.clone();
    let named = NamedSources {
        environment: source.environment.as_ref().map(static_credentials),
        container: container.map(|source| Box::new(ContainerCredentials::new(source)) as Box<dyn Fetch>),
        instance_metadata: Box::new(InstanceMetadataCredentials::new(source.instance_metadata.clone())),
    };
    let sts = StsAccess {
        endpoint: source.sts.clone(),
        proxy,
    };
    ProfileCredentials::new(source.name.clone(), source.files.clone(), sts, named, stop)
}
