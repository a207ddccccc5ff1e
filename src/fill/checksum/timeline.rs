//! The heads of a database's tree, each of which must be the beginning of every later one.
//!
//! A database signs a new head now and then. Two heads agree if the tree of the older one is the beginning of the
//! newer one's, which the tiles of the newer one prove. The largest that was seen is kept in the store, where a
//! restart and other processes find it. Two heads that do not agree are a fork: the database tells somebody else
//! another story. It is not believed any more while this process lives, and both heads are kept for a person to
//! look at.
//!
//! Nobody waits for anybody: heads are compared without a lock, and it is looked again whether the largest is
//! still the one that was compared with (as in `golang.org/x/mod/sumdb`, `Client.mergeLatest`).

use std::fmt::Write as _;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use stoa_gomod::sumdb::{Proof, TILE_HEIGHT, Tree, parse_tree};
use stoa_store::{HeadReplaced, Store, StoreError};

use super::lookup::{Ask, LookupError, Proved};
use super::{Database, off_the_runtime};
use crate::fill::FillError;

/// A head, and the note that it was signed by.
#[derive(Debug, Clone)]
pub(super) struct Head {
    pub(super) tree: Tree,
    note: Arc<[u8]>,
}

/// What is known of the heads.
#[derive(Debug, Default)]
pub(super) struct Timeline {
    largest: Option<Head>,
    /// What the store has, once it was looked.
    kept: Option<Option<Arc<[u8]>>>,
}

impl Database {
    /// Merges a signed head into what is known, and returns the largest.
    pub(super) async fn merge(
        &self,
        store: &Arc<Store>,
        ask: &impl Ask,
        note: &[u8],
    ) -> Result<Head, LookupError> {
        let head = self.open(note)?;
        self.recall(store, ask).await?;
        let (largest, is_new) = self.install(store, ask, head).await?;
        match is_new {
            true => self.keep(store, ask).await,
            false => Ok(largest),
        }
    }

    /// Verifies the signature of a head.
    fn open(&self, note: &[u8]) -> Result<Head, LookupError> {
        let text =
            self.sumdb.verifier.verify(note).map_err(|error| LookupError::bad("a tree head", error))?;
        let tree = parse_tree(text.as_bytes());
        let tree = tree.ok_or_else(|| LookupError::bad("a tree head", "what is signed is none"))?;
        Ok(Head { tree, note: note.into() })
    }

    /// Reads, once, what the store has.
    async fn recall(&self, store: &Arc<Store>, ask: &impl Ask) -> Result<(), LookupError> {
        if self.timeline().kept.is_some() {
            return Ok(());
        }
        let name = self.sumdb.name().to_owned();
        let kept = off_the_runtime(store, move |store| store.tree_heads().get(&name)).await?;
        if let Some(head) = kept.as_deref().and_then(|note| self.open_kept(note)) {
            self.install(store, ask, head).await?;
        }
        self.timeline().kept.get_or_insert_with(|| kept.map(Into::into));
        Ok(())
    }

    /// One that is damaged, or signed by a key that is not used any more, says nothing.
    fn open_kept(&self, note: &[u8]) -> Option<Head> {
        let head = self.open(note);
        if let Err(error) = &head {
            log::warn!(
                "the largest tree head of {} that the store has is of no use, and another takes its place: {error}",
                self.sumdb.name()
            );
        }
        head.ok()
    }

    /// Makes a head the largest, if it is, and says so. One that does not agree with the largest is an error.
    async fn install(
        &self,
        store: &Arc<Store>,
        ask: &impl Ask,
        head: Head,
    ) -> Result<(Head, bool), LookupError> {
        loop {
            let largest = self.timeline().largest.clone();
            let is_new = largest.as_ref().is_none_or(|largest| largest.tree.size < head.tree.size);
            match (&largest, is_new) {
                (Some(largest), true) => self.compare(store, ask, largest, &head).await?,
                (Some(largest), false) => self.compare(store, ask, &head, largest).await?,
                (None, _) => {}
            }
            let mut timeline = self.timeline();
            if timeline.largest.as_ref().map(|head| &head.tree) != largest.as_ref().map(|head| &head.tree) {
                continue;
            }
            if is_new {
                timeline.largest = Some(head.clone());
            }
            return Ok((if is_new { head } else { largest.unwrap_or(head) }, is_new));
        }
    }

