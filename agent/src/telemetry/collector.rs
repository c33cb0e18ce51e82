//! Turns the published state and one reading of the counters into metric families, at every scrape.

use std::{
    collections::{BTreeMap, HashMap},
    error::Error,
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use agent_common::{
    counter::{TOTALS, Total as Index},
    verdict::Hook,
};
use prometheus::{
    core::{Collector, Desc},
    proto::{Counter, Gauge, LabelPair, Metric as Sample, MetricFamily, MetricType},
};
use tokio::sync::watch;

use super::{
    denied::{DeniedSeries, Total},
    labels::DeniedLabels,
    names::{self, Kind, Metric},
    scans,
    source::{CounterReading, CounterSource},
    zero::zero_series,
};
use crate::{
    events::scans::Scan,
    interference::{Fault, FaultState},
    inventory::snapshot::Obstacle,
    policy::entries::Entries,
    state::{AgentState, EndpointState},
};

/// The git revision of the build, where the build says so.
const BUILD_REVISION: Option<&str> = option_env!("PORTCULLIS_REVISION");

/// The one collector of the agent's own metrics.
pub(super) struct StateCollector {
    state: watch::Receiver<Arc<AgentState>>,
    source: Arc<dyn CounterSource>,
    descriptions: Vec<Desc>,
    counted: Mutex<Counted>,
}

/// What only ever grows.
#[derive(Debug, Default)]
struct Counted {
    denied: DeniedSeries,
    totals: [Total; TOTALS as usize],
    sums: [u64; TOTALS as usize],
    lost_in_agent: Total,
    events_lost: u64,
    suppressed_in_agent: Total,
    events_suppressed: u64,
    backstop_dropped: Total,
    backstop_dropped_sum: u64,
    read_errors: u64,
    /// The last reading failed.
    failing: bool,
    maps: Vec<super::source::MapUsage>,
    scans: BTreeMap<u32, Scan>,
    /// The entries that the zero series were made for.
    prepared: Option<Arc<Entries>>,
}

impl StateCollector {
    pub(super) fn new(
        state: watch::Receiver<Arc<AgentState>>,
        source: Arc<dyn CounterSource>,
    ) -> Result<Self, prometheus::Error> {
        let own = |metric: &&Metric| metric.kind != Kind::Histogram;
        let descriptions = names::ALL.iter().filter(own).map(describe).collect::<Result<_, _>>()?;
        Ok(Self { state, source, descriptions, counted: Mutex::default() })
    }
}

pub(super) fn describe(metric: &Metric) -> Result<Desc, prometheus::Error> {
    let labels = metric.labels.iter().map(|&label| label.to_owned()).collect();
    Desc::new(metric.name.to_owned(), metric.help.to_owned(), labels, HashMap::new())
}

impl fmt::Debug for StateCollector {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("StateCollector").finish_non_exhaustive()
    }
}

impl Collector for StateCollector {
    fn desc(&self) -> Vec<&Desc> {
        self.descriptions.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let mut counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        // Counters before names: a service is named before anything can be counted for it.
        let reading = self.source.read();
        let state = Arc::clone(&self.state.borrow());
        counted.prepare(&state);
        match reading {
            Ok(reading) => counted.update(reading, &state),
            Err(error) => {
                counted.read_errors += 1;
                // One line per outage, not per scrape.
                if !counted.failing {
                    counted.failing = true;
                    let error: &dyn Error = &error;
                    tracing::warn!(error, "cannot read counters, metrics stand still");
                }
            }
        }
        let mut families = counted.families();
        families.extend(scan_families(&counted.scans, &state));
        families.extend(state_families(&state));
        families
    }
}

impl Counted {
    fn prepare(&mut self, state: &AgentState) {
        if self.prepared.as_ref().is_some_and(|prepared| Arc::ptr_eq(prepared, &state.entries)) {
            return;
        }
        self.denied.prepare(zero_series(state));
        self.prepared = Some(Arc::clone(&state.entries));
    }

    fn update(&mut self, reading: CounterReading, state: &AgentState) {
        self.failing = false;
        for ((total, sum), now) in self.totals.iter_mut().zip(&mut self.sums).zip(reading.totals) {
            *sum = total.update(now);
        }
        self.denied.update(&reading.denied, reading.totals[Index::DeniedUnlabelled as usize], state);
        self.events_lost =
            self.sums[Index::EventsLost as usize] + self.lost_in_agent.update(reading.lost_in_agent);
        self.events_suppressed = self.sums[Index::EventsSuppressed as usize]
            + self.suppressed_in_agent.update(reading.suppressed_in_agent);
        self.backstop_dropped_sum = self.backstop_dropped.update(reading.backstop_dropped);
        self.maps = reading.maps;
        self.scans = reading.scans;
    }

