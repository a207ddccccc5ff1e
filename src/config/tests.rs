#![expect(clippy::disallowed_methods, reason = "tests write config files")]

use std::ffi::OsString;
use std::path::Path;

use stoa_layout::Exit;

use super::*;
use crate::policy::{ChecksumPolicy, Mode};
use std::fs;

fn world(home: &Path, variables: &[(&str, &str)]) -> World {
    let mut all: Vec<(String, OsString)> =
        variables.iter().map(|(name, value)| ((*name).to_owned(), value.into())).collect();
    all.push(("HOME".to_owned(), home.into()));
    World {
        names: all.iter().map(|(name, _)| name.clone()).collect(),
        variable: Box::new(move |name| all.iter().find(|(n, _)| n == name).map(|(_, v)| v.clone())),
        system_file: home.join("etc.toml"),
    }
}

fn own_file(home: &Path, text: &str) -> PathBuf {
    let path = home.join(".config/stoa/config.toml");
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, text).unwrap();
    path
}

#[test]
fn options_take_precedence_over_variables_and_those_over_the_file() {
    let dir = testkit::tempdir();
    let bare = world(dir.path(), &[]);
    let listen = |world: &World, typed: Option<&str>| {
        let options = Options::default().with("listen", typed);
        let listen = Settings::new(world, None).serve(&options).unwrap().listen;
        listen.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
    };
    assert_eq!(listen(&bare, None), "127.0.0.1:3000");
    fs::write(&bare.system_file, "listen = '127.0.0.1:1'").unwrap();
    assert_eq!(listen(&bare, None), "127.0.0.1:1");
    own_file(dir.path(), "listen = '127.0.0.1:2'");
    assert_eq!(listen(&bare, None), "127.0.0.1:2");
    let set = world(dir.path(), &[("STOA_LISTEN", "127.0.0.1:3")]);
    assert_eq!(listen(&set, None), "127.0.0.1:3");
    assert_eq!(listen(&set, Some("127.0.0.1:4")), "127.0.0.1:4");
    assert_eq!(listen(&world(dir.path(), &[("STOA_LISTEN", "")]), None), "127.0.0.1:2");
}

#[test]
fn the_store_is_found_by_the_xdg_rules() {
    let dir = testkit::tempdir();
    let find =
        |variables: &[(&str, &str)]| Settings::new(&world(dir.path(), variables), None).store(None).unwrap();
    assert_eq!(find(&[]), dir.path().join(".local/share/stoa"));
    assert_eq!(find(&[("XDG_DATA_HOME", "relative")]), dir.path().join(".local/share/stoa"));
    assert_eq!(find(&[("XDG_DATA_HOME", "/data")]), Path::new("/data/stoa"));
    own_file(dir.path(), "store = 'beside'");
    assert_eq!(find(&[("XDG_DATA_HOME", "/data")]), dir.path().join(".config/stoa/beside"));
    assert_eq!(find(&[("STOA_STORE", "/said")]), Path::new("/said"));
}

#[test]
fn without_a_home_the_store_must_be_named() {
    let world =
        World { variable: Box::new(|_| None), names: Vec::new(), system_file: "/nonexistent/x".into() };
    let error = Settings::new(&world, None).store(None).unwrap_err();
    assert!(matches!(error, ConfigError::NoStore));
    assert_eq!(error.exit(), Exit::USAGE);
}

#[test]
fn no_file_is_read_for_a_key_that_an_option_or_a_variable_sets() {
    let dir = testkit::tempdir();
    own_file(dir.path(), "this is not TOML");
    let world = world(dir.path(), &[("STOA_STORE", "/said"), ("STOA_AUTO_MIGRATE", "false")]);
    let settings = Settings::new(&world, None);
    assert_eq!(settings.store(None).unwrap(), Path::new("/said"));
    assert!(!settings.auto_migrate(None).unwrap());
    settings.check_named().unwrap();
    assert!(settings.migrate(None, None, None).is_err());
}

#[test]
fn errors_in_a_file_name_file_line_and_key() {
    let dir = testkit::tempdir();
    for (text, line, key) in [
        ("listen = 'a:1'\n\nlisten_on = 'b'\n", 3, "listen_on"),
        ("[fill]\nmax = 3\n", 2, "max"),
        ("# é\nlock_timeout = 'soon'\n", 2, "lock_timeout"),
        ("[fill]\n\nmax_concurrent = -1\n", 3, "max_concurrent"),
        ("store = [\n", 1, "store"),
    ] {
        let path = own_file(dir.path(), text);
        let world = world(dir.path(), &[]);
        let error = Settings::new(&world, None).auto_migrate(None).unwrap_err();
        let message = error.to_string();
        assert!(message.contains(&path.display().to_string()), "{message}");
        assert!(message.contains(&format!("line {line},")), "{text}: {message}");
        assert!(message.contains(key), "{message}");
        assert_eq!(error.exit(), Exit::USAGE);
    }
}

