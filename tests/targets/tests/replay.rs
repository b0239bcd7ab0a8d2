//! Seeds, what was found before, and generated input through every target.

use estafet_targets::{ALL, mutation::Mutation, seeds};

/// Inputs generated for each target.
const GENERATED: u64 = 10_000;

#[test]
fn nothing_from_outside_breaks_what_must_hold_of_it() {
    for target in ALL {
        let seeds = seeds::of(target.name);
        assert!(seeds.len() >= 2, "{} has no seeds", target.name);
        for data in &seeds {
            run(target, data);
        }
        for data in seeds::found(target.name).unwrap() {
            run(target, &data);
        }
        let mut mutation = Mutation::new(7);
        for _ in 0..GENERATED {
            run(target, &mutation.next(&seeds));
        }
    }
}

/// Shows the input with the failure.
#[allow(clippy::print_stderr, reason = "shown by the test runner with the failure it explains")]
fn run(target: estafet_targets::Target, data: &[u8]) {
    if let Err(panic) = std::panic::catch_unwind(|| (target.run)(data)) {
        eprintln!("{}: {:?}", target.name, String::from_utf8_lossy(data));
        std::panic::resume_unwind(panic);
    }
}

#[test]
fn every_target_has_a_binary_for_fuzzing() {
    let directory = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz");
    let manifest = std::fs::read_to_string(directory.join("Cargo.toml")).unwrap();
    for target in ALL {
        let text = std::fs::read_to_string(directory.join(format!("fuzz_targets/{}.rs", target.name))).unwrap();
        assert!(text.contains(&format!("|input: &[u8]| {}(input)", target.name)), "{}", target.name);
        assert!(manifest.contains(&format!("name = \"{}\"", target.name)), "{}", target.name);
    }
    let count = std::fs::read_dir(directory.join("fuzz_targets")).unwrap().count();
    assert_eq!(count, ALL.len(), "no binary without a target");
}
