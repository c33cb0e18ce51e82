//! Every metric of the agent, with help and labels: the one place where they are named. docs/metrics.md is
//! generated from here. The `process_*` metrics are the prometheus crate's own.

/// What kind of numbers a metric holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Counter,
    Gauge,
    Histogram,
}

impl Kind {
    /// The word of the exposition format.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// One metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Metric {
    pub name: &'static str,
    pub kind: Kind,
    pub help: &'static str,
    pub labels: &'static [&'static str],
}

/// The labels of denials.
pub const DENIED_LABELS: [&str; 9] =
    ["policy", "project", "source", "destination", "port", "protocol", "reason", "severity", "verdict"];

const fn counter(name: &'static str, labels: &'static [&'static str], help: &'static str) -> Metric {
    Metric { name, kind: Kind::Counter, help, labels }
}

const fn gauge(name: &'static str, labels: &'static [&'static str], help: &'static str) -> Metric {
    Metric { name, kind: Kind::Gauge, help, labels }
}

pub const DENIED_ATTEMPTS: Metric = counter(
    "portcullis_denied_connection_attempts_total",
    &DENIED_LABELS,
    "Connection attempts that the policy does not allow.",
);
pub const DENIED_PACKETS: Metric = counter(
    "portcullis_denied_packets_total",
    &DENIED_LABELS,
    "Packets that the policy does not allow, retransmissions of one attempt included.",
);
pub const FORWARDED_PACKETS: Metric = counter(
    "portcullis_forwarded_packets_total",
    &["hook"],
    "Packets that went on to the next program, observed ones included.",
);
pub const DROPPED_PACKETS: Metric = counter(
    "portcullis_dropped_packets_total",
    &["hook"],
    "Packets that were dropped; with the forwarded ones, all that came in.",
);
pub const BACKSTOP_DROPPED: Metric = counter(
    "portcullis_backstop_dropped_packets_total",
    &[],
    "Packets between two ports that the backstop dropped, because no program had seen them; 0 without `backstop: nft`.",
);
pub const EVENTS_LOST: Metric = counter(
    "portcullis_events_lost_total",
    &[],
    "Events that found the ring buffer or the queue to the event sink full, or that the sink did not take.",
);
pub const EVENTS_SUPPRESSED: Metric = counter(
    "portcullis_events_suppressed_total",
    &[],
    "Denied packets without an event of their own, because one was made shortly before.",
);
pub const SCAN_PORTS: Metric = gauge(
    "portcullis_scan_ports",
    &["project", "source"],
    "Most different ports that a single source was denied in the last ten minutes, counted up to 100.",
);
pub const SCAN_TARGETS: Metric = gauge(
    "portcullis_scan_targets",
    &["project", "source", "destination"],
    "Most different targets that a single source was denied in the last ten minutes, counted up to 100.",
);
pub const ENDPOINTS: Metric =
    gauge("portcullis_endpoints", &["state"], "Container network interfaces on watched bridges.");
pub const UNENFORCEABLE: Metric = gauge(
    "portcullis_unenforceable_containers",
    &["reason"],
    "Running containers that cannot be enforced, as `status` lists them.",
);
pub const POLICY_INFO: Metric = gauge(
    "portcullis_policy_info",
    &["policy", "mode", "profile", "revision"],
    "Policies in force, always 1; the revision is that of the resolved entries.",
);
pub const MAP_ENTRIES: Metric = gauge("portcullis_map_entries", &["map"], "Entries in use in a kernel map.");
pub const MAP_CAPACITY: Metric =
    gauge("portcullis_map_capacity", &["map"], "Entries that a kernel map can hold.");
pub const RELOAD_SUCCESSFUL: Metric = gauge(
    "portcullis_config_last_reload_successful",
    &[],
    "Whether the last attempt to load the policy succeeded; if not, the state before it is in force.",
);
pub const RELOAD_SUCCESS_TIMESTAMP: Metric = gauge(
    "portcullis_config_last_reload_success_timestamp_seconds",
    &[],
    "When the policy was last loaded, in seconds since 1970.",
);
pub const POLICY_APPLY: Metric = Metric {
    name: "portcullis_policy_apply_seconds",
    kind: Kind::Histogram,
    help: "Time to bring a resolved policy into force.",
    labels: &[],
};
pub const ENFORCE_DELAY: Metric = Metric {
    name: "portcullis_enforce_delay_seconds",
    kind: Kind::Histogram,
    help: "Time from a container being seen to its being enforced; until then it can neither send nor receive.",
    labels: &[],
};
pub const INVENTORY_CONNECTED: Metric = gauge(
    "portcullis_inventory_connected",
    &["source"],
    "Whether the source of containers can be reached; if not, what was known last stays enforced.",
);
pub const READY: Metric = gauge("portcullis_ready", &[], "Whether everything that was found is enforced.");
pub const ENFORCEMENT_INTACT: Metric = gauge(
    "portcullis_enforcement_intact",
    &[],
    "Whether nobody takes away, exchanges or gets before what enforces; 0 for at least a minute after a repair.",
);
pub const ENFORCEMENT_FAULT: Metric = gauge(
    "portcullis_enforcement_fault",
    &["reason"],
    "What somebody did to what enforces, for at least a minute after it was repaired.",
);
pub const ENFORCEMENT_REPAIRS: Metric = counter(
    "portcullis_enforcement_repairs_total",
    &["reason"],
    "Repairs of what somebody did to what enforces.",
);
pub const SCRAPE_ERRORS: Metric = counter(
    "portcullis_scrape_errors_total",
    &[],
    "Scrapes at which the kernel's counters could not be read and stood still.",
);
pub const AUDIT_FINDINGS: Metric = gauge(
    "portcullis_audit_findings",
    &["code", "severity"],
    "Open findings and failed lines of the last audit that succeeded; every code, 0 if nothing is open.",
);
pub const AUDIT_UNTOLD: Metric = gauge(
    "portcullis_audit_untold_lines",
    &["code"],
    "Lines of that audit that could not be told; they are no findings.",
);
pub const AUDIT_SUCCESSFUL: Metric = gauge(
    "portcullis_audit_last_run_successful",
    &[],
    "Whether the last audit could ask the engine; if not, the findings are those of the one before.",
);
pub const AUDIT_TIMESTAMP: Metric = gauge(
    "portcullis_audit_last_run_timestamp_seconds",
    &[],
    "When the last audit ended, whatever came of it, in seconds since 1970.",
);
pub const AUDIT_DURATION: Metric =
    gauge("portcullis_audit_last_run_duration_seconds", &[], "How long the last audit took.");
pub const AUDIT_INTERVAL: Metric = gauge(
    "portcullis_audit_interval_seconds",
    &[],
    "How often the agent audits; there is none if it does not.",
);
pub const BUILD_INFO: Metric =
    gauge("portcullis_build_info", &["version", "revision"], "The running build, always 1.");

/// Those of audits: there are none without one.
pub const AUDIT: [Metric; 6] =
    [AUDIT_FINDINGS, AUDIT_UNTOLD, AUDIT_SUCCESSFUL, AUDIT_TIMESTAMP, AUDIT_DURATION, AUDIT_INTERVAL];

/// Every other metric, in the order of the documentation.
pub const ALL: [Metric; 25] = [
    DENIED_ATTEMPTS,
    DENIED_PACKETS,
    FORWARDED_PACKETS,
    DROPPED_PACKETS,
    BACKSTOP_DROPPED,
    EVENTS_LOST,
    EVENTS_SUPPRESSED,
    SCAN_PORTS,
    SCAN_TARGETS,
    ENDPOINTS,
    UNENFORCEABLE,
    POLICY_INFO,
    MAP_ENTRIES,
    MAP_CAPACITY,
    RELOAD_SUCCESSFUL,
    RELOAD_SUCCESS_TIMESTAMP,
    POLICY_APPLY,
    ENFORCE_DELAY,
    INVENTORY_CONNECTED,
    READY,
    ENFORCEMENT_INTACT,
    ENFORCEMENT_FAULT,
    ENFORCEMENT_REPAIRS,
    SCRAPE_ERRORS,
    BUILD_INFO,
];