    fn families(&self) -> Vec<MetricFamily> {
        let sum = |index: Index| self.sums[index as usize];
        let by_hook = |metric, index: fn(Hook) -> Index| {
            family(metric, Hook::ALL.map(|hook| (vec![hook.name()], sum(index(hook)))))
        };
        let denied = |metric, count: fn(&agent_common::counter::DeniedCount) -> u64| {
            let values = |labels: &DeniedLabels| labels.values().map(str::to_owned).to_vec();
            family(metric, self.denied.iter().map(|(labels, counts)| (values(labels), count(counts))))
        };
        let maps = |metric, value: fn(&super::source::MapUsage) -> u64| {
            family(metric, self.maps.iter().map(|map| (vec![map.name], value(map))))
        };
        vec![
            denied(&names::DENIED_ATTEMPTS, |count| count.attempts),
            denied(&names::DENIED_PACKETS, |count| count.packets),
            by_hook(&names::FORWARDED_PACKETS, Index::forwarded),
            by_hook(&names::DROPPED_PACKETS, Index::dropped),
            single(&names::BACKSTOP_DROPPED, self.backstop_dropped_sum),
            single(&names::EVENTS_LOST, self.events_lost),
            single(&names::EVENTS_SUPPRESSED, self.events_suppressed),
            single(&names::SCRAPE_ERRORS, self.read_errors),
            maps(&names::MAP_ENTRIES, |map| map.entries),
            maps(&names::MAP_CAPACITY, |map| map.capacity),
        ]
    }
}

fn scan_families(scans: &BTreeMap<u32, Scan>, state: &AgentState) -> [MetricFamily; 2] {
    let series = scans::by_source(scans, state);
    let ports = series.iter().map(|(source, scan)| (source.to_vec(), scan.ports as u64));
    let targets = series.iter().flat_map(|(source, scan)| {
        let [project, source] = source;
        let to = |destination: &str| vec![project.clone(), source.clone(), destination.to_owned()];
        [(to("local"), scan.local_targets as u64), (to("world"), scan.world_targets as u64)]
    });
    [family(&names::SCAN_PORTS, ports), family(&names::SCAN_TARGETS, targets)]
}

fn state_families(state: &AgentState) -> Vec<MetricFamily> {
    let endpoints = EndpointState::ALL.map(|wanted| {
        let count = state
            .endpoints()
            .filter(|(endpoint, resolved)| state.endpoint_state(endpoint, *resolved) == wanted);
        (vec![wanted.name()], count.count() as u64)
    });
    let unenforceable = Obstacle::NAMES.map(|reason| {
        let count = state.unenforceable().filter(|container| container.obstacle.name() == reason);
        (vec![reason], count.count() as u64)
    });
    let revision = state.revision.to_string();
    let policies = state.entries.policies.values();
    vec![
        family(&names::ENDPOINTS, endpoints),
        family(&names::UNENFORCEABLE, unenforceable),
        family(
            &names::POLICY_INFO,
            policies.map(|policy| {
                (
                    vec![
                        policy.name.as_str(),
                        policy.mode.name(),
                        policy.profile.as_str(),
                        revision.as_str(),
                    ],
                    1,
                )
            }),
        ),
        single(&names::RELOAD_SUCCESSFUL, u64::from(state.reload.successful)),
        single(&names::RELOAD_SUCCESS_TIMESTAMP, state.reload.last_success),
        family(
            &names::INVENTORY_CONNECTED,
            [(vec![state.inventory.source.name()], u64::from(state.inventory.connected))],
        ),
        single(&names::READY, u64::from(state.ready)),
        single(&names::ENFORCEMENT_INTACT, u64::from(state.interference.is_intact())),
        by_fault(&names::ENFORCEMENT_FAULT, state, |fault| u64::from(fault.active)),
        by_fault(&names::ENFORCEMENT_REPAIRS, state, |fault| fault.repairs),
        family(
            &names::BUILD_INFO,
            [(vec![env!("CARGO_PKG_VERSION"), BUILD_REVISION.unwrap_or("unknown")], 1)],
        ),
    ]
}

fn by_fault(metric: &Metric, state: &AgentState, value: fn(FaultState) -> u64) -> MetricFamily {
    family(metric, Fault::ALL.map(|fault| (vec![fault.name()], value(state.interference.fault(fault)))))
}

pub(super) fn single(metric: &Metric, value: u64) -> MetricFamily {
    family(metric, [(Vec::<&str>::new(), value)])
}

pub(super) fn family<L: Into<String>>(
    metric: &Metric,
    samples: impl IntoIterator<Item = (Vec<L>, u64)>,
) -> MetricFamily {
    let mut family = MetricFamily::default();
    family.set_name(metric.name.to_owned());
    family.set_help(metric.help.to_owned());
    family.set_field_type(match metric.kind {
        Kind::Counter => MetricType::COUNTER,
        Kind::Gauge | Kind::Histogram => MetricType::GAUGE,
    });
    let samples = samples.into_iter().map(|(values, value)| sample(metric, values, value)).collect();
    family.set_metric(samples);
    family
}

fn sample<L: Into<String>>(metric: &Metric, values: Vec<L>, value: u64) -> Sample {
    let labels = metric.labels.iter().zip(values).map(|(&name, value)| {
        let mut label = LabelPair::default();
        label.set_name(name.to_owned());
        label.set_value(value.into());
        label
    });
    let mut sample = Sample::from_label(labels.collect());
    // The format has only floating point numbers: exact up to 2^53.
    #[allow(clippy::cast_precision_loss, reason = "what Prometheus stores is a float anyway")]
    let value = value as f64;
    if metric.kind == Kind::Counter {
        let mut counter = Counter::default();
        counter.set_value(value);
        sample.set_counter(counter);
    } else {
        let mut gauge = Gauge::default();
        gauge.set_value(value);
        sample.set_gauge(gauge);
    }
    sample
}
