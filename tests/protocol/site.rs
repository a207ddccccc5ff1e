//! A store and a proxy in front of it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use stoa::answers::AnswerOptions;
use stoa::server::{self, ServeError, ServeOptions};
use stoa::services::{FlightOptions, ServiceOptions};
use stoa::upstream::{Instance, Upstream, UpstreamOptions};
use stoa_gomod::ModuleVersion;
use stoa_layout::gate::Mode;
use stoa_layout::{Cancel, Gate, LayoutId, Layouts, Migrator, Options, Runner, events::Silent};
use stoa_store::{Cached, FOLDERS, LAYOUT, Shelf, SmallFile, Store};
use tokio::sync::oneshot;

use testkit::client::{self, Reply};
use testkit::upstream::Module;

/// The name of every proxy here in `Via`.
pub(crate) const INSTANCE: Instance = Instance::new(0x0123_4567_89ab_cdef);

/// How long answers count as new, where they do.
pub(crate) const TTL: Duration = Duration::from_secs(100_000);

/// Keeps no answer as new, so that each request shows what the upstream says.
pub(crate) fn asking_each_time() -> ServeOptions {
    with_list_ttl(Duration::ZERO)
}

/// Keeps answers as new for so long.
pub(crate) fn with_list_ttl(list_ttl: Duration) -> ServeOptions {
    let answers = AnswerOptions { list_ttl, ..AnswerOptions::default() };
    // Tests heal an upstream and ask again at once.
    let flights = FlightOptions { wrong_pause: Duration::ZERO, ..FlightOptions::default() };
    let services = ServiceOptions { flights, absent_ttl: list_ttl, answers, ..ServiceOptions::default() };
    ServeOptions { services, ..ServeOptions::default() }
}

/// A running proxy; it is stopped when dropped.
pub(crate) struct Site {
    pub(crate) address: SocketAddr,
    pub(crate) store: Arc<Store>,
    tag: Option<String>,
    stop: Option<oneshot::Sender<()>>,
    ended: Option<JoinHandle<Result<(), ServeError>>>,
}

/// A folder with an empty store.
pub(crate) fn folder() -> tempfile::TempDir {
    let folder = testkit::tempdir();
    let layouts = Layouts::new("test 1", LAYOUT, FOLDERS.to_vec());
    let options = Options::default();
    let (root, cancel) = (folder.path(), Cancel::new());
    Runner { root, layouts: &layouts, options: &options, events: &Silent, cancel: &cancel }.run().unwrap();
    folder
}

pub(crate) fn open(root: &Path, mode: Mode) -> Arc<Store> {
    let current: LayoutId = LAYOUT;
    let gate = Gate { root, current: &current, migrator: &Migrator::Forbidden { name: "none" } };
    let pass = gate.pass().unwrap();
    Arc::new(Store::open(gate.hold(pass, mode).unwrap(), mode).unwrap())
}

/// Reads a list of upstreams, with patience that a test can outwait.
pub(crate) fn upstream(list: &str) -> Upstream {
    upstream_with(list, Duration::from_secs(30))
}

pub(crate) fn upstream_with(list: &str, idle_timeout: Duration) -> Upstream {
    let options = UpstreamOptions { idle_timeout, instance: INSTANCE, ..UpstreamOptions::default() };
    Upstream::new(list, options).unwrap()
}

impl Site {
    pub(crate) fn start(root: &Path, list: &str) -> Self {
        Self::with(open(root, Mode::ReadWrite), upstream(list), asking_each_time())
    }

    /// Starts one whose answers count as new for so long, which no test outlives.
    pub(crate) fn with_ttl(root: &Path, list: &str) -> Self {
        Self::with(open(root, Mode::ReadWrite), upstream(list), with_list_ttl(TTL))
    }

    /// Puts an answer of the upstream into the cache that was got so many TTLs ago; offline, of the last one.
    pub(crate) fn remember(&self, key: &str, ttls: u32, body: &str) {
        let at = SystemTime::now() - TTL * ttls;
        let body = body.as_bytes().to_vec().into();
        let key = self.key(key);
        self.store.cache().put(Shelf::Answers, &key, &Cached { at, body }).unwrap();
    }

