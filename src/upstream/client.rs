//! The HTTP client: certificates, redirects and retries.
//!
//! Certificates are those of [`tls`]. Redirects are followed within limits, see [`redirect`]. Failures that may be temporary
//! are retried, see [`retry`]. An upstream that limits requests gets fewer, see [`limit`](super::limit). Callers interpret the
//! status.

use super::beginning::Beginning;
use super::credentials::Credentials;
use super::error::{UpstreamConfigError, UpstreamError};
use super::limit::{Limit, Limiter, Limiting, Turn};
use super::peer::Signing;
use super::redirect::{self, MAX_REDIRECTS, PublicOnly, Refusal};
use super::retry::{self, Budget, RetryOptions};
use super::tls::{self, Roots};
use super::{UpstreamOptions, address, place};
use crate::sync::sha256;
use hyper::Uri;
use hyper_util::client::proxy::matcher::Matcher;
use reqwest::header::{ACCEPT_ENCODING, HeaderMap, HeaderValue, IF_RANGE, RANGE, VIA};
use reqwest::{Response, Url};
use std::time::{Duration, Instant};

/// The client for every upstream of a list.
#[derive(Debug)]
pub(super) struct Client {
    /// Uses the forward proxy from the environment, if there is one.
    outside: reqwest::Client,
    /// For loopback addresses: never uses a forward proxy, as in the go command.
    loopback: reqwest::Client,
    /// For redirects to public addresses only.
    public_only: reqwest::Client,
    /// The forward proxies of `outside`.
    forward_proxies: Matcher,
    allow_private_redirects: bool,
    timeouts: Timeouts,
    retry: RetryOptions,
}

/// The timeouts.
#[derive(Debug, Clone, Copy)]
pub(super) struct Timeouts {
    connect: Duration,
    pub(super) idle: Duration,
}

/// A request, as it is sent to the upstream.
#[derive(Clone, Copy)]
pub(super) struct Get<'a> {
    pub(super) url: &'a Url,
    pub(super) credentials: Option<&'a Credentials>,
    /// Signs each attempt.
    pub(super) signing: Option<&'a Signing>,
    pub(super) via: Option<&'a HeaderValue>,
    /// The part that the caller has. Only the rest is requested.
    pub(super) after: Option<&'a Beginning>,
    pub(super) limiter: &'a Limiter,
    /// Shared with the other requests for the same version.
    pub(super) turn: Option<&'a Turn>,
}

impl Client {
    /// Creates the client.
    pub(super) fn new(options: &UpstreamOptions, roots: Roots<'_>) -> Result<Self, UpstreamConfigError> {
        let user_agent = HeaderValue::from_str(&options.user_agent)
            .map_err(|_| UpstreamConfigError::UserAgent(options.user_agent.clone()))?;
        let tls = tls::config(roots)?;
        let builder = || {
            reqwest::Client::builder()
                .tls_backend_preconfigured(tls.clone())
                .connect_timeout(options.connect_timeout)
                .user_agent(user_agent.clone())
                .default_headers(HeaderMap::from_iter([(
                    ACCEPT_ENCODING,
                    HeaderValue::from_static("identity"),
                )]))
                .redirect(reqwest::redirect::Policy::none())
        };
        let build = |builder: reqwest::ClientBuilder| {
            builder.build().map_err(|error| UpstreamConfigError::Client(causes(&error.without_url())))
        };
        Ok(Self {
            outside: build(builder())?,
            loopback: build(builder().no_proxy())?,
            public_only: build(builder().no_proxy().dns_resolver(PublicOnly))?,
            forward_proxies: Matcher::from_system(),
            allow_private_redirects: options.allow_private_redirects,
            timeouts: Timeouts { connect: options.connect_timeout, idle: options.idle_timeout },
            retry: options.retry,
        })
    }

    /// Returns the timeouts.
    pub(super) fn timeouts(&self) -> Timeouts {
        self.timeouts
    }

    /// Returns the attempts for one request.
    pub(super) fn budget(&self) -> Budget {
        Budget::new(self.retry)
    }

    /// Returns the client for a URL of the configuration.
    pub(super) fn plain(&self, url: &Url) -> &reqwest::Client {
        if address::is_loopback(url) { &self.loopback } else { &self.outside }
    }

