//! Runs every case of every family in `tests/vectors` against the crate.
//!
//! The expected results come from Go's libraries. A family without a runner, a runner without a family, and
//! a missing case fail.

#![expect(clippy::panic, clippy::unwrap_used, reason = "a test may fail loudly")]

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::cmp::Ordering;
use std::convert::Infallible;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use stoa_gomod::goproxy::{self, Outcome, Source};
use stoa_gomod::sumdb::{self, Level, Tile, Verifier};
use stoa_gomod::zip::{self, ExamineError, FileKind, SourceFile};
use stoa_gomod::{
    EscapeError, H1, ModulePath, ModuleVersion, PairError, PathError, Revision, Route, Version, h1, info,
    list, modfile, path, private::Patterns, pseudo, query, route, semver,
};

/// Runs one case.
type Runner = fn(&Value);

/// Family, number of cases, runner.
const FAMILIES: &[(&str, usize, Runner)] = &[
    ("escape", 41, escape),
    ("gomod", 20, gomod),
    ("goproxy-list", 18, goproxy_list),
    ("h1", 13, hash),
    ("info-body", 10, info_body),
    ("list-body", 6, list_body),
    ("module-version-check", 24, module_version_check),
    ("path-check", 80, path_check),
    ("path-major-match", 12, path_major_match),
    ("private-globs", 23, private_globs),
    ("pseudo-parse", 29, pseudo_parse),
    ("query", 11, queries),
    ("route", 37, routes),
    ("semver", 34, semver_parts),
    ("semver-compare", 49, semver_compare),
    ("split-path-major", 16, split_path_major),
    ("sumdb", 38, checksum_database),
    ("zip-rules", 67, zip_rules),
];

#[test]
fn every_case_of_every_family_holds() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors");
    let mut families: Vec<&str> = FAMILIES.iter().map(|(family, ..)| *family).collect();
    let mut failures = Vec::new();
    for file in std::fs::read_dir(folder).unwrap() {
        let vectors: Value = serde_json::from_slice(&std::fs::read(file.unwrap().path()).unwrap()).unwrap();
        assert_eq!(vectors["format"], 1);
        let family = text(&vectors, "family");
        let at = families.iter().position(|known| *known == family);
        families.swap_remove(at.unwrap_or_else(|| panic!("family {family} has no runner")));
        let (_, count, run) = FAMILIES.iter().find(|(name, ..)| *name == family).unwrap();
        let cases = vectors["cases"].as_array().unwrap();
        let mut passed = 0;
        for case in cases {
            match catch_unwind(AssertUnwindSafe(|| run(case))) {
                Ok(()) => passed += 1,
                Err(_) => failures.push(text(case, "id").to_owned()),
            }
        }
        if failures.is_empty() {
            assert_eq!((passed, cases.len()), (*count, *count), "cases of {family}");
        }
    }
    assert!(failures.is_empty(), "{failures:#?}");
    assert!(families.is_empty(), "no file for {families:?}");
}

fn text<'a>(case: &'a Value, key: &str) -> &'a str {
    case[key].as_str().unwrap_or_else(|| panic!("{key} of {case}"))
}

fn flag(case: &Value, key: &str) -> bool {
    case[key].as_bool().unwrap_or_else(|| panic!("{key} of {case}"))
}

fn texts<'a>(case: &'a Value, key: &str) -> Vec<&'a str> {
    case[key].as_array().unwrap().iter().map(|item| item.as_str().unwrap()).collect()
}

fn unknown_op(case: &Value) -> ! {
    panic!("unknown operation in {case}")
}

fn hex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

fn escape(case: &Value) {
    let input = text(case, "in");
    let plain = |result: Result<String, EscapeError>| result.ok();
    let output = match text(case, "op") {
        "escape_path" => ModulePath::new(input).ok().map(|path| path.escaped()),
        "unescape_path" => plain(ModulePath::unescape(input).map(|path| path.to_string())),
        "escape_version" => Revision::new(input).ok().map(|revision| revision.escaped()),
        "unescape_version" => plain(Revision::unescape(input).map(|revision| revision.to_string())),
        _ => unknown_op(case),
    };
    assert_eq!(output.as_deref(), case["out"].as_str(), "{case}");
}

