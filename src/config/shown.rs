//! What of a configuration may stand in a message, which ends up in logs and in front of who knows whom.

/// What a line has that may hold a secret.
const SIGNS: [&str; 6] = ["password", "bearer", "token", "secret", "@", "://"];

/// Is a line of the config file: of one that may hold a secret only the key.
pub(super) fn line(line: &str) -> String {
    let key = line.split_once('=').map(|(key, _)| key.trim());
    let key = key.filter(|key| {
        !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte))
    });
    match key {
        // What begins with no key goes on from a line before, which nobody has looked at.
        None if !line.starts_with('[') || has_signs(line) => "...".to_owned(),
        Some(key) if has_signs(line) => format!("{key} = ..."),
        _ => line.to_owned(),
    }
}

/// Is what is wrong with a line, without the value if that may be a secret.
pub(super) fn why(line: &str, why: &str) -> String {
    let names_value =
        ["invalid type", "invalid value", "unknown variant"].iter().any(|it| why.starts_with(it));
    match why.split_once(", expected ") {
        Some((_, expected)) if names_value && has_signs(line) => format!("it takes {expected}"),
        _ => redacted(why),
    }
}

fn has_signs(line: &str) -> bool {
    SIGNS.iter().any(|sign| line.contains(sign))
}

/// Is a value without what may be secret in a URL, or a list of them: what stands before an `@` or behind a `?`.
pub(super) fn redacted(text: &str) -> String {
    let plain = match text.rsplit_once('@') {
        Some((before, host)) => {
            let begin = before.find("://").and_then(|at| before.get(..at + 3)).unwrap_or_default();
            format!("{begin}..@{host}")
        }
        None => text.to_owned(),
    };
    match plain.split_once("://").and_then(|(scheme, rest)| Some((scheme, rest.split_once('?')?.0))) {
        Some((scheme, rest)) => format!("{scheme}://{rest}?.."),
        None => plain,
    }
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
            ("https://me:hidden@host/x", "https://..@host/x"),
            ("https://a.example,https://me:hid,d|e@n@host", "https://..@host"),
            ("https://host/?token=hidden", "https://host/?.."),
            ("me:hidden@host", "..@host"),
            ("/a?b", "/a?b"),
            (
                "it takes a URL, as in https://proxy.example.org",
                "it takes a URL, as in https://proxy.example.org",
            ),
        ] {
            assert_eq!(redacted(value), shown);
        }
    }
}
