//! The keys of compose files and what stands below them, written from the Compose Specification. A key that only some
//! of the supported versions of Compose know is known here.

use crate::shape::{
    Kind::{Bool, Int, Null, Number, Text},
    Object,
    Shape::{self, Any, Bounded, Dict, List, Named, OneOf, Scalar, Set, Word},
};

type Fields = &'static [(&'static str, &'static Shape)];

const fn object(fields: Fields) -> Shape {
    Shape::Object(Object { fields, required: &[], nullable: false, extensible: true })
}

const fn optional(fields: Fields) -> Shape {
    Shape::Object(Object { fields, required: &[], nullable: true, extensible: true })
}

const fn requiring(required: &'static [&'static str], fields: Fields) -> Shape {
    Shape::Object(Object { fields, required, nullable: false, extensible: true })
}

/// A mapping that has no extensions.
const fn closed(required: &'static [&'static str], fields: Fields) -> Shape {
    Shape::Object(Object { fields, required, nullable: false, extensible: false })
}

static TEXT: Shape = Scalar(&[Text]);
static TEXT_OR_NULL: Shape = Scalar(&[Text, Null]);
static FLAG: Shape = Scalar(&[Bool, Text]);
static COUNT: Shape = Scalar(&[Int, Text]);
static NUMBER: Shape = Scalar(&[Number]);
static AMOUNT: Shape = Scalar(&[Number, Text]);
static SCALAR: Shape = Scalar(&[Text, Number, Bool, Null]);
static TEXTS: Shape = List(&TEXT);
static TEXT_SET: Shape = Set(&TEXT);
static AMOUNTS: Shape = Set(&AMOUNT);
static TEXT_OR_LIST: Shape = OneOf(&[&TEXT, &TEXT_SET]);
static LIST_OR_DICT: Shape = OneOf(&[&Dict(&SCALAR), &TEXT_SET]);
static OPTIONS: Shape = Dict(&AMOUNT);
static COMMAND: Shape = OneOf(&[&Scalar(&[Null, Text]), &TEXTS]);

/// A whole file.
pub(crate) static FILE: Shape = object(&[
    ("version", &TEXT),
    ("name", &TEXT),
    ("include", &List(&INCLUDE)),
    ("services", &Named(&SERVICE)),
    ("models", &Dict(&MODEL)),
    ("networks", &Dict(&NETWORK)),
    ("volumes", &Named(&VOLUME)),
    ("secrets", &Named(&SECRET)),
    ("configs", &Named(&CONFIG)),
]);

static INCLUDE: Shape = OneOf(&[
    &TEXT,
    &closed(&[], &[("path", &TEXT_OR_LIST), ("env_file", &TEXT_OR_LIST), ("project_directory", &TEXT)]),
]);

