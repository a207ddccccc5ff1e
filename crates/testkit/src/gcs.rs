//! A double of the XML API of Google Cloud Storage, on loopback and in memory, as far as the programs use it.
//!
//! It is not Google Cloud Storage: it checks no signature, and all of it is under one lock. A test can look into it,
//! change it, and let it fail.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The name of the bucket.
pub const BUCKET: &str = "modules";

/// A running double. It ends with the process of the test.
#[derive(Clone)]
pub struct Gcs {
    url: String,
    shared: Arc<Mutex<State>>,
}

/// An object.
#[derive(Debug, Clone)]
pub struct Object {
    /// The content.
    pub data: Vec<u8>,
    /// Changes with each write.
    pub generation: u64,
    /// The time of the last write.
    pub modified: SystemTime,
    /// Headers that the writer gave: the content type and user metadata.
    pub headers: Vec<(String, String)>,
}

/// A request that was received.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// The method. `LIST` for a listing.
    pub method: String,
    /// The key, or the prefix of a listing.
    pub key: String,
}

impl Asked {
    /// Returns whether the request changes something.
    pub fn is_change(&self) -> bool {
        !matches!(self.method.as_str(), "GET" | "HEAD" | "LIST")
    }
}

/// How requests fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failing {
    /// With this status.
    Status(u16),
    /// The connection is closed without an answer, and nothing is done.
    Closed,
    /// The request is done, and the connection is closed without an answer.
    LostAnswer,
    /// The request is done, and the answer has this status.
    DoneBut(u16),
    /// The request is done after this time.
    Late(Duration),
    /// The request is done after [`recover`](Gcs::recover).
    Held,
    /// The request is done, and the connection is closed after this number of bytes of the answer's body.
    Cut(usize),
}

/// Whether a request fails.
type Fails = Box<dyn FnMut(&Asked) -> Option<Failing> + Send>;

#[derive(Default)]
struct State {
    objects: BTreeMap<String, Object>,
    uploads: BTreeMap<String, Upload>,
    last: u64,
    page: Option<usize>,
    asked: Vec<Asked>,
    ignores_conditions: bool,
    ignores_starts: bool,
    /// The time between the check of a condition and the write.
    race_window: Option<Duration>,
    fails: Option<Fails>,
}

#[derive(Default)]
struct Upload {
    parts: BTreeMap<u32, Vec<u8>>,
    headers: Vec<(String, String)>,
}

