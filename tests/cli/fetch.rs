//! The store filled ahead of time: by names, by go.mod and go.sum; and carried over an air gap from there.
//!
//! The two last ones need a go toolchain, the last but one also the upstream that it is set up with.

use std::fs;
use std::io::Read;
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use testkit::Case;
use testkit::ports;

use serde_json::Value;
use stoa_gomod::h1;
use testkit::go::Go;
use testkit::programs::{Ended, Programs};
use testkit::server::{Server, terminate};
use testkit::upstream::{Module, Upstream};
use testkit::{missing_tool, program, transcript, trial};

pub(crate) fn cases() -> Vec<Case> {
    let missing = missing_tool("go", &["version"]);
    vec![
        trial("named versions are fetched once", None, named),
        trial("a go.mod and a go.sum list the versions to fetch", None, lists),
        trial("a mismatch with the go.sum is reported", None, differs),
        trial("the worst failure decides the exit code", None, worst),
        trial("a damaged record stops no other version", None, damaged),
        trial("without versions or upstream no store is created", None, refused),
        trial("a stopped fetch resumes", None, stopped),
        trial("a program of 40 modules builds offline from its go.sum", missing.clone(), program_builds)
            .slow(),
        trial("fetched versions cross an air gap, then only new versions do", missing, air_gap).slow(),
    ]
}

fn fetch(programs: &Programs, upstream: &str, arguments: &[&str]) -> Ended {
    let all = ["fetch", "--format", "json", "--upstream", upstream];
    programs.stoa(all.iter().chain(arguments))
}

fn lines(ended: &Ended) -> Vec<Value> {
    ended.out.lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect()
}

/// How many were fetched, there already, other ones, not to be had, not available.
fn counts(ended: &Ended) -> [u64; 5] {
    let lines = lines(ended);
    let done = lines.iter().find(|line| line["event"] == "done").expect("a last line");
    ["fetched", "kept", "differ", "absent", "unavailable"].map(|name| done[name].as_u64().unwrap())
}

fn is_stored(programs: &Programs, pair: &str) -> bool {
    programs.stoa(["path", pair]).code == 0
}

fn named() {
    let (programs, upstream) = (Programs::current(), Upstream::start());
    for pair in ["example.com/one@v1.0.0", "example.com/one@v1.1.0", "example.com/Two@v0.1.0-rc.1"] {
        upstream.offer(pair, 2000);
    }
    let wanted = ["example.com/one@latest", "example.com/one@v1.0.0", "example.com/Two@v0.1.0-rc.1"];
    let first = fetch(&programs, upstream.url(), &wanted);
    assert_eq!((first.code, counts(&first)), (0, [3, 0, 0, 0, 0]), "{first:?}");
    let resolved = lines(&first).into_iter().find(|line| line["query"] == "latest").unwrap();
    assert_eq!((&resolved["event"], &resolved["version"]), (&"fetched".into(), &"v1.1.0".into()));
    let again = fetch(&programs, upstream.url(), &wanted);
    assert_eq!((again.code, counts(&again)), (0, [0, 3, 0, 0, 0]), "{again:?}");
    assert_eq!(upstream.asked(".zip"), 3);
    assert!(is_stored(&programs, "example.com/one@v1.1.0"));
    // Beside a server, which sees it at once.
    upstream.offer("example.com/three@v1.0.0", 2000);
    let server = Server::start(&programs.store(), "off");
    assert_eq!(server.get("/example.com/three/@v/v1.0.0.zip").0, 404);
    assert_eq!(fetch(&programs, upstream.url(), &["example.com/three@v1.0.0"]).code, 0);
    assert_eq!(server.get("/example.com/three/@v/v1.0.0.zip").0, 200);
}

/// Returns the line of a go.sum for a module's zip, and the one for its go.mod.
fn sums(module: &Module) -> String {
    let (path, version) = (module.version.path(), module.version.version());
    let zip = stoa_gomod::zip::examine(&module.zip, &module.version).unwrap().h1;
    format!("{path} {version} {zip}\n{path} {version}/go.mod {}\n", h1::hash_mod(&module.modfile))
}

