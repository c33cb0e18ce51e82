//! Logs and metrics. A leaf: it knows names and labels, reads the published state and a [`source::CounterSource`],
//! and does not know who fills either.

pub mod audit;
mod collector;
mod denied;
pub mod labels;
pub mod logging;
pub mod names;
mod scans;
pub mod server;
pub mod source;
pub mod web;
mod zero;

use std::{sync::Arc, time::Duration};

use prometheus::{Histogram, HistogramOpts, Registry, TextEncoder, process_collector::ProcessCollector};
use tokio::sync::watch;

use self::{collector::StateCollector, source::CounterSource};
use crate::state::AgentState;

/// What the agent exports, and the few things that it measures itself.
#[derive(Debug)]
pub struct Telemetry {
    registry: Registry,
    policy_apply: Histogram,
    enforce_delay: Histogram,
}

/// The metrics contradict each other, which no input can cause.
#[derive(Debug, thiserror::Error)]
#[error("cannot register or encode metrics")]
pub struct TelemetryError(#[from] prometheus::Error);

impl Telemetry {
    /// Metrics about the published state and the kernel's counters, both read at every scrape.
    pub fn new(
        state: watch::Receiver<Arc<AgentState>>,
        source: Arc<dyn CounterSource>,
    ) -> Result<Self, TelemetryError> {
        let registry = Registry::new();
        registry.register(Box::new(StateCollector::new(state, source)?))?;
        registry.register(Box::new(ProcessCollector::for_self()))?;
        // From a few map updates to a policy of many thousand entries.
        let policy_apply =
            histogram(&names::POLICY_APPLY, &[0.001, 0.005, 0.025, 0.1, 0.25, 1.0, 2.5, 10.0])?;
        let enforce_delay = histogram(
            &names::ENFORCE_DELAY,
            &[0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.5, 5.0, 10.0],
        )?;
        registry.register(Box::new(policy_apply.clone()))?;
        registry.register(Box::new(enforce_delay.clone()))?;
        Ok(Self { registry, policy_apply, enforce_delay })
    }

    /// From now on the last audit is exported as well.
    pub fn follow_audits(&self, runs: watch::Receiver<Arc<audit::Runs>>) -> Result<(), TelemetryError> {
        Ok(self.registry.register(Box::new(audit::AuditCollector::new(runs)?))?)
    }

    /// How long it took to bring a resolved policy into force.
    pub fn observe_policy_apply(&self, duration: Duration) {
        self.policy_apply.observe(duration.as_secs_f64());
    }

    /// How long a container was seen, but not yet enforced.
    pub fn observe_enforce_delay(&self, duration: Duration) {
        self.enforce_delay.observe(duration.as_secs_f64());
    }

    /// The text of `/metrics`. Reads kernel maps, so not for the async threads.
    pub fn encode(&self) -> Result<String, TelemetryError> {
        Ok(TextEncoder::new().encode_to_string(&self.registry.gather())?)
    }
}

fn histogram(metric: &names::Metric, buckets: &[f64]) -> Result<Histogram, prometheus::Error> {
    Histogram::with_opts(HistogramOpts::new(metric.name, metric.help).buckets(buckets.to_vec()))
}

#[cfg(test)]
mod tests;
