//! Connections that are tried, each for a moment only: what of the instances can be reached, from the host and from other
//! network namespaces.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io::{ErrorKind, Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::AsFd,
    path::{Path, PathBuf},
    sync::Mutex,
    thread,
    time::{Duration, Instant},
};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde::Serialize;

use super::{
    bounded::Bounded,
    host::{Container, Host, Instance},
    rights::{Caller, Rights, rights},
    sockets,
};
use crate::inventory::snapshot::Protocol;

/// How long an attempt may take to arrive, and whoever took it to say something.
const ARRIVAL: Duration = Duration::from_millis(700);
const ANSWER: Duration = Duration::from_millis(1500);
/// How many are under way at once, and how long all of one caller may take.
const AT_ONCE: usize = 64;
const LIMIT: Duration = Duration::from_secs(30);
/// More ports of one range, and more attempts of one caller, are not made.
const MOST_OF_A_RANGE: usize = 16;
const MOST: usize = 4096;

/// What came of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Arrival {
    /// The container took it.
    Reached,
    /// Refused, or no answer.
    Blocked,
    /// Something took it and said nothing: the engine's proxy takes every connection before it calls the container.
    Unclear,
    /// There was no time left.
    NotTried,
}

/// By which address a port was called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Way {
    /// The container's own address.
    Container,
    /// Where it is published on the host.
    Published,
}

/// An attempt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Try {
    /// `host`, or the path of a namespace.
    pub from: String,
    pub project: String,
    pub service: String,
    pub container: String,
    /// The container's TCP port.
    pub port: u16,
    pub way: Way,
    pub address: SocketAddr,
    pub arrival: Arrival,
    /// Whether the policy allows it.
    pub allowed: bool,
    /// Why the caller could not be there at all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl Try {
    /// For people.
    #[must_use]
    pub fn describe(&self) -> String {
        format!("{} from {} at `{}`", self.port, self.from, self.address)
    }
}

/// Tries everything, from the host and from each namespace.
#[must_use]
pub fn try_all(instances: &[Instance<'_>], host: &Host, from: &[PathBuf]) -> Vec<Try> {
    let addresses = sockets::addresses().unwrap_or_default();
    let outer: BTreeSet<IpAddr> = addresses
        .into_iter()
        .filter(|address| !host.networks.iter().any(|network| network.holds(*address)))
        .collect();
    let mut tries = Vec::new();
    for instance in instances {
        let rights = rights(instance.policy);
        for container in &instance.containers {
            let own = rights.iter().find(|rights| rights.name == container.service());
            targets(container, own, &outer, &mut |caller, port, way, address| {
                let allowed = own.is_some_and(|own| own.allows(caller, Protocol::Tcp, port));
                let attempt = Try {
                    from: "host".to_owned(),
                    project: instance.project.clone(),
                    service: container.service().to_owned(),
                    container: container.name.clone(),
                    port,
                    way,
                    address,
                    arrival: Arrival::NotTried,
                    allowed,
                    error: None,
                };
                tries.push((caller, attempt));
            });
        }
    }
    let of = |wanted: Caller| -> Vec<Try> {
        let wanted = tries.iter().filter(|(caller, _)| *caller == wanted);
        wanted.map(|(_, attempt)| attempt.clone()).take(MOST).collect()
    };
    let mut all = settle(attempt_all(of(Caller::Host)));
    for path in from {
        let name = path.display().to_string();
        let mut outside = of(Caller::Outside);
        for attempt in &mut outside {
            attempt.from.clone_from(&name);
        }
        all.extend(within(path, outside));
    }
    all
}

/// Calls `add` for whatever is to be tried.
fn targets(
    container: &Container,
    own: Option<&Rights<'_>>,
    outer: &BTreeSet<IpAddr>,
    add: &mut dyn FnMut(Caller, u16, Way, SocketAddr),
) {
    let published: Vec<_> = container.published().filter(|(_, protocol, ..)| *protocol == "tcp").collect();
    let mut ports: BTreeSet<u16> = container
        .exposed()
        .into_iter()
        .filter(|(_, protocol)| protocol == "tcp")
        .map(|(port, _)| port)
        .collect();
    ports.extend(own.into_iter().flat_map(|own| own.tcp_ports(MOST_OF_A_RANGE)));
    ports.extend(published.iter().map(|(port, ..)| *port));
    if container.networks().next().is_some() {
        for address in container.addresses() {
            for &port in &ports {
                for caller in [Caller::Host, Caller::Outside] {
                    add(caller, port, Way::Container, SocketAddr::new(address, port));
                }
            }
        }
    }
    for (port, _, bound, at) in published {
        let (from_host, from_outside): (Vec<IpAddr>, Vec<IpAddr>) = match bound {
            Some(bound) if bound.is_loopback() => (vec![bound], Vec::new()),
            Some(bound) if !bound.is_unspecified() => (vec![bound], vec![bound]),
            bound => {
                let is_v6 = bound.is_some_and(|bound| bound.is_ipv6());
                let local = if is_v6 { Ipv6Addr::LOCALHOST.into() } else { Ipv4Addr::LOCALHOST.into() };
                (vec![local], outer.iter().copied().filter(|address| address.is_ipv6() == is_v6).collect())
            }
        };
        for (caller, addresses) in [(Caller::Host, from_host), (Caller::Outside, from_outside)] {
            for address in addresses {
                add(caller, port, Way::Published, SocketAddr::new(address, at));
            }
        }
    }
}

/// Makes the attempts on threads that have moved into a network namespace, and end there.
fn within(path: &Path, tries: Vec<Try>) -> Vec<Try> {
    let failed = |tries: Vec<Try>, why: String| -> Vec<Try> {
        tries.into_iter().map(|attempt| Try { error: Some(why.clone()), ..attempt }).collect()
    };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) => return failed(tries, format!("failed to open `{}`: {error}", path.display())),
    };
    thread::scope(|scope| {
        let inside =
            scope.spawn(|| match move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)) {
                Ok(()) => attempt_all(tries),
                Err(error) => failed(tries, format!("failed to enter `{}`: {error}", path.display())),
            });
        inside.join().unwrap_or_default()
    })
}

