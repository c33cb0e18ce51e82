//! How each key is printed: Compose's own types, with what they leave out when it says nothing.

use serde_json::{Map as Object, Value as Json};

use super::{entries, number, plain, words};
use crate::{
    node::{Node, Value},
    project::pairs,
    units,
};

/// How a value is printed.
#[derive(Debug)]
pub(super) enum Form {
    Any,
    /// Left out if empty.
    Text,
    /// Left out if false.
    Flag,
    /// Printed whenever it is written.
    WrittenFlag,
    /// Left out if 0.
    Int,
    WrittenInt,
    Float,
    /// Text, in bytes.
    Bytes,
    Duration,
    WrittenDuration,
    /// Text, as an octal number.
    Mode,
    Texts,
    /// Texts by name, nothing as an empty text.
    Dict,
    /// Texts by name, or nothing.
    NullDict,
    /// `name=address`.
    Hosts,
    /// `name=path`.
    Ssh,
    /// Words of a shell; printed also if it is not written.
    Command,
    /// The same in a health check.
    Test,
    Ulimit,
    List(&'static Form),
    Map(&'static Form),
    Struct(Fields),
    /// A structure whose keys begin with capitals.
    Capitals(Fields),
    /// A structure that is there also if it is not written.
    Always(Fields),
}

type Fields = &'static [(&'static str, Form)];

/// Prints a value that is written.
pub(super) fn print(node: &Node, form: &Form) -> Json {
    match form {
        Form::Struct(fields) | Form::Always(fields) => structure(Some(node), fields),
        Form::Capitals(fields) => capitals(node, fields),
        _ => value(node, form).unwrap_or(Json::Null),
    }
}

fn structure(node: Option<&Node>, fields: Fields) -> Json {
    let mut out = Object::new();
    for (key, form) in fields {
        let written = node.and_then(|node| node.get(key));
        let printed = match (written, form) {
            (None, Form::Command) => Some(Json::Null),
            (written, Form::Always(fields)) => Some(structure(written, fields)),
            (Some(node), form) => value(node, form),
            (None, _) => None,
        };
        if let Some(printed) = printed {
            out.insert((*key).to_owned(), printed);
        }
    }
    Json::Object(out)
}

/// Devices of `blkio_config` have their keys in capitals, and nothing else does.
fn capitals(node: &Node, fields: Fields) -> Json {
    let Json::Object(plain) = structure(Some(node), fields) else {
        return Json::Null;
    };
    let capital = |key: String| key[..1].to_uppercase() + &key[1..];
    Json::Object(plain.into_iter().map(|(key, value)| (capital(key), value)).collect())
}

fn text(node: &Node) -> String {
    node.printed().unwrap_or_default()
}

fn integer(node: &Node) -> i64 {
    match &node.value {
        Value::Int(value) => *value,
        #[expect(clippy::cast_possible_truncation, reason = "as Compose does")]
        Value::Float(value) => *value as i64,
        _ => text(node).parse().unwrap_or_default(),
    }
}

