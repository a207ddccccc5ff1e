//! The tree heads of a database, each of which must extend all older ones.
//!
//! A database signs a new head from time to time. Two heads agree if the older tree is a prefix of the
//! newer one, which the newer tree's tiles prove. The largest head is kept in the store, for restarts and
//! other processes. Two heads that contradict each other are a fork: the database shows different trees to
//! different clients. It is not trusted any more while this process runs, and both heads are saved for an
//! administrator.
//!
//! Heads are compared without a lock. Afterwards the code checks that the largest head is still the one
//! that was compared (as in `golang.org/x/mod/sumdb`, `Client.mergeLatest`).

use std::fmt::Write as _;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use stoa_gomod::sumdb::{Proof, TILE_HEIGHT, parse_tree};
use stoa_store::{HeadReplaced, Store, StoreError};

use super::lookup::{LookupError, Proved, SumdbClient};
use super::state::{Database, Head, Timeline};
use crate::tasks::blocking;
use crate::unavailable::Unavailable;

/// The name of the work on the blocking pool, for errors.
const LOOKUP: &str = "a lookup in the checksum database";

impl Database {
    /// Merges a signed head into the known heads, and returns the largest head.
    pub(super) async fn merge(
        &self,
        store: &Arc<Store>,
        client: &impl SumdbClient,
        note: &[u8],
    ) -> Result<Head, LookupError> {
        let head = self.open(note)?;
        self.recall(store, client).await?;
        let (largest, is_new) = self.install(store, client, head).await?;
        match is_new {
            true => self.keep(store, client).await,
            false => Ok(largest),
        }
    }

    /// Verifies the signature of a head.
    pub(super) fn open(&self, note: &[u8]) -> Result<Head, LookupError> {
        let text = self.sumdb.verifier.verify(note).map_err(|error| LookupError::bad("tree head", error))?;
        let tree = parse_tree(text.as_bytes());
        let tree = tree.ok_or_else(|| LookupError::bad("tree head", "its text is not a tree head"))?;
        Ok(Head { tree, note: note.into() })
    }

    /// Returns the largest known head, if there is one.
    pub(super) async fn largest(
        &self,
        store: &Arc<Store>,
        client: &impl SumdbClient,
    ) -> Result<Option<Head>, LookupError> {
        self.recall(store, client).await?;
        Ok(self.timeline().largest.clone())
    }

    /// Reads the head in the store, once.
    async fn recall(&self, store: &Arc<Store>, client: &impl SumdbClient) -> Result<(), LookupError> {
        if self.timeline().kept.is_some() {
            return Ok(());
        }
        let name = self.sumdb.name().to_owned();
        let kept = blocking(store, LOOKUP, move |store| store.tree_heads().get(&name)).await?;
        if let Some(head) = kept.as_deref().and_then(|note| self.open_kept(note)) {
            self.install(store, client, head).await?;
        }
        self.timeline().kept.get_or_insert_with(|| kept.map(Into::into));
        Ok(())
    }

    /// Verifies a head from the store. A head that is damaged or was signed with an old key is ignored.
    fn open_kept(&self, note: &[u8]) -> Option<Head> {
        let head = self.open(note);
        if let Err(error) = &head {
            log::warn!(database = self.sumdb.name(), reason:% = error; "replacing an invalid tree head in the store");
        }
        head.ok()
    }

