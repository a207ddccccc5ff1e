//! A size on the command line or in the configuration.

/// A number of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Size {
    pub(crate) bytes: u64,
    pub(crate) has_unit: bool,
}

/// Parses a size: `500M`, `1.5GiB`, `20GB`, `4096`.
pub(crate) fn parse(text: &str) -> Result<Size, String> {
    let wrong =
        || format!("{text:?} is not a size; sizes are numbers with a unit, as in 500M, 1.5GiB or 20GB");
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let unit = unit.trim_start();
    let factor = factor(unit).ok_or_else(wrong)?;
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if fraction.contains('.') || fraction.len() > 9 {
        return Err(wrong());
    }
    let whole: u128 = whole.parse().map_err(|_| wrong())?;
    // In integers, so that nothing is rounded twice.
    let scale = 10u128.pow(u32::try_from(fraction.len()).unwrap_or_default());
    let parts: u128 = if fraction.is_empty() { 0 } else { fraction.parse().map_err(|_| wrong())? };
    let bytes = whole.checked_mul(factor).and_then(|bytes| bytes.checked_add(parts * factor / scale));
    let bytes = bytes.and_then(|bytes| u64::try_from(bytes).ok()).ok_or_else(wrong)?;
    Ok(Size { bytes, has_unit: !unit.is_empty() })
}

fn factor(unit: &str) -> Option<u128> {
    let unit = unit.to_ascii_lowercase();
    if unit.is_empty() || unit == "b" {
        return Some(1);
    }
    let (power, rest) = [(1, 'k'), (2, 'm'), (3, 'g'), (4, 't')]
        .into_iter()
        .find_map(|(power, letter)| Some((power, unit.strip_prefix(letter)?)))?;
    let base: u128 = match rest {
        "" | "ib" => 1024,
        "b" => 1000,
        _ => return None,
    };
    Some(base.pow(power))
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn sizes_are_parsed() {
        for (text, bytes) in [
            ("0", 0),
            ("4096", 4096),
            ("1k", 1024),
            ("500M", 500 << 20),
            ("1.5GiB", 3 << 29),
            ("20GB", 20_000_000_000),
            ("2 TiB", 2 << 40),
            ("7b", 7),
            ("0.5kb", 500),
        ] {
            let size = parse(text).unwrap();
            assert_eq!(size.bytes, bytes, "{text}");
            assert_eq!(size.has_unit, text != "0" && text != "4096", "{text}");
        }
        for text in ["", "G", "1.2.3M", "-1", "1X", "1MiBs", "1e9", ".5G", "99999999999T", "1.M.", "äG", "1é"]
        {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
