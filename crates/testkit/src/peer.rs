//! Other proxies, the real ones: built by the go command at test time, run on a folder.

use std::fs;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::ports;
use super::server::terminate;
use super::transcript;

/// Which other proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    Athens,
    Goproxy,
}

/// One that runs; killed when dropped.
pub struct Running {
    child: Child,
    pub url: String,
    log: PathBuf,
    _scratch: tempfile::TempDir,
}

/// Says why peers cannot be built and filled: there is no go, or it does not reach what it is set up with.
pub fn missing() -> Option<String> {
    if let Some(reason) = super::missing_tool("go", &["version"]) {
        return Some(reason);
    }
    let scratch = crate::tempdir();
    let mut probe = Command::new("go");
    probe.args(["list", "-m", "github.com/pkg/errors@v0.9.1"]).current_dir(scratch.path());
    probe.env("GOMODCACHE", scratch.path().join("cache")).env("GOFLAGS", "-modcacherw");
    let output = probe.output().expect("go runs");
    (!output.status.success()).then(|| "go does not reach its upstream".to_owned())
}

impl Peer {
    fn name(self) -> &'static str {
        match self {
            Self::Athens => "athens",
            Self::Goproxy => "goproxy",
        }
    }

    /// Returns its module, the version that is built, and the package of the program.
    fn source(self) -> [&'static str; 3] {
        match self {
            Self::Athens => ["github.com/gomods/athens", "v0.18.0", "github.com/gomods/athens/cmd/proxy"],
            Self::Goproxy => {
                ["github.com/goproxy/goproxy", "v0.26.1", "github.com/goproxy/goproxy/cmd/goproxy"]
            }
        }
    }

    fn program(self) -> PathBuf {
        built(self.name(), self.source())
    }

    /// Runs Athens on a bucket, with the upstream that the go command is set up with.
    pub fn start_athens_on(s3: &super::s3::S3) -> Running {
        let scratch = crate::tempdir();
        let address = ports::free();
        let go = format!("GOPROXY={};GOSUMDB={};GOTOOLCHAIN=local", go_env("GOPROXY"), go_env("GOSUMDB"));
        let mut command = Command::new(Self::Athens.program());
        command.current_dir(scratch.path()).env("TMPDIR", scratch.path()).envs(s3.environment());
        command.env("ATHENS_STORAGE_TYPE", "s3").env("ATHENS_S3_BUCKET_NAME", super::s3::BUCKET);
        command.env("AWS_ENDPOINT", s3.url()).env("AWS_FORCE_PATH_STYLE", "true");
        command.env("ATHENS_PORT", address.to_string()).env("ATHENS_GO_BINARY_ENV_VARS", go);
        let log = scratch.path().join("athens.log");
        Self::Athens.listen(command, address, log, scratch)
    }

    /// Runs it on a folder, with the upstream that the go command is set up with, or cut off from any.
    pub fn start(self, store: &Path, is_online: bool) -> Running {
        fs::create_dir_all(store).unwrap();
        let scratch = crate::tempdir();
        // Neither of them tells which port it took by itself.
        let address = ports::free();
        let (upstream, sumdb) =
            if is_online { (go_env("GOPROXY"), go_env("GOSUMDB")) } else { ("off".into(), "off".into()) };
        let mut command = Command::new(self.program());
        command.current_dir(scratch.path()).env("TMPDIR", scratch.path());
        match self {
            Self::Athens => {
                let go = format!("GOPROXY={upstream};GOSUMDB={sumdb};GOTOOLCHAIN=local");
                command.env("ATHENS_STORAGE_TYPE", "disk").env("ATHENS_DISK_STORAGE_ROOT", store);
                command.env("ATHENS_PORT", address.to_string()).env("ATHENS_GO_BINARY_ENV_VARS", go);
                if !is_online {
                    command.env("ATHENS_DOWNLOAD_MODE", "none").env("ATHENS_NETWORK_MODE", "offline");
                }
            }
            Self::Goproxy => {
                command.args(["server", "--address", &address.to_string(), "--cacher-dir"]).arg(store);
                command.env("GOPROXY", upstream).env("GOSUMDB", sumdb).env("GOTOOLCHAIN", "local");
                command.env("GOFLAGS", "-modcacherw");
            }
        }
        let log = store.with_extension("log");
        self.listen(command, address, log, scratch)
    }

    /// Starts it and waits until it listens.
    fn listen(
        self,
        mut command: Command,
        address: std::net::SocketAddr,
        log: PathBuf,
        scratch: tempfile::TempDir,
    ) -> Running {
        let output = fs::File::create(&log).unwrap();
        command.stdout(output.try_clone().unwrap()).stderr(output).stdin(Stdio::null());
        let child = command.spawn().expect("the peer runs");
        let mut running = Running { child, url: format!("http://{address}"), log, _scratch: scratch };
        let begin = Instant::now();
        while TcpStream::connect(address).is_err() {
            let ended = running.child.try_wait().unwrap();
            let waited = begin.elapsed() < Duration::from_secs(60);
            assert!(ended.is_none() && waited, "{} does not listen: {}", self.name(), running.said());
            std::thread::sleep(Duration::from_millis(50));
        }
        running
    }
}

/// Has a program built once for this target folder, from its module, version and package. It takes minutes the first
/// time.
pub(crate) fn built(name: &str, [module, version, package]: [&'static str; 3]) -> PathBuf {
    let folder = super::built::scratch().join("peers");
    let program = folder.join(format!("{name}-{version}"));
    if program.exists() {
        return program;
    }
    fs::create_dir_all(&folder).unwrap();
    let scratch = tempfile::tempdir_in(&folder).unwrap();
    let manifest = format!("module example.com/peer\n\ngo 1.21\n\nrequire {module} {version}\n");
    fs::write(scratch.path().join("go.mod"), manifest).unwrap();
    let mut build = Command::new("go");
    build.args(["build", "-trimpath", "-o", "peer", package]).current_dir(scratch.path());
    build.env("GOFLAGS", "-mod=mod -buildvcs=false").env("GOTOOLCHAIN", "local").env("CGO_ENABLED", "0");
    let output = build.output().expect("go runs");
    assert!(output.status.success(), "{module}@{version} is not built: {}", transcript(&output));
    fs::rename(scratch.path().join("peer"), &program).unwrap();
    program
}

impl Running {
    /// Kills it.
    pub fn kill(mut self) {
        self.child.kill().expect("it runs");
        self.child.wait().expect("it ends");
    }

    /// Asks it to stop and waits for its end.
    pub fn stop(mut self) {
        terminate(&self.child);
        self.child.wait().expect("it ends");
    }

    fn said(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let said = self.said();
            let lines: Vec<&str> = said.lines().collect();
            eprintln!("the peer said last:\n{}", lines[lines.len().saturating_sub(20)..].join("\n"));
        }
    }
}

fn go_env(name: &str) -> String {
    let output = Command::new("go").args(["env", name]).output().expect("go runs");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}
