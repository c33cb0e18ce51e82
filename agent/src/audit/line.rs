//! The lines of an audit: what each asks, whom it serves and what it looks at. The one place where they are named;
//! docs/audit.md is made from it.

use serde::{Serialize, Serializer};

use crate::check::Level;

/// Makes the enum and the table of what each line stands for.
macro_rules! lines {
    ($($variant:ident = $code:literal $name:literal $level:ident
        $title:literal
        from $from:literal
        serves [$($control:literal),+]
        looks $looks:literal
        fix $fix:literal;)+) => {
        /// A line of an audit. Codes are stable: they are never renumbered or used again.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Line { $($variant,)+ }

        impl Line {
            /// Every line, in the order of the report.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// `A01`.
            #[must_use]
            pub const fn code(self) -> &'static str {
                match self { $(Self::$variant => $code,)+ }
            }

            /// `internal-services-closed`.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }

            /// How much it matters if it fails.
            #[must_use]
            pub const fn level(self) -> Level {
                match self { $(Self::$variant => Level::$level,)+ }
            }

            /// What is to be so.
            #[must_use]
            pub const fn title(self) -> &'static str {
                match self { $(Self::$variant => $title,)+ }
            }

            /// Where the requirement is written.
            #[must_use]
            pub const fn from(self) -> &'static str {
                match self { $(Self::$variant => $from,)+ }
            }

            /// The controls that it is evidence for.
            #[must_use]
            pub const fn controls(self) -> &'static [&'static str] {
                match self { $(Self::$variant => &[$($control),+],)+ }
            }

            /// What is looked at, and when it fails.
            #[must_use]
            pub const fn looks_at(self) -> &'static str {
                match self { $(Self::$variant => $looks,)+ }
            }

            /// What to do if it fails.
            #[must_use]
            pub const fn fix(self) -> &'static str {
                match self { $(Self::$variant => $fix,)+ }
            }
        }
    };
}

