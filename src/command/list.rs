//! `stoa list`: lists the versions in the store.

use std::fmt::{self, Display};

use clap::Args;
use indicatif::{BinaryBytes, HumanCount};
use serde::Serialize;
use stoa_gomod::ModuleVersion;
use stoa_gomod::private::Patterns;
use stoa_store::{CensusItem, Day, LastUses, StoredVersion, Verdict, census, verdict_at};

use super::bucket::OnBucket;
use super::context::Context;
use super::count::{counted, is_zero, versions};
use super::error::CommandError;
use super::event::{VersionKeys, date, seconds};
use super::progress::When;
use super::report::{Format, Reporter, Summary, Telling};
use super::unverified::Unverified;
use super::verify::unreadable_error;
use super::{Command, Entry};
use crate::config::parse;

/// List the versions in the store with size, time and last use
#[derive(Debug, Args)]
#[command(after_help = "\
A pattern matches module paths as in GOPRIVATE: `example.org` matches this path and all paths below it, and `*` \
matches any text in one path element. The column LAST USED shows `-` if no use of the version is recorded. The column \
VERIFIED BY names the checksum database that confirmed the version, or go.sum. It shows `-` if neither confirmed it. \
The last line counts the unverified versions of modules that are not private.

Examples:
  stoa list
  stoa list 'github.com/*/*'
  stoa list example.org/module --format json

Exit codes: 0 success; 64 a pattern never matches; 65 there is no store; 69 the bucket cannot be \
reached; 74 a version cannot be read.")]
pub(crate) struct List {
    /// Patterns of module paths, separated by commas or spaces [default: all modules]
    #[arg(value_name = "PATTERN", value_parser = parse::some_patterns)]
    patterns: Vec<Patterns>,

    #[command(flatten)]
    on: OnBucket,

    /// Format of results: lines for people, or one JSON object per line
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

inventory::submit!(Entry::new::<List>("list", 30));

impl Command for List {
    type Summary = Listed;

    fn telling(&self) -> Telling {
        Telling { format: self.format, progress: When::Never }
    }

    fn run(self, context: &Context<'_>) -> Result<Listed, CommandError> {
        if let Some(bucket) = context.bucket(&self.on)? {
            return bucket.list(&self.patterns, context);
        }
        let store = context.upgrade_and_look()?;
        let reporter = &context.reporter;
        let uses = match store.usage().last_uses() {
            Ok(uses) => Some(uses),
            Err(error) => {
                log::warn!(reason:% = error; "cannot read the usage data");
                None
            }
        };
        let mut listed = Listed::new(store.root().to_string_lossy().into_owned());
        let mut unverified = Unverified::new(context.settings);
        census(store.root(), |item| -> Result<(), CommandError> {
            let CensusItem::Version(stored) = item else { return Ok(()) };
            let module = stored.version.path().as_str();
            if !self.patterns.is_empty() && !self.patterns.iter().any(|patterns| patterns.matches(module)) {
                return Ok(());
            }
            if listed.is_empty() && !reporter.is_json() {
                reporter.bytes(HEADER.as_bytes())?;
            }
            listed.add(&stored.version, stored.bytes);
            let verdict = verdict_at(store.root(), &stored.version)?;
            if verdict.is_none() {
                unverified.add(stored.version.path());
            }
            reporter.answer(&VersionEvent::new(&stored, last_use(uses.as_ref(), &stored.version)?, verdict))
        })?;
        listed.unverified = unverified.count();
        Ok(listed)
    }
}

pub(super) const HEADER: &str = "      SIZE  STORED                LAST USED   VERIFIED BY     VERSION\n";

fn last_use(uses: Option<&LastUses<'_>>, version: &ModuleVersion) -> Result<Option<Day>, CommandError> {
    Ok(uses.map(|uses| uses.recorded(version)).transpose()?.flatten())
}

/// A version in the store.
#[derive(Serialize)]
#[serde(tag = "event", rename = "version")]
pub(super) struct VersionEvent<'a> {
    #[serde(flatten)]
    pub(super) version: VersionKeys<'a>,
    pub(super) bytes: u64,
    pub(super) stored: String,
    pub(super) last_use: Option<String>,
    pub(super) verified_by: Option<String>,
}

impl<'a> VersionEvent<'a> {
    fn new(stored: &'a StoredVersion, last_use: Option<Day>, verdict: Option<Verdict>) -> Self {
        Self {
            version: (&stored.version).into(),
            bytes: stored.bytes,
            stored: seconds(stored.published),
            last_use: last_use.map(date),
            verified_by: verdict.map(|verdict| verdict.database),
        }
    }
}

impl Display for VersionEvent<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = BinaryBytes(self.bytes).to_string();
        let last_use = self.last_use.as_deref().unwrap_or("-");
        let verified_by = self.verified_by.as_deref().unwrap_or("-");
        write!(f, "{bytes:>10}  {:20}  {last_use:10}  {verified_by:14}  {}", self.stored, self.version)
    }
}

/// The number of listed versions.
#[derive(Debug, Serialize)]
#[serde(tag = "event", rename = "done")]
pub(crate) struct Listed {
    store: String,
    versions: u64,
    modules: u64,
    bytes: u64,
    pub(super) unverified: u64,
    /// The versions of a bucket whose manifests are damaged. They have been reported.
    #[serde(skip_serializing_if = "is_zero")]
    pub(super) unreadable: u64,
    #[serde(skip)]
    last_module: Option<String>,
}

impl Listed {
    pub(super) fn new(store: String) -> Self {
        Self { store, versions: 0, modules: 0, bytes: 0, unverified: 0, unreadable: 0, last_module: None }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.versions == 0
    }

    pub(super) fn add(&mut self, version: &ModuleVersion, bytes: u64) {
        self.versions += 1;
        self.bytes += bytes;
        // The versions of a module come one after the other.
        let module = version.path().as_str();
        if self.last_module.as_deref() != Some(module) {
            self.modules += 1;
            self.last_module = Some(module.to_owned());
        }
    }
}

impl Display for Listed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (versions, modules) = (versions(self.versions), counted(self.modules, "module"));
        write!(f, "{}: {versions} of {modules}, {}", self.store, BinaryBytes(self.bytes))?;
        match self.unverified {
            0 => Ok(()),
            unverified => write!(f, ", {} unverified", HumanCount(unverified)),
        }
    }
}

impl Summary for Listed {
    fn report(&self, reporter: &Reporter) {
        reporter.note(self);
    }

    fn verdict(&self) -> Result<(), CommandError> {
        match self.unreadable {
            0 => Ok(()),
            unreadable => Err(unreadable_error(unreadable, &self.store)),
        }
    }
}
