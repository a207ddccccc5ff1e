//! The keys of the configuration, each declared once.
//!
//! From a declaration come the key of the config file, the option, the variable, the default, the check and the help text.
//! `installer/sample-config.toml` and `docs/configure.md` are made from the declarations too (see `pages`).
//! A new key is one declaration here. Its value is a field of [`ServeConfig`].

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use stoa_bucket::BucketUrl;

use super::access::AccessTable;
use super::listen::ListenAddress;
use super::parse;
use super::peers::PeerTable;
use super::rules::ModuleTable;
use super::{ConfigError, Options, Origin, Settings};
use crate::eviction::Free;
use crate::observe::{AccessLogFormat, AccessLogTarget};
use crate::policy::{ChecksumPolicy, Mode};
use crate::upstream::HostCredentials;

/// A key of the configuration.
#[derive(Debug)]
pub struct Key {
    /// The name in the config file, with its table: `fill.list_ttl`.
    pub name: &'static str,
    /// The name of the value in help texts.
    pub value_name: &'static str,
    /// The value that applies if nothing sets the key.
    pub default: Default,
    /// The help text. Its first line is the text in `--help`, the rest is for the pages.
    pub doc: &'static str,
    /// Returns the reason why a text is not a value of the key.
    pub(super) check: fn(&str) -> Result<(), String>,
}

/// The default of a key.
#[derive(Debug, Clone, Copy)]
pub enum Default {
    /// A value.
    Value(&'static str),
    /// Not a fixed value: its description, and an example of a value.
    Unset(&'static str, &'static str),
}

impl Key {
    /// Returns the name of the option: `--fill-list-ttl`.
    pub fn option(&self) -> String {
        format!("--{}", self.name.replace(['_', '.'], "-"))
    }

    /// Returns the name of the environment variable: `STOA_FILL_LIST_TTL`.
    pub fn variable(&self) -> String {
        format!("STOA_{}", self.name.replace('.', "_").to_ascii_uppercase())
    }

    /// Returns whether the value is true or false, so that the option may stand alone.
    pub fn is_switch(&self) -> bool {
        self.value_name == "BOOL"
    }

    /// Returns whether the value is a list, with commas in options and variables.
    pub fn is_list(&self) -> bool {
        matches!(self.value_name, "NAMES" | "PATTERNS" | "RANGES" | "ADDRESSES")
    }

    /// Returns the text for `--help`.
    pub fn help(&self) -> String {
        let summary = self.doc.lines().next().unwrap_or_default().trim();
        let default = match self.default {
            Default::Value(text) => format!(" [default: {text}]"),
            Default::Unset("none", _) => String::new(),
            Default::Unset(text, _) => format!(" [default: {text}]"),
        };
        format!("{summary}{default} [key: {}]", self.name)
    }
}

/// Returns every key, in the order of the pages.
pub fn all() -> impl Iterator<Item = &'static Key> {
    GENERAL.iter().chain(SERVE)
}

/// Returns the key of a name.
pub fn find(name: &str) -> Option<&'static Key> {
    all().find(|key| key.name == name)
}

/// The keys that are not only about the server.
pub const GENERAL: &[Key] = &[
    Key {
        name: "store",
        value_name: "DIR",
        default: Default::Unset("$XDG_DATA_HOME/stoa, or ~/.local/share/stoa", "/var/lib/stoa"),
        doc: "Folder of the store\nIn the config file, a relative path starts at the folder of that file. A file that has the table [store] names the folder there, as `path`.",
        check: |text| parse::path(text).map(drop),
    },
    Key {
        name: "store_mode",
        value_name: "MODE",
        default: Default::Value("0700"),
        doc: "Mode of the folder of a new store, in octal, such as 0750; use 2770 if a group shares the store\nFiles get the same mode without x. An existing folder keeps its mode. The umask is ignored.",
        check: |text| parse::mode(text).map(drop),
    },
    Key {
        name: "auto_migrate",
        value_name: "BOOL",
        default: Default::Value("true"),
        doc: "Whether to run stoa-migrate when the store needs it",
        check: |text| parse::switch(text).map(drop),
    },
    Key {
        name: "lock_timeout",
        value_name: "DURATION",
        default: Default::Value("30s"),
        doc: "Maximum time that stoa-migrate waits for processes that use the store",
        check: |text| parse::duration(text).map(drop),
    },
    Key {
        name: "threads",
        value_name: "N",
        default: Default::Unset("number of CPUs", "2"),
        doc: "Number of worker threads of stoa-migrate and of commands that read the whole store. From 2 on, stoa-migrate \
              removes emptied folders with four times as many",
        check: |text| parse::threads(text).map(drop),
    },
];

