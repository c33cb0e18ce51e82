//! What the design leans on, asked of the kernel that these tests run on: this machine's, and others in guests
//! (`cargo xtask test --kernel`). One test for each fact, named after it.
#![expect(clippy::unwrap_used, reason = "tests panic")]

mod life;
mod maps;
mod packets;
mod refused;
mod verdicts;
