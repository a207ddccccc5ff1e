//! The versions to fetch: from the command line, and from go.mod and go.sum files.

use std::collections::BTreeMap;
use std::fmt;
use std::io::Read;
use std::path::{Path, PathBuf};

use stoa_gomod::gosum::{self, SumOf};
use stoa_gomod::modfile::{self, has_module_directive};
use stoa_gomod::requirements::requirements;
use stoa_gomod::{ModulePath, ModuleVersion, Revision};
use stoa_layout::{Exit, PathError};

use crate::command::error::CommandError;
use crate::fill::Expected;

/// A version, or a query for one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Asked {
    /// An exact version.
    Version(ModuleVersion),
    /// A branch, a commit, a prefix or `latest`, to be resolved by the upstream.
    Query(ModulePath, Revision),
}

impl Asked {
    /// Parses `MODULE@VERSION`.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let (path, version) =
            text.split_once('@').ok_or("expected MODULE@VERSION, as in example.org/module@latest")?;
        let path = ModulePath::new(path).map_err(|error| error.to_string())?;
        let version = Revision::new(version).map_err(|error| error.to_string())?;
        Ok(Self::of(path, version))
    }

    fn of(path: ModulePath, version: Revision) -> Self {
        match ModuleVersion::parse(&format!("{path}@{version}")) {
            Ok(version) => Self::Version(version),
            Err(_) => Self::Query(path, version),
        }
    }

    /// Returns the module.
    pub(crate) fn module(&self) -> &ModulePath {
        match self {
            Self::Version(version) => version.path(),
            Self::Query(module, _) => module,
        }
    }

    /// Returns the text after the `@`.
    pub(crate) fn asked(&self) -> &str {
        match self {
            Self::Version(version) => version.version().as_str(),
            Self::Query(_, query) => query.as_str(),
        }
    }
}

impl fmt::Display for Asked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.module(), self.asked())
    }
}

/// The versions to fetch, with their hashes from go.sum files.
pub(crate) type Wanted = BTreeMap<Asked, Expected>;

/// Gathers the versions of the command line and of the files. `-` is standard input.
pub(crate) fn gather(
    typed: &[Asked],
    files: &[PathBuf],
    platforms: &[String],
) -> Result<Wanted, CommandError> {
    if typed.is_empty() && files.is_empty() {
        return Err(refused("no versions to fetch", "add MODULE@VERSION, or a go.mod or go.sum with --from"));
    }
    let mut wanted: Wanted = typed.iter().map(|asked| (asked.clone(), Expected::default())).collect();
    for file in files {
        let body = read(file)?;
        add(&mut wanted, (file, &body), platforms).map_err(|why| {
            refused(&format!("cannot parse {}: {why}", shown(file).display()), "use a go.mod or a go.sum")
        })?;
    }
    Ok(wanted)
}

fn add(wanted: &mut Wanted, (file, body): (&Path, &[u8]), platforms: &[String]) -> Result<(), String> {
    let ending = file.extension().and_then(|ending| ending.to_str());
    let is_sum = match ending {
        Some("sum") => true,
        Some("mod") => false,
        _ => gosum::looks_like(body),
    };
    if !is_sum {
        if !has_module_directive(body) {
            return Err("it is neither a go.mod, which has a line `module`, nor a go.sum".to_owned());
        }
        for one in requirements(body).map_err(|error| error.to_string())? {
            wanted.entry(Asked::of(one.path, one.version)).or_default();
        }
        for toolchain in modfile::toolchains(body) {
            for platform in platforms {
                let version = format!("golang.org/toolchain@v0.0.1-{toolchain}.{platform}");
                wanted.entry(Asked::parse(&version)?).or_default();
            }
        }
        return Ok(());
    }
    for sum in gosum::parse(body).map_err(|error| error.to_string())? {
        let sums = wanted.entry(Asked::Version(sum.version)).or_default();
        match sum.of {
            SumOf::Zip => sums.zip.extend(sum.h1),
            SumOf::Mod => sums.modfile.extend(sum.h1),
        }
    }
    Ok(())
}

