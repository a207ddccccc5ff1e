//! Buckets of the services that the programs support, for tests that run on each of them.
//!
//! A test gets a fresh bucket, which is a fresh prefix, and the environment variables by which the programs find it. It
//! can look into the bucket past the programs. The services run on this machine, unless a variable names a bucket of a
//! real one: `STOA_TEST_S3_URL`, `STOA_TEST_GCS_URL` or `STOA_TEST_AZURE_URL`, with the standard variables for its
//! credentials.

use std::fmt;
use std::future::Future;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, LazyLock, OnceLock};
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{GetOptions, GetRange, ObjectStore, ObjectStoreExt, ObjectStoreScheme, PutMode};
use tokio::runtime::Runtime;
use url::Url;

use crate::Module;
use crate::azurite::{self, Azurite};
use crate::gcs::{self, Gcs};
use crate::s3::{self, S3};

/// A service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Service {
    /// The double of Google Cloud Storage.
    Gcs,
    /// An S3 server.
    S3,
    /// Azure's emulator.
    Azure,
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Gcs => "GCS",
            Self::S3 => "S3",
            Self::Azure => "Azure",
        })
    }
}

impl Service {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Gcs, Self::S3, Self::Azure];

    /// Returns what finds out why the service cannot be used, for [`Case::needs`](crate::Case::needs).
    pub fn needs(self) -> fn() -> Option<String> {
        match self {
            Self::Gcs => || None,
            Self::S3 => || unless_real(Self::S3, s3::missing),
            Self::Azure => || unless_real(Self::Azure, azurite::missing),
        }
    }

    /// Returns what finds out why the service cannot be started on this machine.
    pub fn needs_here(self) -> fn() -> Option<String> {
        match self {
            Self::Gcs => || None,
            Self::S3 => s3::missing,
            Self::Azure => azurite::missing,
        }
    }

    /// Returns the variable with the URL of a bucket of the real service.
    fn variable(self) -> &'static str {
        match self {
            Self::Gcs => "STOA_TEST_GCS_URL",
            Self::S3 => "STOA_TEST_S3_URL",
            Self::Azure => "STOA_TEST_AZURE_URL",
        }
    }

    /// Returns the URL of a bucket of the real service, if a variable names one.
    fn real(self) -> Option<String> {
        let url = std::env::var(self.variable()).ok().filter(|url| !url.is_empty())?;
        Some(url.trim_end_matches('/').to_owned())
    }

    /// Starts the service, or takes the real one that a variable names.
    pub fn start(self) -> RunningService {
        if let Some(url) = self.real() {
            return RunningService::new(self, Server::Real(url));
        }
        self.start_here()
    }

    /// Starts the service on this machine. For tests that need to stand between it and the programs.
    pub fn start_here(self) -> RunningService {
        let server = match self {
            Self::Gcs => Server::Gcs(Gcs::start()),
            Self::S3 => Server::S3(S3::start()),
            Self::Azure => Server::Azure(Azurite::start()),
        };
        RunningService::new(self, server)
    }
}

fn unless_real(service: Service, missing: fn() -> Option<String>) -> Option<String> {
    if service.real().is_some() { None } else { missing() }
}

/// Number of versions that are worked on at the same time, as the programs do.
const AT_ONCE: usize = 64;

/// The size of a manifest, and of the part of a zip that an upgrade reads, in bytes.
const MANIFEST: usize = 900;
const ZIP_END: u64 = 4096;

/// A service that runs.
pub struct RunningService {
    service: Service,
    server: Server,
    buckets: AtomicU32,
    /// One client for all buckets, since it reads all certificates of the system.
    client: OnceLock<Arc<dyn ObjectStore>>,
    /// Distinguishes the prefixes of this process in a real bucket.
    run: u128,
}

enum Server {
    Gcs(Gcs),
    S3(S3),
    Azure(Azurite),
    /// The URL of a bucket.
    Real(String),
}

impl RunningService {
    fn new(service: Service, server: Server) -> Self {
        let run = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos();
        Self { service, server, buckets: AtomicU32::new(0), client: OnceLock::new(), run }
    }

    /// Returns a fresh bucket.
    pub fn bucket(&self) -> TestBucket {
        let number = self.buckets.fetch_add(1, Ordering::Relaxed);
        let fresh = format!("bucket{number}");
        let (url, origin) = match &self.server {
            Server::Gcs(gcs) => (gcs.bucket(&fresh), Some(gcs.url())),
            Server::S3(s3) => (s3.bucket(&fresh), Some(s3.url())),
            Server::Azure(azurite) => (format!("az://{}/{fresh}", azurite::CONTAINER), Some(azurite.url())),
            Server::Real(url) => (format!("{url}/stoa-test-{}-{number}", self.run), None),
        };
        let double = match &self.server {
            Server::Gcs(gcs) => Some(gcs.clone()),
            _ => None,
        };
        let client = self.client.get_or_init(|| connect(self.service, &url, origin));
        let mut bucket = TestBucket::with(Arc::clone(client), self.service, url, origin);
        bucket.double = double;
        bucket
    }
}

