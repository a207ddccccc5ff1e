//! `direct`: version control, through the go command.
//!
//! The go command knows how to find a repository, how to access it, and how to make a module of it. Its
//! output and files are what a proxy would answer. A single `go mod download` makes all three files of a
//! version, for all requests of one download (see [`SharedDownload`]).
//!
//! The number of running commands and their time are limited. A command that exceeds its time, or that no
//! caller waits for any more, is killed with all its children. The number of waiting requests is limited
//! too, and their time while no command ends: a slow server must not delay requests to other servers, or
//! requests that a proxy can answer (see [`SharedDownload::started`]).
//!
//! | module | purpose |
//! | --- | --- |
//! | `command` | runs the go command: environment, limits, end |
//! | `scratch` | the folders that it works in, and the removal of folders of dead processes |
//! | `failure` | the meaning of its error messages |

mod command;
mod failure;
mod scratch;

pub(super) use failure::without_paths;

use super::download::Download;
use super::error::UpstreamError;
use bytes::Bytes;
use command::{Command, CommandError, Output};
use scratch::{Call, Scratch};
use serde::Deserialize;
use serde_json::value::RawValue;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use stoa_gomod::route::{self, Route};
use stoa_gomod::{ModulePath, ModuleVersion, Version, list};
use stoa_layout::PathError;
use tokio::sync::{OnceCell, Semaphore, SemaphorePermit, watch};

/// Marks requests to version control in texts. No URL contains a space.
const MARK: &str = " (direct)";

/// Settings for the go command.
#[derive(Debug, Clone)]
pub struct DirectOptions {
    /// The go command: a path, or a name that is searched in `PATH`.
    pub go: PathBuf,
    /// Maximum number of running commands.
    pub max_concurrent: usize,
    /// Maximum number of requests that wait for a command.
    pub max_waiting: usize,
    /// Maximum time that requests wait while no running command ends.
    pub max_wait: Duration,
    /// Time limit for one command.
    pub timeout: Duration,
    /// The folder for scratch folders. Scratch folders of dead processes are removed from it.
    pub scratch: PathBuf,
}

impl Default for DirectOptions {
    fn default() -> Self {
        Self {
            go: PathBuf::from("go"),
            max_concurrent: 4,
            max_waiting: 256,
            max_wait: Duration::from_secs(30),
            timeout: Duration::from_secs(600),
            scratch: std::env::temp_dir(),
        }
    }
}

/// The go command with its limits and scratch folder, shared by all clones and all lists of upstreams of a
/// process. The scratch folder is removed with the last clone.
#[derive(Clone)]
pub struct Direct(Arc<Inner>);

struct Inner {
    options: DirectOptions,
    turns: Semaphore,
    /// Number of requests that wait for a turn.
    waiting: AtomicUsize,
    /// Notified when a command has ended.
    ended: watch::Sender<()>,
    scratch: Scratch,
}

impl fmt::Debug for Direct {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Direct").field(&self.0.options).finish()
    }
}

impl Default for Direct {
    fn default() -> Self {
        Self::new(DirectOptions::default())
    }
}

/// The downloaded files of one version, or the error. Shared by the requests for its files, so that the go
/// command runs once for all of them.
#[derive(Debug, Default)]
pub(super) struct SharedDownload {
    files: OnceCell<Result<Arc<Files>, UpstreamError>>,
    /// Whether the go command is running for this version, or waiting for its turn.
    is_started: watch::Sender<bool>,
}

impl SharedDownload {
    /// Returns whether the go command has downloaded the version.
    pub(super) fn is_complete(&self) -> bool {
        self.files.get().is_some_and(Result::is_ok)
    }

    /// Waits until the go command is asked, which takes longer than anything else.
    pub(super) async fn started(&self) {
        // The channel cannot be closed, since its sender is in `self`.
        let _ = self.is_started.subscribe().wait_for(|is_started| *is_started).await;
    }
}

/// The files of a version, in a scratch folder that is removed with them.
#[derive(Debug)]
struct Files {
    info: PathBuf,
    modfile: PathBuf,
    zip: PathBuf,
    _call: Call,
}

impl Direct {
    /// Creates a `Direct`. No command runs and no folder is made before the first request.
    pub fn new(options: DirectOptions) -> Self {
        let turns = Semaphore::new(options.max_concurrent.clamp(1, Semaphore::MAX_PERMITS));
        let scratch = Scratch::new(options.scratch.clone());
        let (waiting, ended) = (AtomicUsize::new(0), watch::Sender::new(()));
        Self(Arc::new(Inner { options, turns, waiting, ended, scratch }))
    }

    /// Kills the processes and removes the folders that dead processes left, once.
    pub(super) fn sweep(&self) {
        self.0.scratch.sweep();
    }

