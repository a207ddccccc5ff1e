//! The place of a list's entry: a proxy, a tree of files, version control, or none.
//!
//! Module paths arrive escaped, as in URLs and file names. A `!` is sent as it is. Credentials are removed
//! from an entry's URL here. They, or the configured ones of the host, are only sent over https.

use super::beginning::Beginning;
use super::client::{self, Client, Get};
use super::credentials::{Credentials, Keyring};
use super::direct::{Direct, SharedDownload};
use super::download::{Download, ZipDownload};
use super::encoding::Encoding;
use super::error::{UpstreamConfigError, UpstreamError};
use super::limit::{Limit, Limiter, Turn};
use super::peer::Signing;
use super::retry::{self, Budget};
use super::throttle::{Bandwidth, Throttle};
use crate::byte_budget::ByteBudget;
use bytes::Bytes;
use percent_encoding::percent_decode_str;
use reqwest::Url;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use std::fmt;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use stoa_gomod::goproxy::Source;

/// Limits for reading the body of an error, and for its text.
const MAX_ERROR_BODY_BYTES: usize = 4096;
const MAX_ERROR_BODY_WAIT: Duration = Duration::from_secs(5);
const MAX_MESSAGE_BYTES: usize = 650;
const MAX_MESSAGE_LINES: usize = 8;

/// The place of an entry.
pub(super) enum Place {
    /// A proxy.
    Http(Proxy),
    /// A tree of files laid out like a proxy.
    File(PathBuf),
    /// Version control, by the go command.
    Direct(Direct),
    /// No place.
    Off,
}

/// A proxy.
pub(super) struct Proxy {
    base: Url,
    client: Arc<Client>,
    credentials: Option<Credentials>,
    /// Signs the requests, if the proxy is a peer.
    signing: Option<Arc<Signing>>,
    /// Limits the downloads of zips.
    bandwidth: Option<Arc<Bandwidth>>,
    limiter: Limiter,
}

/// A request to a place.
#[derive(Clone, Copy)]
pub(super) struct Request<'a> {
    /// The escaped path, relative to the place.
    pub(super) path: &'a str,
    /// The maximum length of the body in bytes.
    pub(super) limit: u64,
    pub(super) via: Option<&'a HeaderValue>,
    /// The part of the file that the caller has. A proxy is asked for the rest, and may send the whole file.
    pub(super) after: Option<&'a Beginning>,
    /// Shared with the requests for the other files of the same version.
    pub(super) turn: Option<&'a Turn>,
    pub(super) kept: Kept<'a>,
}

/// The places in which a request keeps what outlives it.
#[derive(Clone, Copy, Default)]
pub(super) struct Kept<'a> {
    /// Receives the other files of a version from `direct`.
    pub(super) shared: Option<&'a SharedDownload>,
    /// Bounds large bodies in memory.
    pub(super) memory: Option<&'a ByteBudget>,
    /// The turns of the version's requests to each entry.
    pub(super) turns: &'a [Turn],
}

/// An answer, whatever its status.
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) content_type: Option<String>,
    pub(super) body: Download,
}

impl Place {
    /// Makes the place of a source. `client` is that of all proxies of the list.
    pub(super) fn new(
        source: &Source,
        keyring: &Keyring,
        direct: &Direct,
        client: &dyn Fn() -> Result<Arc<Client>, UpstreamConfigError>,
    ) -> Result<Self, UpstreamConfigError> {
        let text = match source {
            Source::Url(text) => text,
            Source::Direct => return Ok(Self::Direct(direct.clone())),
            Source::Off => return Ok(Self::Off),
        };
        let refused =
            |reason: &str| UpstreamConfigError::List { reason: format!("{:?} {reason}", redact(text)) };
        let url = Url::parse(text).map_err(|error| refused(&format!("is not a valid URL ({error})")))?;
        if url.scheme() == "file" {
            let root = url.to_file_path().map_err(|()| refused("is not a local path"))?;
            return Ok(Self::File(root));
        }
        Ok(Self::Http(Proxy::new(url, keyring, client()?)))
    }

