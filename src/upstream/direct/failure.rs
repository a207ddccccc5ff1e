//! The meaning of error messages of the go command and its tools.
//!
//! There are only texts to go by. They are in one table, and the first row whose text occurs applies.
//! Unknown messages are failures: absence is never guessed. Ambiguous messages are failures too: a host
//! without an address (the resolver may be broken), or a repository that is not found, since hosts say the
//! same about a private repository without access. Absence is what an existing repository, or an existing
//! host, answered about something that it does not have.

use super::super::error::UpstreamError;
use super::super::place;
use std::path::Path;

/// The meaning of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Meaning {
    Absent,
    Refused,
    TimedOut,
    /// The network or the server failed.
    Unreachable,
    /// A local tool is missing or too old.
    Tool,
}

use Meaning::{Absent, Refused, TimedOut, Tool, Unreachable};

/// The texts in lower case, and their meanings.
const MEANINGS: &[(&str, Meaning)] = &[
    ("requires go >=", Tool),
    ("executable file not found", Tool),
    ("toolchain not available", Tool),
    ("no space left on device", Tool),
    ("govcs disallows", Refused),
    // Before the less specific rows: the server answered. Whether the repository does not exist or is
    // private is unknown, and the name of a private module must not be sent elsewhere.
    ("repository not found", Refused),
    ("project not found", Refused),
    ("could not be found or you don't have permission", Refused),
    ("does not appear to be a git repository", Refused),
    ("' not found", Refused),
    ("no such repository", Refused),
    ("could not read username", Refused),
    ("could not read password", Refused),
    ("terminal prompts disabled", Refused),
    ("authentication failed", Refused),
    ("authentication required", Refused),
    ("permission denied", Refused),
    ("host key verification failed", Refused),
    ("access denied", Refused),
    ("dubious ownership", Refused),
    ("returned error: 401", Refused),
    ("returned error: 403", Refused),
    ("returned error: 404", Refused),
    ("returned error: 407", Refused),
    ("401 unauthorized", Refused),
    ("403 forbidden", Refused),
    ("timed out", TimedOut),
    ("i/o timeout", TimedOut),
    ("handshake timeout", TimedOut),
    ("deadline exceeded", TimedOut),
    ("returned error: 408", TimedOut),
    ("returned error: 504", TimedOut),
    ("504 gateway", TimedOut),
    ("returned error: 410", Absent),
    ("returned error: 4", Unreachable),
    ("returned error: 5", Unreachable),
    ("no such host", Unreachable),
    ("could not resolve host", Unreachable),
    ("unable to look up", Unreachable),
    ("server misbehaving", Unreachable),
    ("connection refused", Unreachable),
    ("connection reset", Unreachable),
    ("connection closed", Unreachable),
    ("network is unreachable", Unreachable),
    ("no route to host", Unreachable),
    ("unable to connect", Unreachable),
    ("unable to access", Unreachable),
    ("unexpected disconnect", Unreachable),
    ("hung up unexpectedly", Unreachable),
    ("early eof", Unreachable),
    ("rpc failed", Unreachable),
    ("unexpected eof", Unreachable),
    ("x509:", Unreachable),
    ("tls:", Unreachable),
    ("dial tcp", Unreachable),
    ("429 too many", Unreachable),
    ("500 internal", Unreachable),
    ("502 bad gateway", Unreachable),
    ("503 service", Unreachable),
    // The go command tries one scheme after another and does not say why all failed.
    ("no secure protocol found", Unreachable),
    ("no protocol found", Unreachable),
    ("could not read from remote repository", Unreachable),
    ("unable to create", Unreachable),
    ("signal: killed", Unreachable),
    // An existing repository or host does not have the requested version or module.
    ("unknown revision", Absent),
    ("no matching versions", Absent),
    ("404 not found", Absent),
    ("410 gone", Absent),
    ("no go-import meta tags", Absent),
    ("module contains a go.mod file, so", Absent),
    ("module path must match major version", Absent),
    ("go.mod has", Absent),
    ("go.mod at revision", Absent),
    ("invalid pseudo-version", Absent),
    ("does not match version-control timestamp", Absent),
    ("is not a tag", Absent),
    ("invalid version: should be", Absent),
    ("invalid version: version", Absent),
    ("invalid module version", Absent),
    ("disallowed version string", Absent),
    ("malformed module path", Absent),
    ("malformed import path", Absent),
    ("github.com import path", Absent),
    ("bitbucket.org/ import path", Absent),
];

/// Converts an error message into an error for `url`. `scratch` is the scratch folder, which is removed
/// from the text.
pub(super) fn classify(url: String, text: &str, scratch: &Path) -> UpstreamError {
    let text = without_secrets(&text.replace(&*scratch.to_string_lossy(), "..."));
    let reason = one_line(&text);
    match meaning(&text) {
        Some(Absent) => UpstreamError::NotFound { url, message: reason },
        Some(Refused) => UpstreamError::VcsRefused { url, reason },
        Some(TimedOut) => UpstreamError::Timeout { url, reason },
        Some(Tool) => UpstreamError::GoCommand { url, reason },
        Some(Unreachable) | None => UpstreamError::Transport { url, reason },
    }
}