    /// Puts the largest head into the store, unless that has a larger one by now, and returns the largest.
    async fn keep(&self, store: &Arc<Store>, ask: &impl Ask) -> Result<Head, LookupError> {
        loop {
            let (largest, seen) = {
                let timeline = self.timeline();
                let Some(largest) = timeline.largest.clone() else { return Err(LookupError::broken()) };
                (largest, timeline.kept.clone().flatten())
            };
            if seen.as_ref() == Some(&largest.note) {
                return Ok(largest);
            }
            let (name, note) = (self.sumdb.name().to_owned(), Arc::clone(&largest.note));
            let replaced = off_the_runtime(store, move |store| {
                store.tree_heads().replace(&name, seen.as_deref(), &note)
            });
            // One who does not let go of the head is no reason to refuse what need not be vouched for.
            let replaced = replaced.await.map_err(|error| match error {
                LookupError::Store(FillError::Store(store)) if matches!(*store, StoreError::Busy { .. }) => {
                    log::warn!("{store}");
                    let text = format!("the tree head of {} is held by another process", self.sumdb.name());
                    LookupError::Unreachable(FillError::Timeout(text.into()))
                }
                error => error,
            });
            let there = match replaced? {
                HeadReplaced::Yes => {
                    self.timeline().kept = Some(Some(Arc::clone(&largest.note)));
                    return Ok(largest);
                }
                HeadReplaced::Another(there) => there,
            };
            // By another process, or by another lookup of this one.
            let head = there.as_deref().and_then(|note| self.open_kept(note));
            self.timeline().kept = Some(there.map(Into::into));
            if let Some(head) = head {
                let size = head.tree.size;
                let (largest, _) = self.install(store, ask, head).await?;
                if size >= largest.tree.size {
                    return Ok(largest);
                }
            }
        }
    }

    /// Sees to it that the tree of one head is the beginning of that of another.
    async fn compare(
        &self,
        store: &Arc<Store>,
        ask: &impl Ask,
        older: &Head,
        newer: &Head,
    ) -> Result<(), LookupError> {
        if older.tree == newer.tree {
            return Ok(());
        }
        let proved = match older.tree.size == newer.tree.size {
            // Two signatures are proof enough.
            true => None,
            false => {
                let proof = Proof::of_beginning(&newer.tree, older.tree.size, TILE_HEIGHT);
                let proof = proof.ok_or_else(LookupError::broken)?;
                let proved = self.prove(ask, &proof).await?;
                if proved.hash == older.tree.hash {
                    return Ok(());
                }
                Some((proof, proved))
            }
        };
        Err(self.alarm(store, older, newer, proved).await)
    }

    /// Tells everybody that the database has forked, once, and stops believing it.
    async fn alarm(
        &self,
        store: &Arc<Store>,
        older: &Head,
        newer: &Head,
        proved: Option<(Proof, Proved)>,
    ) -> LookupError {
        if self.has_forked.swap(true, Ordering::Relaxed) {
            return LookupError::Forked;
        }
        let name = self.sumdb.name().to_owned();
        self.counts.forks.fetch_add(1, Ordering::Relaxed);
        let (one, other) = (String::from_utf8_lossy(&older.note), String::from_utf8_lossy(&newer.note));
        let text = format!("older:\n\n{one}\nnewer:\n\n{other}{}", proof_text(older, proved));
        let kept = off_the_runtime(store, {
            let name = name.clone();
            move |store| store.tree_heads().keep_fork(&name, &text)
        });
        let where_kept = match kept.await {
            Ok(path) => format!("both are kept in {}", path.display()),
            Err(error) => format!("neither could be kept: {error}"),
        };
        log::error!(
            "SECURITY: the checksum database {name} has signed two trees that do not agree. It is not believed any \
             more until this proxy is started again. Compare with others before you do that; {where_kept}\n\
             older:\n{one}\nnewer:\n{other}"
        );
        LookupError::Forked
    }

    fn timeline(&self) -> std::sync::MutexGuard<'_, Timeline> {
        // Nothing that can panic is done under this lock.
        self.timeline.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes what shows that two heads do not agree, so that nobody needs the database for it.
fn proof_text(older: &Head, proved: Option<(Proof, Proved)>) -> String {
    let Some((proof, proved)) = proved else { return String::new() };
    let hash = STANDARD.encode(proved.hash);
    let mut text = format!(
        "\nThe first {} records of the newer tree have the hash {hash}.\nThat comes of these of its tiles:\n\n",
        older.tree.size
    );
    for (tile, content) in proof.tiles().iter().zip(&proved.tiles) {
        // Writing to a String does not fail.
        let _ = writeln!(text, "{} {}", tile.path(), STANDARD.encode(content));
    }
    text
}
