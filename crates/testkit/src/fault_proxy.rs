//! A proxy between the programs and the service of a bucket. It counts the requests that change something, and disturbs
//! one of them.
//!
//! A deletion of several objects is noted object by object. Requests are forwarded with their `Host` header, so that
//! signatures stay valid. Each request has a connection of its own, and bodies are not held in memory.

use std::any::Any;
use std::fmt;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::process::{Child, Command};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::bucket::TestBucket;
use crate::client;
use crate::gcs::{Asked, decoded};

/// A request or answer that hangs for longer is a fault of a test.
const NEVER: Duration = Duration::from_secs(300);

/// A way to disturb a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The process is killed, and the request does not arrive.
    Kill,
    /// The request is done, and the process is killed before it gets the answer.
    KillAfter,
    /// The request does not arrive, and its connection is closed.
    LostRequest,
    /// The request is done, and the connection is closed without the answer.
    LostAnswer,
    /// The request does not arrive. The answer has this status.
    Status(u16),
    /// The request is done, and the answer has this status.
    DoneBut(u16),
    /// The request arrives after this time.
    Late(Duration),
    /// The process is suspended, something else happens, the process goes on, and then the request arrives.
    Suspend,
    /// The request is done, the process is suspended, something else happens, the process goes on, and the connection is
    /// closed without the answer.
    SuspendAfter,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kill => f.write_str("a kill"),
            Self::KillAfter => f.write_str("a kill before the answer"),
            Self::LostRequest => f.write_str("a lost request"),
            Self::LostAnswer => f.write_str("a lost answer"),
            Self::Status(status) => write!(f, "status {status}"),
            Self::DoneBut(status) => write!(f, "status {status} of a request that was done"),
            Self::Late(time) => write!(f, "a delay of {time:?}"),
            Self::Suspend => f.write_str("a suspended process"),
            Self::SuspendAfter => f.write_str("a process suspended before the answer, which is lost"),
        }
    }
}

/// Returns whether a request counts.
pub type Counts = fn(&Asked) -> bool;

/// A running proxy. It ends when it is dropped.
pub struct FaultProxy {
    url: String,
    address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    server: SocketAddr,
    /// The part of a path before the key.
    base: String,
    counts: Counts,
    has_ended: AtomicBool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    asked: Vec<Asked>,
    /// The first object that each request changed that counted.
    counted: Vec<Asked>,
    plan: Option<Plan>,
    process: Option<Pid>,
    /// The process was killed: what it has sent and what has not arrived yet is lost.
    is_cut: bool,
    is_hit: bool,
    /// The panic of what happened while the process was suspended.
    panic: Option<Box<dyn Any + Send>>,
}

struct Plan {
    at: usize,
    fault: Fault,
    meanwhile: Box<dyn FnOnce() + Send>,
}

impl FaultProxy {
    /// Starts a proxy in front of the service of a bucket. Requests that change something and meet the condition count.
    pub fn start(bucket: &TestBucket, counts: Counts) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a loopback port is free");
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            server: client::address(bucket.origin().expect("the service runs on this machine")),
            base: bucket.base(),
            counts,
            has_ended: AtomicBool::new(false),
            state: Mutex::default(),
        });
        let accepting = Arc::clone(&shared);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if accepting.has_ended.load(Ordering::Relaxed) {
                    break;
                }
                let shared = Arc::clone(&accepting);
                // An error is one of a connection that the program, the service or a fault has closed.
                std::thread::spawn(move || drop(shared.serve(&stream)));
            }
        });
        Self { url: format!("http://{address}"), address, shared }
    }

    /// Returns the URL by which programs find the service.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Disturbs the n-th request that counts. `meanwhile` runs while the process is suspended.
    pub fn inject(&self, at: usize, fault: Fault, meanwhile: impl FnOnce() + Send + 'static) {
        self.shared.state().plan = Some(Plan { at, fault, meanwhile: Box::new(meanwhile) });
    }

    /// Starts the process that is killed or suspended.
    pub fn spawn(&self, command: &mut Command) -> Child {
        // Under the lock, so that no fault strikes before the process is known.
        let mut state = self.shared.state();
        let child = command.spawn().unwrap();
        state.process = Some(pid(child.id()));
        child
    }

    /// Sets the process that is killed or suspended. Before that, a kill is only the loss of the request.
    pub fn set_process(&self, id: u32) {
        self.shared.state().process = Some(pid(id));
    }

    /// Returns the requests that counted so far, with the first object that each changes.
    pub fn counted(&self) -> Vec<Asked> {
        self.shared.state().counted.clone()
    }

    /// Returns all requests so far.
    pub fn asked(&self) -> Vec<Asked> {
        self.shared.state().asked.clone()
    }

    /// Returns whether the fault has struck. Panics as `meanwhile` did.
    pub fn is_hit(&self) -> bool {
        let (is_hit, panic) = {
            let mut state = self.shared.state();
            (state.is_hit, state.panic.take())
        };
        if let Some(panic) = panic {
            resume_unwind(panic);
        }
        is_hit
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        self.shared.has_ended.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(self.address);
    }
}

