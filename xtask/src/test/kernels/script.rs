//! What a guest does: its first program, and the part of each kernel.

use super::Choice;
use super::packages::Kernel;
use super::programs::Built;

/// How much longer than on this machine anything may take in a guest, where each instruction is translated.
const PATIENCE: u32 = 8;

/// The first program. Its last words come before the machine goes off; a guest without them has failed.
pub(super) const INIT: &str = "#!/bin/busybox sh
export PATH=/bin HOME=/
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
mount -t bpf bpf /sys/fs/bpf
ip link set lo up
. \"/vm/$(uname -r).sh\"
echo
echo \"guest: done\"
poweroff -f
";

/// Loads its modules and runs the tests, each program with what is left out on this kernel left out.
pub(super) fn of_kernel(kernel: &Kernel, modules: &[&str], built: &[Built], choice: &Choice) -> String {
    let mut script = format!(
        "export PORTCULLIS_REPORT=/report PORTCULLIS_PATIENCE={PATIENCE}
for module in {}; do insmod \"/modules/{}/$module.ko\" || echo \"guest: no module $module\"; done
run() {{
    name=$1
    shift
    \"/vm/deps/$name\" --test-threads=1 \"$@\" </dev/null 2>&1
    echo \"guest: $name ended with $?\"
    test -f /report && cat /report && rm /report
}}
",
        modules.join(" "),
        kernel.release,
    );
    if choice.record {
        script.push_str("export PORTCULLIS_RECORD=1\n");
    }
    for Built { program, .. } in built {
        let mut arguments = String::new();
        for (tests, why) in program.left_out(kernel) {
            let (name, tests) = (program.name, if tests.is_empty() { "everything" } else { tests });
            // Quoted by the double quotes of a shell, where nothing else may be run.
            let why = why.replace('`', "'");
            script.push_str(&format!("echo \"guest: {name} leaves out {tests}: {why}\"\n"));
            arguments.push_str(&format!(" --skip {tests}"));
        }
        if !program.runs_on(kernel) {
            continue;
        }
        for (name, value) in program.settings {
            script.push_str(&format!("export {name}={value}\n"));
        }
        let filter = choice.filter.unwrap_or_default();
        script.push_str(&format!("run {}{arguments} {filter}\n", program.name));
    }
    script
}
