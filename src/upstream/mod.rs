//! Downloads from other proxies and version control, along a list in the syntax of `GOPROXY`.
//!
//! Each request walks the list. After a `,` the next entry is asked only if the previous entry answered 404
//! or 410; after a `|`, after any error. `off` and `direct` (version control) end the list. If no entry has
//! an answer, the most informative error is returned: a failure rather than a 404. If the only failures are entries
//! that could not be reached after another entry answered 404, the error is [`UpstreamError::Unreached`], and the
//! caller decides whether to report absence. Otherwise an error only means absence if [`UpstreamError::is_absent`] says so, and no failure is cached.
//!
//! Files are limited in size and checked as far as a single file allows: an info must parse and name the
//! requested version, a mod must have a module directive, a zip must start like one. Whether the files of a
//! version agree is checked by the caller. [`VersionSource`] gets them from one entry.
//!
//! The protocol is described in the Go Modules Reference, section "GOPROXY protocol".

mod address;
mod beginning;
mod client;
mod credentials;
mod direct;
mod download;
mod encoding;
mod error;
mod limit;
mod netrc;
mod peer;
mod place;
mod questions;
mod redirect;
mod retry;
mod sumdb;
mod throttle;
mod tls;
mod version;
mod via;

pub use credentials::{Credentials, HostCredentials};
pub use direct::{Direct, DirectOptions, DirectRule, DirectRules};
pub use download::{ByteStream, ZipDownload};
pub use error::{UpstreamConfigError, UpstreamError};
pub use netrc::netrc_path;
pub use peer::PeerClient;
pub use retry::RetryOptions;
pub use sumdb::SumdbAnswer;
pub use throttle::Waits;
pub use version::{GivenFiles, OpenZip, VersionSource};
pub use via::{Instance, Via};

use crate::byte_budget::{ByteBudget, SMALL_BODY};
use beginning::Beginning;
use bytes::Bytes;
use client::Client;
use credentials::Keyring;
use netrc::Netrc;
use place::{Kept, Place, Request};
use reqwest::header::HeaderValue;
use sha2::{Digest, Sha256};
use std::cell::OnceCell;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use stoa_gomod::goproxy::{self, Entry, GoProxyError, GoProxyList, Outcome};
use stoa_gomod::{ModulePath, ModuleVersion, info, modfile};
use tls::Roots;

/// Small enough to take nothing from the budget of large bodies. Otherwise flights that hold a part of the budget for
/// their infos could wait forever for another part for their go.mod files.
const MAX_INFO_BYTES: u64 = SMALL_BODY as u64;
const MAX_MOD_BYTES: u64 = 16 << 20;
const MAX_LIST_BYTES: u64 = 8 << 20;
const MAX_ZIP_BYTES: u64 = 500 << 20;

/// The budget for large lists and similar answers. It must suffice for the largest.
const MEMORY_BYTES: u32 = 16 << 20;

/// A list of upstreams. Cheap to clone.
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

/// Omits the original list, which may contain credentials.
impl fmt::Debug for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upstream")
            .field("places", &self.inner.places)
            .field("instance", &self.inner.instance)
            .finish_non_exhaustive()
    }
}

/// Settings for requests to upstreams.
#[derive(Debug, Clone)]
pub struct UpstreamOptions {
    /// How long making a connection may take.
    pub connect_timeout: Duration,
    /// Maximum time until an answer starts, and between two parts of its body.
    pub idle_timeout: Duration,
    /// The retries.
    pub retry: RetryOptions,
    /// The netrc file, see [`netrc_path`]. It is read once and may be missing.
    pub netrc: Option<PathBuf>,
    /// Credentials for hosts whose URL has none.
    pub credentials: Vec<HostCredentials>,
    /// The go command for `direct`, shared by all lists of a process.
    pub direct: Direct,
    /// The `User-Agent` header.
    pub user_agent: String,
    /// Whether an upstream at a public address may redirect to loopback, link-local and private addresses.
    pub allow_private_redirects: bool,
    /// The name of this proxy in `Via`.
    pub instance: Instance,
    /// The memory for large lists and similar answers, shared by all lists of a process.
    pub memory: AnswerMemory,
}

/// The memory for large lists and similar answers. Clones share it.
#[derive(Debug, Clone)]
pub struct AnswerMemory(ByteBudget);

impl Default for AnswerMemory {
    fn default() -> Self {
        Self(ByteBudget::new(MEMORY_BYTES))
    }
}

