//! `direct`: version control itself, asked through the go command.
//!
//! The go command knows how to find a repository, how to get at it, and how a module is made of it; what it says
//! and the files that it makes are what a proxy would have answered. All three files of a version come from one
//! `go mod download`, shared by those who ask in one fill (see [`Keep`]). How many commands run at a time and how
//! long is bounded; one that is too slow, or that nobody waits for any more, is killed with all that it started. So is
//! how many wait for their turn, and how long while no command ends: a server that hangs must not hold up for long who
//! asks another, and who could be answered by a proxy not at all (see [`Keep::asked`]).
//!
//! | module | what it is for |
//! | --- | --- |
//! | `command` | running the go command: its environment, its bounds, its end |
//! | `scratch` | the folders that it works in, and what dead processes left of them |
//! | `said` | what its errors mean |

mod command;
mod said;
mod scratch;

pub(super) use said::without_paths;

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

/// What stands behind what was asked, where it is shown. No URL has a space.
const MARK: &str = " (direct)";

/// How the go command is run for `direct`.
#[derive(Debug, Clone)]
pub struct DirectOptions {
    /// The go command, a name that is looked for in `PATH` or a path.
    pub go: PathBuf,
    /// How many of them run at a time; more wait.
    pub max_concurrent: usize,
    /// How many may wait for that.
    pub max_waiting: usize,
    /// How long they wait while none ends that runs.
    pub patience: Duration,
    /// How long one may take.
    pub timeout: Duration,
    /// The folder that the scratch folders are made in. What dead processes left of theirs is removed from it.
    pub scratch: PathBuf,
}

impl Default for DirectOptions {
    fn default() -> Self {
        Self {
            go: PathBuf::from("go"),
            max_concurrent: 4,
            max_waiting: 256,
            patience: Duration::from_secs(30),
            timeout: Duration::from_secs(600),
            scratch: std::env::temp_dir(),
        }
    }
}

/// The go command with its bounds and its scratch. Clones share them, and so should all lists of upstreams of a
/// process; the scratch goes with the last one.
#[derive(Clone)]
pub struct Direct(Arc<Inner>);

struct Inner {
    options: DirectOptions,
    turns: Semaphore,
    /// How many wait for a turn.
    waiting: AtomicUsize,
    /// Told when a command has ended.
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

/// What was got of one version, or why nothing was: kept for those who ask for another of its files, so that the
/// go command runs once for all of them.
#[derive(Debug, Default)]
pub(super) struct Keep {
    files: OnceCell<Result<Arc<Files>, UpstreamError>>,
    /// Whether the go command runs for it, or is waited for.
    is_asked: watch::Sender<bool>,
}

impl Keep {
    /// Waits until the go command is asked: until now nothing was that takes so long.
    pub(super) async fn asked(&self) {
        // The sender is here, so that it is not closed.
        let _ = self.is_asked.subscribe().wait_for(|is_asked| *is_asked).await;
    }
}

/// The files of a version, in a scratch folder that goes when nobody needs them any more.
#[derive(Debug)]
struct Files {
    info: PathBuf,
    modfile: PathBuf,
    zip: PathBuf,
    _call: Call,
}

impl Direct {
    /// Runs nothing and makes nothing yet.
    pub fn new(options: DirectOptions) -> Self {
        let turns = Semaphore::new(options.max_concurrent.clamp(1, Semaphore::MAX_PERMITS));
        let scratch = Scratch::new(options.scratch.clone());
        let (waiting, ended) = (AtomicUsize::new(0), watch::Sender::new(()));
        Self(Arc::new(Inner { options, turns, waiting, ended, scratch }))
    }

    /// Ends and removes what processes that were killed have left, once.
    pub(super) fn sweep(&self) {
        self.0.scratch.sweep();
    }

    /// Answers for `path`, escaped as in a URL.
    pub(super) async fn open(&self, path: &str, limit: u64, keep: &Keep) -> Result<Download, UpstreamError> {
        // What stands in the path is escaped for files, not for URLs: there a `%` would be an escape.
        let target = format!("/{}", path.replace('%', "%25"));
        let answer = match route::classify("GET", &target, "/", &[] as &[&str]) {
            Route::List(module) => self.list(&module).await,
            Route::Latest(module) => self.query(&module, "latest").await,
            Route::Query(module, revision) => self.query(&module, revision.as_str()).await,
            Route::Info(version) => return self.file(&version, |files| &files.info, limit, keep).await,
            Route::Mod(version) => return self.file(&version, |files| &files.modfile, limit, keep).await,
            Route::Zip(version) => return self.file(&version, |files| &files.zip, limit, keep).await,
            _ => Err(UpstreamError::NotFound {
                url: shown(path),
                message: "it is nothing that version control could have".to_owned(),
            }),
        };
        Ok(Download::whole(shown(path), answer?, limit))
    }

    async fn list(&self, module: &ModulePath) -> Result<Bytes, UpstreamError> {
        // Retracted versions are listed as others are: that they are is for clients to find out.
        let listed = self.listed(module, &["-retracted", "-versions"], module.as_str()).await?;
        let versions: Vec<Version> =
            listed.versions.iter().filter_map(|version| Version::new(version).ok()).collect();
        if versions.is_empty() {
            // A folder of the repository that is no module has no versions either, and an empty list would say
            // that it is one.
            self.query(module, "latest").await?;
        }
        Ok(Bytes::from(list::format(&versions)))
    }

