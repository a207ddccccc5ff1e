//! A connection: TLS, the version of HTTP, and its end.
//!
//! HTTP/2 needs TLS, where the client and the server agree on it. Its windows are small, because each stream may hold as much as
//! its window, and its streams are few.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

use super::listeners::Stream;
use super::origin::Peer;
use super::respond::Shared;
use super::stall_timeout::StallTimeout;
use super::tls::HTTP2;
use super::watched::WatchedBody;
use crate::request::{Caller, Entrance, RequestInfo};

/// Maximum size of a request's head, and about the size of a write to the connection.
const MAX_HEAD_BYTES: usize = 64 * 1024;

const MAX_HEADERS: usize = 100;

/// Maximum number of requests under way on a connection of HTTP/2.
const MAX_STREAMS: u32 = 32;

/// Windows of HTTP/2 for bytes of clients, which send no bodies except peers with small ones.
const STREAM_WINDOW: u32 = 64 * 1024;
const CONNECTION_WINDOW: u32 = 128 * 1024;

/// Time limit for the handshake of TLS.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);

/// The times and the way to serve connections of one listener.
#[derive(Clone)]
pub(super) struct Serving {
    pub(super) shared: Arc<Shared>,
    pub(super) entrance: Entrance,
    /// For listeners with TLS.
    pub(super) tls: Option<TlsAcceptor>,
    pub(super) head_timeout: Duration,
    pub(super) stall_timeout: Duration,
    /// Becomes true at the shutdown.
    pub(super) stopping: watch::Receiver<bool>,
}

impl Serving {
    /// Serves a connection until its end.
    pub(super) async fn serve(self, stream: Stream, address: Option<std::net::IpAddr>) {
        let Some(tls) = self.tls.clone() else {
            let peer = Peer::new(address, false, &self.shared.trusted_proxies);
            return self.serve_http(stream, peer, false).await;
        };
        let stream = match tokio::time::timeout(HANDSHAKE_LIMIT, tls.accept(stream)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => {
                return log::debug!(client:? = address, reason:% = error; "a client failed in the handshake of TLS");
            }
            Err(_) => return log::debug!(client:? = address; "a client did not finish the handshake of TLS"),
        };
        let is_http2 = stream.get_ref().1.alpn_protocol() == Some(HTTP2);
        let peer = Peer::new(address, true, &self.shared.trusted_proxies);
        self.serve_http(stream, peer, is_http2).await;
    }

    async fn serve_http<S>(self, stream: S, peer: Peer, is_http2: bool)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let shared = Arc::clone(&self.shared);
        let entrance = self.entrance;
        let respond = service_fn(move |request: Request<Incoming>| {
            let shared = Arc::clone(&shared);
            async move {
                let (address, is_https) = peer.client(request.headers(), &shared.trusted_proxies);
                let mut info = RequestInfo::new(Caller::anonymous(address), entrance);
                info.is_https = is_https;
                Ok::<Response<WatchedBody>, Infallible>(shared.respond(request, info).await)
            }
        });
        let io = TokioIo::new(StallTimeout::new(stream, self.stall_timeout));
        let mut stopping = self.stopping;
        let stopped = stopped(&mut stopping);
        // The two kinds of connections have the same methods, and no trait for them.
        macro_rules! serve {
            ($connection:expr) => {{
                let connection = std::pin::pin!($connection);
                let mut connection = connection;
                tokio::select! {
                    ended = connection.as_mut() => ended,
                    () = stopped => {
                        connection.as_mut().graceful_shutdown();
                        connection.await
                    }
                }
            }};
        }
        let ended = if is_http2 {
            serve!(http2_builder(self.head_timeout).serve_connection(io, respond))
        } else {
            serve!(http1_builder(self.head_timeout).serve_connection(io, respond))
        };
        if let Err(error) = ended {
            log::debug!(client:? = peer.address, reason:% = error; "a connection ended with an error");
        }
    }
}

/// Waits for the shutdown.
pub(super) async fn stopped(stopping: &mut watch::Receiver<bool>) {
    // An error means that the server is gone, which is the end as well.
    let _ = stopping.wait_for(|is_stopping| *is_stopping).await;
}

fn http1_builder(head_timeout: Duration) -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(head_timeout)
        .max_headers(MAX_HEADERS)
        .max_buf_size(MAX_HEAD_BYTES);
    builder
}

fn http2_builder(head_timeout: Duration) -> http2::Builder<TokioExecutor> {
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(MAX_HEAD_BYTES)
        .max_header_list_size(MAX_HEAD_BYTES as u32)
        .keep_alive_interval(head_timeout)
        .keep_alive_timeout(head_timeout);
    builder
}
