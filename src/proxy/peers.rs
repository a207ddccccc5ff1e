//! Requests of peers: those below `/sync/v1/`, and those for files of modules with the signature of a peer.
//!
//! A request that a peer has signed is answered from the store and the bucket only, so that peers cannot wait for each
//! other, and nobody fetches private modules by the credentials of this deployment. The key `offer` decides about each
//! module, and the access rights of users do not.

use std::sync::Arc;

use bytes::Bytes;
use http_body_util::{BodyExt, Limited};
use hyper::header::{AUTHORIZATION, CACHE_CONTROL, HeaderName, HeaderValue, RETRY_AFTER};
use hyper::{HeaderMap, Method, Request, StatusCode};
use stoa_gomod::ModulePath;
use stoa_gomod::route::Route;

use super::address::Address;
use super::answer::{self, NO_STORE, Response, TEXT};
use super::body::Body;
use super::problem::Problem;
use super::{Client, Proxy, Step, remove_body};
use crate::access::Access;
use crate::request::{Kind, RequestInfo};
use crate::sync::{Gatekeeper, MAX_BODY, PEER_TIME, Peer, Refusal, Replication, sha256};

/// The beginning of the paths that only peers ask for.
const PREFIX: &str = "/sync/v1/";

/// Time limit for the body of a request.
const BODY_LIMIT: std::time::Duration = std::time::Duration::from_secs(60);

const JSON_LINES: HeaderValue = HeaderValue::from_static("application/jsonl");

/// Returns the signature of a peer, right or wrong, among the headers of a request.
fn signature(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(AUTHORIZATION)?.to_str().ok()?;
    Gatekeeper::concerns(value).then_some(value)
}

impl Proxy {
    /// Returns whether a request is one of a peer.
    pub(super) fn is_of_peer<B>(&self, request: &Request<B>) -> bool {
        let Some(path) = request.uri().path().strip_prefix(self.base_path.as_str()) else { return false };
        self.replication.is_some() && (path.starts_with(PREFIX) || signature(request.headers()).is_some())
    }

    /// Answers a request of a peer.
    pub(super) async fn answer_peer<B>(
        &self,
        request: Request<B>,
        info: &RequestInfo,
        access: &Arc<Access>,
    ) -> Response
    where
        B: hyper::body::Body<Data = Bytes>,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let Some(replication) = &self.replication else { return Problem::UnknownAddress.answer() };
        let (head, body) = request.into_parts();
        let target = head.uri.path_and_query().map_or("", |target| target.as_str());
        let target = target.strip_prefix(self.base_path.as_str()).unwrap_or(target);
        // Before the body, which strangers could send slowly.
        let (peer, body_sha256) = match authenticate(replication, &head.method, target, &head.headers) {
            Ok(peer) => peer,
            Err(refusal) => return refused(&refusal),
        };
        let body = match read(replication, &peer, body).await {
            Ok(body) => body,
            Err(response) => return *response,
        };
        if sha256(&body) != body_sha256 {
            return refused(&Refusal::Forged(peer.name.clone()));
        }
        let path = head.uri.path();
        let below = path.strip_prefix(self.base_path.as_str()).unwrap_or(path);
        if below.starts_with(PREFIX) {
            info.set_kind(Kind::Peer);
            return match head.method {
                Method::POST => json_or_text(replication.answer(&peer, below, &body).await),
                _ => text(StatusCode::METHOD_NOT_ALLOWED, "method not allowed: peers send POST to this path"),
            };
        }
        let address = Address::recognise(&head.method, path, &self.base_path, &[]);
        let Some(module) = module_of(&address).filter(|module| peer.is_offered(module)) else {
            return Problem::NotStored.answer();
        };
        log::trace!(peer = peer.name, module:%; "a peer asks for a module");
        info.set_kind(address.kind());
        let client = Client {
            info,
            access,
            headers: &head.headers,
            is_head: head.method == Method::HEAD,
            is_old: matches!(head.version, hyper::Version::HTTP_09 | hyper::Version::HTTP_10),
            is_local: true,
            is_peer: true,
        };
        let policy = self.services.policy.load();
        let mut response = match self.answer_now(client, &address, &policy) {
            Step::Answered(response) => response,
            Step::Waiting(target) => self.answer_later(client, &head.uri, target).await,
        };
        // A cache between the two must not answer others with it.
        response.headers_mut().insert(CACHE_CONTROL, NO_STORE);
        if client.is_head {
            remove_body(&mut response);
        }
        response
    }
}

