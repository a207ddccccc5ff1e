//! The peers of a deployment, `[[peer]]` in the config file, and their secrets.

#[cfg(test)]
mod tests;

use std::fs::File as FsFile;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use reqwest::Url;
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use stoa_gomod::private::Patterns;
use stoa_layout::PathError;

use super::file::File;
use super::table::Table;
use super::{ConfigError, ServeConfig, Settings, parse};
use crate::sync::{Peer, Secret};

/// The number of bytes that a secret may have.
const SECRET_BYTES: std::ops::RangeInclusive<usize> = 32..=1024;

/// Maximum size of a file with a secret or with certificates.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// One of the tables `[[peer]]`. The secret and the certificates are not read yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerTable {
    name: String,
    url: Url,
    secret_file: PathBuf,
    ca_file: Option<PathBuf>,
    pull: bool,
    push: bool,
    offer: Patterns,
    accept: Patterns,
    accept_tombstones: bool,
    interval: Duration,
    bandwidth: Option<u64>,
    lines: Lines,
}

/// Lines of the config file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Lines {
    table: usize,
    name: usize,
    secret_file: usize,
    ca_file: usize,
}

impl PeerTable {
    /// The keys of a table.
    pub(super) const KEYS: [&str; 11] = [
        "name",
        "url",
        "secret_file",
        "ca_file",
        "pull",
        "push",
        "offer",
        "accept",
        "accept_tombstones",
        "interval",
        "bandwidth",
    ];

    /// Returns the name of the peer.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns its base URL.
    pub fn url(&self) -> &str {
        self.url.as_str()
    }

    /// Returns whether this deployment asks it for events.
    pub fn pull(&self) -> bool {
        self.pull
    }

    /// Reads a table. The faults stay in the table.
    pub(super) fn read(table: &mut Table<'_>) -> Option<Self> {
        // Every key is read before the first missing value ends this function, so that every fault is found.
        let name = table.required("name", parse::peer_name);
        let url = table.required("url", |text| parse::http_url(text).map(|_| text.to_owned()));
        let secret_file = table.required("secret_file", parse::path);
        let ca_file = table.text("ca_file", parse::path);
        let (pull, push) = (table.switch("pull"), table.switch("push"));
        let offer = table.line_of_key("offer").map(|_| patterns(table, "offer"));
        if offer.is_none() {
            table.incomplete(
                "the key offer is missing: the modules that the peer may have\nhelp: add offer = [] to offer nothing",
            );
        }
        let accept = table.line_of_key("accept").map(|_| patterns(table, "accept"));
        let accept_tombstones = table.switch("accept_tombstones");
        let interval = table.scalar("interval", parse::duration);
        let bandwidth = table.scalar("bandwidth", parse::rate);
        let line_of = |key| table.line_of_key(key).unwrap_or(table.line);
        let lines = Lines {
            table: table.line,
            name: line_of("name"),
            secret_file: line_of("secret_file"),
            ca_file: line_of("ca_file"),
        };
        let url = url.and_then(|text| Url::parse(&text).ok());
        if let (Some(url), Some(_)) = (&url, &ca_file)
            && url.scheme() != "https"
        {
            table.faults.push((lines.ca_file, "ca_file needs a url that begins with https".to_owned()));
        }
        Some(Self {
            name: name?,
            url: url?,
            secret_file: secret_file?,
            ca_file,
            pull: pull.unwrap_or(true),
            push: push.unwrap_or(true),
            offer: offer?,
            accept: accept.unwrap_or_else(|| Patterns::parse("*")),
            accept_tombstones: accept_tombstones.unwrap_or(false),
            interval: interval.unwrap_or(Duration::from_secs(60)),
            bandwidth: bandwidth.filter(|bytes| *bytes > 0),
            lines,
        })
    }

    /// Reads the secret and the certificates.
    fn resolve(&self, file: &File) -> Result<Peer, ConfigError> {
        let in_folder = |path: &Path| file.folder().join(path);
        let secret = read_secret(&in_folder(&self.secret_file));
        let secret = secret.map_err(|reason| file.wrong(self.lines.secret_file, &reason))?;
        let ca = self.ca_file.as_deref().map(|path| read_certificates(&in_folder(path))).transpose();
        let ca = ca.map_err(|reason| file.wrong(self.lines.ca_file, &reason))?;
        Ok(Peer {
            name: self.name.clone(),
            url: self.url.clone(),
            secret,
            ca,
            pull: self.pull,
            push: self.push,
            offer: self.offer.clone(),
            accept: self.accept.clone(),
            accept_tombstones: self.accept_tombstones,
            interval: self.interval,
            bandwidth: self.bandwidth,
        })
    }
}

