//! Infos with everything that JSON and its readers may do with their keys, values, times and strings.

use super::{Random, VERSION};

/// Generates an info, with the name of its fault if it has one.
pub(super) fn generate(random: &mut Random) -> (String, Vec<u8>) {
    let mut fields = vec![field(b"Version", &quoted(VERSION.as_bytes()))];
    let mut name = String::new();
    for _ in 0..random.below(5) {
        let next = odd_field(random);
        // The fields of this proxy, which no reader may refuse.
        fields.push(next);
        name = "odd field".to_owned();
    }
    if random.once_in(2) {
        fields.push(field(b"Time", b"\"2021-05-06T07:08:09Z\""));
    }
    if random.once_in(3) {
        fields.push(field(b"Origin", br#"{"VCS":"git","URL":"https://example.com/m","Hash":"0123"}"#));
    }
    for at in (1..fields.len()).rev() {
        fields.swap(at, random.below(at + 1));
    }
    let space = |random: &mut Random| random.pick(&[b"".as_slice(), b"", b"", b" ", b"\n\t\r"]);
    let mut body = [space(random), b"{"].concat();
    for (at, field) in fields.iter().enumerate() {
        body.extend([if at == 0 { b"".as_slice() } else { b"," }, space(random), field].concat());
    }
    body.extend([space(random), b"}", space(random)].concat());
    if random.once_in(8) {
        name = "damage".to_owned();
        damage(random, &mut body);
    }
    (name, body)
}

/// Infos around the limit of the depth, in all places.
pub(super) fn nested() -> Vec<(String, Vec<u8>)> {
    let mut infos = Vec::new();
    for depth in [127, 128, 129, 9_998, 9_999, 10_000, 10_001, 20_000] {
        for (open, close) in [("[", "]"), (r#"{"a":"#, "}")] {
            let value = format!("{}1{}", open.repeat(depth), close.repeat(depth));
            for body in [
                format!(r#"{{"Version":"{VERSION}","x":{value}}}"#),
                format!(r#"{{"x":{value},"Version":"{VERSION}"}}"#),
                format!(r#"{{"Version":"{VERSION}","Origin":{{"x":{value}}}}}"#),
                format!(r#"{{"Version":"{VERSION}","x":"\"{}"}}"#, value.replace('"', "")),
                value.clone(),
            ] {
                infos.push((format!("depth {depth}"), body.into_bytes()));
            }
        }
    }
    infos
}

fn quoted(text: &[u8]) -> Vec<u8> {
    [b"\"", text, b"\""].concat()
}

fn field(key: &[u8], value: &[u8]) -> Vec<u8> {
    [&quoted(key), b":".as_slice(), value].concat()
}

fn odd_field(random: &mut Random) -> Vec<u8> {
    let key = key(random, &["Version", "Time", "Origin", "Name", "Short", "Other"]);
    let value = match random.below(5) {
        0 => time(random),
        1 => origin(random),
        2 => quoted(VERSION.as_bytes()),
        _ => value(random, 3),
    };
    field(&key, &value)
}

/// Returns one of the keys, written in some way that may fold to it.
fn key(random: &mut Random, of: &[&str]) -> Vec<u8> {
    let key = random.pick(of);
    match random.below(8) {
        0 => key.to_lowercase().into_bytes(),
        1 => key.to_uppercase().into_bytes(),
        2 => key.replace(['s', 'S'], "\u{17f}").into_bytes(),
        3 => key.replace(['s', 'S'], "\\u017F").replace('k', "\u{212a}").into_bytes(),
        4 => key.chars().map(|c| format!("\\u{:04x}", u32::from(c))).collect::<String>().into_bytes(),
        5 => [key.as_bytes(), random.pick(&[b"\xff".as_slice(), b"\\ud800", b" ", b"\\u0000", b""])].concat(),
        _ => key.as_bytes().to_vec(),
    }
}

fn origin(random: &mut Random) -> Vec<u8> {
    let names = ["VCS", "URL", "Subdir", "Hash", "Hash", "TagPrefix", "TagSum", "Ref", "RepoSum", "Other"];
    let fields: Vec<_> = (0..random.below(4))
        .map(|_| {
            let value = match random.below(4) {
                0 => value(random, 2),
                1 => b"null".to_vec(),
                _ => quoted(random.pick(&[b"abc".as_slice(), b"", b"\\u0061", b"x y", b"\\/"])),
            };
            field(&key(random, &names), &value)
        })
        .collect();
    [b"{".as_slice(), &fields.join(b",".as_slice()), b"}"].concat()
}

fn time(random: &mut Random) -> Vec<u8> {
    let (mut text, zones) = (
        format!(
            "{}-{}-{}T{}:{}:{}",
            random.pick(&["2021", "0000", "0001", "9999", "1969", "10000", "21"]),
            random.pick(&["05", "02", "12", "00", "13", "5"]),
            random.pick(&["06", "28", "29", "30", "31", "00", "32", "6"]),
            random.pick(&["07", "23", "24", "00", "7"]),
            random.pick(&["08", "59", "60"]),
            random.pick(&["09", "59", "60", "61"]),
        ),
        [
            "Z", "Z", "z", "+02:00", "-23:59", "+24:00", "+01:60", "+0200", "", " Z", "\\u005a", "+00:00",
            "-00:00",
        ],
    );
    text += random.pick(&["", "", ".5", ".123456789", ".1234567891234", ".", ",5", ".000", ".x"]);
    text += random.pick(&zones);
    if random.once_in(10) {
        text = text.replace('T', random.pick(&["t", " ", "\\u0054"]));
    }
    quoted(text.as_bytes())
}

fn value(random: &mut Random, depth: usize) -> Vec<u8> {
    match random.below(if depth == 0 { 6 } else { 8 }) {
        0 => random.pick(&[b"null".as_slice(), b"true", b"false", b"nul", b"True", b"NaN"]).to_vec(),
        1 => random
            .pick(&[
                b"0".as_slice(),
                b"-1",
                b"1e400",
                b"1.5E-7",
                b"01",
                b"-",
                b"1.",
                b".5",
                b"+1",
                b"-0",
                b"1e",
            ])
            .to_vec(),
        2..=4 => quoted(random.pick(&[
            b"".as_slice(),
            b"text",
            b"\\ud83d\\ude00",
            b"\\ud800",
            b"\\udc00\\ud800",
            b"\\uZZZZ",
            b"\\x",
            b"\xff\xfe",
            b"\xed\xa0\x80",
            b"\xc3\xa9",
            b"tab\tin it",
            b"\x7f",
            b"\x00",
            b"\\u0000\\b\\f\\n\\r\\t\\\"\\\\\\/",
            b"\\u00",
        ])),
        5 => {
            random.pick(&[b"{}".as_slice(), b"[]", b"{,}", b"[1,]", b"{\"a\"}", b"{1:2}", b"[1 2]"]).to_vec()
        }
        6 => {
            let values: Vec<_> = (0..random.below(3)).map(|_| value(random, depth - 1)).collect();
            [b"[".as_slice(), &values.join(b",".as_slice()), b"]"].concat()
        }
        _ => [b"{".as_slice(), &field(b"Version", &value(random, depth - 1)), b"}"].concat(),
    }
}

fn damage(random: &mut Random, body: &mut Vec<u8>) {
    let at = random.below(body.len());
    match random.below(6) {
        0 => body.truncate(at),
        1 => body[at] ^= 1 << random.below(8),
        2 => drop(body.remove(at)),
        3 => body.insert(at, random.pick(b"\"{}[],:\\ \x00\xff1")),
        4 => body.extend(random.pick(&[b"x".as_slice(), b"{}", b",", b"\x00", b"null"])),
        _ => body.splice(0..0, b"\xef\xbb\xbf".iter().copied()).for_each(drop),
    }
}
