//! The sockets of a server, bound before its first thread starts.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use stoa_layout::{Exit, durable};

use crate::command::error::CommandError;
use crate::config::{ListenAddress, ServeConfig};
use crate::server::{Listeners, SocketFile};

/// A socket of the standard library.
enum Bound {
    Tcp(TcpListener),
    Unix(UnixListener, Option<SocketFile>),
}

/// The sockets of a server: those for clients, and those for operators.
pub(super) struct Sockets {
    public: Vec<Bound>,
    admin: Vec<Bound>,
    has_tls: bool,
}

impl Sockets {
    /// Binds the addresses of a configuration.
    pub(super) fn bind(config: &ServeConfig) -> Result<Self, CommandError> {
        let bind_all = |addresses: &[ListenAddress]| -> Result<Vec<Bound>, CommandError> {
            let mut all = Vec::new();
            for address in addresses {
                match address {
                    ListenAddress::Tcp(address) => all.push(Bound::Tcp(bind_tcp(address)?)),
                    ListenAddress::Unix(path) => all.push(bind_unix(path, config.listen_mode)?),
                    ListenAddress::Inherited => all.extend(inherited()?),
                }
            }
            Ok(all)
        };
        let admin = config.admin_listen.as_deref().unwrap_or_default();
        Ok(Self {
            public: bind_all(&config.listen)?,
            admin: bind_all(admin)?,
            has_tls: config.tls_cert.is_some(),
        })
    }

    /// Checks that the addresses can be bound, and leaves nothing behind.
    pub(super) fn check(config: &ServeConfig) -> Result<(), CommandError> {
        let mut bound = Vec::new();
        for address in config.listen.iter().chain(config.admin_listen.iter().flatten()) {
            match address {
                ListenAddress::Tcp(address) => bound.push(bind_tcp(address)?),
                ListenAddress::Unix(path) => check_unix(path)?,
                // They can be taken only once.
                ListenAddress::Inherited => {}
            }
        }
        Ok(())
    }

    /// Returns the address of the first TCP socket for clients.
    pub(super) fn first_address(&self) -> Option<SocketAddr> {
        self.public.iter().find_map(|bound| match bound {
            Bound::Tcp(listener) => listener.local_addr().ok(),
            Bound::Unix(..) => None,
        })
    }

    /// Returns a line about each socket. The first line is about the first one for clients.
    pub(super) fn lines(&self) -> Vec<String> {
        let scheme = if self.has_tls { "https" } else { "http" };
        let public = self.public.iter().map(|bound| format!("listening on {}", url(bound, scheme)));
        let admin =
            self.admin.iter().map(|bound| format!("listening for operators on {}", url(bound, "http")));
        public.chain(admin).collect()
    }

    /// Hands the sockets over to the runtime.
    pub(super) fn into_listeners(self) -> io::Result<Listeners> {
        let mut listeners = Listeners::default();
        let public = self.public.into_iter().map(|bound| (bound, false));
        for (bound, is_admin) in public.chain(self.admin.into_iter().map(|bound| (bound, true))) {
            match bound {
                Bound::Tcp(listener) => {
                    listener.set_nonblocking(true)?;
                    listeners.add_tcp(tokio::net::TcpListener::from_std(listener)?, is_admin);
                }
                Bound::Unix(listener, file) => {
                    listener.set_nonblocking(true)?;
                    listeners.add_unix(tokio::net::UnixListener::from_std(listener)?, file, is_admin);
                }
            }
        }
        Ok(listeners)
    }
}

fn url(bound: &Bound, scheme: &str) -> String {
    match bound {
        Bound::Tcp(listener) => match listener.local_addr() {
            Ok(address) => format!("{scheme}://{address}"),
            Err(error) => format!("a socket without an address ({error})"),
        },
        Bound::Unix(listener, _) => {
            let path =
                listener.local_addr().ok().and_then(|address| address.as_pathname().map(PathBuf::from));
            let path = match bound {
                Bound::Unix(_, Some(file)) => Some(file.0.clone()),
                _ => path,
            };
            path.map_or_else(|| "a unix socket".to_owned(), |path| format!("unix:{}", path.display()))
        }
    }
}

