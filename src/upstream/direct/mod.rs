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
//! Anybody can publish a page that says where a module is. So only modules that the configuration or `GOPRIVATE`
//! covers may lead to private repositories: for all others there are no credentials, and public addresses only.
//!
//! | module | purpose |
//! | --- | --- |
//! | `command` | runs the go command: environment, limits, end |
//! | `places` | the limits of running and waiting commands |
//! | `rules` | the modules that are covered, and the repositories that are denied |
//! | `egress` | the way to the network for modules that are not covered |
//! | `discovery` | the pages that say where a module is |
//! | `visited` | the repositories to which git was redirected |
//! | `scratch` | the folders that it works in, and the removal of folders of dead processes |
//! | `failure` | the meaning of its error messages |

mod command;
mod discovery;
mod egress;
mod failure;
mod places;
mod rules;
mod scratch;
mod visited;

pub(super) use failure::without_paths;
pub use rules::{DirectRule, DirectRules};

use super::download::Download;
use super::error::UpstreamError;
use bytes::Bytes;
use command::{Command, CommandError, Output};
use egress::Egress;
use places::{Limits, Places};
use rules::{NOT_COVERED, Repository};
use scratch::{Call, Scratch, Users};
use serde::Deserialize;
use serde_json::value::RawValue;
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use stoa_gomod::route::{self, Route};
use stoa_gomod::{ModulePath, ModuleVersion, Version, list};
use stoa_layout::PathError;
use tokio::sync::{OnceCell, watch};

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
    /// Maximum size of the files of one command, in bytes.
    pub max_size: u64,
    /// The folder for scratch folders. Scratch folders of dead processes are removed from it.
    pub scratch: PathBuf,
    /// The rules about modules.
    pub rules: DirectRules,
}

impl Default for DirectOptions {
    fn default() -> Self {
        Self {
            go: PathBuf::from("go"),
            max_concurrent: 4,
            max_waiting: 256,
            max_wait: Duration::from_secs(30),
            timeout: Duration::from_secs(600),
            max_size: 2 << 30,
            scratch: std::env::temp_dir(),
            rules: DirectRules::default(),
        }
    }
}

/// The go command with its limits and scratch folder, shared by all clones and all lists of upstreams of a
/// process. The scratch folder is removed with the last clone.
#[derive(Clone)]
pub struct Direct(Arc<Inner>);