    /// Returns the attempts for one request. `None` if a request is not repeated.
    pub(super) fn budget(&self) -> Option<Budget> {
        match self {
            Self::Http(proxy) => Some(proxy.client.budget()),
            Self::File(_) | Self::Direct(_) | Self::Off => None,
        }
    }

    /// Returns whether a proxy accepts no requests now because it got too many. `None` for other places.
    pub(super) fn is_limited(&self) -> Option<bool> {
        match self {
            Self::Http(proxy) => Some(proxy.limiter.is_limited()),
            Self::File(_) | Self::Direct(_) | Self::Off => None,
        }
    }

    /// Returns the number of running go commands, and their maximum. `None` for other places than version control.
    pub(super) fn direct_permits(&self) -> Option<(usize, usize)> {
        match self {
            Self::Direct(direct) => Some(direct.permits()),
            Self::Http(_) | Self::File(_) | Self::Off => None,
        }
    }

    fn throttle(&self) -> Option<Throttle> {
        match self {
            Self::Http(proxy) => proxy.bandwidth.as_ref().map(Throttle::new),
            Self::File(_) | Self::Direct(_) | Self::Off => None,
        }
    }

    /// Returns the base URL of the place, without credentials.
    pub(super) fn shown(&self) -> String {
        match self {
            Self::Http(proxy) => shown(&proxy.base),
            Self::File(root) => format!("file://{}", root.display()),
            Self::Direct(_) => "direct".to_owned(),
            Self::Off => "off".to_owned(),
        }
    }

    /// Returns whether it is version control.
    pub(super) fn is_direct(&self) -> bool {
        matches!(self, Self::Direct(_))
    }

    /// Sends a request. Any status other than 200 is an error.
    pub(super) async fn open(&self, request: Request<'_>) -> Result<Download, UpstreamError> {
        let mut budget = self.budget();
        self.try_open(request, budget.as_mut()).await
    }

