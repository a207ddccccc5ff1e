//! Three deployments in a ring that publish at random, are killed at random, and whose lines are cut and slow.

use std::path::Path;

use testkit::link::Link;
use testkit::upstream::Module;
use testkit::{Case, trial};

use super::{OFTEN, Site};

pub(super) fn cases() -> Vec<Case> {
    let missing = (!Path::new("/proc/self/status").exists()).then(|| "there is no /proc".to_owned());
    vec![trial("three deployments in a ring that are killed at random end alike", missing, ring).slow()]
}

const VERSIONS: usize = 2000;
const SEED: u64 = 0x5eed_0019;

/// The memory that a server may need in addition to that of an idle one, in KiB.
const MOST_ABOVE_IDLE: u64 = 64 << 10;

/// The downloads that a server has at the same time, and those that its kill can interrupt: its own, and those of the other
/// two from it.
const AT_ONCE: usize = 4;
const PER_KILL: usize = 3 * AT_ONCE;

/// Numbers that are the same in each run.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % end as u64) as usize
    }
}

/// Returns a value of a process in KiB.
fn memory(site: &Site, key: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", site.server().pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(key)).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// Makes three deployments, each a peer of the other two. Returns them and the lines between them.
fn ring_of_three() -> ([Site; 3], Vec<Link>) {
    let mut sites = ["a", "b", "c"].map(Site::new);
    let mut lines = Vec::new();
    for one in 0..3 {
        for other in (0..3).filter(|other| *other != one) {
            let line = Link::to(sites[other].address);
            let name = sites[other].name.clone();
            sites[one].add_peer(&name, line.url(), &["offer = [\"*\"]", OFTEN]);
            lines.push(line);
        }
    }
    (sites, lines)
}

fn ring() {
    let (mut sites, lines) = ring_of_three();
    for site in &mut sites {
        site.start();
    }
    let idle = sites.iter().map(|site| memory(site, "VmRSS:")).max().unwrap();
    let (mut random, mut most, mut kills, mut cuts) = (Random(SEED), [0; 3], 0, 0);
    let mut modules: Vec<(usize, Module)> = Vec::new();
    for n in 0..VERSIONS {
        let at = random.below(3);
        // Only one of the three can have it from an upstream.
        let module = sites[at].upstream.offer(&format!("example.com/m{}@v1.{n}.0", n % 50), 500);
        let (status, body) = sites[at].server().get(&module.path("zip"));
        assert!(status == 200 && body == module.zip, "{status} {}", String::from_utf8_lossy(&body));
        modules.push((at, module));
        if n % 40 == 39 {
            let victim = random.below(3);
            most[victim] = most[victim].max(memory(&sites[victim], "VmHWM:"));
            sites[victim].kill();
            sites[victim].start();
            kills += 1;
        }
        if n % 25 == 24 {
            let line = &lines[random.below(lines.len())];
            match random.below(3) {
                0 => {
                    line.cut();
                    cuts += 1;
                }
                1 => line.slow(Some(20_000)),
                _ => {
                    line.heal();
                    line.slow(None);
                }
            }
        }
    }
    for line in &lines {
        line.heal();
        line.slow(None);
    }
    for (number, site) in sites.iter().enumerate() {
        for (_, module) in &modules {
            testkit::until(&format!("{} has {}", site.name, module.version), || {
                site.stored(module).is_some()
            });
            assert!(site.stored(module).as_ref() == Some(&module.zip), "{} has other bytes", site.name);
        }
        for other in ["a", "b", "c"].into_iter().filter(|other| *other != site.name) {
            site.wait_until_current(other);
            let state = site.peer(other);
            assert_eq!((&state["queued"], &state["parked"]), (&0.into(), &0.into()), "{state}");
        }
        assert!(site.conflicts().is_empty());
        most[number] = most[number].max(memory(site, "VmHWM:"));
    }
    let (mut again, mut of_peers) = (0, 0);
    for (at, module) in &modules {
        let path = module.path("zip");
        again += sites[*at].upstream.count(&path) - 1;
        of_peers += lines.iter().map(|line| line.delivered(&path)).sum::<usize>();
    }
    println!(
        "{kills} kills and {cuts} cuts; {again} versions were downloaded again from an upstream; peers were asked {of_peers} times for {} zips; \
         {idle} KiB resident at the start, at most {most:?}",
        2 * modules.len()
    );
    assert!(again <= kills, "{again} versions were downloaded again after {kills} kills");
    let bound = 2 * modules.len() + kills * PER_KILL + cuts * AT_ONCE;
    assert!(
        of_peers <= bound,
        "{of_peers} downloads from peers, and at most {bound} are due to kills and cuts"
    );
    for most in most {
        assert!(most < idle + MOST_ABOVE_IDLE, "{most} KiB were resident, {idle} KiB of an idle server");
    }
}
