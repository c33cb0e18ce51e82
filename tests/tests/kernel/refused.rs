//! A kernel that will not do: the agent says what is missing and does not start.

use std::fs;
use std::os::unix::process::CommandExt;
use std::process::Command;

use integration_tests::daemon::Refusal;
use integration_tests::{agent_binary, prepare};
use lab::netns::Netns;

/// Makes uname(2) say `2.6.40` and higher: for programs that know no other numbers (linux/personality.h).
const UNAME26: libc::c_ulong = 0x002_0000;

#[test]
fn a_kernel_that_is_too_old_is_refused() {
    prepare().unwrap();
    let mut command = Command::new(agent_binary().unwrap());
    command.arg("run");
    // SAFETY: personality(2) is a plain system call, and nothing else happens between fork and exec.
    unsafe {
        command.pre_exec(|| {
            if libc::personality(UNAME26) == -1 { Err(std::io::Error::last_os_error()) } else { Ok(()) }
        })
    };
    Refusal::of(&mut command).unwrap().assert_refused(&[
        "kernel `2.6.",
        "is older than 5.10, the oldest that is supported",
        "hint: ring buffers and CAP_BPF came with 5.8",
    ]);
}

/// What the kernel has is found out without a trace, also where a qdisc is in use already.
#[test]
fn to_ask_for_clsact_leaves_nothing_behind() {
    prepare().unwrap();
    let host = Netns::create().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let settings = folder.path().join("agent.yaml");
    fs::write(&settings, "attach: clsact\n").unwrap();
    let qdiscs = || {
        let said = lab::process::output(host.command("tc").args(["qdisc", "show", "dev", "lo"])).unwrap();
        String::from_utf8_lossy(&said.stdout).into_owned()
    };
    let ask = || {
        let mut command = host.command(agent_binary().unwrap());
        command.args(["run", "--policy", "/nowhere", "--config"]).arg(&settings);
        // It got past the kernel, to what it reads next.
        Refusal::of(&mut command).unwrap().assert_refused(&["/nowhere"]);
    };
    ask();
    assert!(!qdiscs().contains("clsact"), "{}", qdiscs());
    lab::process::run(host.command("tc").args(["qdisc", "add", "dev", "lo", "clsact"])).unwrap();
    ask();
    assert!(qdiscs().contains("clsact"), "{}", qdiscs());
}
