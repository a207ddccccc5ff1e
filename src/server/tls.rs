//! TLS: the certificate of the server, and what it offers to clients.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::{Error as PemError, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

/// A certificate cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// One of the files cannot be read.
    #[error("cannot read {path}: {source}\nhelp: {help}", path = path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: PemError,
        /// The next thing to do.
        help: &'static str,
    },
    /// The key and the certificate do not belong together, or one of them is of a kind that is not supported.
    #[error(
        "cannot use the certificate {cert} with the key {key}: {source}\n\
         help: name the certificate of the server first in its file, and the key that belongs to it",
        cert = cert.display(), key = key.display()
    )]
    Pair {
        /// The file of the certificate.
        cert: PathBuf,
        /// The file of the key.
        key: PathBuf,
        /// The reason.
        source: rustls::Error,
    },
}

/// A certificate and its key, proven to belong together.
#[derive(Debug, Clone)]
pub struct Certificate(Arc<CertifiedKey>);

impl Certificate {
    /// Reads a certificate and its key, both in PEM.
    pub fn read(cert: &Path, key: &Path) -> Result<Self, TlsError> {
        let chain = CertificateDer::pem_file_iter(cert).and_then(Iterator::collect::<Result<Vec<_>, _>>);
        let chain =
            chain.and_then(|chain| if chain.is_empty() { Err(PemError::NoItemsFound) } else { Ok(chain) });
        let chain = chain.map_err(|source| TlsError::File {
            path: cert.to_owned(),
            source,
            help: "set tls.cert to a file of certificates in PEM",
        })?;
        let private = PrivateKeyDer::from_pem_file(key).map_err(|source| TlsError::File {
            path: key.to_owned(),
            source,
            help: "set tls.key to a file with a private key in PEM",
        })?;
        let pair = CertifiedKey::from_der(chain, private, &provider());
        let pair =
            pair.map_err(|source| TlsError::Pair { cert: cert.to_owned(), key: key.to_owned(), source })?;
        Ok(Self(Arc::new(pair)))
    }
}

/// The certificate that the next connection gets.
#[derive(Debug)]
pub struct CertificateCell(ArcSwap<CertifiedKey>);

impl CertificateCell {
    /// Begins with a certificate.
    pub fn new(certificate: Certificate) -> Arc<Self> {
        Arc::new(Self(ArcSwap::new(certificate.0)))
    }

    /// Replaces the certificate, for connections from now on.
    pub fn replace(&self, certificate: Certificate) {
        self.0.store(certificate.0);
    }

    /// Returns the settings of TLS: the versions 1.2 and 1.3, HTTP/2 and HTTP/1.1, no certificates of clients.
    pub(super) fn settings(self: &Arc<Self>) -> Result<Arc<ServerConfig>, rustls::Error> {
        let settings = ServerConfig::builder_with_provider(Arc::new(provider()))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth();
        let mut settings = settings.with_cert_resolver(Arc::clone(self) as Arc<dyn ResolvesServerCert>);
        settings.alpn_protocols = vec![HTTP2.to_vec(), b"http/1.1".to_vec()];
        Ok(Arc::new(settings))
    }
}

impl ResolvesServerCert for CertificateCell {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.load_full())
    }
}

/// The name of HTTP/2 in TLS.
pub(super) const HTTP2: &[u8] = b"h2";

fn provider() -> CryptoProvider {
    rustls::crypto::ring::default_provider()
}
