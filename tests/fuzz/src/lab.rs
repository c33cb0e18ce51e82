//! The lab itself: two bridges, five namespaces, somebody to look at every interface, and the counters of every port.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use lab::interrupt;
use lab::netns::{Netns, within};
use lab::process::{run, words};
use lab::scratch::Scratch;

use crate::attacker::Attacker;
use crate::frame::Frame;
use crate::packet_socket::{BATCH, Sender};
use crate::registry::Registry;
use crate::servers::Servers;
use crate::town::{EPHEMERAL, MEMBERS, Points, Who};
use crate::watchers::{Watchers, Watching};

/// Routers that say who they are, redirects and unanswered floods are part of the game: nobody here may believe the
/// former or tire of the latter. Every SYN is answered, and every answer is a cookie.
const SYSCTLS: &str = "net/ipv4/conf/all/rp_filter=0 net/ipv4/conf/default/rp_filter=0
    net/ipv4/icmp_ratelimit=0 net/ipv6/icmp/ratelimit=0 net/ipv4/tcp_syncookies=2
    net/ipv4/icmp_echo_ignore_broadcasts=0 net/ipv6/conf/default/accept_dad=0 net/ipv6/conf/default/accept_ra=0
    net/ipv4/conf/all/accept_redirects=0 net/ipv6/conf/default/accept_redirects=0
    net/ipv4/conf/all/send_redirects=0";
/// How long nothing must have come in before a round counts as over.
const SILENCE: Duration = Duration::from_millis(30);
/// How long something that has to come may take: whoever answers may have to wait for a processor.
const PATIENCE: Duration = Duration::from_secs(2);
const LIMIT: Duration = Duration::from_secs(20);

/// Everything in it goes with it.
#[derive(Debug)]
pub struct Lab {
    watching: Watching,
    sender: Sender,
    _servers: Servers,
    members: BTreeMap<Who, Netns>,
    host: Netns,
    scratch: Scratch,
}

/// What the ports of the bridges have counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    /// Frames that the containers sent.
    pub from_endpoints: u64,
    /// Frames that were handed to the containers.
    pub to_endpoints: u64,
    /// Frames that found the queue on the other side full.
    pub lost: u64,
}

impl Lab {
    /// Builds it; nothing stands in anybody's way yet.
    pub fn start(attacker: Attacker) -> Result<Self> {
        let scratch = Scratch::create()?;
        let host = Netns::create()?;
        settle_in(&host)?;
        host.sysctl("net/ipv4/ip_forward=1 net/ipv6/conf/all/forwarding=1")?;
        without_bridge_filters(&host)?;
        for number in [0, 1] {
            let side = 40 + number;
            host.ip_lines(&format!(
                "link add lab{number} address 02:00:00:00:{side:02x}:01 type bridge mcast_snooping 0
                 address add 198.18.{side}.1/24 dev lab{number}
                 address add 2001:db8:{side}::1/64 dev lab{number} nodad
                 link set lab{number} up"
            ))?;
        }
        let mut members = BTreeMap::new();
        for who in MEMBERS {
            members.insert(who, member(&host, who)?);
        }
        let (watching, servers) = look(&host, &members)?;
        let sender = Sender::open(&place(&members, Who::Hostile)?, "eth0")?;
        let lab = Self { watching, sender, _servers: servers, members, host, scratch };
        fs::write(lab.policy(), attacker.policy())?;
        fs::write(lab.inventory(), inventory(attacker)?)?;
        Ok(lab)
    }

    /// The namespace of the bridges.
    #[must_use]
    pub fn host(&self) -> &Netns {
        &self.host
    }

    /// The lab's directory.
    #[must_use]
    pub fn scratch(&self) -> &Scratch {
        &self.scratch
    }

    /// Where somebody's sockets are made.
    pub fn place(&self, who: Who) -> Result<PathBuf> {
        place(&self.members, who)
    }