/// Returns whether the body of a request names objects to delete.
fn is_bulk(method: &str, target: &str) -> bool {
    let query = target.split_once('?').map_or("", |(_, query)| query);
    let is_named = |part: &str| matches!(part.split('=').next(), Some("delete")) || part == "comp=batch";
    method == "POST" && query.split('&').any(is_named)
}

fn pid(id: u32) -> Pid {
    Pid::from_raw(i32::try_from(id).unwrap())
}

/// The first line and the headers of a request or an answer, without what is about the connection only.
struct Head {
    first: String,
    headers: Vec<String>,
    length: Option<u64>,
    is_chunked: bool,
}

impl Head {
    /// Reads one. `None` at the end of the connection.
    fn read(reader: &mut impl BufRead) -> io::Result<Option<Self>> {
        let mut first = String::new();
        if reader.read_line(&mut first)? == 0 {
            return Ok(None);
        }
        let mut head = Self { first, headers: Vec::new(), length: None, is_chunked: false };
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let Some((name, value)) = line.split_once(':') else { return Ok(Some(head)) };
            match name.to_ascii_lowercase().as_str() {
                "content-length" => head.length = value.trim().parse().ok(),
                "transfer-encoding" => head.is_chunked = true,
                _ => {}
            }
            if !name.eq_ignore_ascii_case("connection") {
                head.headers.push(line);
            }
        }
    }

    fn write(&self, mut to: impl Write) -> io::Result<()> {
        let headers = self.headers.concat();
        write!(to, "{}{headers}Connection: close\r\n\r\n", self.first)
    }

    /// Returns the method or the version, and what follows.
    fn words(&self) -> (&str, &str) {
        let mut words = self.first.split(' ');
        (words.next().unwrap_or_default(), words.next().unwrap_or_default().trim())
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    fn serve(&self, client: &TcpStream) -> io::Result<()> {
        client.set_nodelay(true)?;
        client.set_read_timeout(Some(NEVER))?;
        let mut reader = BufReader::new(client);
        let Some(request) = Head::read(&mut reader)? else { return Ok(()) };
        assert!(!request.is_chunked, "the programs send bodies with their length");
        let (method, target) = request.words();
        let mut body = (&mut reader).take(request.length.unwrap_or(0));
        let mut named = Vec::new();
        let asked = match is_bulk(method, target) {
            false => vec![self.asked(method, target)],
            true => {
                body.read_to_end(&mut named)?;
                self.deleted(&String::from_utf8_lossy(&named))
            }
        };
        let mut body = named.as_slice().chain(body);
        let (fault, meanwhile) = match self.strike(asked) {
            Struck::No => return self.forward(&request, &mut body, client),
            Struck::Cut => return Ok(()),
            Struck::Yes(plan) => (plan.fault, plan.meanwhile),
        };
        match fault {
            Fault::Kill | Fault::LostRequest => Ok(()),
            Fault::KillAfter => {
                self.done(&request, &mut body)?;
                self.kill();
                Ok(())
            }
            Fault::LostAnswer => self.done(&request, &mut body),
            Fault::Status(status) => {
                // A close with unread bytes would take the answer along.
                io::copy(&mut body, &mut io::sink())?;
                answer(client, status)
            }
            Fault::DoneBut(status) => {
                self.done(&request, &mut body)?;
                answer(client, status)
            }
            Fault::Late(time) => {
                std::thread::sleep(time);
                self.forward(&request, &mut body, client)
            }
            Fault::Suspend => {
                // The body has not come whole, so it is read while the process can still send it.
                let mut whole = Vec::new();
                body.read_to_end(&mut whole)?;
                self.suspend(meanwhile);
                self.forward(&request, &mut whole.as_slice(), client)
            }
            Fault::SuspendAfter => {
                self.done(&request, &mut body)?;
                self.suspend(meanwhile);
                Ok(())
            }
        }
    }

    /// Returns the method and the key of a request.
    fn asked(&self, method: &str, target: &str) -> Asked {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let key = |path: &str| path.strip_prefix(&self.base).unwrap_or(path).to_owned();
        let prefix = query.split('&').find_map(|part| part.strip_prefix("prefix="));
        match prefix.filter(|_| method == "GET") {
            Some(prefix) => {
                // A listing names the bucket in its path and the prefix in its query.
                let bucket = path.trim_end_matches('/');
                Asked { method: "LIST".to_owned(), key: key(&format!("{bucket}/{}", decoded(prefix))) }
            }
            None => Asked { method: method.to_owned(), key: key(&decoded(path)) },
        }
    }

    /// Returns a deletion for each key that the body of a bulk deletion names: in XML (S3), or by requests (Azure).
    fn deleted(&self, body: &str) -> Vec<Asked> {
        let in_xml = body.split("<Key>").skip(1).filter_map(|rest| rest.split("</Key>").next());
        // The keys of the programs need no entities of XML.
        let in_xml = in_xml.map(|key| self.asked("DELETE", &format!("{}{key}", self.bucket())));
        let requests = body.lines().filter_map(|line| line.strip_prefix("DELETE "));
        let requests = requests.filter_map(|line| line.split(' ').next());
        in_xml.chain(requests.map(|target| self.asked("DELETE", target))).collect()
    }

    /// Returns the part of a path before the prefix.
    fn bucket(&self) -> &str {
        let end = self.base.trim_end_matches('/').rfind('/').map_or(0, |at| at + 1);
        &self.base[..end]
    }

    /// Notes a request, and returns the fault if it strikes here. A request may change several objects.
    fn strike(&self, asked: Vec<Asked>) -> Struck {
        let mut state = self.state();
        if state.is_cut {
            return Struck::Cut;
        }
        let counted = asked.iter().find(|asked| asked.is_change() && (self.counts)(asked)).cloned();
        state.asked.extend(asked);
        let Some(counted) = counted else { return Struck::No };
        state.counted.push(counted);
        let count = state.counted.len();
        match state.plan.take_if(|plan| plan.at == count) {
            None => Struck::No,
            Some(plan) => {
                state.is_hit = true;
                if plan.fault == Fault::Kill {
                    state.kill();
                }
                Struck::Yes(plan)
            }
        }
    }

    fn kill(&self) {
        self.state().kill();
    }

    fn suspend(&self, meanwhile: Box<dyn FnOnce() + Send>) {
        let process = self.state().process;
        let send = |signal| process.map(|process| kill(process, signal));
        send(Signal::SIGSTOP);
        let outcome = catch_unwind(AssertUnwindSafe(meanwhile));
        if let Err(panic) = outcome {
            self.state().panic = Some(panic);
        }
        send(Signal::SIGCONT);
    }

    /// Forwards a request. Returns its answer, whose body is still to come.
    fn send(&self, request: &Head, body: &mut impl Read) -> io::Result<(Head, BufReader<TcpStream>)> {
        let mut server = TcpStream::connect(self.server)?;
        server.set_nodelay(true)?;
        server.set_read_timeout(Some(NEVER))?;
        request.write(&server)?;
        // A service may answer before it has read everything.
        let _ = io::copy(body, &mut server);
        let mut reader = BufReader::new(server);
        let answer = Head::read(&mut reader)?.ok_or(io::ErrorKind::UnexpectedEof)?;
        Ok((answer, reader))
    }

    fn done(&self, request: &Head, body: &mut impl Read) -> io::Result<()> {
        self.send(request, body).map(drop)
    }

    fn forward(&self, request: &Head, body: &mut impl Read, mut client: &TcpStream) -> io::Result<()> {
        let (answer, mut reader) = self.send(request, body)?;
        answer.write(client)?;
        let has_body = request.words().0 != "HEAD" && !matches!(answer.words().1, "204" | "304");
        match answer.length.filter(|_| !answer.is_chunked) {
            _ if !has_body => {}
            Some(length) => drop(io::copy(&mut reader.take(length), &mut client)?),
            None => drop(io::copy(&mut reader, &mut client)?),
        }
        Ok(())
    }
}

