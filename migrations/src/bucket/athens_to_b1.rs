//! The step from the keys of Athens to layout b1: a manifest for each complete version. No file of Athens is changed.

use async_trait::async_trait;
use stoa_bucket::{
    ATHENS, Bucket, BucketContext, BucketMoved, BucketStep, BucketStepError, BucketSurvey, BucketWork, Keys,
    LAYOUT,
};
use stoa_layout::{Direction, LayoutId};

use super::{downgrade, upgrade};

/// The step.
pub(super) struct AthensToB1;

#[async_trait(?Send)]
impl BucketStep for AthensToB1 {
    fn from(&self) -> LayoutId {
        ATHENS
    }

    fn to(&self) -> LayoutId {
        LAYOUT
    }

    fn description(&self, direction: Direction) -> &str {
        match direction {
            Direction::Up => {
                "write a manifest for each complete version, and leave the files of Athens unchanged"
            }
            Direction::Back => {
                "copy the versions of Stoa to the keys of Athens, and delete the objects of Stoa"
            }
        }
    }

    async fn survey(
        &self,
        bucket: &Bucket,
        keys: Option<&Keys>,
        direction: Direction,
        work: &BucketWork<'_>,
    ) -> Result<BucketSurvey, BucketStepError> {
        match direction {
            Direction::Up => upgrade::survey(bucket, keys, work).await,
            Direction::Back => downgrade::survey(bucket, keys, work).await,
        }
    }

    async fn prepare(
        &self,
        bucket: &Bucket,
        keys: Option<&Keys>,
        direction: Direction,
        resumes: bool,
    ) -> Result<(), BucketStepError> {
        match direction {
            Direction::Up => Ok(()),
            Direction::Back => downgrade::prepare(bucket, keys, resumes).await,
        }
    }

    async fn make(
        &self,
        direction: Direction,
        context: &BucketContext<'_>,
    ) -> Result<BucketMoved, BucketStepError> {
        match direction {
            Direction::Up => upgrade::make(context).await,
            Direction::Back => downgrade::make(context).await,
        }
    }
}