fn lists() {
    let (programs, upstream) = (Programs::current(), Upstream::start());
    let one = upstream.offer("example.com/one@v1.0.0", 2000);
    let two = upstream.offer("example.com/two/v2@v2.0.0", 2000);
    for pair in ["example.com/three@v0.0.0-20240102030405-abcdefabcdef", "example.com/four@v1.0.0"] {
        upstream.offer(pair, 2000);
    }
    let write = |name: &str, body: &str| fs::write(programs.folder().join(name), body).unwrap();
    write(
        "go.mod",
        "module example.com/me\n\nrequire (\n\texample.com/one v1.0.0\n\tlocal v0.0.0\n\texample.com/gone v1.0.0\n)\n\
         replace local => ../local\nreplace example.com/gone => example.com/four v1.0.0\n\
         require example.com/three v0.0.0-20240102030405-abcdefabcdef // indirect\n",
    );
    write("go.sum", &(sums(&one) + &sums(&two)));
    let ended = fetch(&programs, upstream.url(), &["--from", "go.mod", "--from", "go.sum"]);
    assert_eq!((ended.code, counts(&ended)), (0, [4, 0, 0, 0, 0]), "{ended:?}");
    assert!(is_stored(&programs, "example.com/four@v1.0.0"));

    let mut command = programs.command("stoa", ["fetch", "--upstream", upstream.url(), "--from", "-"]);
    let file = fs::File::open(programs.folder().join("go.sum")).unwrap();
    let output = command.stdin(file).output().unwrap();
    assert!(output.status.success(), "{}", transcript(&output));
    assert!(
        transcript(&output).contains("0 versions downloaded")
            && transcript(&output).contains("2 already there")
    );
}

fn differs() {
    let (programs, upstream) = (Programs::current(), Upstream::start());
    let one = upstream.offer("example.com/one@v1.0.0", 2000);
    upstream.offer("example.com/two@v1.0.0", 2000);
    // The hash of another zip; and of another go.mod for one whose zip nobody says anything of.
    let other = Module::new("example.com/one@v1.0.0", 3000);
    let of_two = sums(&one).replace("example.com/one", "example.com/two");
    let body = sums(&other) + of_two.lines().nth(1).unwrap();
    let path = programs.folder().join("go.sum");
    fs::write(&path, body).unwrap();
    let pairs = ["example.com/one@v1.0.0", "example.com/two@v1.0.0"];
    // Whether they are to be fetched or there makes no difference, but what is fetched is not stored.
    for is_there in [false, true] {
        if is_there {
            assert_eq!(fetch(&programs, upstream.url(), &pairs).code, 0);
        }
        let ended = fetch(&programs, upstream.url(), &["--from", "go.sum"]);
        assert_eq!((ended.code, counts(&ended)), (1, [0, 0, 2, 0, 0]), "{ended:?}");
        assert!(ended.out.contains("checksum mismatch for 2 versions"), "{ended:?}");
        assert_eq!(pairs.map(|pair| is_stored(&programs, pair)), [is_there; 2]);
    }
    // Any of several hashes is right, of what is there and of what is fetched.
    fs::write(&path, sums(&other) + &sums(&one)).unwrap();
    let ended = fetch(&programs, upstream.url(), &["--from", "go.sum"]);
    assert_eq!((ended.code, counts(&ended)), (0, [0, 1, 0, 0, 0]), "{ended:?}");
    fs::remove_dir_all(programs.store()).unwrap();
    let ended = fetch(&programs, upstream.url(), &["--from", "go.sum"]);
    assert_eq!((ended.code, counts(&ended)), (0, [1, 0, 0, 0, 0]), "{ended:?}");
}

fn worst() {
    let (programs, upstream) = (Programs::current(), Upstream::start());
    upstream.offer("example.com/one@v1.0.0", 2000);
    let wanted = ["example.com/one@v1.0.0", "example.com/gone@v1.0.0"];
    let ended = fetch(&programs, upstream.url(), &wanted);
    assert_eq!((ended.code, counts(&ended)), (1, [1, 0, 0, 1, 0]), "{ended:?}");
    // Where nobody listens.
    let free = ports::closed();
    let ended = fetch(&programs, &format!("http://{free}"), &wanted);
    assert_eq!((ended.code, counts(&ended)), (69, [0, 1, 0, 0, 1]), "{ended:?}");
}

