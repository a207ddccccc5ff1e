//! The root certificates of a peer with `ca_file`.

use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use stoa::sync::{Peer, Secret};
use stoa::upstream::{PeerClient, UpstreamError, UpstreamOptions};
use stoa_gomod::private::Patterns;
use testkit::{Case, missing_tool, trial};

use super::https::{Https, reply};

pub(crate) fn cases() -> Vec<Case> {
    let missing = || missing_tool("openssl", &["version"]);
    vec![trial("only the roots in ca_file are accepted for a peer", missing(), only_own_roots)]
}

fn only_own_roots() {
    let folders = [testkit::tempdir(), testkit::tempdir()];
    let [peer, other] = [0, 1]
        .map(|n: usize| Https::start(folders[n].path(), &["peer.example"], |_| reply("200 OK", "", b"{}")));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let post = |server: &Https, roots: &Https| {
        let table = Peer {
            name: "there".to_owned(),
            url: format!("https://{}", server.address).parse().unwrap(),
            secret: Secret::new(&[7; 32]),
            ca: Some(vec![CertificateDer::from_pem_file(&roots.certificate).unwrap()]),
            pull: true,
            push: true,
            offer: Patterns::default(),
            accept: Patterns::parse("*"),
            accept_tombstones: false,
            interval: Duration::from_secs(60),
            bandwidth: None,
        };
        let client = PeerClient::new("here", &Arc::new(table), &UpstreamOptions::default()).unwrap();
        runtime.block_on(client.post("/sync/v1/events", b"{}".to_vec(), Duration::from_secs(30)))
    };
    assert_eq!(post(&peer, &peer).unwrap().status(), 200);
    assert_eq!(post(&other, &other).unwrap().status(), 200);
    for (server, roots) in [(&peer, &other), (&other, &peer)] {
        let error = post(server, roots).unwrap_err();
        let is_refused =
            matches!(&error, UpstreamError::Transport { reason, .. } if reason.contains("certificate"));
        assert!(is_refused, "{error}");
    }
}