struct Inner {
    options: DirectOptions,
    rules: Arc<DirectRules>,
    places: Arc<Places>,
    scratch: Arc<Scratch>,
    /// The TLS configuration for pages, from the system's certificates.
    tls: OnceLock<Result<rustls::ClientConfig, String>>,
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
        let DirectOptions { max_concurrent, max_waiting, max_wait, .. } = options;
        let limits = Limits { max_concurrent, max_waiting, max_wait };
        let places = Arc::new(Places::new(limits, options.rules.cover_any()));
        let scratch = Arc::new(Scratch::new(options.scratch.clone(), options.max_size));
        let rules = Arc::new(options.rules.clone());
        Self(Arc::new(Inner { options, rules, places, scratch, tls: OnceLock::new() }))
    }

    /// Returns the number of running go commands, and their maximum.
    pub(super) fn permits(&self) -> (usize, usize) {
        self.0.places.in_use()
    }

    /// Returns the same `Direct` with the rules of another. Both share the limits and the scratch folder.
    pub(crate) fn with_rules_of(&self, other: &Self) -> Self {
        let options = DirectOptions { rules: other.0.options.rules.clone(), ..self.0.options.clone() };
        let (places, scratch) = (Arc::clone(&self.0.places), Arc::clone(&self.0.scratch));
        let rules = Arc::clone(&other.0.rules);
        Self(Arc::new(Inner { options, rules, places, scratch, tls: OnceLock::new() }))
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
        let (listed, mut real) = self.listed(module, &["-retracted", "-versions"], module.as_str()).await?;
        let mut versions: Vec<Version> =
            listed.versions.iter().filter_map(|version| Version::new(version).ok()).collect();
        let rules = &self.0.rules;
        // A folder of the repository that is not a module has no versions either, and an empty list
        // would mean that it is a module. The output for a list does not name the repository.
        if versions.is_empty() || rules.covers(module) && rules.deny_any() {
            match self.listed(module, &[], &format!("{module}@latest")).await {
                Ok((_, of_latest)) => real = of_latest,
                // The latest version is broken, and git was seen at the repository.
                Err(error) if !versions.is_empty() && !real.is_empty() && !error.is_not_allowed() => {}
                Err(error) => return Err(error),
            }
        }
        versions.retain(|version| !real.iter().any(|path| rules.deny(path, Some(version))));
        Ok(Bytes::from(list::format(&versions)))
    }

    async fn query(&self, module: &ModulePath, revision: &str) -> Result<Bytes, UpstreamError> {
        let asked = format!("{module}@{revision}");
        let (listed, real) = self.listed(module, &[], &asked).await?;
        self.check_repositories(&asked, &real, Version::new(&listed.version).ok().as_ref())?;
        let info = Info { version: &listed.version, time: listed.time.as_deref(), origin: listed.origin };
        serde_json::to_vec(&info).map(Bytes::from).map_err(|error| unexpected(&asked, &error))
    }

    /// Returns the description of a module by `go list`, and its paths by [`Run::real_paths`].
    async fn listed(
        &self,
        module: &ModulePath,
        options: &[&str],
        asked: &str,
    ) -> Result<(Listed, Vec<String>), UpstreamError> {
        let arguments = [&["list", "-m", "-json"], options, &[asked]].concat();
        let run = self.run(module, asked, &arguments).await?;
        if !run.output.is_success {
            return Err(run.failed(asked, &run.output.text()));
        }
        let listed: Listed =
            serde_json::from_slice(&run.output.out).map_err(|error| unexpected(asked, &error))?;
        match &listed.error {
            Some(error) => return Err(run.failed(asked, &error.text)),
            None if listed.path != module.as_str() => {
                return Err(unexpected(asked, &"it describes another module"));
            }
            None => {}
        }
        let origin = listed.origin.as_deref().and_then(|origin| serde_json::from_str(origin.get()).ok());
        let real = run.real_paths(module, origin);
        let denied = self.check_repositories(asked, &real, None);
        // Later runs could use the clone without a visit.
        denied.inspect_err(|_| run.call.spoil_clones())?;
        Ok((listed, real))
    }

    /// Returns an error if a rule denies a repository of a module, which need not have the path of the module.
    fn check_repositories(
        &self,
        asked: &str,
        real: &[String],
        version: Option<&Version>,
    ) -> Result<(), UpstreamError> {
        match real.iter().find(|path| self.0.rules.deny(path, version)) {
            None => Ok(()),
            Some(path) => Err(UpstreamError::NotAllowed {
                url: shown(asked),
                reason: format!("a rule denies {path}, which is the repository of this module"),
            }),
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
        let run = self.run(version.path(), &asked, &["mod", "download", "-json", &asked]).await?;
        let downloaded: Downloaded = match serde_json::from_slice(&run.output.out) {
            Ok(downloaded) => downloaded,
            Err(_) if !run.output.is_success => return Err(run.failed(&asked, &run.output.text())),
            Err(error) => return Err(unexpected(&asked, &error)),
        };
        match &downloaded {
            Downloaded { error: Some(text), .. } => return Err(run.failed(&asked, text)),
            Downloaded { version: other, .. } if other != version.version().as_str() => {
                return Err(unexpected(&asked, &format_args!("it describes version {other}")));
            }
            _ => {}
        }
        let real = run.real_paths(version.path(), downloaded.origin.clone());
        let denied = self.check_repositories(&asked, &real, Some(version.version()));
        denied.inspect_err(|_| run.call.spoil_clones())?;
        match downloaded {
            Downloaded { info: Some(info), modfile: Some(modfile), zip: Some(zip), .. } => {
                Ok(Arc::new(Files { info, modfile, zip, _call: run.call }))
            }
            _ => Err(unexpected(&asked, &"it names no files")),
        }
    }

    /// Runs the go command, after waiting for its place.
    async fn run(&self, module: &ModulePath, asked: &str, arguments: &[&str]) -> Result<Run, UpstreamError> {
        let inner = &*self.0;
        let failed = |reason: String| UpstreamError::GoCommand { url: shown(asked), reason };
        let is_covered = inner.rules.covers(module);
        if !is_covered && has_literal_host(module) {
            let reason = format!("the host is an address{NOT_COVERED}");
            return Err(UpstreamError::NotAllowed { url: shown(asked), reason });
        }
        let place = inner.places.take(module, is_covered).await;
        let place =
            place.map_err(|error| UpstreamError::Timeout { url: shown(asked), reason: error.to_string() })?;
        let unwritable =
            |error: PathError| failed(format!("the go command needs a temporary folder: {error}"));
        let is_traced = inner.rules.deny_any();
        let users = Users { are_covered: is_covered, module: is_traced.then(|| module.as_str().to_owned()) };
        let call = inner.scratch.call(users).map_err(unwritable)?;
        let egress = match is_covered {
            true => None,
            false => {
                let tls = inner.tls.get_or_init(egress::tls).clone().map_err(failed)?;
                let opened = Egress::open(Arc::clone(&inner.rules), tls).await;
                Some(opened.map_err(|error| failed(format!("cannot listen on loopback: {error}")))?)
            }
        };
        let command = Command {
            go: &inner.options.go,
            timeout: inner.options.timeout,
            call: &call,
            egress: egress.as_ref(),
            // Otherwise it does not matter where git was.
            is_traced,
        };
        log::debug!(arguments = arguments.join(" "), is_covered; "running the go command");
        let output = command.run(arguments).await;
        drop(place);
        match output {
            Ok(output) => {
                let visited = match is_traced {
                    true => call.visited().await,
                    false => Ok(Vec::new()),
                };
                let visited =
                    visited.map_err(|error| failed(format!("cannot read the requests of git: {error}")))?;
                Ok(Run { output, call, egress, visited })
            }
            Err(CommandError::TooLong(limit)) => Err(UpstreamError::Timeout {
                url: shown(asked),
                reason: format!("the go command did not end within {limit:?} (direct.timeout)"),
            }),
            Err(error) => Err(failed(error.to_string())),
        }
    }
}