lines! {
    InternalClosed = "A01" "internal-service-closed" Error
        "the internal service is not accessible from outside the container network"
        from "003 checklist: qerds-trust, PostgreSQL and MinIO are not accessible; 000 AC3: the database only to those that may call it"
        serves ["PCI DSS 1.3", "PCI DSS 2.2.5", "HIPAA §164.312(a)(1)", "HIPAA §164.312(e)(1)", "SOC 2 CC6.1", "SOC 2 CC6.6", "CIS Docker 5.9", "CIS Docker 5.14"]
        looks "One line for each service that the policy opens to neither the world nor the host. The published ports of its containers, and connections that are tried: from the host, and from each `--from`, to the containers' own addresses and to the ports that they publish. Fails if a port is published or a connection arrives."
        fix "take the port out of `ports`, and run the agent with this policy";
    OnlyProxyPublic = "A02" "only-proxy-public" Error
        "only the reverse proxy is exposed on a public interface"
        from "003 checklist; 000 AC1: only the reverse proxy's port is accessible from outside"
        serves ["PCI DSS 1.3", "HIPAA §164.312(e)(1)", "SOC 2 CC6.6", "CIS Docker 5.9", "CIS Docker 5.14"]
        looks "Every published port of the instance that is bound to more than localhost. Fails for one that the policy does not open to the world, or if nothing that faces the public is published."
        fix "publish the reverse proxy's ports only";
    CertificateTrusted = "A03" "certificate-trusted" Error
        "the TLS certificate is valid and from a trusted authority"
        from "003 checklist"
        serves ["HIPAA §164.312(e)(1)", "SOC 2 CC6.6"]
        looks "A handshake with each endpoint, judged by the authorities of this system, for the name that was asked for. Passes with a certificate that is valid now; the day on which it ends is in the evidence."
        fix "install a certificate for this name from an authority that clients know, with its chain";
    TlsVersions = "A04" "tls-versions" Error
        "TLS 1.2 and newer only: no SSLv3, TLS 1.0, TLS 1.1"
        from "003 checklist"
        serves ["HIPAA §164.312(e)(1)", "SOC 2 CC6.6"]
        looks "Each version from SSLv3 to TLS 1.3 is offered by itself. Fails if one before TLS 1.2 is taken, or none from TLS 1.2 on."
        fix "nginx: `ssl_protocols TLSv1.2 TLSv1.3;`";
    CipherSuites = "A05" "cipher-suites" Error
        "strong cipher suites are configured"
        from "003 checklist"
        serves ["HIPAA §164.312(e)(1)", "SOC 2 CC6.6"]
        looks "Weak suites alone are offered in every version that the endpoint takes: without encryption or authentication, export, RC4, DES, triple DES, and those without forward secrecy. Fails if one is taken."
        fix "nginx: `ssl_ciphers ECDHE+AESGCM:ECDHE+CHACHA20;`";
    Hsts = "A06" "hsts" Error
        "HSTS headers are enabled"
        from "003 checklist"
        serves ["HIPAA §164.312(e)(1)", "SOC 2 CC6.6"]
        looks "The header `Strict-Transport-Security` of the answer to `GET /`. Fails without it, or with a `max-age` below 15768000 seconds, half a year."
        fix "nginx: `add_header Strict-Transport-Security \"max-age=31536000; includeSubDomains\" always;`";
    SecurityHeaders = "A07" "security-headers" Warning
        "security headers are set: CSP, X-Content-Type-Options, X-Frame-Options"
        from "003 reverse proxy; 000 defence in depth"
        serves ["SOC 2 CC6.6"]
        looks "The headers of the answer to `GET /`: `Content-Security-Policy`, `X-Content-Type-Options: nosniff`, and `X-Frame-Options` (`DENY` or `SAMEORIGIN`) or `frame-ancestors` in the policy of the first."
        fix "add the headers in the reverse proxy, with `always`";
    HttpsRedirect = "A08" "https-redirect" Error
        "HTTP is redirected to HTTPS"
        from "000 production: enforce HTTPS, redirect HTTP"
        serves ["HIPAA §164.312(e)(1)", "SOC 2 CC6.6"]
        looks "`GET /` on port 80 of the endpoint's host. Passes if it answers with a redirect to `https:`, or nobody listens."
        fix "nginx: `return 301 https://$host$request_uri;`";
    RateLimit = "A09" "rate-limit" Warning
        "requests are limited in rate"
        from "000 defence in depth"
        serves ["SOC 2 CC6.6"]
        looks "Up to 40 requests for `/` one after the other, 5 s in all. Passes at the first answer 429 or 503, or with a `RateLimit` header; a limit that so few requests do not reach cannot be told."
        fix "nginx: `limit_req_zone` and `limit_req`";
    NoDevServices = "A10" "no-dev-services" Error
        "development services are removed or disabled"
        from "003 checklist: Mailpit and the mocks server"
        serves ["PCI DSS 2.2.5", "SOC 2 CC6.1", "SOC 2 change management"]
        looks "One line for each service with `only_in` that the profile leaves out. Fails if a container of it runs."
        fix "stop it, and give it `profiles` in the compose file";
    NoDebugEndpoints = "A11" "no-debug-endpoints" Error
        "no debug endpoints are exposed"
        from "003 checklist"
        serves ["PCI DSS 2.2.5", "SOC 2 CC6.1"]
        looks "`GET` of well-known debug paths, and of each `--debug-path`, on every endpoint, beside one of a path that cannot exist. Fails if a path is answered by 2xx, or asks for a password (401); cannot be told where the impossible one is, too."
        fix "take the path out of what the reverse proxy passes on";
    FirewallDefaultDeny = "A12" "firewall-default-deny" Error
        "the host firewall denies by default"
        from "003 checklist and firewall rules"
        serves ["PCI DSS 1.3", "HIPAA §164.312(e)(1)", "SOC 2 CC6.6", "CIS Docker 1.2.1"]
        looks "The rules of nftables (also what firewalld, ufw and iptables-nft write) and of the older iptables, for IPv4 and IPv6: what becomes of a new connection by an uplink to a port that no rule names."
        fix "nft: `chain input { type filter hook input priority filter; policy drop; … }`, for IPv6 as well";
    SocketNotMounted = "A13" "docker-socket-not-mounted" Error
        "the Docker socket is not exposed to containers"
        from "003 checklist"
        serves ["PCI DSS 7.1", "HIPAA §164.312(a)(1)", "SOC 2 CC6.1", "CIS Docker 5.32"]
        looks "The mounts of every running container of the host, also of those that no policy covers: `docker.sock` and its like."
        fix "remove the mount";
    ApiNotOnTcp = "A14" "engine-api-not-on-tcp" Error
        "the engine's API is not offered on the network"
        from "003 host security"
        serves ["PCI DSS 7.1", "HIPAA §164.312(a)(1)", "SOC 2 CC6.1", "CIS Docker 2.7"]
        looks "The listening TCP sockets of `dockerd` in this network namespace, each asked for `/_ping`. Fails if one answers without TLS; one that wants TLS cannot be told: it has to ask for certificates."
        fix "take `tcp://` out of `hosts` of daemon.json and of the unit";
    NonRoot = "A15" "containers-non-root" Warning
        "containers run as non-root where possible"
        from "003 checklist"
        serves ["PCI DSS 7.1", "SOC 2 CC6.1", "CIS Docker 4.1"]
        looks "The user of each container's first process, as the kernel tells it. Fails for one that is root on the host, unless the policy says `run_as: any` for the service: that is where it is not possible."
        fix "set `user`, or say `run_as: any` in the policy if it has to be root";
    SshRestricted = "A16" "ssh-restricted" Error
        "host SSH access is restricted to administrators' addresses"
        from "003 checklist and firewall rules"
        serves ["PCI DSS 7.1", "HIPAA §164.312(a)(1)", "SOC 2 CC6.1", "CIS Docker 1.2.1"]
        looks "The listening sockets of `sshd` in this network namespace, and what the firewall does with a new connection to each from anywhere. Passes if there is none, all are on localhost, or strangers are turned away."
        fix "nft: `tcp dport 22 ip saddr ADMIN-NETWORK accept`, and deny by default";
    PrivateNetworks = "A17" "private-networks" Error
        "services use private networks of their own"
        from "000 AC2; 003 container network isolation"
        serves ["PCI DSS 1.3", "HIPAA §164.312(e)(1)", "SOC 2 CC6.6", "CIS Docker 5.10", "CIS Docker 5.30"]
        looks "The networks of each container of the instance. Fails on the host's network, in another container's, or on the engine's default bridge."
        fix "give the services a network in the compose file";
    InstancesIsolated = "A18" "instances-isolated" Error
        "instances are isolated from each other: networks, volumes and names are distinct"
        from "000 AC4"
        serves ["PCI DSS 1.3", "HIPAA §164.312(a)(1)", "SOC 2 CC6.1"]
        looks "The networks and named volumes of every instance against those of all other containers of the host. Fails if one is shared, or if its name would be the same in every instance."
        fix "put the project into the name, or leave the name out";
    NoEscape = "A19" "no-way-out" Error
        "no container can take the enforcement off the host"
        from "003 container network isolation"
        serves ["PCI DSS 7.1", "SOC 2 CC6.1", "CIS Docker 5.4", "CIS Docker 5.5", "CIS Docker 5.6", "CIS Docker 5.16", "CIS Docker 5.17", "CIS Docker 5.21", "CIS Docker 5.31"]
        looks "Privileged containers, namespaces of the host, added capabilities and mounts of system folders, of every container of the instance."
        fix "see the findings";
    KnownServices = "A20" "services-known" Error
        "what runs is what the policy knows"
        from "000 and 003: the exposure tables"
        serves ["PCI DSS 2.2.5", "SOC 2 CC6.1", "SOC 2 change management"]
        looks "The containers of the instance against the services of the policy, in both directions."
        fix "add the service to the policy, or stop it";
    DeclaredBound = "A21" "declared-and-bound" Error
        "what is bound on the host is what is declared"
        from "000 AC1: `docker compose ps`"
        serves ["PCI DSS 1.3", "SOC 2 CC6.6", "CIS Docker 5.9"]
        looks "The proxies of the engine in this network namespace against the published ports that the engine tells of, in both directions. An engine without proxies binds by rules only; that cannot be told."
        fix "restart the engine: a proxy that belongs to no container is left over";
    ReachableAllowed = "A22" "reachable-is-allowed" Error
        "what can be reached is what the policy allows"
        from "000 AC1 and AC3; 003 service exposure matrix"
        serves ["PCI DSS 1.3", "HIPAA §164.312(e)(1)", "SOC 2 CC6.6"]
        looks "TCP connections that are tried from the host and from each `--from`: to the ports that the policy, the image or the start names, at the containers' own addresses and where they are published. Fails if one arrives that the policy does not allow. UDP is not tried."
        fix "run the agent with this policy; `portcullis status` says what it enforces";
    Enforced = "A23" "enforced" Error
        "the policy is enforced"
        from "003 default-deny principle"
        serves ["PCI DSS 1.3", "HIPAA §164.312(a)(1)", "HIPAA audit controls", "SOC 2 CC6.6"]
        looks "The running agent's own view: ready, its programs attached and first in order, its last reload, its policy for this instance in the same profile, and every interface of the instance's containers enforced on the current revision."
        fix "start the agent with this policy: `portcullis run`";
    Enforceable = "A24" "enforceable" Error
        "every container can be enforced"
        from "003 container network isolation"
        serves ["PCI DSS 1.3", "SOC 2 CC6.6", "CIS Docker 5.10"]
        looks "Containers of the instance on the host's network or in another container's, and those that the agent says it cannot enforce."
        fix "give the container networks of its own";
    NoRootPassword = "A25" "no-root-password" Error
        "nobody logs in as root by a password over SSH"
        from "003 checklist: host SSH access is restricted"
        serves ["PCI DSS 7.1", "HIPAA §164.312(a)(1)", "SOC 2 CC6.1", "CIS Docker 1.2.1"]
        looks "What `sshd -T` says of each `sshd` that listens in this network namespace, as it would treat root at a stranger's address. Fails with `PermitRootLogin yes` if a password, or an answer at the keyboard, is all that it takes. Only the system's own `sshd` is asked."
        fix "`PermitRootLogin prohibit-password` in `sshd_config`";
}

