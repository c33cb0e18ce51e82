//! Fills variables into every text of a tree, and makes numbers and booleans of texts where Compose wants those.

use std::collections::BTreeSet;

use crate::{
    node::{Fault, FaultKind, Node, Result, Value},
    path::{ITEM, Path},
    template::{self, Lookup, TemplateError},
};

#[derive(Clone, Copy, Debug)]
enum Cast {
    Bool,
    Int,
    Float,
}

/// Where a text becomes something else.
const CASTS: [(&str, Cast); 48] = [
    ("services.*.attach", Cast::Bool),
    ("services.*.build.no_cache", Cast::Bool),
    ("services.*.build.privileged", Cast::Bool),
    ("services.*.build.pull", Cast::Bool),
    ("services.*.env_file.*.required", Cast::Bool),
    ("networks.*.enable_ipv4", Cast::Bool),
    ("networks.*.enable_ipv6", Cast::Bool),
    ("services.*.cpu_count", Cast::Int),
    ("services.*.cpu_percent", Cast::Float),
    ("services.*.cpu_period", Cast::Int),
    ("services.*.cpu_quota", Cast::Int),
    ("services.*.cpu_rt_period", Cast::Int),
    ("services.*.cpu_rt_runtime", Cast::Int),
    ("services.*.cpus", Cast::Float),
    ("services.*.cpu_shares", Cast::Int),
    ("services.*.init", Cast::Bool),
    ("services.*.deploy.replicas", Cast::Int),
    ("services.*.deploy.update_config.parallelism", Cast::Int),
    ("services.*.deploy.update_config.max_failure_ratio", Cast::Float),
    ("services.*.deploy.rollback_config.parallelism", Cast::Int),
    ("services.*.deploy.rollback_config.max_failure_ratio", Cast::Float),
    ("services.*.deploy.restart_policy.max_attempts", Cast::Int),
    ("services.*.deploy.placement.max_replicas_per_node", Cast::Int),
    ("services.*.healthcheck.retries", Cast::Int),
    ("services.*.healthcheck.disable", Cast::Bool),
    ("services.*.oom_kill_disable", Cast::Bool),
    ("services.*.oom_score_adj", Cast::Int),
    ("services.*.pids_limit", Cast::Int),
    ("services.*.ports.*.target", Cast::Int),
    ("services.*.privileged", Cast::Bool),
    ("services.*.read_only", Cast::Bool),
    ("services.*.scale", Cast::Int),
    ("services.*.stdin_open", Cast::Bool),
    ("services.*.tty", Cast::Bool),
    ("services.*.ulimits.*", Cast::Int),
    ("services.*.ulimits.*.hard", Cast::Int),
    ("services.*.ulimits.*.soft", Cast::Int),
    ("services.*.volumes.*.read_only", Cast::Bool),
    ("services.*.volumes.*.volume.nocopy", Cast::Bool),
    ("services.*.volumes.*.bind.create_host_path", Cast::Bool),
    ("services.*.depends_on.*.required", Cast::Bool),
    ("services.*.depends_on.*.restart", Cast::Bool),
    ("networks.*.external", Cast::Bool),
    ("networks.*.internal", Cast::Bool),
    ("networks.*.attachable", Cast::Bool),
    ("volumes.*.external", Cast::Bool),
    ("secrets.*.external", Cast::Bool),
    ("configs.*.external", Cast::Bool),
];

/// Fills in a whole tree.
pub(crate) fn interpolate(node: &mut Node, lookup: Lookup<'_>, unset: &mut BTreeSet<String>) -> Result<()> {
    walk(node, &Path::ROOT, lookup, unset)
}

fn walk(node: &mut Node, path: &Path<'_>, lookup: Lookup<'_>, unset: &mut BTreeSet<String>) -> Result<()> {
    match &mut node.value {
        Value::Map(map) => {
            for (name, entry) in map.iter_mut() {
                walk(&mut entry.node, &path.child(name), lookup, unset)?;
            }
            Ok(())
        }
        Value::List(items) => {
            items.iter_mut().try_for_each(|item| walk(item, &path.child(ITEM), lookup, unset))
        }
        Value::Text(text) => {
            let filled =
                template::substitute(text, lookup, unset).map_err(|error| fault(error, node.span, text))?;
            node.value = match CASTS.iter().find(|(pattern, _)| path.matches(pattern)) {
                Some((_, cast)) => cast.apply(&filled).ok_or_else(|| {
                    let message = format!("`{path}` is {}, not `{filled}`", cast.name());
                    Fault::new(FaultKind::Interpolation, node.span, message)
                })?,
                None => Value::Text(filled),
            };
            Ok(())
        }
        _ => Ok(()),
    }
}

fn fault(error: TemplateError, span: crate::node::Span, text: &str) -> Fault {
    let new = |message: String| Fault::new(FaultKind::Interpolation, span, message);
    match error {
        TemplateError::Invalid(_) => new(format!("`{text}` holds a `$` that begins no variable"))
            .hint("write `$$` for a dollar sign, `${NAME}` for a variable"),
        TemplateError::Required { variable, message } if message.is_empty() => {
            new(format!("required variable `{variable}` is not set"))
                .hint(format!("set `{variable}` in the environment, in `.env` or by `--env-file`"))
        }
        TemplateError::Required { variable, message } => {
            new(format!("required variable `{variable}` is not set: {message}"))
                .hint(format!("set `{variable}` in the environment, in `.env` or by `--env-file`"))
        }
        TemplateError::TooDeep => {
            Fault::new(FaultKind::Limit, span, "variables are too deeply nested or their values too long")
        }
    }
}

impl Cast {
    const fn name(self) -> &'static str {
        match self {
            Self::Bool => "true or false",
            Self::Int => "a whole number",
            Self::Float => "a number",
        }
    }

    fn apply(self, text: &str) -> Option<Value> {
        match self {
            Self::Int => text.parse().ok().map(Value::Int),
            Self::Float => text.parse().ok().map(Value::Float),
            Self::Bool => match text.to_lowercase().as_str() {
                "true" | "1" | "y" | "yes" | "on" | "t" => Some(Value::Bool(true)),
                "false" | "0" | "n" | "no" | "off" | "f" => Some(Value::Bool(false)),
                _ => None,
            },
        }
    }
}
