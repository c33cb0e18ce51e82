//! Ring buffer bytes to a [`DeniedEvent`] whose numbers all mean something. Trusts neither length nor content.

use agent_common::{
    event::DeniedEvent,
    packet::Address,
    verdict::{Direction, DropReason, Hook, Severity},
};

/// A denied attempt whose numbers were checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Denial {
    pub event: DeniedEvent,
    pub reason: DropReason,
    pub hook: Hook,
    pub direction: Direction,
    pub severity: Severity,
    pub observed: bool,
}

/// Bytes that no program of this version writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    #[error("event of {actual} bytes, expected {}", size_of::<DeniedEvent>())]
    Length { actual: usize },
    #[error("event with unknown {field} `{number}`")]
    Number { field: &'static str, number: u8 },
}

/// Reads one record of the ring buffer, which is in the machine's own byte order.
pub fn decode(bytes: &[u8]) -> Result<Denial, DecodeError> {
    let length = DecodeError::Length { actual: bytes.len() };
    if bytes.len() != size_of::<DeniedEvent>() {
        return Err(length);
    }
    let mut reader = Reader(bytes);
    let event = read(&mut reader).ok_or(length)?;
    let number = |field, number| DecodeError::Number { field, number };
    Ok(Denial {
        event,
        reason: DropReason::from_number(event.reason).ok_or_else(|| number("reason", event.reason))?,
        hook: *Hook::ALL.get(usize::from(event.hook)).ok_or_else(|| number("hook", event.hook))?,
        direction: match event.direction {
            0 => Direction::Ingress,
            1 => Direction::Egress,
            other => return Err(number("direction", other)),
        },
        severity: match event.severity {
            0..=2 => Severity::from_number(event.severity),
            other => return Err(number("severity", other)),
        },
        observed: match event.observed {
            0 => false,
            1 => true,
            other => return Err(number("verdict", other)),
        },
    })
}

/// The fields in the order of their layout, which has no gaps.
fn read(reader: &mut Reader<'_>) -> Option<DeniedEvent> {
    Some(DeniedEvent {
        time: u64::from_ne_bytes(reader.take()?),
        source_address: Address::new(reader.take()?),
        destination_address: Address::new(reader.take()?),
        source: u32::from_ne_bytes(reader.take()?),
        destination: u32::from_ne_bytes(reader.take()?),
        source_port_ifindex: u32::from_ne_bytes(reader.take()?),
        destination_port_ifindex: u32::from_ne_bytes(reader.take()?),
        subject: u32::from_ne_bytes(reader.take()?),
        rule: u32::from_ne_bytes(reader.take()?),
        revision: u32::from_ne_bytes(reader.take()?),
        ifindex: u32::from_ne_bytes(reader.take()?),
        packets_suppressed: u32::from_ne_bytes(reader.take()?),
        source_port: u16::from_ne_bytes(reader.take()?),
        destination_port: u16::from_ne_bytes(reader.take()?),
        policy: u16::from_ne_bytes(reader.take()?),
        ethertype: u16::from_ne_bytes(reader.take()?),
        protocol: u8::from_ne_bytes(reader.take()?),
        tcp_flags: u8::from_ne_bytes(reader.take()?),
        reason: u8::from_ne_bytes(reader.take()?),
        hook: u8::from_ne_bytes(reader.take()?),
        direction: u8::from_ne_bytes(reader.take()?),
        severity: u8::from_ne_bytes(reader.take()?),
        observed: u8::from_ne_bytes(reader.take()?),
        _pad: u8::from_ne_bytes(reader.take()?),
        _pad2: u32::from_ne_bytes(reader.take()?),
    })
}

/// What is left of the bytes.
struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (field, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*field)
    }
}

#[cfg(test)]
mod tests;