fn meaning(text: &str) -> Option<Meaning> {
    let text = text.to_lowercase();
    MEANINGS.iter().find(|(words, _)| text.contains(words)).map(|(_, meaning)| *meaning)
}

/// Removes userinfo from the URLs in a text.
fn without_secrets(text: &str) -> String {
    let mut parts = text.split("://");
    let mut clean = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let authority = part.find(|c: char| c == '/' || c.is_whitespace() || c == '\'' || c == '"');
        let (authority, rest) = part.split_at(authority.unwrap_or(part.len()));
        clean.push_str("://");
        clean.push_str(authority.rsplit('@').next().unwrap_or_default());
        clean.push_str(rest);
    }
    clean
}

/// Replaces absolute paths in a text for clients, since they may be local paths. The log keeps them.
pub(in super::super) fn without_paths(text: &str) -> String {
    let (mut clean, mut rest) = (String::with_capacity(text.len()), text);
    while let Some(at) = rest.find('/') {
        let (before, path) = rest.split_at(at);
        clean.push_str(before);
        let last = clean.chars().next_back();
        let is_remote = path.starts_with("//") && clean.ends_with(':') && !clean.ends_with("file:");
        let is_path = !is_remote && last.is_none_or(|c| c.is_whitespace() || "'\"`([<=:,;".contains(c));
        let end = match last {
            Some(quote @ ('\'' | '"' | '`')) if is_path => path.find(quote),
            _ => path.find(|c: char| c.is_whitespace() || "'\"`)]>:,;".contains(c)),
        };
        let (path, behind) = path.split_at(end.unwrap_or(path.len()));
        clean.push_str(if is_path { "..." } else { path });
        rest = behind;
    }
    clean.push_str(rest);
    clean
}

