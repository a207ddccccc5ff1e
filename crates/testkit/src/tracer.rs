//! Runs a real program under ptrace and kills it, or fails one of its system calls, at the Nth call that
//! would change something below a folder. One counter is shared by all its threads and child processes.
//!
//! Threads interleave freely, so N names a moment rather than a fixed call; the call that was really hit is
//! reported.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Component, Path, PathBuf};
use std::process::{Child, Command};

use nix::errno::Errno;
use nix::sys::ptrace;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

/// An action at a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// Only count.
    Count,
    /// Only count, and list what makes changes last, too.
    Record,
    /// Send a signal to the program before the Nth call runs.
    Signal(usize, Signal),
    /// Kill the program and its children before the Nth call runs.
    Kill(usize),
    /// Fail the Nth call, and with `sticky` every later one that needs room too. `EMFILE` counts only calls that open.
    Fail { at: usize, errno: Errno, sticky: bool },
    /// Fail the Nth call that lists, opens, reads or looks at something and changes nothing, and some of the later such
    /// calls. `EMFILE` counts only calls that open.
    FailRead { at: usize, errno: Errno, later: Later },
}

/// The later calls that fail too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Later {
    None,
    /// All calls at the same path.
    SamePath,
    All,
}

impl Act {
    fn errno(self) -> Option<Errno> {
        match self {
            Self::Fail { errno, .. } | Self::FailRead { errno, .. } => Some(errno),
            _ => None,
        }
    }
}

/// The result of a run.
#[derive(Debug)]
pub struct Traced {
    /// The calls that counted, in order.
    pub calls: Vec<String>,
    /// The call that was hit.
    pub hit: Option<String>,
    /// How the program ended: its exit code, or minus the signal's number.
    pub code: i32,
}

/// Whether this machine can trace: Linux on x86-64 with ptrace allowed.
pub fn missing() -> Option<String> {
    if cfg!(not(all(target_os = "linux", target_arch = "x86_64"))) {
        return Some("system calls are traced on Linux on x86-64 only".to_owned());
    }
    let scope = fs::read_to_string("/proc/sys/kernel/yama/ptrace_scope").unwrap_or_default();
    (scope.trim() == "3").then(|| "ptrace is switched off on this machine".to_owned())
}

/// Starts the command and traces it to its end; `drive` runs beside it with its child handle's pipes taken.
pub fn run<T: Send>(
    command: &mut Command,
    below: &Path,
    act: Act,
    drive: impl FnOnce(&mut Child) -> T + Send,
) -> (Traced, T) {
    // A shell that stops itself gives the tracer the time to attach before the program begins.
    let mut stopped = Command::new("sh");
    stopped
        .args(["-c", "kill -STOP $$; exec \"$@\"", "sh"])
        .arg(command.get_program())
        .args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => stopped.env(name, value),
            None => stopped.env_remove(name),
        };
    }
    stopped.stdin(std::process::Stdio::null()).stdout(std::process::Stdio::piped());
    stopped.stderr(std::process::Stdio::piped()).process_group(0);
    // What is waited for by thread must be started by it: the whole trace happens on this one.
    let mut child = stopped.spawn().expect("a shell starts");
    let root = Pid::from_raw(child.id() as i32);
    let mut tracer = Tracer::new(
        root,
        fs::canonicalize(below.parent().unwrap()).unwrap().join(below.file_name().unwrap()),
        act,
    );
    tracer.has_lower_layer = command.get_envs().any(|(name, _)| name == LOWER_LAYER);
    tracer.attach();
    std::thread::scope(|scope| {
        let driver = scope.spawn(|| drive(&mut child));
        let code = tracer.follow();
        let Tracer { calls, hit, .. } = tracer;
        (Traced { calls, hit, code }, driver.join().expect("the driver does not panic"))
    })
}

/// A variable in the environment of a command. Folders below `modules/` and `quarantine/` then cannot be renamed (`EXDEV`),
/// as if they were in the lower layer of an overlay.
pub const LOWER_LAYER: &str = "STOA_TEST_LOWER_LAYER";

struct Tracer {
    root: Pid,
    below: PathBuf,
    act: Act,
    has_lower_layer: bool,
    calls: Vec<String>,
    hit: Option<String>,
    hit_path: Option<PathBuf>,
    threads: HashSet<Pid>,
    failing: HashMap<Pid, Errno>,
    armed: bool,
    killing: bool,
}

const WALL: WaitPidFlag = WaitPidFlag::__WALL.union(WaitPidFlag::__WNOTHREAD);

