//! Serving: the listener, its connections, and the way it stops.
//!
//! Connections are bounded in number, in the size of what they send before they are answered, and in how long
//! they may keep still: a client that neither finishes its request nor takes what it asked for is cut off.
//! When it is time to stop, nothing new is accepted, requests under way and the fills behind them get
//! [`ServeOptions::grace`] to end, and what is left then is broken off; a fill that is broken off leaves
//! nothing behind.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use stoa_store::Store;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, Sleep};

use crate::fill::{AnswerOptions, Fill, Policy};
use crate::proxy::Proxy;
use crate::upkeep::Upkeep;

/// How to serve.
#[derive(Debug, Clone)]
pub struct ServeOptions {
    /// The checksum databases that are passed on, if an upstream does too.
    pub sumdbs: Vec<String>,
    /// What the proxy is mounted at: `/`, or `/some/path`.
    pub base_path: String,
    /// How many zips are fetched at a time.
    pub max_fills: usize,
    /// How lists, latest versions, queries and checksum databases are answered.
    pub answers: AnswerOptions,
    /// How many connections are served at a time; more wait to be accepted.
    pub max_connections: usize,
    /// How long a request's head may take to arrive, and a connection may be idle.
    pub head_timeout: Duration,
    /// How long a client may take nothing of what it is sent.
    pub stall_timeout: Duration,
    /// How long what is under way may take to end when it is time to stop.
    pub grace: Duration,
    /// How often the index of the store is reconciled, besides at the start; zero leaves it to others.
    pub index_interval: Duration,
    /// How often what was used is written down, besides at the start and the end; zero keeps no note of it.
    pub last_use_interval: Duration,
}

impl Default for ServeOptions {
    fn default() -> Self {
        Self {
            sumdbs: Vec::new(),
            base_path: "/".to_owned(),
            max_fills: 16,
            answers: AnswerOptions::default(),
            max_connections: 4096,
            head_timeout: Duration::from_secs(75),
            stall_timeout: Duration::from_secs(120),
            grace: Duration::from_secs(30),
            index_interval: Duration::from_secs(600),
            last_use_interval: Duration::from_secs(300),
        }
    }
}

/// Serving ended before it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The listener is of no use any more.
    #[error("cannot accept connections: {0}; see whether the address is still there, then start again")]
    Accept(io::Error),
}

/// How much a client may send before it is answered, and about how much is gathered to be sent to it.
const MAX_HEAD_BYTES: usize = 64 * 1024;

const MAX_HEADERS: usize = 100;

/// Serves until `shutdown` comes.
///
/// The name under which a request that comes back is known (`Via`) is the upstream's.
pub async fn run(
    listener: TcpListener,
    store: Arc<Store>,
    policy: impl Into<Policy>,
    options: ServeOptions,
    shutdown: impl Future<Output = ()>,
) -> Result<(), ServeError> {
    let policy = policy.into();
    let instance = policy.upstream_of_none().instance().to_owned();
    let upkeep = Arc::new(Upkeep::start(&store, options.index_interval, options.last_use_interval));
    let fill = Fill::new(store, policy, options.max_fills, &options.answers);
    let sumdbs = options.sumdbs.clone();
    let proxy = Proxy::new(Arc::clone(&fill), Arc::clone(&upkeep), &options.base_path, sumdbs, instance);
    let server = Server { proxy: Arc::new(proxy), builder: builder(&options), stall: options.stall_timeout };
    let graceful = GracefulShutdown::new();
    let mut connections = JoinSet::new();
    let accepted = accept(listener, &server, &options, &graceful, &mut connections, shutdown).await;

    log::info!("stopping: {} connections are open", connections.len());
    fill.close();
    upkeep.close();
    let ended = tokio::time::timeout(options.grace, async {
        graceful.shutdown().await;
        fill.closed().await;
    });
    if ended.await.is_err() {
        log::warn!("some requests or fills have not ended within {:?}, and are broken off", options.grace);
    }
    connections.shutdown().await;
    fill.end().await;
    upkeep.end().await;
    tell_counts(&fill);
    accepted
}

fn tell_counts(fill: &Fill) {
    let sums = fill.policy().checksums().counts();
    log::info!(
        "{} transfers were broken off; the checksum database vouched for {} versions, did not know {}, and {} were \
         refused; {} times it contradicted itself",
        fill.aborted_transfers(),
        sums.verified,
        sums.unverified,
        sums.mismatches + sums.refused,
        sums.forks
    );
}