/// Nothing is printed for what says nothing.
fn value(node: &Node, form: &Form) -> Option<Json> {
    let filled = |object: Object<String, Json>| (!object.is_empty()).then_some(Json::Object(object));
    match form {
        Form::Any => Some(plain(node)),
        Form::Text => Some(text(node)).filter(|text| !text.is_empty()).map(Json::String),
        Form::Flag => node.as_bool().filter(|&flag| flag).map(Json::Bool),
        Form::WrittenFlag => node.as_bool().map(Json::Bool),
        Form::Int => Some(integer(node)).filter(|&number| number != 0).map(Json::from),
        Form::WrittenInt => Some(Json::from(integer(node))),
        Form::Float => text(node).parse().ok().filter(|&number| number != 0.0).map(number),
        Form::Bytes => {
            let bytes = units::bytes(&text(node)).filter(|&bytes| bytes != 0)?;
            Some(Json::String(bytes.to_string()))
        }
        Form::Duration => {
            let duration = units::duration(&text(node)).filter(|&duration| duration != 0)?;
            Some(Json::String(units::print_duration(duration)))
        }
        Form::WrittenDuration => {
            let duration = units::duration(&text(node))?;
            Some(Json::String(units::print_duration(duration)))
        }
        Form::Mode => {
            let mode = match &node.value {
                Value::Text(text) => i64::from_str_radix(text, 8).ok()?,
                _ => integer(node),
            };
            Some(Json::String(format!("0{mode:o}")))
        }
        Form::Texts => {
            let texts: Vec<Json> = match node.as_list() {
                Some(items) => items.iter().map(|item| Json::String(text(item))).collect(),
                None if node.is_null() => Vec::new(),
                None => vec![Json::String(text(node))],
            };
            (!texts.is_empty()).then_some(Json::Array(texts))
        }
        Form::Dict | Form::NullDict => {
            let nothing = || match form {
                Form::Dict => Json::String(String::new()),
                _ => Json::Null,
            };
            let printed = pairs(node)
                .into_iter()
                .map(|(name, value, _)| (name, value.map_or_else(nothing, Json::String)));
            filled(printed.collect())
        }
        Form::Hosts => hosts(node),
        Form::Ssh => {
            let printed: Vec<Json> = entries(node)
                .map(|(name, path)| match text(path).as_str() {
                    "" => Json::String(name.to_owned()),
                    path => Json::String(format!("{name}={path}")),
                })
                .collect();
            (!printed.is_empty()).then_some(Json::Array(printed))
        }
        Form::Command => Some(match &node.value {
            Value::Text(text) => Json::Array(words::split(text).into_iter().map(Json::String).collect()),
            Value::List(items) => Json::Array(items.iter().map(|item| Json::String(text(item))).collect()),
            _ => Json::Null,
        }),
        Form::Test => match &node.value {
            Value::Text(text) => Some(serde_json::json!(["CMD-SHELL", text])),
            _ => value(node, &Form::Texts),
        },
        Form::Ulimit => match node.as_map() {
            Some(_) => Some(structure(Some(node), &[("soft", Form::Int), ("hard", Form::Int)])),
            None => Some(Json::from(integer(node))),
        },
        Form::List(item) => {
            let items = node.items();
            let printed = items.iter().map(|node| print(node, item)).collect();
            (!items.is_empty()).then_some(Json::Array(printed))
        }
        Form::Map(form) => {
            let each = |node: &Node| if node.is_null() { Json::Null } else { print(node, form) };
            filled(entries(node).map(|(name, node)| (name.to_owned(), each(node))).collect())
        }
        Form::Capitals(fields) => Some(capitals(node, fields)),
        Form::Struct(fields) | Form::Always(fields) => {
            (!node.is_null()).then(|| structure(Some(node), fields))
        }
    }
}

fn hosts(node: &Node) -> Option<Json> {
    let mut printed = Vec::new();
    let address = |text: &str| text.trim_start_matches('[').trim_end_matches(']').to_owned();
    for item in node.items() {
        let item = text(item);
        if let Some((name, value)) = item.split_once('=').or_else(|| item.split_once(':')) {
            printed.push(format!("{name}={}", address(value)));
        }
    }
    for (name, node) in entries(node) {
        let texts = node.as_list().map_or_else(|| vec![text(node)], |items| items.iter().map(text).collect());
        printed.extend(texts.iter().map(|value| format!("{name}={}", address(value))));
    }
    printed.sort();
    (!printed.is_empty()).then(|| Json::Array(printed.into_iter().map(Json::String).collect()))
}

static FILE_MOUNT: Form = Form::Struct(&[
    ("source", Form::Text),
    ("target", Form::Text),
    ("uid", Form::Text),
    ("gid", Form::Text),
    ("mode", Form::Mode),
]);

static DEVICE_REQUEST: Form = Form::Struct(&[
    ("capabilities", Form::Texts),
    ("driver", Form::Text),
    ("count", Form::Int),
    ("device_ids", Form::Texts),
    ("options", Form::Dict),
]);