impl Tracer {
    fn new(root: Pid, below: PathBuf, act: Act) -> Self {
        let threads = HashSet::from([root]);
        let (calls, hit, failing) = (Vec::new(), None, HashMap::new());
        let has_lower_layer = false;
        Self {
            root,
            below,
            act,
            has_lower_layer,
            calls,
            hit,
            hit_path: None,
            threads,
            failing,
            armed: false,
            killing: false,
        }
    }

    fn attach(&mut self) {
        let stopped = waitpid(self.root, Some(WALL | WaitPidFlag::WUNTRACED)).expect("the shell stops");
        assert!(matches!(stopped, WaitStatus::Stopped(_, Signal::SIGSTOP)), "{stopped:?}");
        let options = ptrace::Options::PTRACE_O_TRACESYSGOOD
            | ptrace::Options::PTRACE_O_TRACECLONE
            | ptrace::Options::PTRACE_O_TRACEFORK
            | ptrace::Options::PTRACE_O_TRACEVFORK
            | ptrace::Options::PTRACE_O_TRACEEXEC
            | ptrace::Options::PTRACE_O_EXITKILL;
        ptrace::seize(self.root, options).expect("ptrace is allowed");
        kill(self.root, Signal::SIGCONT).expect("the shell goes on");
    }

    fn follow(&mut self) -> i32 {
        let mut code = i32::MIN;
        loop {
            let status = match waitpid(Pid::from_raw(-1), Some(WALL)) {
                Ok(status) => status,
                Err(Errno::EINTR) => continue,
                Err(_) => return code,
            };
            match status {
                WaitStatus::Exited(pid, status) => {
                    self.threads.remove(&pid);
                    if pid == self.root {
                        code = status;
                    }
                }
                WaitStatus::Signaled(pid, signal, _) => {
                    self.threads.remove(&pid);
                    if pid == self.root {
                        code = -(signal as i32);
                    }
                }
                WaitStatus::PtraceSyscall(pid) => {
                    self.at_call(pid);
                    self.go_on(pid, None);
                }
                WaitStatus::PtraceEvent(pid, _, event) => {
                    self.threads.insert(pid);
                    if event == nix::libc::PTRACE_EVENT_EXEC && pid == self.root {
                        self.armed = true;
                    }
                    self.go_on(pid, None);
                }
                WaitStatus::Stopped(pid, signal) => {
                    self.threads.insert(pid);
                    self.go_on(pid, Some(signal));
                }
                _ => {}
            }
        }
    }

    fn go_on(&mut self, pid: Pid, signal: Option<Signal>) {
        if self.killing {
            let _ = kill(pid, Signal::SIGKILL);
        }
        // It may be dead by now.
        let _ = ptrace::syscall(pid, signal);
    }

    fn at_call(&mut self, pid: Pid) {
        let Ok(info) = ptrace::syscall_info(pid) else { return };
        if info.op == nix::libc::PTRACE_SYSCALL_INFO_EXIT {
            if let Some(errno) = self.failing.remove(&pid)
                && let Ok(mut registers) = ptrace::getregs(pid)
            {
                registers.rax = (-(errno as i64)) as u64;
                let _ = ptrace::setregs(pid, registers);
            }
            return;
        }
        if info.op != nix::libc::PTRACE_SYSCALL_INFO_ENTRY || !self.armed || self.killing {
            return;
        }
        let Ok(mut registers) = ptrace::getregs(pid) else { return };
        let arguments = [registers.rdi, registers.rsi, registers.rdx, registers.r10, registers.r8];
        let number = registers.orig_rax as i64;
        let call = match self.act {
            Act::FailRead { .. } => Call::looking(pid, number, arguments),
            _ => Call::changing(pid, number, arguments),
        };
        let Some(call) = call else { return };
        if self.has_lower_layer && call.is_rename_of_a_folder_of(&self.below) {
            registers.orig_rax = u64::MAX;
            let _ = ptrace::setregs(pid, registers);
            self.failing.insert(pid, Errno::EXDEV);
            return;
        }
        if self.act.errno() == Some(Errno::EMFILE) && !call.name.starts_with("open") {
            return;
        }
        let with_sync = matches!(self.act, Act::Fail { .. } | Act::Record);
        let Some(path) = call.paths.iter().find(|path| path.starts_with(&self.below)) else { return };
        if !with_sync && (call.is_sync || call.is_idle) {
            return;
        }
        let text = format!("{} {}", call.name, path.strip_prefix(&self.below).unwrap_or(path).display());
        self.calls.push(text.clone());
        let n = self.calls.len();
        match self.act {
            Act::Count | Act::Record => {}
            Act::Signal(at, signal) => {
                if n == at {
                    self.hit = Some(text);
                    let _ = kill(self.root, signal);
                }
            }
            Act::Kill(at) if n == at => {
                self.hit = Some(text);
                self.killing = true;
                for thread in &self.threads {
                    let _ = kill(*thread, Signal::SIGKILL);
                }
            }
            Act::Kill(_) => {}
            Act::Fail { at, .. } | Act::FailRead { at, .. } => {
                if n == at {
                    self.hit = Some(text);
                    self.hit_path = Some(path.clone());
                }
                let fails_later = match self.act {
                    Act::FailRead { later: Later::SamePath, .. } => self.hit_path.as_ref() == Some(path),
                    Act::FailRead { later, .. } => later == Later::All,
                    Act::Fail { sticky, .. } => sticky && !call.frees,
                    _ => false,
                };
                if n == at || n > at && fails_later {
                    registers.orig_rax = u64::MAX;
                    let _ = ptrace::setregs(pid, registers);
                    self.failing.extend(self.act.errno().map(|errno| (pid, errno)));
                }
            }
        }
    }
}