    /// Sends a GET and waits for the headers of the answer, whatever its status.
    pub(super) async fn get(&self, get: Get<'_>, budget: &mut Budget) -> Result<Response, UpstreamError> {
        let mut is_finder = false;
        let mut turn = match get.turn.filter(|_| get.limiter.is_cautious(Instant::now())) {
            Some(shared) => Some(shared.has_given_up.lock().await),
            None => None,
        };
        loop {
            let (sent, limiting) = self.attempt(get).await;
            is_finder |= limiting == Limiting::New;
            if limiting != Limiting::Open {
                if let Some(shared) = get.turn.filter(|_| turn.is_none()) {
                    turn = Some(shared.has_given_up.lock().await);
                }
                if turn.as_deref().is_some_and(|has_given_up| *has_given_up) {
                    return sent;
                }
            }
            let requested = match &sent {
                Ok(answer) => match Limit::of(answer.status(), answer.headers(), Instant::now()) {
                    Some(limit) => Some(limit.retry_after(Instant::now())),
                    None if retry::is_retryable_status(answer.status()) => None,
                    None => return sent,
                },
                Err(UpstreamError::Limited { retry_after, .. }) => Some(*retry_after),
                Err(UpstreamError::Transport { .. }) => None,
                Err(_) => return sent,
            };
            // A limit that another request has found is probed once.
            let is_probed = limiting == Limiting::Probed && !is_finder;
            let pause = if is_probed { None } else { budget.pause(requested) };
            let Some(pause) = pause else {
                if let Some(has_given_up) = turn.as_deref_mut() {
                    *has_given_up = limiting != Limiting::Open;
                }
                return sent;
            };
            log::debug!(url = place::shown(get.url), reason = outcome(&sent), pause:? = pause; "retrying a request");
            drop(sent);
            tokio::time::sleep(pause).await;
        }
    }

    /// Sends a request once, or not at all while the upstream limits requests.
    async fn attempt(&self, get: Get<'_>) -> (Result<Response, UpstreamError>, Limiting) {
        let pass = match get.limiter.enter().await {
            Ok(pass) => pass,
            Err(limit) => {
                let message = "another request got this answer, and Stoa sends no request until then";
                let retry_after = limit.retry_after(Instant::now());
                let (url, message) = (place::shown(get.url), message.to_owned());
                let error = UpstreamError::Limited { url, status: limit.status, retry_after, message };
                return (Err(error), Limiting::Known);
            }
        };
        let within = self.timeouts.connect.saturating_add(self.timeouts.idle);
        let sent = match tokio::time::timeout(within, self.follow(get)).await {
            Ok(sent) => sent,
            Err(_) => Err(UpstreamError::Timeout {
                url: place::shown(get.url),
                reason: format!(
                    "no answer within {within:?} (upstream_idle_timeout, and the time to connect)"
                ),
            }),
        };
        let now = Instant::now();
        let limit = sent.as_ref().ok().and_then(|answer| Limit::of(answer.status(), answer.headers(), now));
        let Some(limit) = limit.filter(|limit| limit.is_of_all_requests()) else {
            pass.answered();
            return (sent, Limiting::Open);
        };
        let limiting = pass.limited(limit, now);
        if limiting == Limiting::New {
            let retry_after = limit.retry_after(now);
            log::warn!(
                url = place::shown(get.url), status = limit.status, retry_after:? = retry_after;
                "an upstream limits requests"
            );
        }
        (sent, limiting)
    }

    /// Sends a request, and follows redirects.
    async fn follow(&self, get: Get<'_>) -> Result<Response, UpstreamError> {
        let refused = |refusal: Refusal| UpstreamError::BadAnswer {
            url: place::shown(get.url),
            reason: refusal.to_string(),
        };
        let mut url = get.url.clone();
        // Whether all requests so far went to the origin of the first one.
        let mut is_at_home = true;
        // Whether the server that is asked was named by the configuration or by a server in a private network.
        let mut is_trusted = true;
        for _ in 0..=MAX_REDIRECTS {
            let client = self.client_for(&url, is_trusted).map_err(refused)?;
            let mut request = client.get(url.clone());
            if let Some(credentials) = get.credentials.filter(|_| is_at_home) {
                request = credentials.add_to(request);
            }
            if let Some(via) = get.via {
                request = request.header(VIA, via);
            }
            if let Some(Beginning { size, validator: Some(validator), .. }) = get.after {
                request = request.header(RANGE, format!("bytes={size}-")).header(IF_RANGE, validator.value());
            }
            let sent = match get.signing {
                Some(signing) => signing.send("GET", &url, sha256(b""), request).await,
                None => request.send().await,
            };
            let answer = sent.map_err(|error| from_reqwest(place::shown(get.url), error))?;
            // A signature is of a request to one address.
            if get.signing.is_some() {
                return Ok(answer);
            }
            let Some(next) = redirect::target(&answer).map_err(refused)? else { return Ok(answer) };
            is_at_home &= is_same_origin(&next, get.url);
            is_trusted &= self.allow_private_redirects || self.is_private(&url, &answer);
            url = next;
        }
        Err(refused(Refusal::TooMany))
    }