#[test]
fn a_named_file_must_exist() {
    let dir = testkit::tempdir();
    let missing = dir.path().join("missing.toml");
    let bare = world(dir.path(), &[]);
    let typed = Settings::new(&bare, Some(missing.clone())).check_named().unwrap_err();
    assert!(typed.to_string().contains("--config"), "{typed}");
    let set = world(dir.path(), &[("STOA_CONFIG", missing.to_str().unwrap())]);
    let variable = Settings::new(&set, None).check_named().unwrap_err();
    assert!(variable.to_string().contains("STOA_CONFIG"), "{variable}");
    assert_eq!((typed.exit(), variable.exit()), (Exit::USAGE, Exit::USAGE));
}

#[test]
fn a_named_file_must_be_text() {
    let dir = testkit::tempdir();
    let bare = world(dir.path(), &[]);
    let folder = Settings::new(&bare, Some(dir.path().to_owned())).check_named().unwrap_err();
    assert!(folder.to_string().contains("is a folder"), "{folder}");
    let path = dir.path().join("latin.toml");
    fs::write(&path, b"# one\nlisten = '\xe9'\n").unwrap();
    let latin = Settings::new(&bare, Some(path)).check_named().unwrap_err();
    assert!(latin.to_string().contains("latin.toml, line 2, `listen = "), "{latin}");
    assert_eq!((folder.exit(), latin.exit()), (Exit::USAGE, Exit::USAGE));
}

#[test]
fn errors_name_the_variable() {
    let dir = testkit::tempdir();
    for (name, text) in
        [("STOA_READ_ONLY", "perhaps"), ("STOA_FILL_MAX_CONCURRENT", "many"), ("STOA_GRACE", "-1")]
    {
        let world = world(dir.path(), &[(name, text)]);
        let error = Settings::new(&world, None).serve(&Options::default()).unwrap_err();
        assert!(error.to_string().contains(name), "{error}");
        assert_eq!(error.exit(), Exit::USAGE);
    }
}

#[test]
fn errors_name_the_origin_of_the_value() {
    let dir = testkit::tempdir();
    for (key, wrong) in [
        ("listen", "localhost"),
        ("listen", "127.0.0.1:70000"),
        ("grace", "soon"),
        ("base_path", "go"),
        ("base_path", "/go//x"),
        ("base_path", "//"),
        ("base_path", "/../x"),
        ("base_path", "/a?b"),
        ("base_path", "/a b"),
    ] {
        let path = own_file(dir.path(), &format!("{key} = '{wrong}'"));
        let name = keys::find(key).unwrap().variable();
        let (bare, set) = (world(dir.path(), &[]), world(dir.path(), &[(&name, wrong)]));
        for (world, origin) in [(&bare, path.to_str().unwrap()), (&set, name.as_str())] {
            if origin == name {
                own_file(dir.path(), "");
            }
            let error = Settings::new(world, None).serve(&Options::default()).unwrap_err();
            let message = error.to_string();
            assert!(message.contains(origin), "{message}");
            assert_eq!(error.exit(), Exit::USAGE);
        }
    }
    own_file(dir.path(), "base_path = '/go/x/'");
    let world = world(dir.path(), &[("STOA_FILL_MAX_CONCURRENT", "1")]);
    let settings = Settings::new(&world, None);
    let options = Options::default().with("fill.max_concurrent", Some(0));
    let error = settings.serve(&options).unwrap_err().to_string();
    assert!(error.contains("--fill-max-concurrent") && error.contains("\"0\""), "{error}");
    assert_eq!(settings.serve(&Options::default()).unwrap().base_path, "/go/x/");
    let error = settings.migrate(None, Some(100_000), None).unwrap_err().to_string();
    assert!(error.contains("--threads") && error.contains("from 1 to 1024"), "{error}");
}

#[test]
fn lists_are_split_at_commas() {
    let dir = testkit::tempdir();
    let world = world(dir.path(), &[("STOA_SUMDBS", "a.example, b.example,")]);
    let config = Settings::new(&world, None).serve(&Options::default()).unwrap();
    assert_eq!(config.sumdbs, Some(vec!["a.example".to_owned(), "b.example".to_owned()]));
}

