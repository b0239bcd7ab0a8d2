//! libFuzzer for the target of the same name.
#![no_main]

use estafet_targets::{chatd, seeds::sow};

libfuzzer_sys::fuzz_target!(
    init: sow(env!("CARGO_MANIFEST_DIR").as_ref(), "chatd").expect("the corpus can be written"),
    |input: &[u8]| chatd(input)
);
