//! Access: the users of a server, and the modules that each may read.
//!
//! A request proves its user by a password (bcrypt) or by a token. A verified pair of user and password is remembered by a
//! keyed hash, so only the first request of a user waits for bcrypt. The first table whose pattern matches a module decides
//! who may read the module. Patterns ignore the case of letters, because some hosts do: `github.com/acme/x` must not be a way
//! around a table for `github.com/Acme`.
//!
//! | module | content |
//! | --- | --- |
//! | `credentials` | the header `Authorization` |
//! | `users` | the users file |
//! | `verifier` | from credentials to a user, and the memory of verified ones |
//! | `hashing` | the thread that computes bcrypt, and its queue |

mod credentials;
mod hashing;
mod users;
mod verifier;

#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Arc;

use arc_swap::ArcSwap;
use hyper::HeaderMap;
use stoa_gomod::private::Patterns;

use self::verifier::Verifier;
use crate::request::Identity;

pub use self::users::{Users, token_line};

/// The access rights of a server.
#[derive(Debug, Default)]
pub struct Access {
    /// `None` if the server has no users. Everybody is anonymous then.
    verifier: Option<Verifier>,
    rules: Vec<AccessRule>,
    otherwise: Readers,
}

/// The readers of the modules of some patterns.
#[derive(Debug)]
pub struct AccessRule {
    /// The modules. The patterns should ignore the case of letters.
    pub patterns: Patterns,
    /// The readers of these modules.
    pub readers: Readers,
}

/// Users who may read a module.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Readers {
    /// Every client, with or without credentials.
    #[default]
    Anyone,
    /// Every user.
    Authenticated,
    /// Some users.
    Named(HashSet<Arc<str>>),
}

/// The reason why a request is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    /// The request has no credentials, and needs some.
    #[error("this request needs a user and a password or token")]
    Unauthenticated,
    /// The credentials are wrong.
    #[error("wrong user, password or token")]
    WrongCredentials,
    /// The user may not read the module, or nothing at all.
    #[error("{user} may not read {what}")]
    Forbidden {
        /// The user.
        user: Arc<str>,
        /// The module, as the client named it.
        what: String,
    },
    /// Too many passwords are waiting to be checked.
    #[error("too many passwords are waiting to be checked")]
    Busy,
}

impl Access {
    /// Returns the access rights with some users. The first rule that matches a module decides, then `otherwise`.
    ///
    /// # Errors
    ///
    /// Fails if the system has no random numbers.
    pub fn new(users: Option<Users>, rules: Vec<AccessRule>, otherwise: Readers) -> Result<Self, String> {
        let verifier = users.map(Verifier::new).transpose()?;
        Ok(Self { verifier, rules, otherwise })
    }

    /// Returns the user of a request. `address` is that of the client.
    pub(crate) async fn identify(
        &self,
        headers: &HeaderMap,
        address: Option<IpAddr>,
    ) -> Result<Identity, Refusal> {
        match &self.verifier {
            None => Ok(Identity::Anonymous),
            Some(verifier) => verifier.identify(headers, address).await,
        }
    }

    /// Returns whether a client may read a module.
    pub(crate) fn may_read(&self, caller: &Identity, module: &str) -> bool {
        self.readers(module).admit(caller)
    }

    /// Returns whether requests may have a user.
    pub(crate) fn has_users(&self) -> bool {
        self.verifier.is_some()
    }

    /// Returns whether every client may read every module.
    pub(crate) fn is_open(&self) -> bool {
        self.otherwise == Readers::Anyone && self.rules.iter().all(|rule| rule.readers == Readers::Anyone)
    }

    /// Returns whether a client may read some modules. Otherwise it gets no list and no page.
    pub(crate) fn may_read_some(&self, caller: &Identity) -> bool {
        self.otherwise.admit(caller) || self.rules.iter().any(|rule| rule.readers.admit(caller))
    }

    /// Checks that a client may read a module. Without a module, checks that it may read some.
    pub(crate) fn check(&self, caller: &Identity, module: Option<&str>) -> Result<(), Refusal> {
        let is_admitted = match module {
            Some(module) => self.may_read(caller, module),
            None => self.may_read_some(caller),
        };
        let what = || module.map_or_else(|| "modules of this proxy".to_owned(), str::to_owned);
        match caller {
            _ if is_admitted => Ok(()),
            Identity::Anonymous => Err(Refusal::Unauthenticated),
            Identity::User(name) | Identity::Peer(name) => {
                Err(Refusal::Forbidden { user: Arc::clone(name), what: what() })
            }
        }
    }

    fn readers(&self, module: &str) -> &Readers {
        let matching = self.rules.iter().find(|rule| rule.patterns.matches(module));
        matching.map_or(&self.otherwise, |rule| &rule.readers)
    }
}

impl Readers {
    /// The word for everybody.
    pub(crate) const ANYONE: &str = "anyone";
    /// The word for every user.
    pub(crate) const AUTHENTICATED: &str = "authenticated";

    /// Returns the readers of a list of names and words.
    pub fn of<'a>(names: impl IntoIterator<Item = &'a str>) -> Self {
        let names: HashSet<Arc<str>> = names.into_iter().map(Arc::from).collect();
        match names {
            names if names.contains(Self::ANYONE) => Self::Anyone,
            names if names.contains(Self::AUTHENTICATED) => Self::Authenticated,
            names => Self::Named(names),
        }
    }

    /// Returns whether a name is one of the two words.
    pub(crate) fn is_word(name: &str) -> bool {
        [Self::ANYONE, Self::AUTHENTICATED].contains(&name)
    }

    fn admit(&self, caller: &Identity) -> bool {
        match (self, caller) {
            (Self::Anyone, _) => true,
            (_, Identity::Anonymous) => false,
            (Self::Authenticated, _) => true,
            (Self::Named(names), Identity::User(name)) => names.contains(name),
            (Self::Named(_), Identity::Peer(_)) => false,
        }
    }
}

/// The access rights of a server, which a reload replaces.
#[derive(Debug, Default)]
pub struct AccessCell(ArcSwap<Access>);

impl AccessCell {
    /// Begins with some access rights.
    pub fn new(access: Access) -> Self {
        Self(ArcSwap::from_pointee(access))
    }

    /// Returns the access rights of this moment. A request keeps them to its end.
    pub(crate) fn load(&self) -> Arc<Access> {
        self.0.load_full()
    }

    /// Replaces the access rights. Remembered passwords are forgotten, so a changed password counts at once.
    pub fn replace(&self, access: Access) {
        self.0.store(Arc::new(access));
    }
}
