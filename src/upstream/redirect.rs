//! Redirects: which URLs they may lead to, and from which addresses.
//!
//! A redirect leads to http or https, and never from https to http. It leads to a loopback, link-local or private
//! address only if the server that sent it is at such an address itself, or if the configuration allows that.
//! Otherwise an upstream could make Stoa read from servers that only Stoa can reach.

use super::address;
use hyper::Uri;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::header::LOCATION;
use reqwest::{Response, StatusCode, Url};
use std::net::SocketAddr;

pub(super) const MAX_REDIRECTS: usize = 10;

/// The reason why a redirect is not followed.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refusal {
    #[error("redirected more than {MAX_REDIRECTS} times")]
    TooMany,
    #[error("redirected to an invalid URL")]
    Invalid,
    #[error("redirected to a URL of the scheme {0:?}")]
    Scheme(String),
    #[error("redirected from https to http")]
    Downgrade,
    #[error(
        "redirected to {0}, which is a loopback, link-local or private address; fill.allow_private_redirects allows that"
    )]
    Private(String),
}

/// Returns the target of a redirect. Returns `None` if the answer is not a redirect.
pub(super) fn target(answer: &Response) -> Result<Option<Url>, Refusal> {
    let is_redirect = matches!(
        answer.status(),
        StatusCode::MOVED_PERMANENTLY
            | StatusCode::FOUND
            | StatusCode::SEE_OTHER
            | StatusCode::TEMPORARY_REDIRECT
            | StatusCode::PERMANENT_REDIRECT
    );
    let Some(location) = answer.headers().get(LOCATION).filter(|_| is_redirect) else { return Ok(None) };
    let location = std::str::from_utf8(location.as_bytes()).map_err(|_| Refusal::Invalid)?;
    target_of(answer.url(), location).map(Some)
}

fn target_of(from: &Url, location: &str) -> Result<Url, Refusal> {
    let mut url = from.join(location).map_err(|_| Refusal::Invalid)?;
    match (from.scheme(), url.scheme()) {
        ("https", "http") => return Err(Refusal::Downgrade),
        (_, "http" | "https") => {}
        (_, other) => return Err(Refusal::Scheme(other.to_owned())),
    }
    // The client cannot send some URLs, for example very long ones.
    if url.as_str().parse::<Uri>().is_err() {
        return Err(Refusal::Invalid);
    }
    // They would be sent as credentials.
    let _ = url.set_username("");
    let _ = url.set_password(None);
    Ok(url)
}

/// Refuses a URL whose host is visibly not public. Other names are checked by [`PublicOnly`].
pub(super) fn check_host(url: &Url) -> Result<(), Refusal> {
    let is_private = address::literal(url).is_some_and(|address| !address::is_public(address));
    match is_private || address::is_loopback(url) {
        true => Err(Refusal::Private(url.host_str().unwrap_or_default().to_owned())),
        false => Ok(()),
    }
}

/// A resolver that returns public addresses only. The client connects to these, so a name cannot stand for another
/// address a moment later.
#[derive(Debug)]
pub(super) struct PublicOnly;

impl Resolve for PublicOnly {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
            // Without a port the client adds that of the URL.
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            let public: Vec<SocketAddr> = found.filter(|address| address::is_public(address.ip())).collect();
            match public.is_empty() {
                true => Err(Refusal::Private(name.as_str().to_owned()).into()),
                false => Ok(Box::new(public.into_iter()) as Addrs),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects_lead_to_http_and_https() {
        let url = |text: &str| Url::parse(text).unwrap();
        let of = |from: &str, location: &str| target_of(&url(from), location);
        assert_eq!(of("http://a.example/p/q", "r?s#t").unwrap().as_str(), "http://a.example/p/r?s#t");
        assert_eq!(of("http://a.example/", "https://b.example/").unwrap().as_str(), "https://b.example/");
        assert_eq!(of("https://a.example/", "//b.example/").unwrap().as_str(), "https://b.example/");
        assert_eq!(of("http://a.example/", "http://u:p@b.example/").unwrap().as_str(), "http://b.example/");
        assert!(matches!(of("https://a.example/", "http://a.example/"), Err(Refusal::Downgrade)));
        for scheme in ["ftp://b.example/", "file:///etc/passwd", "data:,x", "unix:/run/x"] {
            assert!(matches!(of("http://a.example/", scheme), Err(Refusal::Scheme(_))), "{scheme}");
        }
        for invalid in ["http://[::1".to_owned(), "x".repeat(70_000)] {
            assert!(matches!(of("http://a.example/", &invalid), Err(Refusal::Invalid)));
        }
    }

    #[test]
    fn hosts_that_are_visibly_private_are_refused() {
        for host in ["127.0.0.1:80", "0x7f.1", "10.0.0.1", "[::ffff:10.0.0.1]", "localhost", "a.localhost."] {
            assert!(check_host(&Url::parse(&format!("http://{host}/")).unwrap()).is_err(), "{host}");
        }
        for host in ["a.example", "1.1.1.1", "[2606:4700::1111]"] {
            assert!(check_host(&Url::parse(&format!("http://{host}/")).unwrap()).is_ok(), "{host}");
        }
    }

    #[tokio::test]
    async fn a_name_has_public_addresses_only() {
        // Every machine knows this name.
        let error = PublicOnly.resolve("localhost".parse().unwrap()).await.err().unwrap();
        assert!(matches!(error.downcast_ref(), Some(Refusal::Private(name)) if name == "localhost"));
    }
}
