//! The messages between an egress and its clients: HTTP/1.1, one request per connection.

use std::io;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const MAX_HEAD_BYTES: usize = 16 << 10;

/// Reads the head of a message. Nothing follows it before the answer.
pub(super) async fn read_head(stream: &mut TcpStream) -> io::Result<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() > MAX_HEAD_BYTES {
            return Err(io::Error::other("the header is too long"));
        }
        // One byte at a time, so that nothing of a tunnel is taken. A head is short.
        head.push(stream.read_u8().await?);
    }
    String::from_utf8(head).map_err(io::Error::other)
}

/// A request of a client.
pub(super) struct Request<'a> {
    pub(super) method: &'a str,
    pub(super) target: &'a str,
    pub(super) authorization: Option<&'a str>,
}

impl<'a> Request<'a> {
    pub(super) fn parse(head: &'a str) -> Option<Self> {
        let mut lines = head.split("\r\n");
        let mut first = lines.next()?.split(' ');
        let (method, target) = (first.next()?, first.next()?);
        let headers = lines.filter_map(|line| line.split_once(':'));
        let authorization = headers
            .filter(|(name, _)| name.eq_ignore_ascii_case("Proxy-Authorization"))
            .find_map(|(_, value)| value.trim().strip_prefix("Basic "));
        Some(Self { method, target, authorization })
    }
}

/// An answer of the egress, after which it closes the connection.
pub(super) struct Answer {
    status: u16,
    phrase: String,
    content_type: String,
    body: Body,
}

pub(super) enum Body {
    Text(String),
    /// The body of a response, up to a size in bytes.
    Of(reqwest::Response, u64),
}

impl Answer {
    pub(super) fn new(status: reqwest::StatusCode, content_type: &str, body: Body) -> Self {
        let phrase = status.canonical_reason().unwrap_or("Status").to_owned();
        Self { status: status.as_u16(), phrase, content_type: content_type.to_owned(), body }
    }

    pub(super) fn text(status: u16, phrase: &str, body: &str) -> Self {
        Self {
            status,
            phrase: phrase.to_owned(),
            content_type: "text/plain; charset=utf-8".to_owned(),
            body: Body::Text(body.to_owned()),
        }
    }

    pub(super) async fn send(self, stream: &mut TcpStream) -> io::Result<()> {
        let Self { status, phrase, content_type, body } = self;
        // Some versions of curl send the password only when they are asked for it.
        let challenge = if status == 407 { "Proxy-Authenticate: Basic realm=\"stoa\"\r\n" } else { "" };
        let framing = match &body {
            Body::Text(text) => format!("Content-Length: {}", text.len()),
            // An end without the last chunk is an error for the client.
            Body::Of(..) => "Transfer-Encoding: chunked".to_owned(),
        };
        let head = format!(
            "HTTP/1.1 {status} {phrase}\r\nContent-Type: {content_type}\r\n{framing}\r\n{challenge}Connection: close\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).await?;
        let (mut response, mut left) = match body {
            Body::Text(text) => return stream.write_all(text.as_bytes()).await,
            Body::Of(response, limit) => (response, limit),
        };
        while let Some(chunk) = response.chunk().await.map_err(io::Error::other)? {
            let length = chunk.len() as u64;
            left = left.checked_sub(length).ok_or_else(|| io::Error::other("the file is too large"))?;
            if length > 0 {
                stream.write_all(format!("{length:x}\r\n").as_bytes()).await?;
                stream.write_all(&chunk).await?;
                stream.write_all(b"\r\n").await?;
            }
        }
        stream.write_all(b"0\r\n\r\n").await
    }
}
