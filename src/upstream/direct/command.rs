//! Running the go command: its environment, its bounds, its end.
//!
//! What tells where repositories are and how to get at them is the environment's: netrc and git's configuration
//! by `HOME`, `SSH_AUTH_SOCK`, `GOPRIVATE`, `GOINSECURE`, `GOVCS`, `GIT_*`, proxies. What it may not decide is set
//! here: that modules come from version control and from nowhere else, that all files are made in the scratch
//! folder, and that nobody is asked a question. The command leads a process group of its own, which is killed
//! whole.

use super::scratch::Call;
use rustix::process::{Pid, Signal, kill_process_group};
use std::io;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt};

/// How much of what the go command says is kept; the list of a module is the longest of it.
const MAX_OUT_BYTES: usize = 16 << 20;
const MAX_ERR_BYTES: usize = 64 << 10;

/// The variable by which a process is known as one of a run.
pub(super) const RUN_VARIABLE: &str = "STOA_DIRECT_RUN";

/// The go command in one scratch folder.
pub(super) struct Command<'a> {
    pub(super) go: &'a Path,
    pub(super) timeout: Duration,
    pub(super) call: &'a Call,
}

/// What it said.
#[derive(Debug)]
pub(super) struct Output {
    pub(super) is_success: bool,
    pub(super) out: Vec<u8>,
    err: Vec<u8>,
    status: String,
}

impl Output {
    /// Is why it failed, in its own words.
    pub(super) fn text(&self) -> String {
        match String::from_utf8_lossy(&self.err).trim() {
            "" => format!("the go command failed without a word ({})", self.status),
            text => text.to_owned(),
        }
    }
}

/// It did not come to an end of its own.
#[derive(Debug, thiserror::Error)]
pub(super) enum CommandError {
    /// It cannot be run.
    #[error("{go} cannot be run: {error}; install Go, or take direct off the list of upstreams")]
    NotRun { go: String, error: io::Error },
    /// What it says cannot be read.
    #[error("what the go command says cannot be read: {0}")]
    NotRead(io::Error),
    /// It says too much.
    #[error("the go command says more than {MAX_OUT_BYTES} bytes")]
    TooMuch,
    /// It took too long.
    #[error("the go command did not end within {0:?}")]
    TooLong(Duration),
}

impl Command<'_> {
    /// Runs it to its end. Dropping the future kills it.
    pub(super) async fn run(&self, arguments: &[&str]) -> Result<Output, CommandError> {
        let mut command = self.prepared(arguments);
        let not_run = |error| CommandError::NotRun { go: self.go.display().to_string(), error };
        let mut child = command.spawn().map_err(not_run)?;
        // After the child, so that it is dropped before: as long as the child is not waited for, its number is
        // the group's and nobody else's.
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
        // Who holds neither end of the pipes any more has ended, or is about to.
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
            // What is got here is verified by who fills, and by the policy of this proxy. The name of a private
            // module must not be told to a checksum database on the way.
            .env("GOSUMDB", "off")
            .env("GONOSUMDB", "*")
            // A module must not choose the program that is run.
            .env("GOTOOLCHAIN", "local")
            .env("GOWORK", "off")
            // Without it the folders of the module cache could not be removed.
            .env("GOFLAGS", "-modcacherw")
            .env("CGO_ENABLED", "0")
            // What its errors mean is told by their words.
            .env("LC_ALL", "C")
            .env("LANGUAGE", "C")
            .env("GIT_TERMINAL_PROMPT", "0")
            .env("GCM_INTERACTIVE", "never")
            .env("SSH_ASKPASS_REQUIRE", "never");
        if std::env::var_os("GIT_SSH").is_none() && std::env::var_os("GIT_SSH_COMMAND").is_none() {
            command.env("GIT_SSH_COMMAND", "ssh -o BatchMode=yes -o ControlMaster=no");
        }
        // A repository that this process happens to be started in has no say.
        for name in ["GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"] {
            command.env_remove(name);
        }
        // Housekeeping would leave the process group and go on by itself.
        let known = std::env::var("GIT_CONFIG_COUNT").ok().and_then(|count| count.parse().ok()).unwrap_or(0);
        let own = [("gc.auto", "0"), ("maintenance.auto", "false")];
        for (n, (key, value)) in (known..).zip(own) {
            command.env(format!("GIT_CONFIG_KEY_{n}"), key).env(format!("GIT_CONFIG_VALUE_{n}"), value);
        }
        command.env("GIT_CONFIG_COUNT", (known + own.len()).to_string());
        command
    }
}

/// The processes that a command has started, killed when dropped unless they have ended.
struct Group<'a> {
    leader: Option<u32>,
    call: &'a Call,
}

impl Drop for Group<'_> {
    fn drop(&mut self) {
        let leader = self.leader.and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
        let Some(leader) = leader else { return };
        if let Err(errno) = kill_process_group(leader, Signal::KILL) {
            log::debug!("the go command and what it started cannot be killed: {errno}");
        }
        // A clone may be half made, or locked by who is dead.
        self.call.spoil_clones();
    }
}

/// Reads to the end, keeps so many bytes of it, and says whether there were more.
async fn read(pipe: Option<impl AsyncRead + Unpin>, most: usize) -> io::Result<(Vec<u8>, bool)> {
    let mut kept = Vec::new();
    let Some(mut pipe) = pipe else { return Ok((kept, false)) };
    (&mut pipe).take(most as u64).read_to_end(&mut kept).await?;
    let more = tokio::io::copy(&mut pipe, &mut tokio::io::sink()).await?;
    Ok((kept, more > 0))
}
