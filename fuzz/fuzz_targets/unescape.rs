//! Any text as an escaped name. A name has exactly one escaped form.

#![no_main]

use libfuzzer_sys::fuzz_target;
use stoa_gomod::{ModulePath, ModuleVersion, Revision, Version};

fuzz_target!(|text: &str| {
    if let Ok(path) = ModulePath::unescape(text) {
        assert_eq!(path.escaped(), text);
    }
    if let Ok(version) = Version::unescape(text) {
        assert_eq!(version.escaped(), text);
    }
    if let Ok(revision) = Revision::unescape(text) {
        assert_eq!(revision.escaped(), text);
    }
    if let Ok(pair) = ModuleVersion::parse(text) {
        assert_eq!(pair.to_string(), text);
    }
});
