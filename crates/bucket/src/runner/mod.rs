//! The runner: brings a bucket to one layout, as the runner of a folder does.
//!
//! 1. Look: what is the bucket? Refuse what is not recognised for certain.
//! 2. Probe the service, before the first write.
//! 3. Begin: one compare-and-swap of the state to `migrating.A-B`, with the lease.
//! 4. Make the step. Objects of Athens are never changed by a step up.
//! 5. End: one compare-and-swap of the state to `layout.B`, which gives the lease back.
//!
//! Of many processes that begin at the same time one gets the lease, and the others wait for its end. If its holder
//! dies, one of them takes the lease over and resumes the step.

mod look;
mod step;

use std::path::Path;

use stoa_layout::events::Event;
use stoa_layout::marker::HistoryEntry;
use stoa_layout::plan::PlannedStep;
use stoa_layout::signals::Cancelled;
use stoa_layout::{Direction, Exit, LayoutId, Survey, clock};

pub use look::BucketLook;
pub use step::{
    BucketContext, BucketDetection, BucketLayouts, BucketMoved, BucketStep, BucketStepError, BucketSurvey,
    BucketWork, DetectBucket,
};

use crate::{
    Bucket, BucketError, BucketMarker, BucketState, Held, HeldLease, LeaseTaker, LeaseTimes, ProbeError,
    Trouble,
};

/// The options of a run.
#[derive(Debug, Clone)]
pub struct BucketOptions {
    /// The target layout. The current layout if `None`.
    pub target: Option<LayoutId>,
    /// Whether a server started the run. Such a run only goes up and leaves decisions to a person.
    pub auto: bool,
    /// Whether an empty bucket is left alone.
    pub no_create: bool,
    /// The machine and the process, for messages.
    pub owner: String,
    /// The times of the lease.
    pub times: LeaseTimes,
}

/// The result of a successful run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BucketOutcome {
    /// The bucket was at the target already.
    Nothing(LayoutId),
    /// The bucket is empty, and was to be left alone.
    NoStore,
    /// The bucket is at the target now.
    Done(LayoutId),
}

/// A run that did not reach its target.
#[derive(Debug, thiserror::Error)]
pub enum BucketRunError {
    /// The bucket or the options are refused. Nothing was changed.
    #[error("{message}")]
    Refused {
        /// The exit code.
        exit: Exit,
        /// The message.
        message: String,
    },
    /// The service cannot be used for writing.
    #[error(transparent)]
    Probe(#[from] ProbeError),
    /// A request failed outside of a step.
    #[error(transparent)]
    Request(#[from] BucketError),
    /// A signal ended the wait for another process.
    #[error(transparent)]
    Cancelled(#[from] Cancelled),
    /// A step stopped before its end. The bucket is resumable.
    #[error(
        "the step from {from} to {to} stopped: {source}\nhelp: the step can be resumed in {bucket}: run again to continue, or use --to {from} to go back"
    )]
    Step {
        /// The bucket.
        bucket: String,
        /// The layout before.
        from: LayoutId,
        /// The layout after.
        to: LayoutId,
        /// The reason.
        source: Box<BucketStepError>,
    },
}

impl BucketRunError {
    /// Returns the exit code for this error.
    pub fn exit(&self) -> Exit {
        match self {
            Self::Refused { exit, .. } => *exit,
            Self::Probe(error) => error.exit(),
            Self::Request(error) => error.exit(),
            Self::Cancelled(cancelled) => Exit::signal(cancelled.0),
            Self::Step { source, .. } => source.exit(),
        }
    }
}

/// Brings one bucket to one layout.
pub struct BucketRunner<'a> {
    /// The bucket.
    pub bucket: &'a Bucket,
    /// The tool's layouts.
    pub layouts: &'a BucketLayouts,
    /// The options.
    pub options: &'a BucketOptions,
    /// The settings of the work.
    pub work: BucketWork<'a>,
}

/// The next thing to do.
enum Action<'a> {
    Finished,
    LeaveEmpty,
    Create,
    Step { step: &'a dyn BucketStep, direction: Direction, resumes: bool },
}

impl<'a> BucketRunner<'a> {
    fn target(&self) -> &LayoutId {
        self.options.target.as_ref().unwrap_or(&self.layouts.current)
    }

