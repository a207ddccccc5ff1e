//! The tokens of a page, as the XML parser of Go reads them if it is not strict (`encoding/xml`, `Decoder.RawToken`).
//!
//! A token that this parser does not accept ends the page. The only difference is in names with other letters than those of
//! ASCII: here they may contain all letters and digits of Unicode.

use std::str;

/// A token, as far as it matters for tags.
#[derive(Debug)]
pub(super) enum Token {
    /// The start of an element: its name and its attributes.
    Start(String, Vec<(String, String)>),
    /// The end of an element.
    End(String),
    /// Text, a comment, a directive or an instruction.
    Other,
}

/// The end of a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum TextEnd {
    /// A `<`.
    Markup,
    Quote(u8),
    /// A `]]>`.
    Cdata,
}

/// A page that is read.
#[derive(Debug)]
pub(super) struct Markup<'a> {
    page: &'a [u8],
    at: usize,
    /// The element that ends where it starts, and whose end is the next token.
    ending: Option<String>,
}

impl<'a> Markup<'a> {
    pub(super) fn new(page: &'a [u8]) -> Self {
        Self { page, at: 0, ending: None }
    }

    /// Returns the next token. `None` at the end of the page, and at a fault.
    pub(super) fn token(&mut self) -> Option<Token> {
        if let Some(name) = self.ending.take() {
            return Some(Token::End(name));
        }
        if self.peek()? != b'<' {
            self.text(TextEnd::Markup)?;
            return Some(Token::Other);
        }
        self.at += 1;
        match self.peek()? {
            b'/' => {
                self.at += 1;
                let name = self.local_name()?;
                self.skip_space();
                self.expect(b'>')?;
                return Some(Token::End(name));
            }
            b'?' => {
                self.at += 1;
                self.instruction()?;
            }
            b'!' => {
                self.at += 1;
                match self.next()? {
                    b'-' => self.comment()?,
                    b'[' => {
                        b"CDATA[".iter().try_for_each(|byte| self.expect(*byte))?;
                        self.text(TextEnd::Cdata)?;
                    }
                    _ => self.directive()?,
                }
            }
            _ => return self.element(),
        }
        Some(Token::Other)
    }

    fn element(&mut self) -> Option<Token> {
        let (name, mut attributes) = (self.local_name()?, Vec::new());
        loop {
            self.skip_space();
            match self.peek()? {
                b'/' => {
                    self.at += 1;
                    self.expect(b'>')?;
                    self.ending = Some(name.clone());
                    break;
                }
                b'>' => {
                    self.at += 1;
                    break;
                }
                _ => {
                    let attribute = self.local_name()?;
                    self.skip_space();
                    let value = match self.peek()? {
                        b'=' => {
                            self.at += 1;
                            self.skip_space();
                            self.value()?
                        }
                        _ => attribute.clone(),
                    };
                    attributes.push((attribute, value));
                }
            }
        }
        Some(Token::Start(name, attributes))
    }