/// Reads the body of a request. Most requests of peers are for files, and have none.
async fn read<B>(replication: &Replication, peer: &Peer, body: B) -> Result<Bytes, Box<Response>>
where
    B: hyper::body::Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    if body.is_end_stream() {
        return Ok(Bytes::new());
    }
    let too_large = || text(StatusCode::PAYLOAD_TOO_LARGE, "too large: the limit for a request is 1 MiB");
    if body.size_hint().lower() > MAX_BODY as u64 {
        return Err(Box::new(too_large()));
    }
    // A body is in memory as a whole.
    let Some(_turn) = replication.body_turn(peer) else {
        let reason = "temporarily unavailable: too many requests of this peer at the same time";
        return Err(Box::new(text(StatusCode::SERVICE_UNAVAILABLE, reason)));
    };
    match tokio::time::timeout(BODY_LIMIT, Limited::new(body, MAX_BODY).collect()).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => Err(Box::new(too_large())),
        Ok(Err(_)) | Err(_) => {
            Err(Box::new(text(StatusCode::BAD_REQUEST, "bad request: the body is incomplete")))
        }
    }
}

/// Returns the module whose file a request is for.
fn module_of(address: &Address) -> Option<&ModulePath> {
    match address {
        Address::Module(Route::Info(version) | Route::Mod(version) | Route::Zip(version)) => {
            Some(version.path())
        }
        _ => None,
    }
}

/// Returns the peer that has signed a request, and the hash that its body must have.
fn authenticate(
    replication: &Replication,
    method: &Method,
    target: &str,
    headers: &HeaderMap,
) -> Result<(Arc<Peer>, [u8; 32]), Refusal> {
    let (gatekeeper, now_ms) = replication.gatekeeper();
    let authorization = signature(headers).ok_or(Refusal::Malformed)?;
    let (peer, body_sha256) = gatekeeper.check(method.as_str(), target, authorization, now_ms)?;
    Ok((Arc::clone(peer), body_sha256))
}

fn refused(refusal: &Refusal) -> Response {
    match refusal {
        // The sender signs again with the time of this server.
        Refusal::WrongTime { .. } => log::debug!(reason:% = refusal; "refused a request of a peer"),
        refusal => log::warn!(reason:% = refusal; "refused a request between deployments"),
    }
    let status = StatusCode::from_u16(refusal.status()).unwrap_or(StatusCode::UNAUTHORIZED);
    let mut response = text(status, &format!("refused: {}", refusal.for_sender()));
    let headers = response.headers_mut();
    match refusal {
        Refusal::WrongTime { header, .. } => {
            if let Ok(value) = HeaderValue::from_str(header) {
                headers.insert(HeaderName::from_static(PEER_TIME), value);
            }
        }
        Refusal::TooMany { retry_after, .. } => {
            headers.insert(RETRY_AFTER, HeaderValue::from(retry_after.as_secs() + 1));
        }
        _ => {}
    }
    response
}

fn json_or_text(answer: crate::sync::PeerAnswer) -> Response {
    let content_type = if answer.is_json { JSON_LINES } else { TEXT };
    let mut response = answer::plain(answer.status, content_type, NO_STORE, Body::Whole(answer.body.into()));
    if answer.status == StatusCode::SERVICE_UNAVAILABLE {
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("5"));
    }
    response
}

fn text(status: StatusCode, text: &str) -> Response {
    answer::plain(status, TEXT, NO_STORE, Body::Whole(format!("{text}\n").into()))
}
