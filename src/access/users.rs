//! The users file, in the form of htpasswd: a line `NAME:HASH` for each password and each token.
//!
//! A user may have one password (bcrypt) and several tokens (`{SHA256}` and the hash of the token in hex). Other hashes of
//! htpasswd are refused, since they can be guessed too fast.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use bcrypt::HashParts;
use ring::rand::{SecureRandom, SystemRandom};
use sha2::{Digest, Sha256};
use stoa_layout::PathError;

use super::Readers;

/// Maximum size of a users file.
const MAX_FILE_BYTES: u64 = 8 << 20;

/// The costs that a password may have. Of a higher cost, a single check takes seconds.
const COSTS: std::ops::RangeInclusive<u32> = 4..=14;

/// The beginning of the hash of a token.
const TOKEN_HASH: &str = "{SHA256}";

/// Minimum length of a token. A shorter one could be guessed.
pub(super) const MIN_TOKEN: usize = 32;

/// Maximum length of a name.
const MAX_NAME: usize = 128;

/// The users of a server, and the hashes of their passwords and tokens.
#[derive(Debug, Default)]
pub struct Users {
    names: HashSet<Arc<str>>,
    pub(super) passwords: HashMap<Arc<str>, Arc<str>>,
    pub(super) tokens: Vec<([u8; 32], Arc<str>)>,
    /// The cost of each password.
    pub(super) costs: Vec<u32>,
}

impl Users {
    /// Reads a users file. The error is the reason, with the path.
    pub fn read(path: &Path) -> Result<Self, String> {
        let failed = |error| PathError::new("read", path, error).to_string();
        let file = File::open(path).map_err(failed)?;
        let mode = file.metadata().map_err(failed)?.permissions().mode();
        let shown = path.display();
        if mode & 0o007 != 0 {
            return Err(format!("every user of this machine may use {shown}\nhelp: chmod o-rwx {shown}"));
        }
        let mut bytes = Vec::new();
        file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes).map_err(failed)?;
        if bytes.len() as u64 > MAX_FILE_BYTES {
            return Err(format!("{shown} exceeds the limit of {MAX_FILE_BYTES} bytes"));
        }
        let text = String::from_utf8(bytes).map_err(|_| format!("{shown} is not UTF-8"))?;
        text.parse().map_err(|(line, reason)| format!("{shown}, line {line}: {reason}"))
    }

    /// Returns whether there is a user of a name.
    pub fn contains(&self, name: &str) -> bool {
        self.names.contains(name)
    }

    fn add(&mut self, line: &str) -> Result<(), String> {
        let (name, hash) = line.split_once(':').ok_or("expected NAME:HASH")?;
        check_name(name)?;
        let name: Arc<str> = self.names.get(name).cloned().unwrap_or_else(|| name.into());
        if let Some(hex) = hash.strip_prefix(TOKEN_HASH) {
            let hash = from_hex(hex).ok_or("expected {SHA256} and 64 hex digits")?;
            if self.tokens.iter().any(|(known, _)| *known == hash) {
                return Err("an earlier line has the same token".to_owned());
            }
            self.tokens.push((hash, Arc::clone(&name)));
        } else {
            let cost = cost_of(hash)?;
            if self.passwords.insert(Arc::clone(&name), hash.into()).is_some() {
                return Err(format!("{name} has two passwords"));
            }
            self.costs.push(cost);
        }
        self.names.insert(name);
        Ok(())
    }
}

impl FromStr for Users {
    type Err = (usize, String);

    /// Parses the text of a users file. An error has the number of its line. It never contains a hash.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut users = Self::default();
        for (n, line) in text.lines().enumerate() {
            let line = line.trim();
            if !line.is_empty() && !line.starts_with('#') {
                users.add(line).map_err(|reason| (n + 1, reason))?;
            }
        }
        Ok(users)
    }
}

/// Returns the cost of a bcrypt hash.
fn cost_of(hash: &str) -> Result<u32, String> {
    let is_bcrypt = ["$2a$", "$2b$", "$2y$"].iter().any(|prefix| hash.starts_with(prefix));
    if !is_bcrypt {
        return Err("expected a bcrypt hash ($2y$) or a token ({SHA256})\nhelp: make one with htpasswd -B or stoa token".to_owned());
    }
    let parts = HashParts::from_str(hash).map_err(|_| "the bcrypt hash is malformed")?;
    match parts.get_cost() {
        cost if COSTS.contains(&cost) => Ok(cost),
        cost => Err(format!("the cost {cost} is not from {} to {}", COSTS.start(), COSTS.end())),
    }
}

