//! The programs as the kernel runs them, packet by packet through BPF_PROG_TEST_RUN, against tables and against the
//! decision that the agent computes on its own copy of the entries.
#![expect(clippy::unwrap_used, reason = "tests panic")]

mod adopted;
mod bench;
mod decision;
mod expiry;
mod flows;
mod icmp;
mod malformed;
mod newcomers;
mod observed;
mod published;
mod reasons;
mod remembered;
mod rows;
mod spoofed;
mod swap;
mod town;
