//! What lets a container out of its box: whoever has it can take the enforcement off.

use compose::{Node, Span};

use super::{
    Code, Detail, Found,
    subject::{Service, Subject},
};

/// Capabilities that get around what enforces, or take it off.
const CAPABILITIES: [(&str, &str); 12] = [
    ("ALL", "everything"),
    ("NET_ADMIN", "change interfaces, addresses and filters"),
    ("NET_RAW", "forge packets of others"),
    ("SYS_ADMIN", "mount, and enter other namespaces"),
    ("SYS_MODULE", "load kernel modules"),
    ("SYS_PTRACE", "trace processes"),
    ("SYS_RAWIO", "write to the machine's memory"),
    ("SYS_BOOT", "restart the machine"),
    ("DAC_READ_SEARCH", "open files of the host by number"),
    ("BPF", "load kernel programs"),
    ("PERFMON", "read the kernel's memory"),
    ("MAC_ADMIN", "change the rules of the security module"),
];

/// Sockets through which containers are started.
const SOCKETS: [&str; 6] =
    ["docker.sock", "containerd.sock", "podman.sock", "crio.sock", "buildkitd.sock", "dockershim.sock"];

/// Folders from which the host can be changed; what is below them as well.
const FOLDERS: [&str; 12] = [
    "/boot",
    "/dev",
    "/etc",
    "/lib/modules",
    "/proc",
    "/root",
    "/run",
    "/sys",
    "/usr",
    "/var/lib/containerd",
    "/var/lib/docker",
    "/var/run",
];

/// Files that half of all images mount, and that change nothing.
const HARMLESS: [&str; 6] =
    ["/etc/localtime", "/etc/timezone", "/etc/hostname", "/etc/resolv.conf", "/etc/ssl/certs", "/dev/null"];

pub(super) fn check(subject: &Subject<'_>, found: &mut Found<'_>) {
    for service in &subject.services {
        let mut findings = Vec::new();
        namespaces(service, &mut findings);
        mounts(service, &mut findings);
        root(subject, service, found);
        let rule = subject.rules_of(service).map(|rules| rules.written.mark);
        for (code, span, message, fix) in findings {
            found.add(code, Detail { service: Some(service.name), span, message, rule, fix });
        }
    }
}

type Raw = (Code, Span, String, String);

fn namespaces(service: &Service<'_>, findings: &mut Vec<Raw>) {
    let name = service.name;
    let text = |key: &str| service.node.get(key).and_then(|node| Some((node.as_text()?, node.span)));
    let key_of = |key: &str| service.node.as_map().and_then(|map| map.entry(key));
    if let Some(("host", span)) = text("network_mode") {
        let message = format!("`{name}` is in the network of the host: nothing is enforced on it");
        findings.push((
            Code::HostNetwork,
            span,
            message,
            "remove `network_mode: host` and publish what others need".to_owned(),
        ));
    }
    if let Some(entry) = key_of("privileged").filter(|entry| entry.node.as_bool() == Some(true)) {
        let span = Span { end: entry.node.span.end.max(entry.key.end), ..entry.key };
        let message = format!("`{name}` is privileged: it can take the enforcement off");
        findings.push((
            Code::Privileged,
            span,
            message,
            "remove `privileged`; add the one capability or device that is needed".to_owned(),
        ));
    }
    for key in ["pid", "ipc", "uts", "userns_mode", "cgroup"] {
        if let Some(("host", span)) = text(key) {
            let message = format!("`{name}` shares the host's namespace: `{key}: host`");
            findings.push((Code::HostNamespace, span, message, format!("remove `{key}: host`")));
        }
    }
    for item in service.node.get("cap_add").map(Node::items).unwrap_or_default() {
        let written = item.as_text().unwrap_or_default();
        let upper = written.to_uppercase();
        let plain = upper.strip_prefix("CAP_").unwrap_or(&upper);
        if let Some((_, can)) = CAPABILITIES.iter().find(|(capability, _)| *capability == plain) {
            let message = format!("`{name}` has the capability `{written}`: it can {}", can_do(can));
            findings.push((
                Code::AddedCapability,
                item.span,
                message,
                format!("remove `{written}` from `cap_add`"),
            ));
        }
    }
}