impl Gcs {
    /// Starts one with an empty bucket.
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a loopback port is free");
        let url = format!("http://{}", listener.local_addr().unwrap());
        let shared = Arc::<Mutex<State>>::default();
        let state = Arc::clone(&shared);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                drop(stream.set_nodelay(true));
                let state = Arc::clone(&state);
                std::thread::spawn(move || serve(stream, &state));
            }
        });
        Self { url, shared }
    }

    /// Returns the URL of the service.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Returns the URL of the bucket, with a prefix if that is not empty.
    pub fn bucket(&self, prefix: &str) -> String {
        if prefix.is_empty() { format!("gs://{BUCKET}") } else { format!("gs://{BUCKET}/{prefix}") }
    }

    /// Returns the environment variables by which the programs find it.
    pub fn environment(&self) -> Vec<(String, String)> {
        environment(&self.url)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.lock().unwrap()
    }

    /// Returns all keys below a prefix.
    pub fn keys(&self, prefix: &str) -> Vec<String> {
        self.state().objects.keys().filter(|key| key.starts_with(prefix)).cloned().collect()
    }

    /// Returns an object.
    pub fn get(&self, key: &str) -> Option<Object> {
        self.state().objects.get(key).cloned()
    }

    /// Returns the content of an object as text.
    pub fn text(&self, key: &str) -> String {
        String::from_utf8(self.get(key).unwrap_or_else(|| panic!("no object {key}")).data).unwrap()
    }

    /// Writes an object that is an hour old, so that nobody takes it for a save in progress.
    pub fn put(&self, key: &str, data: impl Into<Vec<u8>>) {
        let mut state = self.state();
        let modified = SystemTime::now() - Duration::from_secs(3600);
        state.store(key, data.into(), Vec::new(), modified);
    }

    /// Changes an object in its place: its time, its headers or its content.
    pub fn change(&self, key: &str, change: impl FnOnce(&mut Object)) {
        let mut state = self.state();
        state.last += 1;
        let generation = state.last;
        let object = state.objects.get_mut(key).unwrap_or_else(|| panic!("no object {key}"));
        change(object);
        object.generation = generation;
    }

    /// Makes an object older than a day, without writing it.
    pub fn age(&self, key: &str) {
        let mut state = self.state();
        let object = state.objects.get_mut(key).unwrap_or_else(|| panic!("no object {key}"));
        object.modified = SystemTime::now() - Duration::from_secs(25 * 3600);
    }

    /// Sets the generation of an object, as if it had not been written again.
    pub fn set_generation(&self, key: &str, generation: u64) {
        let mut state = self.state();
        state.objects.get_mut(key).unwrap_or_else(|| panic!("no object {key}")).generation = generation;
    }

    /// Removes an object.
    pub fn delete(&self, key: &str) {
        self.state().objects.remove(key);
    }

    /// Puts the three files of a version where Athens would.
    pub fn save(&self, prefix: &str, module: &crate::Module) {
        let base = format!("{prefix}{}/@v/{}", module.version.path(), module.version.version());
        self.put(&format!("{base}.info"), module.info.clone());
        self.put(&format!("{base}.mod"), module.modfile.clone());
        self.put(&format!("{base}.zip"), module.zip.clone());
    }

    /// Sets the maximum number of keys in an answer.
    pub fn set_page(&self, keys: usize) {
        self.state().page = Some(keys);
    }

    /// Ignores the conditions of writes from now on, as some services do.
    pub fn ignore_conditions(&self) {
        self.state().ignores_conditions = true;
    }

    /// Checks the conditions of writes from now on, and writes a while later, as some services do. Other requests are
    /// answered meanwhile.
    pub fn write_late(&self, window: Duration) {
        self.state().race_window = Some(window);
    }

    /// Begins listings at the first key from now on, wherever they are to begin, as some services do.
    pub fn ignore_starts(&self) {
        self.state().ignores_starts = true;
    }

    /// Lets requests fail, until [`recover`](Self::recover).
    pub fn fail(&self, fails: impl FnMut(&Asked) -> Option<Failing> + Send + 'static) {
        self.state().fails = Some(Box::new(fails));
    }

    /// Answers all requests again.
    pub fn recover(&self) {
        self.state().fails = None;
    }

    /// Returns the requests since the last call.
    pub fn take_asked(&self) -> Vec<Asked> {
        std::mem::take(&mut self.state().asked)
    }
}

/// Returns the environment variables by which the programs find a double, or a proxy in front of it.
pub fn environment(url: &str) -> Vec<(String, String)> {
    let key = serde_json::json!({
        "type": "service_account",
        "private_key": "none",
        "private_key_id": "none",
        "client_email": "test@example.com",
        "disable_oauth": true,
    });
    let mut variables = vec![
        ("GOOGLE_SERVICE_ACCOUNT_KEY".to_owned(), key.to_string()),
        ("STOA_BUCKET_ENDPOINT".to_owned(), url.to_owned()),
    ];
    variables.extend(crate::bucket::one_certificate());
    variables
}

impl State {
    fn store(
        &mut self,
        key: &str,
        data: Vec<u8>,
        headers: Vec<(String, String)>,
        modified: SystemTime,
    ) -> u64 {
        self.last += 1;
        let object = Object { data, generation: self.last, modified, headers };
        self.objects.insert(key.to_owned(), object);
        self.last
    }
}

/// A request.
struct Request {
    method: String,
    key: String,
    query: BTreeMap<String, String>,
    headers: BTreeMap<String, String>,
    body: Vec<u8>,
}