/// Checks the name of a user.
fn check_name(name: &str) -> Result<(), String> {
    let is_plain = |c: char| !c.is_control() && !c.is_whitespace() && !matches!(c, ':' | ',');
    if Readers::is_word(name) {
        return Err(format!("{name} has another meaning and cannot be the name of a user"));
    }
    match !name.is_empty() && name.len() <= MAX_NAME && !name.starts_with('#') && name.chars().all(is_plain) {
        true => Ok(()),
        false => Err(format!(
            "the name of a user has 1 to {MAX_NAME} bytes, without spaces, colons and commas, and no # at its beginning"
        )),
    }
}

fn from_hex(hex: &str) -> Option<[u8; 32]> {
    let digits: Vec<u8> =
        hex.chars().map(|c| c.to_digit(16).map(|digit| digit as u8)).collect::<Option<_>>()?;
    let bytes: Vec<u8> =
        digits.chunks(2).filter_map(|pair| Some(pair.first()? << 4 | pair.get(1)?)).collect();
    bytes.try_into().ok().filter(|_| hex.len() == 64)
}

/// Returns a new token for a user, and the line for the users file.
///
/// # Errors
///
/// Fails if the name is not one of a user, or if the system has no random numbers.
pub fn token_line(name: &str) -> Result<(String, String), String> {
    check_name(name)?;
    let mut random = [0; 32];
    SystemRandom::new().fill(&mut random).map_err(|_| "the system has no random numbers")?;
    let token = format!("stoa_{}", BASE64_URL_SAFE_NO_PAD.encode(random));
    let line = format!("{name}:{TOKEN_HASH}{:x}", Sha256::digest(&token));
    Ok((token, line))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: &str = "$2y$05$abcdefghijklmnopqrstuuKKKKKKKKKKKKKKKKKKKKKKKKKKKKKKu";

    fn fault(text: &str) -> (usize, String) {
        text.parse::<Users>().unwrap_err()
    }

    #[test]
    fn passwords_and_tokens_are_read() {
        let (_, token) = token_line("ann").unwrap();
        let text = format!("# Users\n\nann:{HASH}\n{token}\n  bob@corp.example:{HASH}\r\n");
        let users: Users = text.parse().unwrap();
        assert!(users.contains("ann") && users.contains("bob@corp.example") && !users.contains("Ann"));
        assert_eq!((users.passwords.len(), users.tokens.len()), (2, 1));
        assert_eq!(users.costs, [5, 5]);
    }

    #[test]
    fn a_wrong_line_is_named_without_its_hash() {
        let (_, token) = token_line("ann").unwrap();
        for (line, part) in [
            ("ann", "expected NAME:HASH"),
            (":x", "the name of a user"),
            ("a b:x", "the name of a user"),
            ("anyone:x", "another meaning"),
            ("authenticated:x", "another meaning"),
            ("ann:{SHA256}0f", "64 hex digits"),
            ("ann:{SHA256}zz", "64 hex digits"),
            ("ann:{SHA}2jmj7l5rSw0yVb/vlWAYkK/YBwk=", "expected a bcrypt hash"),
            ("ann:$apr1$hidden$hidden", "expected a bcrypt hash"),
            ("ann:hidden", "expected a bcrypt hash"),
            ("ann:$2y$05$short", "malformed"),
            (&format!("ann:{}", HASH.replace("$05$", "$15$")), "the cost 15"),
            (&format!("ann:{}", HASH.replace("$05$", "$03$")), "the cost 3"),
        ] {
            let (at, reason) = fault(&format!("bob:{HASH}\n#\n{line}\n"));
            assert_eq!(at, 3, "{line}");
            assert!(reason.contains(part) && !reason.contains("hidden"), "{line}: {reason}");
        }
        assert!(fault(&format!("ann:{HASH}\nann:{HASH}")).1.contains("two passwords"));
        assert!(fault(&format!("{token}\n{token}")).1.contains("the same token"));
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "the test writes a users file")]
    fn a_file_that_others_may_use_is_refused() {
        let folder = testkit::tempdir();
        let path = folder.path().join("users");
        std::fs::write(&path, format!("ann:{HASH}\n")).unwrap();
        for (mode, is_read) in [(0o600, true), (0o640, true), (0o644, false), (0o602, false)] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            let read = Users::read(&path).map(|users| users.contains("ann"));
            assert_eq!(read.is_ok(), is_read, "{mode:o} {read:?}");
        }
        assert!(Users::read(&folder.path().join("none")).unwrap_err().contains("none"));
    }
}
