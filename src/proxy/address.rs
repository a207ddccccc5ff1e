//! The addresses that the proxy answers, recognised in one place.

use hyper::Method;
use stoa_gomod::route::{self, Route};
use stoa_gomod::{Misspelling, ModulePath};

use crate::request::Kind;

/// An address of the proxy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Address {
    /// The start page.
    Home,
    /// `/healthz`: the process answers.
    Health,
    /// `/readyz`: the store can be read.
    Readiness,
    /// `/version`: the program and the layout of its store.
    Version,
    /// `/metrics`: the counters and states of the server, for Prometheus.
    Metrics,
    /// `/catalog`: the stored versions, ordered by module.
    Catalog,
    /// `/index`: the stored versions, ordered by time.
    Index,
    /// A file, list or query of a module, or a part of a checksum database. Never [`Route::NotFound`] or
    /// [`Route::MethodNotAllowed`].
    Module(Route),
    /// A checksum database that is not forwarded, or an address that no checksum database has.
    UnknownDatabase,
    /// A path of the protocol with a mistake.
    Misspelled(Misspelling),
    /// An address that no module can have, and that may be a page of another configuration or version of this program.
    NoPage,
    /// Any other address.
    Unknown,
    /// Any address, with another method than GET and HEAD.
    MethodNotAllowed,
}

impl Address {
    /// Recognises the address of a request.
    ///
    /// `base_path` is empty or begins with a slash and ends without. The pages about the proxy itself are answered
    /// without the base path too, since a probe need not know it.
    pub(super) fn recognise(method: &Method, path: &str, base_path: &str, sumdbs: &[String]) -> Self {
        if method != Method::GET && method != Method::HEAD {
            return Self::MethodNotAllowed;
        }
        let below = path.strip_prefix(base_path);
        if let Some(page) = page_of(path, base_path) {
            return page;
        }
        match route::classify(method.as_str(), path, base_path, sumdbs) {
            Route::NotFound if below.is_some_and(|below| below.starts_with("/sumdb/")) => {
                Self::UnknownDatabase
            }
            Route::NotFound => match below.and_then(Misspelling::find) {
                Some(misspelling) => Self::Misspelled(misspelling),
                None if below.is_some_and(|below| !names_a_host(below)) => Self::NoPage,
                None => Self::Unknown,
            },
            Route::MethodNotAllowed => Self::MethodNotAllowed,
            route => Self::Module(route),
        }
    }
}

impl Address {
    /// Returns the kind of a request to this address.
    pub(super) fn kind(&self) -> Kind {
        match self {
            Self::Home => Kind::Page,
            Self::Health | Self::Readiness | Self::Version => Kind::Health,
            Self::Metrics => Kind::Metrics,
            Self::Catalog => Kind::Catalog,
            Self::Index => Kind::Index,
            Self::Module(route) => match route {
                Route::Info(_) => Kind::Info,
                Route::Mod(_) => Kind::Mod,
                Route::Zip(_) => Kind::Zip,
                Route::List(_) => Kind::List,
                Route::Latest(_) => Kind::Latest,
                Route::Query(..) => Kind::Query,
                _ => Kind::Sumdb,
            },
            Self::UnknownDatabase => Kind::Sumdb,
            Self::Misspelled(_) | Self::NoPage | Self::Unknown | Self::MethodNotAllowed => Kind::Other,
        }
    }

    /// Returns the module that a request is about.
    pub(super) fn module(&self) -> Option<&ModulePath> {
        match self {
            Self::Module(route) => match route {
                Route::Info(version) | Route::Mod(version) | Route::Zip(version) => Some(version.path()),
                Route::List(module) | Route::Latest(module) | Route::Query(module, _) => Some(module),
                Route::SumdbLookup { module, .. } => Some(module.path()),
                _ => None,
            },
            _ => None,
        }
    }
}

/// Returns whether the first element of a path can be the host of a module: it has a dot.
fn names_a_host(path: &str) -> bool {
    path.trim_start_matches('/').split('/').next().is_some_and(|first| first.contains('.'))
}

/// Returns the page of a path, which is answered below the base path and without it.
pub(super) fn page_of(path: &str, base_path: &str) -> Option<Address> {
    page(path).or_else(|| page(path.strip_prefix(base_path)?))
}

fn page(path: &str) -> Option<Address> {
    Some(match path {
        "" | "/" => Address::Home,
        "/healthz" => Address::Health,
        "/readyz" => Address::Readiness,
        "/version" => Address::Version,
        "/metrics" => Address::Metrics,
        "/catalog" => Address::Catalog,
        "/index" => Address::Index,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recognise(path: &str, base_path: &str) -> Address {
        Address::recognise(&Method::GET, path, base_path, &["sum.example".to_owned()])
    }

    #[test]
    fn pages_are_answered_below_the_base_path_and_without_it() {
        for (path, base_path, address) in [
            ("/", "", Address::Home),
            ("/", "/go", Address::Home),
            ("/go", "/go", Address::Home),
            ("/go/", "/go", Address::Home),
            ("/healthz", "/go", Address::Health),
            ("/go/readyz", "/go", Address::Readiness),
            ("/go/version", "/go", Address::Version),
            ("/metrics", "/go", Address::Metrics),
            ("/catalog", "", Address::Catalog),
            ("/index", "/go", Address::Index),
            ("/go/index", "/go", Address::Index),
            ("/go/catalog", "", Address::NoPage),
            ("/catalog/", "", Address::NoPage),
            ("/catalogue", "", Address::NoPage),
            ("/-/a.b/x", "", Address::NoPage),
            ("/go/metrics", "/go", Address::Metrics),
            ("/example.com/m", "", Address::Unknown),
            ("/gohealthz", "/go", Address::NoPage),
        ] {
            assert_eq!(recognise(path, base_path), address, "{path} {base_path}");
        }
    }

    #[test]
    fn modules_and_databases_are_answered_below_the_base_path_only() {
        let is_module = |path, base| matches!(recognise(path, base), Address::Module(_));
        assert!(is_module("/example.com/m/@v/list", ""));
        assert!(is_module("/go/example.com/m/@latest", "/go"));
        assert!(is_module("/sumdb/sum.example/supported", ""));
        assert_eq!(recognise("/example.com/m/@v/list", "/go"), Address::Unknown);
        assert_eq!(recognise("/go/catalog/@v/list", "/go"), Address::NoPage);
        assert_eq!(recognise("/sumdb/other.example/supported", ""), Address::UnknownDatabase);
        assert_eq!(recognise("/sumdb/sum.example/nothing", ""), Address::UnknownDatabase);
        assert_eq!(recognise("/sumdb/sum.example/supported", "/go"), Address::Unknown);
    }

    #[test]
    fn other_methods_are_refused_at_every_address() {
        for path in ["/", "/healthz", "/example.com/m/@v/list", "/nothing"] {
            let address = Address::recognise(&Method::POST, path, "", &[]);
            assert_eq!(address, Address::MethodNotAllowed, "{path}");
        }
    }
}
