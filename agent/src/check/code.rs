//! The kinds of findings: the one place where they are named and explained. docs/check.md is made from it.

use std::fmt;

use serde::{Serialize, Serializer};

/// How much a finding matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    Info,
    Warning,
    Error,
}

impl Level {
    /// The word for it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

/// Makes the enum and the table of what each code stands for.
macro_rules! codes {
    ($($variant:ident = $text:literal $name:literal $level:ident $explanation:literal $fix:literal;)+) => {
        /// A kind of finding. Codes are stable: they are never renumbered or used again.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Code { $($variant,)+ }

        impl Code {
            /// Every code, in the order of the documentation.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// `F001`.
            #[must_use]
            pub const fn text(self) -> &'static str {
                match self { $(Self::$variant => $text,)+ }
            }

            /// `internal-service-published`.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }

            /// How much it matters.
            #[must_use]
            pub const fn level(self) -> Level {
                match self { $(Self::$variant => Level::$level,)+ }
            }

            /// Why it matters.
            #[must_use]
            pub const fn explanation(self) -> &'static str {
                match self { $(Self::$variant => $explanation,)+ }
            }

            /// What to do about it.
            #[must_use]
            pub const fn fix(self) -> &'static str {
                match self { $(Self::$variant => $fix,)+ }
            }
        }
    };
}

codes! {
    InternalPublished = "F001" "internal-service-published" Error
        "A port is published although the policy opens it to neither the world nor the host. Publishing walks around \
         the host's firewall: whoever reaches the host reaches the service."
        "Remove the port from `ports`; services of the same network reach it without.";
    AllInterfaces = "F002" "published-on-all-interfaces" Error
        "A port is published on an address that others can reach, although the policy opens it to the host only."
        "Bind it to localhost: `127.0.0.1:8080:80`.";
    DevWithoutProfile = "F003" "dev-service-without-profile" Error
        "The policy allows the service in some profiles only, but the compose file starts it in every one."
        "Give the service the profiles that the policy names: `profiles: [development]`.";
    DevInProfile = "F004" "dev-service-in-profile" Error
        "The service is started in a profile in which the policy says that it must not run."
        "Take the profile out of the service's `profiles`.";
    UnknownService = "F005" "unknown-service" Error
        "The policy does not know the service: it gets and sends nothing once the policy is enforced."
        "Add it to the policy's `services`, or remove it from the compose file.";
    MissingService = "F006" "missing-service" Warning
        "The policy names a service that the compose file does not start: a typing error in either of them, or a rule \
         that nobody needs."
        "Start the service, or remove it from the policy.";
    UnknownPort = "F007" "unknown-port-published" Error
        "A port is published that the policy does not list for the service."
        "Remove the port, or list it in the policy and say who may reach it.";
    HostNetwork = "F008" "host-network" Error
        "A container in the host's network namespace has no interface of its own: nothing can be enforced on it, and \
         everything it listens on is the host's."
        "Remove `network_mode: host` and publish what others need.";
    Privileged = "F009" "privileged" Error
        "A privileged container can take the enforcement off the host, and everything else with it."
        "Remove `privileged`; add the one capability or device that is needed.";
    DockerSocket = "F010" "docker-socket" Error
        "Whoever can write to the engine's socket is root on the host: it can start containers that no policy covers."
        "Remove the mount; give tools that need the engine a proxy that lets through what they need.";
    DangerousMount = "F011" "dangerous-mount" Error
        "A folder of the host is mounted from which the host, its engine or the enforcement can be changed."
        "Mount only the folder that is needed, with `:ro`.";
    HostNamespace = "F012" "host-namespace" Error
        "The container shares a namespace with the host: it sees the host's processes, or can signal and trace them."
        "Remove the key; containers have namespaces of their own.";
    AddedCapability = "F013" "added-capability" Error
        "The capability lets the container change interfaces, forge packets or load programs: enough to get around or \
         take off what enforces."
        "Remove it from `cap_add`.";
    SharedNamespace = "F014" "shared-network-namespace" Error
        "Two services in one network namespace have one interface: the kernel cannot tell them apart, so both have the \
         rights of the one that the interface belongs to."
        "Give the service networks of its own, or give both the same rights in the policy.";
    NoSharedNetwork = "F015" "no-shared-network" Warning
        "The policy lets one service call another, but no network joins them: the connection cannot work."
        "Put both on a common network, or remove the rule.";
    NeedlessNetwork = "F016" "needless-shared-network" Info
        "Services share a network although nothing allows them to talk. The policy is enforced all the same; without it \
         they could."
        "Give each group of services that talk a network of its own.";
    NoReverseProxy = "F017" "missing-reverse-proxy" Error
        "The policy has a service that faces the public, but nothing in the compose file publishes one of its ports: \
         the application cannot be reached, or is by another way."
        "Start the service and publish its port on every interface.";
    FixedName = "F018" "colliding-name" Warning
        "The policy is for several instances, but the name is the same in each: they would share the network or volume, \
         or the second would not start."
        "Put the project into the name: `${COMPOSE_PROJECT_NAME}-network`, or leave the name out.";
    RunsAsRoot = "F019" "runs-as-root" Warning
        "The policy asks that the service does not run as root, but the compose file says that it does, or leaves it to \
         the image."
        "Set `user` to a number other than 0: `user: \"1000:1000\"`.";
    Ipv6Default = "F020" "ipv6-published-by-default" Warning
        "A port without an address is published on IPv6 as well. Where the network of the container has no IPv6, the \
         engine's proxy passes such connections on, and the service sees the host instead of who calls."
        "Turn IPv6 on for the network (`enable_ipv6: true`), or publish on IPv4 only: `0.0.0.0:80:80`.";
    NotCovered = "F021" "project-not-covered" Warning
        "The policy does not apply to a project of this name: started like this, nothing would be enforced."
        "Set `name` in the compose file, or `--project-name`, to a name that `applies_to` matches.";
    BaselineUnused = "F022" "baseline-unused" Warning
        "The baseline accepts something that is not found any more."
        "Remove the entry.";
    BaselineExpired = "F023" "baseline-expired" Warning
        "The time for which the baseline accepts something is over: it counts again."
        "Fix what was accepted, or give the entry a later date and say why.";
    ReplicasSharePort = "F024" "replicas-share-port" Warning
        "The service runs several times, but its port on the host is fixed: only the first container gets it, and the \
         others do not start, or what is published leads to one of them alone."
        "Leave the port on the host out (`ports: [80]`), give it a range as long as the number of replicas, or publish a \
         reverse proxy in front of them only.";
}