static SERVICE: Shape = object(&[
    ("annotations", &LIST_OR_DICT),
    ("attach", &FLAG),
    ("build", &OneOf(&[&TEXT, &BUILD])),
    ("blkio_config", &BLKIO),
    ("cap_add", &TEXT_SET),
    ("cap_drop", &TEXT_SET),
    ("cgroup", &Word(&["host", "private"])),
    ("cgroup_parent", &TEXT),
    ("command", &COMMAND),
    ("configs", &FILE_MOUNTS),
    ("container_name", &CONTAINER_NAME),
    ("cpu_count", &Bounded(0, i64::MAX)),
    ("cpu_percent", &Bounded(0, 100)),
    ("cpu_shares", &AMOUNT),
    ("cpu_quota", &AMOUNT),
    ("cpu_period", &AMOUNT),
    ("cpu_rt_period", &AMOUNT),
    ("cpu_rt_runtime", &AMOUNT),
    ("cpus", &AMOUNT),
    ("cpuset", &TEXT),
    ("credential_spec", &object(&[("config", &TEXT), ("file", &TEXT), ("registry", &TEXT)])),
    ("depends_on", &OneOf(&[&TEXT_SET, &Named(&DEPENDENCY)])),
    ("deploy", &DEPLOY),
    ("develop", &DEVELOP),
    ("device_cgroup_rules", &TEXT_SET),
    ("devices", &List(&DEVICE)),
    ("dns", &TEXT_OR_LIST),
    ("dns_opt", &TEXT_SET),
    ("dns_search", &TEXT_OR_LIST),
    ("domainname", &TEXT),
    ("entrypoint", &COMMAND),
    ("env_file", &ENV_FILE),
    ("environment", &LIST_OR_DICT),
    ("expose", &AMOUNTS),
    ("extends", &OneOf(&[&TEXT, &closed(&["service"], &[("service", &TEXT), ("file", &TEXT)])])),
    ("external_links", &TEXT_SET),
    ("extra_hosts", &EXTRA_HOSTS),
    ("gpus", &OneOf(&[&Word(&["all"]), &List(&GPU)])),
    ("group_add", &AMOUNTS),
    ("healthcheck", &HEALTHCHECK),
    ("hostname", &TEXT),
    ("image", &TEXT),
    ("init", &FLAG),
    ("ipc", &TEXT),
    ("isolation", &TEXT),
    ("label_file", &OneOf(&[&TEXT, &TEXTS])),
    ("labels", &LIST_OR_DICT),
    ("links", &TEXT_SET),
    ("logging", &object(&[("driver", &TEXT), ("options", &Dict(&Scalar(&[Text, Number, Null])))])),
    ("mac_address", &TEXT),
    ("mem_limit", &AMOUNT),
    ("mem_reservation", &COUNT),
    ("mem_swappiness", &COUNT),
    ("memswap_limit", &AMOUNT),
    ("models", &OneOf(&[&TEXT_SET, &Dict(&object(&[("endpoint_var", &TEXT), ("model_var", &TEXT)]))])),
    ("network_mode", &TEXT),
    ("networks", &OneOf(&[&TEXT_SET, &Named(&ATTACHMENT)])),
    ("oom_kill_disable", &FLAG),
    ("oom_score_adj", &Bounded(-1000, 1000)),
    ("pid", &TEXT_OR_NULL),
    ("pids_limit", &AMOUNT),
    ("platform", &TEXT),
    ("ports", &List(&PORT)),
    ("post_start", &List(&HOOK)),
    ("pre_stop", &List(&HOOK)),
    ("privileged", &FLAG),
    ("profiles", &TEXT_SET),
    ("provider", &requiring(&["type"], &[("type", &TEXT), ("options", &Dict(&Any))])),
    ("pull_policy", &PULL_POLICY),
    ("pull_refresh_after", &TEXT),
    ("read_only", &FLAG),
    ("restart", &TEXT),
    ("runtime", &TEXT),
    ("scale", &COUNT),
    ("secrets", &FILE_MOUNTS),
    ("security_opt", &TEXT_SET),
    ("shm_size", &AMOUNT),
    ("stdin_open", &FLAG),
    ("stop_grace_period", &TEXT),
    ("stop_signal", &TEXT),
    ("storage_opt", &Dict(&Any)),
    ("sysctls", &LIST_OR_DICT),
    ("tmpfs", &TEXT_OR_LIST),
    ("tty", &FLAG),
    ("ulimits", &ULIMITS),
    ("use_api_socket", &Scalar(&[Bool])),
    ("user", &TEXT),
    ("userns_mode", &TEXT),
    ("uts", &TEXT),
    ("volumes", &List(&MOUNT)),
    ("volumes_from", &TEXT_SET),
    ("working_dir", &TEXT),
]);

static PULL_POLICY: Shape = Shape::Matching(
    |text| {
        let words =
            ["always", "never", "build", "if_not_present", "missing", "refresh", "daily", "weekly", "every_"];
        words.iter().any(|word| text.contains(word))
    },
    "it is one of `always`, `never`, `missing`, `build`, `daily`, `weekly` or `every_12h`",
);

/// Compose looks for a part that would do as a name.
static CONTAINER_NAME: Shape = Shape::Matching(
    |text| {
        let part = |pair: &[u8]| {
            pair[0].is_ascii_alphanumeric()
                && (pair[1].is_ascii_alphanumeric() || matches!(pair[1], b'_' | b'.' | b'-'))
        };
        text.as_bytes().windows(2).any(part)
    },
    "names of containers have at least two letters or digits",
);

static BUILD: Shape = object(&[
    ("additional_contexts", &LIST_OR_DICT),
    ("args", &LIST_OR_DICT),
    ("cache_from", &TEXTS),
    ("cache_to", &TEXTS),
    ("context", &TEXT),
    ("dockerfile", &TEXT),
    ("dockerfile_inline", &TEXT),
    ("entitlements", &TEXTS),
    ("extra_hosts", &EXTRA_HOSTS),
    ("isolation", &TEXT),
    ("labels", &LIST_OR_DICT),
    ("network", &TEXT),
    ("no_cache", &FLAG),
    ("platforms", &TEXTS),
    ("privileged", &FLAG),
    ("provenance", &FLAG),
    ("pull", &FLAG),
    ("sbom", &FLAG),
    ("secrets", &FILE_MOUNTS),
    ("shm_size", &COUNT),
    ("ssh", &LIST_OR_DICT),
    ("tags", &TEXTS),
    ("target", &TEXT),
    ("ulimits", &ULIMITS),
]);