#[test]
fn a_checksum_database_has_a_key() {
    let dir = testkit::tempdir();
    let key = "sum.example.org/v2+2f82912d+AYE5dw6ofRdfVqNUZsNMfszLjYqRtO43ol32D1uPybOU";
    own_file(dir.path(), &format!("gosumdb = '{key} https://a.example/x'"));
    let gosumdb = |world: &World| Settings::new(world, None).serve(&Options::default()).map(|c| c.gosumdb);
    assert_eq!(gosumdb(&world(dir.path(), &[])).unwrap(), Some(format!("{key} https://a.example/x")));
    assert_eq!(gosumdb(&world(dir.path(), &[("STOA_GOSUMDB", "off")])).unwrap().as_deref(), Some("off"));
    for bad in ["sum.example.org", &key.replace('2', "3"), "a b c"] {
        let error = gosumdb(&world(dir.path(), &[("STOA_GOSUMDB", bad)])).unwrap_err();
        assert!(error.to_string().contains("STOA_GOSUMDB") && error.exit() == Exit::USAGE, "{error}");
    }
}

#[test]
fn rules_about_modules_are_read_in_order() {
    let dir = testkit::tempdir();
    own_file(
        dir.path(),
        "mode = 'async'\nchecksum = 'require'\n\n[[module]]\npattern = 'example.org/Acme, *.corp.example'\nmode = 'redirect'\n\
         redirect_url = 'https://elsewhere.example/go/'\nupstream = 'direct'\nallow = ['v1.*', '>=v2.1.0 <v3']\ndeny = ['v1.3.0']\n\
         checksum = 'off'\n\n[[module]]\npattern = '*'\n",
    );
    let config = Settings::new(&world(dir.path(), &[]), None).serve(&Options::default()).unwrap();
    assert_eq!((config.mode, config.checksum), (Mode::Async, ChecksumPolicy::Require));
    let [first, second] = config.modules.as_slice() else { panic!("{:?}", config.modules) };
    assert!(first.pattern.matches("git.corp.example/x") && !first.pattern.matches("example.org/acme"));
    assert_eq!(first.mode, Some(Mode::Redirect));
    assert_eq!(first.redirect_url.as_deref(), Some("https://elsewhere.example/go"));
    assert_eq!(first.upstream.as_deref(), Some("direct"));
    assert_eq!((first.allow.len(), first.deny.len(), first.checksum), (2, 1, Some(ChecksumPolicy::Off)));
    assert!(second.mode.is_none() && second.upstream.is_none() && second.allow.is_empty());
}

#[test]
fn errors_in_rules_name_their_line() {
    let dir = testkit::tempdir();
    let world = world(dir.path(), &[]);
    for (rule, line, why) in [
        ("mode = 'none'", 1, "pattern"),
        ("pattern = ','", 2, "empty pattern"),
        ("pattern = '[a'", 2, "brackets"),
        ("pattern = 'https://a.b'", 2, "scheme"),
        ("pattern = 'a.b'\nmode = ''", 3, "must be one of"),
        ("pattern = 'a.b'\nmode = 'sometimes'", 3, "must be one of"),
        ("pattern = 'a.b'\ndeny = [\n'v1.2.3',\n'one']", 5, "v1.2.3"),
        ("pattern = 'a.b'\nallow = ['1.2']", 3, "v1.2.3"),
        ("pattern = 'a.b'\ndeny = ['']", 3, "empty"),
        ("pattern = 'a.b'\nredirect_url = 'elsewhere'", 3, "URL"),
        ("pattern = 'a.b'\nredirect_url = 'https://user:secret@elsewhere.example'", 3, "credentials"),
        ("pattern = 'a.b'\nurl = 'https://elsewhere.example'", 3, "url"),
    ] {
        own_file(dir.path(), &format!("[[module]]\n{rule}\n"));
        let error = Settings::new(&world, None).serve(&Options::default()).unwrap_err();
        let message = error.to_string();
        assert!(message.contains(&format!("line {line},")) && message.contains(why), "{rule}: {message}");
        assert_eq!(error.exit(), Exit::USAGE);
    }
}

