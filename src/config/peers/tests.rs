#![expect(clippy::disallowed_methods, reason = "tests write config files")]

use std::fs::{self, Permissions};

use stoa_gomod::ModulePath;

use super::*;
use crate::config::{Options, World};

/// A folder with a config file and secrets.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        let folder = Self(testkit::tempdir());
        folder.secret("one", &"1".repeat(32), 0o600);
        folder.secret("two", &"2".repeat(32), 0o400);
        folder
    }

    fn secret(&self, name: &str, text: &str, mode: u32) {
        let path = self.0.path().join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
    }

    fn world(&self) -> World {
        let system_file = self.0.path().join("config.toml");
        World { variable: Box::new(|_| None), names: Vec::new(), system_file }
    }

    /// Returns the peers of a config file, or all faults.
    fn peers(&self, text: &str) -> Result<Vec<Arc<Peer>>, Vec<String>> {
        let world = self.world();
        fs::write(&world.system_file, text).unwrap();
        let settings = Settings::new(&world, None);
        let faults: Vec<String> =
            settings.faults(&Options::default()).iter().map(ToString::to_string).collect();
        let first = settings.serve(&Options::default()).and_then(|config| settings.peers(&config));
        let first = first.map_err(|error| error.to_string());
        assert_eq!(first.as_ref().err().is_none(), faults.is_empty(), "{first:?} {faults:?}");
        first.map_err(|first| {
            assert!(faults.contains(&first), "{first}: {faults:?}");
            faults
        })
    }

    /// Returns the only fault of a config file.
    fn fault(&self, text: &str) -> String {
        let faults = self.peers(text).unwrap_err();
        assert_eq!(faults.len(), 1, "{text}: {faults:#?}");
        faults.into_iter().next().unwrap()
    }
}

const MIN: &str =
    "peers.name = 'here'\n[[peer]]\nname = 'a'\nurl = 'http://a.example'\nsecret_file = 'one'\n";

#[test]
fn a_peer_has_defaults() {
    let peers = Folder::new().peers(&format!("{MIN}offer = []")).unwrap();
    let [peer] = peers.as_slice() else { panic!("{peers:?}") };
    assert_eq!((peer.name.as_str(), peer.url.as_str()), ("a", "http://a.example/"));
    assert_eq!((peer.pull, peer.push, peer.accept_tombstones), (true, true, false));
    assert_eq!((peer.interval, peer.bandwidth, peer.ca.is_none()), (Duration::from_secs(60), None, true));
    let module = ModulePath::new("a.example/x").unwrap();
    assert!(!peer.is_offered(&module) && peer.accepts(&module) && !peer.accepts_explicitly(&module));
}

#[test]
fn every_key_of_a_peer_is_read() {
    let folder = Folder::new();
    let peers = folder.peers(
        "[peers]\nname = 'here'\nmax_concurrent = 8\n[[peer]]\nname = 'a'\nurl = 'https://a.example/go/'\n\
         secret_file = 'two'\npull = false\npush = false\noffer = ['*.corp.example', 'github.com/acme']\naccept = []\n\
         accept_tombstones = true\ninterval = 5\nbandwidth = '2MiB'\n\
         [[peer]]\nname = 'b'\nurl = 'http://b.example'\nsecret_file = 'one'\noffer = []\ninterval = '2m'\nbandwidth = 0\n",
    );
    let peers = peers.unwrap();
    let (a, b) = (&peers[0], &peers[1]);
    assert_eq!((a.pull, a.push, a.accept_tombstones), (false, false, true));
    assert_eq!((a.offer.to_string().as_str(), a.accept.is_empty()), ("*.corp.example,github.com/acme", true));
    assert_eq!((a.interval, a.bandwidth), (Duration::from_secs(5), Some(2 << 20)));
    assert_eq!((b.interval, b.bandwidth), (Duration::from_secs(120), None));
    assert_ne!(a.secret, b.secret);
    let config = Settings::new(&folder.world(), None).serve(&Options::default()).unwrap();
    assert_eq!((config.peers_name.as_deref(), config.peers_max_concurrent), (Some("here"), 8));
    assert_eq!(config.peers.len(), 2);
}