static HOOK: Form = Form::Struct(HOOK_FIELDS);
const HOOK_FIELDS: Fields = &[
    ("command", Form::Command),
    ("user", Form::Text),
    ("privileged", Form::Flag),
    ("working_dir", Form::Text),
    ("environment", Form::NullDict),
];

const UPDATE: Form = Form::Struct(&[
    ("parallelism", Form::WrittenInt),
    ("delay", Form::Duration),
    ("failure_action", Form::Text),
    ("monitor", Form::Duration),
    ("max_failure_ratio", Form::Float),
    ("order", Form::Text),
]);

const RESOURCE: Form = Form::Struct(&[
    ("cpus", Form::Float),
    ("memory", Form::Bytes),
    ("pids", Form::Int),
    ("devices", Form::List(&DEVICE_REQUEST)),
    ("generic_resources", Form::List(&Form::Any)),
]);

static THROTTLE: Form = Form::Capitals(&[("path", Form::Text), ("rate", Form::Bytes)]);
static WEIGHT: Form = Form::Capitals(&[("path", Form::Text), ("weight", Form::Int)]);

static MOUNT: Form = Form::Struct(&[
    ("type", Form::Text),
    ("source", Form::Text),
    ("target", Form::Text),
    ("read_only", Form::Flag),
    ("consistency", Form::Text),
    (
        "bind",
        Form::Struct(&[
            ("selinux", Form::Text),
            ("propagation", Form::Text),
            ("create_host_path", Form::Flag),
            ("recursive", Form::Text),
        ]),
    ),
    ("volume", Form::Struct(&[("labels", Form::Dict), ("nocopy", Form::Flag), ("subpath", Form::Text)])),
    ("tmpfs", Form::Struct(&[("size", Form::Bytes), ("mode", Form::Int)])),
    ("image", Form::Struct(&[("subpath", Form::Text)])),
]);

static PORT: Form = Form::Struct(&[
    ("name", Form::Text),
    ("mode", Form::Text),
    ("host_ip", Form::Text),
    ("target", Form::Int),
    ("published", Form::Text),
    ("protocol", Form::Text),
    ("app_protocol", Form::Text),
]);

static ATTACHMENT: Form = Form::Struct(&[
    ("aliases", Form::Texts),
    ("driver_opts", Form::Dict),
    ("gw_priority", Form::Int),
    ("interface_name", Form::Text),
    ("ipv4_address", Form::Text),
    ("ipv6_address", Form::Text),
    ("link_local_ips", Form::Texts),
    ("mac_address", Form::Text),
    ("priority", Form::Int),
]);

static DEPENDENCY: Form =
    Form::Struct(&[("condition", Form::Text), ("restart", Form::Flag), ("required", Form::WrittenFlag)]);

static WATCH: Form = Form::Struct(&[
    ("path", Form::Text),
    ("action", Form::Text),
    ("target", Form::Text),
    ("exec", Form::Always(HOOK_FIELDS)),
    ("include", Form::Texts),
    ("ignore", Form::Texts),
    ("initial_sync", Form::Flag),
]);

static DEVICE: Form =
    Form::Struct(&[("source", Form::Text), ("target", Form::Text), ("permissions", Form::Text)]);

static PREFERENCE: Form = Form::Struct(&[("spread", Form::Text)]);

static SERVICE_MODEL: Form = Form::Struct(&[("endpoint_var", Form::Text), ("model_var", Form::Text)]);

