//! A zip that breaks off in the middle is continued, and clients that wait for it notice nothing.

use std::time::Duration;

use stoa::server::ServeOptions;
use stoa_layout::gate::Mode;

use super::site::{self, Site};
use testkit::client::{Conversation, Reply};
use testkit::upstream::{Gate, Module, Script, Upstream, head};

const BYTES: usize = 2_000_000;
/// The number of bytes after which a download breaks off.
const ARRIVED: usize = 500_000;
/// The number of bytes that no client gets before the zip is published.
const KEPT_BACK: usize = 64 * 1024;

const ETAG: &str = "ETag: \"one\"";
const DATE: &str = "Last-Modified: Thu, 01 Jan 2026 00:00:00 GMT";

fn module() -> Module {
    Module::new("example.com/m@v1.0.0", BYTES)
}

/// Begins a download and reads the part that arrived.
fn begin(site: &Site, module: &Module) -> (Conversation, Reply) {
    let mut client = Conversation::begin(site.address, "GET", &module.path("zip"), "HTTP/1.1", &[]);
    let mut head = client.head();
    assert_eq!(head.status, 200);
    head.body = client.raw(ARRIVED - KEPT_BACK);
    (client, head)
}

/// Returns the requests for the rest of the zip: `Range` and `If-Range`.
fn requested(upstream: &Upstream) -> Vec<(Option<String>, Option<String>)> {
    let requests = upstream.requests().into_iter().filter(|request| request.path.ends_with(".zip"));
    let header = |request: &testkit::upstream::Request, name| request.header(name).map(str::to_owned);
    requests.map(|request| (header(&request, "Range"), header(&request, "If-Range"))).collect()
}

#[test]
fn the_rest_is_requested_as_often_as_it_breaks_off() {
    for validator in [ETAG, DATE] {
        let (upstream, module, folder) = (Upstream::start(), module(), site::folder());
        upstream.serve(&module);
        let body = module.zip.clone();
        upstream.set(&module.path("zip"), Script::Ranged { body, validator, at_most: ARRIVED });
        let site = Site::start(folder.path(), upstream.url());
        let replies = std::thread::scope(|scope| {
            let clients = [(); 8].map(|()| scope.spawn(|| site.get(&module.path("zip"))));
            clients.map(|client| client.join().unwrap())
        });
        for reply in replies {
            assert!(reply.status == 200 && reply.is_whole && reply.body == module.zip);
        }
        let value = validator.split_once(": ").map(|(_, value)| value.to_owned());
        let rest = (1..=4).map(|part| (Some(format!("bytes={}-", part * ARRIVED)), value.clone()));
        let expected: Vec<_> = std::iter::once((None, None)).chain(rest).collect();
        assert_eq!(requested(&upstream), expected);
        site.wait_for(&module.version);
        assert_eq!(site.get(&module.path("zip")).body, module.zip);
        assert!(site.drafts().is_empty(), "{:?}", site.drafts());
    }
}

/// The upstream breaks off, and is then asked again: the answer is `again`. Returns the end of the download of a
/// client that had part of the zip, and the answer to a client that came later.
fn broken_off(module: &Module, validator: &'static str, again: Script) -> (Reply, Reply) {
    let (upstream, folder, gate) = (Upstream::start(), site::folder(), Gate::default());
    upstream.serve(module);
    let length = module.zip.len();
    let headers = format!("Content-Length: {length}\r\n{validator}\r\n");
    let begun = [head(200, &headers).as_slice(), &module.zip[..ARRIVED]].concat();
    upstream.set(&module.path("zip"), Script::GatedRaw(begun, gate.clone()));
    let site = Site::start(folder.path(), upstream.url());
    let (client, head) = begin(&site, module);
    upstream.set(&module.path("zip"), again);
    gate.open();
    (client.body(head), site.get(&module.path("zip")))
}

#[test]
fn the_beginning_is_compared_if_the_whole_zip_comes_again() {
    let module = module();
    let whole = || Script::Body(module.zip.clone());
    for (validator, again) in [
        ("X: no validator", whole()),
        ("ETag: W/\"weak\"", whole()),
        // An upstream that ignores `Range`.
        (ETAG, whole()),
        (ETAG, Script::Chunked(module.zip.clone())),
    ] {
        let (early, late) = broken_off(&module, validator, again);
        assert!(early.is_whole && early.body == module.zip, "{validator}");
        assert!(late.is_whole && late.body == module.zip, "{validator}");
    }
}

/// Answers with status 206 to a request for the rest.
fn rest(headers: &str, body: &[u8]) -> Script {
    let length = body.len();
    Script::Raw([head(206, &format!("{headers}\r\nContent-Length: {length}\r\n")).as_slice(), body].concat())
}