    async fn query(&self, module: &ModulePath, revision: &str) -> Result<Bytes, UpstreamError> {
        let asked = format!("{module}@{revision}");
        let listed = self.listed(module, &[], &asked).await?;
        let info = Info { version: &listed.version, time: listed.time.as_deref(), origin: listed.origin };
        serde_json::to_vec(&info).map(Bytes::from).map_err(|error| odd(&asked, &error))
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
            return Err(said::error(shown(asked), &output.text(), call.folder()));
        }
        let listed: Listed = serde_json::from_slice(&output.out).map_err(|error| odd(asked, &error))?;
        match listed.error {
            Some(error) => Err(said::error(shown(asked), &error.text, call.folder())),
            None if listed.path != module.as_str() => Err(odd(asked, &"it is about another module")),
            None => Ok(listed),
        }
    }

    async fn file(
        &self,
        version: &ModuleVersion,
        which: fn(&Files) -> &PathBuf,
        limit: u64,
        keep: &Keep,
    ) -> Result<Download, UpstreamError> {
        let download = || async {
            keep.is_asked.send_replace(true);
            let files = self.download(version).await;
            keep.is_asked.send_replace(false);
            files
        };
        let files = keep.files.get_or_init(download).await.clone()?;
        let path = which(&files);
        let failed = |error: std::io::Error| UpstreamError::Transport {
            url: shown(&version.to_string()),
            reason: format!("what the go command made cannot be read: {error}"),
        };
        let file = tokio::fs::File::open(path).await.map_err(failed)?;
        let length = file.metadata().await.map_err(failed)?.len();
        Ok(Download::file(shown(&version.to_string()), file, length, limit))
    }

    async fn download(&self, version: &ModuleVersion) -> Result<Arc<Files>, UpstreamError> {
        let asked = version.to_string();
        let (output, call) = self.run(&asked, &["mod", "download", "-json", &asked]).await?;
        let made: Downloaded = match serde_json::from_slice(&output.out) {
            Ok(made) => made,
            Err(_) if !output.is_success => {
                return Err(said::error(shown(&asked), &output.text(), call.folder()));
            }
            Err(error) => return Err(odd(&asked, &error)),
        };
        match made {
            Downloaded { error: Some(text), .. } => Err(said::error(shown(&asked), &text, call.folder())),
            Downloaded { version: other, .. } if other != version.version().as_str() => {
                Err(odd(&asked, &format_args!("it is about version {other}")))
            }
            Downloaded { info: Some(info), modfile: Some(modfile), zip: Some(zip), .. } => {
                Ok(Arc::new(Files { info, modfile, zip, _call: call }))
            }
            _ => Err(odd(&asked, &"it names no files")),
        }
    }

    /// Waits for the turn to run the go command, as long as there is hope.
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
        let (most, patience) = (inner.options.max_waiting, inner.options.patience);
        let before = inner.waiting.fetch_add(1, Ordering::Relaxed);
        let _waiting = Waiting(&inner.waiting);
        if before >= most {
            return Err(busy(&format_args!("and {most} are waited for")));
        }
        let mut ended = inner.ended.subscribe();
        let permit = inner.turns.acquire();
        tokio::pin!(permit);
        loop {
            tokio::select! {
                biased;
                permit = &mut permit => return permit.map(begin).map_err(|_| busy(&"and this proxy is ending")),
                ended = tokio::time::timeout(patience, ended.changed()) => {
                    if ended.is_err() {
                        return Err(busy(&format_args!("and none ended within {patience:?}")));
                    }
                }
            }
        }
    }

    /// Runs the go command when it is its turn.
    async fn run(&self, asked: &str, arguments: &[&str]) -> Result<(Output, Call), UpstreamError> {
        let failed = |reason: String| UpstreamError::GoCommand { url: shown(asked), reason };
        let turn = self.turn(asked).await?;
        let unwritable = |error: PathError| failed(format!("{error}; it needs a scratch folder to work in"));
        let call = self.0.scratch.call().map_err(unwritable)?;
        let command = Command { go: &self.0.options.go, timeout: self.0.options.timeout, call: &call };
        log::debug!("running go {}", arguments.join(" "));
        let output = command.run(arguments).await;
        drop(turn);
        match output {
            Ok(output) => Ok((output, call)),
            Err(CommandError::TooLong(patience)) => Err(UpstreamError::Timeout {
                url: shown(asked),
                reason: format!("the go command did not end within {patience:?}"),
            }),
            Err(error) => Err(failed(error.to_string())),
        }
    }
}

/// The right to run a go command; those who wait are told when it ends.
struct Turn<'a> {
    _permit: SemaphorePermit<'a>,
    ended: &'a watch::Sender<()>,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.ended.send_replace(());
    }
}

/// Counts who waits.
struct Waiting<'a>(&'a AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What `go list -m -json` says.
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

/// What `go mod download -json` says.
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

/// Says whether what was asked was asked of version control.
pub(super) fn is_shown(url: &str) -> bool {
    url.ends_with(MARK)
}

fn odd(asked: &str, reason: &dyn fmt::Display) -> UpstreamError {
    UpstreamError::BadAnswer {
        url: shown(asked),
        reason: format!("what the go command said is odd: {reason}"),
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
    async fn nobody_waits_for_commands_that_hang() {
        let patience = Duration::from_millis(1);
        let error = asked_while_others_run(DirectOptions { patience, ..DirectOptions::default() }).await;
        assert!(error.contains("too many go commands are running, and none ended within 1ms"), "{error}");
    }

    #[tokio::test]
    async fn not_too_many_wait() {
        let patience = Duration::MAX;
        let options = DirectOptions { patience, max_waiting: 0, ..DirectOptions::default() };
        let error = asked_while_others_run(options).await;
        assert!(error.contains("too many go commands are running, and 0 are waited for"), "{error}");
    }

    #[tokio::test]
    async fn who_waits_gets_the_turn_of_one_that_ends() {
        let options =
            DirectOptions { patience: Duration::MAX, max_concurrent: 1, ..DirectOptions::default() };
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
