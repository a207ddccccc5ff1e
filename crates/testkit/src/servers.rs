//! Programs of object stores. They are installed once, in a folder of the user, and not by a test: that takes minutes.

use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::ports;

/// Returns the path of an installed program.
pub(crate) fn installed(path: &str) -> PathBuf {
    let folder = std::env::var_os("STOA_TEST_SERVERS").map(PathBuf::from);
    folder
        .or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(CACHE)))
        .unwrap_or_default()
        .join(path)
}

/// The folder below the home of the user, unless `STOA_TEST_SERVERS` names another.
const CACHE: &str = ".cache/stoa-test-servers";

/// Returns why an installed program cannot be used, or `None` if it is there.
pub(crate) fn missing(name: &str, path: &str) -> Option<String> {
    let path = installed(path);
    let reason =
        || format!("{name} is not installed at {}; docs/contributing.md has the command", path.display());
    (!path.is_file()).then(reason)
}

/// A running program; killed when dropped.
pub(crate) struct Process {
    child: Child,
    url: String,
}

impl Process {
    /// Starts a program on a free port and waits until it listens.
    pub(crate) fn start(name: &str, command: impl FnOnce(SocketAddr) -> Command) -> Self {
        // Not all of these programs print which port they took by themselves.
        let address = ports::free();
        let mut command = command(address);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().unwrap_or_else(|error| panic!("cannot run {name}: {error}"));
        let mut process = Self { child, url: format!("http://{address}") };
        crate::until(&format!("{name} listens"), || {
            assert!(process.child.try_wait().unwrap().is_none(), "{name} has ended");
            TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_ok()
        });
        process
    }

    /// Returns the URL of the service.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