    /// Sends a request and reads the body to its end. Retries a failed body. Also returns the requested
    /// URL, without credentials.
    pub(super) async fn read(&self, request: Request<'_>) -> Result<(String, Bytes), UpstreamError> {
        let (mut budget, mut reserved) = (self.budget(), None);
        loop {
            let mut download = self.try_open(request, budget.as_mut()).await?;
            if let (Some(memory), Some(length), None) =
                (request.kept.memory, download.large_length(), &reserved)
            {
                reserved = memory.try_reserve(length);
                if reserved.is_none() {
                    // An answer that waits would keep a connection, whose buffer may be large.
                    drop(download);
                    reserved = Some(memory.reserve(length).await);
                    continue;
                }
            }
            match download.collect(request.kept.memory, reserved.take()).await {
                Ok(body) => return Ok((download.url, body)),
                Err(error) if is_retried(&error, budget.as_mut()).await => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Requests a zip and waits for its first bytes. Retries if the download fails before them.
    pub(super) async fn start_zip(&self, mut request: Request<'_>) -> Result<ZipDownload, UpstreamError> {
        let mut budget = self.budget();
        loop {
            let download = match self.try_open(request, budget.as_mut()).await {
                Ok(download) if download.extent.is_usable(download.validator.as_ref(), request.after) => {
                    download
                }
                // The upstream has no rest of this zip.
                Ok(_) | Err(UpstreamError::Status { status: 416, .. }) if request.after.is_some() => {
                    request.after = None;
                    continue;
                }
                Ok(download) => {
                    let reason = "it is a part of the file that was not requested".to_owned();
                    return Err(UpstreamError::BadAnswer { url: download.url, reason });
                }
                Err(error) => return Err(error),
            };
            match ZipDownload::start(download.within(self.throttle())).await {
                Err(error) if is_retried(&error, budget.as_mut()).await => {}
                started => return started,
            }
        }
    }

    /// Sends a request and returns the answer, whatever its status.
    pub(super) async fn ask(&self, request: Request<'_>) -> Result<Answer, UpstreamError> {
        let mut budget = self.budget();
        self.try_ask(request, budget.as_mut()).await
    }

    async fn try_open(
        &self,
        request: Request<'_>,
        budget: Option<&mut Budget>,
    ) -> Result<Download, UpstreamError> {
        let mut answer = self.try_ask(request, budget).await?;
        if answer.status == 200 || answer.status == 206 && request.after.is_some() {
            return Ok(answer.body);
        }
        let message = message(&mut answer).await;
        Err(UpstreamError::of_status(answer.status, answer.body.url, message))
    }

    async fn try_ask(
        &self,
        request: Request<'_>,
        budget: Option<&mut Budget>,
    ) -> Result<Answer, UpstreamError> {
        let Request { path, limit, kept, .. } = request;
        match (self, budget) {
            (Self::Http(proxy), Some(budget)) => proxy.ask(request, budget).await,
            (Self::File(root), _) => read_file(root.join(path), limit).await,
            (Self::Direct(direct), _) => {
                let body =
                    direct.open(path, limit, kept.shared.unwrap_or(&SharedDownload::default())).await?;
                Ok(Answer { status: 200, content_type: None, body })
            }
            (Self::Off | Self::Http(_), _) => Err(UpstreamError::Offline),
        }
    }
}

impl Proxy {
    fn new(mut base: Url, keyring: &Keyring, client: Arc<Client>) -> Self {
        let decode = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
        let named = !base.username().is_empty() || base.password().is_some();
        let own = named.then(|| Credentials::Login {
            login: decode(base.username()),
            password: decode(base.password().unwrap_or_default()),
        });
        // Both fail only for URLs without a host, which no proxy has.
        let _ = base.set_username("");
        let _ = base.set_password(None);
        base.set_fragment(None);
        let credentials = match base.scheme() {
            "https" => own.or_else(|| keyring.find(&base)),
            _ => {
                if own.is_some() {
                    log::warn!(url = shown(&base); "not sending credentials to a URL without https");
                }
                None
            }
        };
        let (signing, bandwidth) = (None, None);
        Self { base, client, credentials, signing, bandwidth, limiter: Limiter::new() }
    }

    /// Returns the proxy of a peer.
    pub(super) fn of_peer(
        base: Url,
        client: Arc<Client>,
        signing: Arc<Signing>,
        bandwidth: Option<Arc<Bandwidth>>,
    ) -> Self {
        let (credentials, signing) = (None, Some(signing));
        Self { base, client, credentials, signing, bandwidth, limiter: Limiter::new() }
    }

    async fn ask(
        &self,
        Request { path, limit, via, after, turn, .. }: Request<'_>,
        budget: &mut Budget,
    ) -> Result<Answer, UpstreamError> {
        let url = self.url(path);
        let (client, limiter) = (&self.client, &self.limiter);
        let (credentials, signing) = (self.credentials.as_ref(), self.signing.as_deref());
        let get = Get { url: &url, credentials, signing, via, after, limiter, turn };
        let response = client.get(get, budget).await?;
        let shown = shown(&url);
        let status = response.status().as_u16();
        let content_type = header(response.headers(), CONTENT_TYPE.as_str());
        let limited = Limit::of(response.status(), response.headers(), Instant::now());
        let body = match Encoding::of(response.headers()) {
            // The text of an error concerns clients only if the upstream itself wrote it.
            _ if !matches!(status, 200 | 206) && !client::is_same_origin(response.url(), &url) => {
                Download::whole(shown, Bytes::new(), limit)
            }
            Ok(encoding) => Download::http(shown, response, encoding, client.timeouts(), limit),
            Err(reason) if matches!(status, 200 | 206) => {
                return Err(UpstreamError::BadAnswer { url: shown, reason });
            }
            Err(_) => Download::whole(shown, Bytes::new(), limit),
        };
        let mut answer = Answer { status, content_type, body };
        let Some(limited) = limited else { return Ok(answer) };
        let (message, retry_after) = (message(&mut answer).await, limited.retry_after(Instant::now()));
        Err(UpstreamError::Limited { url: answer.body.url, status, retry_after, message })
    }

    fn url(&self, path: &str) -> Url {
        let mut url = self.base.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(path.split('/'));
        }
        url
    }
}

/// Waits before the next attempt for a failed body, if there is one.
async fn is_retried(error: &UpstreamError, budget: Option<&mut Budget>) -> bool {
    let pause = budget.filter(|_| retry::is_retryable(error)).and_then(|budget| budget.pause(None));
    if let Some(pause) = pause {
        log::debug!(reason:% = error, pause:? = pause; "retrying a request");
        tokio::time::sleep(pause).await;
    }
    pause.is_some()
}

/// Omits credentials, since the output may be logged.
impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown())
    }
}

