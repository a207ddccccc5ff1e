//! `stoa config show` and `stoa config check`, and how the programs read their configuration.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use testkit::programs::{Ended, Programs};
use testkit::{Case, cases};

pub(crate) fn cases() -> Vec<Case> {
    cases![
        show_prints_each_value_with_its_origin_and_no_secret,
        check_names_every_wrong_key_with_its_line,
        check_names_every_fault_of_every_table,
        check_accepts_a_valid_file_and_warns_about_public_secrets,
        an_unknown_variable_is_a_warning_with_the_nearest_name,
        a_server_refuses_a_list_whose_end_is_never_asked,
        a_tilde_is_refused_with_a_hint,
        a_port_alone_listens_on_all_addresses,
        an_ipv6_address_without_brackets_is_refused,
        a_wrong_duration_names_its_option,
    ]
}

fn with_file(text: &str) -> (Programs, String) {
    let programs = Programs::current();
    let path = programs.folder().join("stoa.toml");
    fs::write(&path, text).unwrap();
    let path = path.to_str().unwrap().to_owned();
    (programs, path)
}

/// Runs `stoa config` without the variable that keeps the programs of a test offline.
fn config(programs: &Programs, arguments: &[&str]) -> Ended {
    let mut command = programs.command("stoa", [&["config"], arguments].concat());
    command.env_remove("STOA_UPSTREAM");
    Ended::of(command)
}

fn show_prints_each_value_with_its_origin_and_no_secret() {
    let text = "grace = \"2m\"\nupstream = \"https://me:hidden@proxy.example\"\n\n[[credentials]]\nhost = \"proxy.example\"\nbearer = \"hidden\"\n";
    let (programs, path) = with_file(text);
    let ended = config(&programs, &["show", "--config", &path, "--format", "json"]);
    assert_eq!(ended.code, 0, "{ended:?}");
    let lines: Vec<serde_json::Value> =
        ended.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let of = |key: &str| {
        let line = lines.iter().find(|line| line["key"] == key).unwrap();
        (line["value"].as_str().unwrap_or("").to_owned(), line["origin"].as_str().unwrap().to_owned())
    };
    assert_eq!(of("grace"), ("2m".to_owned(), format!("{path}, line 1")));
    assert_eq!(of("upstream"), ("https://***@proxy.example".to_owned(), format!("{path}, line 2")));
    assert_eq!(of("credentials[0].bearer"), ("***".to_owned(), format!("{path}, line 6")));
    assert_eq!(of("fill.max_concurrent"), ("16".to_owned(), "default".to_owned()));
    assert!(!ended.out.contains("hidden"), "{ended:?}");
}

fn check_names_every_wrong_key_with_its_line() {
    let (programs, path) = with_file("threads = 0\n\n[fill]\nlist_ttl = \"soon\"\n");
    let ended = config(&programs, &["check", "--config", &path]);
    assert_eq!(ended.code, 64, "{ended:?}");
    for part in ["line 1, `threads = 0`", "line 4, `list_ttl = \"soon\"`", &path] {
        assert!(ended.err.contains(part), "{part}: {ended:?}");
    }
    let (programs, path) = with_file("upstream = \"ftp://proxy.example\"\n");
    let ended = config(&programs, &["check", "--config", &path]);
    assert!(ended.code == 64 && ended.err.contains(&format!("{path}, line 1")), "{ended:?}");
}

fn check_names_every_fault_of_every_table() {
    let (programs, path) = with_file(
        "[[credentials]]\nhost = \"a.example\"\nbearer_file = \"missing\"\n\n[[credentials]]\nhost = \"::1\"\nlogin = 5\npassword = \"hidden\"\n\n\
         [[credentials]]\nhost = \"b.example\"\npasword = \"hidden\"\n\n[[module]]\npattern = \"a.b\"\nmode = \"redirect\"\n\n\
         [[module]]\npattern = \"[a\"\ndeny = [\"one\"]\nupstream = \"ftp://a.example\"\n",
    );
    let ended = config(&programs, &["check", "--config", &path]);
    assert_eq!(ended.code, 64, "{ended:?}");
    let missing = programs.folder().join("missing");
    let wrong = [
        format!("line 3, `bearer_file = ...`: cannot read {}: No such file", missing.display()),
        "line 6, `host = ...`: an IPv6 address needs brackets, as in [::1]".to_owned(),
        "line 7, `login = ...`: expected a string in quotes".to_owned(),
        "line 12, `pasword = ...`: unknown key pasword; did you mean password?".to_owned(),
        "line 14, `[[module]]`: a mode that redirects needs redirect_url".to_owned(),
        "line 19, `pattern = \"[a\"`: the pattern".to_owned(),
        "line 20, `deny = [\"one\"]`: ".to_owned(),
        "line 21, `upstream = ...`: ".to_owned(),
    ];
    let lines: Vec<&str> = ended.err.lines().filter(|line| line.starts_with("error: ")).collect();
    assert_eq!(lines.len(), wrong.len(), "{ended:?}");
    for (part, line) in wrong.iter().zip(&lines) {
        assert!(line.starts_with(&format!("error: {path}, {part}")), "{part}: {ended:?}");
    }
    assert!(!ended.err.contains("hidden"), "{ended:?}");
    let ended = config(&programs, &["check", "--config", &path, "--format", "json"]);
    let events: Vec<serde_json::Value> =
        ended.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(events.len(), wrong.len(), "{ended:?}");
    assert!(events.iter().all(|event| event["event"] == "error" && event["code"] == 64), "{ended:?}");
}