/// A bucket of a test: a prefix that nobody else uses. Keys are below the prefix.
pub struct TestBucket {
    service: Service,
    url: String,
    /// The URL of the service on this machine.
    origin: Option<String>,
    prefix: Path,
    store: Arc<dyn ObjectStore>,
    /// The service, if it is a double.
    double: Option<Gcs>,
}

impl TestBucket {
    pub(crate) fn new(service: Service, url: String, origin: &str) -> Self {
        Self::with(connect(service, &url, Some(origin)), service, url, Some(origin))
    }

    fn with(store: Arc<dyn ObjectStore>, service: Service, url: String, origin: Option<&str>) -> Self {
        let (_, prefix) = ObjectStoreScheme::parse(&parsed(&url)).unwrap();
        Self { service, url, origin: origin.map(str::to_owned), prefix, store, double: None }
    }

    /// Makes all objects older than a day, as the time would. Only the double can.
    pub fn age(&self) {
        let double = self.double.as_ref().expect("the service is a double");
        for key in double.keys(&format!("{}/", self.prefix)) {
            double.age(&key);
        }
    }

    /// Returns a part of the bucket of a double, for tests that use both.
    pub fn of(gcs: &Gcs, prefix: &str) -> Self {
        Self::new(Service::Gcs, gcs.bucket(prefix), gcs.url())
    }

    /// Returns the service.
    pub fn service(&self) -> Service {
        self.service
    }

    /// Returns the URL of the bucket.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Returns the URL of the service, if that runs on this machine.
    pub fn origin(&self) -> Option<&str> {
        self.origin.as_deref()
    }

    /// Returns the environment variables by which the programs find the service.
    pub fn environment(&self) -> Vec<(String, String)> {
        self.origin.as_deref().map(|origin| environment(self.service, origin)).unwrap_or_default()
    }

    /// Returns the environment variables by which the programs find the service behind another URL.
    pub fn environment_at(&self, origin: &str) -> Vec<(String, String)> {
        environment(self.service, origin)
    }

    /// Returns what the path of a request has before the key: the bucket, for Azure the account too, and the prefix.
    pub(crate) fn base(&self) -> String {
        match self.service {
            Service::Gcs => format!("/{}/{}/", gcs::BUCKET, self.prefix),
            Service::S3 => format!("/{}/{}/", s3::BUCKET, self.prefix),
            Service::Azure => format!("/{}/{}/{}/", azurite::ACCOUNT, azurite::CONTAINER, self.prefix),
        }
    }

    pub(crate) fn store(&self) -> Arc<dyn ObjectStore> {
        Arc::clone(&self.store)
    }

    pub(crate) fn prefix(&self) -> &Path {
        &self.prefix
    }

    fn path(&self, key: &str) -> Path {
        // Not encoded: the keys of the programs are as they are.
        Path::parse(format!("{}/{key}", self.prefix)).unwrap()
    }

    /// Returns all keys that begin with a text, in order.
    pub fn keys(&self, start: &str) -> Vec<String> {
        let base = format!("{}/", self.prefix);
        let listed = self.store.list(Some(&self.prefix)).map_ok(|meta| meta.location.to_string());
        let listed: Vec<String> = block_on(listed.try_collect()).unwrap();
        let keys =
            listed.iter().filter_map(|key| key.strip_prefix(&base)).filter(|key| key.starts_with(start));
        let mut keys: Vec<String> = keys.map(str::to_owned).collect();
        keys.sort();
        keys
    }

    /// Returns the content of an object.
    pub fn get(&self, key: &str) -> Option<Vec<u8>> {
        let path = self.path(key);
        match block_on(async { self.store.get(&path).await?.bytes().await }) {
            Ok(bytes) => Some(bytes.into()),
            Err(object_store::Error::NotFound { .. }) => None,
            Err(error) => panic!("cannot read {key}: {error}"),
        }
    }

    /// Returns the content of an object as text.
    pub fn text(&self, key: &str) -> String {
        String::from_utf8(self.get(key).unwrap_or_else(|| panic!("no object {key}"))).unwrap()
    }

    /// Writes an object.
    pub fn put(&self, key: &str, data: impl Into<Vec<u8>>) {
        let path = self.path(key);
        block_on(self.store.put(&path, Bytes::from(data.into()).into())).unwrap();
    }

    /// Removes an object. It may be absent.
    pub fn delete(&self, key: &str) {
        let path = self.path(key);
        match block_on(self.store.delete(&path)) {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => {}
            Err(error) => panic!("cannot delete {key}: {error}"),
        }
    }

