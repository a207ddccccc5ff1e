//! Fetching from other proxies along a list in the syntax of `GOPROXY`.
//!
//! Each request walks the list on its own: behind a `,` the next entry is asked only if the one before said
//! "not found" (404, 410), behind a `|` after any error; `off` ends the list, and so does `direct`, which is
//! version control. If nobody answers, the most informative error is reported: what went wrong before what is not
//! there. An error says nothing of absence unless [`UpstreamError::is_absent`], and no failure is remembered.
//!
//! What arrives is bounded in size and checked as far as one file alone can be: an info body must parse and
//! name the version asked for, a mod must have a module directive, a zip must begin like one. Whether the
//! files of a version agree is for whoever fills; they are got from one entry by [`VersionSource`].
//!
//! The protocol is that of the Go Modules Reference, section "GOPROXY protocol".

mod client;
mod credentials;
mod direct;
mod download;
mod error;
mod netrc;
mod place;
mod retry;
mod sumdb;
mod version;
mod via;

pub use credentials::{Credentials, HostCredentials};
pub use direct::{Direct, DirectOptions};
pub use download::ZipDownload;
pub use error::{UpstreamConfigError, UpstreamError};
pub use netrc::netrc_path;
pub use retry::RetryOptions;
pub use sumdb::SumdbAnswer;
pub use version::VersionSource;
pub use via::Via;

use bytes::Bytes;
use client::Client;
use credentials::Keyring;
use direct::Keep;
use netrc::Netrc;
use place::{Place, Request};
use reqwest::header::HeaderValue;
use sha2::{Digest, Sha256};
use std::collections::hash_map::RandomState;
use std::fmt;
use std::hash::BuildHasher;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use stoa_gomod::goproxy::{self, GoProxyError, GoProxyList, Outcome};
use stoa_gomod::{ModulePath, ModuleVersion, Revision, info, modfile};

const MAX_INFO_BYTES: u64 = 1 << 20;
const MAX_MOD_BYTES: u64 = 16 << 20;
const MAX_LIST_BYTES: u64 = 8 << 20;
const MAX_ZIP_BYTES: u64 = 500 << 20;

/// The proxies that this one asks; cheap to clone.
#[derive(Clone)]
pub struct Upstream {
    inner: Arc<Inner>,
}

/// The list in the syntax of `GOPROXY`, without credentials.
impl fmt::Display for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(list) = &self.inner.list else { return f.write_str("off") };
        let mut separator = "";
        for (entry, place) in list.entries().iter().zip(&self.inner.places) {
            write!(f, "{separator}{}", place.shown())?;
            separator = if entry.fallback_on_any_error { "|" } else { "," };
        }
        Ok(())
    }
}

/// Without the list as it was written, which may hold credentials.
impl fmt::Debug for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upstream")
            .field("places", &self.inner.places)
            .field("instance", &self.inner.instance)
            .finish_non_exhaustive()
    }
}

/// How to ask.
#[derive(Debug, Clone)]
pub struct UpstreamOptions {
    /// How long making a connection may take.
    pub connect_timeout: Duration,
    /// How long to wait for an answer to begin, and between two parts of its body.
    pub idle_timeout: Duration,
    /// How an upstream is asked again.
    pub retry: RetryOptions,
    /// The netrc file with credentials, see [`netrc_path`]. It is read once; one that is missing is as none.
    pub netrc: Option<PathBuf>,
    /// Who we are to which host, where its URL does not say it.
    pub credentials: Vec<HostCredentials>,
    /// The go command that `direct` is asked by; to be shared by all lists of a process.
    pub direct: Direct,
    /// What to send as `User-Agent`.
    pub user_agent: String,
    /// The name of this proxy in `Via`. No two proxies may share one, or they take each other for a circle.
    pub instance: String,
}

impl Default for UpstreamOptions {
    fn default() -> Self {
        // The hasher's keys are random, which is all the uniqueness that a name in Via needs.
        let unique = RandomState::new().hash_one("via");
        Self {
            connect_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(60),
            retry: RetryOptions::default(),
            netrc: None,
            credentials: Vec::new(),
            direct: Direct::default(),
            user_agent: concat!("stoa/", env!("CARGO_PKG_VERSION")).to_owned(),
            instance: format!("stoa-{unique:016x}"),
        }
    }
}

