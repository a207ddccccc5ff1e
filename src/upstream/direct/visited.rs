//! The repositories that git visited over HTTP.
//!
//! A server may redirect git to another repository, and the output of the go command names only the first one. So git
//! writes the heads of its requests to a file, without their credentials.
//!
//! A clone may come from an earlier run, which need not have succeeded, or from a run that is not over yet. So the
//! files lie next to the clones, and the requests of all runs that used the same clones count.

use crate::lock::lock;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use stoa_layout::durable;

/// The prefix of the names of the files.
const PREFIX: &str = "requests-";

/// Maximum number of bytes of a line. No longer URL is requested by git.
const MAX_LINE_BYTES: u64 = 8 << 20;

/// The ends of the URLs at which git looks for a repository.
const ENDS: [&str; 2] = ["/info/refs", "/git-upload-pack"];

/// The repositories that ended runs visited for the same clones, without duplicates.
#[derive(Debug, Default)]
pub(super) struct Visited(Mutex<Vec<String>>);

impl Visited {
    /// Returns the path of the file for one run, in the folder of the clones.
    pub(super) fn trace(&self, clones: &Path, number: u64) -> PathBuf {
        clones.join(format!("{PREFIX}{number}"))
    }

    /// Notes the visits of a run that has ended. Returns the URLs of the repositories that this run, earlier and
    /// running ones visited.
    pub(super) fn end(&self, clones: &Path, trace: &Path) -> io::Result<Vec<String>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(clones)? {
            let path = entry?.path();
            if path.file_name().is_some_and(is_trace) {
                read(&path, &mut found)?;
            }
        }
        // After the files, since a run that ends now is noted before its file is removed.
        let mut visited = lock(&self.0);
        for url in found {
            if !visited.contains(&url) {
                visited.push(url);
            }
        }
        match durable::remove_file(trace) {
            Err(error) if !error.is_not_found() => Err(io::Error::other(error)),
            _ => Ok(visited.clone()),
        }
    }
}

fn is_trace(name: &OsStr) -> bool {
    name.as_encoded_bytes().starts_with(PREFIX.as_bytes())
}

/// Reads a file. A run without a request has none.
fn read(path: &Path, visited: &mut Vec<String>) -> io::Result<()> {
    match File::open(path) {
        Ok(file) => parse(BufReader::new(file), visited),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

fn parse(mut trace: impl BufRead, visited: &mut Vec<String>) -> io::Result<()> {
    let (mut line, mut repository) = (Vec::new(), None);
    loop {
        line.clear();
        if trace.by_ref().take(MAX_LINE_BYTES).read_until(b'\n', &mut line)? == 0 {
            return Ok(());
        }
        let line = String::from_utf8_lossy(&line);
        let Some((before, sent)) = line.trim_end().split_once("=> Send header: ") else { continue };
        // A header of an answer may contain any text.
        if before.contains("<= Recv") {
            continue;
        }
        if let Some(target) = sent.strip_prefix("GET ").or_else(|| sent.strip_prefix("POST ")) {
            let path = target.split([' ', '?']).next().unwrap_or_default();
            repository = ENDS.iter().find_map(|end| path.strip_suffix(end)).map(str::to_owned);
        } else if let Some((name, host)) = sent.split_once(':')
            && name.eq_ignore_ascii_case("host")
            && let Some(path) = repository.take()
        {
            let url = format!("https://{}{path}", host.trim());
            if !visited.contains(&url) {
                visited.push(url);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use stoa_layout::durable::Durable;

    #[test]
    fn redirected_requests_name_a_repository_of_their_own() {
        let trace = "\
12:00:00.1 http.c:684  => Send header: CONNECT a.example:443 HTTP/1.1
12:00:00.1 http.c:684  => Send header: Host: a.example:443
12:00:00.1 http.c:684  => Send header: GET /moved/x.git/info/refs?service=git-upload-pack HTTP/1.1
12:00:00.1 http.c:684  => Send header: Host: a.example
12:00:00.1 http.c:684  <= Recv header: Location: https://b.example/x.git/info/refs?service=git-upload-pack
12:00:00.2 http.c:684  => Send header: GET /x.git/info/refs?service=git-upload-pack HTTP/2
12:00:00.2 http.c:684  => Send header: host: b.example
12:00:00.2 http.c:684  => Send header: POST /x.git/git-upload-pack HTTP/2
12:00:00.2 http.c:684  => Send header: host: b.example
12:00:00.2 http.c:684  => Send header: GET /x.git/objects/info/packs HTTP/2
12:00:00.2 http.c:684  => Send header: host: b.example
";
        assert_eq!(parsed(trace), ["https://a.example/moved/x.git", "https://b.example/x.git"]);
        assert!(parsed("").is_empty());
    }

    #[test]
    fn headers_of_a_server_name_no_repository() {
        let trace = "\
12:00:00.1 http.c:684  => Send header: GET /x.git/info/refs?service=git-upload-pack HTTP/1.1
12:00:00.1 http.c:684  <= Recv header: x: => Send header: GET /y.git/info/refs HTTP/1.1
12:00:00.1 http.c:684  <= Recv header: x: => Send header: Host: c.example
12:00:00.1 http.c:684  => Send header: Host: a.example
";
        assert_eq!(parsed(trace), ["https://a.example/x.git"]);
    }

    #[test]
    fn requests_of_running_and_ended_runs_are_found() {
        let dir = testkit::tempdir();
        let visited = Visited::default();
        let (first, second) = (visited.trace(dir.path(), 1), visited.trace(dir.path(), 2));
        let write = |path: &Path, host: &str| {
            let text = format!(
                "=> Send header: GET /x.git/info/refs?service=git-upload-pack HTTP/1.1\n=> Send header: Host: {host}\n"
            );
            std::io::Write::write_all(&mut Durable::default().create_file(path).unwrap(), text.as_bytes())
                .unwrap();
        };
        write(&first, "a.example");
        assert_eq!(visited.end(dir.path(), &second).unwrap(), ["https://a.example/x.git"]);
        assert!(first.is_file(), "the first run goes on");
        assert_eq!(visited.end(dir.path(), &first).unwrap(), ["https://a.example/x.git"]);
        assert!(!first.exists());
        write(&second, "b.example");
        let both = ["https://a.example/x.git", "https://b.example/x.git"];
        assert_eq!(visited.end(dir.path(), &second).unwrap(), both);
    }

    fn parsed(trace: &str) -> Vec<String> {
        let mut visited = Vec::new();
        parse(trace.as_bytes(), &mut visited).unwrap();
        visited
    }
}
