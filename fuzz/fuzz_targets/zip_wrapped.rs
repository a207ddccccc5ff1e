//! Any files as a module. The created zip passes, and damage is detected or changes no content.

#![no_main]

use libfuzzer_sys::fuzz_target;
use stoa_gomod::ModuleVersion;
use stoa_gomod::zip::{create, examine};

fuzz_target!(|input: (Vec<(String, Vec<u8>)>, u32, u8)| {
    let (files, at, change) = input;
    let module = ModuleVersion::parse("a.b@v1.0.0").expect("the pair is valid");
    let named = files.iter().map(|(path, content)| (path.as_str(), content.as_slice()));
    let Ok(mut archive) = create(&module, named) else { return };
    let examined = examine(&archive, &module).expect("a created zip is valid");
    let at = at as usize % archive.len();
    archive[at] ^= change;
    if let Ok(damaged) = examine(&archive, &module) {
        assert_eq!(damaged.h1, examined.h1);
    }
});
