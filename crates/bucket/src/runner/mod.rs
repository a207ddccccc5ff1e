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

mod error;
mod look;
mod step;

use std::path::Path;

use stoa_layout::events::Event;
use stoa_layout::marker::HistoryEntry;
use stoa_layout::plan::PlannedStep;
use stoa_layout::{Direction, Exit, LayoutId, Survey, clock};

pub use error::BucketRunError;
pub use look::BucketLook;
pub use step::{
    BucketContext, BucketDetection, BucketLayouts, BucketMoved, BucketRequests, BucketStep, BucketStepError,
    BucketSurvey, BucketWork, DetectBucket,
};

use error::refused;

use crate::{
    Bucket, BucketError, BucketMarker, BucketState, Held, HeldLease, LeaseTaker, LeaseTimes, Tag, Trouble,
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

/// The requests of each run: the detection, the check of the service, the begin and the end. Beats of the lease come
/// on top, one every ten seconds.
const OF_EACH_RUN: BucketRequests = BucketRequests { gets: 6, puts: 16, lists: 4 };

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
        // The tag of a state whose holder is dead.
        let mut dead = None;
        loop {
            self.work.cancel.check()?;
            let look = self.look().await?;
            if let BucketLook::Marked(held) = &look
                && let Some(lease) = &held.document.lease
                && lease.owner != self.options.owner
                && dead.as_ref() != Some(&held.tag)
            {
                dead = self.wait(held, &lease.owner).await?;
                continue;
            }
            let action = self.next(&look)?;
            if !is_planned && !matches!(action, Action::Finished | Action::LeaveEmpty) {
                self.report_plan(&action, None);
                is_planned = true;
            }
            if !is_probed && !matches!(action, Action::Finished | Action::LeaveEmpty) {
                if let Action::Step { step, direction, resumes } = &action {
                    let keys = keys_of(&look);
                    step.prepare(self.bucket, keys.as_ref(), *direction, *resumes).await.map_err(refused)?;
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

    /// Reports the plan. Returns the number of requests that it needs. `None` if there is nothing to do. Writes nothing.
    pub async fn plan(&self) -> Result<Option<BucketRequests>, BucketRunError> {
        let look = self.look().await?;
        let action = self.next(&look)?;
        let requests = match &action {
            Action::Finished | Action::LeaveEmpty => return Ok(None),
            Action::Create => {
                self.report_plan(&action, None);
                BucketRequests::default()
            }
            Action::Step { step, direction, resumes } => {
                let keys = keys_of(&look);
                let survey = step.survey(self.bucket, keys.as_ref(), *direction, &self.work).await;
                let survey = survey.map_err(refused)?;
                step.prepare(self.bucket, keys.as_ref(), *direction, *resumes).await.map_err(refused)?;
                self.report_plan(&action, Some(survey));
                survey.requests
            }
        };
        Ok(Some(requests + OF_EACH_RUN))
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

    fn taker(&self) -> LeaseTaker {
        LeaseTaker {
            bucket: self.bucket.clone(),
            program: self.layouts.program.clone(),
            owner: self.options.owner.clone(),
            times: self.options.times,
        }
    }

    /// Waits for the holder of the lease. Returns the tag of its last state if the holder is dead.
    async fn wait(&self, held: &Held<BucketState>, owner: &str) -> Result<Option<Tag>, BucketRunError> {
        self.work
            .events
            .event(Event::Warning(format!("waiting for {owner}, which works on {}", self.bucket.url())));
        let taker = self.taker();
        let wait = taker.wait(held.clone());
        tokio::pin!(wait);
        let mut ticks = tokio::time::interval(std::time::Duration::from_millis(200));
        loop {
            tokio::select! {
                seen = &mut wait => {
                    let seen = seen?.filter(|seen| seen.document.lease.is_some());
                    return Ok(seen.map(|seen| seen.tag));
                }
                _ = ticks.tick() => self.work.cancel.check()?,
            }
        }
    }

    fn next(&self, look: &BucketLook) -> Result<Action<'a>, BucketRunError> {
        let target = self.target();
        let refuse = |exit, message| Err(BucketRunError::Refused { exit, message });
        if !self.layouts.knows(target) {
            let url = self.bucket.url();
            let message = format!("cannot migrate {url} to {target}: unknown layout\nhelp: use athens or b1");
            return refuse(Exit::USAGE, message);
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
                    format!("cannot migrate {} to {target}: the bucket is empty", self.bucket.url());
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
                        let url = self.bucket.url();
                        let message = format!(
                            "cannot use {url}: a downgrade ({}) is not finished\n\
                             help: finish it with `stoa-migrate --bucket {url} --to {to}`, or undo it with \
                             `stoa-migrate --bucket {url}`",
                            held.document.marker
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
                let message = format!(
                    "cannot migrate {} from {from} to {to}: there is no such step",
                    self.bucket.url()
                );
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
            // Of a process that was suspended, the requests that were under way fail for reasons of their own.
            Err(error) => {
                return Err(failed(self.give_back(lease).await.map_or(error, BucketStepError::Request)));
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
                "Athens is still saving {in_progress} {}, Stoa adopts each of them on the first request",
                if in_progress == 1 { "version" } else { "versions" }
            )));
        }
        self.work.events.event(Event::StepEnd { from: &from, to: &to, items, bytes, leftovers });
        Ok(true)
    }

    /// Gives the lease back, so that another process need not wait until it is old. Returns the error that says that
    /// the lease was lost before.
    async fn give_back(&self, lease: HeldLease) -> Option<BucketError> {
        let marker = lease.state().await.marker;
        match lease.end(marker, None).await {
            Ok(_) => None,
            Err(error) if error.trouble == Trouble::Left => Some(error),
            Err(error) => {
                log::debug!(reason:% = error.without_help(); "cannot give the lease of the bucket back");
                None
            }
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
    PlannedStep { from, to, direction, description: step.description(direction).to_owned(), resumes, survey }
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
