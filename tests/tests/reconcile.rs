//! Floods from four ports at once: every frame that came in was forwarded or dropped, every drop is counted under its
//! reason, and every denied packet was told, suppressed or counted as lost. To the packet.
//!
//! `PORTCULLIS_FLOOD` is the number of frames for each port, 100,000 if it is not set.
#![expect(clippy::unwrap_used, reason = "tests panic")]

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::ops::Range;
use std::time::{Duration, Instant};

use agent_common::event::DeniedEvent;
use integration_tests::daemon::{Daemon, SOON};
use integration_tests::dual_lab::{DualLab, Member};
use integration_tests::frames::{self, Crossed, Template};
use integration_tests::packet::{Ethernet, Ipv4, Ipv6, Payload, Tcp, Udp};
use integration_tests::{ATTEMPTS, tell};
use lab::interrupt::wait_for;
use lab::observed::{Sample, sum};
use rustix::param::page_size;
use serde_json::Value;

const PACKETS: &str = "portcullis_denied_packets_total";
const LOST: &str = "portcullis_events_lost_total";
const SUPPRESSED: &str = "portcullis_events_suppressed_total";
const SENDERS: [&str; 4] = ["friend", "hostile", "guest", "stray"];
/// `friend` may send datagrams to some ports of `victim`, nobody may do anything else.
const POLICY: &str = "\
version: 1
policy: shop
applies_to: { project: shop }
mode: enforce
services:
  victim:
    severity: critical
    ports: [50000-59999/udp]
    from: [friend]
  friend: {}
  hostile: {}
  guest: {}
";
/// Every number makes this many frames: see [`templates`].
const KINDS: u64 = 10;

/// (source, reason, protocol) → packets and attempts.
type Denials = BTreeMap<(String, String, String), (u64, u64)>;

fn frames_for_each_port() -> u64 {
    std::env::var("PORTCULLIS_FLOOD").map_or(100_000, |frames| frames.parse().unwrap())
}

/// What one port sends, each with the reason and protocol that it is denied under; none if it is allowed. `ports` is
/// the first of the destination ports, which tells one flood from another.
fn templates(from: &Member, to: &Member, port: u16) -> Vec<(Template, Option<(&'static str, &'static str)>)> {
    let ethernet = Ethernet::new(from.mac, to.mac);
    let ([source_v4, source_v6], [target_v4, target_v6]) = (from.addresses, to.addresses);
    let [syn, datagram] = [Payload::Tcp(Tcp::new(0, port)), Payload::Udp(Udp::new(0, port))];
    let numbered = |source, target, payload| Template::numbered(&ethernet, source, target, payload);
    let stranger: IpAddr = "198.18.7.200".parse().unwrap();
    let (IpAddr::V4(source), IpAddr::V4(target)) = (source_v4, target_v4) else { panic!("not IPv4") };
    let (IpAddr::V6(source_6), IpAddr::V6(target_6)) = (source_v6, target_v6) else { panic!("not IPv6") };
    let short_header = ethernet.ip(&Ipv4::new(source, target).header_words(4).carrying(17, &[0; 16]));
    let fragment = ethernet.ip(&Ipv4::new(source, target).fragment(1, true).carrying(17, &[0; 16]));
    let cut_off = ethernet.ip(&Ipv6::new(source_6, target_6).payload_length(900).carrying(6, &[0; 20]));
    let permitted = Payload::Udp(Udp::new(0, 50_000));
    vec![
        (numbered(source_v4, target_v4, &syn), Some(("no_rule", "tcp"))),
        (numbered(source_v6, target_v6, &syn), Some(("no_rule", "tcp"))),
        (numbered(source_v4, target_v4, &datagram), Some(("no_rule", "udp"))),
        (numbered(source_v6, target_v6, &datagram), Some(("no_rule", "udp"))),
        (numbered(stranger, target_v4, &syn), Some(("spoofed_source", "tcp"))),
        (Template::fixed(short_header), Some(("invalid_packet", "udp"))),
        (Template::fixed(cut_off), Some(("invalid_packet", "tcp"))),
        (Template::fixed(fragment), Some(("fragment", "udp"))),
        (Template::fixed(ethernet.carrying(0x88b5, &[0; 46])), Some(("unsupported_protocol", "other"))),
        (numbered(source_v4, target_v4, &permitted), (from.name != "friend").then_some(("no_rule", "udp"))),
    ]
}