/// Returns the URL of a source if it needs certificates.
pub(super) fn needs_roots(source: &Source) -> Option<String> {
    let Source::Url(text) = source else { return None };
    Url::parse(text).ok().filter(|url| url.scheme() == "https").map(|url| shown(&url))
}

/// Returns a URL without the parts that may be secret.
pub(super) fn shown(url: &Url) -> String {
    let mut url = url.clone();
    let _ = url.set_username("");
    let _ = url.set_password(None);
    url.set_query(None);
    url.set_fragment(None);
    url.into()
}

/// Returns a text that may be a URL without the parts that may be secret.
pub(super) fn redact(text: &str) -> String {
    let text = text.split(['?', '#']).next().unwrap_or_default();
    match text.rsplit_once('@') {
        // Even in an invalid URL, the part before an `@` may be a password.
        Some((before, after)) => match before.split_once("://") {
            Some((scheme, _)) => format!("{scheme}://{after}"),
            None => after.to_owned(),
        },
        None => text.to_owned(),
    }
}

async fn read_file(path: PathBuf, limit: u64) -> Result<Answer, UpstreamError> {
    let url = format!("file://{}", path.display());
    let absent = || UpstreamError::NotFound { url: url.clone(), message: String::new() };
    let failed = |error: std::io::Error| match error.kind() {
        ErrorKind::NotFound | ErrorKind::NotADirectory | ErrorKind::InvalidFilename => absent(),
        _ => UpstreamError::Transport { url: url.clone(), reason: error.to_string() },
    };
    // Checked before opening, since opening a pipe waits for its writer.
    if !tokio::fs::metadata(&path).await.map_err(failed)?.is_file() {
        return Err(absent());
    }
    let file = tokio::fs::File::open(&path).await.map_err(failed)?;
    let length = file.metadata().await.map_err(failed)?.len();
    let body = Download::file(url.clone(), file, length, limit);
    Ok(Answer { status: 200, content_type: None, body })
}

/// Reads the message of an error, as the go command would show it: printable text up to the first blank
/// line, cut to the limits.
async fn message(answer: &mut Answer) -> String {
    if !answer.content_type.as_deref().is_some_and(|kind| kind.starts_with("text/plain")) {
        return String::new();
    }
    let mut body = Vec::new();
    let reading = async {
        // A truncated message does not matter.
        while body.len() < MAX_ERROR_BODY_BYTES
            && let Ok(Some(chunk)) = answer.body.chunk().await
        {
            body.extend_from_slice(&chunk);
        }
    };
    let _ = tokio::time::timeout(MAX_ERROR_BODY_WAIT, reading).await;
    printable(&String::from_utf8_lossy(&body))
}

pub(super) fn printable(text: &str) -> String {
    let lines = text.lines().map(str::trim).take_while(|line| !line.is_empty()).take(MAX_MESSAGE_LINES);
    let mut message = lines.collect::<Vec<_>>().join("; ");
    if message.chars().any(|c| c.is_control() || c == char::REPLACEMENT_CHARACTER) {
        return String::new();
    }
    message.truncate(message.floor_char_boundary(MAX_MESSAGE_BYTES));
    message.strip_prefix("not found: ").map(str::to_owned).unwrap_or(message)
}

