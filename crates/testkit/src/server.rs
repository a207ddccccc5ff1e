//! A running `stoa serve`, and a client for it.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::STOA;
use super::client::{self, Conversation, Reply};

/// A running server; killed when dropped.
pub struct Server {
    child: Child,
    pub url: String,
}

impl Server {
    /// Starts one on a free port and waits until it listens.
    pub fn start(store: &Path, upstream: &str) -> Self {
        Self::start_with(command(store).args(["--upstream", upstream]))
    }

    /// Starts one from a command that [`command`] began.
    pub fn start_with(command: &mut Command) -> Self {
        if !command.get_envs().any(|(name, _)| name == "STOA_LOG") {
            command.env("STOA_LOG", "warn");
        }
        let mut child = command.stdout(Stdio::piped()).spawn().expect("stoa runs");
        let url = listening(&mut child).unwrap_or_else(|| panic!("stoa does not listen: {:?}", child.wait()));
        Self { child, url }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Asks it to stop and waits for its end.
    pub fn stop(mut self) -> std::process::ExitStatus {
        terminate(&self.child);
        self.child.wait().expect("it ends")
    }

    /// Asks for a path, with some headers.
    pub fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)]) -> Reply {
        client::ask(client::address(&self.url), method, path, headers)
    }

    /// Gets a path; the status and the body.
    pub fn get(&self, path: &str) -> (u16, Vec<u8>) {
        get(&self.url, path).expect("an answer")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Begins the command line of a server on a free port.
pub fn command(store: &Path) -> Command {
    let mut command = Command::new(STOA);
    command.args(["serve", "--listen", "127.0.0.1:0", "--store"]).arg(store);
    command.env_remove("GOPROXY").env_remove("STOA_STORE").env_remove("STOA_UPSTREAM");
    command
}

/// Waits for the line that tells where it listens. `None` if it ends before.
pub fn listening(child: &mut Child) -> Option<String> {
    let mut output = BufReader::new(child.stdout.take()?);
    let mut line = String::new();
    output.read_line(&mut line).ok()?;
    Some(line.trim().strip_prefix("listening on ")?.to_owned())
}

/// Asks a program to stop.
pub fn terminate(child: &Child) {
    let _ = kill(Pid::from_raw(child.id() as i32), Signal::SIGTERM);
}

/// Gets a path from a server that may be gone: an error then, and for a transfer that was aborted.
pub fn get(url: &str, path: &str) -> std::io::Result<(u16, Vec<u8>)> {
    let reply = Conversation::try_begin(client::address(url), "GET", path, "HTTP/1.1", &[])?.finish();
    if reply.is_whole {
        Ok((reply.status, reply.body))
    } else {
        Err(std::io::Error::other("the answer was aborted"))
    }
}

/// Waits for a line of a program, and takes no more of what it says than that.
pub fn first_line(output: &mut impl Read) -> String {
    let mut line = Vec::new();
    let mut byte = [0];
    while output.read(&mut byte).is_ok_and(|n| n == 1) && byte != *b"\n" {
        line.push(byte[0]);
    }
    String::from_utf8_lossy(&line).into_owned()
}