#[test]
fn no_error_shows_a_secret() {
    let dir = testkit::tempdir();
    let fault = |world: &World, file: &str| {
        own_file(dir.path(), file);
        Settings::new(world, None).serve(&Options::default()).unwrap_err().to_string()
    };
    let bare = world(dir.path(), &[]);
    for (file, shown) in [
        ("upstream = \"https://me:hidden@host", "line 1, `upstream = ...`"),
        ("offline = 'https://me:hidden@host'", "line 1, `offline = ...`"),
        ("mode = 'https://me:hidden@host'", "line 1, `mode = ...`"),
        ("sumdbs = [\n'https://me:hidden@host', 5]", "line 1, `sumdbs = [`"),
        ("upstream = 'https://host?token=hidden' 5", "line 1, `upstream = ...`"),
        ("redirect_url = 'https://me:hidden@host'", "line 1, `redirect_url = ...`"),
        ("redirect_url = 'https://host/?token=hidden'", "line 1, `redirect_url = ...`"),
        ("listen = 'https://me:hidden@host'", "line 1, `listen = ...`"),
        ("gosumdb = 'a b https://me:hidden@host'", "line 1, `gosumdb = ...`"),
        ("gosumdb = 'me:hidden@host'", "line 1, `gosumdb = ...`"),
        ("[[credentials]]\nhost = 'https://me:hidden@host'\nbearer = 'hidden'", "line 2, `host = ...`"),
        (
            "[[credentials]]\nhost = 'a.example'\nbearer = 'hidden'\nlogin = 'hidden'",
            "line 1, `[[credentials]]`",
        ),
        (
            "credentials = [{ host = 'a.example', bearer = 'hidden', login = 'hidden' }]",
            "line 1, `credentials = ...`",
        ),
        ("[credentials]\nbearer = 'hidden'", "line 1, `...`"),
        ("[[credentials]]\nhost = 'a.example'\nlogin = 'me'\npassword = 5000000", "line 4, `password = ...`"),
        ("[[credentials]]\nhost = 'a.example'\npasword = 'hidden'", "line 3, `pasword = ...`"),
        ("[[credentials]]\nhost = 'a.example'\nBearer = 'hidden'", "line 3, `Bearer = ...`"),
        (
            "[[module]]\npattern = 'a.b'\nredirect_url = 'https://me:hidden@host'",
            "line 3, `redirect_url = ...`",
        ),
    ] {
        let message = fault(&bare, file);
        assert!(message.contains(shown), "{file}: {message}");
        assert!(!message.contains("hidden") && !message.contains("5000000"), "{message}");
    }
    let set = world(dir.path(), &[("STOA_REDIRECT_URL", "https://me:hidden@host")]);
    assert!(!fault(&set, "").contains("hidden"));
    let set = world(dir.path(), &[("STOA_GRACE", "https://me:hidden@host")]);
    assert!(!fault(&set, "").contains("hidden"));
}

#[test]
fn a_redirect_needs_a_target() {
    let dir = testkit::tempdir();
    let world = world(dir.path(), &[]);
    let fault = |file: &str, typed: &Options| {
        own_file(dir.path(), file);
        let settings = Settings::new(&world, None);
        settings.serve(typed).err().map(|error| error.to_string()).unwrap_or_default()
    };
    let rule = "[[module]]\npattern = 'a.b'\nmode = 'async_redirect'\n";
    assert!(fault(rule, &Options::default()).contains("line 1, `[[module]]`"));
    assert!(fault("mode = 'redirect'", &Options::default()).contains("line 1, `mode = 'redirect'`"));
    let typed = Options::default().with("mode", Some("redirect"));
    assert!(fault("", &typed).contains("--mode"));
    let with_target = typed.with("redirect_url", Some("https://elsewhere.example"));
    assert_eq!(fault(rule, &with_target), "");
}

#[test]
fn a_tilde_is_an_error() {
    let dir = testkit::tempdir();
    let bare = world(dir.path(), &[]);
    let error = Settings::new(&bare, None).store(Some("~/stoa".into())).unwrap_err();
    assert!(error.to_string().contains("--store is \"~/stoa\": Stoa does not expand ~"), "{error}");
    let error = Settings::new(&bare, Some("~/c.toml".into())).check_named().unwrap_err();
    assert!(error.to_string().contains("Stoa does not expand ~"), "{error}");
    for text in ["store = '~/stoa'", "[[credentials]]\nhost = 'a.example'\nbearer_file = '~/token'"] {
        own_file(dir.path(), text);
        let error = Settings::new(&bare, None).store(None).unwrap_err().to_string();
        let line = text.lines().count();
        assert!(
            error.contains(&format!("line {line},")) && error.contains("Stoa does not expand ~"),
            "{error}"
        );
    }
}