/// A service.
pub(super) static SERVICE: Form = Form::Struct(&[
    ("profiles", Form::Texts),
    ("annotations", Form::Dict),
    ("attach", Form::WrittenFlag),
    ("build", BUILD),
    ("develop", Form::Struct(&[("watch", Form::List(&WATCH))])),
    (
        "blkio_config",
        Form::Struct(&[
            ("weight", Form::Int),
            ("weight_device", Form::List(&WEIGHT)),
            ("device_read_bps", Form::List(&THROTTLE)),
            ("device_read_iops", Form::List(&THROTTLE)),
            ("device_write_bps", Form::List(&THROTTLE)),
            ("device_write_iops", Form::List(&THROTTLE)),
        ]),
    ),
    ("cap_add", Form::Texts),
    ("cap_drop", Form::Texts),
    ("cgroup_parent", Form::Text),
    ("cgroup", Form::Text),
    ("cpu_count", Form::Int),
    ("cpu_percent", Form::Float),
    ("cpu_period", Form::Int),
    ("cpu_quota", Form::Int),
    ("cpu_rt_period", Form::Int),
    ("cpu_rt_runtime", Form::Int),
    ("cpus", Form::Float),
    ("cpuset", Form::Text),
    ("cpu_shares", Form::Int),
    ("command", Form::Command),
    ("configs", Form::List(&FILE_MOUNT)),
    ("container_name", Form::Text),
    (
        "credential_spec",
        Form::Struct(&[("config", Form::Text), ("file", Form::Text), ("registry", Form::Text)]),
    ),
    ("depends_on", Form::Map(&DEPENDENCY)),
    ("deploy", DEPLOY),
    ("device_cgroup_rules", Form::Texts),
    ("devices", Form::List(&DEVICE)),
    ("dns", Form::Texts),
    ("dns_opt", Form::Texts),
    ("dns_search", Form::Texts),
    ("domainname", Form::Text),
    ("entrypoint", Form::Command),
    ("provider", Form::Struct(&[("type", Form::Text), ("options", Form::Map(&Form::Texts))])),
    ("environment", Form::NullDict),
    ("expose", Form::Texts),
    ("external_links", Form::Texts),
    ("extra_hosts", Form::Hosts),
    ("group_add", Form::Texts),
    ("gpus", Form::List(&DEVICE_REQUEST)),
    ("hostname", Form::Text),
    (
        "healthcheck",
        Form::Struct(&[
            ("test", Form::Test),
            ("timeout", Form::WrittenDuration),
            ("interval", Form::WrittenDuration),
            ("retries", Form::WrittenInt),
            ("start_period", Form::WrittenDuration),
            ("start_interval", Form::WrittenDuration),
            ("disable", Form::Flag),
        ]),
    ),
    ("image", Form::Text),
    ("init", Form::WrittenFlag),
    ("ipc", Form::Text),
    ("isolation", Form::Text),
    ("labels", Form::Dict),
    ("links", Form::Texts),
    ("logging", Form::Struct(&[("driver", Form::Text), ("options", Form::Dict)])),
    ("mem_limit", Form::Bytes),
    ("mem_reservation", Form::Bytes),
    ("memswap_limit", Form::Bytes),
    ("mem_swappiness", Form::Bytes),
    ("mac_address", Form::Text),
    ("models", Form::Map(&SERVICE_MODEL)),
    ("network_mode", Form::Text),
    ("networks", Form::Map(&ATTACHMENT)),
    ("oom_kill_disable", Form::Flag),
    ("oom_score_adj", Form::Int),
    ("pid", Form::Text),
    ("pids_limit", Form::Int),
    ("platform", Form::Text),
    ("ports", Form::List(&PORT)),
    ("privileged", Form::Flag),
    ("pull_policy", Form::Text),
    ("read_only", Form::Flag),
    ("restart", Form::Text),
    ("runtime", Form::Text),
    ("scale", Form::WrittenInt),
    ("secrets", Form::List(&FILE_MOUNT)),
    ("security_opt", Form::Texts),
    ("shm_size", Form::Bytes),
    ("stdin_open", Form::Flag),
    ("stop_grace_period", Form::WrittenDuration),
    ("stop_signal", Form::Text),
    ("storage_opt", Form::Dict),
    ("sysctls", Form::Dict),
    ("tmpfs", Form::Texts),
    ("tty", Form::Flag),
    ("ulimits", Form::Map(&Form::Ulimit)),
    ("use_api_socket", Form::Flag),
    ("user", Form::Text),
    ("userns_mode", Form::Text),
    ("uts", Form::Text),
    ("volumes", Form::List(&MOUNT)),
    ("volumes_from", Form::Texts),
    ("working_dir", Form::Text),
    ("post_start", Form::List(&HOOK)),
    ("pre_stop", Form::List(&HOOK)),
]);