    /// Answers a request for `path`, escaped as in a URL.
    pub(super) async fn open(
        &self,
        path: &str,
        limit: u64,
        shared: &SharedDownload,
    ) -> Result<Download, UpstreamError> {
        // The path is escaped for file names, not for URLs, where a `%` starts an escape.
        let target = format!("/{}", path.replace('%', "%25"));
        let answer = match route::classify("GET", &target, "/", &[] as &[&str]) {
            Route::List(module) => self.list(&module).await,
            Route::Latest(module) => self.query(&module, "latest").await,
            Route::Query(module, revision) => self.query(&module, revision.as_str()).await,
            Route::Info(version) => return self.file(&version, |files| &files.info, limit, shared).await,
            Route::Mod(version) => return self.file(&version, |files| &files.modfile, limit, shared).await,
            Route::Zip(version) => return self.file(&version, |files| &files.zip, limit, shared).await,
            _ => Err(UpstreamError::NotFound {
                url: shown(path),
                message: "version control has no such file".to_owned(),
            }),
        };
        Ok(Download::whole(shown(path), answer?, limit))
    }

    async fn list(&self, module: &ModulePath) -> Result<Bytes, UpstreamError> {
        // Retracted versions are listed, too: clients decide about them.
        let listed = self.listed(module, &["-retracted", "-versions"], module.as_str()).await?;
        let versions: Vec<Version> =
            listed.versions.iter().filter_map(|version| Version::new(version).ok()).collect();
        if versions.is_empty() {
            // A folder of the repository that is not a module has no versions either, and an empty list
            // would mean that it is a module.
            self.query(module, "latest").await?;
        }
        Ok(Bytes::from(list::format(&versions)))
    }

    async fn query(&self, module: &ModulePath, revision: &str) -> Result<Bytes, UpstreamError> {
        let asked = format!("{module}@{revision}");
        let listed = self.listed(module, &[], &asked).await?;
        let info = Info { version: &listed.version, time: listed.time.as_deref(), origin: listed.origin };
        serde_json::to_vec(&info).map(Bytes::from).map_err(|error| unexpected(&asked, &error))
    }

    async fn listed(
        &self,
        module: &ModulePath,
        options: &[&str],
        asked: &str,
    ) -> Result<Listed, UpstreamError> {
        let arguments = [&["list", "-m", "-json"], options, &[asked]].concat();
        let (output, call) = self.run(asked, &arguments).await?;
        if !output.is_success {
            return Err(failure::classify(shown(asked), &output.text(), call.folder()));
        }
        let listed: Listed =
            serde_json::from_slice(&output.out).map_err(|error| unexpected(asked, &error))?;
        match listed.error {
            Some(error) => Err(failure::classify(shown(asked), &error.text, call.folder())),
            None if listed.path != module.as_str() => Err(unexpected(asked, &"it describes another module")),
            None => Ok(listed),
        }
    }

    async fn file(
        &self,
        version: &ModuleVersion,
        which: fn(&Files) -> &PathBuf,
        limit: u64,
        shared: &SharedDownload,
    ) -> Result<Download, UpstreamError> {
        let download = || async {
            shared.is_started.send_replace(true);
            let files = self.download(version).await;
            shared.is_started.send_replace(false);
            files
        };
        let files = shared.files.get_or_init(download).await.clone()?;
        let path = which(&files);
        let failed = |error: std::io::Error| UpstreamError::Transport {
            url: shown(&version.to_string()),
            reason: format!("cannot read a file of the go command: {error}"),
        };
        let file = tokio::fs::File::open(path).await.map_err(failed)?;
        let length = file.metadata().await.map_err(failed)?.len();
        Ok(Download::file(shown(&version.to_string()), file, length, limit))
    }

    async fn download(&self, version: &ModuleVersion) -> Result<Arc<Files>, UpstreamError> {
        let asked = version.to_string();
        let (output, call) = self.run(&asked, &["mod", "download", "-json", &asked]).await?;
        let downloaded: Downloaded = match serde_json::from_slice(&output.out) {
            Ok(downloaded) => downloaded,
            Err(_) if !output.is_success => {
                return Err(failure::classify(shown(&asked), &output.text(), call.folder()));
            }
            Err(error) => return Err(unexpected(&asked, &error)),
        };
        match downloaded {
            Downloaded { error: Some(text), .. } => {
                Err(failure::classify(shown(&asked), &text, call.folder()))
            }
            Downloaded { version: other, .. } if other != version.version().as_str() => {
                Err(unexpected(&asked, &format_args!("it describes version {other}")))
            }
            Downloaded { info: Some(info), modfile: Some(modfile), zip: Some(zip), .. } => {
                Ok(Arc::new(Files { info, modfile, zip, _call: call }))
            }
            _ => Err(unexpected(&asked, &"it names no files")),
        }
    }