#[test]
fn a_wrong_key_of_a_peer_is_named() {
    let folder = Folder::new();
    for (line, part) in [
        ("name = 'A'", "expected a name of 1 to 64 characters"),
        ("name = ''", "expected a name of 1 to 64 characters"),
        ("url = 'a.example'", "expected a URL"),
        ("url = 'https://me:hidden@a.example'", "credentials do not belong"),
        ("url = 'https://a.example/?a=hidden'", "without a query"),
        ("url = 'ftp://a.example'", "expected an http or https URL"),
        ("secret_file = '~/one'", "does not expand ~"),
        ("offer = '*'", "expected a list of strings"),
        ("offer = ['']", "an empty pattern"),
        ("offer = ['a.b,c.d']", "expected one pattern in each"),
        ("accept = ['https://a.b']", "scheme"),
        ("pull = 'false'", "expected true or false, without quotes"),
        ("accept_tombstones = 1", "expected true or false, without quotes"),
        ("interval = 'soon'", "expected a duration"),
        ("bandwidth = 'fast'", "not a size"),
        ("bandwidth = 1.5", "expected a string in quotes or a number"),
        ("ca_file = 'one'", "ca_file needs a url that begins with https"),
        ("secret = 'hidden'", "unknown key secret"),
        ("psk = 'hidden'", "unknown key psk"),
    ] {
        let key = line.split(' ').next().unwrap();
        let mut lines: Vec<&str> = MIN.lines().chain(["offer = []"]).collect();
        lines.retain(|other| !other.starts_with(&format!("{key} ")));
        let fault = folder.fault(&format!("{}\n{line}\n", lines.join("\n")));
        assert!(fault.contains(part) && fault.contains(&format!("line {},", lines.len() + 1)), "{fault}");
        assert!(!fault.contains("hidden"), "{fault}");
    }
    for key in ["name", "url", "secret_file", "offer"] {
        let lines = MIN.lines().chain(["offer = []"]).filter(|line| !line.starts_with(&format!("{key} ")));
        let fault = folder.fault(&lines.collect::<Vec<_>>().join("\n"));
        assert!(fault.contains(&format!("line 2, `[[peer]]`: the key {key} is missing")), "{fault}");
    }
}

#[test]
fn the_table_needs_a_name_of_this_deployment() {
    let folder = Folder::new();
    let text = format!("{MIN}offer = []").replace("peers.name = 'here'", "");
    assert!(folder.fault(&text).contains("line 2, `[[peer]]`: peers.name is missing"));
    let named = folder.peers("peers.name = 'here'").unwrap();
    assert!(named.is_empty(), "a name without peers does no harm");
}

#[test]
fn peers_have_names_and_secrets_of_their_own() {
    let folder = Folder::new();
    let second = |name: &str, secret: &str| {
        let second = MIN.lines().skip(1).collect::<Vec<_>>().join("\n");
        let second = second.replace("'a'", &format!("'{name}'")).replace("'one'", &format!("'{secret}'"));
        format!("{MIN}offer = []\n{second}\noffer = []\n")
    };
    assert_eq!(folder.peers(&second("b", "two")).unwrap().len(), 2);
    let fault = folder.fault(&second("a", "two"));
    assert!(fault.contains("line 8, `name = 'a'`: another peer has the same name"), "{fault}");
    let fault = folder.fault(&second("here", "two"));
    assert!(fault.contains("line 8,") && fault.contains("this deployment itself"), "{fault}");
    let fault = folder.fault(&second("b", "one"));
    assert!(fault.contains("line 10,") && fault.contains("the peer a has the same secret"), "{fault}");
    folder.secret("copy", &format!("\n{}  \r\n", "1".repeat(32)), 0o600);
    assert!(folder.fault(&second("b", "copy")).contains("the same secret"));
}

