//! A connection: TLS, the version of HTTP, and its end.
//!
//! HTTP/2 needs TLS, where the client and the server agree on it. Its windows are small, because each stream may hold as much as
//! its window, and its streams are few.

use std::convert::Infallible;
use std::net::IpAddr;
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
use super::seat::{Closing, Seat};
use super::stall_timeout::StallTimeout;
use super::table::{Seated, Table};
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
    pub(super) table: Arc<Table>,
    /// For listeners with TLS.
    pub(super) tls: Option<TlsAcceptor>,
    pub(super) head_timeout: Duration,
    pub(super) stall_timeout: Duration,
    /// Becomes true at the shutdown.
    pub(super) stopping: watch::Receiver<bool>,
}

/// Time for an idle connection that is to end: a request may have just arrived.
const IDLE_END: Duration = Duration::from_millis(100);

impl Serving {
    /// Waits for a place for a connection. Returns `None` if its client has too many.
    pub(super) async fn seat(&self, address: Option<IpAddr>) -> Option<Seated> {
        let peer = Peer::new(address, false, &self.shared.trusted_proxies);
        self.table.seat(address, peer.is_trusted).await
    }

    /// Serves a connection until its end.
    pub(super) async fn serve(self, stream: Stream, address: Option<IpAddr>, seated: Seated) {
        let Some(tls) = self.tls.clone() else {
            let peer = Peer::new(address, false, &self.shared.trusted_proxies);
            return self.serve_http(stream, peer, false, &seated.seat).await;
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
        self.serve_http(stream, peer, is_http2, &seated.seat).await;
    }

    async fn serve_http<S>(self, stream: S, peer: Peer, is_http2: bool, seat: &Arc<Seat>)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let respond = {
            let (shared, table, seat) = (Arc::clone(&self.shared), Arc::clone(&self.table), Arc::clone(seat));
            let entrance = self.entrance;
            service_fn(move |request: Request<Incoming>| {
                let (shared, table, seat) = (Arc::clone(&shared), Arc::clone(&table), Arc::clone(&seat));
                async move {
                    let (address, is_https) = peer.client(request.headers(), &shared.trusted_proxies);
                    let mut info = RequestInfo::new(Caller::anonymous(address), entrance);
                    info.is_https = is_https;
                    let client = match (address, &seat.client) {
                        (Some(address), _) if address_differs(peer, address) => Some(table.client(address)),
                        (_, client) => client.clone(),
                    };
                    Ok::<Response<WatchedBody>, Infallible>(
                        shared.respond(request, info, &table, &seat, client.as_ref()).await,
                    )
                }
            })
        };
        let io = TokioIo::new(StallTimeout::new(stream, self.stall_timeout, Arc::clone(seat)));
        let mut stopping = self.stopping;
        let mut closing = seat.closing.subscribe();
        let stopped = stopped(&mut stopping);
        let closed = closed(&mut closing);
        // The two kinds of connections have the same methods, and no trait for them.
        macro_rules! serve {
            ($connection:expr) => {{
                let mut connection = std::pin::pin!($connection);
                tokio::select! {
                    ended = connection.as_mut() => ended,
                    () = stopped => {
                        connection.as_mut().graceful_shutdown();
                        connection.await
                    }
                    closing = closed => {
                        if closing == Closing::Now {
                            return log::debug!(client:? = peer.address; "ended a connection whose client was too slow");
                        }
                        connection.as_mut().graceful_shutdown();
                        match tokio::time::timeout(IDLE_END, connection.as_mut()).await {
                            Ok(ended) => ended,
                            Err(_) if seat.requests() == 0 => Ok(()),
                            Err(_) => connection.await,
                        }
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

/// Returns whether a client is behind the other end of a connection.
fn address_differs(peer: Peer, client: IpAddr) -> bool {
    peer.is_trusted && peer.address != Some(client)
}

/// Waits for the shutdown.
pub(super) async fn stopped(stopping: &mut watch::Receiver<bool>) {
    // An error means that the server is gone, which is the end as well.
    let _ = stopping.wait_for(|is_stopping| *is_stopping).await;
}

/// Waits until the table closes a connection.
async fn closed(closing: &mut watch::Receiver<Closing>) -> Closing {
    // An error means that the seat is gone, which is the end as well.
    closing.wait_for(|closing| *closing != Closing::No).await.map_or(Closing::Now, |closing| *closing)
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
