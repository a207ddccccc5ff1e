//! Runs the go command: environment, limits, end.
//!
//! Access to repositories is configured by the environment: netrc and git's configuration through `HOME`,
//! and `SSH_AUTH_SOCK`, `GOPRIVATE`, `GOINSECURE`, `GOVCS`, `GIT_*` and proxies. The rest is set here:
//! modules come from version control only, all files are made in the scratch folder, and no prompt appears.
//! The command leads its own process group, which is killed as a whole.

use super::scratch::Call;
use rustix::process::{Pid, Signal, kill_process_group};
use std::io;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt};

/// Maximum size of the command's output. The list of a module is the longest output.
const MAX_OUT_BYTES: usize = 16 << 20;
const MAX_ERR_BYTES: usize = 64 << 10;

/// The environment variable that marks the processes of a run.
pub(super) const RUN_VARIABLE: &str = "STOA_DIRECT_RUN";

/// The go command in one scratch folder.
pub(super) struct Command<'a> {
    pub(super) go: &'a Path,
    pub(super) timeout: Duration,
    pub(super) call: &'a Call,
}

/// The output of an ended command.
#[derive(Debug)]
pub(super) struct Output {
    pub(super) is_success: bool,
    pub(super) out: Vec<u8>,
    err: Vec<u8>,
    status: String,
}

impl Output {
    /// Returns the error message of a failed command.
    pub(super) fn text(&self) -> String {
        match String::from_utf8_lossy(&self.err).trim() {
            "" => format!("the go command failed with no output ({})", self.status),
            text => text.to_owned(),
        }
    }
}

/// The reason why a command has no output.
#[derive(Debug, thiserror::Error)]
pub(super) enum CommandError {
    /// The command cannot be started.
    #[error("cannot run {go}: {error}; install Go, or remove direct from the list of upstreams")]
    NotRun { go: String, error: io::Error },
    /// The output cannot be read.
    #[error("cannot read the output of the go command: {0}")]
    NotRead(io::Error),
    /// The output is too long.
    #[error("the output of the go command exceeds {MAX_OUT_BYTES} bytes")]
    TooMuch,
    /// The command exceeded its time limit.
    #[error("the go command did not end within {0:?}")]
    TooLong(Duration),
}

impl Command<'_> {
    /// Runs the command to its end. Dropping the future kills it.
    pub(super) async fn run(&self, arguments: &[&str]) -> Result<Output, CommandError> {
        let mut command = self.prepared(arguments);
        let not_run = |error| CommandError::NotRun { go: self.go.display().to_string(), error };
        let mut child = command.spawn().map_err(not_run)?;
        // Declared after the child, so that it is dropped first: until the child is waited for, its number
        // still belongs to the group.
        let mut group = Group { leader: child.id(), call: self.call };
        let (out, err) = (child.stdout.take(), child.stderr.take());
        let ended = tokio::time::timeout(self.timeout, async {
            let (out, err) = tokio::join!(read(out, MAX_OUT_BYTES), read(err, MAX_ERR_BYTES));
            let (out, err) = (out.map_err(CommandError::NotRead)?, err.map_err(CommandError::NotRead)?);
            let status = child.wait().await.map_err(CommandError::NotRead)?;
            Ok((status, out, err))
        });
        let (status, (out, is_cut), (err, _)) =
            ended.await.map_err(|_| CommandError::TooLong(self.timeout))??;
        // Processes that closed both pipes have ended or are about to.
        group.leader = None;
        if is_cut {
            return Err(CommandError::TooMuch);
        }
        Ok(Output { is_success: status.success(), out, err, status: status.to_string() })
    }

    fn prepared(&self, arguments: &[&str]) -> tokio::process::Command {
        let mut command = tokio::process::Command::new(self.go);
        let within = |name: &str| self.call.folder().join(name);
        command
            .args(arguments)
            .current_dir(within("work"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true)
            .env(RUN_VARIABLE, self.call.run_folder())
            .env("GOMODCACHE", within("mod"))
            .env("GOPATH", within("path"))
            .env("GOCACHE", within("build"))
            .env("GOTMPDIR", within("tmp"))
            .env("TMPDIR", within("tmp"))
            .env("GO111MODULE", "on")
            .env("GOPROXY", "direct")
            // The caller verifies downloads by this proxy's policy. The go command must not send the name
            // of a private module to a checksum database.
            .env("GOSUMDB", "off")
            .env("GONOSUMDB", "*")
            // A module must not choose the toolchain.
            .env("GOTOOLCHAIN", "local")
            .env("GOWORK", "off")
            // Otherwise the module cache is read-only and cannot be removed.
            .env("GOFLAGS", "-modcacherw")
            .env("CGO_ENABLED", "0")
            // Error messages are classified by their English texts.
            .env("LC_ALL", "C")
            .env("LANGUAGE", "C")
            .env("GIT_TERMINAL_PROMPT", "0")
            .env("GCM_INTERACTIVE", "never")
            .env("SSH_ASKPASS_REQUIRE", "never");
        if std::env::var_os("GIT_SSH").is_none() && std::env::var_os("GIT_SSH_COMMAND").is_none() {
            command.env("GIT_SSH_COMMAND", "ssh -o BatchMode=yes -o ControlMaster=no");
        }
        // The repository of the current directory must have no effect.
        for name in ["GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"] {
            command.env_remove(name);
        }
        // Git's housekeeping would leave the process group and continue in the background.
        let existing =
            std::env::var("GIT_CONFIG_COUNT").ok().and_then(|count| count.parse().ok()).unwrap_or(0);
        let own = [("gc.auto", "0"), ("maintenance.auto", "false")];
        for (n, (key, value)) in (existing..).zip(own) {
            command.env(format!("GIT_CONFIG_KEY_{n}"), key).env(format!("GIT_CONFIG_VALUE_{n}"), value);
        }
        command.env("GIT_CONFIG_COUNT", (existing + own.len()).to_string());
        command
    }
}

/// The processes of a command, killed on drop unless they have ended.
struct Group<'a> {
    leader: Option<u32>,
    call: &'a Call,
}

impl Drop for Group<'_> {
    fn drop(&mut self) {
        let leader = self.leader.and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
        let Some(leader) = leader else { return };
        if let Err(errno) = kill_process_group(leader, Signal::KILL) {
            log::debug!(reason:% = errno; "cannot kill the go command and its children");
        }
        // A clone may be incomplete, or locked by a killed process.
        self.call.spoil_clones();
    }
}

/// Reads to the end. Returns the first `most` bytes, and whether there were more.
async fn read(pipe: Option<impl AsyncRead + Unpin>, most: usize) -> io::Result<(Vec<u8>, bool)> {
    let mut kept = Vec::new();
    let Some(mut pipe) = pipe else { return Ok((kept, false)) };
    (&mut pipe).take(most as u64).read_to_end(&mut kept).await?;
    let more = tokio::io::copy(&mut pipe, &mut tokio::io::sink()).await?;
    Ok((kept, more > 0))
}