    /// Writes the three files of a version where Athens would.
    pub fn save(&self, module: &Module) {
        self.save_only(module, &["info", "mod", "zip"]);
    }

    /// Writes the files of many versions where Athens would.
    pub fn save_all(&self, modules: impl Iterator<Item = Module>) {
        let save = |module: Module| async move {
            let files =
                [("info", module.info.clone()), ("mod", module.modfile.clone()), ("zip", module.zip.clone())];
            for (suffix, data) in files {
                self.store
                    .put(&self.path(&athens_key(&module, suffix)), Bytes::from(data).into())
                    .await
                    .unwrap();
            }
        };
        block_on(
            futures_util::stream::iter(modules).map(save).buffer_unordered(AT_ONCE).for_each(async |()| {}),
        );
    }

    /// Makes the requests of an upgrade without a check: reads the info, the mod and the end of the zip of each version,
    /// and writes an object that does not exist.
    pub fn raw_upgrade(&self, modules: impl Iterator<Item = Module>, folder: &str) {
        let read = async |path: Path, range: Option<GetRange>| {
            let options = GetOptions::new().with_range(range);
            self.store.get_opts(&path, options).await.unwrap().bytes().await.unwrap()
        };
        let upgrade = |module: Module| async move {
            for (suffix, range) in [("info", None), ("mod", None), ("zip", Some(GetRange::Suffix(ZIP_END)))] {
                read(self.path(&athens_key(&module, suffix)), range).await;
            }
            let path = self.path(&format!("{folder}/{}.json", athens_key(&module, "manifest")));
            let data = Bytes::from(vec![b' '; MANIFEST]);
            self.store.put_opts(&path, data.into(), PutMode::Create.into()).await.unwrap();
        };
        block_on(
            futures_util::stream::iter(modules)
                .map(upgrade)
                .buffer_unordered(AT_ONCE)
                .for_each(async |()| {}),
        );
    }

    /// Writes some files of a version where Athens would, as an interrupted save does.
    pub fn save_only(&self, module: &Module, suffixes: &[&str]) {
        for suffix in suffixes {
            let data = match *suffix {
                "info" => &module.info,
                "mod" => &module.modfile,
                _ => &module.zip,
            };
            self.put(&athens_key(module, suffix), data.clone());
        }
    }
}

fn parsed(url: &str) -> Url {
    Url::parse(url).unwrap_or_else(|error| panic!("{url} is no URL: {error}"))
}

/// Makes a client for the service of a bucket.
fn connect(service: Service, url: &str, origin: Option<&str>) -> Arc<dyn ObjectStore> {
    use_ring();
    let mut options = match origin {
        Some(origin) => environment(service, origin),
        None => std::env::vars().collect(),
    };
    if let Some(origin) = origin {
        options.push(("allow_http".to_owned(), "true".to_owned()));
        if service == Service::Gcs {
            options.push(("google_base_url".to_owned(), origin.to_owned()));
        }
    }
    let found = object_store::parse_url_opts(&parsed(url), options);
    found.unwrap_or_else(|error| panic!("cannot use {url}: {error}")).0.into()
}

impl Drop for TestBucket {
    fn drop(&mut self) {
        // A real bucket is not left full of what tests wrote.
        if self.origin.is_none() {
            let listed = self.store.list(Some(&self.prefix)).map_ok(|meta| meta.location).boxed();
            let _: Result<Vec<_>, _> = block_on(self.store.delete_stream(listed).try_collect());
        }
    }
}

/// Returns the key of a file of a version in a bucket of Athens.
pub fn athens_key(module: &Module, suffix: &str) -> String {
    format!("{}/@v/{}.{suffix}", module.version.path(), module.version.version())
}

fn environment(service: Service, origin: &str) -> Vec<(String, String)> {
    let mut variables = match service {
        Service::Gcs => return gcs::environment(origin),
        Service::S3 => s3::environment(origin),
        Service::Azure => azurite::environment(origin),
    };
    variables.extend(one_certificate());
    variables
}

/// Returns variables with which a program reads one certificate in the place of the system's. It needs none for a service
/// on this machine, and reading all of them takes most of the processor time of a short run.
pub(crate) fn one_certificate() -> impl Iterator<Item = (String, String)> {
    let certificate = concat!(env!("CARGO_MANIFEST_DIR"), "/src/certificate.pem");
    let variables = [("SSL_CERT_FILE", certificate), ("SSL_CERT_DIR", "/dev/null")];
    variables.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned()))
}

/// Runs a request of a test to its end. Not for asynchronous tests.
pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> T {
    static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
    });
    RUNTIME.block_on(future)
}

/// Sets the library of ciphers, without which no client can be made.
pub(crate) fn use_ring() {
    // Another test may have done so.
    let _ = rustls::crypto::ring::default_provider().install_default();
}
