//! A client that signs its requests as docs/http.md describes it, or wrongly in one respect.

use std::hash::{BuildHasher, RandomState};
use std::net::SocketAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use sha2::{Digest, Sha256};

use crate::client::{self, Reply};

/// A peer with a secret.
#[derive(Debug, Clone)]
pub struct Signer {
    pub from: String,
    pub to: String,
    pub secret: Vec<u8>,
    /// The difference of its clock from that of this machine in milliseconds.
    pub offset_ms: i64,
}

impl Signer {
    pub fn new(from: &str, to: &str, secret: &str) -> Self {
        Self { from: from.to_owned(), to: to.to_owned(), secret: secret.as_bytes().to_vec(), offset_ms: 0 }
    }

    /// Sends a signed request.
    pub fn ask(&self, address: SocketAddr, method: &str, target: &str, body: &[u8]) -> Reply {
        let authorization = self.sign(method, target, body);
        client::send(address, method, target, &[("Authorization", &authorization)], body)
    }

    /// Sends a signed request with a JSON body.
    pub fn post(&self, address: SocketAddr, target: &str, body: &str) -> Reply {
        self.ask(address, "POST", target, body.as_bytes())
    }

    /// Returns the value of `Authorization` for a request.
    pub fn sign(&self, method: &str, target: &str, body: &[u8]) -> String {
        let Self { from, to, .. } = self;
        let (time, nonce) = (now_ms() + self.offset_ms, nonce());
        let body = hex(&Sha256::digest(body));
        let text = format!("stoa-peer-v1\n{method}\n{target}\n{from}\n{to}\n{time}\n{nonce}\n{body}");
        let mac = hex(&hmac(&self.secret, text.as_bytes()));
        format!(
            "Stoa-Peer from=\"{from}\", to=\"{to}\", time={time}, nonce=\"{nonce}\", body=\"{body}\", mac=\"{mac}\""
        )
    }

    /// Takes over the clock of a server that refused a request because of its time. The header must be signed.
    pub fn learn_time(&mut self, authorization: &str, reply: &Reply) {
        let (time, mac) = reply.header("stoa-peer-time").and_then(|value| value.split_once(' ')).unwrap();
        let (_, nonce) = authorization.split_once("nonce=\"").unwrap();
        let (nonce, _) = nonce.split_once('"').unwrap();
        let text = format!("stoa-peer-time-v1\n{}\n{}\n{nonce}\n{time}", self.to, self.from);
        assert_eq!(mac, hex(&hmac(&self.secret, text.as_bytes())), "the server signs its time");
        self.offset_ms = time.parse::<i64>().unwrap() - now_ms();
    }
}

pub fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    since.as_millis().try_into().unwrap()
}

fn nonce() -> String {
    let half = || RandomState::new().hash_one("nonce");
    format!("{:016x}{:016x}", half(), half())
}

fn hmac(key: &[u8], text: &[u8]) -> Vec<u8> {
    let mut block = [0; 64];
    match key.len() {
        0..=64 => block[..key.len()].copy_from_slice(key),
        _ => block[..32].copy_from_slice(&Sha256::digest(key)),
    }
    let inner = Sha256::new().chain_update(block.map(|byte| byte ^ 0x36)).chain_update(text).finalize();
    Sha256::new().chain_update(block.map(|byte| byte ^ 0x5c)).chain_update(inner).finalize().to_vec()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hmac_is_that_of_rfc_4231() {
        let expected = "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843";
        assert_eq!(hex(&hmac(b"Jefe", b"what do ya want for nothing?")), expected);
        let expected = "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54";
        let text = b"Test Using Larger Than Block-Size Key - Hash Key First";
        assert_eq!(hex(&hmac(&[0xaa; 131], text)), expected);
    }
}