impl Settings<'_> {
    /// Returns the peers, without their secrets.
    pub fn peer_tables(&self) -> Result<&[PeerTable], ConfigError> {
        Ok(&self.file()?.peers)
    }

    /// Returns the peers of a server, with their secrets.
    pub fn peers(&self, config: &ServeConfig) -> Result<Vec<Arc<Peer>>, ConfigError> {
        let (peers, faults) = resolve(self.file()?, config.peers_name.as_deref());
        faults.into_iter().next().map_or(Ok(peers), Err)
    }

    /// Returns everything that is wrong with the peers, if the tables themselves are right. `own` is the name of this
    /// deployment.
    pub(super) fn faults_of_peers(file: &File, own: Option<&str>) -> Vec<ConfigError> {
        resolve(file, own).1
    }
}

/// Resolves all tables, and compares them with each other.
fn resolve(file: &File, own: Option<&str>) -> (Vec<Arc<Peer>>, Vec<ConfigError>) {
    let (mut peers, mut faults) = (Vec::<Arc<Peer>>::new(), Vec::new());
    if let (Some(first), None) = (file.peers.first(), own) {
        let reason = "peers.name is missing: the name of this deployment among its peers\nhelp: set it in the table [peers], \
                      in STOA_PEERS_NAME or with --peers-name";
        faults.push(file.wrong(first.lines.table, reason));
    }
    let mut names: Vec<&str> = Vec::new();
    for table in &file.peers {
        let name = table.name.as_str();
        if own == Some(name) {
            faults.push(file.wrong(table.lines.name, "this deployment itself has that name (peers.name)"));
        }
        if names.contains(&name) {
            faults.push(file.wrong(table.lines.name, "another peer has the same name"));
        }
        names.push(name);
        match table.resolve(file) {
            Err(fault) => faults.push(fault),
            Ok(peer) => {
                if let Some(other) = peers.iter().find(|other| other.secret == peer.secret) {
                    let reason = format!(
                        "the peer {} has the same secret, so each of the two could sign for the other\nhelp: make a secret for \
                         each pair of deployments",
                        other.name
                    );
                    faults.push(file.wrong(table.lines.secret_file, &reason));
                }
                peers.push(Arc::new(peer));
            }
        }
    }
    (peers, faults)
}

/// Reads a list of patterns, each a text of its own.
fn patterns(table: &mut Table<'_>, key: &str) -> Patterns {
    let all = table.strings(key, |text| match text.contains(',') {
        true => Err("expected one pattern in each text of the list".to_owned()),
        false => parse::some_patterns(text).map(|patterns| patterns.to_string()),
    });
    Patterns::parse(&all.join(","))
}

/// Reads a secret. The error is the reason.
fn read_secret(path: &Path) -> Result<Secret, String> {
    let mut open = FsFile::open(path).map_err(|error| PathError::new("read", path, error).to_string())?;
    let meta = open.metadata().map_err(|error| PathError::new("read", path, error).to_string())?;
    let shown = path.display();
    if meta.permissions().mode() & 0o077 != 0 {
        return Err(format!("other users may read the secret {shown}\nhelp: chmod 600 {shown}"));
    }
    let bytes = read_limited(path, &mut open)?;
    let secret = bytes.trim_ascii();
    match SECRET_BYTES.contains(&secret.len()) {
        true => Ok(Secret::new(secret)),
        false => Err(format!(
            "the secret in {shown} has {} bytes, expected {} to {}\nhelp: make one with openssl rand -hex 32",
            secret.len(),
            SECRET_BYTES.start(),
            SECRET_BYTES.end()
        )),
    }
}

/// Reads root certificates in the form PEM. The error is the reason.
fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let mut open = FsFile::open(path).map_err(|error| PathError::new("read", path, error).to_string())?;
    let bytes = read_limited(path, &mut open)?;
    let shown = path.display();
    let all = CertificateDer::pem_slice_iter(&bytes).collect::<Result<Vec<_>, _>>();
    let all = all.map_err(|error| format!("cannot read the certificates in {shown}: {error}"))?;
    if all.is_empty() {
        return Err(format!("{shown} has no certificate in the form PEM (-----BEGIN CERTIFICATE-----)"));
    }
    let mut roots = RootCertStore::empty();
    for certificate in &all {
        let added = roots.add(certificate.clone());
        added.map_err(|error| format!("cannot use a certificate in {shown} as a root: {error}"))?;
    }
    Ok(all)
}

fn read_limited(path: &Path, file: &mut FsFile) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let read = file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes);
    read.map_err(|error| PathError::new("read", path, error).to_string())?;
    match bytes.len() as u64 > MAX_FILE_BYTES {
        true => Err(format!("{} exceeds the limit of {MAX_FILE_BYTES} bytes", path.display())),
        false => Ok(bytes),
    }
}
