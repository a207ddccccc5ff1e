//! The configuration of Athens becomes a config file of Stoa with the same effect.

use std::fs;
use std::process::Output;
use testkit::{Case, cases};

use stoa::sumdb::Gosumdb;
use testkit::programs::Programs;
use testkit::server::{Server, command};
use testkit::transcript;
use testkit::upstream::Upstream;

pub(crate) fn cases() -> Vec<Case> {
    cases![
        secrets_in_urls_are_not_copied,
        a_checksum_database_is_asked_at_its_url,
        a_translated_configuration_has_the_same_effect,
        modules_that_the_filter_does_not_name_are_refused,
        settings_without_counterpart_are_reported_and_secrets_are_not,
        a_container_has_only_variables,
        a_bucket_of_athens_becomes_the_bucket_of_stoa,
        an_invalid_setting_is_named_by_file_and_line,
    ]
}

const MODES: &str = "downloadURL = \"https://elsewhere.example/base/\"\nmode = \"sync\"\n\n\
    download \"example.com/none/*\" {\n  mode = \"none\"\n}\n\
    download \"example.com/away\" {\n  mode = \"redirect\"\n}\n\
    download \"*.corp.example\" {\n  mode = \"redirect\"\n  downloadURL = \"https://corp.example\"\n}\n";

const FILTER: &str = "# ours\n- example.com/shut\n+ example.com/shut/Open\n- example.com/some v1.1.*\n\
    D example.com/direct\n- git.corp.example\n";

fn import(programs: &Programs, arguments: &[&str], variables: &[(&str, &str)]) -> Output {
    let mut command = programs.command("stoa", ["import-config"]);
    command.args(arguments).envs(variables.iter().copied()).output().unwrap()
}

