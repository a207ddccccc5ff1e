//! Deployments of several servers on one bucket: any of them answers, and one of them pulls.

use testkit::bucket::{Service, TestBucket};
use testkit::link::Link;
use testkit::{Case, trial};

use super::paged::{ACCEPT, MANY, is_kept, many, pointers};
use super::{OFTEN, Site};
use crate::bucket_programs::upgrade_now;

pub(super) fn cases() -> Vec<Case> {
    let (service, needs) = (Service::Gcs, Service::Gcs.needs_here());
    let bucket = move || service.start_here();
    vec![
        trial("two servers of a bucket answer pages in turn", None, move || in_turn(&bucket().bucket()))
            .needs(needs),
        trial("two servers of a bucket answer the pages of a long log in turn", None, move || {
            pages_in_turn(&bucket().bucket());
        })
        .needs(needs),
        trial("one of two servers of a bucket pulls for both", None, move || {
            one_pulls(&bucket().bucket());
        })
        .needs(needs),
        trial("another server of a bucket pulls when the first is killed", None, move || {
            taken_over(&bucket().bucket());
        })
        .needs(needs)
        .slow(),
    ]
}

const OFFER: &str = "offer = [\"*\"]";
const EVENTS: &str = "/sync/v1/events";

/// Makes the two servers of a deployment. They have the same upstream.
fn servers(name: &str, bucket: &TestBucket) -> [Site; 2] {
    upgrade_now(bucket, "creation");
    let first = Site::new(name);
    let mut sites = [Site { upstream: first.upstream.clone(), ..Site::new(name) }, first];
    for site in &mut sites {
        site.variables = bucket.environment();
        site.variables.push(("STOA_BUCKET_URL".to_owned(), bucket.url().to_owned()));
    }
    sites
}

fn in_turn(bucket: &TestBucket) {
    let mut sites = servers("m", bucket);
    let mut a = Site::new("a");
    let to_m = Link::among(&[sites[0].address, sites[1].address]);
    a.add_peer("m", to_m.url(), &[OFFER, OFTEN]);
    for site in &mut sites {
        site.add_peer("a", &super::url(a.address), &[OFFER, OFTEN]);
        site.start();
    }
    let before: Vec<_> = (0..10).map(|n| sites[n % 2].publish(&format!("example.com/m@v1.{n}.0"))).collect();
    a.start();
    let after: Vec<_> = (10..20).map(|n| sites[n % 2].publish(&format!("example.com/m@v1.{n}.0"))).collect();
    for module in before.iter().chain(&after) {
        a.wait_for(module);
    }
    // Each of the two has an index of its own, and A follows both.
    testkit::until("the queue is empty", || a.peer("m")["queued"] == 0);
    for module in before.iter().chain(&after) {
        assert_eq!(to_m.asked(&module.path("zip")), 1, "{}", module.version);
    }
    assert!(a.conflicts().is_empty());
}

/// A log of more than one page: the next server answers the request for the second page, from its own index.
fn pages_in_turn(bucket: &TestBucket) {
    bucket.save_all(many());
    let mut sites = servers("m", bucket);
    let mut a = Site::new("a");
    let to_m = Link::among(&[sites[0].address, sites[1].address]);
    a.add_peer("m", to_m.url(), &[OFFER, OFTEN, ACCEPT]);
    for site in &mut sites {
        site.add_peer("a", &super::url(a.address), &[OFFER, OFTEN]);
        site.start();
        testkit::until("the index has all versions", || {
            site.signer("a").post(site.address, EVENTS, "{\"pointers\":{}}").text().contains(&current(MANY))
        });
    }
    a.start();
    // Both servers get versions while A is between two pages.
    let later: Vec<_> =
        (0..10).map(|n| sites[n % 2].publish(&format!("example.com/m/kept@v1.{n}.0"))).collect();
    let kept: Vec<_> = many().filter(is_kept).chain(later).collect();
    for module in &kept {
        a.wait_for(module);
    }
    testkit::until("the queue is empty", || a.peer("m")["queued"] == 0);
    let asked = pointers(&to_m);
    let indexes: std::collections::BTreeSet<_> = asked.iter().map(|(index, _)| index).collect();
    assert_eq!(indexes.len(), 2, "A follows the indexes of both servers");
    let is_inside = |seq: u64| 0 < seq && seq < MANY as u64;
    assert!(asked.iter().any(|(_, seq)| is_inside(*seq)), "no pull began in the middle of a log: {asked:?}");
    for module in &kept {
        assert_eq!(to_m.asked(&module.path("zip")), 1, "{}", module.version);
    }
    assert!(a.conflicts().is_empty());
}

/// Returns the part of an answer that says how many events a log has.
fn current(events: usize) -> String {
    format!("\"current\":{events},")
}

/// Starts the deployment m with some versions, and two servers of a bucket that pull from it.
fn pulling(bucket: &TestBucket) -> (Site, [Site; 2], Link) {
    let (mut m, mut sites) = (Site::new("m"), servers("a", bucket));
    let (to_m, to_a) = (Link::to(m.address), Link::among(&[sites[0].address, sites[1].address]));
    m.add_peer("a", to_a.url(), &[OFFER, OFTEN, "push = false"]);
    m.start();
    for site in &mut sites {
        site.add_peer("m", to_m.url(), &[OFFER, OFTEN]);
        site.start();
    }
    (m, sites, to_m)
}

/// Waits until a server has a version without asking anybody but the bucket.
fn wait_for(site: &Site, module: &testkit::Module) {
    let local = [("Disable-Module-Fetch", "true")];
    testkit::until(&format!("{} is in the bucket", module.version), || {
        let reply = site.server().ask("GET", &module.path("zip"), &local);
        reply.status == 200 && reply.body == module.zip
    });
}

fn one_pulls(bucket: &TestBucket) {
    let (m, sites, to_m) = pulling(bucket);
    let modules: Vec<_> = (0..10).map(|n| m.publish(&format!("example.com/m@v1.{n}.0"))).collect();
    for module in &modules {
        for site in &sites {
            wait_for(site, module);
        }
        assert_eq!(to_m.asked(&module.path("zip")), 1, "{}", module.version);
    }
}

fn taken_over(bucket: &TestBucket) {
    let (m, mut sites, to_m) = pulling(bucket);
    let first = m.publish("example.com/m@v1.0.0");
    wait_for(&sites[0], &first);
    // Whichever of the two pulls: each is killed once, and the other goes on.
    for (number, victim) in [(1, 0), (2, 1)] {
        sites[victim].kill();
        let module = m.publish(&format!("example.com/m@v1.{number}.0"));
        let began = std::time::Instant::now();
        let local = [("Disable-Module-Fetch", "true")];
        let other = &sites[1 - victim];
        while other.server().ask("GET", &module.path("zip"), &local).status != 200 {
            assert!(began.elapsed().as_secs() < 300, "nobody pulls after the kill of a server");
            std::thread::sleep(std::time::Duration::from_millis(500));
        }
        assert_eq!(to_m.asked(&module.path("zip")), 1, "{}", module.version);
        sites[victim].start();
    }
}
