//! The pages that tell where a module is: go-import meta tags.
//!
//! For modules that are not covered (see [`super::rules`]), the go command does not read these pages itself. The
//! [`super::egress`] gets them, and answers with a page of its own that has only the tags that are allowed: git
//! over https, of a repository that no rule denies. So the go command uses exactly what was checked, even if the
//! server of the page answers differently each time, and a page that is understood differently has no effect.

use super::rules::{DirectRules, NOT_COVERED, Repository};
use reqwest::Url;
use std::borrow::Cow;

/// Maximum number of bytes that are read of a page. The tags are in its head.
pub(super) const MAX_PAGE_BYTES: usize = 1 << 20;

/// A go-import meta tag.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Tag {
    prefix: String,
    vcs: String,
    root: String,
    folder: String,
}

impl Tag {
    fn repository(&self) -> Repository {
        Repository { url: self.root.clone(), folder: self.folder.clone() }
    }

    /// Returns the reason why a tag is not allowed.
    fn fault(&self, rules: &DirectRules) -> Option<String> {
        let denied = self.repository().module_path(&self.prefix).filter(|real| rules.deny(real, None));
        if let Some(real) = denied {
            return Some(format!("a rule denies {real}, which its go-import meta tag names"));
        }
        self.misuse().map(|reason| format!("its go-import meta tag names {reason}{NOT_COVERED}"))
    }

