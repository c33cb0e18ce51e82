//! Looks everywhere at once: packet sockets on the interfaces, raw and UDP sockets behind them, and what comes back to
//! the sender. Two threads read, and note what they see in the registry of the round.

use std::io;
use std::net::{Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Result, bail};
use lab::netns::within;

use crate::grammar::PROTOCOLS;
use crate::packet_socket::{self, roomy, socket};
use crate::registry::Registry;
use crate::town::{OPENING, Points, SERVING, UDP_PORTS, Who};
use crate::wire::{ETHERNET, ICMP, ICMPV6, IPV4, IPV6, TCP, UDP};

/// What is read from a socket.
#[derive(Debug, Clone, Copy)]
enum Kind {
    /// Whole frames that came in there.
    Frames(Points),
    /// What a socket there was given.
    Payload(Points),
    /// The same, and it is sent back.
    Echo(Points),
    /// Frames that came in at the sender.
    Answers,
}

#[derive(Debug)]
struct Watched {
    socket: OwnedFd,
    kind: Kind,
}

/// Every socket that looks.
#[derive(Debug, Default)]
pub struct Watchers {
    interfaces: Vec<Watched>,
    sockets: Vec<Watched>,
}

impl Watchers {
    /// Looks at what an interface of a namespace is given.
    pub fn interface(&mut self, netns: &Path, interface: &'static str, point: Points) -> Result<()> {
        let socket = packet_socket::receiver(netns, interface)?;
        self.interfaces.push(Watched { socket, kind: Kind::Frames(point) });
        Ok(())
    }

    /// Looks at what comes back to the sender.
    pub fn answers(&mut self, netns: &Path, interface: &'static str) -> Result<()> {
        let socket = packet_socket::receiver(netns, interface)?;
        self.interfaces.push(Watched { socket, kind: Kind::Answers });
        Ok(())
    }

    /// Looks at what sockets in a namespace are given: UDP on every port that is sent to, raw ones for every protocol.
    pub fn sockets(&mut self, netns: &Path, who: Who) -> Result<()> {
        let point = who.point();
        for port in UDP_PORTS {
            let socket =
                within(netns, move || UdpSocket::bind(SocketAddr::from((Ipv6Addr::UNSPECIFIED, port))))??;
            let kind = if SERVING.contains(&(who, port)) { Kind::Echo(point) } else { Kind::Payload(point) };
            self.add(OwnedFd::from(socket), kind)?;
        }
        for family in [libc::AF_INET, libc::AF_INET6] {
            for protocol in PROTOCOLS.into_iter().chain([TCP, UDP, ICMP, ICMPV6]) {
                // 0 is no protocol but a wish, and hop-by-hop headers are nobody's.
                if protocol == 0 {
                    continue;
                }
                let raw = within(netns, move || socket(family, libc::SOCK_RAW, protocol.into()))?;
                // Some numbers are no upper layer's in IPv6.
                if let Ok(raw) = raw {
                    self.add(raw, Kind::Payload(point))?;
                }
            }
        }
        Ok(())
    }

    fn add(&mut self, socket: OwnedFd, kind: Kind) -> Result<()> {
        roomy(&socket)?;
        self.sockets.push(Watched { socket, kind });
        Ok(())
    }

    /// Starts to look.
    #[must_use]
    pub fn start(self) -> Watching {
        let shared = Arc::new(Shared::default());
        let interfaces = Arc::new(self.interfaces);
        let threads = [Arc::clone(&interfaces), Arc::new(self.sockets)]
            .map(|watched| {
                let shared = Arc::clone(&shared);
                std::thread::spawn(move || look(&watched, &shared))
            })
            .into();
        Watching { shared, interfaces, threads }
    }
}

#[derive(Debug, Default)]
struct Shared {
    ended: AtomicBool,
    registry: Mutex<Arc<Registry>>,
}

