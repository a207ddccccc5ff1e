//! A real S3 server on loopback: versitygw, built by the go command at test time. Its buckets are folders.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// The bucket.
pub const BUCKET: &str = "modules";

/// A running server; killed when dropped.
pub struct S3 {
    child: Child,
    url: String,
    folder: tempfile::TempDir,
}

impl S3 {
    /// Starts one with an empty bucket.
    pub fn start() -> Self {
        let source = ["github.com/versity/versitygw", "v1.8.0", "github.com/versity/versitygw/cmd/versitygw"];
        let program = crate::peer::built("versitygw", source);
        // It keeps attributes in extended attributes of files, which the file system in memory may lack.
        let scratch = crate::built::scratch();
        let folder = tempfile::Builder::new().prefix("s3-").tempdir_in(scratch).unwrap();
        fs::create_dir_all(folder.path().join("data").join(BUCKET)).unwrap();
        let address = TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).unwrap();
        let mut command = Command::new(program);
        command.args(["--port", &address.to_string(), "posix"]).arg(folder.path().join("data"));
        command.env("ROOT_ACCESS_KEY", "testkey").env("ROOT_SECRET_KEY", "testsecret");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = command.spawn().expect("the server runs");
        crate::until("the S3 server listens", || {
            assert!(child.try_wait().unwrap().is_none(), "the S3 server has ended");
            TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_ok()
        });
        Self { child, url: format!("http://{address}"), folder }
    }

    /// Returns the URL of the service.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Returns the URL of the bucket below a prefix.
    pub fn bucket(&self, prefix: &str) -> String {
        if prefix.is_empty() { format!("s3://{BUCKET}") } else { format!("s3://{BUCKET}/{prefix}") }
    }

    /// Returns the environment variables by which programs find it.
    pub fn environment(&self) -> Vec<(String, String)> {
        let variables = [
            ("AWS_ENDPOINT_URL", self.url.as_str()),
            ("AWS_REGION", "us-east-1"),
            ("AWS_ACCESS_KEY_ID", "testkey"),
            ("AWS_SECRET_ACCESS_KEY", "testsecret"),
        ];
        variables.map(|(name, value)| (name.to_owned(), value.to_owned())).into()
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

impl Drop for S3 {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
