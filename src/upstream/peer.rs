//! Requests to a peer, which are signed.
//!
//! A signature is of one request to one address, so no redirect is followed, and each attempt is signed anew. If the peer
//! refuses a request because of its time, the time of the peer is learned, and the request is sent once more.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use reqwest::header::{AUTHORIZATION, CONTENT_TYPE};
use reqwest::{RequestBuilder, Response, StatusCode, Url};
use stoa_gomod::goproxy::{GoProxyList, Source};

use super::client::{self, Client};
use super::error::{UpstreamConfigError, UpstreamError};
use super::place::{Place, Proxy, shown};
use super::throttle::Bandwidth;
use super::tls::Roots;
use super::{Inner, Upstream, UpstreamOptions, tag};
use crate::sync::{Clock, Nonce, PEER_TIME, Peer, Signer, sha256};

/// Sends requests to a peer. All users share its connections, its clock and its bandwidth.
pub struct PeerClient {
    peer: Arc<Peer>,
    client: Arc<Client>,
    signing: Arc<Signing>,
    upstream: Upstream,
}

impl fmt::Debug for PeerClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PeerClient").field("peer", &self.peer.name).finish_non_exhaustive()
    }
}

impl PeerClient {
    /// Creates a client for the requests of the deployment `own` to a peer.
    pub fn new(own: &str, peer: &Arc<Peer>, options: &UpstreamOptions) -> Result<Self, UpstreamConfigError> {
        let url = shown(&peer.url);
        let roots = match &peer.ca {
            Some(certificates) => Roots::Only(certificates),
            None => Roots::OfSystem((peer.url.scheme() == "https").then_some(url.as_str())),
        };
        let client = Arc::new(Client::new(options, roots)?);
        let signing = Arc::new(Signing {
            signer: Signer::new(own, peer),
            clock: Clock::start(),
            base: peer.url.clone(),
        });
        let bandwidth = peer.bandwidth.map(|bytes| Arc::new(Bandwidth::new(bytes)));
        let proxy = Proxy::of_peer(peer.url.clone(), Arc::clone(&client), Arc::clone(&signing), bandwidth);
        let url = peer.url.to_string();
        let upstream = Upstream::of(Inner {
            tag: Some(tag(&format!("peer {url}"))),
            list: Some(GoProxyList::of(Source::Url(url))),
            places: vec![Arc::new(Place::Http(proxy))],
            ..Inner::offline(options.clone())
        });
        Ok(Self { peer: Arc::clone(peer), client, signing, upstream })
    }

    /// Returns the peer.
    pub fn peer(&self) -> &Arc<Peer> {
        &self.peer
    }

    /// Returns the list that has the peer as its only entry.
    pub fn upstream(&self) -> &Upstream {
        &self.upstream
    }

    /// Returns the URL of a path, which is relative to the base URL of the peer and begins with a slash.
    pub fn url(&self, path: &str) -> Url {
        let mut url = self.peer.url.clone();
        url.set_path(&format!("{}{path}", url.path().trim_end_matches('/')));
        url
    }

    /// Sends a POST and waits for the headers of the answer, whatever its status. The caller bounds the body of the answer.
    ///
    /// `path` is as for [`url`](Self::url).
    pub async fn post(
        &self,
        path: &str,
        body: Vec<u8>,
        timeout: Duration,
    ) -> Result<Response, UpstreamError> {
        let url = self.url(path);
        let hash = sha256(&body);
        let request = self.client.plain(&url).post(url.clone());
        let request = request.header(CONTENT_TYPE, "application/json").body(body);
        let sent = tokio::time::timeout(timeout, self.signing.send("POST", &url, hash, request)).await;
        match sent {
            Ok(sent) => sent.map_err(|error| client::from_reqwest(shown(&url), error)),
            Err(_) => {
                let reason = format!("no answer within {timeout:?}");
                Err(UpstreamError::Timeout { url: shown(&url), reason })
            }
        }
    }
}

/// Signs the requests to a peer.
pub(super) struct Signing {
    signer: Signer,
    clock: Clock,
    base: Url,
}

impl Signing {
    /// Sends a request with a signature, and once more if only its time is wrong. `request` is without the signature.
    pub(super) async fn send(
        &self,
        method: &str,
        url: &Url,
        body_sha256: [u8; 32],
        mut request: RequestBuilder,
    ) -> reqwest::Result<Response> {
        let mut may_learn = true;
        loop {
            let again = request.try_clone().filter(|_| may_learn);
            let nonce = Nonce::random();
            let target = target(&self.base, url);
            let signature =
                self.signer.authorization(method, target, body_sha256, nonce, self.clock.now_ms());
            let answer = request.header(AUTHORIZATION, signature).send().await?;
            match again.filter(|_| self.learns_time(nonce, &answer)) {
                Some(again) => (request, may_learn) = (again, false),
                None => return Ok(answer),
            }
        }
    }

    fn learns_time(&self, nonce: Nonce, answer: &Response) -> bool {
        if answer.status() != StatusCode::UNAUTHORIZED {
            return false;
        }
        let time = answer.headers().get(PEER_TIME).and_then(|time| time.to_str().ok());
        let is_learned = time.is_some_and(|time| self.signer.learn_time(nonce, time, self.clock.now_ms()));
        if is_learned {
            log::debug!(url = shown(&self.base); "learned the time of a peer");
        }
        is_learned
    }
}

/// Returns the path of a URL with its query, relative to the base URL of a peer.
fn target<'u>(base: &Url, url: &'u Url) -> &'u str {
    url.as_str().strip_prefix(base.as_str().trim_end_matches('/')).unwrap_or(url.path())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_relative_to_the_base_url() {
        for (base, url, expected) in [
            ("http://a.example", "http://a.example/m/@v/list", "/m/@v/list"),
            ("http://a.example/go", "http://a.example/go/m/@v/v1.0.0%2Bx.info", "/m/@v/v1.0.0%2Bx.info"),
            ("http://a.example/go/", "http://a.example/go/m?a=b", "/m?a=b"),
        ] {
            assert_eq!(target(&Url::parse(base).unwrap(), &Url::parse(url).unwrap()), expected);
        }
    }
}