impl Shared {
    fn registry(&self) -> Arc<Registry> {
        Arc::clone(&self.registry.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Threads that look, until this goes.
#[derive(Debug)]
pub struct Watching {
    shared: Arc<Shared>,
    interfaces: Arc<Vec<Watched>>,
    threads: Vec<JoinHandle<()>>,
}

impl Watching {
    /// What is seen from now on belongs to these frames.
    pub fn expect(&self, registry: &Arc<Registry>) {
        *self.shared.registry.lock().unwrap_or_else(PoisonError::into_inner) = Arc::clone(registry);
    }

    /// Fails if a receiver had no room for what came: what it missed could have been a leak.
    pub fn missed_nothing(&self) -> Result<()> {
        for watched in self.interfaces.iter() {
            let lost = packet_socket::lost(&watched.socket)?;
            if lost > 0 {
                bail!("a receiver had no room for {lost} frames ({:?})", watched.kind);
            }
        }
        Ok(())
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            drop(thread.join());
        }
    }
}

const PATIENCE: Duration = Duration::from_millis(20);

fn look(watched: &[Watched], shared: &Shared) {
    let mut polled: Vec<libc::pollfd> = watched
        .iter()
        .map(|watched| libc::pollfd { fd: watched.socket.as_raw_fd(), events: libc::POLLIN, revents: 0 })
        .collect();
    let mut buffer = vec![0_u8; 65_536];
    while !shared.ended.load(Ordering::Relaxed) {
        // SAFETY: the list lives until the call returns, and its length is told.
        let ready = unsafe {
            libc::poll(polled.as_mut_ptr(), polled.len() as libc::nfds_t, PATIENCE.as_millis() as libc::c_int)
        };
        if ready <= 0 {
            continue;
        }
        for (watched, polled) in watched.iter().zip(&polled) {
            if polled.revents != 0 {
                empty(watched, &mut buffer, shared);
            }
        }
    }
}

/// Reads all that there is.
fn empty(watched: &Watched, buffer: &mut [u8], shared: &Shared) {
    let fd = watched.socket.as_raw_fd();
    loop {
        // SAFETY: all bytes of this type may be 0.
        let mut from: libc::sockaddr_storage = unsafe { std::mem::zeroed() };
        let mut length = size_of_val(&from) as libc::socklen_t;
        // SAFETY: buffer and address live until the call returns, and their sizes are told.
        let read = unsafe {
            libc::recvfrom(
                fd,
                buffer.as_mut_ptr().cast(),
                buffer.len(),
                libc::MSG_DONTWAIT,
                (&raw mut from).cast(),
                &raw mut length,
            )
        };
        let Ok(read) = usize::try_from(read) else {
            // An error that an ICMP message has left on the socket: there may be more behind it.
            if io::Error::last_os_error().kind() == io::ErrorKind::WouldBlock {
                return;
            }
            continue;
        };
        let bytes = &buffer[..read];
        // Asked for after each: between two, a new round may have begun.
        let registry = shared.registry();
        match watched.kind {
            Kind::Frames(point) => registry.saw(bytes, point),
            Kind::Payload(point) => registry.received(bytes, point),
            Kind::Echo(point) => {
                registry.received(bytes, point);
                // Two that echo would never come to an end.
                if port_of(&from) < OPENING.0 {
                    continue;
                }
                // SAFETY: as above. Nobody is told when the sender cannot be answered: it is not answered then.
                unsafe {
                    libc::sendto(
                        fd,
                        bytes.as_ptr().cast(),
                        read,
                        libc::MSG_DONTWAIT,
                        (&raw const from).cast(),
                        length,
                    )
                };
            }
            Kind::Answers => registry.came_back(bytes, &acknowledged(bytes)),
        }
    }
}

/// Where a datagram came from; the port lies at the same place in both families.
fn port_of(address: &libc::sockaddr_storage) -> u16 {
    // SAFETY: the larger type holds the smaller one, and any bytes are a port.
    unsafe { u16::from_be((*ptr::from_ref(address).cast::<libc::sockaddr_in>()).sin_port) }
}

/// Sequence and acknowledgement numbers of a TCP segment, and the number that a SYN before it had.
fn acknowledged(frame: &[u8]) -> Vec<u32> {
    let ethertype = frame.get(12..14).map(|kind| u16::from_be_bytes([kind[0], kind[1]]));
    let at = match (ethertype, frame.get(23), frame.get(20)) {
        (Some(IPV4), Some(&TCP), _) => ETHERNET + 20,
        (Some(IPV6), _, Some(&TCP)) => ETHERNET + 40,
        _ => return Vec::new(),
    };
    let word = |at: usize| {
        frame.get(at..at + 4).map(|word| u32::from_be_bytes([word[0], word[1], word[2], word[3]]))
    };
    match (word(at + 4), word(at + 8)) {
        (Some(sequence), Some(acknowledgement)) => {
            vec![sequence, acknowledgement, acknowledgement.wrapping_sub(1)]
        }
        _ => Vec::new(),
    }
}
