//! The hash by which Zeek, Suricata and others call a flow: Community ID 1, seed 0 (specification of the Community ID
//! project, github.com/corelight/community-id-spec).

use std::net::IpAddr;

use base64::{Engine, engine::general_purpose::STANDARD};
use sha1::{Digest, Sha1};

use super::{super::record::Record, protocol_number};

/// Of a TCP or UDP packet; others need what a record does not hold.
pub(super) fn community_id(record: &Record) -> Option<String> {
    let protocol = protocol_number(record)?;
    let side = |party: &super::PartyRecord| Some((party.address?, party.port?));
    let (source, destination) = (side(&record.source)?, side(&record.destination)?);
    // Both directions of a flow have one name.
    let (low, high) = if source <= destination { (source, destination) } else { (destination, source) };
    let mut hash = Sha1::new();
    hash.update(0_u16.to_be_bytes());
    hash.update(octets(low.0));
    hash.update(octets(high.0));
    hash.update([protocol, 0]);
    hash.update(low.1.to_be_bytes());
    hash.update(high.1.to_be_bytes());
    Some(format!("1:{}", STANDARD.encode(hash.finalize())))
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}
