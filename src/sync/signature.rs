//! The signature of a request between peers.
//!
//! The header `Authorization` of each request names the sender, the receiver, the time and a nonce, and has an HMAC-SHA256
//! with the secret of the two over them, the method, the target and the body. The target is the path with the query,
//! relative to the base URL of the receiver.
//!
//! The clocks of peers may differ. If only the time of a request is wrong, the receiver refuses it with its own time and an
//! HMAC over that time and the nonce of the request, in the header [`PEER_TIME`]. The sender then signs with the time of the
//! receiver. The nonce binds such an answer to one request.

use std::collections::hash_map::RandomState;
use std::fmt;
use std::hash::BuildHasher;
use std::str::FromStr;
use std::sync::atomic::{AtomicI64, Ordering};

use ring::hmac;
use sha2::{Digest, Sha256};

use super::peer::Peer;

/// The header with the time of a receiver that refuses a request because of its time.
pub const PEER_TIME: &str = "stoa-peer-time";

const SCHEME: &str = "Stoa-Peer";

/// Maximum length of the name of a deployment in bytes.
pub(crate) const MAX_NAME: usize = 64;

/// Returns the hash of a body.
pub fn sha256(body: &[u8]) -> [u8; 32] {
    Sha256::digest(body).into()
}

/// A number that no other request of a sender has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Nonce(u128);

impl Nonce {
    /// Returns a new nonce.
    pub fn random() -> Self {
        // The hasher has random keys. A nonce must be unique, and may be guessed.
        let half = || u128::from(RandomState::new().hash_one("nonce"));
        Self(half() << 64 | half())
    }
}

impl fmt::Display for Nonce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl FromStr for Nonce {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match is_hex(text, 32) {
            true => u128::from_str_radix(text, 16).map(Self).map_err(|_| ()),
            false => Err(()),
        }
    }
}

/// The parts of a request that its signature covers, except for its body.
#[derive(Debug, Clone, Copy)]
pub(super) struct Signed<'a> {
    pub(super) method: &'a str,
    pub(super) target: &'a str,
    pub(super) from: &'a str,
    pub(super) to: &'a str,
    pub(super) time_ms: i64,
    pub(super) nonce: Nonce,
}

impl Signed<'_> {
    fn text(&self, body_sha256: [u8; 32]) -> String {
        let Self { method, target, from, to, time_ms, nonce } = self;
        let body = hex(&body_sha256);
        format!("stoa-peer-v1\n{method}\n{target}\n{from}\n{to}\n{time_ms}\n{nonce}\n{body}")
    }

    /// Returns whether an HMAC is right.
    pub(super) fn is_signed_by(&self, key: &hmac::Key, body_sha256: [u8; 32], mac: &[u8; 32]) -> bool {
        hmac::verify(key, self.text(body_sha256).as_bytes(), mac).is_ok()
    }
}

/// The value of the header `Authorization`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Credential<'a> {
    pub(super) from: &'a str,
    pub(super) to: &'a str,
    pub(super) time_ms: i64,
    pub(super) nonce: Nonce,
    /// The hash of the body, so that a receiver checks the rest before it reads the body.
    pub(super) body_sha256: [u8; 32],
    pub(super) mac: [u8; 32],
}

impl<'a> Credential<'a> {
    /// Parses the value of the header. Only the form that [`Signer::authorization`] writes is accepted.
    pub(super) fn parse(value: &'a str) -> Option<Self> {
        let rest = value.strip_prefix(SCHEME)?.strip_prefix(" from=\"")?;
        let (from, rest) = rest.split_once("\", to=\"")?;
        let (to, rest) = rest.split_once("\", time=")?;
        let (time, rest) = rest.split_once(", nonce=\"")?;
        let (nonce, rest) = rest.split_once("\", body=\"")?;
        let (body, rest) = rest.split_once("\", mac=\"")?;
        if from.len() > MAX_NAME || to.len() > MAX_NAME {
            return None;
        }
        let (body_sha256, mac) = (unhex(body)?, unhex(rest.strip_suffix('"')?)?);
        Some(Self { from, to, time_ms: millis(time)?, nonce: nonce.parse().ok()?, body_sha256, mac })
    }
}

