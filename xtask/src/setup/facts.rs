//! What is on the machine, as far as a build or a test cares. Looks and changes nothing.

use std::collections::BTreeSet;
use std::fmt;
use std::path::Path;
use std::process::Command;

use lab::tools;

/// Debian's compiled `core` for BPF.
const DEBIAN_BPF_CORE: &str = "/usr/lib/rustlib/bpfel-unknown-none/lib";

/// What was found.
#[derive(Debug, Clone, Default)]
pub(crate) struct Facts {
    /// `apt-get` and `dpkg` are there.
    pub(crate) debian: bool,
    pub(crate) root: bool,
    /// Programs that a lab runs, of those that it needs.
    pub(crate) programs: BTreeSet<String>,
    /// Some form of compose.
    pub(crate) compose: bool,
    /// `cargo fmt` and `cargo clippy`, of those that a test needs.
    pub(crate) components: BTreeSet<String>,
    /// `rustup` manages the Rust toolchain.
    pub(crate) rustup: bool,
    /// LLVM version of Debian's `rustc`, if its BPF `core` and cargo are there too.
    pub(crate) debian_llvm: Option<u32>,
    /// LLVM version of a rustup nightly that has `rust-src`.
    pub(crate) nightly_llvm: Option<u32>,
    /// The linker for kernel programs; inside, its LLVM version unless it is linked statically.
    pub(crate) bpf_linker: Option<Option<u32>>,
    /// LLVM versions whose development files are there.
    pub(crate) llvm_dev: BTreeSet<u32>,
    /// `PORTCULLIS_BPF_TOOLCHAIN`, which overrides the choice.
    pub(crate) wanted: Option<String>,
}

/// What builds the kernel programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Toolchain {
    Debian { llvm: u32 },
    Nightly { llvm: u32 },
}

impl Toolchain {
    pub(crate) fn llvm(self) -> u32 {
        match self {
            Self::Debian { llvm } | Self::Nightly { llvm } => llvm,
        }
    }
}

impl fmt::Display for Toolchain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Debian { llvm } => write!(f, "Debian's rustc and its BPF core (LLVM {llvm})"),
            Self::Nightly { llvm } => write!(f, "rustup's nightly and rust-src (LLVM {llvm})"),
        }
    }
}

/// Programs without which no lab runs, and the package that has each. Those of an engine are handled apart.
pub(crate) const PROGRAMS: [(&str, &str); 16] = [
    ("ip", "iproute2"),
    ("nsenter", "util-linux"),
    ("iptables", "iptables"),
    ("ip6tables", "iptables"),
    ("nft", "nftables"),
    ("nmap", "nmap"),
    ("busybox", "busybox-static"),
    ("cc", "build-essential"),
    ("c++", "build-essential"),
    ("git", "git"),
    ("tar", "tar"),
    ("mount", "mount"),
    // What judges the agent's output comes from the registries of their languages.
    ("openssl", "openssl"),
    ("pip3", "python3-pip"),
    ("npm", "npm"),
    // Packages are tried on a system that it makes.
    ("debootstrap", "debootstrap"),
];

/// What an engine consists of.
pub(crate) const ENGINE: [&str; 5] = ["dockerd", "docker", "containerd", "runc", "docker-proxy"];

/// Programs whose packages would start them as services: they are unpacked only, with the package that has each.
pub(crate) const UNPACKED: [(&str, &str); 5] = [
    ("nginx", "nginx"),
    ("promtool", "prometheus"),
    ("prometheus", "prometheus"),
    ("amtool", "prometheus-alertmanager"),
    ("prometheus-alertmanager", "prometheus-alertmanager"),
];

/// Parts of a Rust toolchain that a minimal one leaves out, and the cargo command that each brings.
pub(crate) const COMPONENTS: [(&str, &str); 2] = [("rustfmt", "fmt"), ("clippy", "clippy")];