struct Inner {
    /// `None` if there is nobody to ask.
    list: Option<GoProxyList>,
    /// See [`Upstream::tag`].
    tag: Option<String>,
    /// Where the entries of the list lead to, in its order.
    places: Vec<Place>,
    /// `None` if no entry is asked by HTTP.
    client: Option<Client>,
    instance: String,
    databases: sumdb::Databases,
}

impl Upstream {
    /// Reads a list; an empty one, like `off`, leaves nobody to ask.
    pub fn new(list: &str, options: UpstreamOptions) -> Result<Self, UpstreamConfigError> {
        if !via::is_name(&options.instance) {
            return Err(UpstreamConfigError::Instance(options.instance));
        }
        if list.trim().is_empty() {
            return Ok(Self::of(Inner::offline(options.instance)));
        }
        let tag = tag(list);
        let list =
            goproxy::parse(list).map_err(|error| UpstreamConfigError::List { reason: reason(&error) })?;
        if list.entries().iter().all(|entry| entry.source == goproxy::Source::Off) {
            return Ok(Self::of(Inner::offline(options.instance)));
        }
        let keyring =
            Keyring { hosts: options.credentials.clone(), netrc: Netrc::read(options.netrc.as_deref()) };
        let places = list.entries().iter().map(|entry| Place::new(&entry.source, &keyring, &options.direct));
        let places = places.collect::<Result<Vec<_>, _>>()?;
        if places.iter().any(|place| matches!(place, Place::Direct(_))) {
            options.direct.sweep();
        }
        let client = match places.iter().any(|place| matches!(place, Place::Http(_))) {
            true => Some(Client::new(&options, places.iter().find_map(Place::needs_roots).as_deref())?),
            false => None,
        };
        Ok(Self::of(Inner {
            list: Some(list),
            tag: Some(tag),
            places,
            client,
            ..Inner::offline(options.instance)
        }))
    }

    /// Returns an upstream that has nobody to ask.
    pub fn offline() -> Self {
        Self::of(Inner::offline(UpstreamOptions::default().instance))
    }

    /// Says whether there is nobody to ask.
    pub fn is_offline(&self) -> bool {
        self.inner.list.is_none()
    }

    /// Returns whether an entry of the list is a proxy or a tree of files, which can be asked without the go command.
    pub fn has_proxy(&self) -> bool {
        self.inner.places.iter().any(|place| matches!(place, Place::Http(_) | Place::File(_)))
    }

    /// Returns what tells answers of this list from those of another one; `None` if there is nobody to ask. Nothing of
    /// its credentials is in it.
    pub fn tag(&self) -> Option<&str> {
        self.inner.tag.as_deref()
    }

    /// Returns the name of this proxy in `Via`.
    pub fn instance(&self) -> &str {
        &self.inner.instance
    }

    /// Fetches the list of a module's versions, as the upstream wrote it.
    pub async fn list(&self, module: &ModulePath, via: &Via) -> Result<Bytes, UpstreamError> {
        let path = format!("{}/@v/list", module.escaped());
        self.body(0, &path, MAX_LIST_BYTES, &Check::List, via, &Keep::default()).await.map(|(_, body)| body)
    }

    /// Fetches what an upstream takes for the latest version of a module; an info body.
    pub async fn latest(&self, module: &ModulePath, via: &Via) -> Result<Bytes, UpstreamError> {
        let path = format!("{}/@latest", module.escaped());
        let check = Check::Info(module, "latest");
        self.body(0, &path, MAX_INFO_BYTES, &check, via, &Keep::default()).await.map(|(_, body)| body)
    }

    /// Fetches what an upstream takes for the version of a branch, a commit or a shorthand; an info body.
    pub async fn query(
        &self,
        module: &ModulePath,
        revision: &Revision,
        via: &Via,
    ) -> Result<Bytes, UpstreamError> {
        let path = format!("{}/@v/{}.info", module.escaped(), revision.escaped());
        let check = Check::Info(module, revision.as_str());
        self.body(0, &path, MAX_INFO_BYTES, &check, via, &Keep::default()).await.map(|(_, body)| body)
    }

    /// Begins to fetch the files of one version, which are to come from one entry of the list.
    pub fn version(&self, version: &ModuleVersion) -> VersionSource {
        VersionSource::new(self.clone(), version.clone())
    }

    /// Fetches the info of a version; who wants more of it than this file uses [`version`](Self::version).
    pub async fn info(&self, version: &ModuleVersion, via: &Via) -> Result<Bytes, UpstreamError> {
        self.version(version).info(via).await
    }