fn gomod(case: &Value) {
    let (path, body) = (text(case, "path"), text(case, "text"));
    match text(case, "op") {
        "module_path" => {
            assert_eq!(modfile::module_path(body.as_bytes()).unwrap_or_default(), path, "{case}")
        }
        "synthesize" => {
            assert_eq!(modfile::synthesize(&ModulePath::new(path).unwrap()), body, "{case}");
            assert_eq!(h1::hash_mod(body.as_bytes()).as_str(), text(case, "h1"), "{case}");
        }
        _ => unknown_op(case),
    }
}

fn goproxy_list(case: &Value) {
    let parsed = goproxy::parse(text(case, "value"));
    match text(case, "op") {
        "parse" => match (parsed, case.get("error")) {
            (Err(error), Some(expected)) => assert_eq!(code(&error), expected.as_str().unwrap(), "{case}"),
            (Ok(list), None) => {
                let expected = case["entries"].as_array().unwrap();
                assert_eq!(list.entries().len(), expected.len(), "{case}");
                for (entry, expected) in list.entries().iter().zip(expected) {
                    assert_eq!(entry.source.to_string(), text(expected, "entry"), "{case}");
                    assert_eq!(
                        entry.fallback_on_any_error,
                        flag(expected, "fallback_on_any_error"),
                        "{case}"
                    );
                }
            }
            (parsed, _) => panic!("{case}: {parsed:?}"),
        },
        "walk" => {
            let list = parsed.unwrap();
            let (mut next, mut tried, mut result) = (Some(0), Vec::new(), "error");
            while let Some(index) = next {
                let source = &list.entries()[index].source;
                let name = source.to_string();
                let outcome = match (source, case["status"][&name].as_u64().unwrap()) {
                    (Source::Off, _) => Some(Outcome::Failed),
                    (_, 200) => None,
                    (_, 404 | 410) => Some(Outcome::NotFound),
                    _ => Some(Outcome::Failed),
                };
                tried.push(name);
                next = outcome.and_then(|outcome| list.next_after(index, outcome));
                if outcome.is_none() {
                    result = "ok";
                }
            }
            assert_eq!(tried, texts(case, "tried"), "{case}");
            assert_eq!(result, text(case, "result"), "{case}");
        }
        _ => unknown_op(case),
    }
}

fn hash(case: &Value) {
    let mut builder = h1::Builder::new();
    let added = match text(case, "mode") {
        "files" => case["files"].as_array().unwrap().iter().try_for_each(|file| {
            builder.add(text(file, "name"), Sha256::digest(text(file, "content")).into())
        }),
        "gomod" => {
            assert_eq!(h1::hash_mod(text(case, "content").as_bytes()).as_str(), text(case, "h1"), "{case}");
            builder.add("go.mod", Sha256::digest(text(case, "content")).into())
        }
        _ => unknown_op(case),
    };
    match case.get("error") {
        Some(expected) => {
            assert_eq!(expected, "newline_in_name");
            assert!(matches!(added, Err(h1::H1Error::NewlineInName(_))), "{case}");
        }
        None => {
            added.unwrap();
            assert_eq!(builder.finish(), H1::new(text(case, "h1")).unwrap(), "{case}");
        }
    }
}

fn info_body(case: &Value) {
    let path = ModulePath::new(text(case, "path")).unwrap();
    let info = info::parse_answer(&path, text(case, "requested"), text(case, "body").as_bytes());
    assert_eq!(info.is_ok(), flag(case, "accept"), "{case}");
}

fn list_body(case: &Value) {
    let body = text(case, "body").as_bytes();
    let canonical: Vec<_> = list::versions(body).iter().map(Version::to_string).collect();
    assert_eq!(canonical, texts(case, "versions"), "{case}");
}

