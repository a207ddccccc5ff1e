//! The header `Authorization` of a request.

use base64::Engine;
use base64::prelude::BASE64_STANDARD_NO_PAD;
use hyper::HeaderMap;
use hyper::header::AUTHORIZATION;

use super::Refusal;

/// The credentials of a request.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Credentials<'h> {
    /// A user with a password, or with a token in its place.
    Login { user: String, password: String },
    /// A token.
    Token(&'h str),
}

impl<'h> Credentials<'h> {
    /// Parses the header. Returns `None` if there is none.
    ///
    /// A header that cannot be read counts as wrong credentials: the client meant to send some.
    pub(super) fn of(headers: &'h HeaderMap) -> Result<Option<Self>, Refusal> {
        let mut values = headers.get_all(AUTHORIZATION).iter();
        let Some(value) = values.next() else { return Ok(None) };
        if values.next().is_some() {
            return Err(Refusal::WrongCredentials);
        }
        value.to_str().ok().and_then(Self::parse).map(Some).ok_or(Refusal::WrongCredentials)
    }

    fn parse(value: &'h str) -> Option<Self> {
        let (scheme, rest) = value.split_once(' ')?;
        let rest = rest.trim();
        if scheme.eq_ignore_ascii_case("bearer") {
            return Some(Self::Token(rest));
        }
        if !scheme.eq_ignore_ascii_case("basic") {
            return None;
        }
        let bytes = BASE64_STANDARD_NO_PAD.decode(rest.trim_end_matches('=')).ok()?;
        let text = String::from_utf8(bytes).ok()?;
        let (user, password) = text.split_once(':')?;
        // The character NUL would end a password for bcrypt, and separates the two for the keyed hash.
        let is_valid = !user.is_empty() && !text.chars().any(char::is_control);
        is_valid.then(|| Self::Login { user: user.to_owned(), password: password.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use base64::prelude::BASE64_STANDARD;

    use super::*;

    fn parse(values: &[&str]) -> Result<Option<String>, Refusal> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(AUTHORIZATION, value.parse().unwrap());
        }
        Credentials::of(&headers).map(|found| found.map(|found| format!("{found:?}")))
    }

    fn login(user: &str, password: &str) -> Result<Option<String>, Refusal> {
        Ok(Some(format!("{:?}", Credentials::Login { user: user.to_owned(), password: password.to_owned() })))
    }

    #[test]
    fn both_schemes_are_read() {
        assert_eq!(parse(&[]), Ok(None));
        assert_eq!(parse(&["Bearer abc"]), Ok(Some("Token(\"abc\")".to_owned())));
        let basic = |text: &str| format!("basic {}", BASE64_STANDARD.encode(text));
        assert_eq!(parse(&[&basic("ann:a:b")]), login("ann", "a:b"));
        assert_eq!(parse(&[&basic("ann:")]), login("ann", ""));
        assert_eq!(parse(&[&basic("änn:ß")]), login("änn", "ß"));
        // Some clients leave out the padding.
        assert_eq!(parse(&[basic("ann:ab").trim_end_matches('=')]), login("ann", "ab"));
    }

    #[test]
    fn malformed_credentials_are_wrong_credentials() {
        let basic = |bytes: &[u8]| format!("Basic {}", BASE64_STANDARD.encode(bytes));
        for wrong in [
            "Basic",
            "Basic ?",
            "Digest username=ann",
            &basic(b"ann"),
            &basic(b":password"),
            &basic(b"ann:a\0b"),
            &basic(b"ann\n:ab"),
            &basic(b"ann:\xff"),
        ] {
            assert_eq!(parse(&[wrong]), Err(Refusal::WrongCredentials), "{wrong}");
        }
        assert_eq!(parse(&["Bearer a", "Bearer a"]), Err(Refusal::WrongCredentials));
    }
}