static BLKIO_LIMITS: Shape = List(&closed(&[], &[("path", &TEXT), ("rate", &COUNT)]));
static BLKIO: Shape = closed(
    &[],
    &[
        ("device_read_bps", &BLKIO_LIMITS),
        ("device_read_iops", &BLKIO_LIMITS),
        ("device_write_bps", &BLKIO_LIMITS),
        ("device_write_iops", &BLKIO_LIMITS),
        ("weight", &COUNT),
        ("weight_device", &List(&closed(&[], &[("path", &TEXT), ("weight", &COUNT)]))),
    ],
);

static CONDITIONS: Shape = Word(&["service_started", "service_healthy", "service_completed_successfully"]);
static DEPENDENCY: Shape = requiring(
    &["condition"],
    &[("condition", &CONDITIONS), ("required", &Scalar(&[Bool])), ("restart", &FLAG)],
);

static UPDATE: Shape = object(&[
    ("delay", &TEXT),
    ("failure_action", &TEXT),
    ("max_failure_ratio", &AMOUNT),
    ("monitor", &TEXT),
    ("order", &Word(&["start-first", "stop-first"])),
    ("parallelism", &COUNT),
]);

static DEPLOY: Shape = optional(&[
    ("endpoint_mode", &TEXT),
    ("labels", &LIST_OR_DICT),
    ("mode", &TEXT),
    (
        "placement",
        &object(&[
            ("constraints", &TEXTS),
            ("max_replicas_per_node", &COUNT),
            ("preferences", &List(&object(&[("spread", &TEXT)]))),
        ]),
    ),
    ("replicas", &COUNT),
    (
        "resources",
        &object(&[
            ("limits", &object(&[("cpus", &AMOUNT), ("memory", &TEXT), ("pids", &COUNT)])),
            (
                "reservations",
                &object(&[
                    ("cpus", &AMOUNT),
                    ("devices", &List(&GPU)),
                    ("generic_resources", &List(&GENERIC_RESOURCE)),
                    ("memory", &TEXT),
                ]),
            ),
        ]),
    ),
    (
        "restart_policy",
        &object(&[("condition", &TEXT), ("delay", &TEXT), ("max_attempts", &COUNT), ("window", &TEXT)]),
    ),
    ("rollback_config", &UPDATE),
    ("update_config", &UPDATE),
]);

static GENERIC_RESOURCE: Shape =
    object(&[("discrete_resource_spec", &object(&[("kind", &TEXT), ("value", &AMOUNT)]))]);

static GPU: Shape = object(&[
    ("capabilities", &TEXT_SET),
    ("count", &COUNT),
    ("device_ids", &TEXT_SET),
    ("driver", &TEXT),
    ("options", &LIST_OR_DICT),
]);

static DEVELOP: Shape = optional(&[(
    "watch",
    &List(&requiring(
        &["path", "action"],
        &[
            ("action", &Word(&["rebuild", "sync", "restart", "sync+restart", "sync+exec"])),
            ("exec", &HOOK),
            ("ignore", &TEXT_OR_LIST),
            ("include", &TEXT_OR_LIST),
            ("initial_sync", &Scalar(&[Bool])),
            ("path", &TEXT),
            ("target", &TEXT),
        ],
    )),
)]);

static DEVICE: Shape =
    OneOf(&[&TEXT, &requiring(&["source"], &[("permissions", &TEXT), ("source", &TEXT), ("target", &TEXT)])]);

static ENV_FILE: Shape = OneOf(&[
    &TEXT,
    &List(&OneOf(&[&TEXT, &closed(&["path"], &[("format", &TEXT), ("path", &TEXT), ("required", &FLAG)])])),
]);

static EXTRA_HOSTS: Shape = OneOf(&[&Dict(&OneOf(&[&TEXT, &TEXTS])), &TEXT_SET]);

static FILE_MOUNTS: Shape = List(&OneOf(&[
    &TEXT,
    &object(&[("gid", &TEXT), ("mode", &AMOUNT), ("source", &TEXT), ("target", &TEXT), ("uid", &TEXT)]),
]));

