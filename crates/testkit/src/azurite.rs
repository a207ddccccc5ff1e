//! Azure's own emulator of Blob Storage on loopback: Azurite.

use std::process::Command;

use hyper::Method;
use object_store::ClientOptions;
use object_store::azure::{AzureAccessKey, AzureAuthorizer, AzureCredential};
use object_store::client::{HttpConnector, HttpRequestBody, ReqwestConnector};

use crate::bucket::block_on;
use crate::servers::{self, Process};

/// The container.
pub const CONTAINER: &str = "modules";

/// The account that every Azurite has. It is the first part of each path.
pub const ACCOUNT: &str = "devstoreaccount1";

/// The documented key of the account.
const KEY: &str = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";

/// The installed program.
const PROGRAM: &str = "azurite/node_modules/azurite/dist/src/blob/main.js";

/// A running emulator; killed when dropped.
pub struct Azurite {
    process: Process,
    _folder: tempfile::TempDir,
}

/// Returns why the emulator cannot be started, or `None` if it can.
pub fn missing() -> Option<String> {
    crate::missing_tool("node", &["--version"]).or_else(|| servers::missing("Azurite", PROGRAM))
}

impl Azurite {
    /// Starts one with an empty container.
    pub fn start() -> Self {
        let folder = crate::tempdir();
        let process = Process::start("Azurite", |address| {
            let mut command = Command::new("node");
            command.arg(servers::installed(PROGRAM)).arg("--location").arg(folder.path());
            command.args(["--blobHost", "127.0.0.1", "--blobPort", &address.port().to_string()]);
            // It refuses the newest versions of the protocol, which it can speak.
            command.args(["--silent", "--disableTelemetry", "--skipApiVersionCheck"]);
            command.current_dir(folder.path());
            command
        });
        let azurite = Self { process, _folder: folder };
        azurite.create_container();
        azurite
    }

    /// Returns the URL of the service, without the account.
    pub fn url(&self) -> &str {
        self.process.url()
    }

    fn create_container(&self) {
        let url = format!("{}/{ACCOUNT}/{CONTAINER}?restype=container", self.url());
        let request = hyper::Request::builder().method(Method::PUT).uri(url).header("content-length", "0");
        let mut request = request.body(HttpRequestBody::empty()).unwrap();
        let credential = AzureCredential::AccessKey(AzureAccessKey::try_new(KEY).unwrap());
        AzureAuthorizer::new(&credential, ACCOUNT).try_authorize(&mut request).unwrap();
        let options = ClientOptions::new().with_allow_http(true);
        crate::bucket::use_ring();
        let client = ReqwestConnector::default().connect(&options).unwrap();
        let response = block_on(client.execute(request)).unwrap();
        assert!(response.status().is_success(), "Azurite makes no container: {}", response.status());
    }
}

/// Returns the environment variables by which programs find an emulator, or a proxy in front of it.
pub(crate) fn environment(url: &str) -> Vec<(String, String)> {
    let endpoint = format!("{url}/{ACCOUNT}");
    let variables = [
        ("AZURE_STORAGE_ENDPOINT", endpoint.as_str()),
        ("AZURE_STORAGE_ACCOUNT_NAME", ACCOUNT),
        ("AZURE_STORAGE_ACCOUNT_KEY", KEY),
    ];
    variables.map(|(name, value)| (name.to_owned(), value.to_owned())).into()
}