/// Declares the keys of the server: the fields of [`ServeConfig`] and their [`Key`]s.
macro_rules! serve_keys {
    ($(
        $(#[doc = $doc:literal])+
        $field:ident: $type:ty = $name:literal, $value_name:literal, $default:expr, $parse:expr;
    )+) => {
        /// The configuration of the server.
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub struct ServeConfig {
            $( $(#[doc = $doc])+ pub $field: $type, )+
            /// The rules about modules, in order.
            pub modules: Vec<ModuleTable>,
            /// The credentials for upstreams.
            pub credentials: Vec<HostCredentials>,
            /// The readers of modules, in order. [`Settings::access`] reads the users.
            pub access: Vec<AccessTable>,
            /// The peers, without their secrets. [`Settings::peers`] reads these.
            pub peers: Vec<PeerTable>,
            pub(super) origins: BTreeMap<&'static str, Origin>,
        }

        /// The keys of the server.
        pub const SERVE: &[Key] = &[ $( Key {
            name: $name,
            value_name: $value_name,
            default: $default,
            doc: concat!($($doc, "\n"),+),
            check: |text| {
                let parse: fn(&str) -> Result<$type, String> = $parse;
                parse(text).map(drop)
            },
        }, )+ ];

        impl Settings<'_> {
            /// Resolves each key by itself.
            pub(super) fn serve_values(&self, options: &Options) -> Result<ServeConfig, ConfigError> {
                let mut origins = BTreeMap::new();
                Ok(ServeConfig {
                    $( $field: {
                        let (value, origin) = self.value($name, options, $default, $parse)?;
                        origins.insert($name, origin);
                        value
                    }, )+
                    modules: self.modules()?,
                    credentials: self.credentials()?,
                    access: self.file()?.access.clone(),
                    peers: self.file()?.peers.clone(),
                    origins,
                })
            }
        }
    };
}

serve_keys! {
    /// Addresses to listen on: ADDRESS:PORT, unix:PATH or systemd
    /// `:3000` listens on all addresses. Port 0 takes a free port. `systemd` stands for the sockets that the service manager passes on. In the config file, one address may be a plain string.
    listen: Vec<ListenAddress> = "listen", "ADDRESSES", Default::Value("127.0.0.1:3000"),
        ListenAddress::parse_list;

    /// Mode of unix sockets, in octal; clients need the permission to write
    listen_mode: u32 = "listen_mode", "MODE", Default::Value("0660"), parse::socket_mode;

    /// Addresses for operators: only /healthz, /readyz, /metrics and /version, without TLS
    /// They have 64 places for connections of their own, so they answer when all other places are taken. With them, /metrics is absent at the other addresses.
    admin_listen: Option<Vec<ListenAddress>> = "admin.listen", "ADDRESSES", Default::Unset("none", "127.0.0.1:3001"),
        |text| ListenAddress::parse_own(text).map(Some);

    /// Certificates for TLS, in PEM: the certificate of the server, then those of its issuers
    /// With a certificate, all addresses of `listen` except unix sockets speak TLS only.
    tls_cert: Option<PathBuf> = "tls.cert", "PATH", Default::Unset("none", "/etc/stoa/tls/cert.pem"),
        |text| parse::absolute_path(text).map(Some);

    /// Private key of the certificate, in PEM
    tls_key: Option<PathBuf> = "tls.key", "PATH", Default::Unset("none", "/etc/stoa/tls/key.pem"),
        |text| parse::absolute_path(text).map(Some);

    /// Names by which clients may call this server, without a port
    /// Requests with another name get 421. `/healthz` and `/readyz` are answered under every name.
    hosts: Vec<String> = "hosts", "NAMES", Default::Unset("every name", "goproxy.corp.example,localhost"),
        parse::hosts;

    /// Address ranges of reverse proxies whose X-Forwarded-For and X-Forwarded-Proto are believed
    /// The other end of a unix socket is always believed.
    trusted_proxies: Vec<IpNet> = "trusted_proxies", "RANGES", Default::Unset("none", "10.1.2.3"),
        parse::ranges;

    /// Prefix of all URL paths
    /// Set it to `/go`, for example, if a reverse proxy forwards only that path.
    base_path: String = "base_path", "PATH", Default::Value("/"), parse::base_path;

    /// Upstreams, in the syntax of GOPROXY
    /// `direct` downloads from version control with the go command. Only the last entry may be `direct` or `off`.
    upstream: Option<String> = "upstream", "LIST",
        Default::Unset("GOPROXY, or `go env GOPROXY`", "https://proxy.example.org,off"),
        |text| parse::upstream(text).map(Some);

    /// Answer for a version that is not in the store: sync, async, redirect, async_redirect or none
    /// `sync` downloads the version while the client waits. `async` downloads it in the background and answers 404.
    /// `redirect` sends the client to redirect_url and stores nothing. `async_redirect` redirects the client and downloads the version in the background. `none` answers 404.
    mode: Mode = "mode", "MODE", Default::Value("sync"), parse::word;

    /// Base URL of redirects, for the modes redirect and async_redirect
    redirect_url: Option<String> = "redirect_url", "URL", Default::Unset("none", "https://proxy.example.org"),
        |text| parse::redirect_url(text).map(Some);

    /// Verification of downloads against the checksum database: auto, require or off
    /// `auto` accepts versions that the database does not know. `require` rejects them. `off` does not ask.
    checksum: ChecksumPolicy = "checksum", "POLICY", Default::Value("auto"), parse::word;

    /// Checksum database, in the syntax of GOSUMDB
    /// The value is NAME, NAME+HASH+KEY or off. With a URL after the name, Stoa asks that URL instead of the upstreams.
    gosumdb: Option<String> = "gosumdb", "DATABASE",
        Default::Unset("GOSUMDB, or `go env GOSUMDB`",
            "sumdb.example.org+010f1bcc+AYE5dw6ofRdfVqNUZsNMfszLjYqRtO43ol32D1uPybOU"),
        |text| parse::gosumdb(text).map(Some);

    /// Checksum databases that clients can use through this proxy
    sumdbs: Option<Vec<String>> = "sumdbs", "NAMES",
        Default::Unset("the database in gosumdb", "sumdb.example.org"),
        |text| parse::list(text).map(Some);

    /// Modules that are never looked up in a checksum database, as patterns in the syntax of GOPRIVATE
    /// Clients get 403 for lookups of these modules.
    sumdb_refuse: Option<Vec<String>> = "sumdb_refuse", "PATTERNS",
        Default::Unset("GONOSUMDB, or GOPRIVATE, or `go env GONOSUMDB`", "*.corp.example,github.com/Acme"),
        |text| parse::patterns(text).map(Some);

    /// Whether to serve without writing to the store
    /// A store on a read-only file system is always read-only.
    read_only: bool = "read_only", "BOOL", Default::Value("false"), parse::switch;

    /// Whether to serve stored modules only and download nothing
    offline: bool = "offline", "BOOL", Default::Value("false"), parse::switch;

    /// Maximum number of open connections
    max_connections: usize = "max_connections", "N", Default::Value("4096"), parse::count;

    /// Maximum number of open connections of one client address
    /// Addresses in `trusted_proxies` have no such limit. The addresses of IPv6 with the same first 64 bits count as one. If a client has that many, its longest idle connection makes place for a new one.
    limits_connections_per_address: Option<usize> = "limits.connections_per_address", "N",
        Default::Unset("half of max_connections", "2048"), |text| parse::count(text).map(Some);

    /// Maximum number of requests under way of one client address; further requests wait
    /// A request that waited for 30 s gets 429.
    limits_requests_per_address: usize = "limits.requests_per_address", "N", Default::Value("1024"), parse::count;

    /// Maximum number of zips that are sent at the same time
    /// One client address gets at most three quarters. A request that waited for 30 s gets 503.
    limits_open_zips: usize = "limits.open_zips", "N", Default::Value("1024"), parse::count;

    /// Maximum number of zips that are sent at the same time on one connection of HTTP/2
    limits_open_zips_per_connection: usize = "limits.open_zips_per_connection", "N", Default::Value("16"), parse::count;

    /// Bytes per second, below which a client is disconnected if another client needs its place; 0 for no client
    /// The speed is measured over at least 30 s.
    limits_min_send_rate: u64 = "limits.min_send_rate", "SIZE", Default::Value("8KiB"), parse::rate;

    /// Time for requests in progress to finish after SIGTERM or SIGINT
    grace: Duration = "grace", "DURATION", Default::Value("30s"), parse::duration;

    /// Maximum time to wait for another process that has locked a version and makes no progress
    /// The time starts again whenever the download of that process grows. After that time clients get 503 with Retry-After, and commands end with exit code 75.
    claim_timeout: Duration = "claim_timeout", "DURATION", Default::Value("15m"), parse::timeout;

    /// Maximum number of zips that are downloaded at the same time
    fill_max_concurrent: usize = "fill.max_concurrent", "N", Default::Value("16"), parse::count;

    /// Whether a request for the info or go.mod file of a version also downloads its zip
    /// By default the zip is downloaded when a client asks for it.
    fill_eager: bool = "fill.eager", "BOOL", Default::Value("false"), parse::switch;

    /// Maximum size of the cached info and go.mod files of versions whose zip is not stored
    /// Above this size, the least recently used files are removed.
    fill_metadata_max: u64 = "fill.metadata_max", "SIZE", Default::Value("1GiB"), parse::size;

    /// Maximum time that a client waits for the start of its download
    /// After that, the client gets 504 with Retry-After. The download keeps its place in the queue.
    fill_max_wait: Duration = "fill.max_wait", "DURATION", Default::Value("5m"), parse::timeout;

    /// Minimum speed of a download in bytes per second, averaged over one minute; 0 for no minimum
    /// A slower download is aborted only if another download is queued, or if no client waits for the slow download.
    fill_min_rate: u64 = "fill.min_rate", "SIZE", Default::Value("64KiB"), parse::rate;

    /// Pause before the next download of a version whose zip was rejected; doubles with each rejected zip, up to 10 minutes
    /// Requests during the pause get the same error with Retry-After. A restart ends the pause, and so does a change of the version's record.
    fill_wrong_pause: Duration = "fill.wrong_pause", "DURATION", Default::Value("10s"), parse::duration;

    /// Time for which cached lists, @latest and branches are fresh; 0 asks the upstream each time
    /// Older answers, up to ten times that age, are served immediately and refreshed in the background.
    fill_list_ttl: Duration = "fill.list_ttl", "DURATION", Default::Value("1m"), parse::duration;

    /// Time for which a 404 or 410 from an upstream is cached; 0 caches none
    /// The key applies to versions, lists, @latest and queries. If fill.list_ttl is 0, it applies to versions only.
    fill_absent_ttl: Duration = "fill.absent_ttl", "DURATION", Default::Value("5s"), parse::duration;

    /// Whether upstreams at public addresses may redirect to loopback, link-local and private addresses
    /// Upstreams at such addresses may always redirect to them. Behind HTTPS_PROXY, Stoa checks only IP addresses in URLs, not host names.
    fill_allow_private_redirects: bool = "fill.allow_private_redirects", "BOOL", Default::Value("false"),
        parse::switch;

    /// Log of requests: off, stdout, or the absolute path of a file
    /// Each request adds a line at its end. If the file is renamed, Stoa creates a new file within a second of the next request.
    log_access: Option<AccessLogTarget> = "log.access", "TARGET", Default::Value("off"), parse::access_log;

    /// Form of the lines in the log of requests: text or json
    log_access_format: AccessLogFormat = "log.access_format", "FORMAT", Default::Value("text"),
        parse::access_log_format;

    /// Time between two checks of the index (/catalog and /index) against the store; 0 disables the checks
    /// With 0, both paths answer 503 until `stoa-migrate --regenerate` or another server builds the index.
    index_interval: Duration = "index.interval", "DURATION", Default::Value("10m"), parse::duration;

    /// Time between two writes of usage data for `stoa prune`; 0 disables the recording
    last_use_interval: Duration = "last_use.interval", "DURATION", Default::Value("5m"), parse::duration;

    /// Maximum time without data from an upstream
    upstream_idle_timeout: Duration = "upstream_idle_timeout", "DURATION", Default::Value("1m"), parse::timeout;

    /// Maximum number of concurrent go commands for downloads from version control
    direct_max_concurrent: usize = "direct.max_concurrent", "N", Default::Value("4"), parse::threads;

    /// Time limit for one go command that downloads from version control
    direct_timeout: Duration = "direct.timeout", "DURATION", Default::Value("10m"), parse::timeout;

    /// Maximum size of the files that one go command writes for a download from version control
    /// The growth of cloned repositories counts, too. All clones together have the same limit; the least recently used are removed.
    direct_max_size: u64 = "direct.max_size", "SIZE", Default::Value("2GiB"), parse::size;

    /// Address ranges, besides public addresses, that downloads from version control may connect to
    /// The ranges apply to modules that neither GOPRIVATE nor a rule covers. Covered modules may be at any address.
    direct_allow_addresses: Vec<IpNet> = "direct.allow_addresses", "RANGES", Default::Unset("none", "10.1.0.0/16"),
        parse::ranges;

    /// Maximum size of the versions in the store
    /// Above this size, the server removes the least recently used versions, down to 95 percent. Private modules, the modules in store.keep and versions that this server cannot download again stay.
    store_max_size: Option<u64> = "store.max_size", "SIZE", Default::Unset("none", "200G"),
        |text| parse::size(text).map(Some);

    /// Minimum of free space on the disk of the store: a size, or a percentage of the disk
    /// With less, the server removes the least recently used versions until this much and 1 percent of the disk are free.
    store_min_free: Option<Free> = "store.min_free", "SIZE", Default::Unset("none", "10%"),
        |text| parse::free(text).map(Some);

    /// Age in days or weeks since the last use from which on a version is removed
    /// It needs last_use.interval.
    store_unused_for: Option<u32> = "store.unused_for", "AGE", Default::Unset("none", "180d"),
        |text| parse::age(text).map(Some);

    /// Modules that the limits of the store do not remove, as patterns in the syntax of GOPRIVATE
    store_keep: Option<Vec<String>> = "store.keep", "PATTERNS", Default::Unset("none", "example.org/*"),
        |text| parse::patterns(text).map(Some);

    /// Bucket that several servers share: s3://BUCKET/PREFIX, gs://BUCKET/PREFIX or az://CONTAINER/PREFIX
    /// The store of this machine is a cache in front of the bucket. Credentials come from the environment, as for the tools of the service.
    bucket_url: Option<BucketUrl> = "bucket.url", "BUCKET", Default::Unset("none", "s3://go-modules"),
        |text| parse::bucket(text).map(Some);

    /// URL of the object store, if it is not the service's own
    bucket_endpoint: Option<String> = "bucket.endpoint", "URL", Default::Unset("AWS_ENDPOINT_URL, AZURE_STORAGE_ENDPOINT", "https://s3.example.org"),
        |text| parse::http_url(text).map(Some);

    /// Region of the bucket (S3)
    bucket_region: Option<String> = "bucket.region", "REGION", Default::Unset("AWS_REGION, or us-east-1", "eu-west-1"),
        |text| parse::name(text).map(Some);

    /// Whether the name of the bucket is in the path of URLs and not in their host (S3)
    bucket_path_style: Option<bool> = "bucket.path_style", "BOOL", Default::Unset("true", "true"),
        |text| parse::switch(text).map(Some);

    /// Key of the key management service that encrypts new objects (S3)
    bucket_kms_key: Option<String> = "bucket.kms_key", "KEY", Default::Unset("none", "arn:aws:kms:eu-west-1:111122223333:key/example"),
        |text| parse::name(text).map(Some);

    /// Profile in the credentials file (S3)
    bucket_profile: Option<String> = "bucket.profile", "NAME", Default::Unset("AWS_PROFILE", "modules"),
        |text| parse::name(text).map(Some);

    /// Storage account of the container (Azure)
    bucket_account: Option<String> = "bucket.account", "NAME", Default::Unset("AZURE_STORAGE_ACCOUNT_NAME", "modules"),
        |text| parse::name(text).map(Some);

    /// Maximum size of the versions in the store if a bucket is set
    /// Above this size, the least recently used versions that the bucket also has are removed from the store.
    bucket_max_local_size: u64 = "bucket.max_local_size", "SIZE", Default::Value("10GiB"), parse::size;

    /// Whether clients get zips directly from the bucket, by a redirect to a signed URL
    bucket_redirect: bool = "bucket.redirect", "BOOL", Default::Value("false"), parse::switch;

    /// Name of this deployment among its peers, the tables [[peer]]
    /// It has 1 to 64 characters: lower case letters, digits, dots and hyphens. It is required if there is a peer.
    peers_name: Option<String> = "peers.name", "NAME", Default::Unset("none", "paris"),
        |text| parse::peer_name(text).map(Some);

    /// File with the users of this server, in the form of htpasswd
    /// Each line is NAME:HASH. HASH is a password hashed by bcrypt (htpasswd -B), or a token (`stoa token NAME`).
    /// Without the file, every client may read every module.
    auth_users_file: Option<PathBuf> = "auth.users_file", "PATH", Default::Unset("none", "/etc/stoa/users"),
        |text| parse::path(text).map(Some);

    /// Users who may read modules that no table [[access]] covers: anyone, authenticated, or names of users
    /// `authenticated` means every user in the users file.
    auth_default: Option<Vec<String>> = "auth.default", "NAMES",
        Default::Unset("authenticated with auth.users_file, otherwise anyone", "authenticated"),
        |text| parse::list(text).map(Some);

    /// Maximum number of versions that are downloaded from peers at the same time
    /// A peer without a running download may always begin one more, so that a slow peer delays no other peer.
    peers_max_concurrent: usize = "peers.max_concurrent", "N", Default::Value("4"), parse::count;
}
