//! Settings of AWS credentials, most of them named as every AWS SDK has them.

use clap::Args;

/// Where AWS credentials come from.
#[derive(Args)]
#[command(next_help_heading = "AWS credentials")]
pub struct CredentialSettings {
    /// Where AWS credentials come from: `auto` takes the first source that is set, else the Edge API; one of
    /// `static`, `web-identity`, `container`, `profile`, `instance-metadata` and `edge` takes that one.
    #[arg(long, value_name = "SOURCE", default_value = "auto")]
    pub credential_source: Option<String>,
    /// Access key id.
    #[arg(long, value_name = "ID")]
    pub aws_access_key_id: Option<String>,
    /// Secret that belongs to the access key id.
    #[arg(long, value_name = "SECRET")]
    pub aws_secret_access_key: Option<String>,
    /// File that holds the secret; read again when it changes.
    #[arg(long, value_name = "PATH")]
    pub aws_secret_access_key_file: Option<String>,
    /// Session token, if the access key is a temporary one.
    #[arg(long, value_name = "SECRET")]
    pub aws_session_token: Option<String>,
    /// File that holds a token of an identity provider, for which `AWS_ROLE_ARN` is assumed; read again each time.
    #[arg(long, value_name = "PATH")]
    pub aws_web_identity_token_file: Option<String>,
    /// Role to assume with the token.
    #[arg(long, value_name = "ARN")]
    pub aws_role_arn: Option<String>,
    /// Name of the role's session, as CloudTrail shows it. By default `persistent-cache-service-` and a number.
    #[arg(long, value_name = "NAME")]
    pub aws_role_session_name: Option<String>,
    /// Credentials endpoint of a container: https, or http on a loopback address or one of those of ECS and EKS.
    #[arg(long, value_name = "URL")]
    pub aws_container_credentials_full_uri: Option<String>,
    /// The same as a path on ECS's own address; goes before the full one.
    #[arg(long, value_name = "PATH")]
    pub aws_container_credentials_relative_uri: Option<String>,
    /// What the container's endpoint wants in `Authorization`.
    #[arg(long, value_name = "SECRET")]
    pub aws_container_authorization_token: Option<String>,
    /// File that holds it; read again each time.
    #[arg(long, value_name = "PATH")]
    pub aws_container_authorization_token_file: Option<String>,
    /// Profile with static keys in the files that the AWS CLI and SDKs share.
    #[arg(long, value_name = "NAME")]
    pub aws_profile: Option<String>,
    /// The shared config file; `~/.aws/config` by default.
    #[arg(long, value_name = "PATH")]
    pub aws_config_file: Option<String>,
    /// The shared credentials file; `~/.aws/credentials` by default.
    #[arg(long, value_name = "PATH")]
    pub aws_shared_credentials_file: Option<String>,
    /// EC2's instance metadata.
    #[arg(long, value_name = "URL", default_value = "http://169.254.169.254")]
    pub aws_ec2_metadata_service_endpoint: Option<String>,
    /// STS, instead of the region's; `AWS_ENDPOINT_URL` goes after it.
    #[arg(long, value_name = "URL")]
    pub aws_endpoint_url_sts: Option<String>,
    /// What `~` stands for in the two shared files' names.
    #[arg(long, hide = true)]
    pub home: Option<String>,
}
