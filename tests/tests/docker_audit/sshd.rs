//! A stand-in for `sshd`, where the system has its own: it listens, and prints its settings as `sshd -T` does.

use std::fs;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use lab::interrupt::wait_for;
use lab::process::{run, stop_child};

use crate::{Host, OF_ENDPOINTS};

const SOURCE: &str = r#"
fn main() {
    let words: Vec<String> = std::env::args().collect();
    let file = words.iter().skip_while(|word| *word != "-f").nth(1).expect("-f FILE");
    if words.iter().any(|word| word == "-T") {
        print!("{}", std::fs::read_to_string(file).unwrap());
        return;
    }
    let listener = std::net::TcpListener::bind("0.0.0.0:22").unwrap();
    std::fs::write(format!("{file}.listens"), "").unwrap();
    for stream in listener.incoming() {
        drop(stream);
    }
}
"#;
/// As OpenSSH 9.2 prints them.
const SETTINGS: &str = "port 22\npermitrootlogin without-password\npasswordauthentication yes\nkbdinteractiveauthentication no\nauthenticationmethods any\n";

struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        stop_child(&mut self.0, Duration::from_secs(5));
    }
}

/// Lets it listen, to strangers, to administrators, and with a password for root.
pub(crate) fn planted(host: &mut Host) {
    let folder = host.lab.directory().join("sshd");
    let (programs, settings) = (folder.join("sbin"), folder.join("sshd_config"));
    fs::create_dir_all(&programs).unwrap();
    fs::write(folder.join("sshd.rs"), SOURCE).unwrap();
    fs::write(&settings, SETTINGS).unwrap();
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let mut build = Command::new(rustc);
    build.args(["--edition", "2024", "-o"]).arg(programs.join("sshd"));
    run(build.arg(folder.join("sshd.rs"))).unwrap();
    // Its own mounts: the machine's programs stay as they are.
    let script = format!(
        "mount -t overlay overlay -o lowerdir={}:/usr/sbin /usr/sbin && exec /usr/sbin/sshd -D -f {}",
        programs.display(),
        settings.display()
    );
    let mut command = host.lab.netns().command("unshare");
    command.args(["--mount", "--", "sh", "-c", &script]).stdin(Stdio::null());
    let server = Server(command.spawn().unwrap());
    let listens = settings.with_extension("listens");
    wait_for("the stand-in", Duration::from_secs(10), || Ok(listens.exists().then_some(()))).unwrap();
    host.mounts = Some(server.0.id());
    host.expect("ssh behind the firewall", &[], &OF_ENDPOINTS);
    host.nft(&[
        "add",
        "rule",
        "inet",
        "host",
        "input",
        "ip",
        "saddr",
        "203.0.113.0/28",
        "tcp",
        "dport",
        "22",
        "accept",
    ]);
    host.expect("ssh for administrators", &[], &OF_ENDPOINTS);
    fs::write(&settings, SETTINGS.replace("without-password", "yes")).unwrap();
    host.expect("a password for root", &["A25"], &OF_ENDPOINTS);
    fs::write(&settings, SETTINGS).unwrap();
    host.nft(&["add", "rule", "inet", "host", "input", "tcp", "dport", "22", "accept"]);
    host.expect("ssh for everybody", &["A16"], &OF_ENDPOINTS);
    host.mounts = None;
    drop(server);
    host.expect("no ssh", &[], &OF_ENDPOINTS);
}
