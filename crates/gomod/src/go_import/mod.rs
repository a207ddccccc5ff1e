//! The go-import meta tags of a page, which tell where a module is.
//!
//! The go command reads pages with a lenient XML parser, which ends at the first fault. The tags before the fault
//! count, and the tags after it do not. This module reads the same tags.

mod markup;

use markup::{Markup, Token};

/// A go-import meta tag.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GoImport {
    /// The path of which the module path is equal, or begins with it and a slash.
    pub prefix: String,
    /// The version control system, or `mod` for a module proxy.
    pub vcs: String,
    /// The URL of the repository or of the proxy.
    pub root: String,
    /// The folder in the repository. Empty for its root.
    pub folder: String,
}

impl GoImport {
    /// Returns whether the tag names a module proxy.
    pub fn is_proxy(&self) -> bool {
        self.vcs == "mod"
    }

    fn of(content: &str) -> Option<Self> {
        let fields: Vec<&str> = content.split_whitespace().collect();
        let (prefix, vcs, root, folder) = match *fields.as_slice() {
            [prefix, vcs, root] => (prefix, vcs, root, ""),
            [prefix, vcs, root, folder] => (prefix, vcs, root, folder),
            _ => return None,
        };
        let [prefix, vcs, root, folder] = [prefix, vcs, root, folder].map(str::to_owned);
        Some(Self { prefix, vcs, root, folder })
    }
}

/// Returns the tags of a page, up to the end of its head.
pub fn go_imports(page: &[u8]) -> Vec<GoImport> {
    let mut found = Vec::new();
    let mut markup = Markup::new(page);
    while let Some(token) = markup.token() {
        match token {
            Token::Start(name, _) if name.eq_ignore_ascii_case("body") => break,
            Token::End(name) if name.eq_ignore_ascii_case("head") => break,
            Token::Start(name, attributes) if name.eq_ignore_ascii_case("meta") => {
                let value = |name: &str| {
                    let mut attributes = attributes.iter();
                    let found = attributes.find(|(known, _)| known.eq_ignore_ascii_case(name));
                    found.map_or("", |(_, value)| value)
                };
                if value("name") == "go-import" {
                    found.extend(GoImport::of(value("content")));
                }
            }
            _ => {}
        }
    }
    found
}