impl State {
    fn kill(&mut self) {
        if let Some(process) = self.process {
            let _ = kill(process, Signal::SIGKILL);
            self.is_cut = true;
        }
    }
}

enum Struck {
    No,
    Yes(Plan),
    /// The process has been killed.
    Cut,
}

fn answer(mut client: &TcpStream, status: u16) -> io::Result<()> {
    write!(client, "HTTP/1.1 {status} Status\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
}

#[cfg(test)]
mod tests {
    use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};

    use super::*;
    use crate::bucket::Service;
    use crate::gcs::Gcs;

    fn started() -> (Gcs, TestBucket, FaultProxy) {
        let gcs = Gcs::start();
        let bucket = |origin: &str| TestBucket::new(Service::Gcs, gcs.bucket("b"), origin);
        let proxy = FaultProxy::start(&bucket(gcs.url()), |asked| asked.key != "ignored");
        let behind = bucket(proxy.url());
        (gcs, behind, proxy)
    }

    fn asked(method: &str, key: &str) -> Asked {
        Asked { method: method.to_owned(), key: key.to_owned() }
    }

    #[test]
    fn requests_are_forwarded_and_changes_are_counted() {
        let (gcs, behind, proxy) = started();
        let data = vec![7; 20 << 20];
        behind.put("a/b c", data.clone());
        behind.put("ignored", "");
        assert_eq!(behind.get("a/b c").unwrap(), data);
        assert_eq!(behind.keys("a"), ["a/b c"]);
        behind.delete("a/b c");
        assert_eq!(gcs.keys(""), ["b/ignored"]);
        assert_eq!(proxy.counted().len(), 2);
        let expected =
            [("PUT", "a/b c"), ("PUT", "ignored"), ("GET", "a/b c"), ("LIST", ""), ("DELETE", "a/b c")];
        assert_eq!(proxy.asked(), expected.map(|(method, key)| asked(method, key)));
    }

    #[test]
    fn one_request_or_its_answer_is_lost_or_replaced() {
        // The client repeats a request whose answer it does not get.
        let cases = [
            (Fault::LostRequest, 1, 2),
            (Fault::LostAnswer, 2, 2),
            (Fault::Status(503), 1, 2),
            (Fault::DoneBut(503), 2, 2),
            (Fault::Late(Duration::from_millis(20)), 1, 1),
        ];
        for (fault, arrived, sent) in cases {
            let (gcs, behind, proxy) = started();
            proxy.inject(2, fault, || unreachable!());
            behind.put("first", "");
            assert!(!proxy.is_hit());
            gcs.take_asked();
            behind.put("second", vec![7; 1 << 20]);
            assert!(proxy.is_hit());
            assert_eq!(gcs.take_asked(), vec![asked("PUT", "b/second"); arrived], "{fault}");
            assert_eq!(proxy.counted().len(), 1 + sent, "{fault}");
        }
    }

    #[test]
    fn a_process_is_killed_before_or_after_a_request_and_sends_nothing_more() {
        for (fault, arrived) in [(Fault::Kill, 0), (Fault::KillAfter, 1)] {
            let (gcs, behind, proxy) = started();
            let mut process = proxy.spawn(Command::new("sleep").arg("600"));
            proxy.inject(1, fault, || unreachable!());
            for _ in 0..2 {
                let mut stream = TcpStream::connect(client::address(behind.origin().unwrap())).unwrap();
                write!(stream, "PUT /modules/b/k HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\nx").unwrap();
                let mut answer = Vec::new();
                // The end of a connection with unread bytes may be an error.
                let _ = stream.read_to_end(&mut answer);
                assert!(answer.is_empty());
            }
            assert_eq!(process.wait().unwrap().code(), None);
            assert_eq!(gcs.take_asked().len(), arrived);
        }
    }

    #[test]
    fn something_else_happens_while_a_process_is_suspended() {
        let (gcs, behind, proxy) = started();
        let mut process = proxy.spawn(Command::new("sleep").arg("600"));
        let id = pid(process.id());
        let other = gcs.clone();
        proxy.inject(1, Fault::Suspend, move || {
            let stopped = waitpid(id, Some(WaitPidFlag::WUNTRACED)).unwrap();
            assert_eq!(stopped, WaitStatus::Stopped(id, Signal::SIGSTOP));
            assert!(other.keys("").is_empty());
            other.put("b/k", "of another");
        });
        behind.put("k", "late");
        assert!(proxy.is_hit());
        assert_eq!(gcs.text("b/k"), "late");
        let continued = waitpid(id, Some(WaitPidFlag::WCONTINUED)).unwrap();
        assert_eq!(continued, WaitStatus::Continued(id));
        process.kill().unwrap();
        process.wait().unwrap();
    }
}