fn header(headers: &HeaderMap, name: &str) -> Option<String> {
    Some(headers.get(name)?.to_str().ok()?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::super::UpstreamOptions;
    use super::super::credentials::HostCredentials;
    use super::super::netrc::Netrc;
    use super::super::tls::Roots;
    use super::*;

    fn client() -> Result<Arc<Client>, UpstreamConfigError> {
        Client::new(&UpstreamOptions::default(), Roots::OfSystem(None)).map(Arc::new)
    }

    fn proxy(url: &str, keyring: &Keyring) -> Proxy {
        match Place::new(&Source::Url(url.to_owned()), keyring, &Direct::default(), &client).unwrap() {
            Place::Http(proxy) => proxy,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn paths_are_appended_to_the_base_url() {
        let none = Keyring::default();
        let url = |base: &str, path: &str| proxy(base, &none).url(path).to_string();
        assert_eq!(
            url("https://a.example", "m.io/!a/@v/v1.0.0.mod"),
            "https://a.example/m.io/!a/@v/v1.0.0.mod"
        );
        assert_eq!(url("https://a.example/p/", "m.io/@v/list"), "https://a.example/p/m.io/@v/list");
        assert_eq!(
            url("https://a.example/p%2Fq?k=v", "m.io/@latest"),
            "https://a.example/p%2Fq/m.io/@latest?k=v"
        );
        assert_eq!(
            url("https://a.example", "m.io/@v/v1.0.0+x y%#.info"),
            "https://a.example/m.io/@v/v1.0.0+x%20y%25%23.info"
        );
    }

    #[test]
    fn credentials_are_only_used_with_https() {
        let folder = testkit::tempdir();
        let path = folder.path().join("netrc");
        #[expect(clippy::disallowed_methods, reason = "a scratch file of a test, no store")]
        std::fs::write(&path, "machine a.example login net password rc").unwrap();
        let token = Credentials::Bearer("token".to_owned());
        let hosts = vec![HostCredentials { host: "t.example".to_owned(), credentials: token.clone() }];
        let keyring = Keyring { hosts, netrc: Netrc::read(Some(&path)) };
        let of = |url| proxy(url, &keyring).credentials;
        let pair = |login: &str, password: &str| {
            Some(Credentials::Login { login: login.to_owned(), password: password.to_owned() })
        };
        assert_eq!(of("https://t.example/p"), Some(token));
        assert_eq!(of("http://t.example/p"), None);
        assert_eq!(of("https://u%40x:p%3Aw@a.example/p"), pair("u@x", "p:w"));
        assert_eq!(of("https://token@b.example"), pair("token", ""));
        assert_eq!(of("https://a.example/p"), pair("net", "rc"));
        assert_eq!(of("https://b.example"), None);
        assert_eq!(of("http://u:p@a.example"), None);
        assert_eq!(of("http://a.example"), None);
    }

    #[test]
    fn secrets_are_never_shown() {
        let url = "https://user:secret@a.example/p?token=secret#secret";
        let source = Source::Url(url.to_owned());
        let place = Place::new(&source, &Keyring::default(), &Direct::default(), &client).unwrap();
        assert_eq!(place.shown(), "https://a.example/p");
        assert_eq!(format!("{place:?}"), "https://a.example/p");
        for bad in [
            "https://user:secret@",
            "user:secret@host",
            "https://user:sec@ret@host/?secret",
            "ftp://u:secret@h",
        ] {
            assert!(!redact(bad).contains("sec"), "{bad}");
        }
    }

    #[test]
    fn messages_of_upstreams_are_cut_to_printable_lines() {
        assert_eq!(printable("not found: no such\nmodule\n\nat all"), "no such; module");
        assert_eq!(printable("\u{1b}[31mred"), "");
        assert_eq!(printable(&"é".repeat(1000)).len(), 650);
        assert_eq!(printable(&"x\n".repeat(20)).matches('x').count(), 8);
    }
}