    /// Waits for the turn to run the go command, as long as running commands end in time.
    async fn turn(&self, asked: &str) -> Result<Turn<'_>, UpstreamError> {
        let inner = &*self.0;
        let begin = |permit| Turn { _permit: permit, ended: &inner.ended };
        if let Ok(permit) = inner.turns.try_acquire() {
            return Ok(begin(permit));
        }
        let busy = |why: &dyn fmt::Display| UpstreamError::Timeout {
            url: shown(asked),
            reason: format!("too many go commands are running, {why}"),
        };
        let (most, max_wait) = (inner.options.max_waiting, inner.options.max_wait);
        let before = inner.waiting.fetch_add(1, Ordering::Relaxed);
        let _waiting = Waiting(&inner.waiting);
        if before >= most {
            return Err(busy(&format_args!("and {most} requests are waiting")));
        }
        let mut ended = inner.ended.subscribe();
        let permit = inner.turns.acquire();
        tokio::pin!(permit);
        loop {
            tokio::select! {
                biased;
                permit = &mut permit => return permit.map(begin).map_err(|_| busy(&"and this proxy is shutting down")),
                ended = tokio::time::timeout(max_wait, ended.changed()) => {
                    if ended.is_err() {
                        return Err(busy(&format_args!("and none ended within {max_wait:?}")));
                    }
                }
            }
        }
    }

    /// Runs the go command, after waiting for its turn.
    async fn run(&self, asked: &str, arguments: &[&str]) -> Result<(Output, Call), UpstreamError> {
        let failed = |reason: String| UpstreamError::GoCommand { url: shown(asked), reason };
        let turn = self.turn(asked).await?;
        let unwritable = |error: PathError| failed(format!("{error}; the go command needs a scratch folder"));
        let call = self.0.scratch.call().map_err(unwritable)?;
        let command = Command { go: &self.0.options.go, timeout: self.0.options.timeout, call: &call };
        log::debug!(arguments = arguments.join(" "); "running the go command");
        let output = command.run(arguments).await;
        drop(turn);
        match output {
            Ok(output) => Ok((output, call)),
            Err(CommandError::TooLong(limit)) => Err(UpstreamError::Timeout {
                url: shown(asked),
                reason: format!("the go command did not end within {limit:?}"),
            }),
            Err(error) => Err(failed(error.to_string())),
        }
    }
}

/// The right to run a go command. Waiting requests are notified when it is dropped.
struct Turn<'a> {
    _permit: SemaphorePermit<'a>,
    ended: &'a watch::Sender<()>,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.ended.send_replace(());
    }
}

/// Counts a waiting request.
struct Waiting<'a>(&'a AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The output of `go list -m -json`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Listed {
    path: String,
    #[serde(default)]
    version: String,
    #[serde(default)]
    versions: Vec<String>,
    time: Option<String>,
    origin: Option<Box<RawValue>>,
    error: Option<ListedError>,
}

#[derive(Debug, Deserialize)]
struct ListedError {
    #[serde(rename = "Err", default)]
    text: String,
}

/// The output of `go mod download -json`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Downloaded {
    #[serde(default)]
    version: String,
    error: Option<String>,
    info: Option<PathBuf>,
    #[serde(rename = "GoMod")]
    modfile: Option<PathBuf>,
    zip: Option<PathBuf>,
}

/// An info body.
#[derive(serde::Serialize)]
#[serde(rename_all = "PascalCase")]
struct Info<'a> {
    version: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    time: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    origin: Option<Box<RawValue>>,
}

fn shown(asked: &str) -> String {
    format!("{asked}{MARK}")
}

/// Returns whether a text names a request to version control.
pub(super) fn is_shown(url: &str) -> bool {
    url.ends_with(MARK)
}

fn unexpected(asked: &str, reason: &dyn fmt::Display) -> UpstreamError {
    UpstreamError::BadAnswer {
        url: shown(asked),
        reason: format!("unexpected output of the go command: {reason}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn asked_while_others_run(options: DirectOptions) -> String {
        let direct = Direct::new(DirectOptions { max_concurrent: 1, ..options });
        let _running = direct.0.turns.acquire().await.unwrap();
        let error = direct.run("a.example/x@v1.0.0", &["version"]).await.unwrap_err();
        assert!(error.is_timeout());
        assert_eq!(direct.0.waiting.load(Ordering::Relaxed), 0);
        error.to_string()
    }

    #[tokio::test]
    async fn requests_do_not_wait_for_hanging_commands() {
        let max_wait = Duration::from_millis(1);
        let error = asked_while_others_run(DirectOptions { max_wait, ..DirectOptions::default() }).await;
        assert!(error.contains("too many go commands are running, and none ended within 1ms"), "{error}");
    }

    #[tokio::test]
    async fn the_number_of_waiting_requests_is_limited() {
        let max_wait = Duration::MAX;
        let options = DirectOptions { max_wait, max_waiting: 0, ..DirectOptions::default() };
        let error = asked_while_others_run(options).await;
        assert!(error.contains("too many go commands are running, and 0 requests are waiting"), "{error}");
    }

    #[tokio::test]
    async fn a_waiting_request_gets_the_turn_of_an_ended_command() {
        let options =
            DirectOptions { max_wait: Duration::MAX, max_concurrent: 1, ..DirectOptions::default() };
        let direct = Direct::new(options);
        let running = direct.turn("a").await.unwrap();
        let waiting = direct.turn("b");
        let ending = async {
            assert_eq!(direct.0.waiting.load(Ordering::Relaxed), 1);
            drop(running);
        };
        let (turn, ()) = tokio::join!(waiting, ending);
        assert!(turn.is_ok());
        assert_eq!(direct.0.waiting.load(Ordering::Relaxed), 0);
    }
}