static HEALTHCHECK: Shape = object(&[
    ("disable", &FLAG),
    ("interval", &TEXT),
    ("retries", &AMOUNT),
    ("start_interval", &TEXT),
    ("start_period", &TEXT),
    ("test", &OneOf(&[&TEXT, &TEXTS])),
    ("timeout", &TEXT),
]);

static HOOK: Shape = requiring(
    &["command"],
    &[
        ("command", &COMMAND),
        ("environment", &LIST_OR_DICT),
        ("privileged", &FLAG),
        ("user", &TEXT),
        ("working_dir", &TEXT),
    ],
);

static ATTACHMENT: Shape = optional(&[
    ("aliases", &TEXT_SET),
    ("driver_opts", &OPTIONS),
    ("gw_priority", &NUMBER),
    ("interface_name", &TEXT),
    ("ipv4_address", &TEXT),
    ("ipv6_address", &TEXT),
    ("link_local_ips", &TEXT_SET),
    ("mac_address", &TEXT),
    ("priority", &NUMBER),
]);

static PORT: Shape = OneOf(&[
    &AMOUNT,
    &object(&[
        ("app_protocol", &TEXT),
        ("host_ip", &TEXT),
        ("mode", &TEXT),
        ("name", &TEXT),
        ("protocol", &TEXT),
        ("published", &COUNT),
        ("target", &COUNT),
    ]),
]);

static ULIMITS: Shape =
    Dict(&OneOf(&[&COUNT, &requiring(&["soft", "hard"], &[("hard", &COUNT), ("soft", &COUNT)])]));

static MOUNT: Shape = OneOf(&[
    &TEXT,
    &requiring(
        &["type"],
        &[
            (
                "bind",
                &object(&[
                    ("create_host_path", &FLAG),
                    ("propagation", &TEXT),
                    ("recursive", &Word(&["enabled", "disabled", "writable", "readonly"])),
                    ("selinux", &Word(&["z", "Z"])),
                ]),
            ),
            ("consistency", &TEXT),
            ("image", &object(&[("subpath", &TEXT)])),
            ("read_only", &FLAG),
            ("source", &TEXT),
            ("target", &TEXT),
            ("tmpfs", &object(&[("mode", &AMOUNT), ("size", &Bounded(0, i64::MAX))])),
            ("type", &Word(&["bind", "volume", "tmpfs", "cluster", "npipe", "image"])),
            ("volume", &object(&[("labels", &LIST_OR_DICT), ("nocopy", &FLAG), ("subpath", &TEXT)])),
        ],
    ),
]);

static EXTERNAL: Shape = OneOf(&[&Scalar(&[Bool, Text]), &object(&[("name", &TEXT)])]);

static MODEL: Shape = requiring(
    &["model"],
    &[("context_size", &Scalar(&[Int])), ("model", &TEXT), ("name", &TEXT), ("runtime_flags", &TEXTS)],
);

static NETWORK: Shape = optional(&[
    ("attachable", &FLAG),
    ("driver", &TEXT),
    ("driver_opts", &OPTIONS),
    ("enable_ipv4", &FLAG),
    ("enable_ipv6", &FLAG),
    ("external", &EXTERNAL),
    ("internal", &FLAG),
    (
        "ipam",
        &object(&[
            (
                "config",
                &List(&object(&[
                    ("aux_addresses", &Dict(&TEXT)),
                    ("gateway", &TEXT),
                    ("ip_range", &TEXT),
                    ("subnet", &TEXT),
                ])),
            ),
            ("driver", &TEXT),
            ("options", &Dict(&TEXT)),
        ]),
    ),
    ("labels", &LIST_OR_DICT),
    ("name", &TEXT),
]);

static VOLUME: Shape = optional(&[
    ("driver", &TEXT),
    ("driver_opts", &OPTIONS),
    ("external", &EXTERNAL),
    ("labels", &LIST_OR_DICT),
    ("name", &TEXT),
]);

static SECRET: Shape = object(&[
    ("driver", &TEXT),
    ("driver_opts", &OPTIONS),
    ("environment", &TEXT),
    ("external", &EXTERNAL),
    ("file", &TEXT),
    ("labels", &LIST_OR_DICT),
    ("name", &TEXT),
    ("template_driver", &TEXT),
]);

static CONFIG: Shape = object(&[
    ("content", &TEXT),
    ("environment", &TEXT),
    ("external", &EXTERNAL),
    ("file", &TEXT),
    ("labels", &LIST_OR_DICT),
    ("name", &TEXT),
    ("template_driver", &TEXT),
]);
