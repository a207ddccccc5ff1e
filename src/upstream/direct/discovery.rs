//! The pages that tell where a module is: go-import meta tags.
//!
//! For modules that are not covered (see [`super::rules`]), the go command does not read these pages itself. The
//! [`super::egress`] gets them, and answers with a page of its own that has only the tags that are allowed: git or a
//! module proxy over https, of a repository that no rule denies. So the go command uses exactly what was checked, even if
//! the server of the page answers differently each time, and a page that is understood differently has no effect.
//!
//! The URL of a module proxy gets the scheme `http`, so that the go command requests its files from the egress.

use super::rules::{DirectRules, NOT_COVERED, Repository};
use reqwest::Url;
use std::net::IpAddr;
use stoa_gomod::go_import::{GoImport, go_imports, preferring_proxies};

/// Maximum number of bytes that are read of a page. The tags are in its head.
pub(super) const MAX_PAGE_BYTES: usize = 1 << 20;

/// The allowed part of a page.
#[derive(Debug)]
pub(super) struct Selected {
    /// The page for the go command.
    pub(super) page: String,
    /// The named repository or module proxy.
    pub(super) repository: Option<Repository>,
    /// The URL of the named module proxy.
    pub(super) proxy: Option<Url>,
}

/// Selects the tags of a page for an import path.
///
/// # Errors
///
/// Returns the reason why a tag is not allowed.
pub(super) fn select(page: &[u8], import_path: &str, rules: &DirectRules) -> Result<Selected, String> {
    let is_for_path = |tag: &GoImport| {
        let rest = import_path.strip_prefix(&tag.prefix);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    let mut tags: Vec<GoImport> = go_imports(page).into_iter().filter(is_for_path).collect();
    if tags.iter().any(|tag| tag.vcs == "git") {
        tags.retain(|tag| !tag.is_proxy() || misuse(tag).is_none());
    }
    let mut tags = preferring_proxies(tags);
    if tags.iter().any(GoImport::is_proxy) {
        tags.retain(GoImport::is_proxy);
    }
    if let Some(fault) = tags.iter().find_map(|tag| fault(tag, rules)) {
        return Err(fault);
    }
    let mut chosen = String::from("<html><head>\n");
    for tag in &tags {
        let GoImport { prefix, vcs, folder, .. } = tag;
        let proxy = proxy(tag);
        // In the form that was checked, which the go command cannot understand differently.
        let root = proxy.as_ref().and_then(|url| url.as_str().strip_prefix("https:"));
        let root = root.map_or_else(|| tag.root.clone(), |rest| format!("http:{rest}"));
        let content = escaped(&format!("{prefix} {vcs} {root} {folder}"));
        chosen.push_str(&format!("<meta name=\"go-import\" content=\"{}\">\n", content.trim_end()));
    }
    chosen.push_str("</head></html>\n");
    let first = tags.first();
    Ok(Selected { page: chosen, repository: first.map(repository), proxy: first.and_then(proxy) })
}

/// Returns the URL of a module proxy.
fn proxy(tag: &GoImport) -> Option<Url> {
    Url::parse(&tag.root).ok().filter(|_| tag.is_proxy())
}

fn repository(tag: &GoImport) -> Repository {
    Repository { url: tag.root.clone(), folder: tag.folder.clone() }
}

/// Returns the reason why a tag is not allowed.
fn fault(tag: &GoImport, rules: &DirectRules) -> Option<String> {
    let denied = repository(tag).module_path(&tag.prefix).filter(|real| rules.deny(real, None));
    if let Some(real) = denied {
        return Some(format!("a rule denies {real}, which its go-import meta tag names"));
    }
    let misused = misuse(tag).or_else(|| {
        let url = proxy(tag)?;
        let host = url.host_str()?.trim_matches(['[', ']']);
        let is_refused = match host.parse::<IpAddr>() {
            Ok(address) => !rules.allow_address(address) || address.to_canonical().is_loopback(),
            Err(_) => matches!(host.trim_end_matches('.'), "localhost"),
        };
        // The go command requests loopback addresses without the egress.
        is_refused.then(|| format!("{host}, which is not a public address"))
    });
    misused.map(|reason| format!("its go-import meta tag names {reason}{NOT_COVERED}"))
}

/// Returns what a tag names that is only for covered modules.
fn misuse(tag: &GoImport) -> Option<String> {
    let GoImport { root, vcs, .. } = tag;
    if vcs != "git" && !tag.is_proxy() {
        return Some(format!("{vcs} instead of git"));
    }
    // Git would read some characters in another way.
    let is_plain = root.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\\');
    let Some(url) = Url::parse(root).ok().filter(|_| is_plain) else {
        return Some("no valid URL".to_owned());
    };
    if url.scheme() != "https" {
        return Some(format!("a URL of {} instead of https", url.scheme()));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Some("a URL with credentials".to_owned());
    }
    (url.query().is_some() || url.fragment().is_some()).then(|| "a URL with a query".to_owned())
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('"', "&quot;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::super::rules::DirectRule;
    use super::*;
    use stoa_gomod::private::Patterns;

    fn select_default(page: &str, path: &str) -> Result<Selected, String> {
        select(page.as_bytes(), path, &DirectRules::default())
    }

    fn page(content: &str) -> String {
        format!("<html><head><meta name='go-import' content='{content}'></head>")
    }

    #[test]
    fn the_tags_for_the_path_are_selected() {
        let page = "<meta name=go-source content='v.example/x u'><meta name='go-import' content='v.example/x git https://h.example/x'>";
        let selected = select_default(page, "v.example/x/y").unwrap();
        assert_eq!(
            selected.page,
            "<html><head>\n<meta name=\"go-import\" content=\"v.example/x git https://h.example/x\">\n</head></html>\n"
        );
        assert_eq!(selected.repository.unwrap().url, "https://h.example/x");
        assert!(selected.proxy.is_none());
    }

    #[test]
    fn a_proxy_is_preferred_and_requested_by_http() {
        let git = "<meta name='go-import' content='v.example/x git https://h.example/x'>";
        for root in ["https://h.example:80/m/", "HTTPS://h.example:80/m/"] {
            let selected =
                select_default(&(git.to_owned() + &page(&format!("v.example/x mod {root}"))), "v.example/x");
            let selected = selected.unwrap();
            assert!(selected.page.contains("mod http://h.example:80/m/\""), "{}", selected.page);
            assert!(!selected.page.contains("git"), "{}", selected.page);
            assert!(!selected.page.contains("HTTP"), "{}", selected.page);
            assert_eq!(selected.proxy.unwrap().as_str(), "https://h.example:80/m/");
            assert_eq!(selected.repository.unwrap().url, root);
        }
        // A proxy that is not allowed is not needed if there is git.
        let selected = select_default(&(page("v.example/x mod http://h.example/m") + git), "v.example/x");
        assert!(selected.unwrap_err().contains("a URL of http"), "the page ends with its head");
        let tags = git.to_owned() + "<meta name='go-import' content='v.example/x mod http://h.example/m'>";
        let selected = select_default(&tags, "v.example/x").unwrap();
        assert!(selected.page.contains("git") && selected.proxy.is_none(), "{}", selected.page);
    }

    #[test]
    fn tags_for_other_paths_are_left_out() {
        for content in
            ["v.example/xy git https://h.example", "v.example/x git", "v.example/x git https://h.example a b"]
        {
            let selected = select_default(&page(content), "v.example/x").unwrap();
            assert!(!selected.page.contains("meta") && selected.repository.is_none(), "{}", selected.page);
        }
        let selected =
            select_default(&page("v.example/x git https://h.example/r a/b"), "v.example/x").unwrap();
        assert!(selected.page.contains("\"v.example/x git https://h.example/r a/b\""), "{}", selected.page);
        assert_eq!(selected.repository.unwrap().folder, "a/b");
    }

    #[test]
    fn only_https_without_credentials_is_allowed() {
        for (content, reason) in [
            ("v.example/x hg https://h.example/x", "names hg"),
            ("v.example/x mod http://h.example/x", "a URL of http"),
            ("v.example/x mod https://u:p@h.example/x", "with credentials"),
            ("v.example/x mod https://127.1/x", "names 127.0.0.1, which is not"),
            ("v.example/x mod https://[::ffff:127.0.0.1]/x", "which is not a public address"),
            ("v.example/x mod https://[fd00::1]/x", "which is not a public address"),
            ("v.example/x mod https://LOCALHOST./x", "which is not a public address"),
            ("v.example/x git http://h.example/x", "a URL of http"),
            ("v.example/x git ssh://git@h.example/x", "a URL of ssh"),
            ("v.example/x git file:///srv/git/x", "a URL of file"),
            ("v.example/x git git@h.example:x", "no valid URL"),
            ("v.example/x git https://a\\@h.example/x", "no valid URL"),
            ("v.example/x git https://u:p@h.example/x", "with credentials"),
            ("v.example/x git https://h.example/x?token=t", "with a query"),
        ] {
            let error = select_default(&page(content), "v.example/x").unwrap_err();
            assert!(error.contains(reason), "{content}: {error}");
            assert!(!error.contains("p@"), "{error}");
        }
    }

    #[test]
    fn a_denied_repository_is_denied_by_any_name() {
        let deny = vec!["*".parse().unwrap()];
        let rules = DirectRules {
            rules: vec![DirectRule::new(Patterns::parse("h.example/evil/*"), false, Vec::new(), deny)],
            ..DirectRules::default()
        };
        for root in
            ["https://h.example/evil/x", "https://H.example/Evil//x.git", "https://h.example/a/../%65vil/x/"]
        {
            for vcs in ["git", "mod"] {
                let page = page(&format!("v.example/x {vcs} {root}"));
                let error = select(page.as_bytes(), "v.example/x", &rules).unwrap_err();
                assert!(error.contains("a rule denies h.example/"), "{error}");
            }
        }
        let good = page("v.example/x git https://h.example/good/x");
        assert!(select(good.as_bytes(), "v.example/x", &rules).is_ok());
    }

    #[test]
    fn characters_of_html_are_escaped() {
        let page = page("v.example/x git https://h.example/a&amp;b");
        let chosen = select_default(&page, "v.example/x").unwrap().page;
        assert!(chosen.contains("https://h.example/a&amp;b\""), "{chosen}");
        assert_eq!(escaped("\"<&>"), "&quot;&lt;&amp;&gt;");
    }
}