impl Serialize for Line {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.code())
    }
}

/// Whether a line is so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    Failed,
    CouldNotTell,
    Passed,
}

impl Outcome {
    /// In words.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Failed => "failed",
            Self::CouldNotTell => "could not tell",
            Self::Passed => "passed",
        }
    }
}

/// A line, answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Answer {
    pub code: Line,
    pub name: &'static str,
    pub level: Level,
    pub title: &'static str,
    /// The instance, service or endpoint that it is about; nothing for the host.
    pub subject: Option<String>,
    pub outcome: Outcome,
    /// What was looked at and what was found.
    pub evidence: Vec<String>,
    pub controls: &'static [&'static str],
    pub from: &'static str,
    /// Why it is accepted although it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub accepted: Option<String>,
    /// What to do, if it failed.
    pub fix: Option<&'static str>,
}

impl Answer {
    /// The outcome in words, with the reason why a failure is accepted.
    #[must_use]
    pub fn outcome(&self) -> String {
        match &self.accepted {
            Some(reason) => format!("{}, accepted: {reason}", self.outcome.name()),
            None => self.outcome.name().to_owned(),
        }
    }

    /// An answer with its evidence.
    #[must_use]
    pub fn new(line: Line, subject: Option<String>, outcome: Outcome, evidence: Vec<String>) -> Self {
        Self {
            code: line,
            name: line.name(),
            level: line.level(),
            title: line.title(),
            subject,
            outcome,
            evidence,
            controls: line.controls(),
            from: line.from(),
            accepted: None,
            fix: (outcome == Outcome::Failed).then(|| line.fix()),
        }
    }
}

