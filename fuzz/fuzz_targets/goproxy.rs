//! Any text as a list of proxies; what is read can be shown and read again.

#![no_main]

use libfuzzer_sys::fuzz_target;
use stoa_gomod::goproxy::parse;

fuzz_target!(|value: &str| {
    if let Ok(list) = parse(value) {
        let again = parse(&list.to_string()).expect("what is shown is good");
        assert_eq!(again.entries().len(), list.entries().len());
    }
});
