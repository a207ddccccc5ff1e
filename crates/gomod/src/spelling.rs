//! Frequent mistakes in the paths of the protocol, and the right spelling.
//!
//! People and scripts write paths by hand. The go command never makes these mistakes.

use crate::escape;
use crate::route::{self, Route};
use percent_encoding::percent_decode_str;
use std::fmt;

/// A mistaken path of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Misspelling {
    mistakes: Vec<Mistake>,
    corrected: String,
}

/// A mistake in a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mistake {
    EmptyElement,
    NoV,
    Capitals,
}

impl Misspelling {
    /// Finds the mistakes in a path below the base path, which begins with a slash. Returns `None` if the path without
    /// these mistakes is not of the protocol either.
    pub fn find(path: &str) -> Option<Self> {
        let plain = percent_decode_str(path).decode_utf8().ok()?;
        let mut mistakes = Vec::new();
        let mut note = |mistake, text: String, corrected: String| {
            if text != corrected {
                mistakes.push(mistake);
            }
            corrected
        };
        let elements: Vec<&str> = plain.split('/').filter(|element| !element.is_empty()).collect();
        let joined = format!("/{}", elements.join("/"));
        let text = note(Mistake::EmptyElement, plain.into_owned(), joined);
        let corrected = with_v(&text).unwrap_or_else(|| text.clone());
        let text = note(Mistake::NoV, text, corrected);
        let corrected = escape::encode(&text);
        let corrected = note(Mistake::Capitals, text, corrected);
        let is_request = !matches!(
            route::classify("GET", &corrected, "/", &[] as &[&str]),
            Route::NotFound | Route::MethodNotAllowed
        );
        // Such characters would have to be encoded again.
        let is_plain = corrected.bytes().all(|byte| byte.is_ascii_graphic() && !b"%?#".contains(&byte));
        (is_request && is_plain && !mistakes.is_empty()).then_some(Self { mistakes, corrected })
    }

    /// Returns the right path, below the base path.
    pub fn corrected(&self) -> &str {
        &self.corrected
    }
}

/// Describes the mistakes.
impl fmt::Display for Misspelling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, mistake) in self.mistakes.iter().enumerate() {
            f.write_str(if n == 0 { "" } else { ", and " })?;
            f.write_str(match mistake {
                Mistake::EmptyElement => "the path has an empty element (//)",
                Mistake::NoV => "the path has no element @v or @latest after the module path",
                Mistake::Capitals => {
                    "the path has a capital letter, which must be written as ! and the lower-case letter"
                }
            })?;
        }
        Ok(())
    }
}

/// Inserts the element `@v` into a path without it: `/MODULE/list`, `/MODULE/VERSION.info` or `/MODULE@VERSION`.
fn with_v(path: &str) -> Option<String> {
    if path.contains("/@") {
        return None;
    }
    if let Some((module, version)) = path.split_once('@') {
        return match version {
            "latest" => Some(format!("{module}/@latest")),
            _ if is_file(version) => Some(format!("{module}/@v/{version}")),
            _ => Some(format!("{module}/@v/{version}.info")),
        };
    }
    match path.rsplit_once('/')? {
        (module, "latest") => Some(format!("{module}/@latest")),
        (module, name) if name == "list" || is_file(name) => Some(format!("{module}/@v/{name}")),
        _ => None,
    }
}

fn is_file(name: &str) -> bool {
    name.rsplit_once('.').is_some_and(|(_, extension)| matches!(extension, "info" | "mod" | "zip"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mistakes_are_named_and_corrected() {
        for (path, corrected, mistakes) in [
            ("/a.b/Cap/@v/list", "/a.b/!cap/@v/list", vec![Mistake::Capitals]),
            ("/a.b/%43ap/@latest", "/a.b/!cap/@latest", vec![Mistake::Capitals]),
            ("/a.b/c/@v/v1.0.0-RC1.mod", "/a.b/c/@v/v1.0.0-!r!c1.mod", vec![Mistake::Capitals]),
            ("//a.b/c//@v/list", "/a.b/c/@v/list", vec![Mistake::EmptyElement]),
            ("/a.b/c/@latest/", "/a.b/c/@latest", vec![Mistake::EmptyElement]),
            ("/a.b/c/v1.0.0.zip", "/a.b/c/@v/v1.0.0.zip", vec![Mistake::NoV]),
            ("/a.b/c/list", "/a.b/c/@v/list", vec![Mistake::NoV]),
            ("/a.b/c/latest", "/a.b/c/@latest", vec![Mistake::NoV]),
            ("/a.b/c@latest", "/a.b/c/@latest", vec![Mistake::NoV]),
            ("/a.b/c@v1.0.0", "/a.b/c/@v/v1.0.0.info", vec![Mistake::NoV]),
            (
                "/a.b//Cap/v1.0.0.info",
                "/a.b/!cap/@v/v1.0.0.info",
                vec![Mistake::EmptyElement, Mistake::NoV, Mistake::Capitals],
            ),
        ] {
            let found = Misspelling::find(path).unwrap();
            assert_eq!((found.corrected(), &found.mistakes), (corrected, &mistakes), "{path}");
        }
    }

    #[test]
    fn other_paths_have_no_spelling() {
        for path in [
            "/a.b/c/@v/list",
            "/a.b/c/@v/v1.0.0.ziphash",
            "/favicon.ico",
            "/Index.html",
            "/a.b/../c/@v/list",
            "/A.b/@v/v1.0.0.tar",
            "/a.b/Cap/@v/a%20b.info",
            "/a.b/Cap/@v/%ff.info",
            "/sumdb/A/latest",
            "",
            "/",
        ] {
            assert_eq!(Misspelling::find(path), None, "{path}");
        }
    }
}
