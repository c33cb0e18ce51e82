//! What the design leans on, asked of the kernel that these tests run on: here, and by `cargo xtask vm` on older ones.
#![expect(clippy::unwrap_used, reason = "tests panic")]

use integration_tests::{prepare, verifier};

/// Four times what the largest program takes today; the kernel's own limit is a million.
const MOST_INSTRUCTIONS: u32 = 400_000;

#[test]
fn a_the_verifier_accepts_every_program() {
    prepare().unwrap();
    let programs = verifier::walk().unwrap();
    assert!(!programs.is_empty());
    for (program, instructions) in programs {
        integration_tests::report(&format!("program {program} {instructions}")).unwrap();
        assert!(instructions > 0 && instructions < MOST_INSTRUCTIONS, "{program}: {instructions}");
    }
}
