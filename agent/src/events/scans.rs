//! Who tries many ports or many targets: for each source of denied attempts, how many different ones in the last ten
//! minutes. The counters cannot tell, as ports that a policy does not name share one label. Bounded in memory, and
//! without a clock: time is an argument.

use std::{
    collections::{BTreeMap, HashMap},
    hash::Hash,
};

use agent_common::{
    event::DeniedEvent,
    identity::{FIRST_ADDRESS_CLASS, HOST, WORLD},
    packet::{Address, PROTOCOL_TCP, PROTOCOL_UDP},
    verdict::DropReason,
};

/// Nanoseconds for which a port or a target counts.
pub const WINDOW: u64 = 600 * 1_000_000_000;
/// How far is counted; a reading of this stands for as many or more.
pub const MOST: usize = 100;
/// Sources that are told apart.
const SOURCES: usize = 512;
/// Where Linux begins to choose the ports of callers.
const FIRST_EPHEMERAL: u16 = 32_768;

/// The most different ports and targets that one source was denied in the window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scan {
    /// TCP and UDP ports, whatever the target.
    pub ports: usize,
    /// Containers, by their ports of a bridge, and the host, whatever the port that was called.
    pub local_targets: usize,
    /// Addresses of the world.
    pub world_targets: usize,
}

impl Scan {
    /// The larger of each.
    #[must_use]
    pub fn max(self, other: Self) -> Self {
        Self {
            ports: self.ports.max(other.ports),
            local_targets: self.local_targets.max(other.local_targets),
            world_targets: self.world_targets.max(other.world_targets),
        }
    }

    const fn size(self) -> usize {
        self.ports + self.local_targets + self.world_targets
    }
}

/// One source: a container by the port of its bridge, whatever addresses it writes; anybody else by the address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Source {
    identity: u32,
    ifindex: u32,
    address: Address,
}

impl Source {
    const fn of(event: &DeniedEvent) -> Self {
        let ifindex = event.source_port_ifindex;
        let address = if ifindex == 0 { event.source_address } else { Address::UNSPECIFIED };
        Self { identity: event.source, ifindex, address }
    }
}

/// Different things, each with the last time it was seen.
#[derive(Debug)]
struct Distinct<T>(HashMap<T, u64>);

impl<T> Default for Distinct<T> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<T: Eq + Hash> Distinct<T> {
    fn insert(&mut self, thing: T, now: u64) {
        if let Some(seen) = self.0.get_mut(&thing) {
            *seen = now;
            return;
        }
        if self.0.len() >= MOST {
            self.0.retain(|_, seen| is_recent(*seen, now));
        }
        if self.0.len() < MOST {
            self.0.insert(thing, now);
        }
    }

    fn count(&self, now: u64) -> usize {
        self.0.values().filter(|&&seen| is_recent(seen, now)).count()
    }
}

const fn is_recent(seen: u64, now: u64) -> bool {
    now.saturating_sub(seen) < WINDOW
}

/// What one source tried.
#[derive(Debug, Default)]
struct Tried {
    ports: Distinct<(u8, u16)>,
    local: Distinct<Target>,
    world: Distinct<Target>,
}

impl Tried {
    fn add(&mut self, event: &DeniedEvent) {
        if has_called_port(event) {
            self.ports.insert((event.protocol, event.destination_port), event.time);
        }
        let targets = match event.destination {
            WORLD | FIRST_ADDRESS_CLASS.. => &mut self.world,
            _ => &mut self.local,
        };
        targets.insert(target(event), event.time);
    }

    fn scan(&self, now: u64) -> Scan {
        Scan {
            ports: self.ports.count(now),
            local_targets: self.local.count(now),
            world_targets: self.world.count(now),
        }
    }
}

/// One target: a container by the port of its bridge, as most have an address of each family and callers try both;
/// the host as a whole; anybody else by the address.
type Target = (u32, Address);

const fn target(event: &DeniedEvent) -> Target {
    match (event.destination_port_ifindex, event.destination) {
        (0, HOST) => (0, Address::UNSPECIFIED),
        (0, _) => (0, event.destination_address),
        (ifindex, _) => (ifindex, Address::UNSPECIFIED),
    }
}

/// Whether the destination port is one that somebody called. A datagram to a high port may be the late answer of a
/// server to a client whose flow has ended, and a busy server has many clients.
const fn has_called_port(event: &DeniedEvent) -> bool {
    match event.protocol {
        PROTOCOL_TCP => true,
        PROTOCOL_UDP => event.destination_port < FIRST_EPHEMERAL,
        _ => false,
    }
}

/// Whether the policy denied an attempt to reach somebody. Malformed frames and packets without a flow are none: the
/// late packets of a connection that has ended go to the client's port, another one each time.
fn is_denied_by_policy(event: &DeniedEvent) -> bool {
    use DropReason::{
        CrossInstance, EgressDenied, HostDenied, NoRule, NotExposed, NotInProfile, UnknownDestination,
    };
    [UnknownDestination, NotInProfile, CrossInstance, HostDenied, NotExposed, EgressDenied, NoRule]
        .iter()
        .any(|reason| *reason as u8 == event.reason)
}

/// All sources that were denied something lately.
#[derive(Debug, Default)]
pub struct Scans {
    sources: HashMap<Source, Tried>,
}

impl Scans {
    /// Takes one denied attempt.
    pub fn add(&mut self, event: &DeniedEvent) {
        if !is_denied_by_policy(event) {
            return;
        }
        let source = Source::of(event);
        if self.sources.len() >= SOURCES && !self.sources.contains_key(&source) {
            self.make_room(event.time);
        }
        self.sources.entry(source).or_default().add(event);
    }