fn read(file: &Path) -> Result<Vec<u8>, CommandError> {
    let mut body = Vec::new();
    if file == Path::new("-") {
        let read = std::io::stdin().lock().read_to_end(&mut body);
        return match read {
            Ok(_) => Ok(body),
            Err(error) => Err(PathError::new("read", shown(file), error).into()),
        };
    }
    std::fs::read(file).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => refused(
            &format!("cannot read {}: there is no such file", file.display()),
            "use a go.mod or a go.sum",
        ),
        std::io::ErrorKind::IsADirectory => {
            let text = format!("cannot read {}: it is a folder", file.display());
            refused(&text, "use the go.mod or the go.sum in it")
        }
        _ => PathError::new("read", file, error).into(),
    })
}

fn refused(text: &str, help: &str) -> CommandError {
    CommandError::new(Exit::USAGE, text).help(help)
}

fn shown(file: &Path) -> &Path {
    if file == Path::new("-") { Path::new("standard input") } else { file }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a test writes files")]
mod tests {
    use super::*;

    const HASH: &str = "h1:dJmeSrJpmDbUBaBgAhrw5uDIeaBwxX0oy0IIx0F+Cok=";

    #[test]
    fn an_exact_version_is_no_query() {
        for (text, is_version) in [
            ("a.b/c@v1.2.3", true),
            ("a.b/c@latest", false),
            ("a.b/c@v1.2", false),
            ("a.b/c@0123abc", false),
            // The major version does not match: only the upstream can resolve it.
            ("a.b/c@v2.0.0", false),
        ] {
            let asked = Asked::parse(text).unwrap();
            assert_eq!(matches!(asked, Asked::Version(_)), is_version, "{text}");
            assert_eq!(asked.to_string(), text);
        }
        for bad in ["a.b/c", "c@v1.0.0", "a.b/c@", "a.b/c@feature/x"] {
            assert!(Asked::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_go_mod_and_a_go_sum_are_recognised_and_merged() {
        let dir = testkit::tempdir();
        let write = |name: &str, body: &str| {
            let path = dir.path().join(name);
            std::fs::write(&path, body).unwrap();
            path
        };
        let gomod = write("go.mod", "module a.b/me\nrequire a.b/one v1.0.0\nrequire a.b/two main\n");
        let named_otherwise =
            write("list.txt", &format!("a.b/one v1.0.0 {HASH}\na.b/three v1.0.0/go.mod {HASH}\n"));
        let typed = [Asked::parse("a.b/two@main").unwrap()];
        let wanted = gather(&typed, &[gomod, named_otherwise], &[]).unwrap();
        let shown: Vec<_> = wanted
            .iter()
            .map(|(asked, sums)| (asked.to_string(), sums.zip.len(), sums.modfile.len()))
            .collect();
        let expected = [("a.b/one@v1.0.0", 1, 0), ("a.b/three@v1.0.0", 0, 1), ("a.b/two@main", 0, 0)];
        assert_eq!(shown, expected.map(|(asked, zip, modfile)| (asked.to_owned(), zip, modfile)));
    }

    #[test]
    fn the_toolchains_of_a_go_mod_are_wanted_for_each_platform() {
        let dir = testkit::tempdir();
        let path = dir.path().join("go.mod");
        std::fs::write(&path, "module a.b/me\ngo 1.24.0\ntoolchain go1.24.3\n").unwrap();
        let platforms = ["linux-amd64", "darwin-arm64"].map(str::to_owned);
        let wanted: Vec<_> = gather(&[], &[path], &platforms).unwrap().into_keys().collect();
        let expected = [
            "go1.24.0.darwin-arm64",
            "go1.24.0.linux-amd64",
            "go1.24.3.darwin-arm64",
            "go1.24.3.linux-amd64",
        ]
        .map(|name| format!("golang.org/toolchain@v0.0.1-{name}"));
        assert_eq!(wanted.iter().map(ToString::to_string).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn errors_name_the_file() {
        let dir = testkit::tempdir();
        let path = dir.path().join("go.sum");
        std::fs::write(&path, "\nrequire a.b v1.0.0 x\n").unwrap();
        let error_for = |files: &[PathBuf]| {
            let error = gather(&[], files, &[]).unwrap_err();
            assert_eq!(error.exit, Exit::USAGE);
            error.message.unwrap()
        };
        assert!(error_for(&[path]).contains("go.sum: line 2: "));
        assert!(error_for(&[dir.path().to_owned()]).contains("is a folder"));
        assert!(error_for(&[dir.path().join("missing")]).contains("there is no such file"));
        assert!(error_for(&[]).contains("no versions to fetch"));
    }
}