fn module_version_check(case: &Value) {
    let version = text(case, "version");
    let reason = match ModulePath::new(text(case, "path")) {
        Err(error) => Some(code(&error.reason)),
        Ok(_) if !semver::is_valid(version) => Some("not_semver".to_owned()),
        Ok(path) if path::path_major_matches(version, path.split_major().1) => None,
        Ok(_) => Some("major_mismatch".to_owned()),
    };
    assert_eq!(reason.is_none(), flag(case, "ok"), "{case}");
    assert_eq!(reason.as_deref(), case["reason"].as_str(), "{case}");
}

/// Returns the short name of an error's variant in the vectors.
fn code(error: &impl std::fmt::Debug) -> String {
    let debug = format!("{error:?}");
    let variant = debug.split(['(', ' ']).next().unwrap();
    let words = variant.chars().enumerate().map(|(at, c)| match c.is_ascii_uppercase() && at > 0 {
        true => format!("_{}", c.to_ascii_lowercase()),
        false => c.to_ascii_lowercase().to_string(),
    });
    words.collect::<String>().replace("go_mod", "gomod").replace("utf_8", "utf8")
}

/// Returns the short name of the reason why a file is invalid or omitted.
fn file_code(reason: &zip::Reason) -> String {
    match reason {
        zip::Reason::Path(reason) => format!("path:{}", code(reason)),
        reason => code(reason),
    }
}

fn pair_reason(error: &PairError) -> String {
    match error {
        PairError::Path(error) => code(&error.reason),
        PairError::Version(error) => code(error),
        PairError::Major { .. } => "major_mismatch".to_owned(),
        error => code(error),
    }
}

fn path_check(case: &Value) {
    let path = match case.get("path_hex") {
        Some(bytes) => hex(bytes.as_str().unwrap()),
        None => text(case, "path").as_bytes().to_vec(),
    };
    let expect = |kind: &str, checked: Result<(), PathError>| {
        assert_eq!(checked.is_ok(), flag(case, kind), "{kind} {case}");
        let reason = checked.err().map(|error| code(&error.reason));
        assert_eq!(reason.as_deref(), case[&format!("{kind}_reason")].as_str(), "{kind} {case}");
    };
    expect("module", path::check_module(&path));
    expect("file", path::check_file(&path));
}

fn path_major_match(case: &Value) {
    let matches = path::path_major_matches(text(case, "version"), text(case, "path_major"));
    assert_eq!(matches, flag(case, "ok"), "{case}");
}

fn private_globs(case: &Value) {
    let matches = Patterns::parse(text(case, "globs")).matches(text(case, "target"));
    assert_eq!(matches, flag(case, "match"), "{case}");
}

fn pseudo_parse(case: &Value) {
    let version = text(case, "version");
    assert_eq!(pseudo::is_pseudo(version), flag(case, "is_pseudo"), "{case}");
    if !flag(case, "is_pseudo") {
        assert_eq!(pseudo::time(version), None, "{case}");
        return;
    }
    let time = pseudo::time(version).map(|time| {
        let (year, month, day) = time.to_calendar_date();
        let (hour, minute, second) = time.to_hms();
        format!("{year:04}{:02}{day:02}{hour:02}{minute:02}{second:02}", u8::from(month))
    });
    let expected = flag(case, "time_valid").then(|| text(case, "timestamp").to_owned());
    assert_eq!(time, expected, "{case}");
}

fn queries(case: &Value) {
    let path = ModulePath::new(text(case, "path")).unwrap();
    let versions: Vec<_> = texts(case, "versions").into_iter().map(|v| Version::new(v).unwrap()).collect();
    let has_gomod = texts(case, "has_gomod");
    let has_gomod = |version: &Version| Ok::<_, Infallible>(has_gomod.contains(&version.as_str()));
    let result = query::resolve(&path, text(case, "query"), &versions, has_gomod).unwrap();
    assert_eq!(result.as_ref().map(Version::as_str), case["result"].as_str(), "{case}");
}

