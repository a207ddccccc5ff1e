//! The receiver of signed requests, which accepts or refuses them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ring::hmac;

use super::nonces::{Nonces, Unusable};
use super::peer::Peer;
use super::signature::{self, Credential, Signed};
use crate::lock::lock;

/// The maximum difference between the time of a request and the clock of the receiver, in milliseconds.
const WINDOW_MS: i64 = 60_000;

/// Accepts the requests of the peers of a deployment.
#[derive(Debug)]
pub struct Gatekeeper {
    own: String,
    started_ms: i64,
    peers: HashMap<String, Known>,
}

#[derive(Debug)]
struct Known {
    peer: Arc<Peer>,
    key: hmac::Key,
    nonces: Mutex<Nonces>,
}

/// The reason why a request is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The header does not have the form of a signature.
    #[error("the signature is malformed")]
    Malformed,
    /// The request is for another deployment.
    #[error("the request is for the deployment {0:?}; the sender has another name for this one (peers.name)")]
    OtherReceiver(String),
    /// No peer has the name of the sender.
    #[error("no peer has the name {0:?} in the configuration")]
    Unknown(String),
    /// The HMAC is wrong.
    #[error("the signature of {0} is wrong: its secret, or the method, path or body of the request differs")]
    Forged(String),
    /// The HMAC is right, and the time is wrong.
    #[error("the time of {peer} differs by {by_ms} ms, or is before the start of this server")]
    WrongTime {
        /// The sender.
        peer: String,
        /// The time of the sender minus that of the receiver.
        by_ms: i64,
        /// The value of the header [`PEER_TIME`](super::PEER_TIME) of the answer.
        header: String,
    },
    /// The request was accepted before.
    #[error("the request of {0} was received before")]
    Replayed(String),
    /// The peer has sent too many requests.
    #[error("{peer} sends too many requests")]
    TooMany {
        /// The sender.
        peer: String,
        /// The time until the next request is accepted.
        retry_after: Duration,
    },
}

impl Refusal {
    /// Returns the status of the answer.
    pub fn status(&self) -> u16 {
        if matches!(self, Self::TooMany { .. }) { 503 } else { 401 }
    }

    /// Returns the reason for the sender. Only a sender that has the secret gets one: the names of peers concern nobody
    /// else.
    pub fn for_sender(&self) -> String {
        match self {
            Self::Malformed => self.to_string(),
            Self::OtherReceiver(_) | Self::Unknown(_) | Self::Forged(_) => {
                "the signature is not accepted; the reason is in the log of the server that refused it"
                    .to_owned()
            }
            Self::WrongTime { .. } => "the time of the request is wrong".to_owned(),
            Self::Replayed(_) => "the request was received before".to_owned(),
            Self::TooMany { .. } => "too many requests".to_owned(),
        }
    }
}

impl Gatekeeper {
    /// Accepts requests to the deployment `own` from its peers. Requests that were signed before `started_ms` are refused,
    /// since an earlier process may have accepted them.
    pub fn new(own: &str, peers: impl IntoIterator<Item = Arc<Peer>>, started_ms: i64) -> Self {
        let known = peers.into_iter().map(|peer| {
            // A request may come as early as its window begins, and again as late as its window ends.
            let (key, nonces) = (peer.secret.key(), Mutex::new(Nonces::new(2 * WINDOW_MS)));
            (peer.name.clone(), Known { peer, key, nonces })
        });
        Self { own: own.to_owned(), started_ms, peers: known.collect() }
    }

    /// Returns whether the value of a header `Authorization` must be given to [`check`](Self::check).
    pub fn concerns(authorization: &str) -> bool {
        signature::is_of_peer(authorization)
    }

