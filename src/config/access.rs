//! The users of a server and the readers of modules, `[[access]]` in the config file.

use std::path::PathBuf;

use stoa_gomod::private::Patterns;

use super::file::File;
use super::table::Table;
use super::{ConfigError, Origin, ServeConfig, Settings, parse};
use crate::access::{Access, AccessRule, Readers, Users};

const NO_USERS: &str = "a list of users needs auth.users_file\nhelp: set it in the table [auth], in STOA_AUTH_USERS_FILE or with \
                        --auth-users-file";

/// One of the tables `[[access]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccessTable {
    /// The modules, in the syntax of `GOPRIVATE`. The case of letters is ignored.
    pub pattern: Patterns,
    /// The users who may read the modules. `anyone` and `authenticated` have a meaning of their own.
    pub users: Vec<String>,
    /// The line of the users in the config file.
    line: usize,
}

impl AccessTable {
    /// The keys of a table.
    pub(super) const KEYS: [&str; 2] = ["pattern", "users"];

    /// Reads a table. The faults stay in the table.
    pub(super) fn read(table: &mut Table<'_>) -> Option<Self> {
        let pattern = table.required("pattern", parse::some_patterns);
        let line = table.line_of_key("users");
        if line.is_none() {
            table.incomplete(
                "the key users is missing: the users who may read these modules\nhelp: add users = [] to permit nobody",
            );
        }
        let users = table.strings("users", |text| Ok(text.trim().to_owned()));
        Some(Self { pattern: pattern?.ignoring_case(), users, line: line? })
    }
}

/// A value of the configuration and its origin.
type Set<T> = Option<(T, Origin)>;

