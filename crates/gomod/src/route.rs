//! The requests of the protocol.
//!
//! The rules are those of the module proxy protocol and of the checksum database's proxy protocol in the Go
//! Modules Reference. A target is percent-decoded exactly once, then names are decoded by the strict rule
//! of [`escape`]. Malformed names are not found. This code runs for every request, so it copies nothing but
//! the names.

use crate::escape;
use crate::module_version::{self, ModuleVersion};
use crate::path::ModulePath;
use crate::revision::{self, Revision};
use crate::sumdb::Tile;
use crate::version::Version;
use percent_encoding::percent_decode_str;
use std::borrow::Cow;

/// A classified request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Route {
    /// The versions of a module.
    List(ModulePath),
    /// The latest version of a module.
    Latest(ModulePath),
    /// The info of a version.
    Info(ModuleVersion),
    /// The go.mod of a version.
    Mod(ModuleVersion),
    /// The zip of a version.
    Zip(ModuleVersion),
    /// The version of a branch, a commit, a prefix, or a version of another major.
    Query(ModulePath, Revision),
    /// Whether the proxy serves a checksum database.
    SumdbSupported {
        /// The name of the database.
        sumdb: String,
    },
    /// The signed tree head of a checksum database.
    SumdbLatest {
        /// The name of the database.
        sumdb: String,
    },
    /// The record of a version in a checksum database.
    SumdbLookup {
        /// The name of the database.
        sumdb: String,
        /// The version.
        module: ModuleVersion,
    },
    /// A tile of a checksum database.
    SumdbTile {
        /// The name of the database.
        sumdb: String,
        /// The tile.
        tile: Tile,
    },
    /// Not a request of the protocol.
    NotFound,
    /// A method other than GET and HEAD.
    MethodNotAllowed,
}

/// Classifies a request.
///
/// `raw_target` is the original path of the request, in origin form. Its query string is ignored.
/// `base_path` is the mount point of the proxy, `/` or `/some/path`. `sumdbs` are the names of the served
/// checksum databases. All others are not found.
pub fn classify(method: &str, raw_target: &str, base_path: &str, sumdbs: &[impl AsRef<str>]) -> Route {
    if !matches!(method, "GET" | "HEAD") {
        return Route::MethodNotAllowed;
    }
    route(raw_target, base_path, sumdbs).unwrap_or(Route::NotFound)
}

fn route(raw_target: &str, base_path: &str, sumdbs: &[impl AsRef<str>]) -> Option<Route> {
    let raw_path = raw_target.split('?').next()?;
    let raw_path = raw_path.strip_prefix(base_path.trim_end_matches('/'))?.strip_prefix('/')?;
    let path = percent_decode_once(raw_path)?;
    if path.split('/').any(|element| matches!(element, "" | "." | "..")) {
        return None;
    }
    match path.strip_prefix("sumdb/") {
        Some(rest) => sumdb_route(rest, sumdbs),
        None => module_route(&path),
    }
}

/// Decodes percent escapes. Returns `None` if one is malformed or the result is not UTF-8.
fn percent_decode_once(raw: &str) -> Option<Cow<'_, str>> {
    let malformed = raw.split('%').skip(1).any(|after| {
        let digits = after.as_bytes().get(..2);
        !digits.is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit))
    });
    if malformed { None } else { percent_decode_str(raw).decode_utf8().ok() }
}

fn module_route(path: &str) -> Option<Route> {
    // A module path has no `@`, so the first `@` starts the protocol's part.
    let (escaped, rest) = path.split_once("/@")?;
    let name = match rest {
        "latest" | "v/list" => None,
        _ => Some(rest.strip_prefix("v/")?.rsplit_once('.')?),
    };
    let module = ModulePath::accept(&escape::try_decode(escaped)?)?;
    match name {
        None if rest == "latest" => Some(Route::Latest(module)),
        None => Some(Route::List(module)),
        Some((version, extension)) => file_route(module, version, extension),
    }
}

fn file_route(module: ModulePath, escaped: &str, extension: &str) -> Option<Route> {
    if !matches!(extension, "info" | "mod" | "zip") {
        return None;
    }
    let plain = escape::try_decode(escaped)?;
    if !revision::is_legal(&plain) || matches!(&*plain, "latest" | "upgrade" | "patch") {
        return None;
    }
    if module_version::agree(&module, &plain)
        && let Some(version) = Version::accept(&plain)
    {
        let module = ModuleVersion::from_agreeing(module, version);
        return Some(match extension {
            "info" => Route::Info(module),
            "mod" => Route::Mod(module),
            _ => Route::Zip(module),
        });
    }
    (extension == "info").then(|| Revision::accept(&plain).map(|revision| Route::Query(module, revision)))?
}

