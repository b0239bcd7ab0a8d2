//! libFuzzer for the target of the same name.
#![no_main]

use estafet_targets::{media, seeds::sow};

libfuzzer_sys::fuzz_target!(
    init: sow(env!("CARGO_MANIFEST_DIR").as_ref(), "media").expect("the corpus can be written"),
    |input: &[u8]| media(input)
);
