//! The policy entries that the kernel looks up, and the view of them that the decision is written against.
//!
//! Every key starts with a revision: two policies lie side by side in the same maps, and
//! [`crate::config::Config::revision`] switches between them for all packets at once.

use crate::{
    packet::Address,
    verdict::{Direction, Mode},
};

/// Key of the hash map `SUBJECTS`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SubjectKey {
    pub revision: u32,
    pub identity: u32,
}

/// What holds for one covered identity as a whole. Map `SUBJECTS`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subject {
    /// The number of the policy.
    pub policy: u16,
    /// [`crate::verdict::Mode`].
    pub mode: u8,
    /// [`crate::verdict::Severity`].
    pub severity: u8,
    /// [`OUT_OF_PROFILE`], [`UNNAMED`] and one bit per [`Scope`].
    pub flags: u8,
    pub _pad: [u8; 3],
}

/// Flag of a subject: its service does not belong to the profile in force.
pub const OUT_OF_PROFILE: u8 = 0x80;
/// Flag of a subject: the policy of its instance names no such service, or two of its services select it.
pub const UNNAMED: u8 = 0x40;

/// Which addresses an [`AddressKey`] is about.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    /// Sources in the world.
    FromWorld = 0,
    /// Destinations in the world.
    ToWorld = 1,
    /// Addresses of the host.
    ToHost = 2,
    /// Addresses of unmanaged containers.
    ToUnmanaged = 3,
}

impl Scope {
    /// The flag of a subject that has entries of this scope.
    #[inline(always)]
    #[must_use]
    pub const fn flag(self) -> u8 {
        1 << self as u8
    }
}

/// Key of the longest-prefix map `ADDRESSES`, which turns an outside address into an address class.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct AddressKey {
    pub revision: u32,
    pub subject: u32,
    /// [`Scope`].
    pub scope: u32,
    /// [`Address`] in words of 32 bits, which an LPM key can hold without padding.
    pub address: [u32; 4],
}

impl AddressKey {
    /// Bits of the key in front of the address.
    pub const PREFIX_BASE: u32 = 96;
}

/// An address in the form that longest-prefix keys hold.
#[inline(always)]
#[must_use]
pub const fn prefix_words(address: &Address) -> [u32; 4] {
    let [high, low] = address.words();
    if cfg!(target_endian = "little") {
        [high as u32, (high >> 32) as u32, low as u32, (low >> 32) as u32]
    } else {
        [(high >> 32) as u32, high as u32, (low >> 32) as u32, low as u32]
    }
}

/// Key of the longest-prefix map `RULES`: may the subject be reached by (or reach) this peer on this port?
///
/// A range of ports stands as the prefixes that cover it, `any` as the empty prefix; the longest wins,
/// which is why an exact port beats a range and a range beats `any`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RuleKey {
    pub revision: u32,
    pub subject: u32,
    /// An identity or an address class.
    pub peer: u32,
    /// [`Direction`].
    pub direction: u8,
    /// IP protocol; ICMP echo stands under [`crate::packet::PROTOCOL_ICMP`] with port 0 for both families.
    pub protocol: u8,
    /// Big endian, as a prefix needs it.
    pub port_be: u16,
}

impl RuleKey {
    /// Bits of the key in front of the port.
    pub const PREFIX_BASE: u32 = 112;
}

/// Value of `RULES`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    /// The number of the policy line that decides, for events; 0 stands for a default.
    pub rule: u32,
    /// For entries under [`crate::identity::PORT_LABEL`]: the ports of the policy entry.
    pub port_first: u16,
    pub port_last: u16,
    /// 1 allows; 0 denies ports that a wider entry of the same peer would allow.
    pub allow: u8,
    pub _pad: [u8; 3],
}

/// The entries of one revision, as the kernel maps or the agent's own copy hold them.
pub trait PolicyTable {
    /// The mode of what belongs to no known subject.
    fn strictest_mode(&self) -> Mode;
    /// What holds for a covered identity.
    fn subject(&self, identity: u32) -> Option<Subject>;
    /// The class of the longest prefix that holds the address.
    fn address_class(&self, subject: u32, scope: Scope, address: &Address) -> Option<u32>;
    /// The entry of the longest port prefix.
    fn rule(&self, subject: u32, peer: u32, direction: Direction, protocol: u8, port: u16) -> Option<Rule>;
}

const _: () = assert!(size_of::<Subject>() == 8);
const _: () = assert!(size_of::<AddressKey>() == 28);
const _: () = assert!(size_of::<RuleKey>() == 16);
const _: () = assert!(size_of::<Rule>() == 12);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefix_words_lie_in_memory_as_the_address_does() {
        let address = Address::new([1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16]);
        let [a, b, c, d] = prefix_words(&address).map(u32::to_ne_bytes);
        assert_eq!([a, b, c, d].as_flattened(), address.bytes());
    }

    #[test]
    fn every_flag_of_a_subject_has_a_bit_of_its_own() {
        let scopes = [Scope::FromWorld, Scope::ToWorld, Scope::ToHost, Scope::ToUnmanaged];
        let flags = scopes.iter().fold(OUT_OF_PROFILE | UNNAMED, |flags, scope| flags | scope.flag());
        assert_eq!(flags.count_ones(), 6);
    }

    #[test]
    fn what_stands_before_a_prefix_is_compared_whole() {
        assert_eq!(AddressKey::PREFIX_BASE as usize, core::mem::offset_of!(AddressKey, address) * 8);
        assert_eq!(RuleKey::PREFIX_BASE as usize, core::mem::offset_of!(RuleKey, port_be) * 8);
    }
}
