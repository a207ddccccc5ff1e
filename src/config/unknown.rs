//! Environment variables that look like keys and are none.

use super::variable_of;

/// Variables of the programs that are not keys.
const OTHERS: [&str; 3] = ["STOA_CONFIG", "STOA_LOG", "STOA_SWEEP_ALL"];

/// An environment variable that has no effect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnknownVariable {
    /// Its name.
    pub name: String,
    /// The variable with the most similar name, if there is a similar one.
    pub nearest: Option<String>,
}

/// Returns the variables whose names start with `STOA_`, and that are neither a key nor known otherwise.
///
/// Variables that Kubernetes sets for a service called `stoa` are skipped, and those for services called `stoa-…`.
pub fn unknown_variables<'k>(
    names: impl IntoIterator<Item = String>,
    keys: impl IntoIterator<Item = &'k str>,
) -> Vec<UnknownVariable> {
    let known: Vec<String> =
        keys.into_iter().map(variable_of).chain(OTHERS.iter().map(|name| (*name).to_owned())).collect();
    let is_unknown =
        |name: &String| name.starts_with("STOA_") && !known.contains(name) && !is_of_kubernetes(name);
    let mut unknown: Vec<String> = names.into_iter().filter(is_unknown).collect();
    unknown.sort();
    unknown
        .into_iter()
        .map(|name| UnknownVariable { nearest: nearest(&name, &known).map(str::to_owned), name })
        .collect()
}

/// Returns whether Kubernetes sets a variable of this name for a service. No key may have such a name.
pub fn is_of_kubernetes(name: &str) -> bool {
    let name = name.strip_prefix("STOA").unwrap_or(name);
    let is_port = name.ends_with("_PORT")
        || name.split("_PORT_").skip(1).any(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
    is_port || name.ends_with("_SERVICE_HOST") || name.contains("_SERVICE_PORT_")
}

/// Returns the name with the fewest differences, unless it differs in more than a third.
pub fn nearest<'n>(name: &str, names: &'n [String]) -> Option<&'n str> {
    let plain = |name: &str| name.trim_start_matches("STOA_").to_owned();
    let own = plain(name);
    let best = names.iter().min_by_key(|known| distance(&own, &plain(known)))?;
    (distance(&own, &plain(best)) * 3 <= own.len().max(3)).then_some(best.as_str())
}

/// Returns the number of characters to insert, remove or replace.
fn distance(from: &str, to: &str) -> usize {
    let mut row: Vec<usize> = (0..=to.chars().count()).collect();
    for (i, a) in from.chars().enumerate() {
        let mut next = vec![i + 1];
        for ((b, above), diagonal) in to.chars().zip(row.iter().skip(1)).zip(&row) {
            let left = next.last().copied().unwrap_or_default();
            next.push((diagonal + usize::from(a != b)).min(above + 1).min(left + 1));
        }
        row = next;
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEYS: [&str; 4] = ["listen", "upstream", "fill.max_concurrent", "grace"];

    fn unknown(name: &str) -> Option<UnknownVariable> {
        unknown_variables([name.to_owned()], KEYS).pop()
    }

    #[test]
    fn an_unknown_variable_is_reported_with_the_nearest_name() {
        for (name, nearest) in [
            ("STOA_LISTE", Some("STOA_LISTEN")),
            ("STOA_UPSTREAMS", Some("STOA_UPSTREAM")),
            ("STOA_FILL_MAXCONCURRENT", Some("STOA_FILL_MAX_CONCURRENT")),
            ("STOA_CONFG", Some("STOA_CONFIG")),
            ("STOA_SOMETHING_ELSE", None),
        ] {
            let expected = UnknownVariable { name: name.to_owned(), nearest: nearest.map(str::to_owned) };
            assert_eq!(unknown(name), Some(expected));
        }
        for name in ["STOA_LISTEN", "STOA_FILL_MAX_CONCURRENT", "STOA_CONFIG", "STOA_LOG", "PATH", "STOA"] {
            assert_eq!(unknown(name), None, "{name}");
        }
    }

    #[test]
    fn variables_that_kubernetes_sets_are_skipped() {
        for name in [
            "STOA_SERVICE_HOST",
            "STOA_SERVICE_PORT",
            "STOA_SERVICE_PORT_HTTP",
            "STOA_PORT",
            "STOA_PORT_3000_TCP",
            "STOA_PORT_3000_TCP_PROTO",
            "STOA_PORT_3000_TCP_PORT",
            "STOA_PORT_3000_TCP_ADDR",
            "STOA_PROXY_SERVICE_HOST",
            "STOA_PROXY_PORT_80_TCP",
        ] {
            assert!(is_of_kubernetes(name) && unknown(name).is_none(), "{name}");
        }
        assert!(unknown("STOA_PORTAL").is_some() && unknown("STOA_SERVICE").is_some());
    }
}