fn routes(case: &Value) {
    let route = route::classify(text(case, "method"), text(case, "target"), "/", &["sumdb.example.com"]);
    let field = |key: &str, value: &str| assert_eq!(text(case, key), value, "{case}");
    let kind = match &route {
        Route::List(module) | Route::Latest(module) => {
            field("module", module.as_str());
            if matches!(route, Route::List(_)) { "list" } else { "latest" }
        }
        Route::Info(module) | Route::Mod(module) | Route::Zip(module) => {
            field("module", module.path().as_str());
            field("version", module.version().as_str());
            match route {
                Route::Info(_) => "info",
                Route::Mod(_) => "mod",
                _ => "zip",
            }
        }
        Route::Query(module, revision) => {
            field("module", module.as_str());
            field("query", revision.as_str());
            "query"
        }
        Route::SumdbSupported { sumdb } => {
            field("sumdb", sumdb);
            "sumdb_supported"
        }
        Route::SumdbLatest { sumdb } => {
            field("sumdb", sumdb);
            "sumdb_latest"
        }
        Route::SumdbLookup { sumdb, module } => {
            field("sumdb", sumdb);
            field("rest", &format!("{}@{}", module.path().escaped(), module.version().escaped()));
            "sumdb_lookup"
        }
        Route::SumdbTile { sumdb, tile } => {
            field("sumdb", sumdb);
            field("rest", &tile.path());
            "sumdb_tile"
        }
        Route::NotFound => "not_found",
        Route::MethodNotAllowed => "method_not_allowed",
    };
    assert_eq!(kind, text(case, "kind"), "{case}");
}

fn semver_parts(case: &Value) {
    let version = text(case, "version");
    assert_eq!(semver::is_valid(version), flag(case, "valid"), "{case}");
    assert_eq!(semver::canonical_version(version), text(case, "canonical_version"), "{case}");
    assert_eq!(semver::major(version), text(case, "major"), "{case}");
    assert_eq!(semver::major_minor(version), text(case, "major_minor"), "{case}");
    assert_eq!(semver::prerelease(version), text(case, "prerelease"), "{case}");
    assert_eq!(semver::build(version), text(case, "build"), "{case}");
}

fn semver_compare(case: &Value) {
    if case.get("sort_in").is_some() {
        let mut versions = texts(case, "sort_in");
        versions.sort_by(|a, b| semver::compare_total(a, b));
        assert_eq!(versions, texts(case, "sort_out"), "{case}");
        return;
    }
    let expected = match case["cmp"].as_i64().unwrap() {
        -1 => Ordering::Less,
        0 => Ordering::Equal,
        _ => Ordering::Greater,
    };
    let (a, b) = (text(case, "a"), text(case, "b"));
    assert_eq!(semver::compare(a, b), expected, "{case}");
    assert_eq!(semver::compare(b, a), expected.reverse(), "{case}");
}

fn split_path_major(case: &Value) {
    let path = text(case, "path");
    let split = path::split_path_major(path);
    assert_eq!(split.is_some(), flag(case, "ok"), "{case}");
    assert_eq!(split.unwrap_or((path, "")), (text(case, "prefix"), text(case, "path_major")), "{case}");
}