#[test]
fn patterns_and_upstreams_that_never_apply_are_errors() {
    let dir = testkit::tempdir();
    let world = world(dir.path(), &[]);
    for (text, line) in [
        ("sumdb_refuse = ['[a']", 1),
        ("[[module]]\npattern = '[a'", 2),
        ("[[module]]\npattern = 'https://a.example'", 2),
        ("upstream = 'direct,https://a.example'", 1),
        ("[[module]]\npattern = 'a.b'\nupstream = 'off,direct'", 3),
    ] {
        own_file(dir.path(), text);
        let error = Settings::new(&world, None).serve(&Options::default()).unwrap_err().to_string();
        assert!(error.contains(&format!("line {line},")), "{text}: {error}");
    }
    own_file(dir.path(), "[[module]]\npattern = 'a.b, c.d'");
    let config = Settings::new(&world, None).serve(&Options::default()).unwrap();
    assert!(config.modules[0].pattern.matches("c.d/x"));
}

#[test]
fn durations_in_a_file_may_be_numbers_or_texts() {
    let dir = testkit::tempdir();
    let world = world(dir.path(), &[]);
    for (text, seconds) in [("grace = 90", 90), ("grace = '90'", 90), ("grace = '2m'", 120)] {
        own_file(dir.path(), text);
        let config = Settings::new(&world, None).serve(&Options::default()).unwrap();
        assert_eq!(config.grace, Duration::from_secs(seconds));
    }
}

#[test]
fn every_fault_is_found_at_once() {
    let dir = testkit::tempdir();
    own_file(dir.path(), "grace = 'soon'\nthreads = 0\nfoo = 1\n[fill]\nmax_concurrent = 3\n");
    let world = world(dir.path(), &[("STOA_OFFLINE", "maybe")]);
    let faults = Settings::new(&world, None).faults(&Options::default());
    let texts: Vec<String> = faults.iter().map(ToString::to_string).collect();
    assert_eq!(texts.len(), 4, "{texts:?}");
    assert!(texts.iter().any(|text| text.contains("line 2, `threads = 0`")), "{texts:?}");
}

#[test]
fn every_fault_of_every_table_is_found_at_once() {
    let dir = testkit::tempdir();
    let path = own_file(
        dir.path(),
        "mode = 'async'\n\
         [[module]]\npattern = '[a'\nmode = 'later'\nallow = 'v1.*'\nupstream = 'ftp://a.example'\n\
         [[module]]\nmode = 'redirect'\n\
         [[module]]\npattern = 'a.b'\nmode = 'redirect'\n\
         [[credentials]]\nhost = '::1'\nbearer_file = 'missing'\npassword_file = 'missing'\n\
         [[credentials]]\nhost = 'a.example'\nbearer_file = 'missing'\n\
         [[credentials]]\nhost = 'b.example'\nbearer = 5\nbearer_file = 'missing'\n\
         [[credentials]]\nlogin = 'me'\npasword = 'x'\n\
         [index]\ninterval = 'soon'\n",
    );
    let faults = Settings::new(&world(dir.path(), &[]), None).faults(&Options::default());
    let texts: Vec<String> = faults.iter().map(ToString::to_string).collect();
    let expected = [
        (3, "`pattern = '[a'`: the pattern"),
        (4, "`mode = 'later'`: must be one of"),
        (5, "`allow = 'v1.*'`: expected a list of strings"),
        (6, "`upstream = ...`: \"ftp://a.example\" has an unsupported scheme"),
        (7, "`[[module]]`: the key pattern is missing"),
        (9, "`[[module]]`: a mode that redirects needs redirect_url"),
        (12, "`[[credentials]]`: expected either login and password, or bearer"),
        (13, "`host = ...`: an IPv6 address needs brackets, as in [::1]"),
        (18, "`bearer_file = ...`: cannot read "),
        (21, "`bearer = ...`: expected a string in quotes"),
        (22, "`bearer_file = ...`: expected either bearer or bearer_file, not both"),
        (25, "`pasword = ...`: unknown key pasword; did you mean password?"),
        (27, "`interval = 'soon'`: expected a duration"),
    ];
    for ((line, part), text) in expected.iter().zip(&texts) {
        assert!(text.starts_with(&format!("{}, line {line}, {part}", path.display())), "{line}: {texts:#?}");
    }
    assert_eq!(texts.len(), expected.len(), "{texts:#?}");
    assert!(faults.iter().all(|fault| fault.exit() == Exit::USAGE));
    assert!(texts[8].contains(dir.path().to_str().unwrap()) && texts[8].contains("missing"), "{}", texts[8]);
}