const BUILD: Form = Form::Struct(&[
    ("context", Form::Text),
    ("dockerfile", Form::Text),
    ("dockerfile_inline", Form::Text),
    ("entitlements", Form::Texts),
    ("args", Form::NullDict),
    ("provenance", Form::Text),
    ("sbom", Form::Text),
    ("ssh", Form::Ssh),
    ("labels", Form::Dict),
    ("cache_from", Form::Texts),
    ("cache_to", Form::Texts),
    ("no_cache", Form::Flag),
    ("additional_contexts", Form::Dict),
    ("pull", Form::Flag),
    ("extra_hosts", Form::Hosts),
    ("isolation", Form::Text),
    ("network", Form::Text),
    ("target", Form::Text),
    ("secrets", Form::List(&FILE_MOUNT)),
    ("shm_size", Form::Bytes),
    ("tags", Form::Texts),
    ("ulimits", Form::Map(&Form::Ulimit)),
    ("platforms", Form::Texts),
    ("privileged", Form::Flag),
]);

const DEPLOY: Form = Form::Struct(&[
    ("mode", Form::Text),
    ("replicas", Form::WrittenInt),
    ("labels", Form::Dict),
    ("update_config", UPDATE),
    ("rollback_config", UPDATE),
    ("resources", Form::Always(&[("limits", RESOURCE), ("reservations", RESOURCE)])),
    (
        "restart_policy",
        Form::Struct(&[
            ("condition", Form::Text),
            ("delay", Form::WrittenDuration),
            ("max_attempts", Form::WrittenInt),
            ("window", Form::WrittenDuration),
        ]),
    ),
    (
        "placement",
        Form::Always(&[
            ("constraints", Form::Texts),
            ("preferences", Form::List(&PREFERENCE)),
            ("max_replicas_per_node", Form::Int),
        ]),
    ),
    ("endpoint_mode", Form::Text),
]);

static POOL: Form = Form::Struct(&[
    ("subnet", Form::Text),
    ("gateway", Form::Text),
    ("ip_range", Form::Text),
    ("aux_addresses", Form::Dict),
]);

/// A network.
pub(super) static NETWORK: Form = Form::Struct(&[
    ("name", Form::Text),
    ("driver", Form::Text),
    ("driver_opts", Form::Dict),
    ("ipam", Form::Always(&[("driver", Form::Text), ("config", Form::List(&POOL))])),
    ("external", Form::Flag),
    ("internal", Form::Flag),
    ("attachable", Form::Flag),
    ("labels", Form::Dict),
    ("enable_ipv4", Form::WrittenFlag),
    ("enable_ipv6", Form::WrittenFlag),
]);

/// A volume.
pub(super) static VOLUME: Form = Form::Struct(&[
    ("name", Form::Text),
    ("driver", Form::Text),
    ("driver_opts", Form::Dict),
    ("external", Form::Flag),
    ("labels", Form::Dict),
]);

/// A secret, without what it holds.
pub(super) static SECRET: Form = Form::Struct(&[
    ("name", Form::Text),
    ("file", Form::Text),
    ("environment", Form::Text),
    ("external", Form::Flag),
    ("labels", Form::Dict),
    ("driver", Form::Text),
    ("driver_opts", Form::Dict),
    ("template_driver", Form::Text),
]);

/// A config.
pub(super) static CONFIG: Form = Form::Struct(&[
    ("name", Form::Text),
    ("file", Form::Text),
    ("environment", Form::Text),
    ("content", Form::Text),
    ("external", Form::Flag),
    ("labels", Form::Dict),
    ("template_driver", Form::Text),
]);
