//! Kills or fails a program at each of its calls that change the disk, with `strace --inject`.
//!
//! First a clean run is traced and its calls are counted. Then, for each call, the program runs in a fresh folder until that
//! call, where it is killed, or the call fails. The tree is checked, the program runs once more undisturbed, and the tree is
//! checked again.
//!
//! strace counts calls by name in one process, so the programs must work in one process and thread. Only calls with a path
//! below the folder count, not those of the loader or to the terminal.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Output};

use stoa_layout::lock::LOCK_NAME;
use stoa_layout::marker::{Marker, TEMPORARY_PREFIX};

use super::support::tree::{self, Tree};

/// The calls that change the disk or sync it.
const CALLS: &str = "open,openat,creat,write,pwrite64,writev,truncate,ftruncate,fallocate,rename,renameat,renameat2,\
                     mkdir,mkdirat,rmdir,unlink,unlinkat,link,linkat,symlink,symlinkat,chmod,fchmod,fchmodat,chown,fchown,\
                     lchown,fchownat,utimensat,setxattr,fsetxattr,fsync,fdatasync,syncfs,flock";

/// A fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// SIGKILL before the call.
    Kill,
    /// The call fails with this error.
    Error(&'static str),
}

/// A check returns the problem as a text.
pub(crate) type Judge<'a> = &'a dyn Fn(&Path) -> Result<(), String>;

/// A program, and the checks of the trees that it leaves.
pub(crate) struct Sweep<'a> {
    /// Creates the folder in its first state. The folder does not exist yet.
    pub(crate) before: &'a dyn Fn(&Path),
    /// Returns the program, to run on the folder.
    pub(crate) command: &'a dyn Fn(&Path) -> Command,
    /// A call that always fails, and the error: what the file system cannot do.
    pub(crate) always: Option<(&'a str, &'a str)>,
    /// Judges what a fault left.
    pub(crate) disturbed: Judge<'a>,
    /// Judges the end of a run that succeeded.
    pub(crate) end: Judge<'a>,
    /// The codes that the program may end with when it failed.
    pub(crate) codes: &'a [i32],
}

/// The result of a sweep.
#[derive(Debug, Default)]
pub(crate) struct Report {
    /// Points that the clean run has.
    pub(crate) found: usize,
    /// Points that were hit.
    pub(crate) hit: usize,
    /// Runs that succeeded in spite of the fault.
    pub(crate) succeeded: usize,
    /// Trees that the faults left, told apart.
    pub(crate) distinct: usize,
    /// The faults, one text each.
    pub(crate) findings: Vec<String>,
}

/// One call of the program: the n-th of that name.
#[derive(Debug, Clone)]
struct Point {
    name: String,
    when: usize,
    line: String,
}

/// Says why there can be no sweep here.
pub(crate) fn unavailable() -> Option<String> {
    match Command::new("strace").args(["-qq", "-e", "trace=none", "true"]).output() {
        Ok(output) if output.status.success() => None,
        Ok(output) => {
            Some(format!("strace cannot trace: {}", String::from_utf8_lossy(&output.stderr).trim()))
        }
        Err(error) => Some(format!("strace cannot be run: {error}")),
    }
}