impl Settings<'_> {
    /// Reads the users file, and returns the access rights of a server.
    pub fn access(&self, config: &ServeConfig) -> Result<Access, ConfigError> {
        let users_file =
            config.auth_users_file.clone().map(|path| (path, config.origin("auth.users_file").clone()));
        let default = config.auth_default.clone().map(|names| (names, config.origin("auth.default").clone()));
        self.resolve_access(self.file()?, users_file, default).map_err(|mut faults| faults.swap_remove(0))
    }

    /// Returns everything that is wrong with the access rights, if the tables themselves are right.
    pub(super) fn faults_of_access(
        &self,
        file: &File,
        users_file: Set<String>,
        default: Set<String>,
    ) -> Vec<ConfigError> {
        let users_file = users_file.and_then(|(text, origin)| Some((parse::path(&text).ok()?, origin)));
        let default = default.and_then(|(text, origin)| Some((parse::list(&text).ok()?, origin)));
        self.resolve_access(file, users_file, default).err().unwrap_or_default()
    }

    /// Resolves the users and all tables. There is at least one error.
    fn resolve_access(
        &self,
        file: &File,
        users_file: Set<PathBuf>,
        default: Set<Vec<String>>,
    ) -> Result<Access, Vec<ConfigError>> {
        let mut faults = Vec::new();
        let has_file = users_file.is_some();
        let users = users_file.and_then(|(path, origin)| {
            let from =
                if matches!(origin, Origin::File(..)) { file.folder().join(&path) } else { path.clone() };
            let read = Users::read(&from);
            read.map_err(|reason| faults.push(self.wrong(&origin, &path.display().to_string(), &reason))).ok()
        });
        let check = |names: &[String]| match &users {
            None if has_file => Ok(()),
            None if Readers::of(names.iter().map(String::as_str)) != Readers::Anyone => {
                Err(NO_USERS.to_owned())
            }
            None => Ok(()),
            Some(users) => match names.iter().find(|name| !Readers::is_word(name) && !users.contains(name)) {
                Some(name) => Err(format!("the users file has no user {name}")),
                None => Ok(()),
            },
        };
        for table in &file.access {
            if let Err(reason) = check(&table.users) {
                faults.push(file.wrong(table.line, &reason));
            }
        }
        if let Some((names, origin)) = &default
            && let Err(reason) = check(names)
        {
            faults.push(self.wrong(origin, &names.join(","), &reason));
        }
        if !faults.is_empty() {
            return Err(faults);
        }
        let rules = file.access.iter().map(|table| AccessRule {
            patterns: table.pattern.clone(),
            readers: Readers::of(table.users.iter().map(String::as_str)),
        });
        let otherwise = match &default {
            Some((names, _)) => Readers::of(names.iter().map(String::as_str)),
            None if users.is_some() => Readers::Authenticated,
            None => Readers::Anyone,
        };
        let access = Access::new(users, rules.collect(), otherwise);
        access.map_err(|reason| vec![self.wrong(&Origin::Default, "auth.users_file", &reason)])
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "tests write config files")]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;
    use std::sync::Arc;

    use super::*;
    use crate::config::{Options, World};
    use crate::request::Identity;

    /// Returns the access rights of a config file, or all faults. Beside the file, there is a users file with ann and bob.
    fn access(text: &str, options: &Options) -> Result<Access, Vec<String>> {
        let folder = testkit::tempdir();
        let users = ["ann", "bob"].map(|name| crate::access::token_line(name).unwrap().1).join("\n");
        for (name, mode) in [("users", 0o640), ("public", 0o644)] {
            fs::write(folder.path().join(name), &users).unwrap();
            fs::set_permissions(folder.path().join(name), Permissions::from_mode(mode)).unwrap();
        }
        let system_file = folder.path().join("config.toml");
        fs::write(&system_file, text).unwrap();
        let world = World { variable: Box::new(|_| None), names: Vec::new(), system_file };
        let settings = Settings::new(&world, None);
        let faults: Vec<String> = settings.faults(options).iter().map(ToString::to_string).collect();
        let first = settings.serve(options).and_then(|config| settings.access(&config));
        let first = first.map_err(|error| error.to_string());
        assert_eq!(first.is_ok(), faults.is_empty(), "{first:?} {faults:?}");
        first.map_err(|first| {
            assert!(faults.contains(&first), "{first}: {faults:?}");
            faults
        })
    }

    fn fault(text: &str) -> String {
        let faults = access(text, &Options::default()).unwrap_err();
        assert_eq!(faults.len(), 1, "{text}: {faults:#?}");
        faults.into_iter().next().unwrap()
    }

    const FILE: &str = "auth.users_file = 'users'\n";

    #[test]
    fn the_first_table_that_covers_a_module_decides() {
        let tables = "[[access]]\npattern = 'a.example/open'\nusers = ['anyone']\n\
                      [[access]]\npattern = 'a.example/Team, *.corp.example'\nusers = ['ann']\n\
                      [[access]]\npattern = 'a.example'\nusers = []\n";
        let access = access(&format!("{FILE}{tables}"), &Options::default()).unwrap();
        let user = |name: &str| Identity::User(Arc::from(name));
        for (module, anonymous, ann, bob) in [
            ("a.example/open/x", true, true, true),
            ("a.example/Team", false, true, false),
            ("A.example/team/x", false, true, false),
            ("git.corp.example/x", false, true, false),
            ("a.example/x", false, false, false),
            ("b.example/x", false, true, true),
        ] {
            assert_eq!(access.may_read(&Identity::Anonymous, module), anonymous, "{module}");
            assert_eq!(access.may_read(&user("ann"), module), ann, "{module}");
            assert_eq!(access.may_read(&user("bob"), module), bob, "{module}");
        }
    }

    #[test]
    fn the_default_depends_on_the_users_file() {
        let options = Options::default();
        assert!(access("", &options).unwrap().is_open());
        assert!(!access(FILE, &options).unwrap().is_open());
        assert!(access(&format!("{FILE}auth.default = ['anyone']"), &options).unwrap().is_open());
        let bob = access(&format!("{FILE}auth.default = ['bob']"), &options).unwrap();
        assert!(bob.may_read(&Identity::User("bob".into()), "a.example/x"));
        assert!(!bob.may_read(&Identity::User("ann".into()), "a.example/x"));
        let table = "[[access]]\npattern = '*'\nusers = ['anyone']\n";
        assert!(access(table, &options).unwrap().is_open(), "anyone needs no users file");
    }

    #[test]
    fn a_wrong_value_is_named_with_its_line() {
        for (text, parts) in [
            ("auth.users_file = 'none'", ["line 1", "none"]),
            ("auth.users_file = 'public'", ["line 1", "chmod o-rwx"]),
            ("auth.default = ['authenticated']", ["line 1", "needs auth.users_file"]),
            ("auth.users_file = 'users'\nauth.default = ['eve']", ["line 2", "has no user eve"]),
            (
                "auth.users_file = 'users'\n[[access]]\npattern = 'a.b'\nusers = ['ann', 'eve']",
                ["line 4", "has no user eve"],
            ),
            ("[[access]]\npattern = 'a.b'\nusers = ['ann']", ["line 3", "needs auth.users_file"]),
            ("[[access]]\npattern = 'a.b'", ["line 1", "the key users is missing"]),
            ("[[access]]\nusers = []", ["line 1", "the key pattern is missing"]),
            ("[[access]]\npattern = 'https://a.b'\nusers = []", ["line 2", "scheme"]),
            ("[[access]]\npattern = 'a.b'\nusers = 'ann'", ["line 3", "expected a list of strings"]),
            ("[[access]]\npattern = 'a.b'\nuser = ['ann']", ["line 3", "unknown key user"]),
        ] {
            let fault = fault(text);
            assert!(parts.iter().all(|part| fault.contains(part)), "{text}: {fault}");
        }
        let options = Options::default().with("auth.default", Some("eve"));
        let faults = access(FILE, &options).unwrap_err();
        assert!(faults[0].contains("--auth-default") && faults[0].contains("eve"), "{faults:?}");
    }
}