    /// Fetches the mod of a version; who wants more of it than this file uses [`version`](Self::version).
    pub async fn modfile(&self, version: &ModuleVersion, via: &Via) -> Result<Bytes, UpstreamError> {
        self.version(version).modfile(via).await
    }

    /// Begins to fetch the zip of a version; who wants more of it than this file uses
    /// [`version`](Self::version).
    pub async fn zip(&self, version: &ModuleVersion, via: &Via) -> Result<ZipDownload, UpstreamError> {
        self.version(version).zip(via).await
    }

    fn of(inner: Inner) -> Self {
        Self { inner: Arc::new(inner) }
    }

    /// Fetches a body from the first entry that gives a good one, beginning with entry `from`.
    async fn body(
        &self,
        from: usize,
        path: &str,
        limit: u64,
        check: &Check<'_>,
        via: &Via,
        keep: &Keep,
    ) -> Result<(usize, Bytes), UpstreamError> {
        let mut walk = self.inner.walk(from, path, via)?;
        while let Some((index, place)) = walk.place() {
            let request = self.inner.request(path, limit, walk.via.as_ref());
            match checked_body(place, Request { keep: Some(keep), ..request }, check).await {
                Ok(body) => return Ok((index, body)),
                Err(error) => walk.fail(error),
            }
        }
        Err(walk.into_error())
    }

    /// Begins a zip from the first entry that begins one, beginning with entry `from`; `before` is how an earlier one
    /// failed.
    async fn begin_zip(
        &self,
        from: usize,
        path: &str,
        via: &Via,
        keep: &Keep,
        before: Option<UpstreamError>,
    ) -> Result<(usize, ZipDownload), UpstreamError> {
        let mut walk = Walk { worst: before, ..self.inner.walk(from, path, via)? };
        while let Some((index, place)) = walk.place() {
            let request = self.inner.request(path, MAX_ZIP_BYTES, walk.via.as_ref());
            match place.begin_zip(Request { keep: Some(keep), ..request }).await {
                Ok(zip) => return Ok((index, zip)),
                Err(error) => walk.fail(error),
            }
        }
        Err(walk.into_error())
    }
}

impl Inner {
    fn offline(instance: String) -> Self {
        Self {
            list: None,
            tag: None,
            places: Vec::new(),
            client: None,
            instance,
            databases: sumdb::Databases::default(),
        }
    }

    fn walk(&self, from: usize, path: &str, via: &Via) -> Result<Walk<'_>, UpstreamError> {
        if self.list.is_none() {
            return Err(UpstreamError::Offline);
        }
        if via.contains(&self.instance) {
            return Err(UpstreamError::Loop { url: path.to_owned() });
        }
        Ok(Walk { inner: self, index: Some(from), worst: None, via: via.appended(&self.instance) })
    }

    /// Returns the entry to ask after one failed in this way; `None` if the walk is over.
    fn next_after(&self, index: usize, error: &UpstreamError) -> Option<usize> {
        let outcome = if error.is_absent() { Outcome::NotFound } else { Outcome::Failed };
        self.list.as_ref()?.next_after(index, outcome)
    }

    /// Makes what is asked of a place of the list.
    fn request<'a>(&'a self, path: &'a str, limit: u64, via: Option<&'a HeaderValue>) -> Request<'a> {
        Request { client: self.client.as_ref(), path, limit, via, keep: None }
    }
}

async fn checked_body(
    place: &Place,
    request: Request<'_>,
    check: &Check<'_>,
) -> Result<Bytes, UpstreamError> {
    let (url, body) = place.read(request).await?;
    match check.fault(&body) {
        Some(reason) => Err(UpstreamError::BadAnswer { url, reason }),
        None => Ok(body),
    }
}

/// A request on its way along the list.
///
/// [`goproxy::Walk`] always begins at the first entry and lets an error of `direct` hide all others; here a
/// walk may begin later, and that version control has nothing does not hide that a proxy failed.
struct Walk<'u> {
    inner: &'u Inner,
    index: Option<usize>,
    worst: Option<UpstreamError>,
    via: Option<HeaderValue>,
}

impl<'u> Walk<'u> {
    /// Returns the place to ask now; `None` if the walk is over.
    fn place(&self) -> Option<(usize, &'u Place)> {
        let index = self.index?;
        Some((index, self.inner.places.get(index)?))
    }