fn damaged() {
    let (programs, upstream) = (Programs::current(), Upstream::start());
    let wanted = ["example.com/one@v1.0.0", "example.com/two@v1.0.0", "example.com/three@v1.0.0"];
    for pair in wanted {
        upstream.offer(pair, 2000);
    }
    let record = programs.make_store().join("records/example.com/two/@v/v1.0.0.toml");
    fs::create_dir_all(record.parent().unwrap()).unwrap();
    fs::write(record, "tombst").unwrap();
    let ended = fetch(&programs, upstream.url(), &wanted);
    assert_eq!((ended.code, counts(&ended)), (74, [2, 0, 0, 0, 1]), "{ended:?}");
    let failed = lines(&ended).into_iter().find(|line| line["event"] == "failed").unwrap();
    assert!(failed["help"].as_str().unwrap().starts_with("fix the file"), "{failed}");
}

fn refused() {
    let programs = Programs::current();
    let told = |arguments: &[&str], variables: &[(&str, &str)], part: &str| {
        let mut command = programs.command("stoa", arguments);
        let output = command.envs(variables.iter().copied()).output().unwrap();
        assert_eq!(output.status.code(), Some(64), "{}", testkit::transcript(&output));
        assert!(testkit::transcript(&output).contains(part), "{part}: {}", testkit::transcript(&output));
    };
    told(&["fetch"], &[], "no versions to fetch");
    told(&["fetch", "example.com/one"], &[], "MODULE@VERSION");
    told(&["fetch", "--from", "go.sum"], &[], "there is no such file");
    fs::write(programs.folder().join("go.mod"), "module a.b\n\nrequire c.d\n").unwrap();
    told(&["fetch", "--from", "go.mod"], &[], "go.mod: line 3");
    told(&["fetch", "example.com/one@v1.0.0"], &[], "all upstreams are off");
    told(&["fetch", "example.com/one@v1.0.0"], &[("STOA_OFFLINE", "true")], "offline");
    assert!(!programs.store().exists());
}

fn stopped() {
    let (programs, upstream) = (Programs::current(), Upstream::start());
    upstream.offer("example.com/one@v1.0.0", 2000);
    upstream.offer("example.com/two@v1.0.0", 2000);
    assert_eq!(fetch(&programs, upstream.url(), &["example.com/one@v1.0.0"]).code, 0);
    // An upstream that says nothing, ever.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", silent.local_addr().unwrap());
    let wanted = ["example.com/one@v1.0.0", "example.com/two@v1.0.0"];
    let all = ["fetch", "--upstream", &url];
    let child = programs.command("stoa", all.iter().chain(&wanted)).spawn().unwrap();
    let (mut asked, _) = silent.accept().unwrap();
    assert!(asked.read(&mut [0; 16]).unwrap() > 0);
    terminate(&child);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(143), "{}", transcript(&output));
    assert!(transcript(&output).contains("run again to continue"), "{}", transcript(&output));
    assert_eq!(
        testkit::tree::shape(&programs.store().join("staging")).len(),
        2,
        "only its own and the claims"
    );
    let ended = fetch(&programs, upstream.url(), &wanted);
    assert_eq!((ended.code, counts(&ended)), (0, [1, 1, 0, 0, 0]), "{ended:?}");
}