impl Facts {
    /// Looks around.
    pub(crate) fn probe() -> Self {
        let present = |program: &&str| tools::find(program).is_some();
        let mut programs: BTreeSet<String> =
            PROGRAMS.iter().map(|(program, _)| *program).filter(present).map(str::to_owned).collect();
        programs.extend(ENGINE.iter().copied().filter(present).map(str::to_owned));
        let unpacked = UNPACKED.iter().map(|(program, _)| *program);
        programs.extend(unpacked.filter(present).map(str::to_owned));
        // A container has no libraries: only a static busybox runs in one.
        if tools::find("busybox").is_some_and(|busybox| text(Command::new("ldd").arg(busybox)).contains("=>"))
        {
            programs.remove("busybox");
        }
        Self {
            debian: present(&"apt-get") && present(&"dpkg-deb"),
            root: rustix::process::geteuid().is_root(),
            programs,
            compose: tools::find_compose().is_some(),
            components: COMPONENTS
                .iter()
                .filter(|(_, command)| !text(Command::new("cargo").args([*command, "--version"])).is_empty())
                .map(|(component, _)| (*component).to_owned())
                .collect(),
            rustup: present(&"rustup"),
            debian_llvm: debian_llvm(),
            nightly_llvm: nightly_llvm(),
            bpf_linker: bpf_linker(),
            llvm_dev: (15..60)
                .filter(|version| Path::new(&format!("/usr/lib/llvm-{version}/bin/llvm-config")).exists())
                .collect(),
            wanted: std::env::var("PORTCULLIS_BPF_TOOLCHAIN").ok().filter(|wanted| !wanted.is_empty()),
        }
    }

    /// The toolchain that the agent's build script will choose, by the same rule.
    pub(crate) fn toolchain(&self) -> Option<Toolchain> {
        let debian = self.debian_llvm.map(|llvm| Toolchain::Debian { llvm });
        let nightly = self.nightly_llvm.map(|llvm| Toolchain::Nightly { llvm });
        match self.wanted.as_deref() {
            Some("debian") => debian,
            Some("nightly") => nightly,
            _ => debian.or(nightly),
        }
    }
}

fn debian_llvm() -> Option<u32> {
    if !Path::new(DEBIAN_BPF_CORE).is_dir() || !Path::new("/usr/bin/cargo").exists() {
        return None;
    }
    llvm_of(&text(Command::new("/usr/bin/rustc").arg("-vV")))
}

fn nightly_llvm() -> Option<u32> {
    let sysroot = text(Command::new("rustup").args(["run", "nightly", "rustc", "--print", "sysroot"]));
    if sysroot.trim().is_empty()
        || !Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library/core").is_dir()
    {
        return None;
    }
    llvm_of(&text(Command::new("rustup").args(["run", "nightly", "rustc", "-vV"])))
}

fn bpf_linker() -> Option<Option<u32>> {
    let linker = tools::find("bpf-linker")?;
    // One that cannot find its library any more is as good as none.
    if !Command::new(&linker).arg("--version").output().ok()?.status.success() {
        return None;
    }
    Some(linked_llvm(&text(Command::new("ldd").arg(linker))))
}

/// `LLVM version: 22.1.8` of `rustc -vV`.
pub(super) fn llvm_of(verbose_version: &str) -> Option<u32> {
    let version = verbose_version.lines().find_map(|line| line.strip_prefix("LLVM version: "))?;
    version.split('.').next()?.trim().parse().ok()
}

/// The version in `libLLVM.so.22.1` or `libLLVM-19.so` of `ldd`.
pub(super) fn linked_llvm(libraries: &str) -> Option<u32> {
    let (_, version) = libraries.split_once("libLLVM")?;
    let digits: String =
        version.chars().skip_while(|c| !c.is_ascii_digit()).take_while(char::is_ascii_digit).collect();
    digits.parse().ok()
}

/// What a command prints; nothing if it is missing or fails.
fn text(command: &mut Command) -> String {
    command
        .output()
        .ok()
        .filter(|output| output.status.success())
        .map(|output| String::from_utf8_lossy(&output.stdout).into_owned())
        .unwrap_or_default()
}