/// What was sent.
#[derive(Default)]
struct Sent {
    by_port: BTreeMap<String, u64>,
    allowed: u64,
    denied: Denials,
}

impl Sent {
    /// Every sender at once, `rounds` times the same numbers.
    fn flood(&mut self, lab: &DualLab, port: u16, numbers: &Range<u64>, rounds: u64) {
        let victim = lab.member("victim").unwrap();
        std::thread::scope(|scope| {
            for name in SENDERS {
                let from = lab.member(name).unwrap();
                let (templates, meanings): (Vec<_>, Vec<_>) =
                    templates(from, victim, port).into_iter().unzip();
                assert_eq!(templates.len() as u64, KINDS);
                let count = numbers.end - numbers.start;
                for meaning in meanings {
                    self.note(name, meaning, count, rounds);
                }
                *self.by_port.entry(from.port.clone()).or_default() += KINDS * count * rounds;
                let numbers = numbers.clone();
                scope.spawn(move || {
                    for _ in 0..rounds {
                        let sent = frames::send(&from.netns.path(), &templates, numbers.clone()).unwrap();
                        assert_eq!(sent, KINDS * count);
                    }
                });
            }
        });
    }

    fn note(&mut self, name: &str, meaning: Option<(&str, &str)>, count: u64, rounds: u64) {
        let Some((reason, protocol)) = meaning else {
            self.allowed += count * rounds;
            return;
        };
        let source = if name == "stray" { "unmanaged" } else { name };
        let key = (source.to_owned(), reason.to_owned(), protocol.to_owned());
        let (packets, attempts) = self.denied.entry(key).or_default();
        *packets += count * rounds;
        // What has a tuple is an attempt once, what cannot be understood every time.
        let opens = ["no_rule", "spoofed_source"].contains(&reason);
        *attempts += if opens { count } else { count * rounds };
    }

    fn packets(&self) -> u64 {
        self.denied.values().map(|(packets, _)| packets).sum()
    }
}

fn counted(samples: &[Sample]) -> Denials {
    let mut denials = Denials::new();
    for sample in samples.iter().filter(|sample| sample.value > 0.0) {
        let label = |name: &str| sample.labels.get(name).cloned().unwrap_or_default();
        let key = || (label("source"), label("reason"), label("protocol"));
        if sample.name == PACKETS {
            denials.entry(key()).or_default().0 += sample.value as u64;
        } else if sample.name == ATTEMPTS {
            denials.entry(key()).or_default().1 += sample.value as u64;
        }
    }
    denials
}

fn total(status: &Value, kind: &str, hook: &str) -> u64 {
    status["counters"][kind][hook].as_u64().unwrap()
}

/// Waits until the reader has caught up, and panics unless every denied packet was told, suppressed or lost.
fn account_for_events(lab: &DualLab, agent: &Daemon, denied: u64) -> (u64, u64, u64) {
    let numbers = || -> anyhow::Result<(u64, u64, u64)> {
        let samples = agent.metrics()?;
        let metric = |name| sum(&samples, name, &[]) as u64;
        Ok((lab.events_written(), metric(SUPPRESSED), metric(LOST)))
    };
    let caught_up = wait_for("the reader", SOON, || {
        let (written, suppressed, lost) = numbers()?;
        Ok((written + suppressed + lost >= denied).then_some(()))
    });
    caught_up.unwrap_or_else(|error| panic!("{error}: {:?} of {denied}", numbers().unwrap()));
    // None may follow either.
    std::thread::sleep(Duration::from_millis(300));
    let (written, suppressed, lost) = numbers().unwrap();
    assert_eq!(
        written + suppressed + lost,
        denied,
        "{written} written, {suppressed} suppressed, {lost} lost"
    );
    (written, suppressed, lost)
}

