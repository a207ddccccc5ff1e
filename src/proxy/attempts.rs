//! The attempts of a request to get a version that is not stored: from peers that have named it, and by the rule of its
//! module.

use stoa_store::VersionFile;

use super::answer::Response;
use super::problem::{Problem, Subject};
use super::{Client, Proxy};
use crate::fill::{Arrival, Expected, Joined, Waiter, Want};
use crate::policy::{Mode, Permit};
use crate::sync::Source;
use crate::tasks::{How, note};
use crate::unavailable::Unavailable;

/// The number of peers that a request tries before the upstreams of the rule.
const MAX_PEERS: usize = 2;

/// The number of times that a version may appear and disappear during one request, and its attempts at peers.
const MAX_ATTEMPTS: usize = 4 + MAX_PEERS;

/// The attempts of a request so far.
#[derive(Debug, Default)]
pub(super) struct Attempts {
    count: usize,
    /// The peers that were tried in vain.
    tried: Vec<String>,
    /// The last failure of a peer, unless the peer does not have the version.
    of_peer: Option<Unavailable>,
}

impl Attempts {
    /// Counts an attempt. Returns whether it is allowed.
    pub(super) fn begin(&mut self) -> bool {
        self.count += 1;
        self.count <= MAX_ATTEMPTS
    }

    /// Returns whether the request starts again after a failed flight. `peer` is the peer that it tried.
    fn goes_on_after(
        &mut self,
        error: &Unavailable,
        joined: Joined,
        peer: Option<String>,
        mode: Mode,
    ) -> bool {
        if self.count >= MAX_ATTEMPTS {
            return false;
        }
        match (error, peer) {
            // Another place of the version changes nothing about these.
            (
                Unavailable::Gone(_)
                | Unavailable::Store(_)
                | Unavailable::Busy(_)
                | Unavailable::Crowded { .. }
                | Unavailable::Held { .. }
                | Unavailable::Stopping(_),
                _,
            ) => false,
            _ if joined == Joined::OtherUpstream => true,
            // Only the request that started the flight has passed a loop.
            (Unavailable::Loop(_), _) if joined == Joined::Same => true,
            // The bucket has the version, and it cannot be read there.
            (Unavailable::NotFetched(_), _) if mode != Mode::None => true,
            // A peer that lies must not keep a version from clients.
            (error, Some(peer)) => {
                self.tried.push(peer);
                self.of_peer = Some(error.clone()).filter(|error| !matches!(error, Unavailable::Absent(_)));
                true
            }
            (_, None) => false,
        }
    }

    /// Returns the answer after the last failed flight. Without upstreams, the failure of a peer is not an absence.
    fn answer(self, error: &Unavailable) -> Response {
        let of_peer = match error {
            Unavailable::Offline(_) | Unavailable::NotFetched(_) => self.of_peer,
            _ => None,
        };
        Problem::Failed(of_peer.as_ref().unwrap_or(error), Subject::File).answer()
    }
}

impl Proxy {
    /// Gets a version that is not stored, from a peer or by its rule, and waits for a part of it. If that fails and another
    /// attempt may succeed, the result is [`Arrival::Stored`] too. The error is the answer.
    pub(super) async fn fill<T, F>(
        &self,
        client: Client<'_>,
        permit: Permit<'_>,
        (file, want): (VersionFile, Want),
        attempts: &mut Attempts,
        wait: impl FnOnce(Waiter) -> F,
    ) -> Result<Arrival<T>, Box<Response>>
    where
        F: Future<Output = Result<Arrival<T>, Unavailable>>,
    {
        let source = self.source(client, permit, &attempts.tried).await;
        let (permit, expected) = with_source(permit, source.as_ref());
        let places = self.places(client, permit, file).await?;
        let (joined, filled) =
            match self.services.flights.join(permit, &client.via(), want, places, &expected) {
                Ok(waiter) => {
                    note(How::of_task(waiter.is_joined()));
                    (waiter.joined(), wait(waiter).await)
                }
                Err(error) => (Joined::No, Err(error)),
            };
        let error = match filled {
            Ok(arrival) => return Ok(arrival),
            Err(error) => error,
        };
        let mode = permit.rule().mode;
        match attempts.goes_on_after(&error, joined, source.map(|source| source.peer), mode) {
            true => Ok(Arrival::Stored),
            false => Err(Box::new(std::mem::take(attempts).answer(&error))),
        }
    }

    /// Returns a peer that has named a version which is not stored, if the client may wait for it.
    async fn source(&self, client: Client<'_>, permit: Permit<'_>, tried: &[String]) -> Option<Source> {
        let replication =
            self.replication.as_ref().filter(|_| !client.is_local && tried.len() < MAX_PEERS)?;
        replication.source(permit.version(), permit.rule(), tried).await
    }
}

/// Returns the permit and the hashes for a fill from a peer, if one has named the version.
fn with_source<'a>(permit: Permit<'a>, source: Option<&'a Source>) -> (Permit<'a>, Expected) {
    match source {
        Some(source) => {
            let zip = source.h1.clone().into_iter().collect();
            let modfile = source.gomod_h1.clone().into_iter().collect();
            (permit.with_rule(&source.rule), Expected { zip, modfile })
        }
        None => (permit, Expected::default()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_failure_of_another_list_of_upstreams_is_not_the_answer() {
        let absent = Unavailable::Absent("not found".to_owned().into());
        let begun = || {
            let mut attempts = Attempts::default();
            assert!(attempts.begin());
            attempts
        };
        let peer = || Some("a".to_owned());
        let mut attempts = begun();
        assert!(!attempts.goes_on_after(&absent, Joined::No, None, Mode::Sync));
        assert!(!attempts.goes_on_after(&absent, Joined::Same, None, Mode::Sync));
        assert!(attempts.goes_on_after(&absent, Joined::OtherUpstream, None, Mode::Sync));
        assert!(attempts.goes_on_after(&absent, Joined::OtherUpstream, peer(), Mode::Sync));
        assert!(attempts.tried.is_empty(), "the peer was not asked");
        assert!(attempts.goes_on_after(&absent, Joined::No, peer(), Mode::Sync));
        assert_eq!(attempts.tried, ["a"]);
        let stopping = Unavailable::Stopping("m".to_owned());
        assert!(!attempts.goes_on_after(&stopping, Joined::OtherUpstream, peer(), Mode::Sync));
        let mut attempts = begun();
        while attempts.goes_on_after(&absent, Joined::OtherUpstream, None, Mode::Sync) {
            assert!(attempts.begin(), "a request that goes on has another attempt");
        }
        assert!(!attempts.begin(), "the attempts have an end");
    }
}