    /// Returns the name in the cache for the upstream's answer at a path.
    pub(crate) fn key(&self, path: &str) -> String {
        self.tag.as_ref().map_or_else(|| path.to_owned(), |tag| format!("{path} {tag}"))
    }

    pub(crate) fn with(store: Arc<Store>, upstream: Upstream, options: ServeOptions) -> Self {
        let (stop, stopped) = oneshot::channel();
        let (tell, address) = std::sync::mpsc::channel();
        let (served, tag) = (Arc::clone(&store), upstream.tag().map(str::to_owned));
        let ended = std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
            runtime.block_on(async {
                let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
                tell.send(listener.local_addr().unwrap()).unwrap();
                let shutdown = async {
                    let _ = stopped.await;
                };
                server::run(listener, served, upstream, options, shutdown).await
            })
        });
        Self { address: address.recv().unwrap(), store, tag, stop: Some(stop), ended: Some(ended) }
    }

    pub(crate) fn get(&self, path: &str) -> Reply {
        client::get(self.address, path)
    }

    pub(crate) fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)]) -> Reply {
        client::ask(self.address, method, path, headers)
    }

    /// Puts a version into the store as a fill does.
    pub(crate) fn publish(&self, module: &Module) {
        use std::io::Write;
        let claim = self.store.claim(&module.version).unwrap();
        let mut draft = self.store.draft(&module.version).unwrap();
        (&**draft.zip()).write_all(&module.zip).unwrap();
        draft.set_mod(&module.modfile);
        self.store.publish(draft.seal(&module.info).unwrap(), &claim).unwrap();
    }

    /// Puts a version into the store as a migration does: nobody has read its zip.
    pub(crate) fn put_unsealed(&self, module: &Module) -> PathBuf {
        let (path, version) = (module.version.path().escaped(), module.version.version().escaped());
        let folder = self.store.root().join("modules").join(path).join("@v").join(version);
        std::fs::create_dir_all(&folder).unwrap();
        for (name, content) in [("mod", &module.modfile), ("zip", &module.zip), ("info", &module.info)] {
            std::fs::write(folder.join(name), content).unwrap();
        }
        folder
    }

    pub(crate) fn has(&self, version: &ModuleVersion) -> bool {
        self.store.small(version, SmallFile::Info).unwrap().is_some()
    }

    /// Waits until a fill in the background has ended well.
    pub(crate) fn wait_for(&self, version: &ModuleVersion) {
        testkit::until("the version is stored", || self.has(version));
    }

    /// Fails if a version or a piece of one stays anywhere below the root. The draft of a failed download is removed when
    /// its last client is gone, which may be a moment after the answer.
    pub(crate) fn assert_holds_nothing(&self) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while !pieces_below(self.store.root()).is_empty() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
        assert_eq!(pieces_below(self.store.root()), Vec::<PathBuf>::new());
    }

    /// Returns the entries of the folder where versions are written.
    pub(crate) fn drafts(&self) -> Vec<PathBuf> {
        pieces_below(&self.store.root().join("staging"))
    }

    /// Asks it to stop; it may take its time.
    pub(crate) fn begin_stop(&mut self) {
        let _ = self.stop.take().expect("not stopped yet").send(());
    }

    /// Waits until it has stopped.
    pub(crate) fn join(&mut self) {
        self.ended.take().expect("not joined yet").join().unwrap().unwrap();
    }
}

fn pieces_below(folder: &Path) -> Vec<PathBuf> {
    let mut files = files_below(folder);
    files.retain(|path| ["info", "mod", "zip", "ziphash"].iter().any(|name| path.ends_with(name)));
    files
}

impl Drop for Site {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
        if let Some(ended) = self.ended.take() {
            let ended = ended.join();
            if !std::thread::panicking() {
                ended.unwrap().unwrap();
            }
        }
    }
}

pub(crate) fn files_below(root: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut open = vec![root.to_owned()];
    while let Some(folder) = open.pop() {
        // It may go away while it is looked at.
        let Ok(entries) = std::fs::read_dir(&folder) else { continue };
        for entry in entries.flatten() {
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => open.push(entry.path()),
                _ => files.push(entry.path()),
            }
        }
    }
    files
}
