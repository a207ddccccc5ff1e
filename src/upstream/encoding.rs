//! The content encoding of bodies.
//!
//! Stoa asks for `identity`. Some upstreams, or caches in front of them, compress with gzip nevertheless. The go
//! command reads that, so Stoa does, too.

use bytes::{Buf, Bytes};
use flate2::write::MultiGzDecoder;
use reqwest::header::{CONTENT_ENCODING, HeaderMap};
use std::io::{self, Write};

/// The content encoding of a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Encoding {
    Identity,
    Gzip,
}

impl Encoding {
    /// Returns the encoding that an answer has, or the reason why it cannot be decoded.
    pub(super) fn of(headers: &HeaderMap) -> Result<Self, String> {
        let mut encoding = Self::Identity;
        for value in headers.get_all(CONTENT_ENCODING) {
            for name in String::from_utf8_lossy(value.as_bytes()).split(',') {
                match name.trim().to_ascii_lowercase().as_str() {
                    "" | "identity" => {}
                    "gzip" | "x-gzip" if encoding == Self::Identity => encoding = Self::Gzip,
                    _ => return Err(format!("cannot decode its content encoding {name:?}")),
                }
            }
        }
        Ok(encoding)
    }
}

/// A decoder of gzip that returns its output in small parts, so that a small input cannot become large in memory.
#[derive(Debug)]
pub(super) struct Gunzip {
    decoder: MultiGzDecoder<Vec<u8>>,
    input: Bytes,
    began: bool,
}

impl Gunzip {
    pub(super) fn new() -> Self {
        Self { decoder: MultiGzDecoder::new(Vec::new()), input: Bytes::new(), began: false }
    }

    /// Sets the next part of the input, after all output of the previous part was taken.
    pub(super) fn push(&mut self, input: Bytes) {
        self.began |= !input.is_empty();
        self.input = input;
    }

    /// Returns the next part of the output. Returns `None` if that needs more input.
    pub(super) fn next(&mut self) -> io::Result<Option<Bytes>> {
        while !self.input.is_empty() {
            // A single `write` decodes at most one buffer of the library.
            match self.decoder.write(&self.input)? {
                0 => return Err(io::Error::other("there is data after its end")),
                read => self.input.advance(read),
            }
            if let Some(output) = self.take() {
                return Ok(Some(output));
            }
        }
        Ok(None)
    }

    /// Returns the rest of the output at the end of the input. A truncated input is an error.
    pub(super) fn finish(&mut self) -> io::Result<Option<Bytes>> {
        // An empty body is not compressed, whatever its header says.
        if std::mem::take(&mut self.began) {
            self.decoder.try_finish()?;
        }
        Ok(self.take())
    }

    fn take(&mut self) -> Option<Bytes> {
        let output = std::mem::take(self.decoder.get_mut());
        (!output.is_empty()).then(|| output.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::Compression;
    use flate2::write::GzEncoder;

    fn gzip(text: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap()
    }

    /// Decodes an input in parts of this size. Also returns the size of the largest part of the output.
    fn gunzip(input: &[u8], part: usize) -> io::Result<(Vec<u8>, usize)> {
        let (mut decoder, mut output, mut largest) = (Gunzip::new(), Vec::new(), 0);
        let mut keep = |part: Bytes| {
            largest = largest.max(part.len());
            output.extend_from_slice(&part);
        };
        for part in input.chunks(part) {
            decoder.push(Bytes::copy_from_slice(part));
            while let Some(part) = decoder.next()? {
                keep(part);
            }
        }
        while let Some(part) = decoder.finish()? {
            keep(part);
        }
        Ok((output, largest))
    }

    #[test]
    fn gzip_is_decoded_in_small_parts() {
        let text = vec![b'x'; 10 << 20];
        let bomb = gzip(&text);
        for part in [1, 7, bomb.len()] {
            let (decoded, largest) = gunzip(&bomb, part).unwrap();
            assert!(decoded == text && largest <= 64 << 10, "{part}: {largest}");
        }
        let two = [gzip(b"one "), gzip(b"two")].concat();
        assert_eq!(gunzip(&two, 3).unwrap().0, b"one two");
        assert_eq!(gunzip(b"", 1).unwrap().0, b"");
    }

    #[test]
    fn damaged_gzip_is_an_error() {
        let whole = gzip(b"a text that is long enough");
        for length in 1..whole.len() {
            assert!(gunzip(&whole[..length], length).is_err(), "{length}");
        }
        for (at, with) in [(0, b'x'), (12, b'!'), (whole.len() - 6, b'!')] {
            let mut damaged = whole.clone();
            damaged[at] ^= with;
            assert!(gunzip(&damaged, 5).is_err(), "{at}");
        }
        assert!(gunzip(&[whole.as_slice(), b"rest"].concat(), 5).is_err());
        assert!(gunzip(b"module example.com/m\n", 5).is_err());
    }

    #[test]
    fn only_gzip_is_decoded() {
        let of = |values: &[&'static str]| {
            let values = values.iter().map(|value| (CONTENT_ENCODING, value.parse().unwrap()));
            Encoding::of(&values.collect::<HeaderMap>())
        };
        assert_eq!(of(&[]), Ok(Encoding::Identity));
        assert_eq!(of(&["identity"]), Ok(Encoding::Identity));
        assert_eq!(of(&["GZIP"]), Ok(Encoding::Gzip));
        assert_eq!(of(&["identity, x-gzip"]), Ok(Encoding::Gzip));
        for bad in [&["br"] as &[_], &["deflate"], &["gzip, gzip"], &["gzip", "gzip"], &["gzip;q=1"]] {
            assert!(of(bad).is_err(), "{bad:?}");
        }
    }
}
