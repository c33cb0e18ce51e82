//! The ring buffer's bytes are not trusted.

use std::mem::offset_of;

use proptest::prelude::*;

use super::*;
use crate::state::fixture;

#[test]
fn an_event_comes_out_as_it_went_in() {
    let event = fixture::event();
    let denial = decode(&fixture::bytes(&event)).unwrap();
    assert_eq!(denial.event, event);
    assert_eq!(denial.reason, DropReason::NoRule);
    assert_eq!(denial.severity, Severity::Critical);
    assert!(!denial.observed);
}

#[test]
fn a_wrong_length_is_an_error() {
    let bytes = fixture::bytes(&fixture::event());
    for length in [0, 1, bytes.len() - 1] {
        assert_eq!(decode(&bytes[..length]), Err(DecodeError::Length { actual: length }));
    }
    let long = [bytes, vec![0]].concat();
    assert_eq!(decode(&long), Err(DecodeError::Length { actual: 97 }));
}

#[test]
fn a_number_without_meaning_is_an_error() {
    let fields = [
        (offset_of!(DeniedEvent, reason), "reason"),
        (offset_of!(DeniedEvent, hook), "hook"),
        (offset_of!(DeniedEvent, direction), "direction"),
        (offset_of!(DeniedEvent, severity), "severity"),
        (offset_of!(DeniedEvent, observed), "verdict"),
    ];
    for (offset, field) in fields {
        let mut bytes = fixture::bytes(&fixture::event());
        bytes[offset] = 200;
        assert_eq!(decode(&bytes), Err(DecodeError::Number { field, number: 200 }));
    }
}

proptest! {
    #[test]
    fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(bytes.len() == 96 || decode(&bytes).is_err());
    }

    #[test]
    fn any_event_becomes_a_record(
        noise in prop::collection::vec(any::<u8>(), offset_of!(DeniedEvent, protocol)),
        reason in 1u8..=16, hook in 0u8..2, direction in 0u8..2, severity in 0u8..3, observed in 0u8..2,
        flags in any::<[u8; 3]>(), offset in any::<i64>(),
    ) {
        let mut bytes = noise;
        bytes.extend([flags[0], flags[1], reason, hook, direction, severity, observed, flags[2]]);
        bytes.resize(size_of::<DeniedEvent>(), 0);
        let denial = decode(&bytes).unwrap();
        let record = crate::events::record::Record::new(&denial, &fixture::state(), offset);
        prop_assert!(!record.line().is_empty());
        prop_assert!(serde_json::to_string(&record).is_ok());
    }
}