fn checksum_database(case: &Value) {
    let decode = |key: &str| STANDARD.decode(text(case, key)).unwrap();
    let decode_hash = |key: &str| sumdb::Hash::try_from(decode(key)).unwrap();
    match text(case, "op") {
        "key_hash" => {
            let hash = sumdb::key_hash(text(case, "name"), &decode("key_base64"));
            assert_eq!(format!("{hash:08x}"), text(case, "key_hash"), "{case}");
        }
        "record_hash" => {
            assert_eq!(sumdb::record_hash(text(case, "data").as_bytes()), decode_hash("hash"), "{case}");
        }
        "node_hash" => {
            let hash = sumdb::node_hash(&decode_hash("left"), &decode_hash("right"));
            assert_eq!(hash, decode_hash("hash"), "{case}");
        }
        "note_verify" => {
            let verifier = Verifier::parse(text(case, "verifier_key")).unwrap();
            let verified = verifier.verify(text(case, "note").as_bytes());
            assert_eq!(verified.is_ok(), flag(case, "ok"), "{case}: {verified:?}");
        }
        "format_record" => {
            let message = sumdb::format_record(case["record_id"].as_u64().unwrap(), text(case, "text"));
            assert_eq!(message.as_deref(), case["msg"].as_str(), "{case}");
        }
        "parse_record" => {
            let message = hex(text(case, "msg_hex"));
            let record = sumdb::parse_record(&message);
            assert_eq!(record.is_some(), !case["record"].is_null(), "{case}");
            if let Some(record) = record {
                assert_eq!(record.id, case["record"]["id"], "{case}");
                assert_eq!(record.text, text(&case["record"], "text"), "{case}");
                assert_eq!(record.rest, hex(text(&case["record"], "rest_hex")), "{case}");
            }
        }
        "parse_tree" => {
            let tree = sumdb::parse_tree(text(case, "text").as_bytes());
            assert_eq!(tree.is_some(), !case["tree"].is_null(), "{case}");
            if let Some(tree) = tree {
                assert_eq!(tree.size, case["tree"]["n"], "{case}");
                assert_eq!(STANDARD.encode(tree.hash), text(&case["tree"], "hash"), "{case}");
            }
        }
        "tile_path" => {
            let level = match case["level"].as_i64().unwrap() {
                -1 => Level::Data,
                level => Level::Hashes(level.try_into().unwrap()),
            };
            let tile = Tile {
                height: case["height"].as_u64().unwrap().try_into().unwrap(),
                level,
                index: case["n"].as_u64().unwrap(),
                width: case["width"].as_u64().unwrap().try_into().unwrap(),
            };
            assert_eq!(tile.path(), text(case, "path"), "{case}");
            assert_eq!(Tile::parse(text(case, "path")), Some(tile), "{case}");
        }
        "tile_parse_bad" => assert_eq!(Tile::parse(text(case, "path")), None, "{case}"),
        _ => unknown_op(case),
    }
}

/// A file of a zip case; `content` is missing where only the size counts.
struct CaseFile<'a> {
    name: &'a str,
    kind: FileKind,
    content: Option<&'a str>,
    size: u64,
}

fn case_files(case: &Value) -> Vec<CaseFile<'_>> {
    let files = case["entries"].as_array().unwrap().iter();
    files
        .map(|file| {
            let kind = match file.get("type").and_then(Value::as_str) {
                None | Some("file") => FileKind::Regular,
                Some("symlink") => FileKind::Symlink,
                Some("dir") => FileKind::Directory,
                Some(_) => FileKind::Other,
            };
            let content = file.get("content").and_then(Value::as_str);
            let size = content.map_or_else(|| file["size"].as_u64().unwrap(), |content| content.len() as u64);
            CaseFile { name: text(file, "name"), kind, content, size }
        })
        .collect()
}

fn zip_rules(case: &Value) {
    match text(case, "op") {
        "vendored" => {
            let go = Some(text(case, "go")).filter(|go| !go.is_empty());
            assert_eq!(zip::vendored(text(case, "name"), go), flag(case, "ok"), "{case}");
        }
        "check_files" => {
            let files = case_files(case);
            let check = zip::check_files(files.iter().map(|file| (file.name, file.kind, file.size)), None);
            expect_check(case, &files, &check);
            expect_reasons(case, "omitted", &files, &check.omitted);
        }
        "check_zip" => check_zip(case),
        "create" => create(case),
        _ => unknown_op(case),
    }
}

/// Parses the pair like the go command, version first.
fn case_module(case: &Value) -> Option<ModuleVersion> {
    let (path, version) = (text(case, "path"), text(case, "version"));
    let checked = match semver::is_canonical(version) {
        false => Err("version_not_canonical".to_owned()),
        true => ModuleVersion::parse(&format!("{path}@{version}"))
            .map_err(|error| format!("module:{}", pair_reason(&error))),
    };
    match checked {
        Ok(module) => Some(module),
        Err(error) => {
            assert!(!flag(case, "ok"), "{case}");
            assert_eq!(error, text(case, "error"), "{case}");
            None
        }
    }
}

