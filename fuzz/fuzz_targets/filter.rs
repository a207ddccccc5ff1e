//! Any text as a filter file of Athens; what comes out of it are ranges of versions that can be read.

#![no_main]

use libfuzzer_sys::fuzz_target;
use stoa_gomod::VersionRange;

#[allow(dead_code)]
#[path = "../../src/migrate/import_config/filter.rs"]
mod filter;

fuzz_target!(|text: &str| {
    if let Ok(filter) = filter::Filter::parse(text) {
        let _ = filter.otherwise().refuses_all();
        let (rules, _) = filter.rules();
        for (_, verdict) in rules {
            for range in verdict.allow.iter().chain(&verdict.deny) {
                range.parse::<VersionRange>().expect("what is written can be read");
            }
        }
    }
});