    fn value(&mut self) -> Option<String> {
        if let quote @ (b'"' | b'\'') = self.peek()? {
            self.at += 1;
            return self.text(TextEnd::Quote(quote));
        }
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b':' | b'-');
        let value = self.take_while(is_plain)?;
        Some(String::from_utf8_lossy(value).into_owned())
    }

    /// Reads a text up to its end.
    fn text(&mut self, end: TextEnd) -> Option<String> {
        let mut text = Vec::new();
        let mut last = [0; 2];
        loop {
            let byte = self.next()?;
            match byte {
                b'>' if last == *b"]]" && end == TextEnd::Cdata => break,
                b'>' if last == *b"]]" && end == TextEnd::Markup => return None,
                b'<' if end == TextEnd::Markup => {
                    self.at -= 1;
                    break;
                }
                b'<' if end != TextEnd::Cdata => return None,
                _ if end == TextEnd::Quote(byte) => break,
                b'&' if end != TextEnd::Cdata => {
                    self.reference(&mut text)?;
                    last = [0; 2];
                    continue;
                }
                b'\r' => text.push(b'\n'),
                b'\n' if last[1] == b'\r' => {}
                _ => text.push(byte),
            }
            last = [last[1], byte];
        }
        String::from_utf8(text).ok().filter(|text| text.chars().all(is_allowed))
    }

    /// Reads the rest of a character reference. One that is unknown or malformed stands for itself.
    fn reference(&mut self, text: &mut Vec<u8>) -> Option<()> {
        let begin = self.at;
        let is_number = self.peek()? == b'#';
        let referenced = if is_number {
            self.at += 1;
            let is_hexadecimal = self.peek()? == b'x';
            self.at += usize::from(is_hexadecimal);
            let digits = match is_hexadecimal {
                true => self.take_while(|byte| byte.is_ascii_hexdigit())?,
                false => self.take_while(|byte| byte.is_ascii_digit())?,
            };
            let radix = if is_hexadecimal { 16 } else { 10 };
            let number =
                str::from_utf8(digits).ok().and_then(|digits| u64::from_str_radix(digits, radix).ok());
            let number = number.filter(|number| *number <= u64::from(u32::from(char::MAX)));
            number.map(|number| {
                u32::try_from(number).ok().and_then(char::from_u32).unwrap_or(char::REPLACEMENT_CHARACTER)
            })
        } else {
            match self.take_while(is_in_name)? {
                b"lt" => Some('<'),
                b"gt" => Some('>'),
                b"amp" => Some('&'),
                b"apos" => Some('\''),
                b"quot" => Some('"'),
                _ => None,
            }
        };
        let is_terminated = self.peek()? == b';';
        self.at += usize::from(is_terminated);
        match referenced.filter(|_| is_terminated) {
            Some(referenced) => text.extend(referenced.encode_utf8(&mut [0; 4]).as_bytes()),
            None => {
                text.push(b'&');
                text.extend(self.page.get(begin..self.at)?);
            }
        }
        Some(())
    }

    /// Reads the rest of `<?NAME … ?>`.
    fn instruction(&mut self) -> Option<()> {
        let target = self.name()?;
        self.skip_space();
        let rest = self.page.get(self.at..)?;
        let length = rest.windows(2).position(|pair| pair == b"?>")?;
        let content = rest.get(..length)?;
        self.at += length + 2;
        if target != "xml" {
            return Some(());
        }
        let version = parameter(content, b"version=");
        let encoding = parameter(content, b"encoding=");
        let is_readable = |name: &[u8]| {
            name.is_empty() || name.eq_ignore_ascii_case(b"utf-8") || name.eq_ignore_ascii_case(b"ascii")
        };
        ((version.is_empty() || version == b"1.0") && is_readable(encoding)).then_some(())
    }

    /// Reads the rest of `<!-- … -->`, behind the first `-`.
    fn comment(&mut self) -> Option<()> {
        self.expect(b'-')?;
        self.skip_past(b"--")?;
        self.expect(b'>')
    }

    /// Reads the rest of `<!NAME … >`. Angle brackets within count unless they are quoted or in a comment.
    fn directive(&mut self) -> Option<()> {
        let (mut quote, mut depth) = (None, 0_usize);
        loop {
            let byte = self.next()?;
            match byte {
                _ if quote == Some(byte) => quote = None,
                _ if quote.is_some() => {}
                b'"' | b'\'' => quote = Some(byte),
                b'>' if depth == 0 => return Some(()),
                b'>' => depth -= 1,
                b'<' => {
                    let rest = self.page.get(self.at..)?;
                    let equal = rest.iter().zip(b"!--").take_while(|(one, other)| one == other).count();
                    self.at += equal;
                    match equal {
                        3 => self.skip_past(b"-->")?,
                        _ => depth += 1,
                    }
                }
                _ => {}
            }
        }
    }

    /// Reads a name. Returns the part behind its namespace.
    fn local_name(&mut self) -> Option<String> {
        let name = self.name()?;
        match name.split_once(':') {
            Some((_, local)) if local.contains(':') => None,
            Some((space, local)) if !space.is_empty() && !local.is_empty() => Some(local.to_owned()),
            _ => Some(name.to_owned()),
        }
    }

    fn name(&mut self) -> Option<&'a str> {
        let name = str::from_utf8(self.take_while(is_in_name)?).ok()?;
        let is_first = |c: char| c.is_alphabetic() || matches!(c, '_' | ':');
        let is_other = |c: char| c.is_alphanumeric() || is_first(c) || matches!(c, '-' | '.' | '\u{b7}');
        let mut chars = name.chars();
        (chars.next().is_some_and(is_first) && chars.all(is_other)).then_some(name)
    }

    /// Returns the bytes up to the first other one, which must exist.
    fn take_while(&mut self, is_part: impl Fn(u8) -> bool) -> Option<&'a [u8]> {
        let rest = self.page.get(self.at..)?;
        let length = rest.iter().position(|byte| !is_part(*byte))?;
        self.at += length;
        rest.get(..length)
    }

    fn skip_space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\r' | b'\n' | b'\t')) {
            self.at += 1;
        }
    }

    fn skip_past(&mut self, end: &[u8]) -> Option<()> {
        let rest = self.page.get(self.at..)?;
        self.at += rest.windows(end.len()).position(|part| part == end)? + end.len();
        Some(())
    }

    fn expect(&mut self, byte: u8) -> Option<()> {
        (self.next()? == byte).then_some(())
    }

    fn next(&mut self) -> Option<u8> {
        let byte = self.peek()?;
        self.at += 1;
        Some(byte)
    }

    fn peek(&self) -> Option<u8> {
        self.page.get(self.at).copied()
    }
}

/// Returns whether a byte may be part of a name. Names are checked as a whole.
fn is_in_name(byte: u8) -> bool {
    !byte.is_ascii() || byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b':' | b'.' | b'-')
}

/// Returns whether XML allows a character.
fn is_allowed(c: char) -> bool {
    matches!(c, '\t' | '\n' | '\r' | '\u{20}'..='\u{fffd}' | '\u{10000}'..)
}

/// Returns the quoted value behind the first `name` that is followed by a quote. Empty if there is none.
fn parameter<'a>(content: &'a [u8], name: &[u8]) -> &'a [u8] {
    let mut rest = content;
    while let Some(at) = rest.windows(name.len()).position(|part| part == name) {
        rest = rest.get(at + name.len()..).unwrap_or_default();
        let Some((quote @ (b'"' | b'\''), value)) = rest.split_first() else {
            // Go continues behind the next byte.
            rest = rest.get(1..).unwrap_or_default();
            continue;
        };
        let length = value.iter().position(|byte| byte == quote);
        return length.and_then(|length| value.get(..length)).unwrap_or_default();
    }
    b""
}