    /// Runs to the target.
    pub async fn run(&self) -> Result<BucketOutcome, BucketRunError> {
        let target = self.target().clone();
        let (mut is_done, mut is_probed, mut is_planned) = (false, false, false);
        loop {
            self.work.cancel.check()?;
            let look = self.look().await?;
            if let BucketLook::Marked(held) = &look
                && let Some(lease) = held.document.lease.clone()
                && !self.is_mine(&held.document)
            {
                let same = self.wait(held, &lease.owner).await?;
                if !same {
                    continue;
                }
            }
            let action = self.next(&look)?;
            if !is_planned && !matches!(action, Action::Finished | Action::LeaveEmpty) {
                self.report_plan(&action, None);
                is_planned = true;
            }
            if !is_probed && !matches!(action, Action::Finished | Action::LeaveEmpty) {
                if let Action::Step { step, direction, .. } = &action {
                    let keys = keys_of(&look);
                    step.prepare(self.bucket, keys.as_ref(), *direction).await.map_err(refused)?;
                }
                self.bucket.probe().await?;
                is_probed = true;
            }
            match action {
                Action::LeaveEmpty => return Ok(BucketOutcome::NoStore),
                Action::Finished if is_done => return Ok(BucketOutcome::Done(target)),
                Action::Finished => return Ok(BucketOutcome::Nothing(target)),
                Action::Create => is_done |= self.create(&look).await?,
                Action::Step { step, direction, resumes } => {
                    is_done |= self.take(&look, step, direction, resumes).await?;
                }
            }
        }
    }

    /// Reports the plan. Returns whether there is anything to do. Writes nothing.
    pub async fn plan(&self) -> Result<bool, BucketRunError> {
        let look = self.look().await?;
        let action = self.next(&look)?;
        match &action {
            Action::Finished | Action::LeaveEmpty => return Ok(false),
            Action::Create => self.report_plan(&action, None),
            Action::Step { step, direction, .. } => {
                let keys = keys_of(&look);
                let survey = step.survey(self.bucket, keys.as_ref(), *direction, &self.work).await;
                let survey = survey.map_err(refused)?;
                step.prepare(self.bucket, keys.as_ref(), *direction).await.map_err(refused)?;
                self.report_plan(&action, Some(survey));
                // List prices of S3, in dollars for a million requests.
                let price = (survey.reads as f64 * 0.40 + survey.writes as f64 * 5.0) / 1e6;
                self.work.events.event(Event::Warning(format!(
                    "the step needs about {} requests that read and {} that write or list: {price:.2} dollars at the list prices of S3",
                    survey.reads, survey.writes
                )));
            }
        }
        Ok(true)
    }

    /// Reports the leftovers of the bucket. Returns their number.
    pub async fn leftovers(&self) -> Result<u64, BucketRunError> {
        let look = self.look().await?;
        let keys = keys_of(&look);
        let mut count = 0;
        for step in &self.layouts.steps {
            let survey = step.survey(self.bucket, keys.as_ref(), Direction::Up, &self.work).await;
            count += survey.map_err(refused)?.leftovers;
        }
        Ok(count)
    }

    /// Returns the state of the bucket. Fails if it must not be used.
    pub async fn look(&self) -> Result<BucketLook, BucketRunError> {
        let look = BucketLook::of(self.bucket, self.layouts).await?;
        match look.refusal(self.bucket, self.layouts) {
            Some((exit, message)) => Err(BucketRunError::Refused { exit, message }),
            None => Ok(look),
        }
    }

    fn is_mine(&self, state: &BucketState) -> bool {
        state.lease.as_ref().is_some_and(|lease| lease.owner == self.options.owner)
    }

    fn taker(&self) -> LeaseTaker {
        LeaseTaker {
            bucket: self.bucket.clone(),
            program: self.layouts.program.clone(),
            owner: self.options.owner.clone(),
            times: self.options.times,
        }
    }

    /// Waits for the holder of the lease. Returns whether the state is still the same: the holder is dead.
    async fn wait(&self, held: &Held<BucketState>, owner: &str) -> Result<bool, BucketRunError> {
        self.work
            .events
            .event(Event::Warning(format!("waiting for {owner}, which works on {}", self.bucket.url())));
        let taker = self.taker();
        let wait = taker.wait(held.clone());
        tokio::pin!(wait);
        let mut ticks = tokio::time::interval(std::time::Duration::from_millis(200));
        loop {
            tokio::select! {
                seen = &mut wait => return Ok(seen?.is_some_and(|seen| seen.tag == held.tag)),
                _ = ticks.tick() => self.work.cancel.check()?,
            }
        }
    }

