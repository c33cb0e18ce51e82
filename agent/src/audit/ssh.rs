//! Whether `sshd` lets root in by a password, in its own words: `sshd -T`, as it would treat a stranger. Only the system's
//! own program is run, and only for a process of root: anybody may call a program `sshd`.

use std::{fs, path::Path, process::Command};

/// Where the system's `sshd` is.
const PROGRAMS: [&str; 2] = ["/usr/sbin/sshd", "/usr/local/sbin/sshd"];
/// Root, from an address that is nobody's (RFC 5737): what `Match` says about administrators' addresses does not count.
const STRANGER: &str = "user=root,host=stranger.invalid,addr=198.51.100.1";

/// What `sshd` says of itself.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RootLogin {
    /// The settings that decide, as they are in force.
    ByPassword(String),
    WithoutPassword(String),
}

/// Asks the `sshd` that a process is, or, if a service manager listens for it, the one that it would start.
pub(super) fn ask(process: &Path, is_sshd: bool) -> Result<RootLogin, String> {
    let exists = || PROGRAMS.into_iter().find(|program| Path::new(program).exists());
    let (program, settings) = if is_sshd { running(process)? } else { (exists().ok_or(NO_SSHD)?, None) };
    let mut command = Command::new(program);
    command.args(["-T", "-C", STRANGER]);
    if let Some(file) = settings {
        command.arg("-f").arg(file);
    }
    let output = command.output().map_err(|error| format!("failed to run `{program} -T`: {error}"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(format!("`{program} -T` failed: {}", said.lines().next().unwrap_or_default()));
    }
    judge(&String::from_utf8_lossy(&output.stdout))
}

const NO_SSHD: &str = "there is no `sshd` to ask for its settings";

/// The program and the settings file of a running `sshd`, if both are root's to choose.
fn running(process: &Path) -> Result<(&'static str, Option<String>), String> {
    let link = |name: &str| fs::read_link(process.join(name)).ok();
    let program =
        link("exe").map(|path| path.display().to_string().trim_end_matches(" (deleted)").to_owned());
    let program = PROGRAMS.into_iter().find(|known| Some(*known) == program.as_deref());
    let own = fs::read_link("/proc/self/ns/mnt").ok();
    let (Some(program), true, true) = (program, link("ns/mnt") == own, is_roots(process)) else {
        return Err("a program that calls itself `sshd` is not the system's: it is not asked".to_owned());
    };
    let line = fs::read(process.join("cmdline")).unwrap_or_default();
    let line = String::from_utf8_lossy(&line);
    // A main process writes over its words: `sshd: /usr/sbin/sshd -D [listener] 0 of 10-100 startups`.
    let mut words = line.split(['\0', ' ']).skip_while(|word| *word != "-f");
    Ok((program, words.nth(1).map(str::to_owned)))
}

fn is_roots(process: &Path) -> bool {
    let status = fs::read_to_string(process.join("status")).unwrap_or_default();
    let uids = status.lines().find_map(|line| line.strip_prefix("Uid:"));
    uids.is_some_and(|uids| uids.split_whitespace().all(|uid| uid == "0"))
}

/// Judges the settings as `sshd -T` prints them: names in lower case, a value each.
fn judge(printed: &str) -> Result<RootLogin, String> {
    let value = |name: &str| {
        let mut lines = printed.lines().filter_map(|line| line.split_once(' '));
        lines.find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
    };
    let root = value("permitrootlogin").ok_or("`sshd -T` says nothing about `PermitRootLogin`")?;
    let is_on = |name: &str| value(name) == Some("yes");
    let asks = is_on("passwordauthentication") || is_on("kbdinteractiveauthentication");
    let methods = value("authenticationmethods").unwrap_or("any");
    let only_passwords = |chain: &str| {
        chain.split(',').all(|method| {
            let method = method.split(':').next().unwrap_or_default();
            matches!(method, "any" | "password" | "keyboard-interactive")
        })
    };
    let shown = format!(
        "`PermitRootLogin {root}`, `PasswordAuthentication {}`, `AuthenticationMethods {methods}`",
        value("passwordauthentication").unwrap_or("?")
    );
    if root == "yes" && asks && methods.split_whitespace().any(only_passwords) {
        return Ok(RootLogin::ByPassword(shown));
    }
    Ok(RootLogin::WithoutPassword(shown))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What OpenSSH 9.2 prints, as far as it matters here.
    const DEFAULTS: &str = "port 22\nusepam yes\npermitrootlogin without-password\npubkeyauthentication yes\npasswordauthentication yes\nkbdinteractiveauthentication no\nauthenticationmethods any\n";

    #[test]
    fn root_gets_in_by_a_password_only_if_everything_lets_it() {
        let with = |changes: &[(&str, &str)]| {
            let printed = changes.iter().fold(DEFAULTS.to_owned(), |text, (from, to)| text.replace(from, to));
            matches!(judge(&printed).unwrap(), RootLogin::ByPassword(_))
        };
        let root = ("permitrootlogin without-password", "permitrootlogin yes");
        assert!(!with(&[]));
        assert!(with(&[root]));
        assert!(!with(&[("permitrootlogin without-password", "permitrootlogin forced-commands-only")]));
        assert!(!with(&[root, ("passwordauthentication yes", "passwordauthentication no")]));
        let interactive = ("kbdinteractiveauthentication no", "kbdinteractiveauthentication yes");
        assert!(with(&[root, ("passwordauthentication yes", "passwordauthentication no"), interactive]));
        let methods = |methods| ("authenticationmethods any", methods);
        assert!(!with(&[root, methods("authenticationmethods publickey,password")]));
        assert!(with(&[root, methods("authenticationmethods publickey password")]));
        assert!(judge("port 22\n").is_err());
    }

    #[test]
    fn who_only_calls_itself_sshd_is_not_run() {
        let own = Path::new("/proc/self");
        assert!(running(own).unwrap_err().contains("is not the system's"));
    }
}
