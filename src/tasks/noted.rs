//! The way in which a request got its answer, noted by the part that knows it.
//!
//! A note belongs to the task of the request. Work in other tasks, such as a refresh in the background, notes nothing.

use std::cell::Cell;

tokio::task_local! {
    static NOTED: Cell<Option<How>>;
}

/// The way to an answer that does not come from the store or a fresh cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum How {
    /// This request asked an upstream or the bucket.
    Asked,
    /// This request waited for one that another request had started.
    Joined,
    /// The answer is not fresh.
    Stale,
}

impl How {
    /// Returns the way of a request that started a task or joined it.
    pub(crate) fn of_task(is_joined: bool) -> Self {
        if is_joined { Self::Joined } else { Self::Asked }
    }
}

/// Notes the way of the current request. The last note counts.
pub(crate) fn note(how: How) {
    // Commands answer no request.
    let _ = NOTED.try_with(|noted| noted.set(Some(how)));
}

/// Does the work of a request, and returns what was noted meanwhile.
pub(crate) async fn noted<F: Future>(work: F) -> (F::Output, Option<How>) {
    let work = async {
        let output = work.await;
        (output, NOTED.with(Cell::get))
    };
    NOTED.scope(Cell::new(None), work).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_last_note_of_the_request_counts() {
        note(How::Stale);
        assert_eq!(noted(async { 1 }).await, (1, None));
        let work = async {
            note(How::Asked);
            tokio::spawn(async { note(How::Stale) }).await.unwrap();
            note(How::of_task(true));
        };
        assert_eq!(noted(work).await, ((), Some(How::Joined)));
    }
}
