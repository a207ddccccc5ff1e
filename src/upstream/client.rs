//! The HTTP client: certificates, redirects and retries.
//!
//! TLS uses rustls with ring and the system's certificates (or `SSL_CERT_FILE` and `SSL_CERT_DIR`, if set).
//! Up to ten redirects are followed, never from https to http. Failures that may be temporary are retried,
//! see [`retry`]. Callers interpret the status.

use super::credentials::Credentials;
use super::error::{UpstreamConfigError, UpstreamError};
use super::retry::{self, Budget, RetryOptions};
use super::{UpstreamOptions, place};
use reqwest::header::{ACCEPT_ENCODING, HeaderMap, HeaderValue, VIA};
use reqwest::{Response, Url, redirect};
use std::sync::Arc;
use std::time::Duration;

const MAX_REDIRECTS: usize = 10;

/// The client for every upstream of a list.
#[derive(Debug, Clone)]
pub(super) struct Client {
    /// Uses the proxy from the environment, if there is one.
    outside: reqwest::Client,
    /// For loopback addresses: never uses a proxy, as in the go command.
    loopback: reqwest::Client,
    timeouts: Timeouts,
    retry: RetryOptions,
}

/// The timeouts.
#[derive(Debug, Clone, Copy)]
pub(super) struct Timeouts {
    connect: Duration,
    pub(super) idle: Duration,
}

impl Client {
    /// Creates the client; `needs_roots` is an upstream that needs certificates.
    pub(super) fn new(
        options: &UpstreamOptions,
        needs_roots: Option<&str>,
    ) -> Result<Self, UpstreamConfigError> {
        let user_agent = HeaderValue::from_str(&options.user_agent)
            .map_err(|_| UpstreamConfigError::UserAgent(options.user_agent.clone()))?;
        let tls = tls_config(needs_roots)?;
        let builder = || {
            reqwest::Client::builder()
                .tls_backend_preconfigured(tls.clone())
                .connect_timeout(options.connect_timeout)
                .user_agent(user_agent.clone())
                .default_headers(HeaderMap::from_iter([(
                    ACCEPT_ENCODING,
                    HeaderValue::from_static("identity"),
                )]))
                .redirect(redirect::Policy::custom(follow))
                .referer(false)
        };
        let build = |builder: reqwest::ClientBuilder| {
            builder.build().map_err(|error| UpstreamConfigError::Client(causes(&error.without_url())))
        };
        Ok(Self {
            outside: build(builder())?,
            loopback: build(builder().no_proxy())?,
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

    /// Sends a GET and waits for the headers of the answer, whatever its status.
    pub(super) async fn get(
        &self,
        url: &Url,
        credentials: Option<&Credentials>,
        via: Option<&HeaderValue>,
        budget: &mut Budget,
    ) -> Result<Response, UpstreamError> {
        loop {
            let sent = self.send(url, credentials, via).await;
            let requested = match &sent {
                Ok(answer) if retry::is_retryable_status(answer.status()) => {
                    retry::retry_after(answer.headers())
                }
                Err(UpstreamError::Transport { .. }) => None,
                _ => return sent,
            };
            let Some(pause) = budget.pause(requested) else { return sent };
            log::debug!(url = place::shown(url), reason = outcome(&sent), pause:? = pause; "retrying a request");
            drop(sent);
            tokio::time::sleep(pause).await;
        }
    }

    async fn send(
        &self,
        url: &Url,
        credentials: Option<&Credentials>,
        via: Option<&HeaderValue>,
    ) -> Result<Response, UpstreamError> {
        let client = if is_loopback(url) { &self.loopback } else { &self.outside };
        let mut request = client.get(url.clone());
        if let Some(credentials) = credentials {
            request = credentials.add_to(request);
        }
        if let Some(via) = via {
            request = request.header(VIA, via);
        }
        let limit = self.timeouts.connect.saturating_add(self.timeouts.idle);
        match tokio::time::timeout(limit, request.send()).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) => Err(from_reqwest(place::shown(url), error)),
            Err(_) => Err(UpstreamError::Timeout {
                url: place::shown(url),
                reason: format!("no answer within {limit:?}"),
            }),
        }
    }
}

/// Converts an error of the HTTP library.
pub(super) fn from_reqwest(url: String, error: reqwest::Error) -> UpstreamError {
    // The library's text contains the URL or the target of a redirect, including signatures.
    let error = error.without_url();
    let reason = causes(&error);
    if error.is_timeout() {
        UpstreamError::Timeout { url, reason }
    } else if error.is_redirect() {
        UpstreamError::BadAnswer { url, reason }
    } else {
        UpstreamError::Transport { url, reason }
    }
}

fn outcome(sent: &Result<Response, UpstreamError>) -> String {
    match sent {
        Ok(answer) => format!("status {}", answer.status()),
        Err(error) => error.to_string(),
    }
}

fn follow(attempt: redirect::Attempt<'_>) -> redirect::Action {
    match refusal(attempt.previous(), attempt.url()) {
        Some(reason) => attempt.error(reason),
        None => attempt.follow(),
    }
}

/// Returns why a redirect is not followed. The first URL of `previous` is the original request.
fn refusal(previous: &[Url], next: &Url) -> Option<String> {
    if previous.len() > MAX_REDIRECTS {
        return Some(format!("redirected more than {MAX_REDIRECTS} times"));
    }
    let from_https = previous.last().is_some_and(|url| url.scheme() == "https");
    (from_https && next.scheme() != "https").then(|| "redirected from https to http".to_owned())
}

/// Returns whether a URL has a loopback address.
fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<std::net::IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

/// Returns the TLS configuration with the system's certificates; `needs_roots` is a URL that needs them.
pub(super) fn tls_config(needs_roots: Option<&str>) -> Result<rustls::ClientConfig, UpstreamConfigError> {
    let loaded = rustls_native_certs::load_native_certs();
    let mut roots = rustls::RootCertStore::empty();
    // Some system certificates are not accepted by rustls. They are skipped.
    let (accepted, _) = roots.add_parsable_certificates(loaded.certs);
    let errors = loaded.errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
    match needs_roots {
        Some(url) if accepted == 0 => {
            return Err(UpstreamConfigError::NoRoots { url: url.to_owned(), reason: errors });
        }
        Some(_) if !errors.is_empty() => log::warn!(reason = errors; "cannot read some root certificates"),
        _ => {}
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| UpstreamConfigError::Client(error.to_string()))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    // reqwest does not set ALPN in a preconfigured TLS config.
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
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

    #[test]
    fn redirects_never_leave_https_and_are_limited() {
        let (http, https) =
            (Url::parse("http://a.example").unwrap(), Url::parse("https://a.example").unwrap());
        let refused = |previous: &[&Url], next| {
            refusal(&previous.iter().map(|&url| url.clone()).collect::<Vec<_>>(), next).is_some()
        };
        assert!(refused(&[&https], &http));
        assert!(refused(&[&http, &https], &http));
        assert!(!refused(&[&https], &https) && !refused(&[&http], &https) && !refused(&[&http], &http));
        assert!(!refused(&[&https; 10], &https) && refused(&[&https; 11], &https));
    }

    #[test]
    fn loopback_addresses_are_recognized() {
        for (url, loopback) in [
            ("http://localhost:3000/x", true),
            ("http://127.8.0.1/", true),
            ("http://[::1]:80/", true),
            ("http://localhost.example/", false),
            ("http://10.0.0.1/", false),
        ] {
            assert_eq!(is_loopback(&Url::parse(url).unwrap()), loopback, "{url}");
        }
    }
}
