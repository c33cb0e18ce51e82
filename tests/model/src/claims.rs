//! What a frame that is not understood may still tell others.

use std::net::IpAddr;

use crate::frame::{Content, Frame, link_local};

/// Where the hop limit of an IPv6 packet stands in a frame.
const HOP_LIMIT: usize = 14 + 7;

/// Whether somebody who does understand the frame may take it for a packet of another's, or believe an address claim in
/// it: ARP in any form, anything behind a VLAN tag, a foreign source, and over IPv6 whatever has come from no further
/// than the next neighbour, which is what claims have to.
pub(crate) fn may_deceive(bytes: &[u8], frame: &Frame, own: &[IpAddr]) -> bool {
    let quiet = matches!(frame.content, Content::Chatter | Content::Listener);
    match (frame.ethertype, frame.addresses.map(|(source, _)| source)) {
        (0x0806 | 0x8100 | 0x88a8 | 0x9100 | 0x9200, _) | (0x0800 | 0x86dd, None) => true,
        (0x0800, Some(source)) => !own.contains(&source),
        (0x86dd, Some(IpAddr::V6(source))) => {
            let known = own.contains(&source.into()) || source == link_local(frame.source_mac);
            let asks = quiet && source.is_unspecified();
            let near = !quiet && bytes.get(HOP_LIMIT) == Some(&255);
            near || !(known || asks)
        }
        _ => false,
    }
}
