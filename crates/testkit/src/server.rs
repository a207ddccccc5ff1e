//! A running `stoa serve`, and a client for it.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::STOA;

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
        let mut child = command.env("STOA_LOG", "warn").stdout(Stdio::piped()).spawn().expect("stoa runs");
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

/// Gets a path from a server that may be gone: an error then, and for a transfer that was broken off.
pub fn get(url: &str, path: &str) -> std::io::Result<(u16, Vec<u8>)> {
    use std::io::Write;
    let address = url.strip_prefix("http://").expect("a plain URL");
    let mut stream = std::net::TcpStream::connect(address)?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let broken = || std::io::Error::other("the answer was broken off");
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n").ok_or_else(broken)?;
    let head = String::from_utf8_lossy(&answer[..end]).to_ascii_lowercase();
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).ok_or_else(broken)?;
    let body = &answer[end + 4..];
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse::<usize>().ok());
    match length {
        Some(length) if length == body.len() => Ok((status, body.to_vec())),
        Some(_) => Err(broken()),
        None if head.contains("transfer-encoding: chunked") => {
            Ok((status, unchunk(body).ok_or_else(broken)?))
        }
        None => Ok((status, body.to_vec())),
    }
}

/// Reads a chunked body. `None` if it does not come to its end.
fn unchunk(mut body: &[u8]) -> Option<Vec<u8>> {
    let mut whole = Vec::new();
    loop {
        let line = body.windows(2).position(|two| two == b"\r\n")?;
        let size = usize::from_str_radix(std::str::from_utf8(&body[..line]).ok()?.trim(), 16).ok()?;
        body = &body[line + 2..];
        if size == 0 {
            return Some(whole);
        }
        whole.extend_from_slice(body.get(..size)?);
        body = body.get(size + 2..)?;
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
