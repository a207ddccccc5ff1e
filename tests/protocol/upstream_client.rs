//! The upstream against a server of its own on loopback.

#![expect(clippy::unwrap_used, reason = "the helpers of a test fail by panicking")]

use std::sync::{Arc, Mutex};
use std::time::Duration;
use stoa::upstream::{Instance, RetryOptions, Upstream, UpstreamError, UpstreamOptions, Via, ZipDownload};
use stoa_gomod::{ModulePath, ModuleVersion, Revision};
use testkit::upstream::{Script, Upstream as Server, announced, head};

const US: Instance = Instance::new(0xa5);
const INFO: &str = r#"{"Version":"v1.0.0","Time":"2021-05-06T07:08:09Z"}"#;
const MOD: &str = "module example.com/Mod\n";
const ZIP: &[u8] = b"PK\x03\x04 and what follows";

/// Starts a server that answers everything with one status and a text.
fn with_status(status: u16, body: &'static str) -> Server {
    Server::with(move |_| text(status, body))
}

/// Starts a server that has the files of `example.com/Mod@v1.0.0` whose extensions are named.
fn with_files(extensions: &'static [&'static str]) -> Server {
    Server::with(move |seen| {
        let extension = seen.path.strip_prefix("/example.com/!mod/@v/v1.0.0.").unwrap_or_default();
        match extension {
            _ if !extensions.contains(&extension) => text(404, "not found: no such file"),
            "info" => ok(INFO),
            "mod" => ok(MOD),
            _ => ok(ZIP),
        }
    })
}

fn paths(server: &Server) -> Vec<String> {
    server.requests().into_iter().map(|request| request.path).collect()
}

/// Returns a header of the last request.
fn header(server: &Server, name: &str) -> Option<String> {
    server.requests().last().unwrap().header(name).map(str::to_owned)
}

fn ok(body: impl AsRef<[u8]>) -> Script {
    Script::Raw(announced(body.as_ref().len(), body.as_ref()))
}

fn text(status: u16, body: &str) -> Script {
    let headers = format!("Content-Type: text/plain\r\nRetry-After: 0\r\nContent-Length: {}\r\n", body.len());
    Script::Raw([head(status, &headers).as_slice(), body.as_bytes()].concat())
}

fn redirect(location: &str) -> Script {
    Script::Raw(head(302, &format!("Location: {location}\r\nContent-Length: 0\r\n")))
}

/// Options with short pauses.
fn quick() -> UpstreamOptions {
    let retry = RetryOptions { pause: Duration::from_millis(1), ..RetryOptions::default() };
    UpstreamOptions { retry, ..UpstreamOptions::default() }
}

fn upstream(list: &str) -> Upstream {
    Upstream::new(list, UpstreamOptions { instance: US, ..quick() }).unwrap()
}

fn impatient(list: &str) -> Upstream {
    let options = UpstreamOptions { idle_timeout: Duration::from_millis(200), ..quick() };
    Upstream::new(list, options).unwrap()
}

fn module() -> ModulePath {
    ModulePath::new("example.com/Mod").unwrap()
}

fn version() -> ModuleVersion {
    ModuleVersion::parse("example.com/Mod@v1.0.0").unwrap()
}

