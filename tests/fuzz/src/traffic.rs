//! What the policy allows, as programs do it: connections, datagrams and the neighbour discovery of the kernels, all
//! the while that hostile frames are sent. One connection stays open from the beginning to the end.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use lab::netns::within;
use lab::process::{run, words};

use crate::attacker::Attacker;
use crate::lab::Lab;
use crate::town::{ALLOWED, DATABASE, FRIENDLY, SERVED, Who};

/// The first is the one that stays open.
const ALLOWED_PAIRS: [(Who, Who, u16); 4] = [
    (Who::Friend, Who::Victim, DATABASE),
    (Who::Hostile, Who::Victim, ALLOWED),
    (Who::Victim, Who::Friend, FRIENDLY),
    (Who::Victim, Who::Hostile, SERVED),
];
const LIMIT: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(10);

/// What came of it.
#[derive(Debug, Default)]
pub struct Exchanged {
    pub connections: u64,
    pub datagrams: u64,
    /// Exchanges over the connection that stays open.
    pub kept_open: u64,
    pub neighbours_forgotten: u64,
    pub failures: Vec<String>,
}

/// Traffic that flows until it is asked about.
#[derive(Debug)]
pub struct Traffic {
    ended: Arc<AtomicBool>,
    thread: Option<JoinHandle<Exchanged>>,
}

impl Traffic {
    /// Begins.
    pub fn start(lab: &Lab, attacker: Attacker) -> Result<Self> {
        let mut pairs = Vec::new();
        for (from, to, port) in ALLOWED_PAIRS.into_iter().filter(|&(from, to, _)| attacker.may_talk(from, to))
        {
            for v6 in [false, true] {
                pairs.push(Pair { from, to, place: lab.place(from)?, at: (to.address(v6), port).into() });
            }
        }
        let names = [Who::Hostile, Who::Victim, Who::Friend]
            .iter()
            .filter_map(|&who| Some(lab.member(who)?.name().to_owned()))
            .collect();
        let kept = connect(&pairs[0])?;
        let ended = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&ended);
        let thread = std::thread::spawn(move || flow(&pairs, names, kept, &flag));
        Ok(Self { ended, thread: Some(thread) })
    }

    /// Ends it.
    pub fn stop(mut self) -> Result<Exchanged> {
        self.ended.store(true, Ordering::Relaxed);
        let thread = self.thread.take().context("there is no traffic")?;
        thread.join().map_err(|_panic| anyhow!("the traffic's thread panicked"))
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

#[derive(Debug)]
struct Pair {
    from: Who,
    to: Who,
    place: PathBuf,
    at: SocketAddr,
}

fn flow(pairs: &[Pair], names: Vec<String>, mut kept: TcpStream, ended: &AtomicBool) -> Exchanged {
    let mut exchanged = Exchanged::default();
    let mut forget = names.iter().cycle();
    while !ended.load(Ordering::Relaxed) {
        for pair in pairs {
            note(&mut exchanged, pair, "tcp", connection(pair));
            note(&mut exchanged, pair, "udp", datagram(pair));
            exchanged.connections += 1;
            exchanged.datagrams += 1;
            std::thread::sleep(PAUSE);
        }
        note(&mut exchanged, &pairs[0], "kept open", exchange(&mut kept, 300));
        exchanged.kept_open += 1;
        // Everybody has to be asked for again, by ARP and neighbour discovery.
        if let Some(name) = forget.next() {
            let forgotten = run(&mut words(&format!("ip -n {name} neigh flush dev eth0"))).map(drop);
            note(&mut exchanged, &pairs[0], "neigh flush", forgotten);
            exchanged.neighbours_forgotten += 1;
        }
    }
    exchanged
}

fn note(exchanged: &mut Exchanged, pair: &Pair, what: &str, result: Result<()>) {
    if let Err(error) = result {
        exchanged.failures.push(format!(
            "{what} {} -> {} {}: {error:#}",
            pair.from.name(),
            pair.to.name(),
            pair.at
        ));
    }
}

fn connect(pair: &Pair) -> Result<TcpStream> {
    let at = pair.at;
    let stream = within(&pair.place, move || TcpStream::connect_timeout(&at, LIMIT))??;
    stream.set_read_timeout(Some(LIMIT))?;
    Ok(stream)
}

fn connection(pair: &Pair) -> Result<()> {
    let mut stream = connect(pair)?;
    exchange(&mut stream, 1)?;
    // More than one segment.
    exchange(&mut stream, 3000)
}

fn exchange(stream: &mut TcpStream, length: usize) -> Result<()> {
    stream.write_all(&vec![b'x'; length])?;
    stream.read_exact(&mut vec![0; length])?;
    Ok(())
}

fn datagram(pair: &Pair) -> Result<()> {
    let any: IpAddr = if pair.at.is_ipv6() {
        std::net::Ipv6Addr::UNSPECIFIED.into()
    } else {
        std::net::Ipv4Addr::UNSPECIFIED.into()
    };
    let socket = within(&pair.place, move || UdpSocket::bind((any, 0)))??;
    socket.connect(pair.at)?;
    socket.set_read_timeout(Some(LIMIT))?;
    socket.send(b"question")?;
    socket.recv(&mut [0; 16])?;
    Ok(())
}