#[test]
fn a_secret_is_long_and_protected() {
    let folder = Folder::new();
    let config = format!("{MIN}offer = []");
    let hidden = "hidden-".repeat(200);
    for (text, mode, part) in [
        (&hidden[..31], 0o600, "has 31 bytes, expected 32 to 1024"),
        (&format!("{}{}", &hidden[..31], " \n".repeat(20)), 0o600, "has 31 bytes"),
        (&hidden[..1025], 0o600, "has 1025 bytes"),
        ("", 0o600, "has 0 bytes"),
        (&hidden[..32], 0o640, "other users may read the secret"),
        (&hidden[..32], 0o604, "other users may read the secret"),
    ] {
        folder.secret("one", text, mode);
        let fault = folder.fault(&config);
        assert!(fault.contains("line 5, `secret_file = ...`") && fault.contains(part), "{fault}");
        assert!(fault.contains("help: ") && !fault.contains("hidden"), "{fault}");
    }
    for text in [&hidden[..32], &format!("\n {}\n", &hidden[..1024])] {
        folder.secret("one", text, 0o600);
        let peers = folder.peers(&config).unwrap();
        assert!(!format!("{peers:?}").contains("hidden"), "{peers:?}");
    }
    fs::remove_file(folder.0.path().join("one")).unwrap();
    let fault = folder.fault(&config);
    assert!(fault.contains("cannot read ") && fault.contains("/one: "), "{fault}");
    folder.secret("one", &"x".repeat(MAX_FILE_BYTES as usize + 1), 0o600);
    assert!(folder.fault(&config).contains("exceeds the limit"));
}

#[test]
fn only_certificates_are_accepted_as_roots() {
    let folder = Folder::new();
    let config = format!("{MIN}offer = []\nca_file = 'ca.pem'\n").replace("http:", "https:");
    assert!(folder.fault(&config).contains("cannot read "));
    for (text, part) in [
        ("", "has no certificate"),
        ("nothing", "has no certificate"),
        ("-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n", "cannot read the certificates"),
        ("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "as a root"),
    ] {
        fs::write(folder.0.path().join("ca.pem"), text).unwrap();
        let fault = folder.fault(&config);
        assert!(fault.contains("line 7,") && fault.contains(part), "{fault}");
    }
    let certificate =
        fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/crates/testkit/src/certificate.pem")).unwrap();
    fs::write(folder.0.path().join("ca.pem"), [certificate.clone(), certificate].concat()).unwrap();
    assert_eq!(folder.peers(&config).unwrap()[0].ca.as_ref().map(Vec::len), Some(2));
}

#[test]
fn a_secret_in_the_table_is_never_shown() {
    let folder = Folder::new();
    for text in [
        format!("{MIN}offer = []\nkey = 'hidden'"),
        format!("{MIN}offer = []\nKEY = 'hidden' x"),
        "peers.name = 'here'\npeer = [{ name = 'a', key = 'hidden' }]".to_owned(),
        "peers.name = 'here'\n[peer]\nkey = 'hidden'".to_owned(),
    ] {
        let faults = folder.peers(&text).unwrap_err();
        assert!(faults.iter().all(|fault| !fault.contains("hidden")), "{faults:?}");
    }
    fs::write(folder.world().system_file, format!("{MIN}offer = ['*']\n")).unwrap();
    let world = folder.world();
    let shown = Settings::new(&world, None).show(Some("/x".into()), &Options::default()).unwrap();
    let of = |key: &str| shown.iter().find(|shown| shown.key == key).and_then(|shown| shown.value.clone());
    assert_eq!(of("peers.name").as_deref(), Some("here"));
    assert_eq!(of("peer[0].secret_file").as_deref(), Some("one"));
    assert_eq!(of("peer[0].url").as_deref(), Some("http://a.example"));
    assert!(!format!("{shown:?}").contains(&"1".repeat(32)));
}