fn sumdb_route(path: &str, sumdbs: &[impl AsRef<str>]) -> Option<Route> {
    let matching = sumdbs.iter().filter_map(|name| {
        let name = name.as_ref();
        Some((name, path.strip_prefix(name)?.strip_prefix('/')?))
    });
    // A name may contain slashes and start with another name, so the longest match counts.
    let (name, request) = matching.max_by_key(|(name, _)| name.len())?;
    let sumdb = name.to_owned();
    match request {
        "supported" => Some(Route::SumdbSupported { sumdb }),
        "latest" => Some(Route::SumdbLatest { sumdb }),
        _ => match request.strip_prefix("lookup/") {
            Some(pair) => {
                let module = lookup(pair)?;
                Some(Route::SumdbLookup { sumdb, module })
            }
            None => Some(Route::SumdbTile { sumdb, tile: Tile::parse(request)? }),
        },
    }
}

fn lookup(rest: &str) -> Option<ModuleVersion> {
    let (path, version) = rest.split_once('@')?;
    let path = ModulePath::accept(&escape::try_decode(path)?)?;
    let version = Version::accept(&escape::try_decode(version)?)?;
    ModuleVersion::new(path, version).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn get(target: &str) -> Route {
        classify("GET", target, "/", &["db.example", "db.example/v2"])
    }

    #[test]
    fn the_base_path_ends_at_a_slash() {
        let at = |target, base| classify("GET", target, base, &[] as &[&str]);
        let list = Route::List(ModulePath::new("a.b/c").unwrap());
        for base in ["", "/"] {
            assert_eq!(at("/a.b/c/@v/list", base), list);
        }
        for base in ["/go", "/go/"] {
            assert_eq!(at("/go/a.b/c/@v/list", base), list);
            assert_eq!(at("/gone/a.b/c/@v/list", base), Route::NotFound);
            assert_eq!(at("/a.b/c/@v/list", base), Route::NotFound);
        }
    }

    #[test]
    fn a_query_string_is_ignored() {
        assert_eq!(get("/a.b/@latest?x=/@v/list"), Route::Latest(ModulePath::new("a.b").unwrap()));
    }

    #[test]
    fn bad_percent_escapes_are_not_found() {
        for bad in
            ["/a.b/@v/list%", "/a.b/@v/lis%7", "/a.b/@v/%zzlist", "/a.b/@v/%fflist", "/a.b/%2500/@v/list"]
        {
            assert_eq!(get(bad), Route::NotFound, "{bad}");
        }
        assert_eq!(get("/a.b%2fc/@v/list"), get("/a.b/c/@v/list"));
    }

    #[test]
    fn the_longest_name_of_a_database_counts() {
        assert_eq!(get("/sumdb/db.example/v2/latest"), Route::SumdbLatest { sumdb: "db.example/v2".into() });
        assert_eq!(get("/sumdb/db.example/latest"), Route::SumdbLatest { sumdb: "db.example".into() });
        assert_eq!(get("/sumdb/db.examplex/latest"), Route::NotFound);
    }

    #[test]
    fn lookups_need_canonical_versions() {
        let lookup = |pair: &str| get(&format!("/sumdb/db.example/lookup/{pair}"));
        assert!(matches!(lookup("a.b/!c@v1.0.0-!r!c1"), Route::SumdbLookup { module, .. }
            if module.to_string() == "a.b/C@v1.0.0-RC1"));
        for bad in ["a.b@v1.0.0/go.mod", "a.b@v1", "a.b@master", "a.b", "a.b/C@v1.0.0", "a.b@v2.0.0"] {
            assert_eq!(lookup(bad), Route::NotFound, "{bad}");
        }
    }

    #[test]
    fn tile_paths_must_be_exact() {
        assert!(matches!(get("/sumdb/db.example/tile/8/0/x001/234.p/5"), Route::SumdbTile { tile, .. }
            if tile.width == 5 && tile.path() == "tile/8/0/x001/234.p/5"));
        assert_eq!(get("/sumdb/db.example/tile/8/0/1"), Route::NotFound);
    }

    #[test]
    fn a_version_of_another_major_is_a_query() {
        assert!(
            matches!(get("/a.b/@v/v2.0.0.info"), Route::Query(_, revision) if revision.as_str() == "v2.0.0")
        );
        assert!(matches!(get("/a.b/@v/v1.0.0+meta.info"), Route::Query(..)));
        assert_eq!(get("/a.b/@v/v2.0.0.zip"), Route::NotFound);
    }

    proptest! {
        #[test]
        fn escaped_names_are_found(path in "[a-z]\\.[a-z]{1,3}(/[a-zA-Z0-9._~-]{1,5}){0,2}", pre in "(-[a-zA-Z]{1,4})?") {
            let version = format!("v1.2.3{pre}");
            if let (Ok(path), Ok(version)) = (ModulePath::new(&path), Version::new(&version))
                && let Ok(module) = ModuleVersion::new(path, version)
            {
                let target = format!("/{}/@v/{}", module.path().escaped(), module.version().escaped());
                for target in [target.clone(), target.replace('!', "%21")] {
                    prop_assert_eq!(get(&format!("{target}.zip")), Route::Zip(module.clone()));
                    prop_assert_eq!(get(&format!("{target}.mod")), Route::Mod(module.clone()));
                    prop_assert_eq!(get(&format!("{target}.info")), Route::Info(module.clone()));
                }
            }
        }

        #[test]
        fn no_request_target_causes_a_panic(target in "[/@v%!a-zA-Z0-9.]{0,40}|.{0,20}") {
            let _ = get(&target);
        }
    }
}