impl fmt::Display for Code {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.text())
    }
}

impl Serialize for Code {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.text())
    }
}

/// The table of the documentation.
#[must_use]
pub fn table() -> String {
    let mut text = "| code | name | severity | why | what to do |\n|---|---|---|---|---|\n".to_owned();
    for code in Code::ALL {
        text.push_str(&format!(
            "| {code} | `{}` | {} | {} | {} |\n",
            code.name(),
            code.level().name(),
            code.explanation(),
            code.fix()
        ));
    }
    text
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn codes_and_names_are_unique_and_counted_through() {
        let names: BTreeSet<&str> = Code::ALL.iter().map(|code| code.name()).collect();
        assert_eq!(names.len(), Code::ALL.len());
        for (number, code) in (1..).zip(Code::ALL) {
            assert_eq!(code.text(), format!("F{number:03}"));
        }
    }

    #[test]
    fn the_documentation_has_the_table() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/check.md");
        let text = std::fs::read_to_string(path).unwrap();
        let (before, rest) = text.split_once("<!-- findings -->\n").expect("the mark where the table begins");
        let (_, after) = rest.split_once("<!-- end of findings -->").expect("the mark where the table ends");
        let wanted = format!("{before}<!-- findings -->\n{}<!-- end of findings -->{after}", table());
        if std::env::var_os("UPDATE_DOCS").is_some() {
            std::fs::write(path, &wanted).unwrap();
        }
        assert!(std::fs::read_to_string(path).unwrap() == wanted, "run with UPDATE_DOCS=1");
    }
}