/// Panics unless the counters of programs, interfaces and metrics tell the same as what was sent.
fn account_for_packets(lab: &DualLab, agent: &Daemon, sent: &Sent) {
    let status = lab.status().unwrap();
    let ports = frames::crossed(&lab.host().path()).unwrap();
    for (port, count) in &sent.by_port {
        assert_eq!(ports[port], Crossed { received: *count, sent: 0, not_sent: 0 }, "{port}");
    }
    let received: u64 = sent.by_port.values().sum();
    let [forwarded_from, forwarded_to] =
        ["from_endpoint", "to_endpoint"].map(|hook| total(&status, "forwarded", hook));
    let [dropped_from, dropped_to] =
        ["from_endpoint", "to_endpoint"].map(|hook| total(&status, "dropped", hook));
    let victim = ports["p-victim"];
    eprintln!("{received} received, {dropped_from} dropped by from_endpoint, {forwarded_from} forwarded");
    eprintln!("{dropped_to} dropped by to_endpoint, {forwarded_to} forwarded, {victim:?}");
    assert_eq!(forwarded_from + dropped_from, received);
    assert_eq!(forwarded_to + dropped_to, forwarded_from);
    assert_eq!(victim.sent + victim.not_sent, forwarded_to);
    assert_eq!(victim.received, 0);
    assert_eq!(dropped_from + dropped_to, sent.packets());
    assert_eq!(forwarded_to, sent.allowed);
    let counted = counted(&agent.metrics().unwrap());
    for (denial, numbers) in counted.iter().chain(&sent.denied) {
        let (counted, sent) = (counted.get(denial), sent.denied.get(denial));
        assert_eq!(counted, sent, "packets and attempts of {denial:?}, {numbers:?}");
    }
}

fn quiet_lab() -> DualLab {
    DualLab::quiet(&["friend", "hostile", "guest", "stray", "victim"], POLICY).unwrap()
}

/// The smallest ring buffer there is, and nobody reads it.
#[test]
fn a_flood_with_a_stopped_reader_is_counted_to_the_packet() {
    let start = Instant::now();
    let lab = quiet_lab();
    let agent = lab.run(&format!("sizes: {{ event_buffer: {} }}\n", page_size())).unwrap();
    assert_eq!(counted(&agent.metrics().unwrap()), Denials::new());
    let mut sent = Sent::default();
    agent.pause().unwrap();
    // Fewer tuples than the table of attempts holds, so that it knows them all again.
    sent.flood(&lab, 2000, &(0..1000), 3);
    let flood = Instant::now();
    sent.flood(&lab, 3000, &(1000..1000 + frames_for_each_port() / KINDS), 1);
    let flood = flood.elapsed();
    agent.resume().unwrap();
    let (written, suppressed, lost) = account_for_events(&lab, &agent, sent.packets());
    account_for_packets(&lab, &agent, &sent);
    // What fits into a page, each with its header.
    assert_eq!(written, (page_size() as u64 - 1) / (size_of::<DeniedEvent>() as u64 + 8));
    assert!(lost > 0);
    let line = format!(
        "reconciliation: {} denied = {written} events + {suppressed} suppressed + {lost} lost, {} allowed, flood of {:.1} s, {:.1} s in all",
        sent.packets(),
        sent.allowed,
        flood.as_secs_f64(),
        start.elapsed().as_secs_f64()
    );
    tell(&line).unwrap();
}

/// The default buffer, and a reader that does what it can.
#[test]
fn a_flood_with_a_busy_reader_is_counted_to_the_packet() {
    let lab = quiet_lab();
    let agent = lab.run("").unwrap();
    let mut sent = Sent::default();
    sent.flood(&lab, 3000, &(0..frames_for_each_port() / KINDS / 4), 1);
    let (written, suppressed, lost) = account_for_events(&lab, &agent, sent.packets());
    account_for_packets(&lab, &agent, &sent);
    assert!(written > 0);
    let line = format!(
        "reconciliation: {} denied = {written} events + {suppressed} suppressed + {lost} lost, with a reader",
        sent.packets()
    );
    tell(&line).unwrap();
}

#[test]
fn a_buffer_of_another_size_takes_the_place_of_the_pinned_one() {
    const WORDS: &str = "the pinned map is of another layout";
    let lab = quiet_lab();
    let first = lab.run(&format!("sizes: {{ event_buffer: {} }}\n", page_size())).unwrap();
    assert_eq!(first.logged(WORDS), 0, "{}", first.log());
    assert!(first.stop().unwrap().success());
    let second = lab.run("").unwrap();
    assert_eq!(second.logged(WORDS), 1, "{}", second.log());
    assert!(second.stop().unwrap().success());
    let third = lab.run("").unwrap();
    assert_eq!(third.logged(WORDS), 0, "{}", third.log());
}
