#![expect(clippy::disallowed_methods, reason = "tests write config files")]

use std::ffi::OsString;
use std::path::Path;

use stoa_layout::Exit;

use super::*;
use crate::fill::{ChecksumPolicy, Mode};
use std::fs;

fn world(home: &Path, variables: &[(&str, &str)]) -> World {
    let mut all: Vec<(String, OsString)> =
        variables.iter().map(|(name, value)| ((*name).to_owned(), value.into())).collect();
    all.push(("HOME".to_owned(), home.into()));
    World {
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
fn option_before_variable_before_file_before_default() {
    let dir = tempfile::tempdir().unwrap();
    let bare = world(dir.path(), &[]);
    let listen = |world: &World, typed: Option<&str>| {
        let options = TypedServe { listen: typed.map(str::to_owned), ..Default::default() };
        Settings::new(world, None).serve(options).unwrap().listen
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
    let dir = tempfile::tempdir().unwrap();
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
    let world = World { variable: Box::new(|_| None), system_file: "/nonexistent/x".into() };
    let error = Settings::new(&world, None).store(None).unwrap_err();
    assert!(matches!(error, ConfigError::NoStore));
    assert_eq!(error.exit(), Exit::USAGE);
}

#[test]
fn no_file_is_read_where_an_option_or_a_variable_decides() {
    let dir = tempfile::tempdir().unwrap();
    own_file(dir.path(), "this is not TOML");
    let world = world(dir.path(), &[("STOA_STORE", "/said"), ("STOA_AUTO_MIGRATE", "false")]);
    let settings = Settings::new(&world, None);
    assert_eq!(settings.store(None).unwrap(), Path::new("/said"));
    assert!(!settings.auto_migrate(None).unwrap());
    settings.check_named().unwrap();
    assert!(settings.migrate(None, None).is_err());
}

#[test]
fn what_is_wrong_in_a_file_names_file_line_and_key() {
    let dir = tempfile::tempdir().unwrap();
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
fn a_named_file_must_be_there() {
    let dir = tempfile::tempdir().unwrap();
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
    let dir = tempfile::tempdir().unwrap();
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
fn variables_that_cannot_be_meant_are_named() {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in
        [("STOA_READ_ONLY", "perhaps"), ("STOA_FILL_MAX_CONCURRENT", "many"), ("STOA_GRACE", "-1")]
    {
        let world = world(dir.path(), &[(name, text)]);
        let error = Settings::new(&world, None).serve(TypedServe::default()).unwrap_err();
        assert!(error.to_string().contains(name), "{error}");
        assert_eq!(error.exit(), Exit::USAGE);
    }
}

#[test]
fn values_that_cannot_be_meant_say_where_they_came_from() {
    let dir = tempfile::tempdir().unwrap();
    for (key, wrong) in [
        ("listen", "localhost"),
        ("listen", ":3000"),
        ("listen", "127.0.0.1:70000"),
        ("upstream", " "),
        ("base_path", "go"),
        ("base_path", "/go//x"),
        ("base_path", "//"),
        ("base_path", "/../x"),
        ("base_path", "/a?b"),
        ("base_path", "/a b"),
    ] {
        let path = own_file(dir.path(), &format!("{key} = '{wrong}'"));
        let name = variable_of(key);
        let (bare, set) = (world(dir.path(), &[]), world(dir.path(), &[(&name, wrong)]));
        for (world, whence) in [(&bare, path.to_str().unwrap()), (&set, name.as_str())] {
            let error = Settings::new(world, None).serve(TypedServe::default()).unwrap_err();
            let message = error.to_string();
            assert!(message.contains(whence), "{message}");
            assert_eq!(error.exit(), Exit::USAGE);
        }
    }
    own_file(dir.path(), "base_path = '/go/x/'\nthreads = 100000");
    let world = world(dir.path(), &[("STOA_FILL_MAX_CONCURRENT", "1")]);
    let settings = Settings::new(&world, None);
    let options = TypedServe { fill_max_concurrent: Some(0), ..Default::default() };
    let error = settings.serve(options).unwrap_err().to_string();
    assert!(error.contains("--fill-max-concurrent") && error.contains("\"0\""), "{error}");
    assert_eq!(settings.serve(TypedServe::default()).unwrap().base_path, "/go/x/");
    let error = settings.migrate(None, None).unwrap_err().to_string();
    assert!(error.contains("threads in ") && error.contains("from 1 to 1024"), "{error}");
}

#[test]
fn lists_are_split_at_commas() {
    let dir = tempfile::tempdir().unwrap();
    let world = world(dir.path(), &[("STOA_SUMDBS", "a.example, b.example,")]);
    let config = Settings::new(&world, None).serve(TypedServe::default()).unwrap();
    assert_eq!(config.sumdbs, Some(vec!["a.example".to_owned(), "b.example".to_owned()]));
}

#[test]
fn a_checksum_database_has_a_key() {
    let dir = tempfile::tempdir().unwrap();
    let key = "sum.example.org/v2+2f82912d+AYE5dw6ofRdfVqNUZsNMfszLjYqRtO43ol32D1uPybOU";
    own_file(dir.path(), &format!("gosumdb = '{key} https://a.example/x'"));
    let gosumdb = |world: &World| Settings::new(world, None).serve(TypedServe::default()).map(|c| c.gosumdb);
    assert_eq!(gosumdb(&world(dir.path(), &[])).unwrap(), Some(format!("{key} https://a.example/x")));
    assert_eq!(gosumdb(&world(dir.path(), &[("STOA_GOSUMDB", "off")])).unwrap().as_deref(), Some("off"));
    for bad in ["sum.example.org", &key.replace('2', "3"), "a b c"] {
        let error = gosumdb(&world(dir.path(), &[("STOA_GOSUMDB", bad)])).unwrap_err();
        assert!(error.to_string().contains("STOA_GOSUMDB") && error.exit() == Exit::USAGE, "{error}");
    }
}

#[test]
fn rules_about_modules_are_read_in_order() {
    let dir = tempfile::tempdir().unwrap();
    own_file(
        dir.path(),
        "mode = 'async'\nchecksum = 'require'\n\n[[module]]\npattern = 'example.org/Acme, *.corp.example'\nmode = 'redirect'\n\
         redirect_url = 'https://elsewhere.example/go/'\nupstream = 'direct'\nallow = ['v1.*', '>=v2.1.0 <v3']\ndeny = ['v1.3.0']\n\
         checksum = 'off'\n\n[[module]]\npattern = '*'\n",
    );
    let config = Settings::new(&world(dir.path(), &[]), None).serve(TypedServe::default()).unwrap();
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
fn rules_that_cannot_be_meant_name_their_line() {
    let dir = tempfile::tempdir().unwrap();
    let world = world(dir.path(), &[]);
    for (rule, line, why) in [
        ("mode = 'none'", 1, "pattern"),
        ("pattern = ','", 2, "empty pattern"),
        ("pattern = '[a'", 2, "brackets"),
        ("pattern = 'https://a.b'", 2, "scheme"),
        ("pattern = 'a.b'\nmode = ''", 3, "variant"),
        ("pattern = 'a.b'\nmode = 'sometimes'", 3, "variant"),
        ("pattern = 'a.b'\nallow = ['1.2']", 3, "v1.2.3"),
        ("pattern = 'a.b'\ndeny = ['']", 3, "empty"),
        ("pattern = 'a.b'\nredirect_url = 'elsewhere'", 3, "URL"),
        ("pattern = 'a.b'\nredirect_url = 'https://user:secret@elsewhere.example'", 3, "credentials"),
        ("pattern = 'a.b'\nurl = 'https://elsewhere.example'", 3, "url"),
    ] {
        own_file(dir.path(), &format!("[[module]]\n{rule}\n"));
        let error = Settings::new(&world, None).serve(TypedServe::default()).unwrap_err();
        let message = error.to_string();
        assert!(message.contains(&format!("line {line},")) && message.contains(why), "{rule}: {message}");
        assert_eq!(error.exit(), Exit::USAGE);
    }
}

#[test]
fn no_error_shows_a_secret() {
    let dir = tempfile::tempdir().unwrap();
    let fault = |world: &World, file: &str| {
        own_file(dir.path(), file);
        Settings::new(world, None).serve(TypedServe::default()).unwrap_err().to_string()
    };
    let bare = world(dir.path(), &[]);
    for (file, told) in [
        ("upstream = \"https://me:hidden@host", "line 1, `upstream = ...`"),
        ("offline = 'https://me:hidden@host'", "line 1, `offline = ...`"),
        ("mode = 'https://me:hidden@host'", "line 1, `mode = ...`"),
        ("sumdbs = [\n'https://me:hidden@host', 5]", "line 2, `...`"),
        ("upstream = 'https://host?token=hidden' 5", "line 1, `upstream = ...`"),
        ("redirect_url = 'https://me:hidden@host'", "redirect_url in "),
        ("redirect_url = 'https://host/?token=hidden'", "redirect_url in "),
        ("listen = 'https://me:hidden@host'", "listen in "),
        ("gosumdb = 'a b https://me:hidden@host'", "gosumdb in "),
        ("gosumdb = 'me:hidden@host'", "gosumdb in "),
        ("[[credentials]]\nhost = 'https://me:hidden@host'", "[[credentials]]"),
        ("[[credentials]]\npassword = 5000000", "line 2, `password = ...`"),
        (
            "[[module]]\npattern = 'a.b'\nredirect_url = 'https://me:hidden@host'",
            "line 3, `redirect_url = ...`",
        ),
    ] {
        let message = fault(&bare, file);
        assert!(message.contains(told), "{file}: {message}");
        assert!(!message.contains("hidden") && !message.contains("5000000"), "{message}");
    }
    let set = world(dir.path(), &[("STOA_REDIRECT_URL", "https://me:hidden@host")]);
    assert!(!fault(&set, "").contains("hidden"));
    let set = world(dir.path(), &[("STOA_GRACE", "https://me:hidden@host")]);
    assert!(!fault(&set, "").contains("hidden"));
}

#[test]
fn a_redirection_leads_somewhere() {
    let dir = tempfile::tempdir().unwrap();
    let world = world(dir.path(), &[]);
    let fault = |file: &str, typed: TypedServe| {
        own_file(dir.path(), file);
        let settings = Settings::new(&world, None);
        settings.serve(typed).err().map(|error| error.to_string()).unwrap_or_default()
    };
    let rule = "[[module]]\npattern = 'a.b'\nmode = 'async_redirect'\n";
    assert!(fault(rule, TypedServe::default()).contains("the mode of a.b"));
    assert!(fault("mode = 'redirect'", TypedServe::default()).contains("mode in "));
    let typed = TypedServe { mode: Some(Mode::Redirect), ..Default::default() };
    assert!(fault("", typed.clone()).contains("--mode"));
    let led = TypedServe { redirect_url: Some("https://elsewhere.example".to_owned()), ..typed };
    assert_eq!(fault(rule, led), "");
}
