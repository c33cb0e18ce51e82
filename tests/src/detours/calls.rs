//! Calls of the lab: who calls what, from which address, and who answered.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use lab::expectation::Party;
use lab::netns::within;
use lab::probe::{Outcome, attempts};

use super::Detours;

/// How long a datagram's answer is waited for.
const PATIENCE: Duration = Duration::from_millis(700);

/// So many parties call at once: two cores cannot answer more in time.
const PARTIES_AT_ONCE: usize = 4;

/// What a call is made by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Transport {
    Tcp,
    Udp,
}

/// One call.
#[derive(Debug, Clone)]
pub struct Call {
    pub from: Party,
    pub to: SocketAddr,
    pub by: Transport,
    /// The source address, where the caller does not leave it to its routes. Only for UDP.
    pub source: Option<IpAddr>,
}

/// What came of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Who answered.
    pub name: Option<String>,
    /// The address that a datagram was seen from by who answered.
    pub seen: Option<String>,
    /// The port that the call was made from.
    pub port: Option<u16>,
}

/// Makes all calls, those of each party at once; the answers stand in the calls' order.
pub fn make(lab: &Detours, calls: &[Call]) -> Result<Vec<Answer>> {
    let mut parties: Vec<&Party> = calls.iter().map(|call| &call.from).collect();
    parties.sort();
    parties.dedup();
    let mut answers = vec![Answer { name: None, seen: None, port: None }; calls.len()];
    for some in parties.chunks(PARTIES_AT_ONCE) {
        std::thread::scope(|scope| -> Result<()> {
            let threads: Vec<_> =
                some.iter().map(|party| scope.spawn(|| made_by(lab, party, calls))).collect();
            for thread in threads {
                for (number, answer) in thread.join().ok().context("a caller panicked")?? {
                    answers[number] = answer;
                }
            }
            Ok(())
        })?;
    }
    Ok(answers)
}

/// The calls of one party, by their numbers.
fn made_by(lab: &Detours, party: &Party, calls: &[Call]) -> Result<Vec<(usize, Answer)>> {
    let place = lab.place(party)?;
    let own = |by| {
        let own = calls.iter().enumerate().filter(move |(_, call)| call.from == *party && call.by == by);
        own.map(|(number, call)| (number, call.clone())).unzip::<_, _, Vec<_>, Vec<_>>()
    };
    let (by_tcp, tcp) = own(Transport::Tcp);
    let (by_udp, udp) = own(Transport::Udp);
    let datagrams = std::thread::spawn({
        let place = place.clone();
        move || datagrams(&place, udp)
    });
    let mut answers: Vec<_> = by_tcp.into_iter().zip(connections(&place, &tcp)?).collect();
    answers.extend(by_udp.into_iter().zip(datagrams.join().ok().context("a caller panicked")??));
    Ok(answers)
}

fn connections(place: &Path, calls: &[Call]) -> Result<Vec<Answer>> {
    let made = attempts(place, calls.iter().map(|call| call.to).collect())?;
    Ok(made
        .into_iter()
        .map(|attempt| Answer {
            name: if let Outcome::Open(name) = attempt.outcome { Some(name) } else { None },
            seen: None,
            port: attempt.from.map(|from| from.port()),
        })
        .collect())
}

fn datagrams(place: &Path, calls: Vec<Call>) -> Result<Vec<Answer>> {
    within(place, move || {
        let asked: Vec<Option<UdpSocket>> = calls.iter().map(ask).collect();
        let mut answers = vec![Answer { name: None, seen: None, port: None }; asked.len()];
        let until = Instant::now() + PATIENCE;
        while Instant::now() < until && answers.iter().any(|answer| answer.name.is_none()) {
            for (socket, answer) in asked.iter().zip(&mut answers) {
                let Some(socket) = socket else { continue };
                answer.port = socket.local_addr().ok().map(|own| own.port());
                let mut buffer = [0_u8; 128];
                if let Ok(read) = socket.recv(&mut buffer) {
                    let text = String::from_utf8_lossy(&buffer[..read]).into_owned();
                    let (name, seen) = text.split_once(' ').unwrap_or((&text, ""));
                    (answer.name, answer.seen) = (Some(name.to_owned()), Some(seen.to_owned()));
                }
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        answers
    })
}

/// A socket that has sent its question; none where there is no way to the address.
fn ask(call: &Call) -> Option<UdpSocket> {
    let any: IpAddr = if call.to.is_ipv4() { [0; 4].into() } else { [0_u16; 8].into() };
    let socket = UdpSocket::bind((call.source.unwrap_or(any), 0)).ok()?;
    socket.set_nonblocking(true).ok()?;
    // Who calls under another network's address may be answered by the host's: where no `br_netfilter` lets the host
    // see the question on the bridge, it takes the answer for a call of its own and hides the sender.
    if call.source.is_some() {
        socket.send_to(b"name", call.to).ok()?;
    } else {
        socket.connect(call.to).ok()?;
        socket.send(b"name").ok()?;
    }
    Some(socket)
}