/// Returns whether the value of a header `Authorization` is of a peer, rightly or not.
pub(super) fn is_of_peer(value: &str) -> bool {
    let (scheme, _) = value.split_once(' ').unwrap_or((value, ""));
    scheme.eq_ignore_ascii_case(SCHEME)
}

/// Signs the requests to one peer.
#[derive(Debug)]
pub struct Signer {
    own: String,
    peer: String,
    key: hmac::Key,
    /// The clock of the peer minus that of this server, in milliseconds.
    offset_ms: AtomicI64,
}

impl Signer {
    /// Signs requests of the deployment `own` to a peer.
    pub fn new(own: &str, peer: &Peer) -> Self {
        let (own, key) = (own.to_owned(), peer.secret.key());
        Self { own, peer: peer.name.clone(), key, offset_ms: AtomicI64::new(0) }
    }

    /// Returns the value of `Authorization` for a request.
    pub fn authorization(
        &self,
        method: &str,
        target: &str,
        body_sha256: [u8; 32],
        nonce: Nonce,
        now_ms: i64,
    ) -> String {
        let (from, to) = (&self.own, &self.peer);
        let time_ms = now_ms.saturating_add(self.offset_ms.load(Ordering::Relaxed)).max(0);
        let signed = Signed { method, target, from, to, time_ms, nonce };
        let mac = hex(hmac::sign(&self.key, signed.text(body_sha256).as_bytes()).as_ref());
        let body = hex(&body_sha256);
        format!(
            "{SCHEME} from=\"{from}\", to=\"{to}\", time={time_ms}, nonce=\"{nonce}\", body=\"{body}\", mac=\"{mac}\""
        )
    }

    /// Learns the time of the peer from the header [`PEER_TIME`] of its answer to the request with the nonce. Returns
    /// whether the header is right.
    pub fn learn_time(&self, nonce: Nonce, header: &str, now_ms: i64) -> bool {
        let Some((time, mac)) = header.split_once(' ') else { return false };
        let (Some(time_ms), Some(mac)) = (millis(time), unhex(mac)) else { return false };
        let text = time_text(&self.peer, &self.own, nonce, time_ms);
        let is_right = hmac::verify(&self.key, text.as_bytes(), &mac).is_ok();
        if is_right {
            self.offset_ms.store(time_ms.saturating_sub(now_ms), Ordering::Relaxed);
        }
        is_right
    }
}

/// Returns the value of the header [`PEER_TIME`] for a request with the nonce.
pub(super) fn peer_time(key: &hmac::Key, receiver: &str, sender: &str, nonce: Nonce, time_ms: i64) -> String {
    let text = time_text(receiver, sender, nonce, time_ms);
    format!("{time_ms} {}", hex(hmac::sign(key, text.as_bytes()).as_ref()))
}

fn time_text(receiver: &str, sender: &str, nonce: Nonce, time_ms: i64) -> String {
    format!("stoa-peer-time-v1\n{receiver}\n{sender}\n{nonce}\n{time_ms}")
}

/// Parses a time as it is written: digits without a leading zero.
fn millis(text: &str) -> Option<i64> {
    text.parse().ok().filter(|millis: &i64| *millis >= 0 && millis.to_string() == text)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Option<[u8; 32]> {
    if !is_hex(text, 64) {
        return None;
    }
    let mut bytes = [0; 32];
    for (n, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(2 * n..2 * n + 2)?, 16).ok()?;
    }
    Some(bytes)
}

