//! The sockets that a server listens on, and the streams of their clients.

use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::task::{Context, Poll};

use stoa_layout::durable;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

use crate::request::Entrance;

/// The sockets of a server.
#[derive(Debug, Default)]
pub struct Listeners(pub(super) Vec<Listener>);

/// A socket that accepts connections.
#[derive(Debug)]
pub(super) struct Listener {
    pub(super) socket: Socket,
    pub(super) entrance: Entrance,
    _file: Option<SocketFile>,
}

/// A socket of one of two kinds.
#[derive(Debug)]
pub(super) enum Socket {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// The file of a unix socket. It is removed when the value is dropped.
#[derive(Debug)]
pub struct SocketFile(pub PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        if let Err(error) = durable::remove_file(&self.0) {
            log::debug!(reason:% = error; "cannot remove the file of a unix socket");
        }
    }
}

impl Listeners {
    /// Adds a TCP socket, for clients or for operators.
    pub fn add_tcp(&mut self, listener: TcpListener, is_admin: bool) {
        self.0.push(Listener { socket: Socket::Tcp(listener), entrance: entrance(is_admin), _file: None });
    }

    /// Adds a unix socket. Its file is removed at the end of the server, if it belongs to the server.
    pub fn add_unix(&mut self, listener: UnixListener, file: Option<SocketFile>, is_admin: bool) {
        self.0.push(Listener { socket: Socket::Unix(listener), entrance: entrance(is_admin), _file: file });
    }

    /// Returns whether operators have a socket of their own.
    pub(super) fn has_admin(&self) -> bool {
        self.0.iter().any(|listener| listener.entrance == Entrance::Admin)
    }
}

impl From<TcpListener> for Listeners {
    fn from(listener: TcpListener) -> Self {
        let mut listeners = Self::default();
        listeners.add_tcp(listener, false);
        listeners
    }
}

impl Listener {
    pub(super) fn is_tcp(&self) -> bool {
        matches!(self.socket, Socket::Tcp(_))
    }
}

fn entrance(is_admin: bool) -> Entrance {
    if is_admin { Entrance::Admin } else { Entrance::Public }
}

impl Socket {
    /// Accepts a connection. Returns its stream, and the address of the client unless the socket is a unix socket.
    pub(super) async fn accept(&self) -> io::Result<(Stream, Option<IpAddr>)> {
        match self {
            Self::Tcp(listener) => {
                let (stream, peer) = listener.accept().await?;
                prepare(&stream);
                Ok((Stream::Tcp(stream), Some(peer.ip().to_canonical())))
            }
            Self::Unix(listener) => Ok((Stream::Unix(listener.accept().await?.0), None)),
        }
    }
}

/// Maximum number of bytes that the system takes before it has sent them. The rate at which a connection accepts bytes is then
/// the rate at which its client reads, and a slow client holds little memory of the system.
const UNSENT: u32 = 256 * 1024;

fn prepare(stream: &TcpStream) {
    if let Err(error) = stream.set_nodelay(true) {
        log::debug!(reason:% = error; "cannot set TCP_NODELAY");
    }
    if let Err(error) = socket2::SockRef::from(stream).set_tcp_notsent_lowat(UNSENT) {
        log::debug!(reason:% = error; "cannot set TCP_NOTSENT_LOWAT");
    }
}

/// The stream of a connection.
#[derive(Debug)]
pub(super) enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// Calls a method of the stream inside.
macro_rules! inside {
    ($stream:expr, $inner:ident => $call:expr) => {
        match $stream.get_mut() {
            Stream::Tcp($inner) => $call,
            Stream::Unix($inner) => $call,
        }
    };
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        inside!(self, stream => Pin::new(stream).poll_read(context, buffer))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        inside!(self, stream => Pin::new(stream).poll_write(context, bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        inside!(self, stream => Pin::new(stream).poll_write_vectored(context, slices))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        inside!(self, stream => Pin::new(stream).poll_flush(context))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        inside!(self, stream => Pin::new(stream).poll_shutdown(context))
    }
}
