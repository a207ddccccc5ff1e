//! Work on many items with several threads: this thread walks, all threads work, nothing piles up in between.
//!
//! A process that cannot start threads works with fewer, down to this one.

use std::io;
use std::ops::ControlFlow;
use std::sync::mpsc::{Receiver, TrySendError, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::thread::{Builder, Scope, ScopedJoinHandle};

/// The number of small items that may wait for a thread.
pub const AHEAD: usize = 256;

/// The help of an error about threads or processes that the system does not have.
pub const RAISE: &str = "raise the limit of processes (ulimit -u, LimitNPROC, TasksMax, pids.max)";

/// Passes the items of a walk to `threads` threads, this thread included. It works on an item itself if `ahead` items wait
/// for the others. The walk ends after the first error, which is returned.
pub fn each<T: Send, E: Send>(
    (threads, ahead): (usize, usize),
    walk: impl FnOnce(&mut dyn FnMut(T) -> ControlFlow<()>) -> Result<(), E>,
    work: &(dyn Fn(T) -> Result<(), E> + Sync),
) -> Result<(), E> {
    let (sender, receiver) = sync_channel::<T>(ahead);
    let receiver = Mutex::new(receiver);
    let failed = Mutex::new(None);
    let has_failed = || failed.lock().is_ok_and(|failed| failed.is_some());
    // After a failure the remaining items are dropped.
    let work = |item| {
        if !has_failed()
            && let Err(error) = work(item)
        {
            put(&failed, error);
        }
    };
    std::thread::scope(|scope| {
        let mut others = 0;
        while others + 1 < threads {
            let run = || {
                while let Some(item) = next(&receiver) {
                    work(item);
                }
            };
            if start(scope, run).is_none() {
                break;
            }
            others += 1;
        }
        let walked = walk(&mut |item| {
            let back = if others > 0 { sender.try_send(item).err() } else { Some(TrySendError::Full(item)) };
            if let Some(TrySendError::Full(item) | TrySendError::Disconnected(item)) = back {
                work(item);
            }
            if has_failed() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        drop(sender);
        if let Err(error) = walked {
            put(&failed, error);
        }
    });
    failed.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
}

/// Starts a thread of a scope. `None` if the system has none to give, which is logged.
pub fn start<'scope, T: Send + 'scope>(
    scope: &'scope Scope<'scope, '_>,
    work: impl FnOnce() -> T + Send + 'scope,
) -> Option<ScopedJoinHandle<'scope, T>> {
    Builder::new().spawn_scoped(scope, work).inspect_err(warn).ok()
}

/// Logs that a thread could not be started, once per process.
pub fn warn(error: &io::Error) {
    static WARNED: std::sync::Once = std::sync::Once::new();
    WARNED.call_once(|| {
        log::warn!(
            reason:% = error, help = RAISE;
            "cannot start a thread, continuing with fewer"
        );
    });
}

fn next<T>(items: &Mutex<Receiver<T>>) -> Option<T> {
    items.lock().ok()?.recv().ok()
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
        for (threads, ahead) in [(0, 8), (1, 8), (4, 8), (4, 0), (4, 1000)] {
            let sum = AtomicU64::new(0);
            let done = each((threads, ahead), walk(10_000), &|n| {
                sum.fetch_add(n, Ordering::Relaxed);
                Ok(())
            });
            assert_eq!((done, sum.into_inner()), (Ok(()), 50_005_000));
        }
    }

    #[test]
    fn the_first_error_ends_it() {
        for threads in [1, 3] {
            let worked = AtomicU64::new(0);
            let done = each((threads, 8), walk(1_000_000), &|n| {
                worked.fetch_add(1, Ordering::Relaxed);
                if n == 10 { Err("ten") } else { Ok(()) }
            });
            assert_eq!(done, Err("ten"));
            assert!(worked.into_inner() < 1_000_000);
            assert_eq!(each((threads, 8), |_| Err("walk"), &|_: u64| Ok(())), Err("walk"));
        }
    }
}