/// An ended command.
struct Run {
    output: Output,
    call: Call,
    /// The way to the network of a module that is not covered.
    egress: Option<Egress>,
    /// The URLs of the repositories that git visited for the clones of this run, if any version of any module is denied.
    visited: Vec<String>,
}

impl Run {
    /// Returns the paths that the module would have if it were named after its repository: the one that the go
    /// command or a meta tag named, and those to which git was redirected.
    fn real_paths(&self, module: &ModulePath, origin: Option<Repository>) -> Vec<String> {
        let named = origin.or_else(|| self.egress.as_ref()?.repository());
        let folder = named.as_ref().map_or("", |named| &named.folder);
        let visited =
            self.visited.iter().map(|url| Repository { url: url.clone(), folder: folder.to_owned() });
        named
            .clone()
            .into_iter()
            .chain(visited)
            .filter_map(|found| found.module_path(module.as_str()))
            .collect()
    }

    /// Returns the error for a message of the go command.
    fn failed(&self, asked: &str, text: &str) -> UpstreamError {
        let Some(egress) = &self.egress else {
            return failure::classify(shown(asked), text, self.call.folder());
        };
        if let Some(reason) = egress.refusal() {
            return UpstreamError::NotAllowed { url: shown(asked), reason };
        }
        // The go command asks the egress, which asks the server over https.
        let text = text.replace("reading http://", "reading https://");
        match failure::classify(shown(asked), &text, self.call.folder()) {
            UpstreamError::VcsRefused { url, reason } => UpstreamError::VcsRefused {
                url,
                reason: format!("{reason} (without credentials{NOT_COVERED})"),
            },
            error => error,
        }
    }
}

/// Returns whether the host of a module is an address. The go command asks some of them without a proxy.
fn has_literal_host(module: &ModulePath) -> bool {
    module.as_str().split('/').next().is_some_and(|host| host.parse::<IpAddr>().is_ok())
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
    origin: Option<Repository>,
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
