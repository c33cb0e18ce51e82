//! Bridges that are removed and made again under the same name, and ports that go to another namespace and come back,
//! while those behind them send all the time.

use std::fmt;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use frame_fuzz::rng::Rng;
use lab::interrupt::wait_for;
use lab::netns::Netns;

use crate::attached;
use crate::daemon::SOON;
use crate::small_lab::SmallLab;
use crate::soak::Extent;
use crate::soak::ear::Ear;
use crate::soak::newcomers::{Newcomer, OPEN_UDP, POLICY, Sender, join};

/// The one that is made again and again.
const BRIDGE: &str = "lab1";
/// Name, service, number.
const MEMBERS: [(&str, &str, u8); 3] = [("b-db", "db", 2), ("b-api", "api", 3), ("b-web", "web", 4)];

/// What was counted.
#[derive(Debug, Default)]
pub struct Figures {
    pub rounds: usize,
    /// Of those, the ones in which a port went to another namespace.
    pub moves: usize,
    pub sent: u64,
    /// Datagrams of those who have no rights that arrived.
    pub leaked: u64,
    /// Rounds in which those who have were not let.
    pub refused: usize,
}

impl fmt::Display for Figures {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rounds, moves, sent, leaked, refused } = self;
        write!(
            formatter,
            "{rounds} bridges of the same name, {moves} ports that moved; {sent} datagrams sent, {leaked} of those \
             without rights arrived, {refused} rounds in which those with rights were refused"
        )
    }
}

/// Makes the bridge and removes it. Two ports that are both too new are the backstop's to hold apart.
pub fn run(extent: Extent) -> Result<Figures> {
    let lab = SmallLab::start()?;
    lab.write_policy(POLICY)?;
    let members: Vec<Newcomer> = MEMBERS
        .into_iter()
        .map(|(port, _, number)| Newcomer::prepare(&lab, port, address(number), number.into()))
        .collect::<Result<_>>()?;
    fs::write(lab.inventory(), lab.inventory_text() + &listed())?;
    let [db, api, web] = &members[..] else { unreachable!("three") };
    let ear = Ear::open(&db.netns().path(), SocketAddr::from((db.address, OPEN_UDP)))?;
    let mut senders = Vec::new();
    for (number, member) in [(1_u64, api), (2, web)] {
        member.introduce(&[(IpAddr::V4(db.address), &db.mac)])?;
        let target = (SocketAddr::from((db.address, OPEN_UDP)), number.to_be_bytes().to_vec());
        senders.push(Sender::start(member.socket()?, vec![target]));
    }
    let _agent = lab.run(&["--backstop", "nft"])?;
    let elsewhere = Netns::create()?;
    let mut random = Rng::new(extent.seed);
    let mut figures = Figures::default();
    for _ in extent.rounds("bridges") {
        lab.host().ip_lines(&format!("link add {BRIDGE} type bridge\nlink set {BRIDGE} up"))?;
        join(&lab, BRIDGE, &members)?;
        figures.refused += usize::from(!is_heard(&ear));
        if random.percent(20) {
            travel(&lab, &random.pick(&[db, api, web]).port, &elsewhere)?;
            join(&lab, BRIDGE, &members)?;
            figures.refused += usize::from(!is_heard(&ear));
            figures.moves += 1;
        }
        lab.host().ip(&format!("link delete {BRIDGE}"))?;
        figures.rounds += 1;
    }
    figures.sent = senders.into_iter().map(Sender::stop).sum();
    figures.leaked = ear.count(2);
    Ok(figures)
}

/// Whether `api` is heard once more.
fn is_heard(ear: &Ear) -> bool {
    let (before, start) = (ear.count(1), Instant::now());
    while ear.count(1) == before {
        if start.elapsed() > SOON {
            return false;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    true
}

/// A port goes to another namespace, where nothing of ours may follow it, and comes back.
fn travel(lab: &SmallLab, port: &str, elsewhere: &Netns) -> Result<()> {
    ensure!(!attached::on(lab.host(), port)?.is_empty(), "`{port}` has no programs");
    lab.host().ip(&format!("link set {port} netns {}", elsewhere.name()))?;
    wait_for("the programs to be taken off", SOON, || {
        Ok(attached::on(elsewhere, port)?.is_empty().then_some(()))
    })?;
    elsewhere.ip(&format!("link set {port} netns {}", lab.host().name()))?;
    Ok(())
}

fn listed() -> String {
    MEMBERS
        .into_iter()
        .map(|(port, service, number)| {
            let (address, mac) = (address(number), Newcomer::mac(number.into()));
            format!(
                "  - {{ port: {port}, project: shop, service: {service}, container: {port}, mac: \"{mac}\", \
                 addresses: [{address}] }}\n"
            )
        })
        .collect()
}

fn address(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(198, 18, 9, number)
}