/// Joins the lines of a message, without blank lines and the prefix `go: `.
fn one_line(text: &str) -> String {
    let lines = text.lines().map(|line| line.trim().trim_start_matches("go: ").replace('\t', " "));
    let lines: Vec<String> = lines.filter(|line| !line.is_empty()).collect();
    match place::printable(&lines.join("\n")) {
        message if message.is_empty() => {
            "the go command printed a message with unprintable characters".to_owned()
        }
        message => message,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Messages of real versions of go and git.
    #[test]
    fn real_messages_are_classified() {
        let remote = |message: &str| {
            format!(
                "go: module github.com/a/x: git ls-remote -q --end-of-options https://github.com/a/x in /scratch/mod/cache/vcs/d5d3: exit status 128:\n\t{message}"
            )
        };
        let unread = "fatal: Could not read from remote repository.\n\t\n\tPlease make sure you have the correct access rights\n\tand the repository exists.";
        let plain = str::to_owned;
        for (text, expected) in [
            (
                plain("github.com/a/x@v1.1.0 requires go >= 1.99 (running go 1.26.8; GOTOOLCHAIN=local)"),
                Some(Tool),
            ),
            (
                plain("go: github.com/a/x@latest: exec: \"git\": executable file not found in $PATH"),
                Some(Tool),
            ),
            (plain("github.com/a/x@v1.5.0: invalid version: unknown revision v1.5.0"), Some(Absent)),
            (
                plain("go: module github.com/a/x/nope: no matching versions for query \"latest\""),
                Some(Absent),
            ),
            (plain("go: github.com@latest: invalid github.com import path \"github.com\""), Some(Absent)),
            (
                plain("go: 127.0.0.1:1/x@latest: malformed module path \"127.0.0.1:1/x\": invalid char ':'"),
                Some(Absent),
            ),
            (
                plain(
                    "go: a.example/x@v1.0.0: unrecognized import path \"a.example/x\": reading https://a.example/x?go-get=1: 404 Not Found",
                ),
                Some(Absent),
            ),
            (
                plain(
                    "go: a.example/x@v1.0.0: unrecognized import path \"a.example/x\": parse https://a.example/x?go-get=1: no go-import meta tags ()",
                ),
                Some(Absent),
            ),
            (
                plain(
                    "a.example/x@v2.0.0+incompatible: invalid version: module contains a go.mod file, so module path must match major version (\"a.example/x/v2\")",
                ),
                Some(Absent),
            ),
            (remote("fatal: repository 'https://a.example/x/' not found"), Some(Refused)),
            (
                remote("ERROR: Repository not found.\n\tfatal: Could not read from remote repository."),
                Some(Refused),
            ),
            (
                remote(
                    "remote: The project you were looking for could not be found or you don't have permission to view it.\n\tfatal: repository 'https://a.example/x/' not found",
                ),
                Some(Refused),
            ),
            (
                remote(&format!("fatal: '/srv/git/x' does not appear to be a git repository\n\t{unread}")),
                Some(Refused),
            ),
            (remote("fatal: remote error: access denied or repository not exported: /x"), Some(Refused)),
            (
                remote(
                    "fatal: could not read Username for 'https://a.example': terminal prompts disabled\nConfirm the import path was entered correctly.",
                ),
                Some(Refused),
            ),
            (
                remote(
                    "fatal: unable to access 'https://a.example/x/': The requested URL returned error: 403",
                ),
                Some(Refused),
            ),
            (remote(&format!("git@a.example: Permission denied (publickey).\n\t{unread}")), Some(Refused)),
            (remote(&format!("Host key verification failed.\n\t{unread}")), Some(Refused)),
            (
                plain(
                    "go: github.com/a/x@latest: GOVCS disallows using git for public github.com/a/x; see 'go help vcs'",
                ),
                Some(Refused),
            ),
            (
                remote(
                    "fatal: unable to connect to 127.0.0.1:\n\t127.0.0.1[0: 127.0.0.1]: errno=Connection refused",
                ),
                Some(Unreachable),
            ),
            (
                remote(&format!("ssh: connect to host 127.0.0.1 port 1: Connection refused\n\t{unread}")),
                Some(Unreachable),
            ),
            (
                remote(
                    "fatal: unable to access 'https://a.example/x/': The requested URL returned error: 500",
                ),
                Some(Unreachable),
            ),
            (
                remote(
                    "fatal: unable to access 'https://a.example/x/': The requested URL returned error: 429",
                ),
                Some(Unreachable),
            ),
            (
                plain(
                    "go: a.example/x@latest: unrecognized import path \"a.example/x\": https fetch: Get \"https://a.example/x?go-get=1\": dial tcp: lookup a.example on 10.0.0.53:53: no such host",
                ),
                Some(Unreachable),
            ),
            (plain("go: a.example/x.git@latest: no secure protocol found for repository"), Some(Unreachable)),
            (
                remote(&format!("ssh: connect to host 192.0.2.1 port 22: Connection timed out\n\t{unread}")),
                Some(TimedOut),
            ),
            (
                plain(
                    "go: a.example/x@latest: unrecognized import path \"a.example/x\": https fetch: Get \"https://a.example/x?go-get=1\": net/http: TLS handshake timeout",
                ),
                Some(TimedOut),
            ),
            (plain("go: invalid module version \"-x\""), Some(Absent)),
            (plain("go: something that was never seen before"), None),
        ] {
            assert_eq!(meaning(&text), expected, "{text}");
        }
    }

    #[test]
    fn unknown_messages_are_failures() {
        let of = |text: &str| classify("x".to_owned(), text, Path::new("/scratch"));
        assert!(matches!(of("oh dear"), UpstreamError::Transport { .. }));
        assert!(of("unknown revision v1").is_absent());
        assert!(!of("").is_absent());
    }

    #[test]
    fn messages_contain_neither_scratch_folder_nor_secrets() {
        let text = "go: module a.example/x: git ls-remote in /scratch/mod/cache/vcs/d5: exit status 128:\n\tfatal: \
                    unable to access 'https://me:pa@ss@a.example/x/': no\n\n\tssh://git@b.example/y";
        let message = classify("x".to_owned(), text, Path::new("/scratch")).to_string();
        assert!(
            !message.contains("/scratch") && !message.contains("pa@ss") && !message.contains("me:"),
            "{message}"
        );
        assert!(message.contains("'https://a.example/x/': no; ssh://b.example/y"), "{message}");
        assert!(message.contains("module a.example/x: git ls-remote in .../mod"), "{message}");
    }

    #[test]
    fn texts_for_clients_contain_no_paths() {
        for (text, expected) in [
            ("a.example/x (direct): '/srv/my git/x' does not", "a.example/x (direct): '...' does not"),
            ("in .../mod/cache/vcs/d5: exit", "in .../mod/cache/vcs/d5: exit"),
            (
                "unable to access 'https://a.example:80/x/': no",
                "unable to access 'https://a.example:80/x/': no",
            ),
            ("bad line 1 in file /home/u/.gitconfig; go on", "bad line 1 in file ...; go on"),
            ("file:///srv/git/x git@b.example:/srv/x", "file:... git@b.example:..."),
            ("exec: \"/usr/bin/git\": PATH=/a:/b", "exec: \"...\": PATH=...:..."),
            ("/", "..."),
            ("\"/open", "\"..."),
        ] {
            assert_eq!(without_paths(text), expected);
        }
    }

    #[test]
    fn the_table_is_in_lower_case_and_no_row_hides_another() {
        for (n, (words, _)) in MEANINGS.iter().enumerate() {
            assert_eq!(*words, words.to_lowercase());
            let before = MEANINGS[..n].iter().find(|(known, _)| words.contains(known));
            assert_eq!(before, None, "{words} can never count");
        }
    }
}
