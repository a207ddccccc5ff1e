//! Files as a fuzzer thinks them up: what is made of them passes, and damage is found or harmless.

#![no_main]

use libfuzzer_sys::fuzz_target;
use stoa_gomod::ModuleVersion;
use stoa_gomod::zip::{create, examine};

fuzz_target!(|input: (Vec<(String, Vec<u8>)>, u32, u8)| {
    let (files, at, change) = input;
    let module = ModuleVersion::parse("a.b@v1.0.0").expect("the pair is valid");
    let named = files.iter().map(|(path, content)| (path.as_str(), content.as_slice()));
    let Ok(mut archive) = create(&module, named) else { return };
    let examined = examine(&archive, &module).expect("what is made is good");
    let at = at as usize % archive.len();
    archive[at] ^= change;
    if let Ok(damaged) = examine(&archive, &module) {
        assert_eq!(damaged.h1, examined.h1);
    }
});