    fn client_for(&self, url: &Url, is_trusted: bool) -> Result<&reqwest::Client, Refusal> {
        if is_trusted {
            return Ok(self.plain(url));
        }
        redirect::check_host(url)?;
        // A forward proxy resolves names itself.
        Ok(if self.is_forwarded(url) { &self.outside } else { &self.public_only })
    }

    /// Returns whether an answer came from an address that is not public. The address behind a forward proxy is only
    /// known if the URL contains it.
    fn is_private(&self, url: &Url, answer: &Response) -> bool {
        if address::is_loopback(url) {
            return true;
        }
        let connected = || answer.remote_addr().filter(|_| !self.is_forwarded(url)).map(|peer| peer.ip());
        address::literal(url).or_else(connected).is_some_and(|address| !address::is_public(address))
    }

    /// Returns whether requests for a URL go through a forward proxy.
    fn is_forwarded(&self, url: &Url) -> bool {
        let uri = url.as_str().parse::<Uri>();
        uri.is_ok_and(|uri| self.forward_proxies.intercept(&uri).is_some())
    }
}

/// Converts an error of the HTTP library.
pub(super) fn from_reqwest(url: String, error: reqwest::Error) -> UpstreamError {
    // The library's text contains the URL or the target of a redirect, including signatures.
    let error = error.without_url();
    let reason = causes(&error);
    if let Some(refusal) = refusal(&error) {
        UpstreamError::BadAnswer { url, reason: refusal.to_string() }
    } else if error.is_timeout() {
        UpstreamError::Timeout { url, reason }
    } else {
        UpstreamError::Transport { url, reason }
    }
}

/// Returns the refusal of a redirect among the causes of an error.
fn refusal(error: &reqwest::Error) -> Option<&Refusal> {
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        if let Some(refusal) = error.downcast_ref() {
            return Some(refusal);
        }
        cause = error.source();
    }
    None
}

fn outcome(sent: &Result<Response, UpstreamError>) -> String {
    match sent {
        Ok(answer) => format!("status {}", answer.status()),
        Err(error) => error.to_string(),
    }
}

/// Returns whether two URLs have the same scheme, host and port.
pub(super) fn is_same_origin(one: &Url, other: &Url) -> bool {
    let origin =
        |url: &Url| (url.scheme().to_owned(), url.host_str().map(str::to_owned), url.port_or_known_default());
    origin(one) == origin(other)
}

/// Returns the causes of an error, outermost first.
pub(super) fn causes(error: &reqwest::Error) -> String {
    let mut texts: Vec<String> = Vec::new();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        let text = error.to_string();
        // Some wrappers repeat the text of their cause.
        if !texts.iter().any(|earlier| earlier.contains(&text)) {
            texts.push(text);
        }
        cause = error.source();
    }
    if texts.is_empty() { error.to_string() } else { texts.join(": ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(allow_private_redirects: bool) -> Client {
        let options = UpstreamOptions { allow_private_redirects, ..UpstreamOptions::default() };
        Client::new(&options, Roots::OfSystem(None)).unwrap()
    }

    #[test]
    fn origins_have_a_scheme_a_host_and_a_port() {
        let is_same =
            |one: &str, other: &str| is_same_origin(&Url::parse(one).unwrap(), &Url::parse(other).unwrap());
        assert!(is_same("https://a.example/x", "https://A.example:443/y?z"));
        for other in ["http://a.example/x", "https://a.example:8443/x", "https://b.example/x"] {
            assert!(!is_same("https://a.example/x", other), "{other}");
        }
    }

    #[tokio::test]
    async fn a_redirect_from_the_public_internet_connects_to_public_addresses_only() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        // A name that is not refused before it is resolved.
        let request = client(false).public_only.get(format!("http://localhost:{port}/")).send();
        let error = from_reqwest("http://a.example/".to_owned(), request.await.unwrap_err());
        assert!(
            matches!(&error, UpstreamError::BadAnswer { reason, .. } if reason.contains("localhost, which is")),
            "{error}"
        );
        listener.set_nonblocking(true).unwrap();
        assert_eq!(listener.accept().unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
    }

    #[test]
    fn servers_that_are_not_trusted_name_public_hosts_only() {
        let url = |text: &str| Url::parse(text).unwrap();
        let client = client(false);
        for private in ["http://127.0.0.1:1/", "http://[fd00::1]/", "http://localhost/", "http://10.0.0.1/"] {
            assert!(client.client_for(&url(private), true).is_ok(), "{private}");
            assert!(client.client_for(&url(private), false).is_err(), "{private}");
        }
        assert!(client.client_for(&url("https://a.example/"), false).is_ok());
    }
}