/// The items of the CIS Docker Benchmark 1.6.0 that lines serve, each in other words than its own.
pub const CIS: [(&str, &str); 15] = [
    ("1.2.1", "the host is hardened"),
    ("2.7", "the daemon asks clients on TCP for certificates"),
    ("4.1", "a container has a user of its own"),
    ("5.4", "kernel capabilities are restricted"),
    ("5.5", "no privileged containers"),
    ("5.6", "no sensitive folders of the host are mounted"),
    ("5.9", "only ports that are needed are open"),
    ("5.10", "the host's network namespace is not shared"),
    ("5.14", "what comes in is bound to one interface of the host"),
    ("5.16", "the host's process namespace is not shared"),
    ("5.17", "the host's IPC namespace is not shared"),
    ("5.21", "the host's UTS namespace is not shared"),
    ("5.30", "the default bridge `docker0` is not used"),
    ("5.31", "the host's user namespace is not shared"),
    ("5.32", "the engine's socket is not mounted into containers"),
];

/// The table of the documentation.
#[must_use]
pub fn table() -> String {
    let mut text =
        "| line | what is to be so | from | controls | what is looked at |\n|---|---|---|---|---|\n"
            .to_owned();
    for line in Line::ALL {
        text.push_str(&format!(
            "| {} `{}` ({}) | {} | {} | {} | {} |\n",
            line.code(),
            line.name(),
            line.level().name(),
            line.title(),
            line.from(),
            line.controls().join(", "),
            line.looks_at(),
        ));
    }
    text
}

