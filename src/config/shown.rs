//! The parts of a configuration that may appear in messages and logs: no secrets.

/// Signs that a line may contain a secret.
const SIGNS: [&str; 6] = ["password", "bearer", "token", "secret", "@", "://"];

/// Returns a line of the config file. If the line may contain a secret, only its key is returned.
pub(super) fn line(line: &str) -> String {
    let key = line.split_once('=').map(|(key, _)| key.trim());
    let key = key.filter(|key| {
        !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte))
    });
    match key {
        // A line without a key continues an earlier line, which is not checked here.
        None if !line.starts_with('[') || has_signs(line) => "...".to_owned(),
        Some(key) if has_signs(line) => format!("{key} = ..."),
        _ => line.to_owned(),
    }
}

/// Returns the key of a line, without its value.
pub(super) fn key(line: &str) -> String {
    line.split_once('=').map_or_else(|| "...".to_owned(), |(key, _)| format!("{} = ...", key.trim()))
}

fn has_signs(line: &str) -> bool {
    SIGNS.iter().any(|sign| line.contains(sign))
}

/// Returns a text with the secrets of its URLs replaced by `***`: everything before an `@`, and everything behind a `?`.
pub fn masked(text: &str) -> String {
    let mut parts = text.split("://");
    let first = parts.next().unwrap_or_default();
    let parts: Vec<&str> = parts.collect();
    // Without a scheme there may still be credentials.
    let mut shown = if parts.is_empty() { without_credentials(first) } else { first.to_owned() };
    for part in parts {
        let part = without_credentials(part);
        shown.push_str("://");
        match part.split_once('?') {
            None => shown.push_str(&part),
            Some((before, query)) => {
                let rest = query.find([',', '|', ' ']).map_or("", |at| &query[at..]);
                shown.push_str(&format!("{before}?***{rest}"));
            }
        }
    }
    shown
}

fn without_credentials(text: &str) -> String {
    text.rsplit_once('@').map_or_else(|| text.to_owned(), |(_, host)| format!("***@{host}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_shown_without_its_secrets() {
        for (written, shown) in [
            ("listen = 5", "listen = 5"),
            ("upstream = \"https://me:hidden@host", "upstream = ..."),
            ("direct.password = 'hidden'", "direct.password = ..."),
            ("'https://me:hidden@host/?a=b',", "..."),
            ("hidden", "..."),
            ("\"hidden\" = 5", "..."),
            ("[[module]]", "[[module]]"),
            ("['https://me:hidden@host']", "..."),
        ] {
            assert_eq!(line(written), shown);
        }
    }

    #[test]
    fn a_value_is_shown_without_its_secrets() {
        for (value, shown) in [
            ("https://me:hidden@host/x", "https://***@host/x"),
            ("https://a.example,https://me:hid,d|e@n@host", "https://a.example,https://***@host"),
            ("https://host/?token=hidden,direct", "https://host/?***,direct"),
            ("me:hidden@host", "***@host"),
            ("/a?b", "/a?b"),
            (
                "expected a URL such as https://proxy.example.org",
                "expected a URL such as https://proxy.example.org",
            ),
        ] {
            assert_eq!(masked(value), shown);
        }
    }
}
