//! Marks the shared types as plain data for aya. Only the agent is built with this.

use crate::{config, counter, endpoint, event, flow, policy};

macro_rules! plain {
    ($($type:ty),+ $(,)?) => {
        $(
            // SAFETY: `repr(C)` integers and byte arrays without implicit padding (sizes are asserted where
            // the types are defined); any bytes are a valid value.
            unsafe impl aya::Pod for $type {}
        )+
    };
}

plain!(
    config::Config,
    counter::DeniedKey,
    counter::DeniedCount,
    endpoint::Interface,
    endpoint::Destination,
    endpoint::PublishedKey,
    endpoint::Published,
    event::DeniedEvent,
    event::AttemptKey,
    event::AttemptEntry,
    flow::FlowKey,
    flow::FlowEntry,
    flow::HeldKey,
    policy::SubjectKey,
    policy::Subject,
    policy::AddressKey,
    policy::RuleKey,
    policy::Rule,
);
