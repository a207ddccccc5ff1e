//! The client of a service, with its credentials.
//!
//! Settings come from the standard environment variables of the service (`AWS_*`, `GOOGLE_*`, `AZURE_*`), and the options
//! of the program go before them. Credentials are found as the service's own tools find them: given keys, a profile
//! file (S3), a token file of the workload, and the metadata service of the machine.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey, S3CopyIfNotExists};
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};
use object_store::signer::Signer;
use object_store::{BackoffConfig, ClientOptions, ObjectStore, RetryConfig};

use crate::profile::{ProfileCredentials, ProfileError};
use crate::unnameable::{Connector, Observed};
use crate::{Bucket, BucketUrl, Service};

/// Time limit for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Maximum time without progress of a request.
const READ_TIMEOUT: Duration = Duration::from_secs(30);

/// The settings of a client besides the URL.
#[derive(Debug, Clone, Default)]
pub struct ConnectOptions {
    /// The URL of the service, if it is not the service's own.
    pub endpoint: Option<String>,
    /// The region (S3).
    pub region: Option<String>,
    /// Whether the name of the bucket is in the path of a URL, and not in its host (S3).
    pub path_style: Option<bool>,
    /// The key of the key management service that encrypts new objects (S3).
    pub kms_key: Option<String>,
    /// The profile in the credentials file (S3).
    pub profile: Option<String>,
    /// The storage account (Azure).
    pub account: Option<String>,
    /// The environment variables of the process.
    pub variables: Vec<(String, String)>,
}

/// A client cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// A setting is missing or wrong.
    #[error(
        "cannot use the bucket {url}: {reason}\nhelp: add the missing setting to the table [bucket] of the config file, or set the environment variable of the service"
    )]
    Settings {
        /// The bucket.
        url: String,
        /// The reason.
        reason: String,
    },
    /// The credentials file cannot be used.
    #[error("cannot use the bucket {url}: {source}")]
    Profile {
        /// The bucket.
        url: String,
        /// The reason.
        source: ProfileError,
    },
}

impl ConnectOptions {
    pub(crate) fn variable(&self, name: &str) -> Option<&str> {
        let found = self.variables.iter().find(|(key, value)| key == name && !value.is_empty());
        found.map(|(_, value)| value.as_str())
    }

    fn with_prefix(&self, prefix: &'static str) -> impl Iterator<Item = (String, &str)> {
        let set =
            self.variables.iter().filter(move |(key, value)| key.starts_with(prefix) && !value.is_empty());
        set.map(|(key, value)| (key.to_ascii_lowercase(), value.as_str()))
    }

    pub(crate) fn home(&self) -> Option<PathBuf> {
        self.variable("HOME").map(PathBuf::from)
    }
}

impl Bucket {
    /// Makes the client of a bucket. Sends no request.
    pub fn connect(url: &BucketUrl, options: &ConnectOptions) -> Result<Self, ConnectError> {
        // Another part of the program may have done so.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let observed = Arc::<Observed>::default();
        let connector = Connector(Arc::clone(&observed));
        let (store, signer) = match url.service {
            Service::S3 => s3(url, options, connector)?,
            Service::Gcs => gcs(url, options, connector)?,
            Service::Azure => azure(url, options, connector)?,
        };
        Ok(Self::new(store, signer, url.clone(), observed))
    }
}

type Client = (Arc<dyn ObjectStore>, Option<Arc<dyn Signer>>);