fn bind_tcp(address: &str) -> Result<TcpListener, CommandError> {
    // Without a host: all addresses. A socket of IPv6 accepts IPv4 too, but a machine may have no IPv6.
    let bound = match address.strip_prefix(':') {
        Some(port) => TcpListener::bind(format!("[::]:{port}")).or_else(|error| match error.kind() {
            io::ErrorKind::AddrInUse | io::ErrorKind::PermissionDenied => Err(error),
            _ => TcpListener::bind(format!("0.0.0.0:{port}")),
        }),
        None => TcpListener::bind(address),
    };
    bound.map_err(|error| {
        use io::ErrorKind::{AddrInUse, AddrNotAvailable, PermissionDenied};
        let (exit, reason, help) = match error.kind() {
            AddrInUse => (
                Exit::CANT_CREATE,
                "another program listens there".to_owned(),
                "stop that program (it may be another stoa serve), or choose another port with --listen",
            ),
            AddrNotAvailable => (
                Exit::CANT_CREATE,
                "this machine does not have that address".to_owned(),
                "choose an address of this machine with --listen, or :PORT for all addresses",
            ),
            PermissionDenied => (
                Exit::PERMISSION,
                error.to_string(),
                "choose a port of at least 1024 with --listen, or permit this program to use lower ports",
            ),
            _ => (
                Exit::USAGE,
                error.to_string(),
                "set an address and a port with --listen, for example 127.0.0.1:3000",
            ),
        };
        CommandError::new(exit, format!("cannot listen on {address}: {reason}")).help(help)
    })
}

/// Checks that a path can get a unix socket: nothing is there, or a socket that nobody listens on.
fn check_unix(path: &Path) -> Result<(), CommandError> {
    let fail = |exit, reason: &str, help: &str| {
        Err(CommandError::new(exit, format!("cannot listen on unix:{}: {reason}", path.display())).help(help))
    };
    match path.symlink_metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(unix_failed(path, &error)),
        Ok(found) if !found.file_type().is_socket() => {
            return fail(
                Exit::CANT_CREATE,
                "there is a file that is not a socket",
                "remove the file, or choose another path with --listen",
            );
        }
        Ok(_) => match UnixStream::connect(path) {
            Ok(_) => {
                return fail(
                    Exit::CANT_CREATE,
                    "another program listens there",
                    "stop that program (it may be another stoa serve), or choose another path with --listen",
                );
            }
            // Left by a program that was killed.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
            Err(error) => return Err(unix_failed(path, &error)),
        },
    }
    let folder = path.parent().unwrap_or(Path::new("/"));
    match rustix::fs::access(folder, rustix::fs::Access::WRITE_OK) {
        Ok(()) => Ok(()),
        Err(errno) => Err(unix_failed(path, &errno.into())),
    }
}

/// Binds a unix socket. It gets its mode under a name beside the path, so that nobody connects before.
fn bind_unix(path: &Path, mode: u32) -> Result<Bound, CommandError> {
    check_unix(path)?;
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(format!(".{}", std::process::id()));
    let beside = path.with_file_name(name);
    // Left by an earlier process with this number.
    let _ = durable::remove_file(&beside);
    let listener = UnixListener::bind(&beside).map_err(|error| unix_failed(path, &error))?;
    let beside = SocketFile(beside);
    let moved = set_mode(&beside.0, mode)
        .and_then(|()| durable::rename(&beside.0, path).map_err(|error| io::Error::other(error.to_string())));
    moved.map_err(|error| unix_failed(path, &error))?;
    // It has another name now.
    std::mem::forget(beside);
    Ok(Bound::Unix(listener, Some(SocketFile(path.to_owned()))))
}

fn set_mode(path: &Path, mode: u32) -> io::Result<()> {
    Ok(rustix::fs::chmod(path, rustix::fs::Mode::from_raw_mode(mode))?)
}

fn unix_failed(path: &Path, error: &io::Error) -> CommandError {
    let exit = match error.kind() {
        io::ErrorKind::PermissionDenied => Exit::PERMISSION,
        _ => Exit::CANT_CREATE,
    };
    CommandError::new(exit, format!("cannot listen on unix:{}: {error}", path.display()))
        .help("choose a path in a folder that exists and that this program may write to")
}

/// Takes the sockets that the service manager passed on.
fn inherited() -> Result<Vec<Bound>, CommandError> {
    let mut passed = listenfd::ListenFd::from_env();
    let bound = (0..passed.len()).map(|index| match passed.take_tcp_listener(index) {
        Ok(listener) => Ok(listener.map(Bound::Tcp)),
        Err(_) => passed.take_unix_listener(index).map(|found| found.map(|found| Bound::Unix(found, None))),
    });
    let bound = bound.collect::<io::Result<Vec<_>>>().map_err(|error| {
        CommandError::new(Exit::USAGE, format!("cannot listen on a socket of the service manager: {error}"))
            .help("pass on sockets of streams only (ListenStream= in the socket unit)")
    })?;
    let bound: Vec<Bound> = bound.into_iter().flatten().collect();
    match bound.is_empty() {
        true => Err(CommandError::new(
            Exit::USAGE,
            "cannot listen on systemd: the service manager passed no socket on (LISTEN_FDS)",
        )
        .help("start the socket unit, or set an address and a port with --listen")),
        false => Ok(bound),
    }
}
