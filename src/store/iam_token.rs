//! ElastiCache's IAM tokens. Pure: the time of the signature is an argument.
//!
//! A token is a pre-signed URL without its scheme: `GET <cache name>/?Action=connect&User=<user>`, signed in the
//! query for the service `elasticache`, valid for 15 minutes. It takes the place of the password. A serverless
//! cache also wants `ResourceType=ServerlessCache`, which is signed with the rest. `aws-sigv4` computes it.
//! It is here, and not with the queue's signing, because it signs no request: nothing is ever sent to that URL.

use std::error::Error;
use std::time::{Duration, UNIX_EPOCH};

use aws_sigv4::http_request::{SignableBody, SignableRequest, SignatureLocation, SigningSettings, sign};
use aws_sigv4::sign::v4;
use http::Request;
use url::form_urlencoded;

use crate::aws::Credentials;
use crate::clock::EpochMs;
use crate::config::RedisIam;

/// How long a token is valid: the longest that ElastiCache allows. It is needed only when a connection authenticates.
const VALID_FOR: Duration = Duration::from_mins(15);

/// The token for `user`, valid from `at`. The error never holds a secret: the token itself is one.
pub(super) fn iam_token(
    iam: &RedisIam,
    user: &str,
    credentials: &Credentials,
    at: EpochMs,
) -> Result<String, Box<dyn Error>> {
    let mut query = form_urlencoded::Serializer::new(String::new());
    query.append_pair("Action", "connect").append_pair("User", user);
    if iam.is_serverless {
        query.append_pair("ResourceType", "ServerlessCache");
    }
    // The signature is over %20, where forms have +.
    let query = query.finish().replace('+', "%20");
    let mut request = Request::get(format!("https://{}/?{query}", iam.cache_name)).body(())?;

    let identity = aws_credential_types::Credentials::new(
        credentials.access_key_id.as_str(),
        credentials.secret_access_key.as_str(),
        credentials.session_token.clone(),
        None,
        "persistent-cache-service",
    )
    .into();
    let mut settings = SigningSettings::default();
    settings.signature_location = SignatureLocation::QueryParams;
    settings.expires_in = Some(VALID_FOR);
    let since_epoch = Duration::from_millis(u64::try_from(at.0).unwrap_or_default());
    let params = v4::SigningParams::builder()
        .identity(&identity)
        .region(&iam.region)
        .name("elasticache")
        .time(UNIX_EPOCH + since_epoch)
        .settings(settings)
        .build()?
        .into();
    let signable =
        SignableRequest::new("GET", request.uri().to_string(), std::iter::empty(), SignableBody::Bytes(&[]))?;
    let (instructions, _) = sign(signable, &params)?.into_parts();
    instructions.apply_to_request_http1x(&mut request);
    Ok(request.uri().to_string().split_off("https://".len())) // the scheme is not signed
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::CredentialSource;

    /// 2026-11-02T12:00:00Z.
    const NOON: EpochMs = EpochMs(1_793_620_800_000);

    fn token(user: &str, session_token: Option<&str>, is_serverless: bool, at: EpochMs) -> String {
        let iam = RedisIam {
            cache_name: "my-cache".to_owned(),
            region: "eu-west-1".to_owned(),
            is_serverless,
            credentials: Box::new(CredentialSource::EdgeApi), // not looked at here
        };
        let credentials = Credentials {
            access_key_id: "AKIDEXAMPLE".to_owned(),
            secret_access_key: "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY".to_owned(),
            session_token: session_token.map(str::to_owned),
            expires_at: None,
        };
        iam_token(&iam, user, &credentials, at).unwrap()
    }

    fn names(token: &str) -> Vec<String> {
        let query = token.split_once('?').unwrap().1;
        form_urlencoded::parse(query.as_bytes()).map(|(name, _)| name.into_owned()).collect()
    }

    #[test]
    fn a_token_is_what_the_aws_sdk_for_python_signs() {
        // botocore's RequestSigner.generate_presigned_url for the same keys, user, cache and second.
        assert_eq!(
            token("iam-user-01", None, false, NOON),
            "my-cache/?Action=connect&User=iam-user-01&X-Amz-Algorithm=AWS4-HMAC-SHA256\
             &X-Amz-Credential=AKIDEXAMPLE%2F20261102%2Feu-west-1%2Felasticache%2Faws4_request\
             &X-Amz-Date=20261102T120000Z&X-Amz-Expires=900&X-Amz-SignedHeaders=host\
             &X-Amz-Signature=a9251d174b6b637f099f4992f72377e3c8c15c7b519dda2c58341db7c06fe527"
        );
    }

    #[test]
    fn temporary_credentials_and_serverless_caches_sign_what_is_theirs() {
        let token = token("iam user", Some("session/token+1"), true, NOON);
        assert!(token.contains("&User=iam%20user&ResourceType=ServerlessCache&"), "{token}");
        assert!(token.contains("X-Amz-Security-Token=session%2Ftoken%2B1"), "{token}");
        assert!(
            token
                .contains("X-Amz-Signature=c98b01fefdf6a93fe56d3dfc0a1e880070b46b83216a34a44e9a3179e6816809"),
            "{token}"
        );
        assert_eq!(names(&token).iter().filter(|name| *name == "X-Amz-Security-Token").count(), 1);
    }

    #[test]
    fn a_later_token_is_another_one() {
        let later = EpochMs(NOON.0 + 1_000);
        assert_ne!(token("u", None, false, NOON), token("u", None, false, later));
    }
}
