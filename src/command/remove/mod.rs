//! `stoa remove`: removes versions, forbids them with a tombstone, and lifts tombstones.
//!
//! It can run beside a server: a zip that is being sent is sent to its end. The next request downloads the version
//! again, or gets 410 if there is a tombstone.

mod place;
mod result;
mod work;

use clap::Args;
use stoa_layout::Cancel;

use self::place::InStore;
pub(super) use self::place::{EachTombstone, Place, Unreadable};
pub(crate) use self::result::Removed;
use self::result::list;
use self::work::Work;
use super::bucket::OnBucket;
use super::context::{Context, cancel_on_signals};
use super::error::CommandError;
use super::named::Named;
use super::progress::When;
use super::report::{Format, Reporter, Telling};
use super::{Command, Entry};

/// Remove versions from the store, or forbid them
#[derive(Debug, Args)]
#[command(
    override_usage = "stoa remove [OPTIONS] <MODULE[@VERSION]>...\n       stoa remove --list [--bucket <URL>|--local] [--format <FORMAT>]",
    after_help = "\
A module without a version stands for all its versions in the store. Modules below its path are not removed. A removed \
version is downloaded again on the next request. The new download must have the hash in the checksum database, or the \
same hash as before if the database does not know the version. --forget removes the recorded hash too. Use it after the \
tag of a private module was moved. With --tombstone, requests get 410, and the version is not downloaded, imported or \
restored until --lift. A running server notices a removal or a tombstone within a second, in a bucket within a \
minute. The command asks before it removes more than 100 versions. If it would ask but has no terminal, it needs \
--yes. It can run beside a server, and can be stopped and run again.

Examples:
  stoa remove example.org/module@v1.2.3
  stoa remove --forget git.example.org/private@v1.2.3
  stoa remove --tombstone --reason 'contains a key, see ticket 1234' example.org/module@v1.2.3
  stoa remove --lift example.org/module@v1.2.3
  stoa remove --list

Exit codes: 0 success; 1 a version is not in the store, or has no tombstone; 64 the removal was not \
confirmed; 69 the bucket cannot be reached; 74 input/output error; 130, 143 stopped."
)]
pub(crate) struct Remove {
    /// Modules and versions to remove
    #[arg(value_name = "MODULE[@VERSION]", value_parser = Named::parse, required_unless_present = "list")]
    named: Vec<Named>,

    /// Forbid the versions from now on, even if they are not in the store
    #[arg(long)]
    tombstone: bool,

    /// Reason for the tombstone, shown to clients
    #[arg(long, value_name = "TEXT", requires = "tombstone")]
    reason: Option<String>,

    /// Lift tombstones; no version is removed
    #[arg(long, alias = "no-tombstone", conflicts_with = "tombstone")]
    lift: bool,

    /// Remove the recorded hashes too, so that a new download may have other content
    #[arg(long, conflicts_with_all = ["tombstone", "lift"])]
    forget: bool,

    /// Remove nothing, and list all tombstones with their reasons
    #[arg(long, conflicts_with_all = ["named", "tombstone", "lift", "forget", "dry_run", "yes"])]
    list: bool,

    /// Show what would be done, and change nothing
    #[arg(long)]
    dry_run: bool,

    /// Do not ask, even for more than 100 versions
    #[arg(long)]
    yes: bool,

    #[command(flatten)]
    on: OnBucket,

    /// Format of results: lines for people, or one JSON object per line
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

inventory::submit!(Entry::new::<Remove>("remove", 80));

impl Command for Remove {
    type Summary = Removed;

    fn telling(&self) -> Telling {
        Telling { format: self.format, progress: When::Never }
    }

    fn run(self, context: &Context<'_>) -> Result<Removed, CommandError> {
        if let Some(bucket) = context.bucket(&self.on)? {
            if self.list {
                return list(&bucket, &context.reporter);
            }
            let cancel = cancel_on_signals(&context.reporter, false)?;
            return self.run_on(&bucket, &cancel, &context.reporter);
        }
        if self.list {
            let (store, cancel) = (context.upgrade_and_look()?, Cancel::default());
            let place = InStore { store: &store, cancel: &cancel };
            return list(&place, &context.reporter);
        }
        let store = context.open_or_look(self.dry_run)?;
        let cancel = context.cancel(&store)?;
        let place = InStore { store: &store, cancel: &cancel };
        self.run_on(&place, &cancel, &context.reporter)
    }
}

impl Remove {
    fn run_on(
        &self,
        place: &dyn Place,
        cancel: &Cancel,
        reporter: &Reporter,
    ) -> Result<Removed, CommandError> {
        let mut removed = Removed::new(place, self.dry_run);
        removed.is_lift = self.lift;
        let work = Work { reporter, place, args: self, cancel };
        work.ask()?;
        if !self.dry_run {
            place.begin_writing()?;
        }
        match work.all(&mut removed) {
            Ok(()) => Ok(removed),
            Err(error) if removed.is_empty() => Err(error.resumable()),
            Err(error) => Err(error.after(format_args!("{removed} in {} before that", removed.store))),
        }
    }
}