/// The table of the benchmark's items in the documentation.
#[must_use]
pub fn cis_table() -> String {
    let mut text = "| item | what it asks, in short | lines |\n|---|---|---|\n".to_owned();
    for (number, what) in CIS {
        let control = format!("CIS Docker {number}");
        let lines = Line::ALL.iter().filter(|line| line.controls().contains(&control.as_str()));
        let lines: Vec<&str> = lines.map(|line| line.code()).collect();
        text.push_str(&format!("| {number} | {what} | {} |\n", lines.join(", ")));
    }
    text
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn codes_and_names_are_unique_and_counted_through() {
        let names: BTreeSet<&str> = Line::ALL.iter().map(|line| line.name()).collect();
        assert_eq!(names.len(), Line::ALL.len());
        for (number, line) in (1..).zip(Line::ALL) {
            assert_eq!(line.code(), format!("A{number:02}"));
        }
    }

    #[test]
    fn items_of_the_benchmark_are_those_that_are_known() {
        let named: BTreeSet<&str> = Line::ALL
            .iter()
            .flat_map(|line| line.controls())
            .filter_map(|control| control.strip_prefix("CIS Docker "))
            .collect();
        assert_eq!(named, CIS.iter().map(|(number, _)| *number).collect());
    }

    #[test]
    fn the_documentation_has_the_tables() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/audit.md");
        let text = std::fs::read_to_string(path).unwrap();
        let with = |text: &str, what: &str, table: &str| {
            let (start, end) = (format!("<!-- {what} -->\n"), format!("<!-- end of {what} -->"));
            let (before, rest) = text.split_once(&start).expect("the mark where the table begins");
            let (_, after) = rest.split_once(&end).expect("the mark where the table ends");
            format!("{before}{start}{table}{end}{after}")
        };
        let wanted = with(&with(&text, "lines", &table()), "items", &cis_table());
        if std::env::var_os("UPDATE_DOCS").is_some() {
            std::fs::write(path, &wanted).unwrap();
        }
        assert!(std::fs::read_to_string(path).unwrap() == wanted, "run with UPDATE_DOCS=1");
    }
}
