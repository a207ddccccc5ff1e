//! Any bytes as a go.mod.

#![no_main]

use libfuzzer_sys::fuzz_target;
use stoa_gomod::modfile::{go_version, has_module_directive, module_path};

fuzz_target!(|body: &[u8]| {
    go_version(body);
    if module_path(body).is_some() {
        assert!(has_module_directive(body));
    }
});