fn is_hex(text: &str, length: usize) -> bool {
    text.len() == length && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use super::super::peer::tests::peer;
    use super::*;

    const SECRET: &str = "a secret of at least 32 characters";
    const NONCE: &str = "000102030405060708090a0b0c0d0e0f";
    const NOW: i64 = 1_700_000_000_000;

    // Calculated with `openssl dgst -sha256 -hmac`.
    const MAC: &str = "0e00b0f46cc3e6ceeceb9f775fee690d2f3995779874730a1db771b2f8f6c790";
    const TIME_MAC: &str = "b6c242e878595ff2991c1150453b66cfb20285084ae2949d7f26ab66e2b29aef";

    fn nonce() -> Nonce {
        NONCE.parse().unwrap()
    }

    #[test]
    fn a_request_is_signed_as_documented() {
        let signer = Signer::new("a.example", &peer("b.example", SECRET));
        let hash = sha256(br#"{"pointers":{}}"#);
        let value = signer.authorization("POST", "/sync/v1/events", hash, nonce(), NOW);
        let expected = format!(
            r#"Stoa-Peer from="a.example", to="b.example", time={NOW}, nonce="{NONCE}", body="{}", mac="{MAC}""#,
            hex(&hash)
        );
        assert_eq!(value, expected);
        let read = Credential::parse(&value).unwrap();
        assert_eq!((read.from, read.to, read.time_ms, read.nonce), ("a.example", "b.example", NOW, nonce()));
        assert_eq!(hex(&read.mac), MAC);
        assert!(!format!("{signer:?}").contains("secret"));
    }

    #[test]
    fn the_time_of_a_receiver_is_signed_as_documented() {
        let later = NOW + 90_000;
        let value = peer_time(&peer("b", SECRET).secret.key(), "b.example", "a.example", nonce(), later);
        assert_eq!(value, format!("{later} {TIME_MAC}"));
        let signer = Signer::new("a.example", &peer("b.example", SECRET));
        assert!(signer.learn_time(nonce(), &value, NOW));
        let signed = signer.authorization("GET", "/", sha256(b""), Nonce::random(), NOW + 5);
        assert_eq!(Credential::parse(&signed).unwrap().time_ms, later + 5);
    }

    #[test]
    fn only_the_peer_can_set_the_time_and_only_for_this_request() {
        let key = peer("b", SECRET).secret.key();
        let other_key = peer("b", "another secret of 32 characters!").secret.key();
        let right = peer_time(&key, "b.example", "a.example", nonce(), NOW);
        let request = Signer::new("b.example", &peer("a.example", SECRET));
        let request = request.authorization("GET", "/", sha256(b""), nonce(), NOW);
        let (_, mac_of_request) = request.trim_end_matches('"').rsplit_once('"').unwrap();
        let wrong = [
            peer_time(&other_key, "b.example", "a.example", nonce(), NOW),
            peer_time(&key, "c.example", "a.example", nonce(), NOW),
            peer_time(&key, "b.example", "c.example", nonce(), NOW),
            peer_time(&key, "a.example", "b.example", nonce(), NOW),
            peer_time(&key, "b.example", "a.example", Nonce::random(), NOW),
            right.replace(&NOW.to_string(), &(NOW + 1).to_string()),
            format!("{NOW} {mac_of_request}"),
            format!("0{right}"),
            format!("+{right}"),
            format!("{right} "),
            right.to_uppercase(),
            NOW.to_string(),
            String::new(),
        ];
        let signer = Signer::new("a.example", &peer("b.example", SECRET));
        for wrong in wrong {
            assert!(!signer.learn_time(nonce(), &wrong, 0), "{wrong}");
        }
        assert_eq!(signer.offset_ms.load(Ordering::Relaxed), 0);
        assert!(signer.learn_time(nonce(), &right, 0));
    }

    #[test]
    fn another_form_of_the_header_is_refused() {
        let signer = Signer::new("a.example", &peer("b.example", SECRET));
        let right = signer.authorization("GET", "/", sha256(b""), nonce(), NOW);
        assert!(Credential::parse(&right).is_some());
        for wrong in [
            right.replace("Stoa-Peer ", "Stoa-Peer  "),
            right.replace("time=", "time=0"),
            right.replace("time=", "time=-"),
            right.replace(&NOW.to_string(), "99999999999999999999"),
            right.replace(NONCE, &NONCE[1..]),
            right.replace(NONCE, &NONCE.to_uppercase()),
            right.replace(NONCE, &format!("{NONCE}0")),
            right.replace(NONCE, &"é".repeat(16)),
            format!("{right},"),
            right.replace("mac=\"", "mac=\"00"),
            right.replace("nonce", "once"),
            "Bearer x".to_owned(),
            "Stoa-Peer".to_owned(),
            String::new(),
        ] {
            assert!(Credential::parse(&wrong).is_none(), "{wrong}");
        }
        assert!(is_of_peer(&right) && is_of_peer("Stoa-Peer") && is_of_peer("stoa-peer x"));
        assert!(!is_of_peer("Bearer Stoa-Peer") && !is_of_peer("Stoa-Peers x") && !is_of_peer(""));
    }
}