fn check_zip(case: &Value) {
    let Some(module) = case_module(case) else { return };
    let files = case_files(case);
    let check = zip::check_zip(&module, files.iter().map(|file| (file.name, file.size)));
    expect_check(case, &files, &check);
    if files.iter().any(|file| file.content.is_none()) {
        return;
    }
    let archive = archive(&files);
    match zip::examine(&archive, &module) {
        Ok(examined) => {
            assert!(flag(case, "ok"), "{case}");
            assert_eq!(examined.entries, files.len() as u64, "{case}");
            assert_eq!(examined.h1.as_str(), text(case, "h1"), "{case}");
            assert_eq!(zip::check_structure(&archive, &module).unwrap().entries, examined.entries);
        }
        Err(ExamineError::Broken(_)) => assert!(!flag(case, "ok"), "{case}"),
        Err(error) => panic!("{case}: {error}"),
    }
}

fn expect_check(case: &Value, files: &[CaseFile<'_>], check: &zip::Check) {
    assert_eq!(check.is_ok(), flag(case, "ok"), "{case}");
    let valid: Vec<_> = check.valid.iter().map(|&index| files[index].name).collect();
    assert_eq!(valid, texts(case, "valid"), "{case}");
    expect_reasons(case, "invalid", files, &check.invalid);
    assert_eq!(check.size_error, flag(case, "size_error"), "{case}");
}

fn expect_reasons(case: &Value, key: &str, files: &[CaseFile<'_>], found: &[(usize, zip::Reason)]) {
    let found: Vec<_> =
        found.iter().map(|&(at, why)| serde_json::json!([files[at].name, file_code(&why)])).collect();
    assert_eq!(Value::Array(found), case[key], "{case}");
}

fn create(case: &Value) {
    let Some(module) = case_module(case) else { return };
    let files = case_files(case);
    let zeros = vec![0; files.iter().map(|file| file.size).max().unwrap_or(0).try_into().unwrap()];
    let sources: Vec<_> = files
        .iter()
        .map(|file| SourceFile {
            path: file.name,
            kind: file.kind,
            content: file.content.map_or(&zeros[..file.size as usize], str::as_bytes),
        })
        .collect();
    match zip::create_from(&module, &sources) {
        Ok(archive) => {
            assert!(flag(case, "ok"), "{case}");
            let examined = zip::examine(&archive, &module).unwrap();
            let names = texts(case, "zip_entries");
            assert_eq!(examined.entries, names.len() as u64, "{case}");
            if case.get("h1").is_some() {
                assert_eq!(examined.h1.as_str(), text(case, "h1"), "{case}");
            }
            let go_mod = files.iter().find(|file| file.name == "go.mod").and_then(|file| file.content);
            assert_eq!(examined.go_mod.as_deref(), go_mod.map(str::as_bytes), "{case}");
            let named = files.iter().map(|file| (file.name, file.kind, file.size));
            let go = go_mod.and_then(|body| modfile::go_version(body.as_bytes()));
            let check = zip::check_files(named, go.as_deref());
            let valid: Vec<_> =
                check.valid.iter().map(|&at| format!("{module}/{}", files[at].name)).collect();
            assert_eq!(valid, names, "{case}");
            expect_reasons(case, "omitted", &files, &check.omitted);
        }
        Err(zip::CreateError::InvalidFiles(invalid)) => {
            assert!(!flag(case, "ok"), "{case}");
            assert_eq!(text(case, "error"), "invalid_files", "{case}");
            let invalid: Vec<_> =
                invalid.iter().map(|(path, why)| serde_json::json!([path, file_code(why)])).collect();
            assert_eq!(Value::Array(invalid), case["invalid"], "{case}");
        }
        Err(zip::CreateError::TooLarge) => assert_eq!(text(case, "error"), "too_large", "{case}"),
        Err(error) => panic!("{case}: {error}"),
    }
}

/// Writes a zip with these entries, without checking their names.
fn archive(files: &[CaseFile<'_>]) -> Vec<u8> {
    use std::io::Write;
    let mut archive = rawzip::ZipArchiveWriter::new(Vec::new());
    for file in files {
        let name = rawzip::path::EntryPath::verbatim(file.name.as_bytes());
        let (mut entry, config) = archive.new_file(name).start().unwrap();
        let mut writer = config.wrap(&mut entry);
        writer.write_all(file.content.unwrap().as_bytes()).unwrap();
        let (_, descriptor) = writer.finish().unwrap();
        entry.finish(descriptor).unwrap();
    }
    archive.finish().unwrap()
}
