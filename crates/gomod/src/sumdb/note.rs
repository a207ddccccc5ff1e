//! Signed notes, the form of a tree head.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::{Signature, VerifyingKey};
use sha2::{Digest, Sha256};

/// The algorithm byte of Ed25519, the only algorithm in use.
const ED25519: u8 = 1;

/// Maximum number of signatures of a note, as in Go.
const MAX_SIGNATURES: usize = 100;

/// A key that verifies notes.
#[derive(Debug, Clone)]
pub struct Verifier {
    name: String,
    hash: u32,
    key: VerifyingKey,
}

/// The reason why a verifier key is invalid.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// It does not have the form `NAME+HASH+KEY`.
    #[error("invalid verifier key {0:?}: expected NAME+HASH+KEY")]
    Form(String),
    /// Its hash does not match its name and key.
    #[error("invalid verifier key {0:?}: the hash does not match the name and key")]
    Hash(String),
    /// It is not an Ed25519 key.
    #[error("invalid verifier key {0:?}: not an Ed25519 key")]
    Algorithm(String),
}

/// The reason why a note cannot be trusted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoteError {
    /// It does not have the form of a note.
    #[error("the note is malformed")]
    Malformed,
    /// It has no signature by this key.
    #[error("the note has no signature by {0}")]
    Unsigned(String),
    /// The signature by this key does not match the text.
    #[error("the note's signature by {0} is invalid")]
    Invalid(String),
}

/// Returns the hash of a name and a key, which starts with its algorithm byte.
pub fn key_hash(name: &str, key: &[u8]) -> u32 {
    let digest = Sha256::new().chain_update(name).chain_update("\n").chain_update(key).finalize();
    digest.iter().take(4).fold(0, |hash, &byte| hash << 8 | u32::from(byte))
}

impl Verifier {
    /// Parses a key of the form `NAME+HASH+KEY`.
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        let form = || KeyError::Form(text.to_owned());
        let (name, rest) = text.split_once('+').ok_or_else(form)?;
        let (hash, key) = rest.split_once('+').ok_or_else(form)?;
        if hash.len() != 8 || !hash.bytes().all(|b| b.is_ascii_hexdigit()) || !is_name(name) {
            return Err(form());
        }
        let hash = u32::from_str_radix(hash, 16).map_err(|_| form())?;
        let key = STANDARD.decode(key).map_err(|_| form())?;
        if hash != key_hash(name, &key) {
            return Err(KeyError::Hash(text.to_owned()));
        }
        let algorithm = || KeyError::Algorithm(text.to_owned());
        let (&ED25519, public) = key.split_first().ok_or_else(form)? else { return Err(algorithm()) };
        let public = <[u8; 32]>::try_from(public).map_err(|_| algorithm())?;
        let key = VerifyingKey::from_bytes(&public).map_err(|_| algorithm())?;
        Ok(Self { name: name.to_owned(), hash, key })
    }

    /// Returns the name of the key's database.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Verifies a note and returns its text, which ends in a newline.
    pub fn verify<'n>(&self, note: &'n [u8]) -> Result<&'n str, NoteError> {
        let note = std::str::from_utf8(note).map_err(|_| NoteError::Malformed)?;
        let (text, signatures) = split(note).ok_or(NoteError::Malformed)?;
        let mut signed = false;
        for (count, line) in signatures.split_terminator('\n').enumerate() {
            let (name, signature) = signature_line(line).ok_or(NoteError::Malformed)?;
            if count >= MAX_SIGNATURES {
                return Err(NoteError::Malformed);
            }
            let (hash, signature) = signature.split_at(4);
            if signed || name != self.name || hash != self.hash.to_be_bytes() {
                continue;
            }
            let fits = Signature::from_slice(signature)
                .and_then(|signature| self.key.verify_strict(text.as_bytes(), &signature));
            fits.map_err(|_| NoteError::Invalid(self.name.clone()))?;
            signed = true;
        }
        if signed { Ok(text) } else { Err(NoteError::Unsigned(self.name.clone())) }
    }
}

/// Splits a note at its last blank line.
fn split(note: &str) -> Option<(&str, &str)> {
    if !super::has_no_control_but_newline(note) {
        return None;
    }
    let at = note.rfind("\n\n")?;
    let signatures = &note[at + 2..];
    signatures.ends_with('\n').then(|| (&note[..at + 1], signatures))
}

/// Parses a line `— NAME BASE64`. The decoded signature has at least 5 bytes.
fn signature_line(line: &str) -> Option<(&str, Vec<u8>)> {
    let (name, base64) = line.strip_prefix("\u{2014} ")?.split_once(' ')?;
    let signature = STANDARD.decode(base64).ok().filter(|signature| signature.len() >= 5)?;
    is_name(name).then_some((name, signature))
}

fn is_name(name: &str) -> bool {
    !name.is_empty() && !name.contains(|c: char| c.is_whitespace() || c == '+')
}

#[cfg(test)]
mod tests {
    use super::*;
    use ed25519_dalek::{Signer, SigningKey};

    fn signer(name: &str, seed: u8) -> (SigningKey, String) {
        let signing = SigningKey::from_bytes(&[seed; 32]);
        let mut key = vec![ED25519];
        key.extend(signing.verifying_key().as_bytes());
        (signing, format!("{name}+{:08x}+{}", key_hash(name, &key), STANDARD.encode(&key)))
    }

    fn sign(text: &str, name: &str, signing: &SigningKey) -> String {
        let mut key = vec![ED25519];
        key.extend(signing.verifying_key().as_bytes());
        let mut signature = key_hash(name, &key).to_be_bytes().to_vec();
        signature.extend(signing.sign(text.as_bytes()).to_bytes());
        format!("\u{2014} {name} {}\n", STANDARD.encode(signature))
    }

    #[test]
    fn one_valid_signature_is_enough() {
        let (signing, key) = signer("db.example", 1);
        let (other, _) = signer("other.example", 2);
        let verifier = Verifier::parse(&key).unwrap();
        let text = "a\n\nb\n";
        let (mine, theirs) = (sign(text, "db.example", &signing), sign(text, "other.example", &other));
        let verify = |note: String| verifier.verify(note.as_bytes()).map(str::to_owned);
        assert_eq!(verify(format!("{text}\n{theirs}{mine}")), Ok(text.to_owned()));
        assert_eq!(verify(format!("{text}\n{theirs}")), Err(NoteError::Unsigned("db.example".into())));
        assert_eq!(verify(format!("A{text}\n{mine}")), Err(NoteError::Invalid("db.example".into())));
        assert_eq!(verify(format!("{text}\n{}", theirs.repeat(101))), Err(NoteError::Malformed));
        assert_eq!(verify(format!("{text}\n")), Err(NoteError::Malformed));
    }

    #[test]
    fn keys_need_a_matching_hash_and_a_known_algorithm() {
        let (_, key) = signer("db.example", 1);
        assert!(matches!(Verifier::parse("db.example"), Err(KeyError::Form(_))));
        let renamed = key.replace("db.", "dc.");
        assert!(matches!(Verifier::parse(&renamed), Err(KeyError::Hash(_))));
        let odd = [2; 33];
        let odd = format!("x+{:08x}+{}", key_hash("x", &odd), STANDARD.encode(odd));
        assert!(matches!(Verifier::parse(&odd), Err(KeyError::Algorithm(_))));
    }
}