/// A system call that changes something, makes a change last, or looks at something.
struct Call {
    name: &'static str,
    paths: Vec<PathBuf>,
    /// Makes a change last.
    is_sync: bool,
    /// Changes nothing: what it makes is there, what it removes is not.
    is_idle: bool,
    /// Needs no room on the disk.
    frees: bool,
}

impl Call {
    fn is_rename_of_a_folder_of(&self, store: &Path) -> bool {
        let [_, from] = &self.paths[..] else { return false };
        let is_lower = ["modules", "quarantine"].iter().any(|folder| from.starts_with(store.join(folder)));
        is_lower && fs::symlink_metadata(from).is_ok_and(|meta| meta.is_dir())
    }

    /// Returns a call that changes something or makes a change last.
    fn changing(pid: Pid, number: i64, a: [u64; 5]) -> Option<Self> {
        use nix::libc as c;
        let here = c::AT_FDCWD as u64;
        let path = |folder: u64, at: u64| resolve(pid, folder as i32, at);
        let open = |fd: u64| opened(pid, fd);
        let (name, paths, kind) = match number {
            c::SYS_open if creates(a[1]) => ("open", vec![path(here, a[0])], Kind::Makes),
            c::SYS_openat if creates(a[2]) => ("openat", vec![path(a[0], a[1])], Kind::Makes),
            c::SYS_write => ("write", vec![open(a[0])], Kind::Changes),
            c::SYS_pwrite64 => ("pwrite64", vec![open(a[0])], Kind::Changes),
            c::SYS_writev => ("writev", vec![open(a[0])], Kind::Changes),
            c::SYS_copy_file_range => ("copy_file_range", vec![open(a[2])], Kind::Changes),
            c::SYS_ioctl if a[1] == FICLONE => ("ficlone", vec![open(a[0])], Kind::Changes),
            c::SYS_ftruncate => ("ftruncate", vec![open(a[0])], Kind::Frees),
            c::SYS_rename => ("rename", vec![path(here, a[1]), path(here, a[0])], Kind::Changes),
            c::SYS_renameat | c::SYS_renameat2 => {
                ("renameat", vec![path(a[2], a[3]), path(a[0], a[1])], Kind::Changes)
            }
            c::SYS_mkdir => ("mkdir", vec![path(here, a[0])], Kind::Makes),
            c::SYS_mkdirat => ("mkdirat", vec![path(a[0], a[1])], Kind::Makes),
            c::SYS_unlink => ("unlink", vec![path(here, a[0])], Kind::Removes),
            c::SYS_unlinkat => ("unlinkat", vec![path(a[0], a[1])], Kind::Removes),
            c::SYS_rmdir => ("rmdir", vec![path(here, a[0])], Kind::Removes),
            c::SYS_link => ("link", vec![path(here, a[1])], Kind::Changes),
            c::SYS_linkat => ("linkat", vec![path(a[2], a[3])], Kind::Changes),
            c::SYS_symlink => ("symlink", vec![path(here, a[1])], Kind::Changes),
            c::SYS_symlinkat => ("symlinkat", vec![path(a[1], a[2])], Kind::Changes),
            c::SYS_fchmod => ("fchmod", vec![open(a[0])], Kind::Frees),
            c::SYS_fchown => ("fchown", vec![open(a[0])], Kind::Frees),
            c::SYS_fchownat => ("fchownat", vec![path(a[0], a[1])], Kind::Frees),
            c::SYS_utimensat if a[1] == 0 => ("utimensat", vec![open(a[0])], Kind::Frees),
            c::SYS_utimensat => ("utimensat", vec![path(a[0], a[1])], Kind::Frees),
            c::SYS_fsync => ("fsync", vec![open(a[0])], Kind::Syncs),
            c::SYS_fdatasync => ("fdatasync", vec![open(a[0])], Kind::Syncs),
            c::SYS_syncfs => ("syncfs", vec![open(a[0])], Kind::Syncs),
            _ => return None,
        };
        let is_idle = match kind {
            Kind::Makes => fs::symlink_metadata(&paths[0]).is_ok(),
            Kind::Removes => fs::symlink_metadata(&paths[0]).is_err(),
            _ => false,
        };
        let frees = matches!(kind, Kind::Removes | Kind::Frees);
        Some(Self { name, paths, is_sync: matches!(kind, Kind::Syncs), is_idle, frees })
    }