    /// Returns what a tag names that is only for covered modules.
    fn misuse(&self) -> Option<String> {
        let Self { root, vcs, .. } = self;
        if vcs != "git" {
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
}

/// Selects the tags of a page for an import path. Returns the page for the go command, and the named repository.
///
/// # Errors
///
/// Returns the reason why a tag is not allowed.
pub(super) fn select(
    page: &str,
    import_path: &str,
    rules: &DirectRules,
) -> Result<(String, Option<Repository>), String> {
    let is_for_path = |tag: &Tag| {
        let rest = import_path.strip_prefix(&tag.prefix);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    let mut tags: Vec<Tag> = tags(page).into_iter().filter(is_for_path).collect();
    // The go command prefers a module proxy, which serves whatever it likes. It does without if there is git, too.
    if tags.iter().any(|tag| tag.vcs == "git") {
        tags.retain(|tag| tag.vcs != "mod");
    }
    if let Some(fault) = tags.iter().find_map(|tag| tag.fault(rules)) {
        return Err(fault);
    }
    let mut chosen = String::from("<html><head>\n");
    for Tag { prefix, vcs, root, folder } in &tags {
        let content = escaped(&format!("{prefix} {vcs} {root} {folder}"));
        chosen.push_str(&format!("<meta name=\"go-import\" content=\"{}\">\n", content.trim_end()));
    }
    chosen.push_str("</head></html>\n");
    Ok((chosen, tags.first().map(Tag::repository)))
}

/// Returns the tags in the head of a page.
fn tags(page: &str) -> Vec<Tag> {
    let mut found = Vec::new();
    let mut rest = page;
    while let Some(at) = rest.find('<') {
        rest = &rest[at + 1..];
        if let Some(comment) = rest.strip_prefix("!--") {
            rest = comment.split_once("-->").map_or("", |(_, after)| after);
            continue;
        }
        let name = rest.split(|c: char| !c.is_ascii_alphanumeric() && c != '/').next().unwrap_or_default();
        match name.to_ascii_lowercase().as_str() {
            "body" | "/head" => break,
            "meta" | "meta/" => {
                let (attributes, after) = attributes(&rest[name.len()..]);
                rest = after;
                found.extend(tag(&attributes));
            }
            _ => {}
        }
    }
    found
}

fn tag(attributes: &[(String, String)]) -> Option<Tag> {
    let value =
        |name: &str| attributes.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str());
    if value("name") != Some("go-import") {
        return None;
    }
    let fields: Vec<&str> = value("content")?.split_whitespace().collect();
    let (&[prefix, vcs, root], folder) = fields.split_first_chunk::<3>()?;
    let folder = match folder {
        [] => "",
        [folder] => folder,
        _ => return None,
    };
    let [prefix, vcs, root, folder] = [prefix, vcs, root, folder].map(str::to_owned);
    Some(Tag { prefix, vcs, root, folder })
}

/// Reads attributes up to the end of their tag. Names are in lower case. Also returns the rest of the page.
fn attributes(text: &str) -> (Vec<(String, String)>, &str) {
    let mut found = Vec::new();
    let mut rest = text;
    loop {
        rest = rest.trim_start_matches(|c: char| c.is_whitespace() || c == '/');
        if rest.is_empty() {
            return (found, rest);
        }
        if let Some(after) = rest.strip_prefix('>') {
            return (found, after);
        }
        let end =
            rest.find(|c: char| c.is_whitespace() || matches!(c, '=' | '>' | '/')).unwrap_or(rest.len());
        let (name, after) = rest.split_at(end);
        let after_name = after.trim_start();
        let Some(value) = after_name.strip_prefix('=') else {
            // An attribute without a value. A quote alone must not stop the progress.
            rest = if end == 0 { &rest[rest.chars().next().map_or(0, char::len_utf8)..] } else { after };
            continue;
        };
        let value = value.trim_start();
        let quote = value.chars().next().filter(|c| matches!(c, '"' | '\''));
        let (value, after) = match quote {
            Some(quote) => value[1..].split_once(quote).unwrap_or((&value[1..], "")),
            None => {
                value.split_at(value.find(|c: char| c.is_whitespace() || c == '>').unwrap_or(value.len()))
            }
        };
        found.push((name.to_ascii_lowercase(), unescaped(value).into_owned()));
        rest = after;
    }
}

/// The entities that occur in URLs.
const ENTITIES: [(&str, &str); 6] =
    [("&quot;", "\""), ("&#34;", "\""), ("&#39;", "'"), ("&lt;", "<"), ("&gt;", ">"), ("&amp;", "&")];

fn unescaped(text: &str) -> Cow<'_, str> {
    if !text.contains('&') {
        return Cow::Borrowed(text);
    }
    Cow::Owned(ENTITIES.iter().fold(text.to_owned(), |text, (entity, plain)| text.replace(entity, plain)))
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('"', "&quot;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::super::rules::DirectRule;
    use super::*;
    use stoa_gomod::private::Patterns;

    fn select_default(page: &str, path: &str) -> Result<(String, Option<Repository>), String> {
        select(page, path, &DirectRules::default())
    }

    fn page(content: &str) -> String {
        format!("<html><head><meta name='go-import' content='{content}'></head>")
    }

    #[test]
    fn tags_are_found_in_real_pages() {
        let pages = [
            r#"<!DOCTYPE html><html><head><meta charset="utf-8"/><meta name="go-import" content="v.example/x git https://h.example/x"><meta name="go-source" content="v.example/x https://h.example/x _ _"></head>"#,
            "<META CONTENT='v.example/x\n git  https://h.example/x' NAME=\"go-import\" />",
            "<!-- <meta name=go-import content='v.example/x git https://other.example'> --><meta name = go-import content = \"v.example/x git https://h.example/x\">",
            "<title>a > b</title><meta content=\"v.example/x git https://h.example/x\" defer name=go-import><body><meta name=\"go-import\" content=\"v.example/x hg https://h.example/x\">",
        ];
        for page in pages {
            let (chosen, repository) = select_default(page, "v.example/x/y").unwrap();
            assert_eq!(
                chosen,
                "<html><head>\n<meta name=\"go-import\" content=\"v.example/x git https://h.example/x\">\n</head></html>\n",
                "{page}"
            );
            assert_eq!(repository.unwrap().url, "https://h.example/x");
        }
    }

    #[test]
    fn tags_for_other_paths_are_left_out() {
        for content in
            ["v.example/xy git https://h.example", "v.example/x git", "v.example/x git https://h.example a b"]
        {
            let (chosen, repository) = select_default(&page(content), "v.example/x").unwrap();
            assert!(!chosen.contains("meta") && repository.is_none(), "{chosen}");
        }
        let (chosen, repository) =
            select_default(&page("v.example/x git https://h.example/r a/b"), "v.example/x").unwrap();
        assert!(chosen.contains("\"v.example/x git https://h.example/r a/b\""), "{chosen}");
        assert_eq!(repository.unwrap().folder, "a/b");
    }

    #[test]
    fn only_git_over_https_without_credentials_is_allowed() {
        for (content, reason) in [
            ("v.example/x hg https://h.example/x", "names hg"),
            ("v.example/x mod https://h.example/x", "names mod"),
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
        let both = page("v.example/x mod https://h.example/m") + &page("");
        let both = both
            .replace("</head>", "<meta name=go-import content='v.example/x git https://h.example/x'></head>");
        let (chosen, _) = select_default(&both, "v.example/x").unwrap();
        assert!(chosen.contains("git https://h.example/x") && !chosen.contains("mod"), "{chosen}");
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
            let error = select(&page(&format!("v.example/x git {root}")), "v.example/x", &rules).unwrap_err();
            assert!(error.contains("a rule denies h.example/"), "{error}");
        }
        assert!(select(&page("v.example/x git https://h.example/good/x"), "v.example/x", &rules).is_ok());
    }

    #[test]
    fn characters_of_html_are_escaped() {
        let (chosen, _) =
            select_default(&page("v.example/x git https://h.example/a&amp;b"), "v.example/x").unwrap();
        assert!(chosen.contains("https://h.example/a&amp;b\""), "{chosen}");
        assert_eq!(escaped("\"<&>"), "&quot;&lt;&amp;&gt;");
    }

    #[test]
    fn malformed_pages_end() {
        for page in [
            "<meta",
            "<meta name",
            "<meta \"",
            "<meta name='",
            "<meta =",
            "<!--",
            "<",
            "<meta name=go-import content",
        ] {
            assert!(select_default(page, "v.example/x").unwrap().1.is_none(), "{page}");
        }
    }
}