fn program_builds() {
    let programs = Programs::current();
    let folder = programs.folder().join("program");
    program::write(&folder);
    let proxy = Command::new("go").args(["env", "GOPROXY"]).output().expect("go runs").stdout;
    let proxy = String::from_utf8_lossy(&proxy).trim().to_owned();
    let go = Go::new(programs.folder(), &proxy);
    go.run(&folder, "filled", &["mod", "tidy"]);
    let (gomod, gosum) = (folder.join("go.mod"), folder.join("go.sum"));
    let ended =
        fetch(&programs, &proxy, &["--from", gomod.to_str().unwrap(), "--from", gosum.to_str().unwrap()]);
    assert_eq!(ended.code, 0, "{ended:?}");
    let [fetched, ..] = counts(&ended);
    println!("{fetched} versions fetched");
    assert!(fetched >= 40, "{ended:?}");
    let offline = Server::start(&programs.store(), "off");
    let go = Go::new(programs.folder(), &offline.url);
    go.run(&folder, "offline", &["mod", "verify"]);
    // Every package that the program needs is there; to build one of them is enough.
    let listed = go.run(&folder, "offline", &["list", "-deps", "."]).stdout;
    assert!(String::from_utf8_lossy(&listed).lines().any(|line| line.starts_with("k8s.io/apimachinery/")));
    go.run(&folder, "offline", &["build", "github.com/pkg/errors"]);
}

fn air_gap() {
    let (near, far, upstream) = (Programs::current(), Programs::current(), Upstream::start());
    let carried = near.folder().join("carried");
    let over = |carried: &Path| {
        let to = far.folder().join("arrived");
        let _ = fs::remove_dir_all(&to);
        assert!(Command::new("cp").arg("-a").arg(carried).arg(&to).status().unwrap().success());
        to
    };
    let export = || last(&near.stoa(["export", carried.to_str().unwrap(), "--format", "json"]));
    let import = |from: &Path| last(&far.stoa(["import", from.to_str().unwrap(), "--format", "json"]));

    // What the first program needs.
    upstream.offer("example.com/one@v1.0.0", 200_000);
    upstream.offer("example.com/two/v2@v2.1.0", 2000);
    let wanted = ["example.com/one@v1.0.0", "example.com/two/v2@v2.1.0"];
    assert_eq!(fetch(&near, upstream.url(), &wanted).code, 0);
    assert_eq!(export()["exported"], 2);
    assert_eq!(import(&over(&carried))["imported"], 2);
    builds(&far, "first", &["example.com/one v1.0.0", "example.com/two/v2 v2.1.0"]);

    // What the next one needs besides is all that is written, at either side.
    upstream.offer("example.com/one@v1.1.0", 2000);
    assert_eq!(fetch(&near, upstream.url(), &["example.com/one@latest"]).code, 0);
    let exported = export();
    assert_eq!((&exported["exported"], &exported["kept"]), (&1.into(), &2.into()), "{exported}");
    let imported = import(&over(&carried));
    assert_eq!((&imported["imported"], &imported["skipped"]), (&1.into(), &2.into()), "{imported}");
    assert_eq!(imported["leftovers"], 0, "{imported}");
    builds(&far, "second", &["example.com/one v1.1.0", "example.com/two/v2 v2.1.0"]);
    // And once more, where nothing is new.
    assert_eq!(export()["exported"], 0);
    assert_eq!(import(&over(&carried))["imported"], 0);
}

fn last(ended: &Ended) -> Value {
    assert_eq!(ended.code, 0, "{ended:?}");
    lines(ended).pop().expect("a last line")
}

/// Builds a program offline with a real go, and an empty module cache.
fn builds(programs: &Programs, name: &str, required: &[&str]) {
    let folder = programs.folder().join(name);
    fs::create_dir(&folder).unwrap();
    let lines: String = required.iter().map(|one| format!("require {one}\n")).collect();
    fs::write(folder.join("go.mod"), format!("module example.com/program\n\ngo 1.21\n\n{lines}")).unwrap();
    let paths = required.iter().filter_map(|one| one.split(' ').next());
    let imports: String = paths.map(|path| format!("import _ {path:?}\n")).collect();
    fs::write(folder.join("main.go"), format!("package main\n\n{imports}\nfunc main() {{}}\n")).unwrap();
    let server = Server::start(&programs.store(), "off");
    let go = Go::new(programs.folder(), &server.url).unverified();
    let cache = format!("cache-{name}");
    go.run(&folder, &cache, &["build", "-o", "program", "."]);
    let listed = go.run(&folder, &cache, &["list", "-m", "example.com/one@latest"]).stdout;
    let newest = required.iter().find(|one| one.starts_with("example.com/one ")).unwrap();
    assert_eq!(String::from_utf8_lossy(&listed).trim(), *newest);
}
