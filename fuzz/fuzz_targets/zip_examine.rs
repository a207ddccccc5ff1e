//! Any bytes as a module zip. A zip that passes the examination also has a valid structure.

#![no_main]

use libfuzzer_sys::fuzz_target;
use stoa_gomod::ModuleVersion;
use stoa_gomod::zip::{check_structure, examine};

fuzz_target!(|bytes: &[u8]| {
    let module = ModuleVersion::parse("a.b@v1.0.0").expect("the pair is valid");
    let structure = check_structure(bytes, &module);
    if let Ok(examined) = examine(bytes, &module) {
        assert_eq!(structure.expect("a valid zip has a valid structure").entries, examined.entries);
    }
});
