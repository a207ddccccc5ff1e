//! Any bytes as a list of versions. A formatted list parses to the same versions.

#![no_main]

use libfuzzer_sys::fuzz_target;
use stoa_gomod::list::{format, newest, versions};

fuzz_target!(|body: &[u8]| {
    newest(body);
    let parsed = versions(body);
    assert_eq!(versions(format(&parsed).as_bytes()), parsed);
});