impl Default for UpstreamOptions {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(60),
            retry: RetryOptions::default(),
            netrc: None,
            credentials: Vec::new(),
            direct: Direct::default(),
            user_agent: concat!("stoa/", env!("CARGO_PKG_VERSION")).to_owned(),
            allow_private_redirects: false,
            instance: Instance::random(),
            memory: AnswerMemory::default(),
        }
    }
}

struct Inner {
    /// `None` if the list has no upstream.
    list: Option<GoProxyList>,
    /// See [`Upstream::tag`].
    tag: Option<String>,
    /// The places of the list's entries, in order.
    places: Vec<Arc<Place>>,
    instance: Instance,
    databases: sumdb::Databases,
    /// Bounds the large lists and similar answers in memory.
    memory: ByteBudget,
}

impl Upstream {
    /// Parses a list. An empty list and `off` have no upstream.
    pub fn new(list: &str, options: UpstreamOptions) -> Result<Self, UpstreamConfigError> {
        if list.trim().is_empty() {
            return Ok(Self::of(Inner::offline(options)));
        }
        let tag = tag(list);
        let list =
            goproxy::parse(list).map_err(|error| UpstreamConfigError::List { reason: reason(&error) })?;
        if list.entries().iter().all(|entry| entry.source == goproxy::Source::Off) {
            return Ok(Self::of(Inner::offline(options)));
        }
        let keyring =
            Keyring { hosts: options.credentials.clone(), netrc: Netrc::read(options.netrc.as_deref()) };
        let needs_roots = list.entries().iter().find_map(|entry| place::needs_roots(&entry.source));
        let client = OnceCell::new();
        let client = || match client.get() {
            Some(client) => Ok(Arc::clone(client)),
            None => {
                let made = Arc::new(Client::new(&options, Roots::OfSystem(needs_roots.as_deref()))?);
                Ok(Arc::clone(client.get_or_init(|| made)))
            }
        };
        let place =
            |entry: &Entry| Place::new(&entry.source, &keyring, &options.direct, &client).map(Arc::new);
        let places = list.entries().iter().map(place).collect::<Result<Vec<_>, _>>()?;
        if places.iter().any(|place| place.is_direct()) {
            options.direct.sweep();
        }
        Ok(Self::of(Inner { list: Some(list), tag: Some(tag), places, ..Inner::offline(options) }))
    }

    /// Returns an empty list of upstreams.
    pub fn offline() -> Self {
        Self::of(Inner::offline(UpstreamOptions::default()))
    }

    /// Returns whether the list has no upstream.
    pub fn is_offline(&self) -> bool {
        self.inner.list.is_none()
    }

    /// Returns whether an entry of the list is a proxy or a tree of files, which can be asked without the go command.
    pub fn has_proxy(&self) -> bool {
        self.inner.places.iter().any(|place| matches!(**place, Place::Http(_) | Place::File(_)))
    }

    /// Returns a tag that identifies the list, without its credentials. `None` if the list has no upstream.
    pub fn tag(&self) -> Option<&str> {
        self.inner.tag.as_deref()
    }

    /// Returns the name of the first place of the list, without credentials.
    pub(crate) fn first_place(&self) -> Option<String> {
        self.inner.places.first().map(|place| place.shown())
    }

    /// Returns the name of each proxy of the list, and whether it accepts no requests now because it got too many.
    pub(crate) fn limited(&self) -> impl Iterator<Item = (String, bool)> {
        self.inner.places.iter().filter_map(|place| Some((place.shown(), place.is_limited()?)))
    }

    /// Returns the number of go commands that run for `direct`, and their maximum. `None` without `direct`.
    pub(crate) fn direct_permits(&self) -> Option<(usize, usize)> {
        self.inner.places.iter().find_map(|place| place.direct_permits())
    }

    /// Returns the name of this proxy in `Via`.
    pub fn instance(&self) -> Instance {
        self.inner.instance
    }

    /// Returns the source of a version's files, which come from one entry of the list.
    pub fn version(&self, version: &ModuleVersion) -> VersionSource {
        VersionSource::new(self.clone(), version.clone())
    }

    /// Downloads the info of a version. For several files, use [`version`](Self::version).
    pub async fn info(&self, version: &ModuleVersion, via: &Via) -> Result<Bytes, UpstreamError> {
        self.version(version).info(via).await
    }