/// Threads start in the namespace of the one that starts them.
fn attempt_all(tries: Vec<Try>) -> Vec<Try> {
    let deadline = Instant::now() + LIMIT;
    let workers = tries.len().min(AT_ONCE);
    let queue = Mutex::new(tries.into_iter().enumerate());
    let done = Mutex::new(BTreeMap::new());
    thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                loop {
                    let next = queue.lock().ok().and_then(|mut queue| queue.next());
                    let Some((number, mut attempt)) = next else { break };
                    if Instant::now() < deadline {
                        attempt.arrival = attempt_one(attempt.address, attempt.way);
                    }
                    if let Ok(mut done) = done.lock() {
                        done.insert(number, attempt);
                    }
                }
            });
        }
    });
    done.into_inner().unwrap_or_default().into_values().collect()
}

fn attempt_one(address: SocketAddr, way: Way) -> Arrival {
    let Ok(mut stream) = Bounded::connect(address, ARRIVAL) else {
        return Arrival::Blocked;
    };
    // At its own address nobody but the container takes it.
    if way == Way::Container {
        return Arrival::Reached;
    }
    stream.extend(ANSWER);
    let said = stream
        .write_all(b"GET / HTTP/1.0\r\nUser-Agent: portcullis-audit\r\n\r\n")
        .and_then(|()| stream.read(&mut [0; 1]));
    match said {
        Ok(1..) => Arrival::Reached,
        // The proxy hangs up once its own call was refused, and so do servers that do not like what they hear.
        Ok(0) => Arrival::Unclear,
        Err(error) if error.kind() == ErrorKind::ConnectionReset => Arrival::Unclear,
        Err(_) => Arrival::Unclear,
    }
}

/// What the proxy took in silence is decided by the container's own address: the proxy calls it as the host does.
fn settle(mut tries: Vec<Try>) -> Vec<Try> {
    let mut own: BTreeMap<(String, u16), Arrival> = BTreeMap::new();
    for attempt in tries.iter().filter(|attempt| attempt.way == Way::Container) {
        let best = own.entry((attempt.container.clone(), attempt.port)).or_insert(attempt.arrival);
        *best = (*best).min(attempt.arrival);
    }
    for attempt in tries.iter_mut().filter(|attempt| attempt.arrival == Arrival::Unclear) {
        if let Some(arrival) = own.get(&(attempt.container.clone(), attempt.port)) {
            attempt.arrival = *arrival;
        }
    }
    tries
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attempt(way: Way, arrival: Arrival) -> Try {
        Try {
            from: "host".to_owned(),
            project: "p".to_owned(),
            service: "db".to_owned(),
            container: "p-db-1".to_owned(),
            port: 5432,
            way,
            address: "192.0.2.1:5432".parse().unwrap(),
            arrival,
            allowed: false,
            error: None,
        }
    }

    #[test]
    fn the_proxy_is_silent_if_the_container_is_not_reached() {
        let settled = settle(vec![
            attempt(Way::Container, Arrival::Blocked),
            attempt(Way::Published, Arrival::Unclear),
        ]);
        assert_eq!(settled[1].arrival, Arrival::Blocked);
        let settled = settle(vec![
            attempt(Way::Container, Arrival::Reached),
            attempt(Way::Published, Arrival::Unclear),
        ]);
        assert_eq!(settled[1].arrival, Arrival::Reached);
        let settled = settle(vec![attempt(Way::Published, Arrival::Unclear)]);
        assert_eq!(settled[0].arrival, Arrival::Unclear);
    }

    #[test]
    fn only_who_answers_behind_a_published_port_is_reached() {
        let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = silent.local_addr().unwrap();
        assert_eq!(attempt_one(address, Way::Container), Arrival::Reached);
        assert_eq!(attempt_one(address, Way::Published), Arrival::Unclear);
        drop(silent);
        assert_eq!(attempt_one(address, Way::Published), Arrival::Blocked);
    }
}
