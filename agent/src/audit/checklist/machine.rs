//! The lines about the host: its firewall, its ssh, its engine.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
};

use super::{could_not_tell, weigh};
use crate::audit::{
    Seen,
    firewall::{Default as Fate, Family},
    host::Host,
    line::{Answer, Line},
    sockets::Api,
    ssh::RootLogin,
};

/// How many sockets are listed.
const MOST: usize = 6;
/// What is mounted to speak to an engine.
const SOCKETS: [&str; 5] = ["docker.sock", "containerd.sock", "podman.sock", "crio.sock", "buildkitd.sock"];

pub(super) fn firewall(seen: &Seen) -> Answer {
    let line = Line::FirewallDefaultDeny;
    match &seen.firewall {
        Err(error) => could_not_tell(line, None, error),
        Ok(firewall) => {
            let (against, unclear, mut looked) =
                fates(&firewall.defaults, "a connection to a port that no rule names");
            looked.push(format!("uplinks: {}", firewall.uplinks.join(", ")));
            weigh(line, None, against, unclear, looked)
        }
    }
}

/// What is let in, what is unclear, what is turned away.
fn fates(fates: &BTreeMap<Family, Fate>, what: &str) -> (Vec<String>, Vec<String>, Vec<String>) {
    let (mut against, mut unclear, mut denied) = (Vec::new(), Vec::new(), Vec::new());
    for (family, fate) in fates {
        match fate {
            Fate::Denied(by) => denied.push(format!("{family}: {what} is turned away by {by}")),
            Fate::Allowed(by) => against.push(format!("{family}: {what} is let in: {by}")),
            Fate::Unclear(by) => {
                unclear.push(format!("{family}: it hangs on what is not understood: {by}"));
            }
        }
    }
    (against, unclear, denied)
}

pub(super) fn ssh(seen: &Seen) -> Answer {
    let line = Line::SshRestricted;
    let sockets = match &seen.sockets {
        Ok(sockets) => sockets,
        Err(error) => return could_not_tell(line, None, error),
    };
    let public = |address: &&SocketAddr| !address.ip().is_loopback();
    let open: BTreeSet<&SocketAddr> = sockets.ssh.iter().filter(public).collect();
    let hidden = unseen(sockets.unseen.iter().filter(public));
    if open.is_empty() && hidden.is_none() {
        let what =
            if sockets.ssh.is_empty() { "no `sshd` listens" } else { "`sshd` listens on localhost only" };
        return weigh(line, None, Vec::new(), Vec::new(), vec![what.to_owned()]);
    }
    let firewall = match &seen.firewall {
        Ok(firewall) => firewall,
        Err(error) => return could_not_tell(line, None, error),
    };
    let (mut against, mut unclear, mut looked) = (Vec::new(), Vec::from_iter(hidden), Vec::new());
    for address in open {
        let by_family = firewall.ports.get(&address.port()).cloned().unwrap_or_default();
        // A socket for every IPv6 address takes IPv4 as well.
        let concerned = |family: &Family| match (address.ip(), family) {
            (IpAddr::V4(_), family) => *family == Family::Ipv4,
            (IpAddr::V6(ip), family) => ip.is_unspecified() || *family == Family::Ipv6,
        };
        let by_family = by_family.into_iter().filter(|(family, _)| concerned(family)).collect();
        let what = format!("a stranger's connection to `sshd` at `{address}`");
        let (let_in, odd, denied) = fates(&by_family, &what);
        against.extend(let_in);
        unclear.extend(odd);
        looked.extend(denied);
    }
    weigh(line, None, against, unclear, looked)
}