    /// Downloads the mod of a version. For several files, use [`version`](Self::version).
    pub async fn modfile(&self, version: &ModuleVersion, via: &Via) -> Result<Bytes, UpstreamError> {
        self.version(version).modfile(via).await
    }

    /// Starts the download of a version's zip. For several files, use [`version`](Self::version).
    pub async fn zip(&self, version: &ModuleVersion, via: &Via) -> Result<ZipDownload, UpstreamError> {
        self.version(version).zip(via).await
    }

    fn of(inner: Inner) -> Self {
        Self { inner: Arc::new(inner) }
    }

    /// Downloads a body from the first entry that has a valid one, starting with entry `from`.
    async fn body(
        &self,
        from: usize,
        path: &str,
        limit: u64,
        check: &Check<'_>,
        via: &Via,
        kept: Kept<'_>,
    ) -> Result<(usize, Bytes), UpstreamError> {
        let mut walk = self.inner.walk(from, path, via)?;
        while let Some((index, place)) = walk.place() {
            let request = self.inner.request(path, limit, walk.via.as_ref());
            let memory = matches!(check, Check::List).then_some(&self.inner.memory);
            let kept = Kept { memory: memory.or(kept.memory), ..kept };
            let turn = kept.turns.get(index);
            match checked_body(place, Request { kept, turn, ..request }, check).await {
                Ok(body) => return Ok((index, body)),
                Err(error) => walk.fail(error),
            }
        }
        Err(walk.into_error())
    }

    /// Starts the download of a zip from the first entry that has it, starting with entry `from`; `before`
    /// is the error of an earlier attempt, and `beginning` the part that it brought.
    async fn start_zip(
        &self,
        from: usize,
        path: &str,
        via: &Via,
        kept: Kept<'_>,
        before: Option<UpstreamError>,
        beginning: Option<&Beginning>,
    ) -> Result<(usize, ZipDownload), UpstreamError> {
        let mut walk = Walk { worst: before, ..self.inner.walk(from, path, via)? };
        while let Some((index, place)) = walk.place() {
            let request = self.inner.request(path, MAX_ZIP_BYTES, walk.via.as_ref());
            let after = beginning.filter(|part| part.entry == index && part.validator.is_some());
            let turn = kept.turns.get(index);
            match place.start_zip(Request { kept, after, turn, ..request }).await {
                Ok(mut zip) => {
                    if let Some(beginning) = beginning {
                        zip.compare(index, beginning);
                    }
                    return Ok((index, zip));
                }
                Err(error) => walk.fail(error),
            }
        }
        Err(walk.into_error())
    }
}

/// Returns the label of a place for metrics: the host of a proxy, `file`, `bucket` or `direct`.
pub(crate) fn place_label(shown: &str) -> &str {
    match shown.split_once("://") {
        Some(("http" | "https", rest)) => rest.split('/').next().unwrap_or(rest),
        Some(("file", _)) => "file",
        Some(_) => "bucket",
        None => shown,
    }
}

impl Inner {
    fn offline(options: UpstreamOptions) -> Self {
        Self {
            list: None,
            tag: None,
            places: Vec::new(),
            instance: options.instance,
            databases: sumdb::Databases::default(),
            memory: options.memory.0,
        }
    }

    fn walk(&self, from: usize, path: &str, via: &Via) -> Result<Walk<'_>, UpstreamError> {
        if self.list.is_none() {
            return Err(UpstreamError::Offline);
        }
        if via.is_loop_at(self.instance) {
            return Err(UpstreamError::Loop { url: path.to_owned() });
        }
        Ok(Walk {
            inner: self,
            index: Some(from),
            worst: None,
            absent: None,
            via: via.appended(self.instance),
        })
    }

    /// Returns the entry to ask after entry `index` failed. `None` at the end of the walk.
    fn next_after(&self, index: usize, error: &UpstreamError) -> Option<usize> {
        let outcome = if error.is_absent() { Outcome::NotFound } else { Outcome::Failed };
        self.list.as_ref()?.next_after(index, outcome)
    }

    /// Returns a request to a place of the list.
    fn request<'a>(&self, path: &'a str, limit: u64, via: Option<&'a HeaderValue>) -> Request<'a> {
        let (after, turn, kept) = (None, None, Kept::default());
        Request { path, limit, via, after, turn, kept }
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
struct Walk<'u> {
    inner: &'u Inner,
    index: Option<usize>,
    worst: Option<UpstreamError>,
    /// The first 404 or 410.
    absent: Option<UpstreamError>,
    via: Option<HeaderValue>,
}

