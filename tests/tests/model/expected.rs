//! What the model says, in the numbers that the kernel says it in.

use std::net::IpAddr;

use agent_common::counter::DeniedKey;
use agent_common::event::DeniedEvent;
use agent_common::identity;
use agent_common::packet::Address;
use datapath_model::verdict::{Answer, Denial, Who};

use crate::kernel::{Kernel, Ran, hook};
use crate::packets::Given;

/// What one packet should leave behind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Expected {
    pub(crate) returned: i32,
    pub(crate) mark: u32,
    /// The counter that a denial raises, and whether by an attempt.
    pub(crate) counted: Option<(DeniedKey, bool)>,
    /// The event, but for its time.
    pub(crate) event: Option<DeniedEvent>,
}

impl Expected {
    pub(crate) fn new(kernel: &Kernel, given: &Given, answer: &Answer) -> Self {
        let counted = answer.denial.as_ref().map(|denial| (key(kernel, denial), denial.attempt));
        let event = answer.denial.as_ref().and_then(|denial| {
            denial.told.map(|suppressed| event(kernel, given, denial, &key(kernel, denial), suppressed))
        });
        Self { returned: if answer.forwarded { -1 } else { 2 }, mark: answer.mark, counted, event }
    }

    /// How what happened differs.
    pub(crate) fn differs(&self, kernel: &Kernel, ran: &Ran) -> Option<String> {
        let wanted = (self.returned, self.mark);
        if (ran.returned, ran.mark) != wanted {
            let got = (ran.returned, ran.mark);
            return Some(format!("returned and mark: kernel {got:x?}, model {wanted:x?}"));
        }
        if let Some(event) = &ran.event
            && let Some(wrong) = wrong_rule(kernel, event)
        {
            return Some(wrong);
        }
        // What the model does not say: when, and by which line.
        let got = ran.event.map(|event| DeniedEvent { time: 0, rule: 0, ..event });
        (got != self.event).then(|| format!("event:\n  kernel {got:?}\n  model  {:?}", self.event))
    }
}

/// The line that decides belongs to the policy that does.
fn wrong_rule(kernel: &Kernel, event: &DeniedEvent) -> Option<String> {
    let index = event.rule.checked_sub(1)?;
    let Some(origin) = kernel.entries.origins.get(usize::try_from(index).ok()?) else {
        return Some(format!("event names rule {}, which there is not", event.rule));
    };
    let policy = kernel.entries.policies.get(&event.policy).map(|policy| policy.name.as_str());
    (policy != Some(origin.policy.as_str())).then(|| format!("rule {origin:?} is not of policy {policy:?}"))
}

fn identity(kernel: &Kernel, who: Who) -> u32 {
    match who {
        Who::Unknown => identity::UNKNOWN,
        Who::Host => identity::HOST,
        Who::World => identity::WORLD,
        Who::SomeContainer => identity::UNMANAGED,
        Who::Container(port) => {
            let index = kernel.endpoints.iter().position(|&each| each == port).unwrap();
            kernel.entries.endpoints[index].party.identity
        }
    }
}

const fn port(who: Who) -> u32 {
    match who {
        Who::Container(port) => port,
        _ => 0,
    }
}

fn key(kernel: &Kernel, denial: &Denial) -> DeniedKey {
    let policy = denial.policy.as_ref().map_or(0, |name| {
        let mut known = kernel.entries.policies.iter();
        known.find(|(_, policy)| policy.name == *name).map_or(u16::MAX, |(&number, _)| number)
    });
    let (port_first, port_last) = denial.label.unwrap_or((0, 0));
    DeniedKey {
        subject: denial.subject.map_or(0, |port| identity(kernel, Who::Container(port))),
        source: identity(kernel, denial.source),
        destination: identity(kernel, denial.destination),
        port_first,
        port_last,
        policy,
        protocol: denial.protocol,
        reason: denial.reason as u8,
        severity: denial.severity as u8,
        observed: u8::from(denial.observed),
        _pad: [0; 2],
    }
}

fn event(
    kernel: &Kernel,
    given: &Given,
    denial: &Denial,
    key: &DeniedKey,
    packets_suppressed: u32,
) -> DeniedEvent {
    let address = |address: IpAddr| match address {
        IpAddr::V4(address) => Address::from_ipv4(address.octets()),
        IpAddr::V6(address) => Address::new(address.octets()),
    };
    let none = (Address::UNSPECIFIED, Address::UNSPECIFIED);
    let (source_address, destination_address) =
        denial.addresses.map_or(none, |(source, destination)| (address(source), address(destination)));
    DeniedEvent {
        time: 0,
        source_address,
        destination_address,
        source: key.source,
        destination: key.destination,
        source_port_ifindex: port(denial.source),
        destination_port_ifindex: port(denial.destination),
        subject: key.subject,
        rule: 0,
        revision: kernel.revision(),
        ifindex: given.at,
        packets_suppressed,
        source_port: denial.ports.0,
        destination_port: denial.ports.1,
        policy: key.policy,
        ethertype: denial.ethertype,
        protocol: key.protocol,
        tcp_flags: denial.tcp_flags,
        reason: key.reason,
        hook: hook(given) as u8,
        direction: denial.direction as u8,
        severity: key.severity,
        observed: key.observed,
        _pad: 0,
        _pad2: 0,
    }
}