pub(super) fn root_login(seen: &Seen) -> Answer {
    let line = Line::NoRootPassword;
    let sockets = match &seen.sockets {
        Ok(sockets) => sockets,
        Err(error) => return could_not_tell(line, None, error),
    };
    let (mut against, mut unclear, mut looked) = (Vec::new(), Vec::new(), Vec::new());
    for login in &sockets.root_logins {
        match login {
            Ok(RootLogin::ByPassword(settings)) => against.push(settings.clone()),
            Ok(RootLogin::WithoutPassword(settings)) => looked.push(settings.clone()),
            Err(error) => unclear.push(error.clone()),
        }
    }
    if sockets.root_logins.is_empty() {
        // Somebody listens where `sshd` does, or where nobody can see who it is.
        let hidden = sockets.ssh.iter().chain(&sockets.unseen);
        unclear.extend(unseen(hidden));
        looked.push("no `sshd` listens".to_owned());
    }
    weigh(line, None, against, unclear, looked)
}

/// That somebody listens who cannot be looked at.
fn unseen<'s>(addresses: impl Iterator<Item = &'s SocketAddr>) -> Option<String> {
    let all: Vec<String> = addresses.map(|address| format!("`{address}`")).collect();
    let listed = all.iter().take(MOST).cloned().collect::<Vec<_>>().join(", ");
    let more = if all.len() > MOST { ", …" } else { "" };
    (!all.is_empty())
        .then(|| format!("who listens at {listed}{more} cannot be seen without root's rights over processes"))
}

pub(super) fn api(seen: &Seen) -> Answer {
    let line = Line::ApiNotOnTcp;
    let sockets = match &seen.sockets {
        Ok(sockets) => sockets,
        Err(error) => return could_not_tell(line, None, error),
    };
    let (mut against, mut unclear) = (Vec::new(), Vec::from_iter(unseen(sockets.unseen.iter())));
    for (address, api) in &sockets.engine {
        match api {
            Api::Open => {
                against.push(format!("the engine's API answers anybody at `{address}`, without TLS"));
            }
            Api::Tls => unclear
                .push(format!("the engine listens at `{address}` with TLS: whom it lets in cannot be told")),
            Api::Other => {}
        }
    }
    let looked = vec![format!("{} TCP sockets of the engine, none with its API", sockets.engine.len())];
    weigh(line, None, against, unclear, looked)
}

pub(super) fn sockets_mounted(host: &Host, seen: &Seen) -> Answer {
    let mut against = Vec::new();
    for container in &host.containers {
        for mount in &container.mounts {
            let source = mount.source.as_deref().unwrap_or_default();
            let file = source.rsplit('/').next().unwrap_or_default();
            if SOCKETS.contains(&file) {
                against.push(format!("`{}` mounts `{source}`", container.name));
            }
        }
    }
    let looked = vec![format!("looked at the mounts of {} containers", host.containers.len())];
    weigh(Line::SocketNotMounted, None, against, seen.unreadable.clone(), looked)
}

pub(super) fn bound(host: &Host, seen: &Seen) -> Answer {
    let line = Line::DeclaredBound;
    let sockets = match &seen.sockets {
        Ok(sockets) => sockets,
        Err(error) => return could_not_tell(line, None, error),
    };
    let declared: BTreeSet<(SocketAddr, &str)> = host
        .containers
        .iter()
        .flat_map(|container| container.published())
        .filter_map(|(_, protocol, address, port)| Some((SocketAddr::new(address?, port), protocol)))
        .collect();
    let bound: BTreeSet<(SocketAddr, &str)> =
        sockets.proxies.iter().map(|proxy| (proxy.host, proxy.protocol.as_str())).collect();
    let show = |(address, protocol): &(SocketAddr, &str)| format!("`{address}`/{protocol}");
    let against = bound
        .difference(&declared)
        .map(|port| format!("{} is bound, but no container publishes it", show(port)));
    let missing = declared
        .difference(&bound)
        .filter(|(address, _)| !sockets.unseen.contains(address))
        .map(|port| format!("{} is published, but no proxy listens there", show(port)));
    let missing = missing.chain(unseen(sockets.unseen.iter())).collect();
    let looked = vec![format!("{} published addresses, {} proxies", declared.len(), bound.len())];
    weigh(line, None, against.collect(), missing, looked)
}
