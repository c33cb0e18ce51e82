//! Whose container `hostile` is: one that a policy covers, whose frames are read where they are sent, or one that no
//! policy covers, whose frames are read only where they would enter a covered one.

use crate::frame::{Expected, Frame};
use crate::town::{Points, Who};

/// What `hostile` is to the agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attacker {
    Covered,
    Unmanaged,
}

/// `hostile` may open one port of `victim`; `friend` and `victim` may open one of each other's.
const COVERED: &str = "\
version: 1
policy: fuzz
applies_to: { project: fuzz }
mode: enforce
profile: production
services:
  hostile:
    ports: [{ port: 8000/tcp, from: [victim] }, { port: 8000/udp, from: [victim] }]
  victim:
    ports:
      - { port: 9000/tcp, from: [hostile] }
      - { port: 9000/udp, from: [hostile] }
      - { port: 5432/tcp, from: [friend] }
      - { port: 5432/udp, from: [friend] }
  friend:
    ports: [{ port: 7000/tcp, from: [victim] }, { port: 7000/udp, from: [victim] }]
  far:
    ports: [{ port: 80/tcp, from: [friend] }]
";

/// The same without `hostile`.
const UNMANAGED: &str = "\
version: 1
policy: fuzz
applies_to: { project: fuzz }
mode: enforce
profile: production
services:
  victim:
    ports: [{ port: 5432/tcp, from: [friend] }, { port: 5432/udp, from: [friend] }]
  friend:
    ports: [{ port: 7000/tcp, from: [victim] }, { port: 7000/udp, from: [victim] }]
  far:
    ports: [{ port: 80/tcp, from: [friend] }]
";

/// What an unmanaged container may send to everybody, and what it may send to nobody: who has which address.
const JUDGED_WHEREVER_SENT: [&str; 11] = [
    "allowed arp",
    "allowed discovery",
    "arp claim",
    "arp form",
    "discovery claim",
    "hidden claim",
    "source mac",
    "foreign source",
    "impossible source",
    "priority tags",
    "vlan tags",
];

impl Attacker {
    /// The policy.
    #[must_use]
    pub const fn policy(self) -> &'static str {
        match self {
            Self::Covered => COVERED,
            Self::Unmanaged => UNMANAGED,
        }
    }

    /// Whether somebody belongs to no service.
    #[must_use]
    pub fn is_unmanaged(self, who: Who) -> bool {
        who == Who::Stray || (who == Who::Hostile && self == Self::Unmanaged)
    }

    /// Whether the policy has any connection between two.
    #[must_use]
    pub fn may_talk(self, from: Who, to: Who) -> bool {
        !self.is_unmanaged(from) && !self.is_unmanaged(to)
    }

    /// Who may get a frame, which productions say of a covered sender: an unmanaged one is left alone with its like and
    /// with the host.
    #[must_use]
    pub fn expected(self, frame: &Frame) -> Expected {
        // Of what cannot be parsed an unmanaged one may send what cannot deceive anybody.
        if self == Self::Covered || JUDGED_WHEREVER_SENT.contains(&frame.class()) {
            return frame.expected;
        }
        Expected::at_most(Points::STRAY.and(Points::HOST))
    }
}
