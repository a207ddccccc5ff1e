//! Shared parts of the benches: the command line, the timing of a program, and the report of many times.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::allow_attributes,
    clippy::expect_used,
    reason = "each bench uses a part, and one that cannot run says why and ends"
)]

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// The command line.
pub struct Asked(Vec<String>);

impl Asked {
    pub fn of_process() -> Self {
        Self(std::env::args().collect())
    }

    /// Whether a word is there, as `--brief`: fewer rounds, and smaller ones.
    pub fn has(&self, name: &str) -> bool {
        self.0.iter().any(|argument| argument == name)
    }

    /// Returns the number behind a name, if there is one.
    pub fn number(&self, name: &str, default: usize) -> usize {
        let at = self.0.iter().position(|argument| argument == name);
        at.and_then(|at| self.0.get(at + 1)?.parse().ok()).unwrap_or(default)
    }
}

/// Takes two measurements, in the other order every other round: whoever goes second may find the disk busier.
pub fn alternating<A, B>(round: usize, one: impl FnOnce() -> A, other: impl FnOnce() -> B) -> (A, B) {
    if round.is_multiple_of(2) {
        let one = one();
        (one, other())
    } else {
        let other = other();
        (one(), other)
    }
}

/// Returns the run time of a program, which must succeed.
pub fn timed(command: &mut Command) -> Duration {
    let begin = Instant::now();
    let status = command.stdout(Stdio::null()).status().expect("it runs");
    let time = begin.elapsed();
    assert!(status.success(), "{command:?}: {status}");
    time
}

/// Waits for a program. Returns its maximum resident memory in KiB, as the kernel counts it.
pub fn peak_memory(mut child: Child) -> u64 {
    let mut peak = 0;
    while child.try_wait().expect("a child").is_none() {
        peak = high_water(&child).unwrap_or(peak).max(peak);
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(child.wait().expect("a child").success());
    peak
}

fn high_water(child: &Child) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.split_whitespace().next()?.parse().ok()
}

/// Returns the median.
pub fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    (times[(times.len() - 1) / 2] + times[times.len() / 2]) / 2
}

pub fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}
