//! A line between two servers: a reverse proxy that notes requests, loses some of them, and can be cut or slow.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use crate::client::{self, Reply};

/// A line. It ends with the test's process.
#[derive(Clone)]
pub struct Link {
    url: String,
    shared: Arc<Shared>,
}

struct Shared {
    /// The servers, which get the requests in turn.
    targets: Vec<SocketAddr>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Parts of paths whose requests are lost.
    lost: Vec<String>,
    /// A part of paths, and the number of their requests that still pass before all others are held.
    held: Option<(String, usize)>,
    is_cut: bool,
    /// The bytes per millisecond of an answer. `None` for no limit.
    rate: Option<usize>,
    requests: Vec<Recorded>,
    /// The connections that are open.
    open: Vec<TcpStream>,
}

/// A request as it was sent.
#[derive(Debug, Clone)]
pub struct Recorded {
    pub method: String,
    pub path: String,
    pub authorization: String,
    pub body: Vec<u8>,
    pub is_lost: bool,
}

impl Recorded {
    /// Sends the same request again, to any server.
    pub fn send_to(&self, address: SocketAddr) -> Reply {
        let headers = [("Authorization", self.authorization.as_str())];
        client::send(address, &self.method, &self.path, &headers, &self.body)
    }
}

impl Link {
    /// Starts a line to a server, which may start later.
    pub fn to(target: SocketAddr) -> Self {
        Self::among(&[target])
    }

