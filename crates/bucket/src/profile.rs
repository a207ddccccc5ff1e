//! Credentials of a profile, from the files that the tools of S3 share.
//!
//! The client crate does not read them. A profile with `role_arn`, `sso_*` or `credential_process` needs other
//! requests or programs, and is refused.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use async_trait::async_trait;
use object_store::CredentialProvider;
use object_store::aws::AwsCredential;

use crate::ConnectOptions;
use crate::unnameable::lock;

/// The variables that name credentials of another kind. They go before the default profile.
const OTHER_CREDENTIALS: [&str; 5] = [
    "AWS_ACCESS_KEY_ID",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_SKIP_SIGNATURE",
];

/// A credentials file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ProfileError {
    /// It cannot be read.
    #[error("cannot read the credentials file {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// It has no such profile.
    #[error("no profile `{name}` with an access key in {}\nhelp: add `aws_access_key_id` and `aws_secret_access_key` to the profile, or choose another with bucket.profile or AWS_PROFILE", path.display())]
    Missing {
        /// The file.
        path: PathBuf,
        /// The name of the profile.
        name: String,
    },
    /// The profile is of a kind that is not supported.
    #[error(
        "the profile `{name}` has `{key}`, which is not supported\nhelp: use a profile with an access key, or the credentials of the machine or the workload"
    )]
    Unsupported {
        /// The name of the profile.
        name: String,
        /// The key.
        key: &'static str,
    },
}

/// The credentials of a profile. The file is read again when it has changed.
#[derive(Debug)]
pub(crate) struct ProfileCredentials {
    path: PathBuf,
    name: String,
    region: Option<String>,
    current: Mutex<(Option<SystemTime>, Arc<AwsCredential>)>,
}

impl ProfileCredentials {
    /// Finds the credentials of the profile that the options name, or else of the default profile if no other credentials
    /// are given.
    pub(crate) fn find(options: &ConnectOptions) -> Result<Option<Self>, ProfileError> {
        let named = options.profile.as_deref().or_else(|| options.variable("AWS_PROFILE"));
        if named.is_none() && OTHER_CREDENTIALS.iter().any(|name| options.variable(name).is_some()) {
            return Ok(None);
        }
        let file = |variable: &str, name: &str| {
            let given = options.variable(variable).map(PathBuf::from);
            given.or_else(|| Some(options.home()?.join(".aws").join(name)))
        };
        let Some(path) = file("AWS_SHARED_CREDENTIALS_FILE", "credentials") else { return Ok(None) };
        let name = named.unwrap_or("default").to_owned();
        let config = file("AWS_CONFIG_FILE", "config").map(|path| read(&path)).transpose()?.flatten();
        let config = config.unwrap_or_default();
        let heading = if name == "default" { name.clone() } else { format!("profile {name}") };
        let region = value(&config, &heading, "region");
        let (modified, text) = (modified(&path), read(&path)?);
        let found = text
            .as_deref()
            .and_then(|text| credential(text, &name))
            .or_else(|| credential(&config, &heading));
        match found {
            Some(credential) => {
                Ok(Some(Self { path, name, region, current: Mutex::new((modified, Arc::new(credential))) }))
            }
            None if named.is_none() => Ok(None),
            None => {
                for key in ["role_arn", "sso_session", "sso_start_url", "credential_process"] {
                    if value(&config, &heading, key).is_some() {
                        return Err(ProfileError::Unsupported { name, key });
                    }
                }
                Err(ProfileError::Missing { path, name })
            }
        }
    }

    pub(crate) fn region(&self) -> Option<&str> {
        self.region.as_deref()
    }
}

#[async_trait]
impl CredentialProvider for ProfileCredentials {
    type Credential = AwsCredential;

    async fn get_credential(&self) -> object_store::Result<Arc<AwsCredential>> {
        let now = modified(&self.path);
        let mut current = lock(&self.current);
        if now.is_some() && now != current.0 {
            // A file that is being replaced is read again by the next request.
            let text = read(&self.path).ok().flatten();
            if let Some(credential) = text.and_then(|text| credential(&text, &self.name)) {
                *current = (now, Arc::new(credential));
            }
        }
        Ok(Arc::clone(&current.1))
    }
}

fn modified(path: &Path) -> Option<SystemTime> {
    std::fs::metadata(path).and_then(|found| found.modified()).ok()
}

/// Returns the text of a file. `None` if there is none.
fn read(path: &Path) -> Result<Option<String>, ProfileError> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(ProfileError::Read { path: path.to_owned(), source }),
    }
}

fn credential(text: &str, heading: &str) -> Option<AwsCredential> {
    Some(AwsCredential {
        key_id: value(text, heading, "aws_access_key_id")?,
        secret_key: value(text, heading, "aws_secret_access_key")?,
        token: value(text, heading, "aws_session_token"),
    })
}

/// Returns the value of a key below a heading.
fn value(text: &str, heading: &str, key: &str) -> Option<String> {
    let mut is_below = false;
    for line in text.lines() {
        if let Some(name) = line.trim().strip_prefix('[').and_then(|rest| rest.split(']').next()) {
            is_below = name.split_whitespace().eq(heading.split_whitespace());
        } else if is_below
            && !line.starts_with([' ', '\t', '#', ';'])
            && let Some((name, value)) = line.split_once('=')
            && name.trim() == key
        {
            return Some(value.trim().to_owned()).filter(|value| !value.is_empty());
        }
    }
    None
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "the test makes the files of another program")]
mod tests {
    use super::*;

    const CREDENTIALS: &str = "# comment\n[default]\naws_access_key_id=A\naws_secret_access_key = S=1 \n\n[ other ]\naws_access_key_id = B\naws_secret_access_key = T\naws_session_token = U\n";
    const CONFIG: &str = "[default]\nregion = eu-west-1\ns3 =\n  region = nested\n[profile other]\nregion=us-west-2\n[profile sso]\nsso_session = x\n";

    fn find(
        profile: Option<&str>,
        more: &[(&str, &str)],
    ) -> Result<Option<ProfileCredentials>, ProfileError> {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join(".aws")).unwrap();
        std::fs::write(dir.path().join(".aws/credentials"), CREDENTIALS).unwrap();
        std::fs::write(dir.path().join(".aws/config"), CONFIG).unwrap();
        let home = ("HOME".to_owned(), dir.path().to_str().unwrap().to_owned());
        let more = more.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        ProfileCredentials::find(&ConnectOptions {
            profile: profile.map(str::to_owned),
            variables: std::iter::once(home).chain(more).collect(),
            ..ConnectOptions::default()
        })
    }

    #[test]
    fn a_profile_gives_keys_and_region() {
        let default = find(None, &[]).unwrap().unwrap();
        assert_eq!((default.region(), &*lock(&default.current).1.secret_key), (Some("eu-west-1"), "S=1"));
        for other in
            [find(Some("other"), &[("AWS_ACCESS_KEY_ID", "x")]), find(None, &[("AWS_PROFILE", "other")])]
        {
            let other = other.unwrap().unwrap();
            let current = lock(&other.current);
            assert_eq!(
                (&*current.1.key_id, current.1.token.as_deref(), other.region()),
                ("B", Some("U"), Some("us-west-2"))
            );
        }
        assert!(find(None, &[("AWS_ACCESS_KEY_ID", "x")]).unwrap().is_none());
        assert!(matches!(find(Some("none"), &[]), Err(ProfileError::Missing { .. })));
        assert!(matches!(find(Some("sso"), &[]), Err(ProfileError::Unsupported { key: "sso_session", .. })));
    }
}
