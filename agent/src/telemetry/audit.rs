//! The last audit as metrics: of the agent that audits at an interval, and as a file for the textfile collector.

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use prometheus::{
    TextEncoder,
    core::{Collector, Desc},
    proto::{Gauge, MetricFamily},
};
use tokio::sync::watch;

use super::{
    TelemetryError,
    collector::{describe, family, single},
    names,
};

/// How many findings are open by code and severity, and how many lines could not be told by code. Every code is there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Open {
    pub findings: BTreeMap<(&'static str, &'static str), u64>,
    pub untold: BTreeMap<&'static str, u64>,
}

/// What came of audits so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Runs {
    /// How often there is one, if nobody has to ask for it.
    pub interval: Option<Duration>,
    pub last: Option<LastRun>,
    /// That of the last that succeeded.
    pub open: Option<Open>,
}

/// How the last audit went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LastRun {
    /// In seconds since 1970.
    pub ended: u64,
    pub took: Duration,
    pub successful: bool,
}

impl Runs {
    fn families(&self) -> Vec<MetricFamily> {
        let mut families = Vec::new();
        if let Some(open) = &self.open {
            let findings =
                open.findings.iter().map(|(&(code, severity), &count)| (vec![code, severity], count));
            let untold = open.untold.iter().map(|(&code, &count)| (vec![code], count));
            families.push(family(&names::AUDIT_FINDINGS, findings));
            families.push(family(&names::AUDIT_UNTOLD, untold));
        }
        if let Some(last) = &self.last {
            families.push(single(&names::AUDIT_SUCCESSFUL, u64::from(last.successful)));
            families.push(single(&names::AUDIT_TIMESTAMP, last.ended));
            let mut took = single(&names::AUDIT_DURATION, 0);
            for sample in took.mut_metric() {
                let mut gauge = Gauge::default();
                gauge.set_value(last.took.as_secs_f64());
                sample.set_gauge(gauge);
            }
            families.push(took);
        }
        if let Some(interval) = self.interval {
            families.push(single(&names::AUDIT_INTERVAL, interval.as_secs()));
        }
        families
    }

    /// As Prometheus reads it.
    pub fn exposition(&self) -> Result<String, TelemetryError> {
        Ok(TextEncoder::new().encode_to_string(&self.families())?)
    }
}

/// Exports whatever was published last.
pub(super) struct AuditCollector {
    runs: watch::Receiver<Arc<Runs>>,
    descriptions: Vec<Desc>,
}

impl AuditCollector {
    pub(super) fn new(runs: watch::Receiver<Arc<Runs>>) -> Result<Self, prometheus::Error> {
        let descriptions = names::AUDIT.iter().map(describe).collect::<Result<_, _>>()?;
        Ok(Self { runs, descriptions })
    }
}

impl fmt::Debug for AuditCollector {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("AuditCollector").finish_non_exhaustive()
    }
}

impl Collector for AuditCollector {
    fn desc(&self) -> Vec<&Desc> {
        self.descriptions.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        self.runs.borrow().families()
    }
}