    /// Somebody's namespace.
    pub fn member(&self, who: Who) -> Option<&Netns> {
        self.members.get(&who)
    }

    /// The policy file.
    #[must_use]
    pub fn policy(&self) -> PathBuf {
        self.scratch.path().join("policy.yaml")
    }

    /// The inventory file.
    #[must_use]
    pub fn inventory(&self) -> PathBuf {
        self.scratch.path().join("inventory.yaml")
    }

    /// Sends frames and waits until all that comes of them has come: first what has to, the last one of which tells
    /// that those before it are through, then nothing for a while.
    pub fn round(&mut self, frames: Vec<Frame>) -> Result<Arc<Registry>> {
        let registry = Arc::new(Registry::new(frames));
        self.watching.expect(&registry);
        for batch in registry.frames.chunks(BATCH) {
            interrupt::check()?;
            self.sender.send(batch)?;
        }
        let (start, mut before, mut since) = (Instant::now(), 0, Instant::now());
        while start.elapsed() < LIMIT {
            let sightings = registry.sightings();
            if sightings != before {
                (before, since) = (sightings, Instant::now());
            }
            let silent = since.elapsed() > SILENCE;
            if silent && (registry.is_complete() || since.elapsed() > PATIENCE) {
                break;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        self.watching.missed_nothing()?;
        Ok(registry)
    }

    /// Who has been told that somebody's address is at another's MAC, and believes it.
    pub fn deceived(&self) -> Result<Vec<String>> {
        let mut deceived = Vec::new();
        let honest = self.members.iter().filter(|(who, _)| **who != Who::Hostile);
        let namespaces = honest.map(|(who, netns)| (who.name(), netns)).chain([("host", &self.host)]);
        for (name, netns) in namespaces {
            deceived.extend(wrong_neighbours(&netns.ip("neigh show")?).map(|line| format!("{name}: {line}")));
        }
        Ok(deceived)
    }

    /// What all ports have counted so far.
    pub fn counters(&self) -> Result<Counters> {
        let mut counters = Counters::default();
        for (name, fields) in devices(&self.host)? {
            if name.starts_with("p-") {
                counters.from_endpoints += fields[1];
                counters.to_endpoints += fields[9] + fields[11];
                counters.lost += fields[11];
            }
        }
        for netns in self.members.values() {
            let lost = devices(netns)?.into_iter().find(|(name, _)| name == "eth0");
            counters.lost += lost.map_or(0, |(_, fields)| fields[11]);
        }
        Ok(counters)
    }
}

/// The lines of `/proc/net/dev`: eight numbers of what came in, eight of what went out.
fn devices(netns: &Netns) -> Result<Vec<(String, Vec<u64>)>> {
    let text = within(&netns.path(), || fs::read_to_string("/proc/thread-self/net/dev"))??;
    text.lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(name, fields)| {
            let fields: Result<Vec<u64>, _> = fields.split_whitespace().map(str::parse).collect();
            Ok((name.trim().to_owned(), fields.context("not a number in `/proc/net/dev`")?))
        })
        .collect()
}

/// Entries that say another MAC than the one of whoever has the address.
fn wrong_neighbours(shown: &str) -> impl Iterator<Item = &str> {
    shown.lines().filter(|line| {
        let mut words = line.split_whitespace();
        let address = words.next().and_then(|word| word.parse().ok());
        let said = words.skip_while(|word| *word != "lladdr").nth(1);
        let owner = MEMBERS.into_iter().chain([Who::Gateway]).find(|who| {
            address.is_some_and(|address| {
                [who.address(false), who.address(true), who.link_local().into()].contains(&address)
            })
        });
        match (owner, said) {
            (Some(owner), Some(said)) => text(owner.mac()) != said,
            _ => false,
        }
    })
}

fn settle_in(netns: &Netns) -> Result<()> {
    netns.sysctl(SYSCTLS)?;
    within(&netns.path(), || {
        let (first, last) = EPHEMERAL;
        fs::write("/proc/sys/net/ipv4/ip_local_port_range", format!("{first} {last}"))
    })?
    .context("failed to set the range of ports")
}

/// Where the kernel has these filters, a new namespace begins with them.
fn without_bridge_filters(host: &Netns) -> Result<()> {
    for kind in ["ip", "ip6", "arp"] {
        let key = format!("net/bridge/bridge-nf-call-{kind}tables");
        if fs::exists(format!("/proc/sys/{key}"))? {
            host.sysctl(&format!("{key}=0"))?;
        }
    }
    Ok(())
}

fn text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

fn member(host: &Netns, who: Who) -> Result<Netns> {
    let netns = Netns::create()?;
    settle_in(&netns)?;
    let (name, bridge, side) = (who.name(), who.bridge(), 40 + who.bridge());
    let mac = text(who.mac());
    host.ip(&format!("link add p-{name} type veth peer name eth0 address {mac} netns {}", netns.name()))?;
    host.ip(&format!("link set p-{name} master lab{bridge} up"))?;
    // Frames under foreign addresses would draw traffic away, and what follows would only look blocked.
    run(&mut words(&format!(
        "bridge -n {} fdb replace {mac} dev p-{name} master static sticky",
        host.name()
    )))?;
    netns.ip_lines(&format!(
        "address add {}/24 dev eth0
         address add {}/64 dev eth0 nodad
         link set eth0 up
         route add default via 198.18.{side}.1
         route add default via 2001:db8:{side}::1",
        who.v4(),
        who.v6()
    ))?;
    Ok(netns)
}

fn place(members: &BTreeMap<Who, Netns>, who: Who) -> Result<PathBuf> {
    Ok(members.get(&who).with_context(|| format!("no namespace for `{}`", who.name()))?.path())
}

fn look(host: &Netns, members: &BTreeMap<Who, Netns>) -> Result<(Watching, Servers)> {
    let mut watchers = Watchers::default();
    let mut servers = Servers::default();
    for (&who, netns) in members {
        if who == Who::Hostile {
            watchers.answers(&netns.path(), "eth0")?;
        } else {
            watchers.interface(&netns.path(), "eth0", who.point())?;
        }
        watchers.sockets(&netns.path(), who)?;
        servers.listen(&netns.path())?;
    }
    for bridge in ["lab0", "lab1"] {
        watchers.interface(&host.path(), bridge, Points::HOST)?;
    }
    watchers.sockets(&host.path(), Who::Gateway)?;
    servers.listen(&host.path())?;
    Ok((watchers.start(), servers.start()))
}

fn inventory(attacker: Attacker) -> Result<String> {
    let mut lines = String::from("version: 1\nendpoints:\n");
    for who in MEMBERS {
        let name = who.name();
        let labels = if attacker.is_unmanaged(who) {
            String::new()
        } else {
            format!("project: fuzz, service: {name}, ")
        };
        writeln!(
            lines,
            "  - {{ port: p-{name}, {labels}container: {name}-1, mac: \"{}\", addresses: [\"{}\", \"{}\"] }}",
            text(who.mac()),
            who.v4(),
            who.v6()
        )?;
    }
    Ok(lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_with_anothers_mac_is_found() {
        let shown = "198.18.40.11 dev lab0 lladdr 02:00:00:00:28:0b REACHABLE\n\
                     2001:db8:40::b dev lab0 lladdr 02:00:00:00:28:0a router STALE\n\
                     198.18.40.12 dev lab0 FAILED\n\
                     198.18.40.77 dev lab0 lladdr 02:00:00:00:28:0a STALE\n";
        assert_eq!(
            wrong_neighbours(shown).collect::<Vec<_>>(),
            ["2001:db8:40::b dev lab0 lladdr 02:00:00:00:28:0a router STALE"]
        );
    }
}
