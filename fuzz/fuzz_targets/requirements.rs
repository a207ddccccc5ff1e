//! Any bytes as the requirements of a go.mod, and as a go.sum.

#![no_main]

use libfuzzer_sys::fuzz_target;
use stoa_gomod::{gosum, requirements};

fuzz_target!(|body: &[u8]| {
    if let Ok(required) = requirements::requirements(body) {
        let lines = body.split(|byte| *byte == b'\n').count();
        assert!(required.iter().all(|requirement| (1..=lines).contains(&requirement.line)));
    }
    if gosum::parse(body).is_ok_and(|sums| sums.first().is_some_and(|sum| sum.h1.is_some())) {
        assert!(gosum::looks_like(body));
    }
});
