//! Address ranges in a policy: how they are written, and which of them no packet can come from.

use std::net::IpAddr;

use agent_common::packet::Address;
use ipnet::IpNet;

/// Why a text is no usable range, with what to write instead.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NetworkError {
    #[error("`{text}` is not an address range")]
    Syntax { text: String },
    #[error("`{text}` has bits set beyond its prefix")]
    HostBits { text: String, network: IpNet },
    #[error("`{text}` is an IPv4 range written as IPv6")]
    Mapped { text: String },
    #[error("no packet can come from `{text}`")]
    Impossible { text: String },
}

impl NetworkError {
    /// How to fix it.
    pub(super) fn hint(&self) -> String {
        match self {
            Self::Syntax { .. } => "ranges are written `192.0.2.0/24` or `2001:db8::/32`".to_owned(),
            Self::HostBits { text, network } => {
                let address = text.split('/').next().unwrap_or(text);
                let length = if address.contains(':') { 128 } else { 32 };
                format!("did you mean the range `{network}` or the one address `{address}/{length}`?")
            }
            Self::Mapped { .. } => "write it as IPv4".to_owned(),
            Self::Impossible { .. } => {
                "loopback, multicast and unspecified addresses never arrive at a container; the host is `host`"
                    .to_owned()
            }
        }
    }
}

/// Whether the text was probably meant as an address range rather than as a name.
pub(super) fn looks_like_network(text: &str) -> bool {
    let digits_and_dots = text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    text.contains(['/', ':']) || (digits_and_dots && text.contains('.'))
}

/// Reads a range, or a single address as the range of that address.
pub fn parse(text: &str) -> Result<IpNet, NetworkError> {
    let syntax = |_error| NetworkError::Syntax { text: text.to_owned() };
    let written: IpNet = if text.contains('/') {
        text.parse().map_err(syntax)?
    } else {
        let address: IpAddr = text.parse().map_err(|_error: std::net::AddrParseError| {
            // The standard library's error says less than ours.
            NetworkError::Syntax { text: text.to_owned() }
        })?;
        IpNet::from(address)
    };
    if written.trunc() != written {
        return Err(NetworkError::HostBits { text: text.to_owned(), network: written.trunc() });
    }
    if let IpNet::V6(network) = written
        && network.prefix_len() >= 96
        && network.network().to_ipv4_mapped().is_some()
    {
        return Err(NetworkError::Mapped { text: text.to_owned() });
    }
    if is_impossible(written) {
        return Err(NetworkError::Impossible { text: text.to_owned() });
    }
    Ok(written)
}

/// Whether all of the range is impossible as a source; a range that only contains such addresses is not.
fn is_impossible(network: IpNet) -> bool {
    match network {
        IpNet::V4(network) => {
            let length = if network.network().octets()[0] >= 224 { 3 } else { 8 };
            network.prefix_len() >= length
                && Address::from_ipv4(network.network().octets()).is_impossible_source()
        }
        IpNet::V6(network) => {
            let octets = network.network().octets();
            let length = if octets[0] == 0xff { 8 } else { 96 };
            network.prefix_len() >= length && Address::new(octets).is_impossible_source()
        }
    }
}

/// The range in the 16-byte form of the kernel's keys, with its prefix length in that form.
#[must_use]
pub fn in_key_form(network: IpNet) -> (Address, u8) {
    match network {
        IpNet::V4(network) => (Address::from_ipv4(network.network().octets()), 96 + network.prefix_len()),
        IpNet::V6(network) => (Address::new(network.network().octets()), network.prefix_len()),
    }
}

/// An address in the 16-byte form of the kernel's keys.
#[must_use]
pub fn address_in_key_form(address: IpAddr) -> Address {
    match address {
        IpAddr::V4(address) => Address::from_ipv4(address.octets()),
        IpAddr::V6(address) => Address::new(address.octets()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_be_written() {
        for text in ["192.0.2.0/24", "0.0.0.0/0", "::/0", "2001:db8::/32", "192.0.2.7/32", "128.0.0.0/1"] {
            assert_eq!(parse(text).unwrap().to_string(), text);
        }
        assert_eq!(parse("192.0.2.7").unwrap().to_string(), "192.0.2.7/32");
        assert!(matches!(parse("192.0.2.1/24"), Err(NetworkError::HostBits { .. })));
        assert!(matches!(parse("2001:db8::1/32"), Err(NetworkError::HostBits { .. })));
        assert!(matches!(parse("::ffff:192.0.2.0/120"), Err(NetworkError::Mapped { .. })));
        for text in ["192.0.2.0/33", "300.0.0.0/8", "192.0.2/24", "2001:db8::/129", "a/b", "/", "1.2.3.4/"] {
            assert!(matches!(parse(text), Err(NetworkError::Syntax { .. })), "{text}");
        }
        for text in
            ["127.0.0.0/8", "127.0.0.1", "224.0.0.0/4", "240.0.0.0/4", "0.0.0.0/8", "::1", "::", "ff00::/8"]
        {
            assert!(matches!(parse(text), Err(NetworkError::Impossible { .. })), "{text}");
        }
    }
}
