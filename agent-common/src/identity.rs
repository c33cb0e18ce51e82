//! The numbers that stand for a peer in policy entries: endpoints by (instance, service), the reserved
//! parties, and classes of outside addresses.

/// No identity: nothing is ever allowed to or from it.
pub const UNKNOWN: u32 = 0;
/// The host's own network stack.
pub const HOST: u32 = 1;
/// Everything behind an uplink that no CIDR of the deciding policy names.
pub const WORLD: u32 = 2;
/// A container that no policy covers and no policy names by labels.
pub const UNMANAGED: u32 = 3;
/// Not a peer: entries under it say which ports of a subject the policy names, for labels.
pub const PORT_LABEL: u32 = 4;
/// The first identity that stands for an (instance, service).
pub const FIRST_ENDPOINT: u32 = 256;
/// The first number of an address class, see [`crate::policy::AddressKey`].
pub const FIRST_ADDRESS_CLASS: u32 = 0x8000_0000;