fn check_accepts_a_valid_file_and_warns_about_public_secrets() {
    let text = "upstream = \"off\"\n[[credentials]]\nhost = \"proxy.example\"\nbearer = \"hidden\"\n";
    let (programs, path) = with_file(text);
    let check = |mode: u32| -> Ended {
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        config(&programs, &["check", "--config", &path])
    };
    let (public, private) = (check(0o644), check(0o600));
    assert_eq!((public.code, private.code), (0, 0), "{public:?} {private:?}");
    assert!(public.err.contains("contains a secret and every user can read it"), "{public:?}");
    assert!(!private.err.contains("warning"), "{private:?}");
}

fn an_unknown_variable_is_a_warning_with_the_nearest_name() {
    let programs = Programs::current();
    let with = |name: &str| {
        let mut command = programs.command("stoa", ["status"]);
        command.env(name, "x");
        Ended::of(command)
    };
    let ended = with("STOA_LISTENN");
    assert!(ended.err.contains("STOA_LISTENN") && ended.err.contains("STOA_LISTEN?"), "{ended:?}");
    for ignored in ["STOA_SERVICE_HOST", "STOA_SERVICE_PORT", "STOA_PORT", "STOA_PORT_80_TCP"] {
        let ended = with(ignored);
        assert!(!ended.err.contains("unknown variable"), "{ended:?}");
    }
}

fn a_server_refuses_a_list_whose_end_is_never_asked() {
    let programs = Programs::current();
    let ended = programs.stoa(["serve", "--upstream", "direct,https://proxy.example"]);
    assert!(ended.code == 64 && ended.err.contains("never asked"), "{ended:?}");
    assert!(!programs.store().exists());
}

fn a_tilde_is_refused_with_a_hint() {
    let programs = Programs::current();
    let ended = programs.stoa(["status", "--store=~/stoa"]);
    assert!(ended.code == 64 && ended.err.contains("Stoa does not expand ~"), "{ended:?}");
    let (programs, path) = with_file("store = \"~/stoa\"\n");
    let ended = config(&programs, &["check", "--config", &path]);
    assert!(ended.code == 64 && !ended.err.contains("shell"), "{ended:?}");
    let text = "line 1, `store = \"~/stoa\"`: Stoa does not expand ~; write the whole path";
    assert!(ended.err.contains(text), "{ended:?}");
}

fn a_port_alone_listens_on_all_addresses() {
    let programs = Programs::current();
    // Blanks around a value do not matter.
    let mut child = programs.command("stoa", ["serve", "--listen", " :0 "]).spawn().unwrap();
    let url = testkit::server::listening(&mut child).unwrap();
    let port: u16 = url.rsplit(':').next().unwrap().trim_end_matches('/').parse().unwrap();
    let reply = testkit::client::get(([127, 0, 0, 1], port).into(), "/healthz");
    testkit::server::terminate(&child);
    assert_eq!((reply.status, child.wait().unwrap().code()), (200, Some(0)));
}

fn an_ipv6_address_without_brackets_is_refused() {
    let programs = Programs::current();
    let ended = programs.stoa(["serve", "--listen", "::1:3000"]);
    assert_eq!(ended.code, 64, "{ended:?}");
    assert!(ended.err.contains("an IPv6 address needs brackets, as in [::1]:3000\n"), "{ended:?}");
    assert!(!programs.store().exists());
}

fn a_wrong_duration_names_its_option() {
    let programs = Programs::current();
    for ended in [programs.migrate(["--lock-timeout", "soon"]), programs.stoa(["serve", "--grace", "soon"])] {
        assert!(ended.code == 64 && ended.err.contains("expected a duration"), "{ended:?}");
    }
    assert!(!programs.store().exists());
}