/// Returns the tags in the order in which the go command considers them: those of proxies first, and no other tags with
/// the prefixes of these.
pub fn preferring_proxies(tags: Vec<GoImport>) -> Vec<GoImport> {
    let (mut all, others): (Vec<_>, Vec<_>) = tags.into_iter().partition(GoImport::is_proxy);
    let proxies = all.len();
    for tag in others {
        if !all.iter().take(proxies).any(|proxy| proxy.prefix == tag.prefix) {
            all.push(tag);
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Returns the tags in the form `PREFIX VCS ROOT FOLDER`.
    fn read(page: &[u8]) -> Vec<String> {
        let text =
            |tag: GoImport| [tag.prefix, tag.vcs, tag.root, tag.folder].join(" ").trim_end().to_owned();
        go_imports(page).into_iter().map(text).collect()
    }

    /// The results are those of the go command.
    #[test]
    fn pages_are_read_as_by_go() {
        const TAG: &str = "<meta name=\"go-import\" content=\"a.b/c git https://d.e/f\">";
        let none: &[&str] = &[];
        let one: &[&str] = &["a.b/c git https://d.e/f"];
        for (page, tags) in [
            ("", none),
            ("TAG", one),
            ("<!DOCTYPE html><html><head><meta charset=\"utf-8\"/>TAG", one),
            // Names.
            ("<META CONTENT='a.b/c\n git\thttps://d.e/f' NAME=\"go-import\" />", one),
            ("<x:meta y:name='go-import' z:content='a.b/c git https://d.e/f'>", one),
            ("<x:y:meta name='go-import' content='a.b/c git https://d.e/f'>", none),
            ("<:meta name='go-import' content='a.b/c git https://d.e/f'>", none),
            ("<metal name='go-import' content='a.b/c git https://d.e/f'>", none),
            ("<meta name='Go-Import' content='a.b/c git https://d.e/f'>", none),
            ("<1>TAG", none),
            ("<é>TAG", one),
            ("< meta>TAG", none),
            // Attributes.
            ("<meta name=go-import content='a.b/c git https://d.e/f'>", one),
            ("<meta defer name = go-import content = 'a.b/c git https://d.e/f'>", one),
            ("<meta name=go-import content=a.b/c>TAG", none),
            ("<meta name= content='x'>TAG", none),
            ("<meta name= >TAG", one),
            ("<meta name='other' name='go-import' content='a.b/c git https://d.e/f'>", none),
            ("<meta name='go-import'content='a.b/c git https://d.e/f'>", one),
            ("<meta \"x\">TAG", none),
            ("<meta x='<'>TAG", none),
            ("<meta / >TAG", none),
            ("<meta name='go-import' content='a.b/c git https://d.e/f'", none),
            ("<p title='>'>TAG", one),
            // References.
            ("<meta name='go&#45;import' content='a.b/c&#x20;git https://d.e/f'>", one),
            (
                "<meta name='go-import' content='a.b/c git https://d.e/?a&amp;b&lt;&quot;&apos;&gt;'>",
                &["a.b/c git https://d.e/?a&b<\"'>"],
            ),
            (
                "<meta name='go-import' content='a.b/c git https://d.e/?a&amp;lt;&b&c;&nbsp;&#;&#xg;&#55296;'>",
                &["a.b/c git https://d.e/?a&lt;&b&c;&nbsp;&#;&#xg;\u{fffd}"],
            ),
            ("<p title='&#0;'>TAG", none),
            ("a & b &amp; c &copy; d TAG", one),
            // Text.
            ("a < b TAG", none),
            ("<script>if (a<b) {}</script>TAG", none),
            ("<script>if (a < b) {}</script>TAG", none),
            ("<script>a[b[0]]>1</script>TAG", none),
            ("<p title=']]>'>TAG", one),
            ("<![CDATA[<body>]] TAG ]]>TAG", one),
            ("<![CDATA[TAG", none),
            ("<![cdata[]]>TAG", none),
            ("\u{8}TAG", none),
            ("\u{b}TAG", none),
            // Comments, directives and instructions.
            ("<!-- TAG -->", none),
            ("<!-- TAG -->TAG", one),
            ("<!-- a -- b -->TAG", none),
            ("<!-->-->TAG", one),
            ("<!--->TAG", none),
            ("<!- x>TAG", none),
            ("<!x '>' \"<\" <y> <!-- > --> >TAG", one),
            ("<!x <y>TAG", none),
            ("<!>>TAG", one),
            ("<?x TAG ?>TAG", one),
            ("<?x TAG >", none),
            ("<? x ?>TAG", none),
            ("<?xml version=\"1.0\" encoding='UTF-8'?>TAG", one),
            ("<?xml version='1.1'?>TAG", none),
            ("<?xml encoding='latin1'?>TAG", none),
            ("<?xml encoding='ASCII'?>TAG", one),
            ("<?xml encoding=latin1 ?>TAG", one),
            // The end of the head.
            ("<head>TAG</head>TAG", one),
            ("TAG</HEAD >TAG", one),
            ("TAG</head x>TAG", one),
            ("<head/>TAG", none),
            ("</body>TAG", one),
            ("<BODY x=y>TAG", none),
            ("<body/>TAG", none),
            ("</x y>TAG", none),
            // The number of fields.
            ("<meta name='go-import' content='a.b/c git'>", none),
            (
                "<meta name='go-import' content='a.b/c git https://d.e/f g/h'>",
                &["a.b/c git https://d.e/f g/h"],
            ),
            ("<meta name='go-import' content='a.b/c git https://d.e/f g h'>TAG", one),
            ("<meta name='go-import' content='a.b/c\u{a0}git\u{2003}https://d.e/f'>", one),
            ("TAGTAG", &["a.b/c git https://d.e/f", "a.b/c git https://d.e/f"]),
            ("TAG<x", one),
        ] {
            assert_eq!(read(page.replace("TAG", TAG).as_bytes()), tags, "{page}");
        }
        assert_eq!(read(&[b"\xff".as_slice(), TAG.as_bytes()].concat()), none, "invalid UTF-8");
        assert_eq!(read(&[b"<!-- \xff -->".as_slice(), TAG.as_bytes()].concat()), one);
    }

    #[test]
    fn a_proxy_is_preferred_to_a_repository_with_the_same_prefix() {
        let tags = |all: &[&str]| all.iter().filter_map(|one| GoImport::of(one)).collect::<Vec<_>>();
        let all = tags(&["a.b/c git u", "a.b/d git u", "a.b/c mod v", "a.b/c mod w"]);
        assert_eq!(preferring_proxies(all), tags(&["a.b/c mod v", "a.b/c mod w", "a.b/d git u"]));
    }

    proptest! {
        #[test]
        fn no_input_panics(page in proptest::collection::vec(any::<u8>(), 0..80), text in "[<>!?/=&#;:'\"\\-\\[\\]a-c ]{0,60}") {
            let _ = (go_imports(&page), go_imports(text.as_bytes()));
        }
    }
}