    /// Returns the peer that sent a request, and the hash that its body must have. `target` is the path with the query,
    /// relative to the base path of this server.
    pub fn check(
        &self,
        method: &str,
        target: &str,
        authorization: &str,
        now_ms: i64,
    ) -> Result<(&Arc<Peer>, [u8; 32]), Refusal> {
        let Credential { from, to, time_ms, nonce, body_sha256, mac } =
            Credential::parse(authorization).ok_or(Refusal::Malformed)?;
        if to != self.own {
            return Err(Refusal::OtherReceiver(to.to_owned()));
        }
        let known = self.peers.get(from).ok_or_else(|| Refusal::Unknown(from.to_owned()))?;
        let sender = || from.to_owned();
        let signed = Signed { method, target, from, to, time_ms, nonce };
        if !signed.is_signed_by(&known.key, body_sha256, &mac) {
            return Err(Refusal::Forged(sender()));
        }
        let by_ms = time_ms.saturating_sub(now_ms);
        if by_ms.saturating_abs() > WINDOW_MS || time_ms < self.started_ms {
            let header = signature::peer_time(&known.key, to, from, nonce, now_ms);
            return Err(Refusal::WrongTime { peer: sender(), by_ms, header });
        }
        match lock(&known.nonces).use_up(nonce, now_ms) {
            Ok(()) => Ok((&known.peer, body_sha256)),
            Err(Unusable::Used) => Err(Refusal::Replayed(sender())),
            Err(Unusable::Full(retry_after)) => Err(Refusal::TooMany { peer: sender(), retry_after }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::peer::tests::peer;
    use super::super::signature::{Nonce, Signer, sha256};
    use super::*;

    const SECRET: &str = "a secret of at least 32 characters";
    const OTHER: &str = "the secret of c, of 32 characters!";
    const START: i64 = 1_700_000_000_000;
    const NOW: i64 = START + 3_600_000;

    /// The deployment b, whose peers are a and c.
    fn gatekeeper() -> Gatekeeper {
        let peers = [peer("a", SECRET), peer("c", OTHER)];
        Gatekeeper::new("b", peers.into_iter().map(Arc::new), START)
    }

    fn signer(own: &str, to: &str, secret: &str) -> Signer {
        Signer::new(own, &peer(to, secret))
    }

    /// Returns the answer to a request of a to b, of the time `signed_ms`.
    fn answer_at(signed_ms: i64, now_ms: i64) -> Result<(), Refusal> {
        let hash = sha256(b"");
        let signed = signer("a", "b", SECRET).authorization("GET", "/m", hash, Nonce::random(), signed_ms);
        gatekeeper().check("GET", "/m", &signed, now_ms).map(drop)
    }

    #[test]
    fn a_signed_request_names_its_peer() {
        let (gate, hash) = (gatekeeper(), sha256(b"x"));
        for (from, secret) in [("a", SECRET), ("c", OTHER)] {
            let value = signer(from, "b", secret).authorization("POST", "/m?x", hash, Nonce::random(), NOW);
            assert!(Gatekeeper::concerns(&value));
            let (sender, body) = gate.check("POST", "/m?x", &value, NOW).unwrap();
            assert_eq!((sender.name.as_str(), body), (from, hash));
        }
    }

    #[test]
    fn a_signature_is_of_one_request() {
        let (gate, hash) = (gatekeeper(), sha256(b"x"));
        let value = signer("a", "b", SECRET).authorization("POST", "/m", hash, Nonce::random(), NOW);
        for (method, target) in [("GET", "/m"), ("POST", "/n"), ("POST", "/m?")] {
            let refused = gate.check(method, target, &value, NOW).unwrap_err();
            assert_eq!(refused, Refusal::Forged("a".to_owned()), "{method} {target}");
        }
        for (part, other) in
            [(NOW.to_string(), (NOW + 1).to_string()), ("nonce=\"".into(), "nonce=\"0".into())]
        {
            let forged = value.replacen(&part, &other, 1);
            assert!(gate.check("POST", "/m", &forged, NOW).is_err(), "{forged}");
        }
        let of_other_body =
            signer("a", "b", SECRET).authorization("POST", "/m", sha256(b"y"), Nonce::random(), NOW);
        let part_of = |value: &str| value.split_once("body=\"").unwrap().1[..64].to_owned();
        let forged = value.replace(&part_of(&value), &part_of(&of_other_body));
        assert_eq!(gate.check("POST", "/m", &forged, NOW).unwrap_err(), Refusal::Forged("a".to_owned()));
        let mac = value.trim_end_matches('"').rsplit_once('"').unwrap().1;
        let forged = value.replace(mac, &"0".repeat(64));
        assert_eq!(gate.check("POST", "/m", &forged, NOW).unwrap_err(), Refusal::Forged("a".to_owned()));
        gate.check("POST", "/m", &value, NOW).expect("no refused request has used up the nonce");
    }

    #[test]
    fn a_request_for_another_deployment_is_refused() {
        let (gate, hash) = (gatekeeper(), sha256(b""));
        let check = |value: &str| gate.check("GET", "/m", value, NOW).unwrap_err();
        let signed = |own: &str, to: &str, secret: &str| {
            signer(own, to, secret).authorization("GET", "/m", hash, Nonce::random(), NOW)
        };
        assert_eq!(check(&signed("a", "d", SECRET)), Refusal::OtherReceiver("d".to_owned()));
        // A request of b itself that comes back, as it was sent and with the names swapped.
        let own = signed("b", "a", SECRET);
        assert_eq!(check(&own), Refusal::OtherReceiver("a".to_owned()));
        let swapped = own.replace("from=\"b\", to=\"a\"", "from=\"a\", to=\"b\"");
        assert_eq!(check(&swapped), Refusal::Forged("a".to_owned()));
        // A peer in the name of another, and one that is no peer.
        assert_eq!(check(&signed("c", "b", SECRET)), Refusal::Forged("c".to_owned()));
        assert_eq!(check(&signed("d", "b", SECRET)), Refusal::Unknown("d".to_owned()));
        assert_eq!(check("Stoa-Peer from=\"a\""), Refusal::Malformed);
    }

    #[test]
    fn strangers_learn_no_names() {
        let reasons = [
            Refusal::OtherReceiver("secret-name".to_owned()),
            Refusal::Unknown("secret-name".to_owned()),
            Refusal::Forged("secret-name".to_owned()),
        ];
        let texts: Vec<String> = reasons.iter().map(Refusal::for_sender).collect();
        assert!(texts.iter().all(|text| *text == texts[0] && !text.contains("secret-name")), "{texts:?}");
    }

    #[test]
    fn a_request_is_accepted_once() {
        let (gate, hash) = (gatekeeper(), sha256(b""));
        let value = signer("a", "b", SECRET).authorization("GET", "/m", hash, Nonce::random(), NOW);
        let check = |now_ms| gate.check("GET", "/m", &value, now_ms).map(drop);
        check(NOW - WINDOW_MS).unwrap();
        for now in [NOW - WINDOW_MS, NOW, NOW + WINDOW_MS] {
            assert_eq!(check(now), Err(Refusal::Replayed("a".to_owned())), "{now}");
        }
        assert!(matches!(check(NOW + WINDOW_MS + 1), Err(Refusal::WrongTime { .. })));
    }

    #[test]
    fn a_request_of_another_time_is_refused() {
        for now in [NOW - WINDOW_MS, NOW, NOW + WINDOW_MS] {
            answer_at(NOW, now).unwrap();
        }
        for now in [NOW - WINDOW_MS - 1, NOW + WINDOW_MS + 1, 0] {
            assert!(matches!(answer_at(NOW, now), Err(Refusal::WrongTime { .. })), "{now}");
        }
        // An earlier process may have accepted what was signed before this one started.
        answer_at(START, START + 1).unwrap();
        assert!(matches!(answer_at(START - 1, START + 1), Err(Refusal::WrongTime { .. })));
    }

    #[test]
    fn a_sender_whose_clock_differs_learns_the_time() {
        let (gate, hash, signer) = (gatekeeper(), sha256(b""), signer("a", "b", SECRET));
        for wrong in [NOW - 7_200_000, NOW + 7_200_000] {
            let nonce = Nonce::random();
            let first = signer.authorization("GET", "/m", hash, nonce, wrong);
            let Err(Refusal::WrongTime { header, .. }) = gate.check("GET", "/m", &first, NOW) else {
                panic!("the time is right");
            };
            assert!(
                !signer.learn_time(Nonce::random(), &header, wrong),
                "it is the answer to another request"
            );
            assert!(signer.learn_time(nonce, &header, wrong));
            let second = signer.authorization("GET", "/m", hash, Nonce::random(), wrong);
            gate.check("GET", "/m", &second, NOW).unwrap();
        }
    }

    #[test]
    fn refusals_have_a_status() {
        assert_eq!(Refusal::Malformed.status(), 401);
        let full = Refusal::TooMany { peer: "a".to_owned(), retry_after: Duration::from_secs(1) };
        assert_eq!(full.status(), 503);
    }
}
