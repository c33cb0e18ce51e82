//! The JSON Schema of a policy document, for editors. The types here are only ever turned into the schema: the
//! parser reads a tree, so that it can report all mistakes. A test keeps their keys the same.

use std::collections::BTreeMap;

use schemars::{JsonSchema, Schema, generate::SchemaSettings};

/// The schema as a JSON text with a final line end.
pub fn schema() -> Result<String, serde_json::Error> {
    let generator = SchemaSettings::draft2020_12().into_generator();
    let mut schema: Schema = generator.into_root_schema_for::<Document>();
    schema.insert("title".to_owned(), "Portcullis service exposure policy".into());
    schema.as_object_mut().into_iter().for_each(forbid_null_keys);
    let mut text = serde_json::to_string_pretty(&schema)?;
    text.push('\n');
    Ok(text)
}

/// A key may be left out, but not stand there with nothing: optional fields come out of the derive as nullable.
fn forbid_null_keys(shape: &mut serde_json::Map<String, serde_json::Value>) {
    if let Some(properties) = shape.get_mut("properties").and_then(serde_json::Value::as_object_mut) {
        properties.values_mut().filter_map(serde_json::Value::as_object_mut).for_each(forbid_null);
    }
    let below = shape.values_mut().flat_map(|value| match value {
        serde_json::Value::Array(items) => items.iter_mut().collect::<Vec<_>>(),
        other => vec![other],
    });
    below.filter_map(serde_json::Value::as_object_mut).for_each(forbid_null_keys);
}

fn forbid_null(property: &mut serde_json::Map<String, serde_json::Value>) {
    let null = serde_json::json!("null");
    if let Some(types) = property.get_mut("type").and_then(serde_json::Value::as_array_mut) {
        types.retain(|kind| *kind != null);
        if let [only] = types.as_slice() {
            let only = only.clone();
            property.insert("type".to_owned(), only);
        }
    }
    if let Some(variants) = property.get_mut("anyOf").and_then(serde_json::Value::as_array_mut) {
        variants.retain(|variant| variant.get("type") != Some(&null));
        if let [serde_json::Value::Object(only)] = variants.as_slice() {
            let only = only.clone();
            property.remove("anyOf");
            property.extend(only);
        }
    }
}

macro_rules! shapes {
    ($($item:item)+) => { $(
        #[derive(JsonSchema)]
        #[expect(dead_code, reason = "only the schema is made from it")]
        $item
    )+ };
}

