//! TLS: rustls with ring, and the certificates.
//!
//! The certificates are those of the system (or `SSL_CERT_FILE` and `SSL_CERT_DIR`, if set), or those of the configuration.

use super::error::UpstreamConfigError;
use rustls::pki_types::CertificateDer;
use std::sync::Arc;

/// The root certificates that are accepted.
#[derive(Clone, Copy)]
pub(super) enum Roots<'a> {
    /// Those of the system. The URL is that of an upstream that needs them.
    OfSystem(Option<&'a str>),
    /// Only these.
    Only(&'a [CertificateDer<'static>]),
}

/// Returns the TLS configuration.
pub(super) fn config(roots: Roots<'_>) -> Result<rustls::ClientConfig, UpstreamConfigError> {
    let roots = match roots {
        Roots::OfSystem(needs_roots) => roots_of_system(needs_roots)?,
        Roots::Only(certificates) => {
            let mut roots = rustls::RootCertStore::empty();
            // The configuration has accepted each of them.
            roots.add_parsable_certificates(certificates.iter().cloned());
            roots
        }
    };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| UpstreamConfigError::Client(error.to_string()))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    // reqwest does not set ALPN in a preconfigured TLS config.
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

/// Returns the certificates of the system; `needs_roots` is a URL that needs them.
fn roots_of_system(needs_roots: Option<&str>) -> Result<rustls::RootCertStore, UpstreamConfigError> {
    let loaded = rustls_native_certs::load_native_certs();
    let mut roots = rustls::RootCertStore::empty();
    // Some system certificates are not accepted by rustls. They are skipped.
    let (accepted, _) = roots.add_parsable_certificates(loaded.certs);
    let errors = loaded.errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
    match needs_roots {
        Some(url) if accepted == 0 => {
            return Err(UpstreamConfigError::NoRoots { url: url.to_owned(), reason: errors });
        }
        Some(_) if !errors.is_empty() => log::warn!(reason = errors; "cannot read some root certificates"),
        _ => {}
    }
    Ok(roots)
}
