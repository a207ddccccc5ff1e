//! Any bytes as an info. An encoded info parses to the same version.

#![no_main]

use libfuzzer_sys::fuzz_target;
use stoa_gomod::info::{encode, parse};

fuzz_target!(|body: &[u8]| {
    if let Ok(info) = parse(body) {
        let again = parse(encode(&info.version, info.time).as_bytes()).expect("an encoded info is valid");
        assert_eq!(again.version, info.version);
    }
});