shapes! {
    /// Which service of an instance may be reached by whom, and what it may reach. Default deny.
    #[schemars(deny_unknown_fields)]
    struct Document {
        /// The version of the format.
        version: Version,
        /// The policy's name, unique on a host.
        policy: Name,
        applies_to: Target,
        mode: Option<Mode>,
        /// The profile in force unless the agent is told another.
        profile: Option<Name>,
        /// Named sets of address ranges in the world.
        groups: Option<BTreeMap<Name, Vec<Network>>>,
        audit: Option<Audit>,
        /// By compose service, or by any name where `select` says which containers are meant.
        services: BTreeMap<Name, Option<Service>>,
    }

    /// What `portcullis audit` asks from outside. It changes nothing of what is enforced.
    #[schemars(deny_unknown_fields)]
    struct Audit {
        /// The public endpoints whose TLS, headers, redirect and limits are probed.
        #[schemars(length(max = 32))]
        endpoints: Option<Vec<Endpoint>>,
        /// Paths that must not be there on these endpoints, besides well-known ones.
        #[schemars(length(max = 32))]
        debug_paths: Option<Vec<Path>>,
    }

    /// A compose project, or containers without one. `*` stands for any text, `?` for one character.
    #[schemars(rename_all = "snake_case")]
    enum Target {
        /// Each compose project that matches is an instance of its own.
        Project(Pattern),
        /// All containers that match are one instance, named after the policy.
        Container(Pattern),
    }

    /// One service.
    #[schemars(deny_unknown_fields)]
    struct Service {
        exposure: Option<Exposure>,
        /// The ports that others may be allowed to reach.
        ports: Option<Vec<PortEntry>>,
        /// Who may reach the ports, besides those of `exposure`.
        from: Option<Vec<Source>>,
        /// What the service may reach outside its instance.
        egress: Option<Vec<Egress>>,
        severity: Option<Severity>,
        /// In place of the policy's mode.
        mode: Option<Mode>,
        run_as: Option<RunAs>,
        /// The profiles that the service belongs to; in any other it must not run.
        #[schemars(length(min = 1))]
        only_in: Option<Vec<Name>>,
        /// Which containers of the instance are this service, instead of those with its compose label.
        select: Option<Select>,
        /// What a profile changes: a key here replaces the service's.
        profiles: Option<BTreeMap<Name, Option<Overlay>>>,
    }

    /// The keys of a service that one profile replaces.
    #[schemars(deny_unknown_fields)]
    struct Overlay {
        exposure: Option<Exposure>,
        ports: Option<Vec<PortEntry>>,
        from: Option<Vec<Source>>,
        egress: Option<Vec<Egress>>,
        severity: Option<Severity>,
        mode: Option<Mode>,
        run_as: Option<RunAs>,
    }

    /// Ports, with keys of their own if need be.
    #[schemars(untagged)]
    enum PortEntry {
        Short(Port),
        Long(LongPort),
    }

    /// A port whose keys replace the service's.
    #[schemars(deny_unknown_fields)]
    struct LongPort {
        port: Port,
        from: Option<Vec<Source>>,
        exposure: Option<Exposure>,
    }

    /// Somebody who calls.
    #[schemars(untagged)]
    enum Source {
        /// A service of the same instance, a group, an address range, `host` or `world`.
        Named(#[schemars(length(min = 1))] String),
        Labelled(Labelled),
    }

    /// Containers by their compose labels, whether or not a policy covers them.
    #[schemars(deny_unknown_fields)]
    struct Labelled {
        project: Pattern,
        service: Pattern,
    }

    /// Something outside the instance.
    #[schemars(untagged)]
    enum Egress {
        Short(Destination),
        Long(LongEgress),
    }

    /// Something outside, on some ports only.
    #[schemars(deny_unknown_fields)]
    struct LongEgress {
        to: Destination,
        ports: Option<Vec<Port>>,
    }

    /// Somebody who is called.
    #[schemars(untagged)]
    enum Destination {
        /// `world`, `host`, `dns`, a group or an address range.
        Named(#[schemars(length(min = 1))] String),
        Labelled(Labelled),
    }

    /// Containers by name or by one label.
    #[schemars(rename_all = "snake_case")]
    enum Select {
        Container(Pattern),
        #[schemars(extend("minProperties" = 1, "maxProperties" = 1))]
        Label(BTreeMap<String, String>),
    }

    /// Whether denials are carried out (`enforce`, the default) or only reported (`observe`).
    #[schemars(rename_all = "snake_case")]
    enum Mode {
        Enforce,
        Observe,
    }

    /// As whom the processes of a container may run; `any` is the default. `check` looks at it, the kernel does not.
    #[schemars(rename_all = "snake_case")]
    enum RunAs {
        Any,
        NonRoot,
    }

    /// `internal` (the default): only `from`. `localhost`: also the host. `public`: also the host and the world.
    #[schemars(rename_all = "snake_case")]
    enum Exposure {
        Internal,
        Localhost,
        Public,
    }

    /// How much a denial matters; `warning` is the default.
    #[schemars(rename_all = "snake_case")]
    enum Severity {
        Info,
        Warning,
        Critical,
    }
}

/// Types that are one text, or one number, with a pattern.
macro_rules! texts {
    ($($name:ident: $schema:tt;)+) => { $(
        #[derive(PartialEq, Eq, PartialOrd, Ord)]
        struct $name;

        impl JsonSchema for $name {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(_generator: &mut schemars::SchemaGenerator) -> Schema {
                schemars::json_schema!($schema)
            }
        }
    )+ };
}

texts! {
    Version: { "description": "The version of the format.", "const": 1 };
    Name: { "type": "string", "pattern": "^[A-Za-z0-9][A-Za-z0-9._-]*$" };
    Pattern: { "type": "string", "minLength": 1 };
    Network: {
        "description": "An address range: `192.0.2.0/24`, `2001:db8::/32`.",
        "type": "string",
        "pattern": "^[0-9A-Fa-f.:]+(/[0-9]{1,3})?$"
    };
    Endpoint: {
        "description": "`https://HOST` or `https://HOST:PORT`.",
        "type": "string",
        "pattern": "^https://(\\[[0-9A-Fa-f:.]+\\]|[^\\s/?#@:\\\\\\[\\]]+)(:[0-9]{1,5})?/?$"
    };
    Path: {
        "description": "A path of HTTP: `/debug/pprof/`.",
        "type": "string",
        "pattern": "^/[!-~]*$"
    };
    Port: {
        "description": "`8000/tcp`, `8000-8010/tcp`, `53/udp`, or `any` for all TCP and UDP.",
        "type": "string",
        "pattern": "^(any|[1-9][0-9]{0,4}(-[1-9][0-9]{0,4})?/(tcp|udp))$"
    };
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::{super::parse, *};

    fn properties(schema: &serde_json::Value, name: &str) -> BTreeSet<String> {
        let shape = if name.is_empty() { schema } else { &schema["$defs"][name] };
        let own = shape["properties"].as_object().into_iter().flat_map(|keys| keys.keys().cloned());
        let variants = shape["oneOf"].as_array().into_iter().flatten();
        let of_variants = variants.flat_map(|variant| {
            variant["properties"].as_object().into_iter().flat_map(|keys| keys.keys().cloned())
        });
        own.chain(of_variants).collect()
    }

    #[test]
    fn the_schema_has_the_keys_that_the_parser_knows() {
        let schema: serde_json::Value = serde_json::from_str(&schema().unwrap()).unwrap();
        for (name, keys) in [
            ("", parse::POLICY_KEYS.as_slice()),
            ("Target", &parse::TARGET_KEYS),
            ("Audit", &parse::probes::AUDIT_KEYS),
            ("Service", &parse::service::SERVICE_KEYS),
            ("Overlay", &parse::service::OVERLAY_KEYS),
            ("LongPort", &parse::service::PORT_KEYS),
            ("Select", &parse::service::SELECT_KEYS),
            ("Labelled", &parse::peer::LABELLED_KEYS),
            ("LongEgress", &parse::peer::EGRESS_KEYS),
        ] {
            let known: BTreeSet<String> = keys.iter().map(|key| (*key).to_owned()).collect();
            assert_eq!(properties(&schema, name), known, "{name}");
        }
    }
}
