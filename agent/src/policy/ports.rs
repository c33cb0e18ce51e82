//! Ports as a policy names them, and the prefixes under which the kernel looks them up.

use std::fmt;

use agent_common::packet::{PROTOCOL_TCP, PROTOCOL_UDP};

use crate::inventory::snapshot::Protocol;

/// The ports of one policy entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Ports {
    /// Every port of TCP and UDP.
    Any,
    /// One port or a range.
    Range { protocol: Protocol, first: u16, last: u16 },
}

/// How narrowly ports are named: exact beats range beats `any`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Width {
    Any,
    Range,
    Exact,
}

/// Why a text names no ports, with what to write instead.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PortError {
    #[error("port `{text}` names no protocol")]
    NoProtocol { text: String },
    #[error("unknown protocol `{protocol}` in port `{text}`")]
    Protocol { text: String, protocol: String },
    #[error("`{text}` is no port between 1 and 65535")]
    Number { text: String },
    #[error("the range `{text}` ends before it begins")]
    Backwards { text: String },
}

impl PortError {
    /// How to fix it.
    pub(super) fn hint(&self) -> String {
        match self {
            Self::NoProtocol { text } => format!("write `{text}/tcp` or `{text}/udp`"),
            Self::Protocol { .. } => "the protocols are `tcp` and `udp`".to_owned(),
            Self::Number { .. } => {
                "ports are written `8000/tcp`, `8000-8010/tcp`, `53/udp` or `any`".to_owned()
            }
            Self::Backwards { .. } => "write the lower port first".to_owned(),
        }
    }
}

impl Ports {
    /// Reads `8000/tcp`, `8000-8010/tcp`, `53/udp` or `any`.
    pub fn parse(text: &str) -> Result<Self, PortError> {
        if text == "any" {
            return Ok(Self::Any);
        }
        let bad_number = || PortError::Number { text: text.to_owned() };
        let number = |digits: &str| {
            let plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
            let port = digits.parse::<u16>().ok().filter(|&port| plain && port != 0);
            // `012` is twelve to some readers and ten to others.
            port.filter(|_| !digits.starts_with('0')).ok_or_else(bad_number)
        };
        let range = |numbers: &str| match numbers.split_once('-') {
            Some((first, last)) => Ok((number(first)?, number(last)?)),
            None => number(numbers).map(|port| (port, port)),
        };
        let Some((numbers, protocol)) = text.split_once('/') else {
            range(text)?;
            return Err(PortError::NoProtocol { text: text.to_owned() });
        };
        let (first, last) = range(numbers)?;
        let protocol = match protocol {
            "tcp" => Protocol::Tcp,
            "udp" => Protocol::Udp,
            other => {
                return Err(PortError::Protocol { text: text.to_owned(), protocol: other.to_owned() });
            }
        };
        if last < first {
            return Err(PortError::Backwards { text: text.to_owned() });
        }
        Ok(Self::Range { protocol, first, last })
    }

    /// How narrow the entry is.
    #[must_use]
    pub const fn width(self) -> Width {
        match self {
            Self::Any => Width::Any,
            Self::Range { first, last, .. } if first == last => Width::Exact,
            Self::Range { .. } => Width::Range,
        }
    }

    /// First and last port, if the entry is about this protocol.
    #[must_use]
    pub fn interval(self, wanted: Protocol) -> Option<(u16, u16)> {
        match self {
            Self::Any => Some((0, u16::MAX)),
            Self::Range { protocol, first, last } => (protocol == wanted).then_some((first, last)),
        }
    }

    /// Whether the entry names the port.
    #[must_use]
    pub fn contains(self, protocol: Protocol, port: u16) -> bool {
        self.interval(protocol).is_some_and(|(first, last)| (first..=last).contains(&port))
    }

    /// Whether two entries of the same width name a common port.
    #[must_use]
    pub fn collides(self, other: Self) -> bool {
        if self.width() != other.width() {
            return false;
        }
        [Protocol::Tcp, Protocol::Udp].into_iter().any(|protocol| {
            match (self.interval(protocol), other.interval(protocol)) {
                (Some((a, b)), Some((c, d))) => a <= d && c <= b,
                _ => false,
            }
        })
    }
}

impl fmt::Display for Ports {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => formatter.write_str("any"),
            Self::Range { protocol, first, last } if first == last => {
                write!(formatter, "{first}/{}", protocol_name(*protocol))
            }
            Self::Range { protocol, first, last } => {
                write!(formatter, "{first}-{last}/{}", protocol_name(*protocol))
            }
        }
    }
}

/// The word for a protocol.
#[must_use]
pub const fn protocol_name(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
    }
}

/// The IP protocol number.
#[must_use]
pub const fn protocol_number(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Tcp => PROTOCOL_TCP,
        Protocol::Udp => PROTOCOL_UDP,
    }
}

/// The fewest (port, prefix length) pairs that cover the ports from `first` to `last` and no other.
#[must_use]
pub fn prefixes(first: u16, last: u16) -> Vec<(u16, u8)> {
    let mut found = Vec::new();
    let mut next = u32::from(first);
    let end = u32::from(last);
    while next <= end {
        // The largest block that starts here and does not reach beyond the end.
        let mut bits = next.trailing_zeros().min(16);
        while next + (1 << bits) - 1 > end {
            bits -= 1;
        }
        if let (Ok(port), Ok(prefix)) = (u16::try_from(next), u8::try_from(16 - bits)) {
            found.push((port, prefix));
        }
        next += 1 << bits;
    }
    found
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn covers(prefixes: &[(u16, u8)], port: u16) -> usize {
        prefixes
            .iter()
            .filter(|&&(base, length)| length == 0 || (port ^ base).leading_zeros() >= u32::from(length))
            .count()
    }

    #[test]
    fn what_can_be_written() {
        for text in ["8000/tcp", "8000-8010/tcp", "53/udp", "any", "1-65535/udp"] {
            assert_eq!(Ports::parse(text).unwrap().to_string(), text);
        }
        for text in [
            "",
            "/tcp",
            "0/tcp",
            "65536/tcp",
            "080/tcp",
            "80/",
            "80/sctp",
            "80",
            "80/TCP",
            "9-8/tcp",
            "-/udp",
            "1-/udp",
            "+1/tcp",
            "1-2-3/tcp",
        ] {
            assert!(Ports::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn whole_and_single() {
        assert_eq!(prefixes(0, u16::MAX), [(0, 0)]);
        assert_eq!(prefixes(443, 443), [(443, 16)]);
        assert_eq!(prefixes(8000, 8010), [(8000, 13), (8008, 15), (8010, 16)]);
    }

    proptest! {
        #[test]
        fn prefixes_cover_exactly_the_range_once(a: u16, b: u16, probe: u16) {
            let (first, last) = (a.min(b), a.max(b));
            let found = prefixes(first, last);
            prop_assert!(found.len() <= 30);
            for port in [first, last, first.wrapping_sub(1), last.wrapping_add(1), probe] {
                let inside = (first..=last).contains(&port);
                prop_assert_eq!(covers(&found, port), usize::from(inside), "{} in {:?}", port, found);
            }
        }

        #[test]
        fn small_ranges_are_covered_port_by_port(first in 0u16..1000, length in 0u16..300) {
            let found = prefixes(first, first + length);
            for port in 0..2000 {
                let inside = (first..=first + length).contains(&port);
                prop_assert_eq!(covers(&found, port), usize::from(inside));
            }
        }
    }
}
