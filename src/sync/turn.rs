//! The turn to pull from a peer, among the servers of a bucket.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use stoa_bucket::{PULL_BEAT, PULL_TAKEOVER, PullHolder, PullPointers};
use tokio::sync::watch;
use tokio::time::Instant;

use super::{Link, Replication, SyncError};
use crate::bucket::Tier;

impl Replication {
    /// Keeps the turn for a peer, or waits for it, for ever. `has_turn` says whether this server has it.
    ///
    /// Two servers may pull for a short time, which costs requests and nothing else.
    pub(super) async fn keep_turn(
        self: Arc<Self>,
        link: Arc<Link>,
        tier: Arc<Tier>,
        has_turn: watch::Sender<bool>,
    ) -> Infallible {
        let mut turn = tier.pull_turn(&link.peer.name);
        let mut renewed = Instant::now();
        loop {
            match self.renew(&link, &mut turn).await {
                Ok(is_mine) => {
                    renewed = Instant::now();
                    if has_turn.send_replace(is_mine) != is_mine {
                        log::info!(peer = link.peer.name, is_mine; "the turn to pull from a peer has changed");
                    }
                }
                Err(error) => {
                    log::debug!(peer = link.peer.name, reason:% = error; "cannot renew the turn to pull from a peer");
                    // Another server may have it by now.
                    if renewed.elapsed() >= PULL_TAKEOVER {
                        has_turn.send_replace(false);
                    }
                }
            }
            tokio::time::sleep(PULL_BEAT).await;
        }
    }

    async fn renew(&self, link: &Arc<Link>, turn: &mut stoa_bucket::PullTurn) -> Result<bool, SyncError> {
        let (name, is_mine) = (link.peer.name.clone(), turn.is_mine());
        // Only the holder writes them.
        let finished = self
            .off_runtime(move |store| {
                Ok(if is_mine { store.peers().finished(&name)? } else { PullPointers::new() })
            })
            .await?;
        match turn.renew(&finished).await? {
            PullHolder::Mine => Ok(true),
            PullHolder::Other => Ok(false),
            PullHolder::TakenOver(pointers) => {
                let name = link.peer.name.clone();
                self.off_runtime(move |store| Ok(store.peers().replace_pointers(&name, &pointers)?)).await?;
                Ok(true)
            }
        }
    }
}

/// Waits until this server has the turn.
pub(super) async fn wait_for_turn(has_turn: &mut Option<watch::Receiver<bool>>) {
    if let Some(has_turn) = has_turn
        && has_turn.wait_for(|has_turn| *has_turn).await.is_err()
    {
        // The task that keeps the turn has ended, so this one ends soon.
        std::future::pending::<Duration>().await;
    }
}
