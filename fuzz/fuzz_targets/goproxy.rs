//! Any text as a list of proxies. A printed list parses to the same list.

#![no_main]

use libfuzzer_sys::fuzz_target;
use stoa_gomod::goproxy::parse;

fuzz_target!(|value: &str| {
    if let Ok(list) = parse(value) {
        let again = parse(&list.to_string()).expect("a printed list is valid");
        assert_eq!(again.entries().len(), list.entries().len());
    }
});
