//! The bucket: its URL, and the settings of its client.

use stoa_bucket::{BucketUrl, ConnectOptions};

use super::keys::Default;
use super::{ConfigError, Options, Settings, key, parse};

/// The prefixes of the environment variables that the tools of the services read.
const PREFIXES: [&str; 3] = ["AWS_", "AZURE_", "GOOGLE_"];

/// A bucket, and the settings of its client.
#[derive(Debug, Clone)]
pub struct BucketSettings {
    /// The URL.
    pub url: BucketUrl,
    /// The settings.
    pub options: ConnectOptions,
}

impl Settings<'_> {
    /// Resolves the bucket. `typed` goes before the configuration. `None` if there is no bucket.
    pub fn bucket(&self, typed: Option<BucketUrl>) -> Result<Option<BucketSettings>, ConfigError> {
        self.bucket_with(typed, &Options::default())
    }

    /// Resolves the bucket of a server.
    pub fn bucket_with(
        &self,
        typed: Option<BucketUrl>,
        options: &Options,
    ) -> Result<Option<BucketSettings>, ConfigError> {
        let configured = |text: &str| parse::bucket(text).map(Some);
        let url = match typed {
            Some(url) => Some(url),
            None => self.value("bucket.url", options, key("bucket.url").default, configured)?.0,
        };
        let Some(url) = url else { return Ok(None) };
        let text = |name: &'static str, parse: fn(&str) -> Result<String, String>| {
            let unset = Default::Unset("none", "");
            Ok::<_, ConfigError>(self.value(name, options, unset, |text| parse(text).map(Some))?.0)
        };
        let switch = |text: &str| parse::switch(text).map(Some);
        let options = ConnectOptions {
            endpoint: text("bucket.endpoint", parse::http_url)?,
            region: text("bucket.region", parse::name)?,
            path_style: self.value("bucket.path_style", options, key("bucket.path_style").default, switch)?.0,
            kms_key: text("bucket.kms_key", parse::name)?,
            profile: text("bucket.profile", parse::name)?,
            account: text("bucket.account", parse::name)?,
            variables: self.variables_of_services(),
        };
        Ok(Some(BucketSettings { url, options }))
    }

    /// Returns the variables that the client of a bucket may need.
    fn variables_of_services(&self) -> Vec<(String, String)> {
        let is_wanted = |name: &&String| {
            PREFIXES.iter().any(|prefix| name.starts_with(prefix))
                || ["HOME", "SERVICE_ACCOUNT", "MSI_ENDPOINT", "IDENTITY_ENDPOINT", "IDENTITY_HEADER"]
                    .contains(&name.as_str())
        };
        let value = |name: &String| Some((name.clone(), self.world.variable(name)?.into_string().ok()?));
        self.world.names.iter().filter(is_wanted).filter_map(value).collect()
    }
}
