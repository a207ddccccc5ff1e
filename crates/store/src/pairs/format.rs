//! The content of the file of a pair. It is checked with bounded memory.
//!
//! ```text
//! stoa-pair 1               six lines, then both files
//! MODULE@VERSION
//! TAG                       identifies the list of upstreams
//! ORIGIN                    the upstream that sent both files, without credentials
//! INFO-BYTES MOD-BYTES
//! SHA-256                   of the four lines above and both files
//! INFO MOD
//! ```

use std::fmt::Write as _;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::ops::Range;
use std::path::Path;

use bytes::Bytes;
use quick_cache::Weighter;
use sha2::{Digest, Sha256};
use stoa_gomod::ModuleVersion;
use stoa_layout::PathError;
use stoa_layout::error::PathContext;

use super::Pair;
use crate::cache::hex;
use crate::files::{SMALL_LIMIT, Stamp, open_file};

/// The content of a file whose hash matches, without its go.mod.
#[derive(Debug, Clone)]
pub(crate) struct KnownPair {
    pub(super) version: ModuleVersion,
    pub(super) tag: String,
    pub(super) origin: String,
    pub(super) info: Bytes,
    pub(super) mod_sha256: [u8; 32],
    pub(super) mod_range: Range<u64>,
}

/// Weighs a known pair in bytes of memory.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PairWeight;

impl Weighter<Stamp, KnownPair> for PairWeight {
    fn weight(&self, _: &Stamp, known: &KnownPair) -> u64 {
        known.info.len() as u64 + 512
    }
}

const MAGIC: &str = "stoa-pair 1\n";

/// The maximum size of the lines before the files in bytes.
const MAX_HEAD_BYTES: u64 = 16 << 10;

/// Returns the lines before the files.
pub(super) fn encode(version: &ModuleVersion, Pair { tag, origin, info, modfile }: &Pair) -> String {
    let mut head =
        format!("{version}\n{tag}\n{}\n{} {}\n", origin.replace('\n', " "), info.len(), modfile.len());
    let hash = Sha256::new().chain_update(&head).chain_update(info).chain_update(modfile).finalize();
    let _ = writeln!(head, "{}", hex(&hash));
    format!("{MAGIC}{head}")
}

/// Returns the version that a pair names. `None` if the file is no pair.
pub(super) fn version_of(path: &Path) -> Result<Option<ModuleVersion>, PathError> {
    let Some((file, _)) = open_file(path)? else { return Ok(None) };
    let mut head = Vec::new();
    let mut reader = BufReader::new(file.take(MAX_HEAD_BYTES));
    for _ in 0..2 {
        reader.read_until(b'\n', &mut head).at("read", path)?;
    }
    let name = std::str::from_utf8(&head).ok().and_then(|head| head.strip_prefix(MAGIC));
    Ok(name.and_then(|name| ModuleVersion::parse(name.trim_end()).ok()))
}

/// Reads and checks a pair, with bounded memory.
pub(super) fn read(
    file: &File,
    length: u64,
    path: &Path,
    version: &ModuleVersion,
) -> Result<Option<KnownPair>, PathError> {
    let mut reader = BufReader::new(file);
    let mut at = 0;
    let mut line = || -> Result<Option<String>, PathError> {
        let mut line = Vec::new();
        let read = (&mut reader).take(MAX_HEAD_BYTES).read_until(b'\n', &mut line).at("read", path)?;
        at += read as u64;
        Ok(String::from_utf8(line).ok().filter(|line| line.ends_with('\n')))
    };
    if line()?.as_deref() != Some(MAGIC) {
        return Ok(None);
    }
    let (Some(name), Some(tag), Some(origin), Some(lengths), Some(hash)) =
        (line()?, line()?, line()?, line()?, line()?)
    else {
        return Ok(None);
    };
    let Some((info_length, mod_length)) = lengths.trim_end().split_once(' ').and_then(|(info, modfile)| {
        let limited = |text: &str| text.parse().ok().filter(|length| *length <= SMALL_LIMIT);
        Some((limited(info)?, limited(modfile)?))
    }) else {
        return Ok(None);
    };
    if name.trim_end() != version.to_string() || length != at + info_length + mod_length {
        return Ok(None);
    }
    let mut whole =
        Sha256::new().chain_update(&name).chain_update(&tag).chain_update(&origin).chain_update(&lengths);
    let mut info = Vec::new();
    (&mut reader).take(info_length).read_to_end(&mut info).at("read", path)?;
    whole.update(&info);
    let mut of_mod = Sha256::new();
    loop {
        let piece = reader.fill_buf().at("read", path)?;
        if piece.is_empty() {
            break;
        }
        whole.update(piece);
        of_mod.update(piece);
        let read = piece.len();
        reader.consume(read);
    }
    if hash.trim_end() != hex(&whole.finalize()) {
        return Ok(None);
    }
    let start = at + info_length;
    let trimmed = |line: &str| line.trim_end_matches('\n').to_owned();
    Ok(Some(KnownPair {
        version: version.clone(),
        tag: trimmed(&tag),
        origin: trimmed(&origin),
        info: info.into(),
        mod_sha256: of_mod.finalize().into(),
        mod_range: start..start + mod_length,
    }))
}
