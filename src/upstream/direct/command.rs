//! Runs the go command: environment, limits, end.
//!
//! For covered modules (see [`super::rules`]), access to repositories is configured by the environment: netrc and
//! git's configuration through `HOME`, and `SSH_AUTH_SOCK`, `GOPRIVATE`, `GOINSECURE`, `GOVCS`, `GIT_*` and proxies.
//! For other modules a few harmless variables are all that is kept. The go command and git then find no credentials,
//! git speaks https only, and both reach the network through an [`Egress`] alone.
//!
//! The rest is the same for both: modules come from version control only, all files are made in the scratch folder,
//! and no prompt appears. The command leads its own process group, which is killed as a whole.

use super::egress::{Egress, User};
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
pub(super) const RUN_VARIABLE: &str = "DIRECT_RUN_OF_STOA";

/// The prefix of the variables of Stoa, which may contain secrets.
const OWN_PREFIX: &[u8] = b"STOA_";

/// The variables that the go command and git keep for modules that are not covered.
const KEPT: &[&str] = &[
    "PATH",
    "USER",
    "LOGNAME",
    "LANG",
    "TZ",
    "GOROOT",
    "GODEBUG",
    "GIT_EXEC_PATH",
    "GIT_SSL_CAINFO",
    "GIT_SSL_CAPATH",
    "CURL_CA_BUNDLE",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "NIX_SSL_CERT_FILE",
    "LD_LIBRARY_PATH",
];

/// A transfer is ended if it is slower than this number of bytes per second for this number of seconds. A server
/// that counts the objects of a large repository may send next to nothing for a while.
const LOW_SPEED: (&str, &str) = ("1000", "120");

/// The go command in one scratch folder.
pub(super) struct Command<'a> {
    pub(super) go: &'a Path,
    pub(super) timeout: Duration,
    pub(super) call: &'a Call,
    /// The way to the network, for a module that is not covered.
    pub(super) egress: Option<&'a Egress>,
    /// Whether git writes down its requests, see [`super::visited`].
    pub(super) is_traced: bool,
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
    /// The files of the command exceeded their size limit.
    #[error("the files of the go command exceed the limit of {0} bytes (direct.max_size)")]
    TooLarge(u64),
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
        let ended = tokio::select! {
            ended = ended => ended,
            limit = self.call.outgrown() => return Err(CommandError::TooLarge(limit)),
        };
        let (status, (out, is_cut), (err, _)) = ended.map_err(|_| CommandError::TooLong(self.timeout))??;
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
        let mut settings = match self.egress {
            Some(egress) => Settings::confined(&mut command, egress, &within("home")),
            None => Settings::inherited(&mut command),
        };
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
        if self.is_traced {
            command.env("GIT_TRACE_CURL", self.call.trace()).env("GIT_TRACE_CURL_NO_DATA", "1");
            command.env("GIT_TRACE_REDACT", "1");
        }
        // Git's housekeeping would leave the process group and continue in the background.
        settings.add("gc.auto", "0");
        settings.add("maintenance.auto", "false");
        command.env("GIT_CONFIG_COUNT", settings.count.to_string());
        for (n, (key, value)) in (settings.inherited..).zip(settings.own) {
            command.env(format!("GIT_CONFIG_KEY_{n}"), key).env(format!("GIT_CONFIG_VALUE_{n}"), value);
        }
        command
    }
}

/// Settings of git in the environment of a command.
#[derive(Default)]
struct Settings {
    /// The number of settings that the environment has already.
    inherited: usize,
    count: usize,
    own: Vec<(&'static str, String)>,
}

impl Settings {
    fn add(&mut self, key: &'static str, value: impl Into<String>) {
        self.own.push((key, value.into()));
        self.count += 1;
    }

    /// Gives a command the environment of this process, without what is meant for Stoa itself.
    fn inherited(command: &mut tokio::process::Command) -> Self {
        for (name, _) in std::env::vars_os() {
            if name.as_encoded_bytes().starts_with(OWN_PREFIX) {
                command.env_remove(name);
            }
        }
        let is_unset = |name: &str| std::env::var_os(name).is_none();
        if is_unset("GIT_SSH") && is_unset("GIT_SSH_COMMAND") {
            command.env("GIT_SSH_COMMAND", "ssh -o BatchMode=yes -o ControlMaster=no");
        }
        if is_unset("GIT_HTTP_LOW_SPEED_LIMIT") && is_unset("GIT_HTTP_LOW_SPEED_TIME") {
            command.env("GIT_HTTP_LOW_SPEED_LIMIT", LOW_SPEED.0).env("GIT_HTTP_LOW_SPEED_TIME", LOW_SPEED.1);
        }
        // The repository of the current directory must have no effect.
        for name in ["GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"] {
            command.env_remove(name);
        }
        let count = std::env::var("GIT_CONFIG_COUNT").ok().and_then(|count| count.parse().ok()).unwrap_or(0);
        Self { inherited: count, count, own: Vec::new() }
    }

    /// Gives a command an environment without credentials, in which the only way to the network is `egress`.
    fn confined(command: &mut tokio::process::Command, egress: &Egress, home: &Path) -> Self {
        command.env_clear();
        for name in KEPT {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        let proxy = egress.url(User::Go);
        for name in ["HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"] {
            command.env(name, &proxy);
        }
        command
            .env("HOME", home)
            .env("NETRC", "/dev/null")
            .env("GOENV", "off")
            .env("GOAUTH", "off")
            .env("GOVCS", only_git(&std::env::var("GOVCS").unwrap_or_default()))
            // The egress gets pages over https. It refuses https from the go command, which then asks it by http.
            .env("GOINSECURE", "*")
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_CONFIG_SYSTEM", "/dev/null")
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_ALLOW_PROTOCOL", "https")
            .env("GIT_SSH_COMMAND", "false")
            .env("GIT_HTTP_LOW_SPEED_LIMIT", LOW_SPEED.0)
            .env("GIT_HTTP_LOW_SPEED_TIME", LOW_SPEED.1);
        let mut settings = Self::default();
        // Takes precedence over the variables, which are those of the go command.
        settings.add("http.proxy", egress.url(User::Git));
        settings.add("http.proxyAuthMethod", "basic");
        settings.add("credential.helper", "");
        settings
    }
}

/// Returns a value of `GOVCS` that allows git at most, and only where the given value allows it.
fn only_git(govcs: &str) -> String {
    let rules = govcs.split(',').map(str::trim).filter(|rule| !rule.is_empty());
    // The go command rejects a second rule for all.
    let is_complete = rules.clone().any(|rule| rule.starts_with("*:"));
    let rules = rules.map(|rule| match rule.split_once(':') {
        Some((pattern, tools)) if tools.split('|').any(|tool| matches!(tool.trim(), "git" | "all")) => {
            format!("{pattern}:git")
        }
        Some((pattern, _)) => format!("{pattern}:off"),
        // The go command reports that it is malformed.
        None => rule.to_owned(),
    });
    rules.chain((!is_complete).then(|| "*:git".to_owned())).collect::<Vec<_>>().join(",")
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

#[cfg(test)]
mod tests {
    use super::only_git;

    #[test]
    fn other_tools_than_git_are_never_allowed() {
        for (govcs, expected) in [
            ("", "*:git"),
            ("a.example:hg|git, public:svn,private:all", "a.example:git,public:off,private:git,*:git"),
            ("*:off", "*:off"),
            ("malformed", "malformed,*:git"),
        ] {
            assert_eq!(only_git(govcs), expected, "{govcs}");
        }
    }
}
