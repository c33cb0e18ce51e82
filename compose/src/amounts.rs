//! Sizes and durations that are none.

use crate::{
    node::{Fault, Node, Result, Value},
    path::{ITEM, Path},
    units,
};

const SIZES: [&str; 9] = [
    "services.*.mem_limit",
    "services.*.mem_reservation",
    "services.*.memswap_limit",
    "services.*.mem_swappiness",
    "services.*.shm_size",
    "services.*.build.shm_size",
    "services.*.deploy.resources.limits.memory",
    "services.*.deploy.resources.reservations.memory",
    "services.*.volumes.*.tmpfs.size",
];

const DURATIONS: [&str; 11] = [
    "services.*.stop_grace_period",
    "services.*.healthcheck.interval",
    "services.*.healthcheck.timeout",
    "services.*.healthcheck.start_period",
    "services.*.healthcheck.start_interval",
    "services.*.deploy.update_config.delay",
    "services.*.deploy.update_config.monitor",
    "services.*.deploy.rollback_config.delay",
    "services.*.deploy.rollback_config.monitor",
    "services.*.deploy.restart_policy.delay",
    "services.*.deploy.restart_policy.window",
];

/// Refuses what cannot be read as the amount that it should be.
pub(crate) fn check(node: &Node) -> Result<()> {
    walk(node, &Path::ROOT)
}

fn walk(node: &Node, path: &Path<'_>) -> Result<()> {
    match &node.value {
        Value::Map(map) => map.iter().try_for_each(|(name, entry)| walk(&entry.node, &path.child(name))),
        Value::List(items) => items.iter().try_for_each(|item| walk(item, &path.child(ITEM))),
        Value::Text(text) => {
            let fits = |patterns: &[&str]| patterns.iter().any(|pattern| path.matches(pattern));
            let refuse = |what: &str, hint: &str| {
                Err(Fault::schema(node.span, format!("`{text}` is no {what}")).hint(hint))
            };
            if fits(&SIZES) && units::bytes(text).is_none() {
                return refuse("size", "sizes are written `512m`, `1.5g` or in bytes");
            }
            if fits(&DURATIONS) && units::duration(text).is_none() {
                return refuse("duration", "durations are written `90s`, `1m30s` or `500ms`");
            }
            Ok(())
        }
        _ => Ok(()),
    }
}