    /// Starts a line to several servers, each of which gets the next request.
    pub fn among(targets: &[SocketAddr]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a loopback port is free");
        let url = format!("http://{}", listener.local_addr().unwrap());
        let shared = Arc::new(Shared { targets: targets.to_vec(), state: Mutex::default() });
        let accepting = Arc::clone(&shared);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let shared = Arc::clone(&accepting);
                // An error is one of a connection that a server or the test has closed.
                std::thread::spawn(move || drop(shared.serve(stream)));
            }
        });
        Self { url, shared }
    }

    /// Returns the URL of this end.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Loses all requests whose path has this part, from now on.
    pub fn lose(&self, part: &str) {
        self.shared.state().lost.push(part.to_owned());
    }

    /// Loses all requests, and closes the open connections.
    pub fn cut(&self) {
        let mut state = self.shared.state();
        state.is_cut = true;
        for stream in state.open.drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// Delivers all requests again.
    pub fn heal(&self) {
        let mut state = self.shared.state();
        state.is_cut = false;
        state.lost.clear();
    }

    /// Lets this many requests whose path has this part pass, and holds all later ones until [`Link::release`].
    pub fn hold_after(&self, part: &str, passing: usize) {
        self.shared.state().held = Some((part.to_owned(), passing));
    }

    /// Delivers the requests that are held.
    pub fn release(&self) {
        self.shared.state().held = None;
    }

    /// Sends answers at this rate in bytes per second.
    pub fn slow(&self, rate: Option<usize>) {
        self.shared.state().rate = rate.map(|rate| (rate / 1000).max(1));
    }

    /// Returns all requests so far, lost ones too.
    pub fn requests(&self) -> Vec<Recorded> {
        self.shared.state().requests.clone()
    }

    /// Returns how often paths with this part were asked for.
    pub fn asked(&self, part: &str) -> usize {
        self.shared.state().requests.iter().filter(|request| request.path.contains(part)).count()
    }

    /// Returns how often a path was asked for by requests that were not lost.
    pub fn delivered(&self, path: &str) -> usize {
        let state = self.shared.state();
        state.requests.iter().filter(|request| request.path == path && !request.is_lost).count()
    }

    /// Waits until paths with this part were asked for so often.
    #[track_caller]
    pub fn wait_until_asked(&self, part: &str, times: usize) {
        crate::until(&format!("{times} requests for {part}"), || self.asked(part) >= times);
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Serves one request. Its connections end with it.
    fn serve(&self, mut client: TcpStream) -> io::Result<()> {
        let mut reader = BufReader::new(client.try_clone()?);
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let words: Vec<&str> = line.split(' ').collect();
        let [method, path, _] = words[..] else { return Ok(()) };
        let mut recorded = Recorded {
            method: method.to_owned(),
            path: path.to_owned(),
            authorization: String::new(),
            body: Vec::new(),
            is_lost: false,
        };
        let mut head = line.clone();
        let mut length = 0;
        loop {
            let mut header = String::new();
            if reader.read_line(&mut header)? == 0 {
                return Ok(());
            }
            if header == "\r\n" {
                break;
            }
            let Some((name, value)) = header.trim_end().split_once(": ") else { return Ok(()) };
            match name.to_ascii_lowercase().as_str() {
                "connection" => continue,
                "content-length" => length = value.parse().unwrap_or(0),
                "authorization" => recorded.authorization = value.to_owned(),
                _ => {}
            }
            head.push_str(&header);
        }
        head.push_str("Connection: close\r\n\r\n");
        recorded.body.resize(length, 0);
        reader.read_exact(&mut recorded.body)?;
        let target = {
            let mut state = self.state();
            recorded.is_lost = state.is_cut || state.lost.iter().any(|part| recorded.path.contains(part));
            state.requests.push(recorded.clone());
            if recorded.is_lost {
                return Ok(());
            }
            self.targets[state.requests.len() % self.targets.len()]
        };
        if self.state().holds(&recorded.path) {
            while self.state().held.is_some() {
                std::thread::sleep(Duration::from_millis(2));
            }
        }
        let mut server = TcpStream::connect(target)?;
        {
            let mut state = self.state();
            state.open.retain(|stream| stream.take_error().is_ok() && stream.peer_addr().is_ok());
            state.open.extend([client.try_clone()?, server.try_clone()?]);
        }
        server.write_all(head.as_bytes())?;
        server.write_all(&recorded.body)?;
        let ended = self.copy(&mut server, &mut client);
        // The copies of the streams keep the connections open otherwise.
        let _ = (client.shutdown(Shutdown::Both), server.shutdown(Shutdown::Both));
        ended
    }

    fn copy(&self, server: &mut TcpStream, client: &mut TcpStream) -> io::Result<()> {
        let mut buffer = vec![0; 16 << 10];
        loop {
            let rate = self.state().rate;
            let at_once = rate.map_or(buffer.len(), |rate| (rate * 20).clamp(1, buffer.len()));
            let read = server.read(&mut buffer[..at_once])?;
            if read == 0 {
                return Ok(());
            }
            client.write_all(&buffer[..read])?;
            if let Some(rate) = rate {
                std::thread::sleep(Duration::from_millis((read / rate) as u64));
            }
        }
    }
}

impl State {
    /// Returns whether a request is held. Counts it otherwise.
    fn holds(&mut self, path: &str) -> bool {
        match &mut self.held {
            Some((part, 0)) => path.contains(&*part),
            Some((part, passing)) if path.contains(&*part) => {
                *passing -= 1;
                false
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::Upstream;

    #[test]
    fn requests_pass_are_lost_and_are_sent_again() {
        let upstream = Upstream::start();
        upstream.put("/a", "one");
        let link = Link::to(client::address(upstream.url()));
        let at = client::address(link.url());
        let headers = [("Authorization", "x")];
        assert_eq!(client::send(at, "POST", "/a", &headers, b"body").text(), "one");
        link.lose("/a");
        assert_eq!(client::get(at, "/a").status, client::BROKEN_OFF);
        link.heal();
        link.slow(Some(1000));
        assert_eq!(client::get(at, "/a").text(), "one");
        link.cut();
        assert_eq!(client::get(at, "/a").status, client::BROKEN_OFF);
        assert_eq!((link.asked("/a"), link.delivered("/a"), upstream.count("/a")), (4, 2, 2));
        let first = link.requests().remove(0);
        assert_eq!(first.send_to(client::address(upstream.url())).text(), "one");
        let again = upstream.requests().pop().unwrap();
        assert_eq!((again.method.as_str(), again.body.as_slice()), ("POST", b"body".as_slice()));
        assert_eq!(again.header("authorization"), Some("x"));
    }

    #[test]
    fn requests_are_held_until_they_are_released() {
        let upstream = Upstream::start();
        upstream.put("/a", "one");
        let link = Link::to(client::address(upstream.url()));
        let at = client::address(link.url());
        link.hold_after("/a", 1);
        assert_eq!(client::get(at, "/a").text(), "one");
        std::thread::scope(|scope| {
            let held = scope.spawn(|| client::get(at, "/a"));
            link.wait_until_asked("/a", 2);
            assert_eq!(client::get(at, "/b").status, 404);
            assert_eq!(upstream.count("/a"), 1);
            link.release();
            assert_eq!(held.join().unwrap().text(), "one");
        });
        assert_eq!(upstream.count("/a"), 2);
    }
}
