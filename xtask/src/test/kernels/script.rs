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
mount -t securityfs securityfs /sys/kernel/security
echo \"guest: lockdown: $(cat /sys/kernel/security/lockdown)\"
ip link set lo up
. \"/vm/$(uname -r).sh\"
echo
echo \"guest: done\"
poweroff -f
";

/// Runs a test program, and says how it ended and what it reported.
const RUN: &str = r#"
run() {
    name=$1
    shift
    "/vm/deps/$name" --test-threads=1 "$@" </dev/null 2>&1
    echo "guest: $name ended with $?"
    test -f /report && cat /report && rm /report
}
"#;

/// Loaded last, after it was seen what the agent says without each.
const LATE: [&str; 2] = ["sch_ingress", "cls_bpf"];

/// A kernel that lacks a module: the agent names it and does not start. It asks before it reads a policy.
const WITHOUT: &str = r#"
without() {
    echo "attach: clsact" >/tmp/without.yaml
    said=$(/vm/portcullis run --config /tmp/without.yaml 2>&1 </dev/null)
    code=$?
    case "$code $said" in
    "2 "*"(module \`$1\`)"*)
        echo "test without_$1_the_agent_names_it ... ok"
        echo "test result: ok. 1 passed; 0 failed"
        ;;
    *)
        echo "exit code $code: $said"
        echo "test without_$1_the_agent_names_it ... FAILED"
        echo "test result: FAILED. 0 passed; 1 failed"
        ;;
    esac
}
"#;

/// Loads its modules and runs the tests, each program with what is left out on this kernel left out.
pub(super) fn of_kernel(kernel: &Kernel, modules: &[&str], built: &[Built], choice: &Choice) -> String {
    let insmod = |modules: &[&str]| {
        let release = &kernel.release;
        format!(
            "for module in {}; do insmod \"/modules/{release}/$module.ko\" || echo \"guest: no module $module\"; done\n",
            modules.join(" ")
        )
    };
    let (late, early): (Vec<&str>, Vec<&str>) = modules.iter().partition(|module| LATE.contains(module));
    let mut script = format!("export PORTCULLIS_REPORT=/report PORTCULLIS_PATIENCE={PATIENCE}\n");
    script.push_str(&insmod(&early));
    script.push_str(WITHOUT);
    for module in late {
        if !choice.record {
            script.push_str(&format!("without {module}\n"));
        }
        script.push_str(&insmod(&[module]));
    }
    script.push_str(RUN);
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
        // The harness runs a test that any of the names is part of.
        let names = match choice.filter {
            Some(filter) => filter.to_owned(),
            None => program.names(choice.extent).join(" "),
        };
        script.push_str(&format!("run {}{arguments} {names}\n", program.name));
    }
    script
}
