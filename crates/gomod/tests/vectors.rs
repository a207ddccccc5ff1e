//! Runs every case of every family in `tests/vectors` against the crate.
//!
//! The files are data that other implementations share; their booleans and outputs are normative, reasons
//! are compared too. A family without a runner, a runner without a family and a case that went missing fail.

#![expect(clippy::panic, clippy::unwrap_used, reason = "a test may fail loudly")]

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use std::cmp::Ordering;
use std::convert::Infallible;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use stoa_gomod::goproxy::{self, Outcome, Source};
use stoa_gomod::sumdb::{self, Level, Tile, Verifier};
use stoa_gomod::zip::{self, ExamineError, FileKind, SourceFile};
use stoa_gomod::{
    EscapeError, H1, ModulePath, ModuleVersion, PairError, PathError, Revision, Route, Version, VersionError,
    h1, info, list, modfile, path, private::Patterns, pseudo, query, route, semver,
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
    ("pseudo-make", 12, pseudo_make),
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
            (Err(error), Some(expected)) => assert_eq!(error.code(), expected, "{case}"),
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
            let (mut walk, mut tried, mut result) = (list.walk(), Vec::new(), "error");
            while let Some(entry) = walk.entry() {
                let name = entry.source.to_string();
                let status = case["status"][&name].as_u64();
                tried.push(name);
                match (&entry.source, status.unwrap()) {
                    (Source::Off, _) => walk.fail(Outcome::Failed, ()),
                    (_, 200) => {
                        result = "ok";
                        break;
                    }
                    (_, 404 | 410) => walk.fail(Outcome::NotFound, ()),
                    _ => walk.fail(Outcome::Failed, ()),
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
        "files" => {
            case["files"].as_array().unwrap().iter().try_for_each(|file| {
                builder.add_content(text(file, "name"), text(file, "content").as_bytes())
            })
        }
        "gomod" => {
            assert_eq!(h1::hash_mod(text(case, "content").as_bytes()).as_str(), text(case, "h1"), "{case}");
            builder.add_content("go.mod", text(case, "content").as_bytes())
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
            assert_eq!(builder.summary(), text(case, "summary"), "{case}");
            assert_eq!(builder.finish(), H1::new(text(case, "h1")).unwrap(), "{case}");
        }
    }
}

fn info_body(case: &Value) {
    let path = ModulePath::new(text(case, "path")).unwrap();
    let accepted = info::accepts(&path, text(case, "requested"), text(case, "body").as_bytes());
    assert_eq!(accepted, flag(case, "accept"), "{case}");
}

fn list_body(case: &Value) {
    let body = text(case, "body").as_bytes();
    assert_eq!(list::parse_body(body), texts(case, "versions"), "{case}");
    let canonical: Vec<_> = list::versions(body).iter().map(Version::to_string).collect();
    assert_eq!(canonical, texts(case, "versions"), "{case}");
}

fn module_version_check(case: &Value) {
    let checked = stoa_gomod::check_pair(text(case, "path"), text(case, "version"));
    let reason = checked.as_ref().err().map(pair_reason);
    assert_eq!(checked.is_ok(), flag(case, "ok"), "{case}");
    assert_eq!(reason, case["reason"].as_str(), "{case}");
}

fn pair_reason(error: &PairError) -> &str {
    match error {
        PairError::NoAt(_) => "no_at",
        PairError::Path(error) => error.reason.code(),
        PairError::Version(VersionError::NotSemver(_)) => "not_semver",
        PairError::Version(VersionError::NotCanonical(..)) => "not_canonical",
        PairError::Major { .. } => "major_mismatch",
    }
}

fn path_check(case: &Value) {
    let path = match case.get("path_hex") {
        Some(bytes) => hex(bytes.as_str().unwrap()),
        None => text(case, "path").as_bytes().to_vec(),
    };
    let expect = |kind: &str, checked: Result<(), PathError>| {
        assert_eq!(checked.is_ok(), flag(case, kind), "{kind} {case}");
        let reason = checked.err().map(|error| error.reason.code());
        assert_eq!(reason, case[&format!("{kind}_reason")].as_str(), "{kind} {case}");
    };
    expect("module", path::check_module(&path));
    expect("import", path::check_import(&path));
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

fn pseudo_make(case: &Value) {
    let rfc3339 = time::format_description::well_known::Rfc3339;
    let time = time::OffsetDateTime::parse(text(case, "time"), &rfc3339).unwrap();
    let made = pseudo::make(text(case, "major"), text(case, "older"), time, text(case, "rev"));
    assert_eq!(made, text(case, "version"), "{case}");
}

fn pseudo_parse(case: &Value) {
    let version = text(case, "version");
    let parsed = pseudo::parse(version);
    assert_eq!(pseudo::is_pseudo(version), flag(case, "is_pseudo"), "{case}");
    assert_eq!(parsed.is_some(), flag(case, "is_pseudo"), "{case}");
    let Some(parsed) = parsed else { return };
    assert_eq!(parsed.timestamp, text(case, "timestamp"), "{case}");
    assert_eq!(parsed.time().is_some(), flag(case, "time_valid"), "{case}");
    assert_eq!(parsed.revision, text(case, "rev"), "{case}");
    match parsed.base {
        Ok(base) => assert_eq!(base.unwrap_or_default(), text(case, "base"), "{case}"),
        Err(error) => {
            let expected = match error {
                pseudo::BaseError::BuildWithoutBase => "build_without_base",
                pseudo::BaseError::NegativePatch => "negative_patch",
            };
            assert!(case["base"].is_null(), "{case}");
            assert_eq!(text(case, "base_error"), expected, "{case}");
        }
    }
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
        Route::SumdbLookup { sumdb, rest, .. } => {
            field("sumdb", sumdb);
            // The vectors leave out what comes in front of the pair; upstream wants it.
            field("rest", rest.strip_prefix("lookup/").unwrap());
            "sumdb_lookup"
        }
        Route::SumdbTile { sumdb, rest, .. } => {
            field("sumdb", sumdb);
            field("rest", rest);
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
    assert_eq!(semver::canonical(version), text(case, "canonical"), "{case}");
    assert_eq!(semver::canonical_version(version), text(case, "canonical_version"), "{case}");
    assert_eq!(semver::major(version), text(case, "major"), "{case}");
    assert_eq!(semver::major_minor(version), text(case, "major_minor"), "{case}");
    assert_eq!(semver::prerelease(version), text(case, "prerelease"), "{case}");
    assert_eq!(semver::build(version), text(case, "build"), "{case}");
}

fn semver_compare(case: &Value) {
    if case.get("sort_in").is_some() {
        let mut versions = texts(case, "sort_in");
        semver::sort(&mut versions);
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

/// Parses the pair as the go command checks it: version first.
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
        found.iter().map(|&(at, why)| serde_json::json!([files[at].name, why.code()])).collect();
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
                invalid.iter().map(|(path, why)| serde_json::json!([path, why.code()])).collect();
            assert_eq!(Value::Array(invalid), case["invalid"], "{case}");
        }
        Err(zip::CreateError::TooLarge) => assert_eq!(text(case, "error"), "too_large", "{case}"),
        Err(error) => panic!("{case}: {error}"),
    }
}

/// Writes a zip with just these entries, whatever their names.
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
