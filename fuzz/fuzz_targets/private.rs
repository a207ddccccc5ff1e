//! Any text as patterns of modules.

#![no_main]

use libfuzzer_sys::fuzz_target;
use stoa_gomod::private::Patterns;

fuzz_target!(|input: (&str, &str)| {
    Patterns::parse(input.0).matches(input.1);
});