/// An answer.
struct Answer {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Answer {
    fn new(status: u16) -> Self {
        Self { status, headers: Vec::new(), body: Vec::new() }
    }

    fn xml(body: String) -> Self {
        Self { body: body.into_bytes(), ..Self::new(200) }
    }

    fn with(mut self, name: &str, value: impl ToString) -> Self {
        self.headers.push((name.to_owned(), value.to_string()));
        self
    }
}

fn serve(stream: TcpStream, state: &Mutex<State>) -> Option<()> {
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    let mut stream = stream;
    loop {
        let request = read(&mut reader)?;
        let is_head = request.method == "HEAD";
        let mut cut = None;
        let mut answer = {
            let mut state = state.lock().unwrap();
            let is_list = request.key.is_empty() && request.method == "GET";
            let method = if is_list { "LIST".to_owned() } else { request.method.clone() };
            let prefix = || request.query.get("prefix").cloned().unwrap_or_default();
            let asked = Asked { method, key: if is_list { prefix() } else { request.key.clone() } };
            state.asked.push(asked.clone());
            let failing = state.fails.as_mut().and_then(|fails| fails(&asked));
            match failing {
                Some(Failing::Closed) => return None,
                Some(Failing::Status(status)) => Err(Answer::new(status)),
                other => Ok((other, request)),
            }
        };
        let answer = match &mut answer {
            Err(refused) => std::mem::replace(refused, Answer::new(500)),
            Ok((failing, request)) => {
                match failing {
                    Some(Failing::Late(time)) => std::thread::sleep(*time),
                    Some(Failing::Held) => {
                        while state.lock().unwrap().fails.is_some() {
                            std::thread::sleep(Duration::from_millis(10));
                        }
                    }
                    Some(Failing::Cut(bytes)) => cut = Some(*bytes),
                    _ => {}
                }
                let done = written_late(state, request)
                    .unwrap_or_else(|| answer_to(&mut state.lock().unwrap(), request));
                match failing {
                    Some(Failing::LostAnswer) => return None,
                    Some(Failing::DoneBut(status)) => Answer::new(*status),
                    _ => done,
                }
            }
        };
        let mut head =
            format!("HTTP/1.1 {} Status\r\nDate: {}\r\n", answer.status, http_date(SystemTime::now()));
        for (name, value) in &answer.headers {
            let _ = write!(head, "{name}: {value}\r\n");
        }
        let _ = write!(head, "Content-Length: {}\r\n\r\n", answer.body.len());
        stream.write_all(head.as_bytes()).ok()?;
        if let Some(bytes) = cut {
            stream.write_all(&answer.body[..bytes.min(answer.body.len())]).ok()?;
            return None;
        }
        if !is_head {
            stream.write_all(&answer.body).ok()?;
        }
    }
}

fn read(reader: &mut impl BufRead) -> Option<Request> {
    let mut line = String::new();
    if reader.read_line(&mut line).ok()? == 0 {
        return None;
    }
    let mut words = line.split(' ');
    let (method, target) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let line = line.trim_end();
        if line.is_empty() {
            break;
        }
        let (name, value) = line.split_once(':')?;
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    let body = match headers.get("transfer-encoding") {
        Some(_) => chunked(reader)?,
        None => {
            let length = headers.get("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
            let mut body = vec![0; length];
            reader.read_exact(&mut body).ok()?;
            body
        }
    };
    let (path, query) = target.split_once('?').unwrap_or((&target, ""));
    let key = path.trim_start_matches('/').split_once('/').map_or("", |(_, key)| key);
    let query = query.split('&').filter(|part| !part.is_empty());
    let query = query.map(|part| {
        let (name, value) = part.split_once('=').unwrap_or((part, ""));
        (decoded(name), decoded(&value.replace('+', " ")))
    });
    Some(Request { method, key: decoded(key), query: query.collect(), headers, body })
}

fn chunked(reader: &mut impl BufRead) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let size = usize::from_str_radix(line.trim().split(';').next()?, 16).ok()?;
        let from = body.len();
        body.resize(from + size, 0);
        reader.read_exact(&mut body[from..]).ok()?;
        let mut end = String::new();
        reader.read_line(&mut end).ok()?;
        if size == 0 {
            return Some(body);
        }
    }
}