    /// Forgets the quarter that tried least, so that a flood of sources with one attempt each hides no scan. A quarter,
    /// because to look through all of them is too much work for each new one.
    fn make_room(&mut self, now: u64) {
        let mut sources: Vec<(usize, Source)> =
            self.sources.iter().map(|(source, tried)| (tried.scan(now).size(), *source)).collect();
        sources.sort_unstable_by_key(|(size, _)| *size);
        for (_, source) in sources.iter().take(SOURCES / 4) {
            self.sources.remove(source);
        }
    }

    /// What the busiest source of each identity tried.
    #[must_use]
    pub fn read(&self, now: u64) -> BTreeMap<u32, Scan> {
        let mut scans = BTreeMap::<u32, Scan>::new();
        for (source, tried) in &self.sources {
            let scan = tried.scan(now);
            if scan.size() > 0 {
                let most = scans.entry(source.identity).or_default();
                *most = most.max(scan);
            }
        }
        scans
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::fixture;

    const SECOND: u64 = 1_000_000_000;

    fn event(source: u32, ifindex: u32, port: u16, time: u64) -> DeniedEvent {
        DeniedEvent {
            source,
            source_port_ifindex: ifindex,
            destination_port: port,
            time,
            reason: DropReason::NoRule as u8,
            protocol: PROTOCOL_TCP,
            ..fixture::event()
        }
    }

    fn address(number: u32) -> Address {
        Address::from_ipv4((0xc633_6400 + number).to_be_bytes())
    }

    #[test]
    fn different_ports_count_and_repeated_ones_do_not() {
        let mut scans = Scans::default();
        for _ in 0..50 {
            for port in [22, 80, 443] {
                scans.add(&event(300, 9, port, 5));
            }
        }
        scans.add(&DeniedEvent { protocol: PROTOCOL_UDP, ..event(300, 9, 80, 5) });
        let scan = Scan { ports: 4, local_targets: 1, world_targets: 0 };
        assert_eq!(scans.read(5), BTreeMap::from([(300, scan)]));
    }

    #[test]
    fn what_is_long_ago_does_not_count() {
        let mut scans = Scans::default();
        scans.add(&event(300, 9, 22, 0));
        scans.add(&event(300, 9, 80, 300 * SECOND));
        assert_eq!(scans.read(599 * SECOND)[&300].ports, 2);
        assert_eq!(scans.read(600 * SECOND)[&300].ports, 1);
        assert_eq!(scans.read(900 * SECOND), BTreeMap::new());
    }

    #[test]
    fn sources_of_one_identity_are_not_added_up() {
        let mut scans = Scans::default();
        for number in 0..60 {
            // Sixty clients of the world with one port each are no scan.
            let source_address = address(number);
            scans.add(&DeniedEvent { source_address, ..event(WORLD, 0, 1000 + number as u16, 0) });
        }
        assert_eq!(scans.read(0)[&WORLD].ports, 1);
        // Neither does a container become many by writing other addresses.
        for number in 0..60 {
            let source_address = address(number);
            scans.add(&DeniedEvent { source_address, ..event(300, 9, 1000 + number as u16, 0) });
        }
        assert_eq!(scans.read(0)[&300].ports, 60);
    }

    #[test]
    fn targets_are_told_apart_by_where_they_are() {
        let mut scans = Scans::default();
        let to = |destination, destination_port_ifindex, number| DeniedEvent {
            destination,
            destination_port_ifindex,
            destination_address: address(number),
            ..event(300, 9, 22, 0)
        };
        for number in 0..7 {
            // Two addresses of one container, and those of the host, are one target.
            scans.add(&to(400 + number, 20 + number, number));
            scans.add(&to(400 + number, 20 + number, 50 + number));
            scans.add(&to(HOST, 0, 150 + number));
            scans.add(&to(WORLD, 0, 100 + number));
        }
        assert_eq!(scans.read(0)[&300], Scan { ports: 1, local_targets: 8, world_targets: 7 });
    }

    #[test]
    fn late_packets_are_no_scan() {
        let mut scans = Scans::default();
        for port in 40_000..40_060 {
            scans.add(&DeniedEvent { reason: DropReason::NotTracked as u8, ..event(300, 9, port, 0) });
            scans.add(&DeniedEvent { protocol: PROTOCOL_UDP, ..event(300, 9, port, 0) });
        }
        assert_eq!(scans.read(0)[&300].ports, 0);
    }

    #[test]
    fn a_flood_of_sources_is_bounded_and_hides_no_scan() {
        let mut scans = Scans::default();
        for port in 1..=20 {
            scans.add(&event(300, 9, port, 0));
        }
        for number in 0..5_000 {
            let source_address = address(number);
            scans.add(&DeniedEvent { source_address, ..event(WORLD, 0, 80, 0) });
        }
        assert!((SOURCES / 2..=SOURCES).contains(&scans.sources.len()));
        assert_eq!(scans.read(0)[&300].ports, 20);
    }

    #[test]
    fn a_long_scan_is_bounded_and_goes_on() {
        let mut scans = Scans::default();
        for port in 1..=60_000 {
            scans.add(&event(300, 9, port, u64::from(port) * SECOND));
        }
        assert_eq!(scans.sources.values().map(|tried| tried.ports.0.len()).max(), Some(MOST));
        assert!(scans.read(60_000 * SECOND)[&300].ports > 50);
    }
}
