//! Any bytes as an info body; what is read can be written and read again.

#![no_main]

use libfuzzer_sys::fuzz_target;
use stoa_gomod::info::{encode, parse};

fuzz_target!(|body: &[u8]| {
    if let Ok(info) = parse(body) {
        let again = parse(encode(&info.version, info.time).as_bytes()).expect("what is written is good");
        assert_eq!(again.version, info.version);
    }
});