    fn next(&self, look: &BucketLook) -> Result<Action<'a>, BucketRunError> {
        let target = self.target();
        let refuse = |exit, message| Err(BucketRunError::Refused { exit, message });
        if !self.layouts.knows(target) {
            let known = "the layouts of a bucket are athens and b1";
            return refuse(Exit::USAGE, format!("{target} is not a layout of a bucket\nhelp: {known}"));
        }
        let at = |layout: &LayoutId| -> Result<Action<'a>, BucketRunError> {
            match self.layouts.next(layout, target) {
                None => Ok(Action::Finished),
                Some(next) => self.step(layout, &next, false),
            }
        };
        match look {
            BucketLook::Empty if *target != self.layouts.current => {
                let message =
                    format!("{} is empty, so there is nothing to bring to {target}", self.bucket.url());
                refuse(Exit::NOT_A_STORE, message)
            }
            BucketLook::Empty if self.options.no_create => Ok(Action::LeaveEmpty),
            BucketLook::Empty => Ok(Action::Create),
            BucketLook::Untagged(layout) => at(layout),
            BucketLook::Marked(held) => match &held.document.marker {
                BucketMarker::Creating(_) => Ok(Action::Create),
                BucketMarker::At(layout) | BucketMarker::Left(layout) => at(layout),
                BucketMarker::Migrating { from, to } => {
                    let began_back =
                        self.layouts.between(from, to).is_some_and(|(_, way)| way == Direction::Back);
                    if self.options.auto && began_back {
                        let message = format!(
                            "{} is in the middle of the step {}, which somebody began on purpose\n\
                             help: finish it or undo it with `stoa-migrate --bucket {} --to LAYOUT`",
                            self.bucket.url(),
                            held.document.marker,
                            self.bucket.url()
                        );
                        return refuse(Exit::BUSY, message);
                    }
                    // The step goes on if that is the way to the target, and is reversed if not.
                    match self.layouts.next(from, target).as_ref() == Some(to) {
                        true => self.step(from, to, true),
                        false => self.step(to, from, false),
                    }
                }
            },
            BucketLook::Newer(_) | BucketLook::Foreign(_) => refuse(Exit::NOT_A_STORE, String::new()),
        }
    }

    fn step(&self, from: &LayoutId, to: &LayoutId, resumes: bool) -> Result<Action<'a>, BucketRunError> {
        match self.layouts.between(from, to) {
            Some((step, direction)) => Ok(Action::Step { step, direction, resumes }),
            None => {
                let message = format!("there is no step from {from} to {to}");
                Err(BucketRunError::Refused { exit: Exit::USAGE, message })
            }
        }
    }

    fn report_plan(&self, action: &Action<'_>, survey: Option<BucketSurvey>) {
        let root = self.bucket.url().to_string();
        let (creates, steps) = match action {
            Action::Step { step, direction, resumes } => {
                (None, vec![planned(*step, *direction, *resumes, survey)])
            }
            Action::Create => (Some(self.target()), Vec::new()),
            Action::Finished | Action::LeaveEmpty => (None, Vec::new()),
        };
        self.work.events.event(Event::Plan {
            root: Path::new(&root),
            target: self.target(),
            creates,
            restores: None,
            steps: &steps,
        });
    }

    /// Takes the lease with this marker. `None` if another process was first.
    async fn lease(
        &self,
        look: &BucketLook,
        marker: BucketMarker,
        keeps_id: bool,
        work: &str,
    ) -> Result<Option<HeldLease>, BucketRunError> {
        let old = match look {
            BucketLook::Marked(held) => Some(held.as_ref()),
            _ => None,
        };
        let mut state = BucketState::first(marker, &self.layouts.program)?;
        if let Some(old) = old {
            state.history.clone_from(&old.document.history);
            if keeps_id {
                state.id = old.document.id.clone();
            }
        }
        match self.taker().take(old, state, work).await {
            Ok(Ok(lease)) => Ok(Some(lease)),
            Ok(Err(_)) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Prepares an empty bucket. Returns false if another process was first.
    async fn create(&self, look: &BucketLook) -> Result<bool, BucketRunError> {
        let layout = self.layouts.current.clone();
        let started = clock::now();
        let creating = BucketMarker::Creating(layout.clone());
        let Some(lease) = self.lease(look, creating, false, "creation").await? else { return Ok(false) };
        let entry = history("empty", layout.as_str(), started, BucketMoved::default());
        lease.end(BucketMarker::At(layout.clone()), Some(entry)).await?;
        self.work.events.event(Event::Created(&layout));
        Ok(true)
    }

    /// Makes a step. Returns false if another process was first.
    async fn take(
        &self,
        look: &BucketLook,
        step: &dyn BucketStep,
        direction: Direction,
        resumes: bool,
    ) -> Result<bool, BucketRunError> {
        let (from, to) = match direction {
            Direction::Up => (step.from(), step.to()),
            Direction::Back => (step.to(), step.from()),
        };
        let started = clock::now();
        let begin = BucketMarker::Migrating { from: from.clone(), to: to.clone() };
        // A bucket that is taken over again gets a new ID, so nothing of an earlier time has an effect.
        let keeps_id = matches!(look, BucketLook::Marked(held) if !matches!(held.document.marker, BucketMarker::Left(_)));
        let work = if direction == Direction::Up { "upgrade" } else { "downgrade" };
        let Some(lease) = self.lease(look, begin, keeps_id, work).await? else { return Ok(false) };
        self.work.events.event(Event::StepBegin(&planned(step, direction, resumes, None)));
        let keys = lease.state().await.keys();
        let context = BucketContext { bucket: self.bucket, keys: &keys, lease: &lease, work: self.work };
        let failed = |source: BucketStepError| BucketRunError::Step {
            bucket: self.bucket.url().to_string(),
            from: from.clone(),
            to: to.clone(),
            source: Box::new(source),
        };
        let moved = match step.make(direction, &context).await {
            Ok(moved) => moved,
            Err(error) => {
                // Another process need not wait until the lease is old.
                self.give_back(lease).await;
                return Err(failed(error));
            }
        };
        let entry = history(from.as_str(), to.as_str(), started, moved);
        let marker = match self.layouts.is_tagged(&to) {
            true => BucketMarker::At(to.clone()),
            false => BucketMarker::Left(to.clone()),
        };
        lease.end(marker, Some(entry)).await.map_err(|error| failed(error.into()))?;
        let BucketMoved { versions: items, bytes, leftovers, in_progress } = moved;
        if in_progress > 0 {
            self.work.events.event(Event::Warning(format!(
                "{in_progress} versions are being saved by another program; each is taken over by the first request for it"
            )));
        }
        self.work.events.event(Event::StepEnd { from: &from, to: &to, items, bytes, leftovers });
        Ok(true)
    }

    async fn give_back(&self, lease: HeldLease) {
        let marker = lease.state().await.marker;
        match lease.end(marker, None).await {
            Ok(_) => {}
            Err(error) if error.trouble == Trouble::Left => {}
            Err(error) => log::debug!(reason:% = error; "cannot give the lease of the bucket back"),
        }
    }
}

fn keys_of(look: &BucketLook) -> Option<crate::Keys> {
    match look {
        BucketLook::Marked(held) if !matches!(held.document.marker, BucketMarker::Left(_)) => {
            Some(held.document.keys())
        }
        _ => None,
    }
}

/// Returns the error of a step that has not begun.
fn refused(error: BucketStepError) -> BucketRunError {
    match error {
        BucketStepError::Request(error) => error.into(),
        BucketStepError::Cancelled(cancelled) => cancelled.into(),
        BucketStepError::Refused { exit, message } => BucketRunError::Refused { exit, message },
    }
}

fn planned(
    step: &dyn BucketStep,
    direction: Direction,
    resumes: bool,
    survey: Option<BucketSurvey>,
) -> PlannedStep {
    let (from, to) = match direction {
        Direction::Up => (step.from(), step.to()),
        Direction::Back => (step.to(), step.from()),
    };
    let survey = survey.map(|survey| Survey {
        items: survey.versions,
        bytes: survey.bytes,
        leftovers: survey.leftovers,
        ..Survey::default()
    });
    PlannedStep { from, to, direction, description: step.description().to_owned(), resumes, survey }
}

fn history(from: &str, to: &str, started: String, moved: BucketMoved) -> HistoryEntry {
    HistoryEntry {
        from: from.to_owned(),
        to: to.to_owned(),
        started,
        finished: clock::now(),
        moved: moved.versions,
        leftovers: moved.leftovers,
        bytes: moved.bytes,
    }
}