pub(crate) fn decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let code = after.get(..2).and_then(|hex| u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok());
        match code.filter(|_| first == b'%') {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            None => {
                bytes.push(first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// Does a conditional write in two steps, if the double is to behave so. Returns the answer if the condition is not met.
fn written_late(state: &Mutex<State>, request: &mut Request) -> Option<Answer> {
    let window = {
        let state = state.lock().unwrap();
        let window = state.race_window?;
        request.headers.get(CONDITION)?;
        if !is_met(&state, request) {
            return Some(Answer::new(412));
        }
        window
    };
    std::thread::sleep(window);
    request.headers.remove(CONDITION);
    None
}

/// The header with the generation that an object must have.
const CONDITION: &str = "x-goog-if-generation-match";

fn is_met(state: &State, request: &Request) -> bool {
    let wanted = request.headers.get(CONDITION).and_then(|text| text.parse::<u64>().ok());
    let found = state.objects.get(&request.key).map_or(0, |object| object.generation);
    state.ignores_conditions || wanted.is_none_or(|wanted| wanted == found)
}

fn answer_to(state: &mut State, request: &mut Request) -> Answer {
    let is_met = is_met(state, request);
    let Request { method, key, query, headers, body } = request;
    let (key, body) = (key.clone(), std::mem::take(body));
    let meta = || -> Vec<(String, String)> {
        let is_kept = |name: &str| name.starts_with("x-goog-meta-") || name == "content-type";
        headers.iter().filter(|(name, _)| is_kept(name)).map(|(n, v)| (n.clone(), v.clone())).collect()
    };
    match (method.as_str(), query.get("uploadId")) {
        ("GET", _) if key.is_empty() => return list(state, query),
        ("POST", None) if query.contains_key("uploads") => {
            state.last += 1;
            let id = format!("upload{}", state.last);
            state.uploads.insert(id.clone(), Upload { headers: meta(), ..Upload::default() });
            return Answer::xml(format!(
                "<InitiateMultipartUploadResult><UploadId>{id}</UploadId></InitiateMultipartUploadResult>"
            ));
        }
        ("PUT", Some(id)) => {
            let number = query.get("partNumber").and_then(|number| number.parse().ok()).unwrap_or(0);
            let Some(upload) = state.uploads.get_mut(id) else { return Answer::new(404) };
            upload.parts.insert(number, body);
            return Answer::new(200).with("ETag", format_args!("\"part{number}\""));
        }
        ("POST", Some(id)) => {
            let Some(upload) = state.uploads.remove(id) else { return Answer::new(404) };
            let data = upload.parts.into_values().flatten().collect();
            let generation = state.store(&key, data, upload.headers, SystemTime::now());
            return Answer::xml(format!(
                "<CompleteMultipartUploadResult><ETag>\"{generation}\"</ETag></CompleteMultipartUploadResult>"
            ))
            .with("x-goog-generation", generation);
        }
        ("DELETE", Some(id)) => {
            state.uploads.remove(id);
            return Answer::new(204);
        }
        _ => {}
    }
    let found = state.objects.get(&key).cloned();
    // Earlier generations are not kept.
    let generation = query.get("generation");
    let is_named = |object: &Object| generation.is_none_or(|named| *named == object.generation.to_string());
    let found = found.filter(is_named);
    match method.as_str() {
        "PUT" | "DELETE" if !is_met => Answer::new(412),
        "PUT" => {
            let generation = match headers.get("x-goog-copy-source") {
                Some(source) => {
                    let source = source.trim_start_matches('/').split_once('/').map_or("", |(_, key)| key);
                    let Some(object) = state.objects.get(&decoded(source)).cloned() else {
                        return Answer::new(404);
                    };
                    state.store(&key, object.data, object.headers, SystemTime::now())
                }
                None => state.store(&key, body, meta(), SystemTime::now()),
            };
            Answer::new(200)
                .with("ETag", format_args!("\"{generation}\""))
                .with("x-goog-generation", generation)
        }
        "DELETE" => Answer::new(if state.objects.remove(&key).is_some() { 204 } else { 404 }),
        "GET" | "HEAD" => found.map_or_else(|| Answer::new(404), |object| read_object(&object, headers)),
        _ => Answer::new(405),
    }
}

fn read_object(object: &Object, headers: &BTreeMap<String, String>) -> Answer {
    let etag = format!("\"{}\"", object.generation);
    let describe = |mut answer: Answer| {
        answer.headers.extend(object.headers.iter().cloned());
        answer
            .with("ETag", &etag)
            .with("x-goog-generation", object.generation)
            .with("Last-Modified", http_date(object.modified))
    };
    if headers.get("if-none-match") == Some(&etag) {
        return describe(Answer::new(304));
    }
    if headers.get("if-match").is_some_and(|wanted| *wanted != etag) {
        return Answer::new(412);
    }
    let all = object.data.len();
    let range = headers.get("range").and_then(|range| range.strip_prefix("bytes=")?.split_once('-'));
    let Some((from, to)) = range else {
        return describe(Answer { body: object.data.clone(), ..Answer::new(200) });
    };
    let (from, to) = match (from.parse::<usize>(), to.parse::<usize>()) {
        (Ok(from), Ok(to)) => (from, to.min(all.saturating_sub(1))),
        (Ok(from), Err(_)) => (from, all.saturating_sub(1)),
        (Err(_), Ok(last)) => (all.saturating_sub(last), all.saturating_sub(1)),
        (Err(_), Err(_)) => return Answer::new(400),
    };
    if from >= all {
        return Answer::new(416);
    }
    let body = object.data[from..=to].to_vec();
    describe(Answer { body, ..Answer::new(206) })
        .with("Content-Range", format_args!("bytes {from}-{to}/{all}"))
}

fn list(state: &State, query: &BTreeMap<String, String>) -> Answer {
    let get = |name: &str| query.get(name).map(String::as_str).unwrap_or_default();
    let (prefix, delimiter) = (get("prefix"), get("delimiter"));
    let start = if state.ignores_starts { [""; 2] } else { [get("start-after"), get("startOffset")] };
    let after = [get("continuation-token"), start[0], start[1]];
    let after = after.into_iter().max().unwrap_or_default();
    let limit = get("max-keys").parse().unwrap_or(1000).min(state.page.unwrap_or(1000));
    let (mut contents, mut folders) = (String::new(), Vec::<&str>::new());
    let (mut count, mut last, mut is_truncated) = (0, "", false);
    for (key, object) in state.objects.range(prefix.to_owned()..) {
        let Some(rest) = key.strip_prefix(prefix) else { break };
        let folder = if delimiter.is_empty() { None } else { rest.find(delimiter) };
        let name = folder.map_or(key.as_str(), |at| &key[..prefix.len() + at + delimiter.len()]);
        if name <= after || folders.last() == Some(&name) {
            continue;
        }
        if count == limit {
            is_truncated = true;
            break;
        }
        (count, last) = (count + 1, name);
        if folder.is_some() {
            folders.push(name);
            continue;
        }
        let _ = write!(
            contents,
            "<Contents><Key>{}</Key><Generation>{}</Generation><Size>{}</Size><LastModified>{}</LastModified><ETag>\"{}\"</ETag></Contents>",
            escaped(key),
            object.generation,
            object.data.len(),
            rfc3339(object.modified),
            object.generation
        );
    }
    for folder in folders {
        let _ = write!(contents, "<CommonPrefixes><Prefix>{}</Prefix></CommonPrefixes>", escaped(folder));
    }
    if is_truncated {
        let _ = write!(contents, "<NextContinuationToken>{}</NextContinuationToken>", escaped(last));
    }
    Answer::xml(format!(
        "<?xml version=\"1.0\"?><ListBucketResult>{contents}<IsTruncated>{is_truncated}</IsTruncated></ListBucketResult>"
    ))
}

fn seconds(time: SystemTime) -> i64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or_default()
}

fn http_date(time: SystemTime) -> String {
    httpdate::fmt_http_date(time)
}

fn rfc3339(time: SystemTime) -> String {
    let time = time::OffsetDateTime::from_unix_timestamp(seconds(time)).unwrap();
    time.format(&time::format_description::well_known::Rfc3339).unwrap()
}

#[cfg(test)]
mod tests {
    use stoa_bucket::{Bucket, BucketUrl, ConnectOptions, Tag};

    use super::*;

    fn connect(gcs: &Gcs) -> Bucket {
        let url: BucketUrl = gcs.bucket("go").parse().unwrap();
        let endpoint = Some(gcs.url().to_owned());
        let options = ConnectOptions { endpoint, variables: gcs.environment(), ..ConnectOptions::default() };
        Bucket::connect(&url, &options).unwrap()
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn the_double_honours_conditions_and_lists_in_order() {
        let gcs = Gcs::start();
        let bucket = connect(&gcs);
        bucket.probe().await.unwrap();
        assert!(gcs.keys("").is_empty());
        gcs.set_page(3);
        let names = ["a/@v/v1.info", "a/@v/v1.mod", "a/b c+d~/x", "b", "b/c", "b/d/e"];
        for name in names {
            gcs.put(&format!("go/{name}"), name);
        }
        gcs.put("go/x//y", "unnameable");
        gcs.put("gone/z", "outside");
        let listed: Vec<_> = futures_util::StreamExt::collect(bucket.list("", None).unwrap()).await;
        let keys: Vec<String> = listed.into_iter().map(|entry| entry.unwrap().key).collect();
        assert_eq!(keys, names);
        assert_eq!(bucket.take_unnameable().keys, ["x//y"]);
        let after: Vec<_> =
            futures_util::StreamExt::collect(bucket.list("", Some("a/b c+d~/x")).unwrap()).await;
        assert_eq!(after.len(), 3);
        let folder = bucket.folder("b").await.unwrap();
        assert_eq!((folder.entries.len(), folder.folders), (1, vec!["b/d".to_owned()]));
        assert_eq!(bucket.get("b", 10).await.unwrap().unwrap().bytes, "b");
        assert!(
            bucket.read("b", None, Some(&Tag::new(Some("\"0\"".to_owned()), None))).await.unwrap().is_none()
        );
        assert!(bucket.copy_if_absent("b", "copied").await.unwrap());
        assert!(!bucket.copy_if_absent("b/c", "copied").await.unwrap());
        assert_eq!(gcs.text("go/copied"), "b");
        bucket.delete("copied").await.unwrap();
        bucket.delete("copied").await.unwrap();
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn large_files_are_written_in_parts() {
        let gcs = Gcs::start();
        let bucket = connect(&gcs);
        let data: Vec<u8> = (0..20_000_000u32).map(|n| n.to_le_bytes()[1]).collect();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&data).unwrap();
        bucket.upload("large", Arc::new(file), data.len() as u64).await.unwrap();
        assert_eq!(gcs.get("go/large").unwrap().data, data);
        assert!(gcs.take_asked().len() > 4);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn an_outage_is_reported_as_such() {
        let gcs = Gcs::start();
        let bucket = connect(&gcs);
        gcs.fail(|_| Some(Failing::Closed));
        let error = bucket.get("a", 10).await.unwrap_err();
        assert_eq!(error.trouble, stoa_bucket::Trouble::Unreachable, "{error}");
        gcs.fail(|_| Some(Failing::Status(403)));
        let error = bucket.get("a", 10).await.unwrap_err();
        assert_eq!(error.trouble, stoa_bucket::Trouble::Denied, "{error}");
        gcs.recover();
        assert!(bucket.get("a", 10).await.unwrap().is_none());
    }
}
