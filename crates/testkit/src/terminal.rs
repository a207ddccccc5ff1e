//! A program on a terminal, made by the tool `script` of util-linux.

use std::ffi::OsStr;
use std::io::Read;
use std::process::{Child, Command, Stdio};

use crate::missing_tool;

/// A program that runs on a terminal of 24 lines with 100 columns.
pub struct OnTerminal {
    child: Child,
    /// Everything that was written to the terminal so far.
    written: Vec<u8>,
}

/// Returns the reason why no program can run on a terminal here.
pub fn missing_terminal() -> Option<String> {
    missing_tool("script", &["--version"])
}

impl OnTerminal {
    /// Starts a command with its arguments and its environment.
    pub fn start(command: &Command) -> Self {
        let quote = |word: &OsStr| format!("'{}'", word.to_str().unwrap().replace('\'', "'\\''"));
        let words: Vec<String> =
            std::iter::once(command.get_program()).chain(command.get_args()).map(quote).collect();
        let line = format!("stty cols 100 rows 24 && exec {}", words.join(" "));
        let mut script = Command::new("script");
        script.args(["--quiet", "--return", "--flush", "--command", &line, "/dev/null"]);
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => script.env(name, value),
                None => script.env_remove(name),
            };
        }
        if let Some(folder) = command.get_current_dir() {
            script.current_dir(folder);
        }
        script.env("TERM", "xterm");
        let child = script.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        Self { child, written: Vec::new() }
    }

    /// Waits until the terminal has received a text.
    pub fn wait_for(&mut self, text: &str) {
        while !String::from_utf8_lossy(&self.written).contains(text) {
            assert!(self.read(), "the program ended without {text:?}: {}", self.transcript());
        }
    }

    /// Presses a key with Ctrl.
    pub fn press_ctrl(&mut self, key: u8) {
        use std::io::Write;
        self.child.stdin.as_mut().unwrap().write_all(&[key & 0x1f]).unwrap();
    }

    /// Waits for the end, and returns the exit code with the lines that stay on the terminal.
    pub fn end(mut self) -> (i32, Vec<String>) {
        while self.read() {}
        let code = self.child.wait().unwrap().code().unwrap();
        (code, lines(&String::from_utf8_lossy(&self.written)))
    }

    fn read(&mut self) -> bool {
        let mut buffer = [0; 4096];
        let count = self.child.stdout.as_mut().unwrap().read(&mut buffer).unwrap();
        self.written.extend_from_slice(&buffer[..count]);
        count > 0
    }

    fn transcript(&self) -> String {
        String::from_utf8_lossy(&self.written).into_owned()
    }
}

/// Returns the lines that a terminal shows after a text. The only control sequence clears the line, and each bar begins
/// with it.
fn lines(text: &str) -> Vec<String> {
    let shown = text.split('\n').map(|line| line.rsplit("\x1b[2K").next().unwrap().trim_matches(['\r', ' ']));
    let lines: Vec<String> = shown.filter(|line| !line.is_empty()).map(str::to_owned).collect();
    assert!(!lines.iter().any(|line| line.contains(['\x1b', '\r'])), "{text:?}");
    lines
}
