//! The runtime of a server and of commands that download, with as many threads as the system has to give.
//!
//! tokio panics if it cannot start a worker, or if it cannot start a thread for blocking work and has none. So the threads
//! are counted first, and one thread for blocking work is started at once and kept. Later the server needs no further
//! thread. Blocking work waits for that thread if there is no other.

use std::io;
use std::sync::{Mutex, PoisonError};
use std::thread::{self, available_parallelism};
use std::time::Duration;

use stoa_layout::parallel::RAISE;
use tokio::runtime::{Builder, Runtime};

/// The time after which tokio ends a thread for blocking work that has nothing to do.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// The time between two pieces of blocking work that keep a thread alive.
const KEEP_EVERY: Duration = Duration::from_secs(3);

/// Number of threads that are reserved besides the workers: for blocking work.
const RESERVED: usize = 1;

/// Starts a runtime with a worker for each CPU, or fewer if the system has fewer threads. An error means that it has none.
pub(crate) fn runtime() -> io::Result<Runtime> {
    let wanted = available_parallelism().map_or(1, usize::from);
    let available = count_available(wanted + RESERVED)?;
    let workers = available.saturating_sub(RESERVED).min(wanted);
    if available < wanted + RESERVED {
        log::warn!(
            threads = available, wanted = wanted + RESERVED, help = RAISE;
            "cannot start all threads, continuing with fewer"
        );
    }
    let mut builder = match workers {
        // This thread is the worker.
        0 => Builder::new_current_thread(),
        workers => {
            let mut builder = Builder::new_multi_thread();
            builder.worker_threads(workers);
            builder
        }
    };
    let runtime = builder.enable_all().thread_keep_alive(KEEP_ALIVE).build()?;
    runtime.spawn_blocking(|| ());
    runtime.spawn(async {
        loop {
            tokio::time::sleep(KEEP_EVERY).await;
            // An error means that the runtime ends.
            let _ = tokio::task::spawn_blocking(|| ()).await;
        }
    });
    Ok(runtime)
}

/// Returns how many threads can be started, up to a limit. An error means none.
fn count_available(limit: usize) -> io::Result<usize> {
    let before = running();
    let gate = Mutex::new(());
    let started = thread::scope(|scope| {
        let closed = gate.lock().unwrap_or_else(PoisonError::into_inner);
        let start = || thread::Builder::new().spawn_scoped(scope, || drop(gate.lock()));
        start()?;
        let started = 1 + (1..limit).take_while(|_| start().is_ok()).count();
        drop(closed);
        Ok::<_, io::Error>(started)
    })?;
    // A thread that has ended counts until the kernel has released it.
    for _ in 0..100 {
        if running() <= before {
            break;
        }
        thread::sleep(Duration::from_millis(1));
    }
    Ok(started)
}

/// Returns the number of threads of this process; 0 if it is not known.
fn running() -> usize {
    std::fs::read_dir("/proc/self/task").map_or(0, Iterator::count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_runtime_works_off_the_runtime() {
        assert_eq!(count_available(3).unwrap(), 3);
        let runtime = runtime().unwrap();
        let sum = runtime.block_on(async { tokio::task::spawn_blocking(|| 40 + 2).await });
        assert_eq!(sum.unwrap(), 42);
    }
}