/// A service that must not run as root, and does, or leaves it to its image.
fn root(subject: &Subject<'_>, service: &Service<'_>, found: &mut Found<'_>) {
    let Some(rule) = subject.rules_of(service).and_then(|rules| rules.effective.non_root) else {
        return;
    };
    let user = service.node.get("user");
    let text = user.and_then(Node::printed).unwrap_or_default();
    let (span, message) = match (user, text.split(':').next().unwrap_or_default()) {
        (Some(user), "" | "0" | "root") => {
            (user.span, format!("`{}` runs as root, but the policy asks for somebody else", service.name))
        }
        (Some(_), _) => return,
        (None, _) => (
            service.key,
            format!(
                "`{}` runs as whoever its image says, but the policy asks for anybody but root",
                service.name
            ),
        ),
    };
    let fix = "set `user` to a number other than 0: `user: \"1000:1000\"`".to_owned();
    found.add(Code::RunsAsRoot, Detail { service: Some(service.name), span, message, rule: Some(rule), fix });
}

fn can_do(what: &str) -> String {
    if what == "everything" { "do everything".to_owned() } else { what.to_owned() }
}

fn mounts(service: &Service<'_>, findings: &mut Vec<Raw>) {
    let name = service.name;
    if let Some(entry) = service.node.as_map().and_then(|map| map.entry("use_api_socket"))
        && entry.node.as_bool() == Some(true)
    {
        let message = format!("`{name}` is given the engine's socket: that is root on the host");
        findings.push((Code::DockerSocket, entry.key, message, "remove `use_api_socket`".to_owned()));
    }
    for mount in service.node.get("volumes").map(Node::items).unwrap_or_default() {
        let text = |key: &str| mount.get(key).and_then(Node::as_text);
        let (Some("bind"), Some(source)) = (text("type"), text("source")) else {
            continue;
        };
        let file = source.rsplit('/').next().unwrap_or_default();
        if SOCKETS.contains(&file) {
            let message = format!("`{name}` mounts `{source}`: that is root on the host");
            findings.push((Code::DockerSocket, mount.span, message, "remove the mount".to_owned()));
        } else if let Some(folder) = dangerous(source) {
            let message = if folder == source {
                format!("`{name}` mounts `{source}` of the host")
            } else if folder.starts_with(source) {
                format!("`{name}` mounts `{source}`, which holds the host's `{folder}`")
            } else {
                format!("`{name}` mounts `{source}`, which is part of the host's `{folder}`")
            };
            let fix = "mount only the folder that is needed, outside of the system's own".to_owned();
            findings.push((Code::DangerousMount, mount.span, message, fix));
        }
    }
}

/// The folder of the host that a mount reaches into, or holds.
fn dangerous(source: &str) -> Option<&'static str> {
    if source == "/" {
        return Some("/");
    }
    let is_below = |path: &str, folder: &str| {
        path == folder || path.strip_prefix(folder).is_some_and(|rest| rest.starts_with('/'))
    };
    if HARMLESS.iter().any(|harmless| is_below(source, harmless)) {
        return None;
    }
    FOLDERS.into_iter().find(|folder| is_below(source, folder) || is_below(folder, source))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_of_the_system_and_those_that_hold_them() {
        assert_eq!(dangerous("/"), Some("/"));
        assert_eq!(dangerous("/etc/nginx"), Some("/etc"));
        assert_eq!(dangerous("/var"), Some("/var/lib/containerd"));
        assert_eq!(dangerous("/sys/fs/bpf"), Some("/sys"));
        for fine in ["/srv/app", "/etc/localtime", "/opt/x", "/var/log", "/devices"] {
            assert_eq!(dangerous(fine), None, "{fine}");
        }
    }
}
