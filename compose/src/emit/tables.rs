//! The keys that Compose prints, and how each of them is printed.

use super::form::{Fields, Form};

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
