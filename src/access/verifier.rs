//! From credentials to a user.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hyper::HeaderMap;
use quick_cache::sync::Cache;
use ring::hmac;
use ring::rand::SystemRandom;
use sha2::{Digest, Sha256};

use super::Refusal;
use super::credentials::Credentials;
use super::hashing::{Hashing, Tag};
use super::users::{MIN_TOKEN, Users};
use crate::request::Identity;

/// Number of verified pairs of user and password that are remembered.
const MAX_VERIFIED: usize = 4096;

/// Number of wrong pairs that are remembered, and the time for which they are.
const MAX_WRONG: usize = 1024;
const WRONG_TIME: Duration = Duration::from_secs(60);

/// Verifies the credentials of requests.
#[derive(Debug)]
pub(super) struct Verifier {
    passwords: HashMap<Arc<str>, Arc<str>>,
    /// The users, by the keyed hash of the hash of each token. A client cannot choose a key that is near to another, so the
    /// duration of a look-up tells it nothing.
    tokens: HashMap<Tag, Arc<str>>,
    /// Hashes that no password has, with the costs of the passwords in the file.
    impossible: Vec<Arc<str>>,
    key: hmac::Key,
    /// Only right pairs, so a storm of wrong ones displaces none.
    verified: Cache<Tag, Arc<str>>,
    wrong: Cache<Tag, Instant>,
    hashing: Hashing,
}

impl Verifier {
    /// Begins with an empty memory and a new key.
    pub(super) fn new(users: Users) -> Result<Self, String> {
        let key = hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new());
        let key = key.map_err(|_| "the system has no random numbers")?;
        let mut costs = users.costs;
        // Without any password, one of a usual cost is checked.
        if costs.is_empty() {
            costs.push(10);
        }
        Ok(Self {
            passwords: users.passwords,
            tokens: users.tokens.into_iter().map(|(hash, name)| (tag(&key, &[&hash]), name)).collect(),
            impossible: costs.into_iter().map(impossible).collect(),
            key,
            verified: Cache::new(MAX_VERIFIED),
            wrong: Cache::new(MAX_WRONG),
            hashing: Hashing::new(),
        })
    }

    /// Returns the user of a request.
    pub(super) async fn identify(
        &self,
        headers: &HeaderMap,
        address: Option<IpAddr>,
    ) -> Result<Identity, Refusal> {
        let (user, password) = match Credentials::of(headers)? {
            None => return Ok(Identity::Anonymous),
            Some(Credentials::Token(token)) => {
                let owner = self.owner(token).ok_or(Refusal::WrongCredentials)?;
                return Ok(Identity::User(Arc::clone(owner)));
            }
            Some(Credentials::Login { user, password }) => (user, password),
        };
        let tag = tag(&self.key, &[user.as_bytes(), b"\0", password.as_bytes()]);
        if let Some(name) = self.verified.get(&tag) {
            return Ok(Identity::User(name));
        }
        if let Some(owner) = self.owner(&password).filter(|owner| ***owner == *user) {
            self.verified.insert(tag, Arc::clone(owner));
            return Ok(Identity::User(Arc::clone(owner)));
        }
        if self.wrong.get(&tag).is_some_and(|noted| noted.elapsed() < WRONG_TIME) {
            return Err(Refusal::WrongCredentials);
        }
        // Its state is allocated only if a hash must be computed.
        Box::pin(self.verify(tag, &user, &password, address)).await
    }

    /// Verifies a password by its hash. A user without a password costs the same.
    async fn verify(
        &self,
        tag: Tag,
        user: &str,
        password: &str,
        address: Option<IpAddr>,
    ) -> Result<Identity, Refusal> {
        let known = self.passwords.get_key_value(user);
        let hash = known.map_or_else(|| self.impossible_for(user), |(_, hash)| Arc::clone(hash));
        let is_right = self.hashing.verify(tag, address, hash, password).await?;
        match known.filter(|_| is_right) {
            Some((name, _)) => {
                self.verified.insert(tag, Arc::clone(name));
                Ok(Identity::User(Arc::clone(name)))
            }
            None => {
                self.wrong.insert(tag, Instant::now());
                Err(Refusal::WrongCredentials)
            }
        }
    }

    /// Returns the user of a token.
    fn owner(&self, token: &str) -> Option<&Arc<str>> {
        if token.len() < MIN_TOKEN || self.tokens.is_empty() {
            return None;
        }
        self.tokens.get(&tag(&self.key, &[&Sha256::digest(token)]))
    }

    /// Returns a hash that no password has. Its cost is that of some password, always the same for a name, so unknown names
    /// have the same costs as known ones.
    fn impossible_for(&self, user: &str) -> Arc<str> {
        let number = tag(&self.key, &[user.as_bytes()]);
        let number = u64::from_le_bytes(std::array::from_fn(|n| number[n])) as usize;
        Arc::clone(&self.impossible[number % self.impossible.len()])
    }

    /// Returns the thread and its queue.
    #[cfg(test)]
    pub(super) fn hashing(&self) -> &Hashing {
        &self.hashing
    }
}

fn tag(key: &hmac::Key, parts: &[&[u8]]) -> Tag {
    let mut context = hmac::Context::with_key(key);
    parts.iter().for_each(|part| context.update(part));
    let signed = context.sign();
    std::array::from_fn(|n| signed.as_ref()[n])
}

/// Returns a hash of a cost. Nobody knows a password for it.
fn impossible(cost: u32) -> Arc<str> {
    format!("$2y${cost:02}${}", ".".repeat(53)).into()
}