fn out(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// The configuration of an Athens whose storage is the store of this test.
fn athens(programs: &Programs, upstream: &str) -> String {
    let write = |name: &str, text: &str| fs::write(programs.folder().join(name), text).unwrap();
    write("modes.hcl", MODES);
    write("filter.conf", FILTER);
    let root = programs.store();
    format!(
        "GoBinary = \"/opt/go/bin/go\"\nGoEnv = \"development\"\n\
         GoBinaryEnvVars = [\"GOPROXY={upstream}\", \"GOPRIVATE=private.example\", \"GODEBUG=x=1\"]\n\
         GoGetWorkers = 7\nShutdownTimeout = 5\nLogLevel = \"info\"\nStorageType = \"disk\"\nPort = \"3100\"\n\
         PathPrefix = \"/go\"\nFilterFile = \"filter.conf\"\nDownloadMode = \"file:modes.hcl\"\n\
         GlobalEndpoint = \"https://global.example\"\nSumDBs = [\"https://sumdb.example\"]\n\
         BasicAuthUser = \"me\"\nBasicAuthPass = \"s3cret\"\n\
         GithubToken = \"t0ken\"\nValidatorHook = \"https://hook.example\"\nTimeout = 300\n\
         [Storage]\n[Storage.Disk]\nRootPath = \"{}\"\n[Storage.Minio]\nSecret = \"minio123\"\n",
        root.display()
    )
}

fn secrets_in_urls_are_not_copied() {
    let programs = Programs::current();
    let text = "GoBinaryEnvVars = [\"GOPROXY=https://me:hidden@a.example/x?token=hidden,direct\"]\n\
        SumDBs = [\"https://me:hidden@sumdb.example\", \"https://other.example/x?token=hidden\"]\n\
        ValidatorHook = \"https://me:hidden@hook.example/?key=hidden\"\n";
    fs::write(programs.folder().join("athens.toml"), text).unwrap();
    let output = import(&programs, &[], &[]);
    assert!(output.status.success(), "{}", transcript(&output));
    let all = transcript(&output) + &out(&output);
    assert!(!all.contains("hidden"), "{all}");
    assert!(out(&output).contains("\"https://a.example/x,direct\""), "{all}");
    assert!(out(&output).contains("\"sumdb.example\", \"other.example\""), "{all}");
    assert!(all.contains("the URL of sumdb.example has credentials or a query"), "{all}");
}

fn a_checksum_database_is_asked_at_its_url() {
    let programs = Programs::current();
    let known = Gosumdb::of_go().unwrap();
    let name = known.name();
    let import = |urls: &str| {
        let output = import(&programs, &[], &[("ATHENS_SUM_DBS", urls)]);
        assert!(output.status.success(), "{}", transcript(&output));
        (out(&output), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (config, notes) = import(&format!("https://{name}"));
    assert!(config.contains(&format!("\ngosumdb = \"{name} https://{name}\"\n")), "{config}");
    assert!(!notes.contains(name), "{notes}");
    for urls in ["https://sumdb.example".to_owned(), format!("https://{name},https://sumdb.example")] {
        let (config, notes) = import(&urls);
        assert!(!config.contains("\ngosumdb = "), "{config}");
        assert!(notes.contains("Stoa asks sumdb.example through an upstream"), "{notes}");
    }
}

fn a_translated_configuration_has_the_same_effect() {
    let (programs, upstream) = (Programs::current(), Upstream::start());
    for pair in [
        "example.com/plain@v1.0.0",
        "example.com/shut@v1.0.0",
        "example.com/shut/Open@v1.0.0",
        "example.com/some@v1.0.0",
        "example.com/some@v1.1.0",
        "example.com/none/x@v1.0.0",
        "example.com/none@v1.0.0",
        "example.com/away@v1.0.0",
        "example.com/direct@v1.0.0",
        "hg.corp.example/x@v1.0.0",
        "git.corp.example/x@v1.0.0",
    ] {
        upstream.offer(pair, 2000);
    }
    fs::write(programs.folder().join("athens.toml"), athens(&programs, upstream.url())).unwrap();
    // As in Athens, the default file lies in the current folder, and relative paths start there.
    let output = import(&programs, &[], &[]);
    assert!(output.status.success(), "{}", transcript(&output));
    let config = programs.folder().join("stoa.toml");
    fs::write(&config, &output.stdout).unwrap();

    let mut serve = command(&programs.store());
    let server = Server::start_with(serve.args(["--config", config.to_str().unwrap()]));
    for (path, status) in [
        ("example.com/plain/@v/v1.0.0.info", 200),
        ("example.com/shut/@v/v1.0.0.info", 403),
        ("example.com/shut/x/@v/v1.0.0.info", 403),
        ("example.com/shut/!open/@v/v1.0.0.info", 200),
        ("example.com/some/@v/v1.0.0.info", 200),
        ("example.com/some/@v/v1.1.0.info", 403),
        ("example.com/none/x/@v/v1.0.0.info", 404),
        ("example.com/none/@v/v1.0.0.info", 200),
        ("example.com/away/@v/v1.0.0.info", 302),
        ("example.com/direct/@v/v1.0.0.info", 302),
        ("hg.corp.example/x/@v/v1.0.0.info", 302),
        ("git.corp.example/x/@v/v1.0.0.info", 403),
    ] {
        let (found, body) = server.get(&format!("/go/{path}"));
        assert_eq!(found, status, "{path}: {}\n{}", String::from_utf8_lossy(&body), out(&output));
    }
}

fn a_bucket_of_athens_becomes_the_bucket_of_stoa() {
    let programs = Programs::current();
    let s3 =
        "[Storage.S3]\nBucket = \"go-modules\"\nRegion = \"eu-west-1\"\nKey = \"k3y\"\nSecret = \"s3cret\"\n";
    for (storage, table, expected) in [
        ("s3", s3, &["bucket.url = \"s3://go-modules\"", "bucket.region = \"eu-west-1\""][..]),
        ("gcp", "[Storage.GCP]\nBucket = \"go-modules\"\n", &["bucket.url = \"gs://go-modules\""]),
        (
            "azureblob",
            "[Storage.AzureBlob]\nAccountName = \"acme\"\nContainerName = \"go-modules\"\n",
            &["bucket.url = \"az://go-modules\"", "bucket.account = \"acme\""],
        ),
    ] {
        let config = programs.folder().join("athens.toml");
        fs::write(&config, format!("StorageType = \"{storage}\"\n{table}")).unwrap();
        let output = import(&programs, &["--config-file", config.to_str().unwrap()], &[]);
        let text = out(&output);
        assert!(output.status.success() && !text.contains("s3cret"), "{}", transcript(&output));
        assert!(expected.iter().all(|line| text.lines().any(|found| found == *line)), "{text}");
        let ours = programs.folder().join("stoa.toml");
        fs::write(&ours, &text).unwrap();
        let mut check = programs.command("stoa", ["config", "check", "--config", ours.to_str().unwrap()]);
        let checked = check.env("STOA_UPSTREAM", "off").output().unwrap();
        assert!(checked.status.success(), "{}", transcript(&checked));
    }
}

fn modules_that_the_filter_does_not_name_are_refused() {
    let (programs, upstream) = (Programs::current(), Upstream::start());
    for pair in ["example.com/open/x@v1.0.0", "example.com/open/shut@v1.0.0", "other.example/x@v1.0.0"] {
        upstream.offer(pair, 2000);
    }
    fs::write(programs.folder().join("filter"), "-\n+ example.com/open v1\n- example.com/open/shut\n")
        .unwrap();
    let goproxy = format!("ATHENS_GO_BINARY_ENV_VARS=GOPROXY={}", upstream.url());
    let typed =
        ["--env", "ATHENS_FILTER_FILE=filter", "--env", &goproxy, "--env", "ATHENS_DOWNLOAD_MODE=async"];
    let output = import(&programs, &typed, &[]);
    assert!(output.status.success(), "{}", transcript(&output));
    let config = programs.folder().join("stoa.toml");
    fs::write(&config, &output.stdout).unwrap();
    let mut serve = command(&programs.store());
    let server = Server::start_with(serve.args(["--mode", "sync", "--config", config.to_str().unwrap()]));
    for (path, status) in
        [("example.com/open/x", 200), ("example.com/open/shut", 403), ("other.example/x", 403)]
    {
        let (found, _) = server.get(&format!("/{path}/@v/v1.0.0.info"));
        assert_eq!(found, status, "{path}\n{}", out(&output));
    }
}

fn settings_without_counterpart_are_reported_and_secrets_are_not() {
    let programs = Programs::current();
    let text = athens(&programs, "https://user:pa55@proxy.example");
    fs::write(programs.folder().join("a.toml"), text).unwrap();
    let variables = [
        ("ATHENS_TYPO", "s3cret"),
        ("ATHENS_GOGET_WORKERS", "9"),
        ("ATHENS_GONOSUM_PATTERNS", "*.corp.example/*,git.hub/!acme"),
    ];
    let output = import(&programs, &["--config-file", "a.toml"], &variables);
    assert!(output.status.success(), "{}", transcript(&output));
    let (config, notes) = (out(&output), String::from_utf8_lossy(&output.stderr).into_owned());
    for secret in ["s3cret", "t0ken", "pa55", "minio123"] {
        assert!(!config.contains(secret) && !notes.contains(secret), "{secret}: {}", transcript(&output));
    }
    for line in [
        "listen = \"0.0.0.0:3100\"",
        "base_path = \"/go\"",
        "grace = 5",
        "upstream = \"https://proxy.example\"",
        "sumdbs = [\"sumdb.example\"]",
        "sumdb_refuse = [\"*.corp.example/*\", \"git.hub/Acme\"]",
        "max_concurrent = 9",
        "mode = \"sync\"",
        &format!("store = \"{}\"", programs.store().display()),
    ] {
        assert!(config.lines().any(|found| found == line), "{line}: {config}");
    }
    for key in [
        "GoBinary (a.toml, line 1)",
        "GODEBUG",
        "LogLevel",
        "BasicAuthUser",
        "GithubToken",
        "ValidatorHook",
        "ATHENS_TYPO",
    ] {
        assert!(notes.contains(key), "{key}: {notes}");
        assert!(
            config.lines().any(|line| line.starts_with("# not translated: ") && line.contains(key)),
            "{key}: {config}"
        );
    }
    // Defaults are not reported.
    assert!(!notes.contains("Timeout (") && !notes.contains("GoEnv"), "{notes}");
}

fn a_container_has_only_variables() {
    let programs = Programs::current();
    let hcl = "bW9kZSA9ICJub25lIgpkb3dubG9hZFVSTCA9ICIiCmRvd25sb2FkICJhLmIvKiIgewogIG1vZGUgPSAic3luYyIKfQo=";
    let custom = format!("ATHENS_DOWNLOAD_MODE=custom:{hcl}");
    let typed = [
        "--env",
        "ATHENS_STORAGE_TYPE=disk",
        "--env",
        "ATHENS_DISK_STORAGE_ROOT=modules",
        "--env",
        &custom,
        "--env",
        "ATHENS_GO_BINARY_ENV_VARS=GOPROXY=https://proxy.example,direct; GONOSUMDB=*.corp.example",
    ];
    let output = import(&programs, &typed, &[("PORT", "3200"), ("ATHENS_PATH_PREFIX", "x")]);
    assert!(output.status.success(), "{}", transcript(&output));
    let config = out(&output);
    for line in [
        &format!("store = \"{}\"", programs.folder().join("modules").display()),
        "listen = \"0.0.0.0:3200\"",
        "base_path = \"/x\"",
        "upstream = \"https://proxy.example,direct\"",
        "mode = \"none\"",
        "max_concurrent = 10",
        "pattern = \"a.b/*\"",
        "mode = \"sync\"",
        "pattern = \"*.corp.example\"",
        "checksum = \"off\"",
    ] {
        assert!(config.lines().any(|found| found == line), "{line}: {config}");
    }
    let output = import(&programs, &[&typed[..], &["--no-env"]].concat(), &[("PORT", "3200")]);
    assert!(out(&output).contains("listen = \"0.0.0.0:3000\""), "{}", transcript(&output));
}

fn an_invalid_setting_is_named_by_file_and_line() {
    let programs = Programs::current();
    let write = |name: &str, text: &str| fs::write(programs.folder().join(name), text).unwrap();
    let refused = |arguments: &[&str], parts: &[&str]| {
        let output = import(&programs, arguments, &[]);
        assert_eq!(output.status.code(), Some(64), "{arguments:?}: {}", transcript(&output));
        assert!(output.stdout.is_empty());
        for part in parts {
            assert!(transcript(&output).contains(part), "{part}: {}", transcript(&output));
        }
    };
    refused(&[], &["nothing to import"]);
    refused(&["--config-file", "gone.toml"], &["gone.toml", "no such file"]);
    write("bad.toml", "Port = \":3000\"\n\nGoGetWorkers = \n");
    refused(&["--config-file", "bad.toml"], &["bad.toml, line 3"]);
    write("modes.hcl", "mode = \"sync\"\ndownload \"a.b\" {\n  mode = \"never\"\n}\n");
    refused(&["--env", "ATHENS_DOWNLOAD_MODE=file:modes.hcl"], &["modes.hcl, line 3", "never"]);
    refused(&["--env", "ATHENS_DOWNLOAD_MODE=file:gone.hcl"], &["gone.hcl", "ATHENS_DOWNLOAD_MODE"]);
    refused(&["--env", "ATHENS_DOWNLOAD_MODE=sometimes"], &["sometimes", "async_redirect"]);
    write("filter", "+ a.b\n\nx c.d\n");
    refused(&["--env", "ATHENS_FILTER_FILE=filter"], &["filter, line 3"]);
    refused(&["--env", "ATHENS_PORT=tcp://10.0.0.1:3000"], &["ATHENS_PORT", "tcp://"]);
    refused(&["--env", "ATHENS_GOGET_WORKERS=many"], &["ATHENS_GOGET_WORKERS"]);
}
