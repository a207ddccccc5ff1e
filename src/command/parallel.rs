//! Work on many items with threads: one walks, the others work, nothing piles up in between.
//!
//! The steps of a migration have a loop of their own: they know nothing of this crate, and work in batches.

use std::ops::ControlFlow;
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Mutex, PoisonError};

/// How many items may wait for a thread.
const AHEAD: usize = 256;

/// Hands what a walk finds to threads. The walk stops once a thread has failed; the first error
/// is handed back.
pub(crate) fn each<T: Send, E: Send>(
    threads: usize,
    walk: impl FnOnce(&mut dyn FnMut(T) -> ControlFlow<()>) -> Result<(), E>,
    work: &(dyn Fn(T) -> Result<(), E> + Sync),
) -> Result<(), E> {
    let (sender, receiver) = sync_channel::<T>(AHEAD);
    let receiver = Mutex::new(Some(receiver));
    let failed = Mutex::new(None);
    std::thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            scope.spawn(|| {
                while let Some(item) = next(&receiver) {
                    if let Err(error) = work(item) {
                        put(&failed, error);
                        // Whoever sends sees that nobody listens any more.
                        if let Ok(mut receiver) = receiver.lock() {
                            *receiver = None;
                        }
                    }
                }
            });
        }
        let walked = walk(&mut |item| match sender.send(item) {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()),
        });
        drop(sender);
        if let Err(error) = walked {
            put(&failed, error);
        }
    });
    failed.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
}

fn next<T>(items: &Mutex<Option<Receiver<T>>>) -> Option<T> {
    items.lock().ok()?.as_ref()?.recv().ok()
}

/// Keeps the first error.
fn put<E>(failed: &Mutex<Option<E>>, error: E) {
    if let Ok(mut failed) = failed.lock() {
        failed.get_or_insert(error);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    fn walk(count: u64) -> impl FnOnce(&mut dyn FnMut(u64) -> ControlFlow<()>) -> Result<(), &'static str> {
        move |each| {
            for n in 1..=count {
                if each(n).is_break() {
                    break;
                }
            }
            Ok(())
        }
    }

    #[test]
    fn every_item_is_worked_on_once() {
        for threads in [0, 1, 4] {
            let sum = AtomicU64::new(0);
            let done = each(threads, walk(10_000), &|n| {
                sum.fetch_add(n, Ordering::Relaxed);
                Ok(())
            });
            assert_eq!((done, sum.into_inner()), (Ok(()), 50_005_000));
        }
    }

    #[test]
    fn the_first_error_ends_it() {
        let worked = AtomicU64::new(0);
        let done = each(2, walk(1_000_000), &|n| {
            worked.fetch_add(1, Ordering::Relaxed);
            if n == 10 { Err("ten") } else { Ok(()) }
        });
        assert_eq!(done, Err("ten"));
        assert!(worked.into_inner() < 1_000_000);
        assert_eq!(each(2, |_| Err("walk"), &|_: u64| Ok(())), Err("walk"));
    }
}
