//! libFuzzer for the target of the same name.
#![no_main]

use estafet_targets::{data, seeds::sow};

libfuzzer_sys::fuzz_target!(
    init: sow(env!("CARGO_MANIFEST_DIR").as_ref(), "data").expect("the corpus can be written"),
    |input: &[u8]| data(input)
);