    /// Notes that the place failed, and goes on to the next one that may be asked.
    fn fail(&mut self, error: UpstreamError) {
        log::debug!("{error}");
        self.index = self.index.and_then(|index| self.inner.next_after(index, &error));
        // Of equally informative errors the last counts, as in the go command.
        if self.worst.as_ref().is_none_or(|worst| worst.weight() <= error.weight()) {
            self.worst = Some(error);
        }
    }

    fn into_error(self) -> UpstreamError {
        self.worst.unwrap_or(UpstreamError::Offline)
    }
}

/// What a body must look like, so that a page of HTML with status 200 is not taken for it.
enum Check<'r> {
    List,
    /// The info of a module for what was asked for.
    Info(&'r ModulePath, &'r str),
    Mod,
}

impl Check<'_> {
    fn fault(&self, body: &[u8]) -> Option<String> {
        match self {
            // The go command would read a page as an empty list: a module that is known and has no versions.
            Self::List if body.trim_ascii_start().starts_with(b"<") => {
                Some("it is markup, no list".to_owned())
            }
            Self::List => None,
            Self::Info(module, requested) => {
                info::parse_answer(module, requested, body).err().map(|error| error.to_string())
            }
            Self::Mod => {
                (!modfile::has_module_directive(body)).then(|| "it has no module directive".to_owned())
            }
        }
    }
}

/// Is the beginning of the SHA-256 of a list without its credentials.
fn tag(list: &str) -> String {
    let mut plain = String::new();
    for part in list.split_inclusive([',', '|']) {
        let entry = part.trim_end_matches([',', '|']);
        plain += place::redact(entry.trim()).trim_end_matches('/');
        plain += &part[entry.len()..];
    }
    Sha256::digest(plain).iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

/// Says what is wrong with a list, without the credentials that may be in it.
fn reason(error: &GoProxyError) -> String {
    match error {
        GoProxyError::NoEntries => error.to_string(),
        GoProxyError::MissingScheme(text) => GoProxyError::MissingScheme(place::redact(text)).to_string(),
        GoProxyError::UnsupportedScheme(text) => {
            GoProxyError::UnsupportedScheme(place::redact(text)).to_string()
        }
        GoProxyError::InvalidUrl(text) => GoProxyError::InvalidUrl(place::redact(text)).to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(list: &str) -> String {
        Upstream::new(list, UpstreamOptions::default()).unwrap_err().to_string()
    }

    #[test]
    fn nobody_is_asked_where_nobody_is_named() {
        for list in ["", "  ", "off", "off,https://a.example"] {
            assert!(Upstream::new(list, UpstreamOptions::default()).unwrap().is_offline(), "{list:?}");
        }
        assert!(Upstream::offline().is_offline());
        assert!(!Upstream::new("direct", UpstreamOptions::default()).unwrap().is_offline());
        assert!(!Upstream::new("file:///srv", UpstreamOptions::default()).unwrap().is_offline());
    }

    #[test]
    fn lists_have_tags_without_their_secrets() {
        let tag =
            |list: &str| Upstream::new(list, UpstreamOptions::default()).unwrap().tag().map(str::to_owned);
        assert_eq!(tag("off"), None);
        assert_eq!(tag("https://u:p@a.example/x, direct"), tag("https://a.example/x/?token=t,direct"));
        let lists = [
            "https://a.example,direct",
            "https://a.example|direct",
            "https://a.example",
            "https://b.example",
        ];
        let tags: std::collections::BTreeSet<_> = lists.map(tag).into_iter().collect();
        assert_eq!(tags.len(), lists.len());
    }

    #[test]
    fn a_list_that_is_none_is_refused_without_its_secrets() {
        for list in
            ["|", "word", "ftp://u:secret@a.example", "https://u:secret@", "https://u:secret@a.example:port"]
        {
            let message = refused(list);
            assert!(message.starts_with("cannot read the list of upstreams"), "{message}");
            assert!(!message.contains("secret"), "{message}");
        }
    }

    #[test]
    fn a_name_that_cannot_be_sent_is_refused() {
        let with = |instance: &str, user_agent: &str| {
            let options = UpstreamOptions {
                instance: instance.to_owned(),
                user_agent: user_agent.to_owned(),
                ..UpstreamOptions::default()
            };
            Upstream::new("http://127.0.0.1:1", options)
        };
        assert!(matches!(with("a b", "x"), Err(UpstreamConfigError::Instance(_))));
        assert!(matches!(with("a", "x\ny"), Err(UpstreamConfigError::UserAgent(_))));
        assert_ne!(UpstreamOptions::default().instance, UpstreamOptions::default().instance);
    }
}