async fn read(mut zip: ZipDownload) -> Result<Vec<u8>, UpstreamError> {
    let mut bytes = Vec::new();
    while let Some(chunk) = zip.chunk().await? {
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}

async fn zip(upstream: &Upstream) -> Result<Vec<u8>, UpstreamError> {
    read(upstream.zip(&version(), &Via::none()).await?).await
}

#[tokio::test]
async fn everything_is_asked_by_its_name() {
    let server = Server::with(|seen| match seen.path.as_str() {
        "/p/example.com/!mod/@v/list" => ok("v1.0.0\n"),
        "/p/example.com/!mod/@latest" | "/p/example.com/!mod/@v/v1.0.0.info" => ok(INFO),
        "/p/example.com/!mod/@v/a%20!branch.info" => ok(INFO),
        "/p/example.com/!mod/@v/v1.0.0.mod" => ok(MOD),
        "/p/example.com/!mod/@v/v1.0.0.zip" => ok(ZIP),
        _ => text(404, "no"),
    });
    let upstream = upstream(&format!("{}/p/", server.url()));
    let none = Via::none();
    assert_eq!(upstream.list(&module(), &none).await.unwrap(), "v1.0.0\n");
    assert_eq!(upstream.latest(&module(), &none).await.unwrap(), INFO);
    assert_eq!(upstream.query(&module(), &Revision::new("a Branch").unwrap(), &none).await.unwrap(), INFO);
    assert_eq!(upstream.info(&version(), &none).await.unwrap(), INFO);
    assert_eq!(upstream.modfile(&version(), &none).await.unwrap(), MOD);
    let download = upstream.zip(&version(), &none).await.unwrap();
    assert_eq!(download.length, Some(ZIP.len() as u64));
    assert_eq!(download.url(), format!("{}/p/example.com/!mod/@v/v1.0.0.zip", server.url()));
    assert_eq!(read(download).await.unwrap(), ZIP);
}

#[tokio::test]
async fn requests_can_be_made_by_any_thread() {
    fn sendable<T: Send>(value: T) -> T {
        value
    }
    let server = with_files(&["info", "mod", "zip"]);
    let upstream = upstream(server.url());
    let (module, version, none) = (module(), version(), Via::none());
    let source = upstream.version(&version);
    let mut zip = sendable(source.zip(&none)).await.unwrap();
    assert!(sendable(zip.chunk()).await.unwrap().is_some());
    assert_eq!(sendable(source.info(&none)).await.unwrap(), INFO);
    assert!(sendable(upstream.list(&module, &none)).await.unwrap_err().is_absent());
    assert!(sendable(upstream.sumdb("sum.example", "latest", &none)).await.unwrap_err().is_absent());
}

#[tokio::test]
async fn behind_a_comma_only_not_found_goes_on() {
    let good = with_files(&["info"]);
    for status in [404, 410] {
        let bad = with_status(status, "no");
        let list = format!("{},{}", bad.url(), good.url());
        assert!(upstream(&list).info(&version(), &Via::none()).await.is_ok(), "{status}");
    }
    let asked = paths(&good).len();
    for status in [204, 400, 403, 429, 500, 503, 508] {
        let bad = with_status(status, "no");
        let list = format!("{},{}", bad.url(), good.url());
        let error = upstream(&list).info(&version(), &Via::none()).await.unwrap_err();
        assert!(!error.is_absent(), "{error}");
        match status {
            508 => assert!(matches!(error, UpstreamError::Loop { .. })),
            _ => assert_eq!(error.status(), Some(status)),
        }
    }
    assert_eq!(paths(&good).len(), asked);
}

#[tokio::test]
async fn behind_a_bar_every_error_goes_on() {
    let good = with_files(&["info"]);
    for status in [404, 403, 500, 503] {
        let bad = with_status(status, "no");
        let list = format!("{}|{}", bad.url(), good.url());
        assert_eq!(upstream(&list).info(&version(), &Via::none()).await.unwrap(), INFO, "{status}");
    }
    let list = format!("http://127.0.0.1:1|{}", good.url());
    assert_eq!(upstream(&list).info(&version(), &Via::none()).await.unwrap(), INFO);
}

#[tokio::test]
async fn the_most_informative_error_wins() {
    let absent = with_status(404, "not found: no such module");
    let broken = with_status(500, "out of order");
    let ask = async |list: String| upstream(&list).info(&version(), &Via::none()).await.unwrap_err();

    let error = ask(format!("{}|{},off", broken.url(), absent.url())).await;
    assert_eq!(error.status(), Some(500));
    assert!(error.to_string().ends_with("status 500: out of order"), "{error}");

    let error = ask(format!("{},", absent.url())).await;
    assert!(
        matches!(&error, UpstreamError::NotFound { message, .. } if message == "no such module"),
        "{error}"
    );
    let error = ask(format!("{},off", absent.url())).await;
    assert!(matches!(error, UpstreamError::NotFound { .. }));

    assert!(matches!(ask("off".to_owned()).await, UpstreamError::Offline));
}

#[tokio::test]
async fn a_page_is_taken_for_nothing_else() {
    let page = Server::with(|_| ok("\n<html>Please log in</html>"));
    let alone = upstream(page.url());
    let none = Via::none();
    assert!(matches!(alone.info(&version(), &none).await, Err(UpstreamError::BadAnswer { .. })));
    assert!(matches!(alone.latest(&module(), &none).await, Err(UpstreamError::BadAnswer { .. })));
    assert!(matches!(alone.list(&module(), &none).await, Err(UpstreamError::BadAnswer { .. })));
    assert!(matches!(alone.modfile(&version(), &none).await, Err(UpstreamError::BadAnswer { .. })));
    assert!(matches!(zip(&alone).await, Err(UpstreamError::BadAnswer { .. })));

    let good = with_files(&["info", "mod", "zip"]);
    let before_good = upstream(&format!("{}|{}", page.url(), good.url()));
    assert_eq!(before_good.info(&version(), &none).await.unwrap(), INFO);
    assert_eq!(before_good.modfile(&version(), &none).await.unwrap(), MOD);
    assert_eq!(zip(&before_good).await.unwrap(), ZIP);
}

#[tokio::test]
async fn an_info_must_name_the_version() {
    let server = Server::with(|_| ok(r#"{"Version":"v1.0.1"}"#));
    let upstream = upstream(server.url());
    let error = upstream.info(&version(), &Via::none()).await.unwrap_err();
    assert!(
        matches!(&error, UpstreamError::BadAnswer { reason, .. } if reason.contains("v1.0.1")),
        "{error}"
    );
    assert!(upstream.query(&module(), &Revision::new("v1").unwrap(), &Via::none()).await.is_ok());
}

#[tokio::test]
async fn an_empty_list_is_a_list() {
    let server = Server::with(|_| ok(""));
    assert_eq!(upstream(server.url()).list(&module(), &Via::none()).await.unwrap(), "");
}

#[tokio::test]
async fn what_is_too_large_is_not_read() {
    // Once as announced, once as it comes.
    let announced = Server::with(|seen| {
        let length = if seen.path.ends_with(".zip") { 524_288_001u64 } else { (64 << 10) + 1 };
        Script::Stall(head(200, &format!("Content-Length: {length}\r\n")))
    });
    let silent = Server::with(|_| Script::Raw([head(200, ""), vec![b' '; (64 << 10) + 1]].concat()));
    for server in [&announced, &silent] {
        let error = upstream(server.url()).info(&version(), &Via::none()).await.unwrap_err();
        assert!(matches!(error, UpstreamError::TooLarge { limit: 65_536, .. }), "{error}");
    }
    let error = zip(&upstream(announced.url())).await.unwrap_err();
    assert!(matches!(error, UpstreamError::TooLarge { limit: 524_288_000, .. }), "{error}");
}

#[tokio::test]
async fn redirects_are_followed_and_end() {
    let target = with_files(&["info"]);
    let url = target.url().to_owned();
    let server = Server::with(move |seen| match seen.path.as_str() {
        path if path.ends_with(".info") => redirect(&format!("{url}{path}?signature=secret")),
        path => redirect(path),
    });
    // The target knows no path with a query, which also shows where the error does not tell it.
    let upstream = upstream(server.url());
    let error = upstream.info(&version(), &Via::none()).await.unwrap_err();
    assert_eq!(paths(&target), ["/example.com/!mod/@v/v1.0.0.info?signature=secret"]);
    assert!(error.is_absent() && !error.to_string().contains("secret"), "{error}");

    let error = upstream.modfile(&version(), &Via::none()).await.unwrap_err();
    assert!(matches!(error, UpstreamError::BadAnswer { .. }), "{error}");
    assert_eq!(paths(&server).iter().filter(|path| path.ends_with(".mod")).count(), 11);
}

#[tokio::test]
async fn a_zip_that_breaks_off_never_ends() {
    let announced = || [head(200, "Content-Length: 100\r\n").as_slice(), ZIP].concat();
    let chunked =
        || [head(200, "Transfer-Encoding: chunked\r\n").as_slice(), b"4\r\nPK\x03\x04\r\n"].concat();
    let replies: [fn(Vec<u8>) -> Script; 2] = [Script::Raw, Script::Reset];
    for reply in replies {
        for bytes in [announced(), chunked()] {
            let server = Server::with(move |_| reply(bytes.clone()));
            let error = zip(&upstream(server.url())).await.unwrap_err();
            assert!(matches!(error, UpstreamError::Transport { .. }), "{error}");
        }
    }
}

#[tokio::test]
async fn behind_an_error_comes_no_end() {
    let server =
        Server::with(|_| Script::Raw([head(200, "Content-Length: 100\r\n").as_slice(), ZIP].concat()));
    let mut zip = upstream(server.url()).zip(&version(), &Via::none()).await.unwrap();
    let error = loop {
        match zip.chunk().await {
            Ok(chunk) => assert!(chunk.is_some()),
            Err(error) => break error,
        }
    };
    assert_eq!(zip.chunk().await.unwrap_err(), error);
}

#[tokio::test]
async fn silence_is_not_waited_out() {
    let mute = Server::with(|_| Script::Stall(Vec::new()));
    let options = UpstreamOptions {
        connect_timeout: Duration::from_millis(100),
        idle_timeout: Duration::from_millis(100),
        ..UpstreamOptions::default()
    };
    let upstream = Upstream::new(mute.url(), options).unwrap();
    assert!(upstream.info(&version(), &Via::none()).await.unwrap_err().is_timeout());

    let stalled = || Script::Stall([head(200, "Content-Length: 100\r\n").as_slice(), ZIP].concat());
    let server = Server::with(move |_| stalled());
    let error = zip(&impatient(server.url())).await.unwrap_err();
    assert!(matches!(error, UpstreamError::Timeout { .. }), "{error}");
}

#[tokio::test]
async fn a_trickle_is_not_waited_out() {
    let body = [INFO, " ".repeat(1000).as_str()].concat();
    let drip =
        move || Script::Slow([head(200, "Content-Length: 60000\r\n").as_slice(), body.as_bytes()].concat());
    let server = Server::with(move |_| drip());
    let error = impatient(server.url()).info(&version(), &Via::none()).await.unwrap_err();
    assert!(
        matches!(&error, UpstreamError::Timeout { reason, .. } if reason.contains("bytes of the body")),
        "{error}"
    );
}

#[tokio::test]
async fn a_busy_upstream_is_asked_thrice() {
    for status in [429, 500, 502, 503] {
        let server = third_time(move || text(status, "busy")).await;
        assert_eq!(upstream(server.url()).info(&version(), &Via::none()).await.unwrap(), INFO, "{status}");

        let server = with_status(status, "busy");
        let error = upstream(server.url()).info(&version(), &Via::none()).await.unwrap_err();
        assert_eq!(error.status(), Some(status), "{error}");
        assert!(!error.is_absent() && !error.is_timeout());
        assert_eq!(paths(&server).len(), 3);
    }
    // Had its time, wants more time than it gets, or will not change its mind.
    for (reply, timeout) in [
        ((|| text(504, "late")) as fn() -> Script, true),
        (|| Script::Raw(head(503, "Retry-After: 3600\r\nContent-Length: 0\r\n")), false),
        (|| text(501, "never"), false),
    ] {
        let server = Server::with(move |_| reply());
        let error = upstream(server.url()).info(&version(), &Via::none()).await.unwrap_err();
        assert_eq!(error.is_timeout(), timeout, "{error}");
        assert_eq!(paths(&server).len(), 1, "{error}");
    }
}

#[tokio::test]
async fn a_connection_that_breaks_is_made_again() {
    // Before an answer, in its head, and in the body of a small file.
    let cut = || [head(200, "Content-Length: 1000\r\n").as_slice(), INFO.as_bytes()].concat();
    for bytes in [Vec::new(), b"HTTP/1.1 2".to_vec(), cut()] {
        for reply in [Script::Raw as fn(Vec<u8>) -> Script, Script::Reset] {
            let sent = bytes.clone();
            let server = third_time(move || reply(sent.clone())).await;
            assert_eq!(upstream(server.url()).info(&version(), &Via::none()).await.unwrap(), INFO);
            assert_eq!(paths(&server).len(), 3);
        }
    }
    // Not for good, and a zip is not begun anew.
    let server = Server::with(move |_| Script::Reset(cut()));
    let error = upstream(server.url()).info(&version(), &Via::none()).await.unwrap_err();
    assert!(matches!(error, UpstreamError::Transport { .. }), "{error}");
    assert_eq!(paths(&server).len(), 3);
    let part = || [head(200, "Content-Length: 100\r\n").as_slice(), ZIP].concat();
    let server = Server::with(move |_| Script::Raw(part()));
    assert!(zip(&upstream(server.url())).await.is_err());
    assert_eq!(paths(&server).len(), 1);
    let none = || head(200, "Content-Length: 100\r\n");
    let server = Server::with(move |_| Script::Raw(none()));
    assert!(zip(&upstream(server.url())).await.is_err());
    assert_eq!(paths(&server).len(), 3, "of this zip nothing had come yet");
}

/// A server that fails twice before it answers with an info.
async fn third_time(fails: impl Fn() -> Script + Send + Sync + 'static) -> Server {
    let tries = Mutex::new(0);
    Server::with(move |_| {
        let mut tries = tries.lock().unwrap();
        *tries += 1;
        if *tries < 3 { fails() } else { ok(INFO) }
    })
}

#[tokio::test]
async fn credentials_never_travel_in_the_clear() {
    let folder = testkit::tempdir();
    let netrc = folder.path().join("netrc");
    #[expect(clippy::disallowed_methods, reason = "a scratch file of a test, no store")]
    std::fs::write(&netrc, "machine 127.0.0.1 login someone password secret\n").unwrap();
    let server = with_status(403, "who are you?");
    let options = || UpstreamOptions { netrc: Some(netrc.clone()), ..UpstreamOptions::default() };

    let error =
        Upstream::new(server.url(), options()).unwrap().info(&version(), &Via::none()).await.unwrap_err();
    assert_eq!(header(&server, "authorization"), None);
    assert!(matches!(error, UpstreamError::Refused { status: 403, .. }), "{error}");

    let list = server.url().replace("http://", "http://someone:secret@");
    let upstream = Upstream::new(&format!("{list}?token=secret"), options()).unwrap();
    let error = upstream.info(&version(), &Via::none()).await.unwrap_err();
    assert_eq!(header(&server, "authorization"), None);
    for shown in [error.to_string(), format!("{error:?}"), format!("{upstream:?}")] {
        assert!(!shown.contains("secret") && !shown.contains("someone"), "{shown}");
    }
}

#[tokio::test]
async fn we_say_who_we_are() {
    let server = with_files(&["info"]);
    let upstream = upstream(server.url());
    upstream.info(&version(), &Via::none()).await.unwrap();
    assert_eq!(header(&server, "via").as_deref(), Some("1.1 stoa-00000000000000a5"));
    assert_eq!(header(&server, "user-agent"), Some(format!("stoa/{}", env!("CARGO_PKG_VERSION"))));

    let via = Via::from_header_values(["1.0 fred, 1.1 p.example"]);
    upstream.info(&version(), &via).await.unwrap();
    assert_eq!(header(&server, "via").as_deref(), Some("1.1 stoa-00000000000000a5"));

    let asked = paths(&server).len();
    let circle = Via::from_header_values(["1.0 fred, 1.1 stoa-00000000000000A5"]);
    assert!(circle.is_loop_at(upstream.instance()));
    let error = upstream.info(&version(), &circle).await.unwrap_err();
    assert!(matches!(error, UpstreamError::Loop { .. }));
    assert_eq!(paths(&server).len(), asked);
}

#[tokio::test]
async fn a_version_comes_from_one_entry() {
    let first = with_files(&["mod"]);
    let second = with_files(&["info", "mod", "zip"]);
    let upstream = upstream(&format!("{},{}", first.url(), second.url()));

    let source = upstream.version(&version());
    assert_eq!(source.origin(), None);
    source.info(&Via::none()).await.unwrap();
    source.modfile(&Via::none()).await.unwrap();
    read(source.zip(&Via::none()).await.unwrap()).await.unwrap();
    assert_eq!(paths(&first), ["/example.com/!mod/@v/v1.0.0.info"]);
    assert_eq!(source.origin(), Some(format!("{}/", second.url())));
    assert!(!source.switched());

    // The entry that has the mod lacks the zip; the other takes over, and that is told.
    let source = upstream.version(&version());
    source.modfile(&Via::none()).await.unwrap();
    assert_eq!(source.origin(), Some(format!("{}/", first.url())));
    read(source.zip(&Via::none()).await.unwrap()).await.unwrap();
    assert!(source.switched());
    let asked = paths(&first).len();
    source.modfile(&Via::none()).await.unwrap();
    assert_eq!(paths(&first).len(), asked);
}

#[tokio::test]
async fn a_tree_of_files_is_an_upstream() {
    let folder = testkit::tempdir();
    let versions = folder.path().join("example.com/!mod/@v");
    #[expect(clippy::disallowed_methods, reason = "scratch files of a test, no store")]
    {
        std::fs::create_dir_all(&versions).unwrap();
        std::fs::create_dir(versions.join("v1.0.1.mod")).unwrap();
        for (name, body) in
            [("list", b"v1.0.0\n".as_slice()), ("v1.0.0.info", INFO.as_bytes()), ("v1.0.0.zip", ZIP)]
        {
            std::fs::write(versions.join(name), body).unwrap();
        }
    }
    let upstream = upstream(&format!("file://{}", folder.path().display()));
    let none = Via::none();
    assert_eq!(upstream.list(&module(), &none).await.unwrap(), "v1.0.0\n");
    assert_eq!(upstream.info(&version(), &none).await.unwrap(), INFO);
    assert_eq!(upstream.latest(&module(), &none).await.unwrap(), INFO);
    assert_eq!(zip(&upstream).await.unwrap(), ZIP);
    let folder_named_like_one = ModuleVersion::parse("example.com/Mod@v1.0.1").unwrap();
    for error in [
        upstream.modfile(&version(), &none).await.unwrap_err(),
        upstream.modfile(&folder_named_like_one, &none).await.unwrap_err(),
        upstream.latest(&ModulePath::new("example.com/other").unwrap(), &none).await.unwrap_err(),
        upstream.list(&ModulePath::new("example.com/other").unwrap(), &none).await.unwrap_err(),
    ] {
        assert!(matches!(error, UpstreamError::NotFound { .. }), "{error}");
    }
    assert!(!upstream.sumdb_supported("sum.example", &none).await.unwrap());
}

#[tokio::test]
async fn a_checksum_database_is_passed_through() {
    let without = with_status(404, "no");
    let with = Server::with(|seen| match seen.path.as_str() {
        "/sumdb/sum.example/supported" => ok(""),
        "/sumdb/sum.example/lookup/example.com/!mod@v1.0.0" => {
            Script::Raw([head(200, "Content-Type: text/plain\r\n").as_slice(), b"record"].concat())
        }
        "/sumdb/sum.example/latest" => text(500, "out of order"),
        _ => text(404, "unknown"),
    });
    let upstream = upstream(&format!("{},{},direct", without.url(), with.url()));
    let none = Via::none();
    let ask = async |path| upstream.sumdb("sum.example", path, &none).await;

    assert!(upstream.sumdb_supported("sum.example", &none).await.unwrap());
    let answer = ask("lookup/example.com/!mod@v1.0.0").await.unwrap();
    assert_eq!((answer.status, answer.content_type.as_deref()), (200, Some("text/plain")));
    assert_eq!(answer.body, "record");
    let answer = ask("tile/8/0/000").await.unwrap();
    assert_eq!((answer.status, answer.body.as_ref()), (404, b"unknown".as_slice()));
    assert_eq!(ask("latest").await.unwrap().status, 500);
    assert!(ask("../../example.com/!mod/@v/list").await.unwrap_err().is_absent());
    // One probe for all of that.
    let probes = |server: &Server| paths(server).iter().filter(|path| path.ends_with("/supported")).count();
    assert_eq!((probes(&without), probes(&with)), (1, 1));

    assert!(!upstream.sumdb_supported("other.example", &none).await.unwrap());
    assert!(!upstream.sumdb_supported("other.example", &none).await.unwrap());
    assert_eq!((probes(&without), probes(&with)), (2, 2));
    assert!(upstream.sumdb("other.example", "latest", &none).await.unwrap_err().is_absent());
    assert!(!Upstream::offline().sumdb_supported("sum.example", &none).await.unwrap());
}

#[tokio::test]
async fn a_failure_says_nothing_of_a_checksum_database() {
    let well = Arc::new(Mutex::new(false));
    let flag = Arc::clone(&well);
    let server = Server::with(move |_| if *flag.lock().unwrap() { ok("") } else { text(500, "no") });
    let upstream = upstream(server.url());
    assert_eq!(upstream.sumdb_supported("sum.example", &Via::none()).await.unwrap_err().status(), Some(500));
    *well.lock().unwrap() = true;
    assert!(upstream.sumdb_supported("sum.example", &Via::none()).await.unwrap());
}