#[test]
fn unknown_variables_have_a_nearest_name_and_those_of_kubernetes_are_ignored() {
    let dir = testkit::tempdir();
    let world = world(
        dir.path(),
        &[
            ("STOA_LISTENS", "x"),
            ("STOA_WHATEVER_ELSE", "x"),
            ("STOA_LISTEN", "x"),
            ("STOA_CONFIG", "x"),
            ("STOA_SERVICE_HOST", "x"),
            ("STOA_SERVICE_PORT_HTTP", "x"),
            ("STOA_PORT", "x"),
            ("STOA_PORT_3000_TCP", "x"),
            ("STOA_PROXY_SERVICE_HOST", "x"),
        ],
    );
    let unknown = unknown_variables(&world);
    let expected = [
        ("STOA_LISTENS".to_owned(), Some("STOA_LISTEN".to_owned())),
        ("STOA_WHATEVER_ELSE".to_owned(), None),
    ];
    assert_eq!(unknown, expected);
}

#[test]
fn a_public_file_with_a_secret_is_a_warning() {
    use std::os::unix::fs::PermissionsExt;
    let dir = testkit::tempdir();
    let world = world(dir.path(), &[]);
    let warnings = |text: &str, mode: u32| {
        let path = own_file(dir.path(), text);
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        Settings::new(&world, None).warnings().unwrap().len()
    };
    let secret = "[[credentials]]\nhost = 'a.example'\nbearer = 'hidden'\n";
    assert_eq!((warnings(secret, 0o644), warnings(secret, 0o640)), (1, 0));
    assert_eq!(warnings("upstream = 'https://me:hidden@a.example'", 0o644), 1);
    assert_eq!(warnings("listen = ':1'", 0o644), 0);
}

#[test]
fn every_value_is_shown_with_its_origin_and_without_secrets() {
    let dir = testkit::tempdir();
    let path = own_file(
        dir.path(),
        "grace = 5\nupstream = 'https://me:hidden@a.example'\n[[credentials]]\nhost = 'a.example'\nbearer = 'hidden'\n",
    );
    let world = world(dir.path(), &[("STOA_OFFLINE", "true")]);
    let options = Options::default().with("listen", Some(":1"));
    let shown = Settings::new(&world, None).show(None, &options).unwrap();
    let of = |key: &str| {
        let shown = shown.iter().find(|shown| shown.key == key).unwrap();
        (shown.value.clone().unwrap_or_default(), shown.origin.clone())
    };
    assert_eq!(of("listen"), (":1".to_owned(), Origin::Option("--listen".to_owned())));
    assert_eq!(of("offline"), ("true".to_owned(), Origin::Variable("STOA_OFFLINE".to_owned())));
    assert_eq!(of("grace"), ("5".to_owned(), Origin::File(path.clone(), 1)));
    assert_eq!(of("upstream").0, "https://***@a.example");
    assert_eq!(of("credentials[0].bearer"), ("***".to_owned(), Origin::File(path, 5)));
    assert_eq!(of("mode"), ("sync".to_owned(), Origin::Default));
    assert!(!format!("{shown:?}").contains("hidden"));
}

#[test]
fn the_config_file_of_earlier_releases_is_valid() {
    let dir = testkit::tempdir();
    fs::write(dir.path().join("password"), "x").unwrap();
    let path = dir.path().join("config.toml");
    fs::write(&path, include_str!("earlier.toml")).unwrap();
    let world = world(dir.path(), &[]);
    let settings = Settings::new(&world, Some(path));
    assert!(settings.faults(&Options::default()).is_empty());
    let config = settings.serve(&Options::default()).unwrap();
    assert_eq!(
        (config.fill_list_ttl, config.modules.len(), config.credentials.len()),
        (Duration::from_secs(60), 1, 1)
    );
}

#[test]
fn every_default_and_example_is_valid() {
    for key in keys::all() {
        let (keys::Default::Value(text) | keys::Default::Unset(_, text)) = key.default;
        assert_eq!((key.check)(text), Ok(()), "{}", key.name);
    }
}

#[test]
fn no_key_is_called_like_a_variable_of_kubernetes() {
    for key in keys::all() {
        assert!(!key.name.split('.').any(|part| part == "port" || part == "service"), "{}", key.name);
    }
}
