//! Test cases that say at run time whether they can run here, and the binaries that run them.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use libtest_mimic::{Arguments, Completion, Failed, Trial};

use crate::built::{self, Built};

/// A test case of a binary without the standard harness.
pub struct Case {
    name: String,
    missing: Box<dyn FnOnce() -> Option<String> + Send>,
    inapplicable: Option<String>,
    is_slow: bool,
    run: Box<dyn FnOnce() + Send>,
}

impl Case {
    /// Returns the name, without the name of its module.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Moves the case to the slow tier: it runs with `--include-ignored` or `--ignored` only.
    pub fn slow(mut self) -> Self {
        self.is_slow = true;
        self
    }

    /// Sets what finds out whether something is missing. It runs only if the case does.
    pub fn needs(mut self, missing: fn() -> Option<String>) -> Self {
        self.missing = Box::new(missing);
        self
    }

    /// Reports the case as ignored if there is a reason why it makes no sense here, in CI too.
    pub fn unless(mut self, reason: Option<String>) -> Self {
        self.inapplicable = reason;
        self
    }

    fn trial(self, module: &str) -> Trial {
        let is_slow = self.is_slow;
        let name = format!("{module}::{}", self.name);
        let timed = name.clone();
        let run = move || {
            if let Some(reason) = self.inapplicable {
                return Ok(Completion::ignored_with(reason));
            }
            match (self.missing)() {
                Some(reason) if in_ci() => {
                    Err(Failed::from(format!("in CI nothing may be missing: {reason}")))
                }
                Some(reason) => Ok(Completion::ignored_with(reason)),
                None => {
                    let began = Instant::now();
                    (self.run)();
                    TIMES.lock().unwrap().push((began.elapsed(), timed));
                    Ok(Completion::Completed)
                }
            }
        };
        Trial::ignorable_test(name, run).with_ignored_flag(is_slow)
    }
}

/// The cases that have passed, with their times.
static TIMES: Mutex<Vec<(Duration, String)>> = Mutex::new(Vec::new());

/// Prints which cases took long, the longest first.
fn print_slowest() {
    let mut times = std::mem::take(&mut *TIMES.lock().unwrap());
    times.retain(|(time, _)| *time > Duration::from_secs(5));
    times.sort_by(|a, b| b.cmp(a));
    println!("tests that took more than 5 s:");
    for (time, name) in times {
        println!("{:>8.1} s  {name}", time.as_secs_f64());
    }
    println!();
}

fn in_ci() -> bool {
    std::env::var_os("CI").is_some_and(|value| value == "true")
}

/// Makes a case. If `missing` names a reason why it cannot run, the case is reported as ignored with that reason,
/// and fails in CI.
pub fn trial(name: &str, missing: Option<String>, run: impl FnOnce() + Send + 'static) -> Case {
    Case {
        name: name.to_owned(),
        missing: Box::new(|| missing),
        inapplicable: None,
        is_slow: false,
        run: Box::new(run),
    }
}

/// Makes a list of cases from functions. Each case has the name of its function.
#[macro_export]
macro_rules! cases {
    [$($test:ident),* $(,)?] => { vec![$($crate::trial(stringify!($test), None, $test)),*] };
}

/// Returns why a tool cannot be used, or `None` if it works.
pub fn missing_tool(name: &str, probe: &[&str]) -> Option<String> {
    match Command::new(name).args(probe).output() {
        Ok(output) if output.status.success() => None,
        Ok(output) => {
            Some(format!("{name} does not work: {}", String::from_utf8_lossy(&output.stderr).trim()))
        }
        Err(_) => Some(format!("{name} is not installed")),
    }
}

/// Runs the cases of a binary and exits. Each module of the binary contributes its name and its cases.
pub fn run(built: Built, modules: Vec<(&str, Vec<Case>)>) -> ! {
    built::set(built);
    let mut arguments = Arguments::from_args();
    if arguments.test_threads.is_none() {
        // Most of these tests wait for programs and timeouts.
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        arguments.test_threads = Some(3 * cores);
    }
    let trials = modules
        .into_iter()
        .flat_map(|(module, cases)| cases.into_iter().map(move |case| case.trial(module)))
        .collect::<Vec<_>>();
    let log = (!arguments.nocapture && !arguments.list).then(redirect_stderr);
    let slow = trials.iter().filter(|trial| arguments.is_ignored(trial)).count();
    let conclusion = libtest_mimic::run(&arguments, trials);
    if arguments.ignored && !arguments.list {
        print_slowest();
    }
    if slow > 0 && !arguments.list {
        println!("{slow} slow tests were ignored; run them with `-- --include-ignored`\n");
    }
    if let (true, Some(log)) = (conclusion.has_failed(), log) {
        println!("the log lines of the programs are in {}; `-- --nocapture` shows them\n", log.display());
    }
    conclusion.exit()
}

/// Sends the log lines of all programs that tests start to a file, so that they do not stand between the results.
/// Panics of tests are still printed.
fn redirect_stderr() -> PathBuf {
    let name = std::env::current_exe().unwrap().file_name().unwrap().to_str().unwrap().to_owned();
    let path = built::scratch().join(format!("{name}.log"));
    let terminal = Mutex::new(File::from(rustix::io::dup(rustix::stdio::stderr()).unwrap()));
    rustix::stdio::dup2_stderr(File::create(&path).unwrap()).unwrap();
    std::panic::set_hook(Box::new(move |panic| {
        let backtrace = Backtrace::capture();
        let mut text = format!("{panic}\n");
        if backtrace.status() == BacktraceStatus::Captured {
            text += &format!("{backtrace}\n");
        }
        let _ = terminal.lock().unwrap().write_all(text.as_bytes());
    }));
    path
}

/// Marks all cases as slow.
pub fn slow(cases: Vec<Case>) -> Vec<Case> {
    cases.into_iter().map(Case::slow).collect()
}
