//! A client that says byte for byte what it got.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// So that a test which would wait for ever fails instead.
const NEVER: Duration = Duration::from_secs(300);

/// The status of an answer that ended before it had one: what went out of it was not flushed yet.
pub const BROKEN_OFF: u16 = 0;

/// An answer.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    /// Lower-case names.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// Whether the body came to its end, as its length or its chunks tell.
    pub is_whole: bool,
}

impl Reply {
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut found =
            self.headers.iter().filter(|(known, _)| known == name).map(|(_, value)| value.as_str());
        let first = found.next();
        assert_eq!(found.next(), None, "{name} twice");
        first
    }

    /// Returns the headers without those that differ from one connection to the next.
    pub fn lasting_headers(&self) -> Vec<(String, String)> {
        let mut headers = self.headers.clone();
        headers.retain(|(name, _)| name != "date" && name != "connection");
        headers.sort();
        headers
    }

    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }
}

/// Returns the address in a URL of a server on this machine.
pub fn address(url: &str) -> SocketAddr {
    url.strip_prefix("http://").expect("a plain URL").parse().unwrap()
}

pub fn get(address: SocketAddr, path: &str) -> Reply {
    ask(address, "GET", path, &[])
}

pub fn ask(address: SocketAddr, method: &str, path: &str, headers: &[(&str, &str)]) -> Reply {
    Conversation::begin(address, method, path, "HTTP/1.1", headers).finish()
}

/// Asks with a body.
pub fn send(address: SocketAddr, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Reply {
    try_send(address, method, path, headers, body).unwrap()
}

/// Asks a server that may be gone, with a body.
pub fn try_send(
    address: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> io::Result<Reply> {
    let length = body.len().to_string();
    let headers: Vec<_> = headers.iter().copied().chain([("Content-Length", length.as_str())]).collect();
    let mut conversation = Conversation::try_begin(address, method, path, "HTTP/1.1", &headers)?;
    // A server may answer before it has read everything, and close the connection.
    let _ = conversation.reader.get_mut().write_all(body);
    Ok(conversation.finish())
}

/// A request whose answer is read step by step.
pub struct Conversation {
    reader: BufReader<TcpStream>,
    is_head: bool,
}

impl Conversation {
    pub fn begin(
        address: SocketAddr,
        method: &str,
        path: &str,
        version: &str,
        headers: &[(&str, &str)],
    ) -> Self {
        Self::try_begin(address, method, path, version, headers).unwrap()
    }

    /// Begins a request to a server that may be gone.
    pub fn try_begin(
        address: SocketAddr,
        method: &str,
        path: &str,
        version: &str,
        headers: &[(&str, &str)],
    ) -> io::Result<Self> {
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(NEVER))?;
        let mut request = format!("{method} {path} {version}\r\nHost: {address}\r\nConnection: close\r\n");
        for (name, value) in headers {
            request.push_str(&format!("{name}: {value}\r\n"));
        }
        request.push_str("\r\n");
        stream.write_all(request.as_bytes())?;
        Ok(Self { reader: BufReader::new(stream), is_head: method == "HEAD" })
    }

    /// Reads the status and the headers. The status is [`BROKEN_OFF`] if the connection ends before them.
    pub fn head(&mut self) -> Reply {
        let mut line = String::new();
        if !matches!(self.reader.read_line(&mut line), Ok(read) if read > 0) {
            return Reply { status: BROKEN_OFF, headers: Vec::new(), body: Vec::new(), is_whole: false };
        }
        let status = line.split(' ').nth(1).expect("a status line").parse().unwrap();
        let mut headers = Vec::new();
        loop {
            let Some(line) = self.line() else {
                return Reply { status: BROKEN_OFF, headers: Vec::new(), body: Vec::new(), is_whole: false };
            };
            if line.is_empty() {
                return Reply { status, headers, body: Vec::new(), is_whole: false };
            }
            let (name, value) = line.split_once(':').expect("a header");
            headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
    }

    /// Reads so many bytes as they come over the wire, chunk marks included.
    pub fn raw(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        self.reader.read_exact(&mut bytes).unwrap();
        bytes
    }

    pub fn finish(mut self) -> Reply {
        let head = self.head();
        self.body(head)
    }

    /// Reads what is left of the body; `head` holds what of it was read by [`raw`](Self::raw).
    pub fn body(mut self, mut head: Reply) -> Reply {
        if head.status == BROKEN_OFF {
            return head;
        }
        if self.is_head || head.status == 304 {
            head.is_whole = self.rest().is_empty();
        } else if let Some(length) = head.header("content-length").map(|text| text.parse::<usize>().unwrap())
        {
            head.body.extend(self.rest());
            assert!(head.body.len() <= length, "more than was told");
            head.is_whole = head.body.len() == length;
        } else if head.header("transfer-encoding") == Some("chunked") {
            let raw = self.rest();
            head.is_whole = unchunk(&raw, &mut head.body).is_some();
        } else {
            head.body.extend(self.rest());
            head.is_whole = true;
        }
        head
    }

    fn rest(&mut self) -> Vec<u8> {
        let mut rest = Vec::new();
        // A reset is one way to break off.
        let _ = self.reader.read_to_end(&mut rest);
        rest
    }

    /// Reads a line of the head. `None` if the connection ends in it.
    fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        self.reader.read_line(&mut line).ok()?;
        Some(line.strip_suffix("\r\n")?.to_owned())
    }
}

/// `None` if the last chunk is missing.
fn unchunk(mut raw: &[u8], body: &mut Vec<u8>) -> Option<()> {
    loop {
        let end = raw.windows(2).position(|two| two == b"\r\n")?;
        let size = usize::from_str_radix(std::str::from_utf8(&raw[..end]).ok()?, 16).ok()?;
        raw = &raw[end + 2..];
        if size == 0 {
            return Some(());
        }
        let whole = raw.len() >= size + 2;
        body.extend_from_slice(&raw[..size.min(raw.len())]);
        if !whole {
            return None;
        }
        raw = &raw[size + 2..];
    }
}
