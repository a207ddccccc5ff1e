//! The values that describe the layouts of a bucket: the steps between them, and how to recognise a bucket without a
//! state.

use async_trait::async_trait;
use stoa_layout::events::Events;
use stoa_layout::signals::{Cancel, Cancelled};
use stoa_layout::{Direction, Exit, LayoutId};

use crate::{Bucket, BucketError, HeldLease, Keys};

/// One step between two layouts of a bucket. It is frozen, as the steps of a folder are.
///
/// A step may be interrupted at any request and run again. What the bucket has shows what is done.
#[async_trait(?Send)]
pub trait BucketStep {
    /// Returns the older layout.
    fn from(&self) -> LayoutId;
    /// Returns the newer layout.
    fn to(&self) -> LayoutId;
    /// Returns one line that says what the step does in this direction.
    fn description(&self, direction: Direction) -> &str;
    /// Counts the work, and finds what forbids it. Writes nothing. `keys` are those of the present ID, if there is one.
    async fn survey(
        &self,
        bucket: &Bucket,
        keys: Option<&Keys>,
        direction: Direction,
        work: &BucketWork<'_>,
    ) -> Result<BucketSurvey, BucketStepError>;
    /// Finds what forbids the step. Reads little. `resumes` says that the step has begun in this direction before.
    async fn prepare(
        &self,
        bucket: &Bucket,
        keys: Option<&Keys>,
        direction: Direction,
        resumes: bool,
    ) -> Result<(), BucketStepError>;
    /// Makes the step.
    async fn make(
        &self,
        direction: Direction,
        context: &BucketContext<'_>,
    ) -> Result<BucketMoved, BucketStepError>;
}

/// Recognises buckets at a layout without a state.
#[async_trait(?Send)]
pub trait DetectBucket {
    /// Returns the layout.
    fn layout(&self) -> LayoutId;
    /// Checks whether the bucket is at this layout. Writes nothing.
    async fn detect(&self, bucket: &Bucket) -> Result<BucketDetection, BucketError>;
}

/// The result of a detection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BucketDetection {
    /// The bucket is at this layout.
    Yes,
    /// The bucket is not at this layout.
    No,
    /// The bucket is of a known kind that must not be changed. The text says what it is and what to do.
    Refuse(String),
}

/// Everything that a tool passes to the runner.
pub struct BucketLayouts {
    /// The program and its version, for the state.
    pub program: String,
    /// The layout that the program works with.
    pub current: LayoutId,
    /// All steps, in any order.
    pub steps: Vec<Box<dyn BucketStep>>,
    /// The detectors of layouts without a state.
    pub detectors: Vec<Box<dyn DetectBucket>>,
}

/// Settings of the work.
#[derive(Clone, Copy)]
pub struct BucketWork<'a> {
    /// The number of versions that are worked on at the same time.
    pub at_once: usize,
    /// Receives the events.
    pub events: &'a dyn Events,
    /// Stops the work.
    pub cancel: &'a Cancel,
}

/// The context of a step.
pub struct BucketContext<'a> {
    /// The bucket.
    pub bucket: &'a Bucket,
    /// The keys below the ID.
    pub keys: &'a Keys,
    /// The lease, which allows the step.
    pub lease: &'a HeldLease,
    /// The settings.
    pub work: BucketWork<'a>,
}

/// The result of a survey.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BucketSurvey {
    /// Versions to adopt or to copy.
    pub versions: u64,
    /// Their size in bytes.
    pub bytes: u64,
    /// Leftovers.
    pub leftovers: u64,
    /// The requests that the step will need.
    pub requests: BucketRequests,
}

/// Numbers of requests, by the kinds that have different prices. Deletions are free.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BucketRequests {
    /// Requests that read an object or its properties.
    pub gets: u64,
    /// Requests that write or copy an object.
    pub puts: u64,
    /// Requests that list, of up to 1000 keys each.
    pub lists: u64,
}

impl BucketRequests {
    /// Returns their price in dollars, at the list prices of S3: $5 per million PUT and LIST requests, $0.40 per million
    /// GET requests.
    pub fn dollars(&self) -> f64 {
        (self.gets as f64 * 0.40 + (self.puts + self.lists) as f64 * 5.0) / 1e6
    }
}

impl std::ops::Add for BucketRequests {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        let Self { gets, puts, lists } = other;
        Self { gets: self.gets + gets, puts: self.puts + puts, lists: self.lists + lists }
    }
}

/// The result of a step.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BucketMoved {
    /// Versions adopted or copied.
    pub versions: u64,
    /// Their size in bytes.
    pub bytes: u64,
    /// Leftovers.
    pub leftovers: u64,
    /// Versions that another program is saving. They are left for later.
    pub in_progress: u64,
}

/// A step stopped before its end.
#[derive(Debug, thiserror::Error)]
pub enum BucketStepError {
    /// A request failed.
    #[error(transparent)]
    Request(#[from] BucketError),
    /// A signal stopped the step.
    #[error(transparent)]
    Cancelled(#[from] Cancelled),
    /// The step cannot continue. The message names the object and what to do next.
    #[error("{message}")]
    Refused {
        /// The exit code.
        exit: Exit,
        /// The message.
        message: String,
    },
}

impl BucketStepError {
    /// Returns the exit code for this error.
    pub fn exit(&self) -> Exit {
        match self {
            Self::Request(error) => error.exit(),
            Self::Cancelled(cancelled) => Exit::signal(cancelled.0),
            Self::Refused { exit, .. } => *exit,
        }
    }
}

impl BucketLayouts {
    pub(super) fn knows(&self, layout: &LayoutId) -> bool {
        *layout == self.current
            || self.steps.iter().any(|step| step.from() == *layout || step.to() == *layout)
    }

    /// Returns whether buckets at the layout have a marker.
    pub(super) fn is_tagged(&self, layout: &LayoutId) -> bool {
        !self.detectors.iter().any(|detector| detector.layout() == *layout)
    }

    pub(super) fn between(&self, from: &LayoutId, to: &LayoutId) -> Option<(&dyn BucketStep, Direction)> {
        self.steps.iter().find_map(|step| {
            if step.from() == *from && step.to() == *to {
                Some((step.as_ref(), Direction::Up))
            } else if step.from() == *to && step.to() == *from {
                Some((step.as_ref(), Direction::Back))
            } else {
                None
            }
        })
    }

    /// Returns the layout after `from` on the way to `to`.
    pub(super) fn next(&self, from: &LayoutId, to: &LayoutId) -> Option<LayoutId> {
        let mut ways: Vec<Vec<LayoutId>> = vec![vec![from.clone()]];
        let mut at = 0;
        while let Some(way) = ways.get(at).cloned() {
            at += 1;
            let end = way.last()?;
            if end == to {
                return way.get(1).cloned();
            }
            for step in &self.steps {
                for (here, there) in [(step.from(), step.to()), (step.to(), step.from())] {
                    if here == *end && !ways.iter().any(|other| other.last() == Some(&there)) {
                        ways.push([way.clone(), vec![there]].concat());
                    }
                }
            }
        }
        None
    }
}
