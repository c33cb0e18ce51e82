//! However many services and ports there are, the number of series is bounded and nothing goes uncounted.

use std::time::Instant;

use agent_common::{
    counter::DeniedKey,
    policy::Subject,
    verdict::{Mode, Severity},
};

use super::*;
use crate::{
    policy::entries::Entries,
    state::Names,
    telemetry::denied::{DeniedSeries, MAX_SERIES, MAX_ZERO_SERIES},
};

const SERVICES: u32 = 10_000;
const PORTS: u16 = 5;

fn crowd() -> AgentState {
    let name = |identity| (identity, (format!("project-{}", identity % 500), format!("service-{identity}")));
    let subject = Subject {
        policy: 1,
        mode: Mode::Enforce as u8,
        severity: Severity::Warning as u8,
        flags: 0,
        _pad: [0; 3],
    };
    let identities = 256..256 + SERVICES;
    AgentState {
        names: Arc::new(Names {
            policies: BTreeMap::from([(1, "crowd".to_owned())]),
            identities: identities.clone().map(name).collect(),
        }),
        entries: Arc::new(Entries {
            subjects: identities.map(|identity| (identity, subject)).collect(),
            ..Entries::default()
        }),
        ..AgentState::default()
    }
}

fn denied() -> Vec<(DeniedKey, DeniedCount)> {
    let key = |identity, port| DeniedKey {
        subject: identity,
        destination: identity,
        port_first: port,
        port_last: port,
        ..fixture::denied_key()
    };
    (256..256 + SERVICES)
        .flat_map(|identity| {
            (1..=PORTS).map(move |port| (key(identity, port), DeniedCount { packets: 3, attempts: 1 }))
        })
        .collect()
}

#[test]
fn ten_thousand_services_make_a_bounded_number_of_series() {
    let rig = Rig::new(crowd());
    let started = Instant::now();
    let zero = rig.scrape();
    let count = |scrape: &BTreeMap<String, f64>| {
        scrape.keys().filter(|series| series.starts_with("portcullis_denied_connection")).count()
    };
    assert!(count(&zero) <= MAX_ZERO_SERIES + 1, "{}", count(&zero));

    for _ in 0..2 {
        rig.counters.set(CounterReading { denied: denied(), ..CounterReading::default() });
        let scrape = rig.scrape();
        assert!(count(&scrape) <= MAX_SERIES, "{}", count(&scrape));
        let total: f64 = scrape
            .iter()
            .filter(|(series, _)| series.starts_with("portcullis_denied_connection"))
            .map(|(_, value)| value)
            .sum();
        assert_eq!(total, f64::from(SERVICES) * f64::from(PORTS), "nothing goes uncounted");
    }
    assert!(started.elapsed().as_secs() < 30, "{:?}", started.elapsed());
}

#[test]
fn even_hostile_policy_numbers_stay_within_the_bound() {
    let mut series = DeniedSeries::default();
    let state = AgentState {
        names: Arc::new(Names {
            policies: (1..=u16::MAX).map(|number| (number, format!("policy-{number}"))).collect(),
            ..Names::default()
        }),
        ..AgentState::default()
    };
    let denied: Vec<_> = (1..=u16::MAX)
        .map(|policy| {
            (DeniedKey { policy, ..fixture::denied_key() }, DeniedCount { packets: 1, attempts: 1 })
        })
        .collect();
    series.update(&denied, 5, &state);
    series.update(&denied, 5, &state);
    assert!(series.iter().count() <= MAX_SERIES + DropReason::ALL.len());
    let packets: u64 = series.iter().map(|(_, count)| count.packets).sum();
    assert_eq!(packets, u64::from(u16::MAX) + 5);
}