impl<'u> Walk<'u> {
    /// Returns the place to ask now. `None` at the end of the walk.
    fn place(&self) -> Option<(usize, &'u Place)> {
        let index = self.index?;
        Some((index, self.inner.places.get(index)?))
    }

    /// Notes the error of the place, and moves on to the next entry that may be asked.
    fn fail(&mut self, error: UpstreamError) {
        log::debug!(reason:% = error; "cannot get an answer from an upstream");
        self.index = self.index.and_then(|index| self.inner.next_after(index, &error));
        let error = match (&self.absent, error) {
            (Some(absent), cause) if cause.is_unreachable() => {
                UpstreamError::Unreached { absent: Box::new(absent.clone()), cause: Box::new(cause) }
            }
            (_, error) => error,
        };
        if error.is_absent() {
            self.absent.get_or_insert_with(|| error.clone());
        }
        // Among equally informative errors the last one counts, as in the go command.
        if self.worst.as_ref().is_none_or(|worst| worst.weight() <= error.weight()) {
            self.worst = Some(error);
        }
    }

    fn into_error(self) -> UpstreamError {
        self.worst.unwrap_or(UpstreamError::Offline)
    }
}

/// The expected form of a body, so that an HTML page with status 200 is not taken for it.
enum Check<'r> {
    List,
    /// The info of a module for the requested version or query.
    Info(&'r ModulePath, &'r str),
    Mod,
}

impl Check<'_> {
    fn fault(&self, body: &[u8]) -> Option<String> {
        match self {
            // The go command would read an HTML page as an empty list: an existing module without versions.
            Self::List if body.trim_ascii_start().starts_with(b"<") => {
                Some("it is HTML, not a list".to_owned())
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

/// Checks the syntax of a list. The reason of an error contains no credentials.
pub(crate) fn check_list(list: &str) -> Result<(), String> {
    goproxy::parse(list).map(drop).map_err(|error| reason(&error))
}

/// Returns the first 8 bytes of the SHA-256 of a list without its credentials, in hex.
fn tag(list: &str) -> String {
    let mut plain = String::new();
    for part in list.split_inclusive([',', '|']) {
        let entry = part.trim_end_matches([',', '|']);
        plain += place::redact(entry.trim()).trim_end_matches('/');
        plain += &part[entry.len()..];
    }
    Sha256::digest(plain).iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

/// Returns the fault of a list, without the credentials in it.
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
    fn all_lists_of_a_process_share_the_memory_for_large_answers() {
        let options = UpstreamOptions::default();
        let lists = ["http://a.example", "http://b.example"];
        let [one, other] = lists.map(|list| Upstream::new(list, options.clone()).unwrap());
        let all = one.inner.memory.try_reserve(u64::from(MEMORY_BYTES));
        assert!(all.is_some() && other.inner.memory.try_reserve(1).is_none());
        drop(all);
        assert!(other.inner.memory.try_reserve(1).is_some());
    }

    #[test]
    fn a_list_without_upstreams_is_offline() {
        for list in ["", "  ", "off", "off,https://a.example"] {
            assert!(Upstream::new(list, UpstreamOptions::default()).unwrap().is_offline(), "{list:?}");
        }
        assert!(Upstream::offline().is_offline());
        assert!(!Upstream::new("direct", UpstreamOptions::default()).unwrap().is_offline());
        assert!(!Upstream::new("file:///srv", UpstreamOptions::default()).unwrap().is_offline());
    }

    #[test]
    fn tags_do_not_depend_on_credentials() {
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
    fn errors_of_invalid_lists_contain_no_credentials() {
        for list in
            ["|", "word", "ftp://u:secret@a.example", "https://u:secret@", "https://u:secret@a.example:port"]
        {
            let message = refused(list);
            assert!(message.starts_with("cannot use the list of upstreams"), "{message}");
            assert!(!message.contains("secret"), "{message}");
        }
    }

    #[test]
    fn a_user_agent_that_cannot_be_in_a_header_is_rejected() {
        let options = UpstreamOptions { user_agent: "x\ny".to_owned(), ..UpstreamOptions::default() };
        let refused = Upstream::new("http://127.0.0.1:1", options);
        assert!(matches!(refused, Err(UpstreamConfigError::UserAgent(_))));
    }
}
