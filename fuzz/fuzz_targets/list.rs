//! Any bytes as a list of versions; what is written is read again.

#![no_main]

use libfuzzer_sys::fuzz_target;
use stoa_gomod::list::{format, newest, parse_body, versions};

fuzz_target!(|body: &[u8]| {
    parse_body(body);
    newest(body);
    let read = versions(body);
    assert_eq!(versions(format(&read).as_bytes()), read);
});