fn s3(url: &BucketUrl, options: &ConnectOptions, connector: Connector) -> Result<Client, ConnectError> {
    let mut builder = AmazonS3Builder::new().with_region("us-east-1");
    builder = builder.with_client_options(client_options(
        options
            .endpoint
            .as_deref()
            .or_else(|| options.variable("AWS_ENDPOINT_URL_S3").or(options.variable("AWS_ENDPOINT_URL"))),
    ));
    for (name, value) in options.with_prefix("AWS_") {
        if let Ok(key) = name.parse::<AmazonS3ConfigKey>() {
            builder = builder.with_config(key, value);
        }
    }
    let profile = ProfileCredentials::find(options)
        .map_err(|source| ConnectError::Profile { url: url.to_string(), source })?;
    if let Some(profile) = profile {
        if let Some(region) = profile.region().filter(|_| options.variable("AWS_REGION").is_none()) {
            builder = builder.with_region(region);
        }
        builder = builder.with_credentials(Arc::new(profile));
    }
    if let Some(endpoint) = &options.endpoint {
        builder = builder.with_endpoint(endpoint);
    }
    if let Some(region) = &options.region {
        builder = builder.with_region(region);
    }
    if let Some(path_style) = options.path_style {
        builder = builder.with_virtual_hosted_style_request(!path_style);
    }
    if let Some(key) = &options.kms_key {
        builder = builder.with_sse_kms_encryption(key);
    }
    // A plain copy has no condition that S3 honours. The completion of an upload has.
    builder = builder.with_copy_if_not_exists(S3CopyIfNotExists::Multipart);
    let built =
        builder.with_bucket_name(&url.name).with_retry(retry()).with_http_connector(connector).build();
    let store = Arc::new(built.map_err(|error| settings(url, &error))?);
    Ok((Arc::clone(&store) as _, Some(store as _)))
}

fn gcs(url: &BucketUrl, options: &ConnectOptions, connector: Connector) -> Result<Client, ConnectError> {
    let mut builder = GoogleCloudStorageBuilder::new();
    builder = builder.with_client_options(client_options(options.endpoint.as_deref()));
    let mut has_key = options.variable("SERVICE_ACCOUNT").is_some();
    if let Some(path) = options.variable("SERVICE_ACCOUNT") {
        builder = builder.with_service_account_path(path);
    }
    for (name, value) in options.with_prefix("GOOGLE_") {
        if let Ok(key) = name.parse::<GoogleConfigKey>() {
            has_key |= matches!(key, GoogleConfigKey::ServiceAccount | GoogleConfigKey::ServiceAccountKey);
            builder = builder.with_config(key, value);
        }
    }
    if let Some(endpoint) = &options.endpoint {
        builder = builder.with_config(GoogleConfigKey::BaseUrl, endpoint);
    }
    let built =
        builder.with_bucket_name(&url.name).with_retry(retry()).with_http_connector(connector).build();
    let store = Arc::new(built.map_err(|error| settings(url, &error))?);
    // Without a key each URL would take a request to the service's identity management.
    Ok((Arc::clone(&store) as _, has_key.then_some(store as _)))
}

fn azure(url: &BucketUrl, options: &ConnectOptions, connector: Connector) -> Result<Client, ConnectError> {
    let mut builder = MicrosoftAzureBuilder::new();
    builder = builder.with_client_options(client_options(
        options.endpoint.as_deref().or_else(|| options.variable("AZURE_STORAGE_ENDPOINT")),
    ));
    let mut has_key = false;
    for (name, value) in options.with_prefix("AZURE_") {
        if let Ok(key) = name.parse::<AzureConfigKey>() {
            has_key |= key == AzureConfigKey::AccessKey;
            builder = builder.with_config(key, value);
        }
    }
    if let Some(endpoint) = &options.endpoint {
        builder = builder.with_endpoint(endpoint.clone());
    }
    if let Some(account) = &options.account {
        builder = builder.with_account(account);
    }
    let built =
        builder.with_container_name(&url.name).with_retry(retry()).with_http_connector(connector).build();
    let store = Arc::new(built.map_err(|error| settings(url, &error))?);
    Ok((Arc::clone(&store) as _, has_key.then_some(store as _)))
}

fn settings(url: &BucketUrl, error: &object_store::Error) -> ConnectError {
    // The reason is often at the end of the chain, for example that the system has no certificates.
    let mut reason = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        let text = error.to_string();
        if !reason.contains(&text) {
            reason = format!("{reason}: {text}");
        }
        source = error.source();
    }
    ConnectError::Settings { url: url.to_string(), reason }
}

/// Returns the options of the connections. An endpoint with plain HTTP was chosen by the operator.
fn client_options(endpoint: Option<&str>) -> ClientOptions {
    ClientOptions::new()
        // The whole answer counts, and a zip may take long.
        .with_timeout_disabled()
        .with_connect_timeout(CONNECT_TIMEOUT)
        .with_read_timeout(READ_TIMEOUT)
        .with_allow_http(endpoint.is_some_and(|endpoint| endpoint.starts_with("http://")))
}

fn retry() -> RetryConfig {
    RetryConfig { backoff: BackoffConfig::default(), max_retries: 3, retry_timeout: Duration::from_secs(30) }
}