    /// Makes a head the largest, if it is larger. Returns the largest head, and whether it is the new one.
    async fn install(
        &self,
        store: &Arc<Store>,
        client: &impl SumdbClient,
        head: Head,
    ) -> Result<(Head, bool), LookupError> {
        loop {
            let largest = self.timeline().largest.clone();
            let is_new = largest.as_ref().is_none_or(|largest| largest.tree.size < head.tree.size);
            match (&largest, is_new) {
                (Some(largest), true) => self.compare(store, client, largest, &head).await?,
                (Some(largest), false) => self.compare(store, client, &head, largest).await?,
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

    /// Writes the largest head into the store, unless the store has a larger one by now. Returns the largest head.
    async fn keep(&self, store: &Arc<Store>, client: &impl SumdbClient) -> Result<Head, LookupError> {
        loop {
            let (largest, seen) = {
                let timeline = self.timeline();
                let Some(largest) = timeline.largest.clone() else { return Err(LookupError::defect()) };
                (largest, timeline.kept.clone().flatten())
            };
            if seen.as_ref() == Some(&largest.note) {
                return Ok(largest);
            }
            let (name, note) = (self.sumdb.name().to_owned(), Arc::clone(&largest.note));
            let replaced = blocking(store, LOOKUP, move |store| {
                store.tree_heads().replace(&name, seen.as_deref(), &note)
            });
            // A process that keeps the head locked must not cause refusals with the policy `auto`.
            let replaced = replaced.await.map_err(|error| match error {
                Unavailable::Store(store) if matches!(*store, StoreError::Busy { .. }) => {
                    log::warn!(database = self.sumdb.name(), reason:% = store; "cannot lock a tree head");
                    let text = format!("another process holds the tree head of {}", self.sumdb.name());
                    LookupError::Unreachable(Unavailable::Timeout(text.into()))
                }
                error => error.into(),
            });
            let there = match replaced? {
                HeadReplaced::Yes => {
                    self.timeline().kept = Some(Some(Arc::clone(&largest.note)));
                    return Ok(largest);
                }
                HeadReplaced::Another(there) => there,
            };
            // Another process or another lookup has replaced it.
            let head = there.as_deref().and_then(|note| self.open_kept(note));
            self.timeline().kept = Some(there.map(Into::into));
            if let Some(head) = head {
                let size = head.tree.size;
                let (largest, _) = self.install(store, client, head).await?;
                if size >= largest.tree.size {
                    return Ok(largest);
                }
            }
        }
    }

    /// Verifies that the tree of the older head is a prefix of the newer head's tree.
    async fn compare(
        &self,
        store: &Arc<Store>,
        client: &impl SumdbClient,
        older: &Head,
        newer: &Head,
    ) -> Result<(), LookupError> {
        if older.tree == newer.tree {
            return Ok(());
        }
        let proved = match older.tree.size == newer.tree.size {
            // Two signed trees of one size need no further proof.
            true => None,
            false => {
                let proof = Proof::of_prefix(&newer.tree, older.tree.size, TILE_HEIGHT);
                let proof = proof.ok_or_else(LookupError::defect)?;
                let proved =
                    self.prove(client, &proof).await.map_err(|error| unproved(older, newer, error))?;
                if proved.hash == older.tree.hash {
                    return Ok(());
                }
                Some((proof, proved))
            }
        };
        Err(self.alarm(store, older, newer, proved).await)
    }

    /// Logs once that the database has forked, and stops trusting it.
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
        let saved = blocking(store, LOOKUP, {
            let name = name.clone();
            move |store| store.tree_heads().keep_fork(&name, &text)
        });
        let saved = match saved.await {
            Ok(path) => path.display().to_string(),
            Err(error) => format!("not saved: {error}"),
        };
        log::error!(
            database = name, saved, older:% = one, newer:% = other;
            "SECURITY: a checksum database has signed two contradicting trees; it is not trusted until a restart"
        );
        LookupError::Forked
    }

    fn timeline(&self) -> std::sync::MutexGuard<'_, Timeline> {
        // No code that can panic runs under this lock.
        self.timeline.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Adds to an error that it prevents the comparison of two heads.
fn unproved(older: &Head, newer: &Head, error: LookupError) -> LookupError {
    let LookupError::Unreachable(Unavailable::Upstream(reason)) = error else { return error };
    let (older, newer) = (older.tree.size, newer.tree.size);
    let text = format!(
        "there is no proof that the tree head of {newer} records extends the known tree head of {older} records: {reason}"
    );
    LookupError::Unreachable(Unavailable::Upstream(text.into()))
}

/// Returns the text that proves the contradiction without the database.
fn proof_text(older: &Head, proved: Option<(Proof, Proved)>) -> String {
    let Some((proof, proved)) = proved else { return String::new() };
    let hash = STANDARD.encode(proved.hash);
    let mut text = format!(
        "\nThe first {} records of the newer tree have the hash {hash}.\nThese tiles of the newer tree prove that hash:\n\n",
        older.tree.size
    );
    for (tile, content) in proof.tiles().iter().zip(&proved.tiles) {
        // Writing to a String does not fail.
        let _ = writeln!(text, "{} {}", tile.path(), STANDARD.encode(content));
    }
    text
}