impl Sweep<'_> {
    /// Puts the program through one kind of fault, at every point.
    pub(crate) fn run(&self, fault: Fault) -> Report {
        let points = self.points();
        let mut report = Report { found: points.len(), ..Report::default() };
        let mut trees = BTreeSet::new();
        for point in &points {
            if let Err(finding) = self.at(point, fault, &mut report, &mut trees) {
                report.findings.push(format!(
                    "{fault:?} at {} no. {}: {finding}\n  {}",
                    point.name, point.when, point.line
                ));
            }
        }
        report.distinct = trees.len();
        report
    }

    fn points(&self) -> Vec<Point> {
        let dir = testkit::tempdir();
        let home = dir.path().join("home");
        (self.before)(&home);
        let log = dir.path().join("log");
        let output = self.traced(&home, &log, CALLS, &[]);
        assert!(output.status.success(), "the clean run failed: {output:?}");
        (self.end)(&home).unwrap();
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        let mut points = Vec::new();
        for line in fs::read_to_string(log).unwrap().lines() {
            // With -f each line begins with the number of the process.
            let call = line.trim_start_matches(|c: char| c.is_ascii_digit()).trim_start();
            let Some((name, arguments)) = call.split_once('(') else { continue };
            if !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
                continue;
            }
            let when = counts.entry(name.to_owned()).or_default();
            *when += 1;
            let is_look =
                name.starts_with("open") && !arguments.contains("O_CREAT") && !arguments.contains("O_TRUNC");
            let is_given = self.always.is_some_and(|(call, _)| call == name);
            if !is_given && arguments.contains(home.to_str().unwrap()) && !is_look {
                points.push(Point { name: name.to_owned(), when: *when, line: call.to_owned() });
            }
        }
        points
    }

    fn at(
        &self,
        point: &Point,
        fault: Fault,
        report: &mut Report,
        trees: &mut BTreeSet<Tree>,
    ) -> Result<(), String> {
        let dir = testkit::tempdir();
        let home = dir.path().join("home");
        (self.before)(&home);
        let log = dir.path().join("log");
        let what = match fault {
            Fault::Kill => "signal=KILL".to_owned(),
            Fault::Error(error) => format!("error={error}"),
        };
        let inject = format!("inject={}:{what}:when={}", point.name, point.when);
        let output = self.traced(&home, &log, &point.name, &["-e", &inject]);
        let was_hit = match fault {
            Fault::Kill => output.status.signal() == Some(9),
            Fault::Error(_) => fs::read_to_string(&log)
                .unwrap()
                .lines()
                .any(|line| line.contains(&format!("{}(", point.name)) && line.ends_with("(INJECTED)")),
        };
        if !was_hit {
            return Err(format!("was not hit: {output:?}"));
        }
        report.hit += 1;
        trees.insert(shape(&home));
        (self.disturbed)(&home).map_err(|finding| format!("left behind: {finding}"))?;
        if let Fault::Error(_) = fault {
            self.judge_failure(&home, &output, report)?;
        }
        let again = (self.command)(&home).output().unwrap();
        if !again.status.success() {
            return Err(format!("run again: {again:?}"));
        }
        (self.end)(&home).map_err(|finding| format!("run again: {finding}"))
    }

    /// A program that succeeds in spite of a fault has done all; one that fails says so, and where.
    fn judge_failure(&self, home: &Path, output: &Output, report: &mut Report) -> Result<(), String> {
        if output.status.success() {
            report.succeeded += 1;
            return (self.end)(home).map_err(|finding| format!("succeeded, yet: {finding}"));
        }
        let said = String::from_utf8_lossy(&output.stderr);
        if !output.status.code().is_some_and(|code| self.codes.contains(&code)) {
            return Err(format!("ended with {}: {said}", output.status));
        }
        let names_a_path = said.lines().last().is_some_and(|line| line.contains(home.to_str().unwrap()));
        if names_a_path { Ok(()) } else { Err(format!("the message names no path: {said}")) }
    }

    fn traced(&self, home: &Path, log: &Path, calls: &str, more: &[&str]) -> Output {
        let command = (self.command)(home);
        let given = self.always.map(|(call, error)| format!("inject={call}:error={error}"));
        let given_call = self.always.map_or("", |(call, _)| call);
        let mut strace = Command::new("strace");
        strace
            .args(["-f", "-qq", "-y", "-s", "4096", "-o"])
            .arg(log)
            .args(["-e", &format!("trace={calls},{given_call}")]);
        strace
            .args(given.iter().flat_map(|inject| ["-e", inject]))
            .args(more)
            .arg(command.get_program())
            .args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => strace.env(name, value),
                None => strace.env_remove(name),
            };
        }
        strace.output().unwrap()
    }
}

/// Pictures a tree to be told apart from others: what was named at random has one name.
fn shape(root: &Path) -> Tree {
    let mut shape = Tree::new();
    for (path, mut entry) in tree::everything(root) {
        entry.mtime = None;
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let is_ours = name == LOCK_NAME || Marker::parse(name).is_some();
        let random = [TEMPORARY_PREFIX, ".shim."].into_iter().find(|prefix| name.starts_with(prefix));
        if is_ours || random.is_some() {
            // Times and process numbers are in there: whether there is anything is what tells them apart.
            entry.content = entry.content.map(|content| content.into_iter().take(1).collect());
        }
        shape.insert(random.map_or(path.clone(), |prefix| path.with_file_name(prefix)), entry);
    }
    shape
}
