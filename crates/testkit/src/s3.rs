//! A real S3 server on loopback: versitygw. Its buckets are folders.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use crate::servers::{self, Process};

/// The bucket.
pub const BUCKET: &str = "modules";

/// The installed program.
const PROGRAM: &str = "versitygw";

/// A running server; killed when dropped.
pub struct S3 {
    process: Process,
    folder: tempfile::TempDir,
}

/// Returns why the server cannot be started, or `None` if it can.
pub fn missing() -> Option<String> {
    servers::missing(PROGRAM, PROGRAM)
}

impl S3 {
    /// Starts one with an empty bucket.
    pub fn start() -> Self {
        // It keeps attributes in extended attributes of files, which the file system in memory may lack.
        let scratch = crate::built::scratch();
        let folder = tempfile::Builder::new().prefix("s3-").tempdir_in(scratch).unwrap();
        fs::create_dir_all(folder.path().join("data").join(BUCKET)).unwrap();
        let process = Process::start(PROGRAM, |address| {
            let mut command = Command::new(servers::installed(PROGRAM));
            command.args(["--port", &address.to_string(), "posix"]).arg(folder.path().join("data"));
            command.env("ROOT_ACCESS_KEY", "testkey").env("ROOT_SECRET_KEY", "testsecret");
            command
        });
        Self { process, folder }
    }

    /// Returns the URL of the service.
    pub fn url(&self) -> &str {
        self.process.url()
    }

    /// Returns the URL of the bucket below a prefix.
    pub fn bucket(&self, prefix: &str) -> String {
        if prefix.is_empty() { format!("s3://{BUCKET}") } else { format!("s3://{BUCKET}/{prefix}") }
    }

    /// Returns the environment variables by which programs find it.
    pub fn environment(&self) -> Vec<(String, String)> {
        environment(self.url())
    }

    /// Returns the file of an object.
    pub fn file(&self, key: &str) -> PathBuf {
        self.folder.path().join("data").join(BUCKET).join(key)
    }

    /// Returns the keys of all objects, without the parts of unfinished uploads.
    pub fn keys(&self) -> Vec<String> {
        let root = self.file("");
        let (mut keys, mut open) = (Vec::new(), vec![root.clone()]);
        while let Some(folder) = open.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                let key = path.strip_prefix(&root).unwrap().to_str().unwrap();
                if key.starts_with(".sgwtmp") {
                    continue;
                }
                if path.is_dir() { open.push(path) } else { keys.push(key.to_owned()) }
            }
        }
        keys.sort();
        keys
    }
}

/// Returns the environment variables by which programs find a server, or a proxy in front of it.
pub(crate) fn environment(url: &str) -> Vec<(String, String)> {
    let variables = [
        ("AWS_ENDPOINT_URL", url),
        ("AWS_REGION", "us-east-1"),
        ("AWS_ACCESS_KEY_ID", "testkey"),
        ("AWS_SECRET_ACCESS_KEY", "testsecret"),
    ];
    variables.map(|(name, value)| (name.to_owned(), value.to_owned())).into()
}