    /// Returns a call that looks at something and changes nothing.
    fn looking(pid: Pid, number: i64, a: [u64; 5]) -> Option<Self> {
        use nix::libc as c;
        let here = c::AT_FDCWD as u64;
        let path = |folder: u64, at: u64| resolve(pid, folder as i32, at);
        let open = |fd: u64| opened(pid, fd);
        let (name, path) = match number {
            c::SYS_open if !creates(a[1]) => ("open", path(here, a[0])),
            c::SYS_openat if !creates(a[2]) => ("openat", path(a[0], a[1])),
            c::SYS_getdents64 => ("getdents", open(a[0])),
            c::SYS_read => ("read", open(a[0])),
            c::SYS_pread64 => ("pread", open(a[0])),
            c::SYS_statx => ("statx", path(a[0], a[1])),
            c::SYS_newfstatat => ("newfstatat", path(a[0], a[1])),
            c::SYS_stat => ("stat", path(here, a[0])),
            c::SYS_lstat => ("lstat", path(here, a[0])),
            c::SYS_fstat => ("fstat", open(a[0])),
            c::SYS_readlink => ("readlink", path(here, a[0])),
            c::SYS_readlinkat => ("readlinkat", path(a[0], a[1])),
            c::SYS_access => ("access", path(here, a[0])),
            c::SYS_faccessat | c::SYS_faccessat2 => ("faccessat", path(a[0], a[1])),
            _ => return None,
        };
        Some(Self { name, paths: vec![path], is_sync: false, is_idle: false, frees: false })
    }
}

fn creates(flags: u64) -> bool {
    flags & (nix::libc::O_CREAT | nix::libc::O_TRUNC) as u64 != 0
}

/// Returns the path of an open file.
fn opened(pid: Pid, fd: u64) -> PathBuf {
    fs::read_link(format!("/proc/{pid}/fd/{}", fd as i32)).unwrap_or_default()
}

/// Shares the blocks of a file with another one.
const FICLONE: u64 = 0x4004_9409;

enum Kind {
    Makes,
    Removes,
    Changes,
    Frees,
    Syncs,
}

fn resolve(pid: Pid, folder: i32, at: u64) -> PathBuf {
    let text = read_string(pid, at);
    let base = match folder {
        nix::libc::AT_FDCWD => fs::read_link(format!("/proc/{pid}/cwd")),
        fd => fs::read_link(format!("/proc/{pid}/fd/{fd}")),
    };
    let joined = base.unwrap_or_default().join(text);
    let mut clean = PathBuf::new();
    for component in joined.components() {
        match component {
            Component::ParentDir => drop(clean.pop()),
            Component::CurDir => {}
            other => clean.push(other),
        }
    }
    match (clean.parent().and_then(|parent| fs::canonicalize(parent).ok()), clean.file_name()) {
        (Some(parent), Some(name)) => parent.join(name),
        _ => clean,
    }
}

fn read_string(pid: Pid, at: u64) -> String {
    use std::os::unix::fs::FileExt;
    let Ok(memory) = fs::File::open(format!("/proc/{pid}/mem")) else { return String::new() };
    let mut text = Vec::new();
    while text.len() < 4096 {
        let from = at + text.len() as u64;
        let mut chunk = vec![0; 256 - (from % 256) as usize];
        let Ok(read @ 1..) = memory.read_at(&mut chunk, from) else { break };
        let end = chunk[..read].iter().position(|byte| *byte == 0);
        text.extend_from_slice(&chunk[..end.unwrap_or(read)]);
        if end.is_some() {
            break;
        }
    }
    String::from_utf8_lossy(&text).into_owned()
}