/// Accepts connections until `shutdown` comes, and closes the listener.
async fn accept(
    listener: TcpListener,
    server: &Server,
    options: &ServeOptions,
    graceful: &GracefulShutdown,
    connections: &mut JoinSet<()>,
    shutdown: impl Future<Output = ()>,
) -> Result<(), ServeError> {
    let places = Arc::new(Semaphore::new(options.max_connections.clamp(1, Semaphore::MAX_PERMITS)));
    tokio::pin!(shutdown);
    loop {
        let next = async {
            // Who waits for a place waits in the kernel's queue. The semaphore is never closed.
            let place = Arc::clone(&places).acquire_owned().await;
            (place, listener.accept().await)
        };
        tokio::select! {
            () = &mut shutdown => return Ok(()),
            Some(ended) = connections.join_next() => {
                if let Err(error) = ended {
                    log::error!("a connection broke off within this program: {error}");
                }
            }
            (place, accepted) = next => match accepted {
                Ok((stream, peer)) => {
                    let connection = server.serve(stream, peer, graceful.watcher());
                    connections.spawn(async move {
                        connection.await;
                        drop(place);
                    });
                }
                Err(error) if is_of_one_connection(&error) => log::debug!("a client gave up: {error}"),
                Err(error) if is_fatal(&error) => return Err(ServeError::Accept(error)),
                Err(error) => {
                    // Out of files or memory: some connection will end.
                    log::warn!("cannot accept a connection now: {error}; raise the limit of open files if this stays");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            },
        }
    }
}

fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

fn is_fatal(error: &io::Error) -> bool {
    use rustix::io::Errno;
    matches!(
        Errno::from_io_error(error),
        Some(Errno::BADF | Errno::INVAL | Errno::NOTSOCK | Errno::OPNOTSUPP)
    )
}

fn builder(options: &ServeOptions) -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(options.head_timeout)
        .max_headers(MAX_HEADERS)
        .max_buf_size(MAX_HEAD_BYTES);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(256)
        .max_header_list_size(MAX_HEAD_BYTES as u32)
        .keep_alive_interval(options.head_timeout)
        .keep_alive_timeout(options.head_timeout);
    builder
}

struct Server {
    proxy: Arc<Proxy>,
    builder: auto::Builder<TokioExecutor>,
    stall: Duration,
}

impl Server {
    fn serve(
        &self,
        stream: TcpStream,
        peer: SocketAddr,
        watcher: hyper_util::server::graceful::Watcher,
    ) -> impl Future<Output = ()> + use<> {
        if let Err(error) = stream.set_nodelay(true) {
            log::debug!("{peer}: {error}");
        }
        let proxy = Arc::clone(&self.proxy);
        let service = service_fn(move |request| {
            let proxy = Arc::clone(&proxy);
            async move { Ok::<_, Infallible>(proxy.answer(request).await) }
        });
        let io = TokioIo::new(Patient::new(stream, self.stall));
        let connection = watcher.watch(self.builder.serve_connection(io, service).into_owned());
        async move {
            if let Err(error) = connection.await {
                log::debug!("{peer}: {error}");
            }
        }
    }
}

/// How many bytes tell the version of HTTP that a client speaks, at most.
const PREFACE_BYTES: usize = 24;

/// A connection that is cut off if the other side keeps still for too long: while it is sent something, and
/// before it has said which version of HTTP it speaks. After that hyper has timeouts of its own.
struct Patient {
    stream: TcpStream,
    patience: Duration,
    read: usize,
    reading: Option<Pin<Box<Sleep>>>,
    writing: Option<Pin<Box<Sleep>>>,
}

impl Patient {
    fn new(stream: TcpStream, patience: Duration) -> Self {
        Self { stream, patience, read: 0, reading: None, writing: None }
    }

    /// Passes a result of the stream on, or gives up if there was none for too long.
    fn bound<T>(
        waiting: &mut Option<Pin<Box<Sleep>>>,
        patience: Duration,
        context: &mut Context<'_>,
        result: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if result.is_ready() {
            *waiting = None;
            return result;
        }
        let sleep =
            waiting.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(Instant::now() + patience)));
        match sleep.as_mut().poll(context) {
            Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl AsyncRead for Patient {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buffer.filled().len();
        let result = Pin::new(&mut this.stream).poll_read(context, buffer);
        if this.read >= PREFACE_BYTES {
            return result;
        }
        this.read += buffer.filled().len() - before;
        if result.is_ready() && this.read < PREFACE_BYTES {
            // A trickle does not begin the time anew.
            return result;
        }
        Self::bound(&mut this.reading, this.patience, context, result)
    }
}

impl AsyncWrite for Patient {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        let result = Pin::new(&mut this.stream).poll_write(context, bytes);
        Self::bound(&mut this.writing, this.patience, context, result)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        let result = Pin::new(&mut this.stream).poll_write_vectored(context, slices);
        Self::bound(&mut this.writing, this.patience, context, result)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