#[test]
fn another_zip_is_not_appended_to_the_beginning_of_the_first() {
    let module = module();
    // The same version with other content, as after a moved tag.
    let mut other = Module::new("example.com/m@v1.0.0", BYTES + 1000);
    other.zip = Module::new("example.com/m@v1.0.0", BYTES + 1000).zip;
    let same_length = {
        let mut noise = Module::new("example.com/n@v1.0.0", BYTES);
        noise.zip = stoa_gomod::zip::create(
            &module.version,
            [
                ("go.mod", module.modfile.as_slice()),
                ("m.go", b"package m\n\nconst Answer = 42\n"),
                ("noise.bin", &noise.zip[noise.zip.len() - BYTES..]),
            ],
        )
        .unwrap();
        noise.zip
    };
    let ranged =
        |body: &[u8], validator| Script::Ranged { body: body.to_vec(), validator, at_most: BYTES * 2 };
    for (name, again, expected) in [
        ("another validator", ranged(&other.zip, "ETag: \"two\""), &other.zip),
        ("another length", ranged(&other.zip, ETAG), &other.zip),
        ("another beginning", Script::Body(same_length.clone()), &same_length),
    ] {
        let (early, late) = broken_off(&module, ETAG, again);
        assert!(!early.is_whole, "{name}");
        assert!(module.zip.starts_with(&early.body), "{name}");
        assert!(late.is_whole && &late.body == expected, "{name}");
    }
}

#[test]
fn a_part_that_is_not_the_rest_is_not_used() {
    let module = module();
    let (zip, all) = (&module.zip, module.zip.len());
    let last = all - 1;
    for headers in [
        format!("{ETAG}\r\nContent-Range: bytes {}-{last}/{all}", ARRIVED + 1),
        format!("{ETAG}\r\nContent-Range: bytes {ARRIVED}-{last}/{}", all + 1),
        format!("ETag: \"two\"\r\nContent-Range: bytes {ARRIVED}-{last}/{all}"),
        ETAG.to_owned(),
    ] {
        let part = rest(&headers, &zip[ARRIVED..]);
        let (early, late) =
            broken_off(&module, ETAG, Script::ByRange(Box::new([part, Script::Body(zip.clone())])));
        // The zip is then requested from its beginning.
        assert!(early.is_whole && &early.body == zip, "{headers}");
        assert!(late.is_whole && &late.body == zip, "{headers}");
    }
    let refused = Script::Status(416, "text/plain", b"");
    let (early, late) =
        broken_off(&module, ETAG, Script::ByRange(Box::new([refused, Script::Body(zip.clone())])));
    assert!(early.is_whole && &early.body == zip && late.is_whole && &late.body == zip);
}

#[test]
fn the_next_upstream_continues_a_zip_after_a_bar() {
    let (first, second, module, folder) = (Upstream::start(), Upstream::start(), module(), site::folder());
    let gate = Gate::default();
    for upstream in [&first, &second] {
        upstream.serve(&module);
    }
    first.set(&module.path("zip"), Script::GatedCut(module.zip.clone(), ARRIVED, gate.clone()));
    let site = Site::start(folder.path(), &format!("{}|{}", first.url(), second.url()));
    let (client, head) = begin(&site, &module);
    gate.open();
    let reply = client.body(head);
    assert!(reply.is_whole && reply.body == module.zip);
    assert_eq!((first.count(&module.path("zip")), second.count(&module.path("zip"))), (2, 1));
    assert_eq!(site.get(&module.path("zip")).body, module.zip);
}

#[test]
fn a_tree_of_files_continues_a_zip_after_a_bar() {
    let (upstream, module, folder, gate) = (Upstream::start(), module(), site::folder(), Gate::default());
    let tree = testkit::tempdir();
    module.put_flat(tree.path());
    upstream.serve(&module);
    upstream.set(&module.path("zip"), Script::GatedCut(module.zip.clone(), ARRIVED, gate.clone()));
    let site = Site::start(folder.path(), &format!("{}|file://{}", upstream.url(), tree.path().display()));
    let (client, head) = begin(&site, &module);
    gate.open();
    let reply = client.body(head);
    assert!(reply.is_whole && reply.body == module.zip);
}

#[test]
fn a_stalled_zip_is_continued() {
    let (upstream, module, folder) = (Upstream::start(), module(), site::folder());
    upstream.serve(&module);
    upstream.set(&module.path("zip"), Script::Gated(module.zip.clone(), ARRIVED, Gate::default()));
    let patience = site::upstream_with(upstream.url(), Duration::from_secs(1));
    let site = Site::with(site::open(folder.path(), Mode::ReadWrite), patience, ServeOptions::default());
    let (client, head) = begin(&site, &module);
    upstream.set(&module.path("zip"), Script::Body(module.zip.clone()));
    let reply = client.body(head);
    assert!(reply.is_whole && reply.body == module.zip);
    assert_eq!(upstream.count(&module.path("zip")), 2);
}

#[test]
fn a_continued_zip_is_examined_as_a_whole() {
    let (upstream, folder) = (Upstream::start(), site::folder());
    let module = module().with_bad_crc();
    upstream.serve(&module);
    let body = module.zip.clone();
    upstream.set(&module.path("zip"), Script::Ranged { body, validator: ETAG, at_most: ARRIVED });
    let site = Site::start(folder.path(), upstream.url());
    let reply = site.get(&module.path("zip"));
    assert!(!reply.is_whole && reply.body.len() <= module.zip.len() - KEPT_BACK);
    site.assert_holds_nothing();
}

#[test]
fn a_zip_without_progress_is_given_up() {
    let (upstream, module, folder) = (Upstream::start(), module(), site::folder());
    upstream.serve(&module);
    upstream.set(&module.path("zip"), Script::Cut(module.zip.clone(), ARRIVED));
    let site = Site::start(folder.path(), upstream.url());
    let reply = site.get(&module.path("zip"));
    assert!(!reply.is_whole);
    assert_eq!(upstream.count(&module.path("zip")), 2);
    site.assert_holds_nothing();
}
