//! The agent's own settings: `agent.yaml`, and what the command line puts in its place. Not policy.

use std::{
    io,
    net::SocketAddr,
    ops::RangeInclusive,
    path::{Path, PathBuf},
    time::Duration,
};

use agent_common::config::{DEFAULT_MARK_MASK, Timeouts};
use clap::ValueEnum;
use jiff::SignedDuration;
use serde::Deserialize;

use crate::{
    audit::interval::Plan,
    control,
    datapath::{DEFAULT_ADOPT, attach::Via, sizes::Sizes},
    events::{file::Rotation, format::EventFormat},
    telemetry::server,
};

/// Where `agent.yaml` is looked for.
pub const DEFAULT_PATH: &str = "/etc/portcullis/agent.yaml";

/// Settings as they stand in `agent.yaml` or on the command line; what is left out has a default.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct File {
    pub policy: Option<Vec<PathBuf>>,
    pub profile: Option<String>,
    pub inventory: Option<String>,
    pub docker_host: Option<String>,
    pub listen: Option<SocketAddr>,
    /// TLS and passwords for the metrics.
    pub web_config: Option<PathBuf>,
    pub control: Option<PathBuf>,
    pub pin_dir: Option<PathBuf>,
    pub state_dir: Option<PathBuf>,
    pub events: Option<String>,
    pub event_format: Option<EventFormat>,
    pub event_file: Option<EventFileSettings>,
    /// The bits of `skb->mark` that belong to the agent.
    pub mark_mask: Option<u32>,
    /// How programs get onto ports; by default what the kernel can do best.
    pub attach: Option<Via>,
    /// Whether the kernel programs log what they do, at level `debug`.
    pub datapath_log: Option<bool>,
    /// What holds where ports have no program.
    pub backstop: Option<Backstop>,
    pub timeouts: Option<TimeoutSettings>,
    /// Names, globs allowed, of the interfaces whose packets to published ports are judged where they come in; by
    /// default all.
    pub uplinks: Option<Vec<String>>,
    /// Seconds after the very first start in which connections from before it are taken over, as far as the policy
    /// allows them; 0 for never.
    pub adopt: Option<u32>,
    pub sizes: Option<SizeSettings>,
    /// Audits of the host; none if left out.
    pub audit: Option<AuditSettings>,
}

/// What the agent looks at by itself, besides enforcing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuditSettings {
    /// `15m`, `1h 30m`.
    pub interval: Option<String>,
    /// A file of findings that are accepted.
    pub baseline: Option<PathBuf>,
}

impl AuditSettings {
    const DEFAULT_INTERVAL: Duration = Duration::from_secs(15 * 60);
    /// More often it would be a load, more seldom no watch.
    const INTERVALS: RangeInclusive<Duration> = Duration::from_secs(10)..=Duration::from_secs(7 * 24 * 3600);

    fn plan(&self) -> Result<Plan, String> {
        let interval = match self.interval.as_deref() {
            None => Self::DEFAULT_INTERVAL,
            Some(text) => text
                .parse::<SignedDuration>()
                .ok()
                .and_then(|interval| Duration::try_from(interval).ok())
                .filter(|interval| Self::INTERVALS.contains(interval))
                .ok_or_else(|| {
                    format!("`interval` of `audit` is `{text}`; it has to be a time such as `15m`, from 10 s to 7 days")
                })?,
        };
        Ok(Plan { interval, baseline: self.baseline.clone() })
    }
}

/// Seconds without a packet after which a flow ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TimeoutSettings {
    pub tcp_opening: Option<u32>,
    pub tcp_established: Option<u32>,
    pub tcp_closing: Option<u32>,
    pub udp_opening: Option<u32>,
    pub udp_established: Option<u32>,
    pub icmp: Option<u32>,
}

/// What holds back frames between two ports that both have no program.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Backstop {
    /// Nothing.
    #[default]
    Off,
    /// A chain of nftables.
    Nft,
}

/// How much the kernel's maps hold. What an earlier agent pinned is carried over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SizeSettings {
    /// Bytes of the ring buffer that denied attempts are told through.
    pub event_buffer: Option<u32>,
    /// Entries for established connections.
    pub flows: Option<u32>,
    /// Entries for half-open connections and lone datagrams.
    pub flows_opening: Option<u32>,
    /// Entries for counters of denials: combinations of labels.
    pub denied: Option<u32>,
    /// Established connections of one port in one direction; an eighth of all if left out.
    pub flows_per_port: Option<u32>,
}

/// How much room an events file may take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EventFileSettings {
    /// Bytes of one file before it is put aside as `FILE.1`.
    pub max_bytes: Option<u64>,
    /// Files that are kept beside the one that is written.
    pub keep: Option<u32>,
}

/// Where containers are learnt from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Inventory {
    Docker { url: Option<String> },
    File(PathBuf),
}

/// All settings, complete.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    pub policy: Vec<PathBuf>,
    pub profile: Option<String>,
    pub inventory: Inventory,
    pub listen: SocketAddr,
    pub web_config: Option<PathBuf>,
    pub control: PathBuf,
    pub pin_dir: PathBuf,
    pub state_dir: PathBuf,
    pub events: String,
    pub event_format: EventFormat,
    pub event_file: Rotation,
    pub mark_mask: u32,
    pub attach: Option<Via>,
    pub datapath_log: bool,
    pub backstop: Backstop,
    pub timeouts: Timeouts,
    pub uplinks: Vec<String>,
    pub adopt: Duration,
    pub sizes: Sizes,
    pub audit: Option<Plan>,
}

/// `agent.yaml` cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("failed to read `{}`", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("invalid settings in `{}`: {message}", path.display())]
    Syntax { path: PathBuf, message: String },
}

/// Default of `--pin-dir`.
pub const DEFAULT_PIN_DIR: &str = "/sys/fs/bpf/portcullis";
/// Default of `--state-dir`.
pub const DEFAULT_STATE_DIR: &str = "/var/lib/portcullis";
/// Default of `--policy`.
pub const DEFAULT_POLICY_DIR: &str = "/etc/portcullis/policy.d";

impl File {
    /// Reads `agent.yaml`. Only the default one may be missing.
    pub fn read(path: Option<&Path>) -> Result<Self, ConfigError> {
        let (path, required) = path.map_or((Path::new(DEFAULT_PATH), false), |path| (path, true));
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound && !required => return Ok(Self::default()),
            Err(source) => return Err(ConfigError::Read { path: path.to_owned(), source }),
        };
        if text.trim().is_empty() {
            return Ok(Self::default());
        }
        parse(&text).map_err(|message| ConfigError::Syntax { path: path.to_owned(), message })
    }

    /// What `self` leaves out is taken from `other`.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self {
            policy: self.policy.or(other.policy),
            profile: self.profile.or(other.profile),
            inventory: self.inventory.or(other.inventory),
            docker_host: self.docker_host.or(other.docker_host),
            listen: self.listen.or(other.listen),
            web_config: self.web_config.or(other.web_config),
            control: self.control.or(other.control),
            pin_dir: self.pin_dir.or(other.pin_dir),
            state_dir: self.state_dir.or(other.state_dir),
            events: self.events.or(other.events),
            event_format: self.event_format.or(other.event_format),
            event_file: self.event_file.or(other.event_file),
            mark_mask: self.mark_mask.or(other.mark_mask),
            attach: self.attach.or(other.attach),
            datapath_log: self.datapath_log.or(other.datapath_log),
            backstop: self.backstop.or(other.backstop),
            timeouts: self.timeouts.or(other.timeouts),
            uplinks: self.uplinks.or(other.uplinks),
            adopt: self.adopt.or(other.adopt),
            sizes: self.sizes.or(other.sizes),
            audit: self.audit.or(other.audit),
        }
    }

    /// Fills in the defaults.
    #[must_use]
    pub fn complete(self) -> Settings {
        let timeouts = self.timeouts.unwrap_or_default();
        let default = Timeouts::DEFAULT;
        let sizes = self.sizes.unwrap_or_default();
        let event_file = self.event_file.unwrap_or_default();
        let flows = sizes.flows.unwrap_or(Sizes::DEFAULT.flows);
        Settings {
            policy: self.policy.unwrap_or_else(|| vec![DEFAULT_POLICY_DIR.into()]),
            profile: self.profile,
            inventory: match self.inventory.as_deref() {
                None | Some("docker") => Inventory::Docker { url: self.docker_host },
                Some(file) => Inventory::File(file.into()),
            },
            listen: self.listen.unwrap_or(server::DEFAULT_ADDRESS),
            web_config: self.web_config,
            control: self.control.unwrap_or_else(|| control::DEFAULT_PATH.into()),
            pin_dir: self.pin_dir.unwrap_or_else(|| DEFAULT_PIN_DIR.into()),
            state_dir: self.state_dir.unwrap_or_else(|| DEFAULT_STATE_DIR.into()),
            events: self.events.unwrap_or_else(|| "-".to_owned()),
            event_format: self.event_format.unwrap_or_default(),
            event_file: Rotation {
                max_bytes: event_file.max_bytes.unwrap_or(Rotation::DEFAULT.max_bytes),
                keep: event_file.keep.unwrap_or(Rotation::DEFAULT.keep),
            },
            mark_mask: self.mark_mask.unwrap_or(DEFAULT_MARK_MASK),
            attach: self.attach,
            datapath_log: self.datapath_log.unwrap_or(false),
            uplinks: self.uplinks.unwrap_or_else(|| vec!["*".to_owned()]),
            adopt: self.adopt.map_or(DEFAULT_ADOPT, |seconds| Duration::from_secs(seconds.into())),
            backstop: self.backstop.unwrap_or_default(),
            timeouts: Timeouts {
                tcp_opening: timeouts.tcp_opening.unwrap_or(default.tcp_opening),
                tcp_established: timeouts.tcp_established.unwrap_or(default.tcp_established),
                tcp_closing: timeouts.tcp_closing.unwrap_or(default.tcp_closing),
                udp_opening: timeouts.udp_opening.unwrap_or(default.udp_opening),
                udp_established: timeouts.udp_established.unwrap_or(default.udp_established),
                icmp: timeouts.icmp.unwrap_or(default.icmp),
            },
            sizes: Sizes {
                event_buffer: sizes.event_buffer.unwrap_or(Sizes::DEFAULT.event_buffer),
                flows,
                flows_per_port: sizes.flows_per_port.unwrap_or(flows.div_ceil(8)),
                flows_opening: sizes.flows_opening.unwrap_or(Sizes::DEFAULT.flows_opening),
                denied: sizes.denied.unwrap_or(Sizes::DEFAULT.denied),
            },
            // What cannot be planned was refused when the file was read.
            audit: self.audit.and_then(|audit| audit.plan().ok()),
        }
    }
}

/// Reads settings, or says what is wrong with them.
pub(crate) fn parse(text: &str) -> Result<File, String> {
    let file: File = serde_saphyr::from_str(text).map_err(|error| error.to_string())?;
    let timeouts = file.timeouts.unwrap_or_default();
    let zero = [
        ("tcp_opening", timeouts.tcp_opening),
        ("tcp_established", timeouts.tcp_established),
        ("tcp_closing", timeouts.tcp_closing),
        ("udp_opening", timeouts.udp_opening),
        ("udp_established", timeouts.udp_established),
        ("icmp", timeouts.icmp),
    ]
    .into_iter()
    .find(|(_, seconds)| *seconds == Some(0));
    // The programs look at the clock less often than that.
    if let Some((name, _)) = zero {
        return Err(format!("timeout `{name}` is 0; it has to be at least 1 second"));
    }
    if file.event_file.is_some_and(|event_file| event_file.max_bytes == Some(0)) {
        return Err("`max_bytes` of `event_file` is 0; no event fits into that".to_owned());
    }
    let sizes = file.sizes.unwrap_or_default();
    if let Some(bytes) = sizes.event_buffer {
        check_event_buffer(bytes)?;
    }
    let flows = [
        ("flows", sizes.flows),
        ("flows_opening", sizes.flows_opening),
        ("flows_per_port", sizes.flows_per_port),
    ];
    for (name, size) in flows {
        if size == Some(0) {
            return Err(format!("size `{name}` is 0; without a flow there is no connection"));
        }
    }
    if sizes.denied == Some(0) {
        return Err("size `denied` is 0; nothing denied would be counted by its labels".to_owned());
    }
    file.audit.as_ref().map(AuditSettings::plan).transpose()?;
    Ok(file)
}

/// The kernel takes a power of two of whole pages only; the loader would silently round anything else up.
fn check_event_buffer(bytes: u32) -> Result<(), String> {
    let page = rustix::param::page_size();
    if bytes.is_power_of_two() && usize::try_from(bytes).is_ok_and(|bytes| bytes >= page) {
        return Ok(());
    }
    Err(format!("size `event_buffer` is {bytes}; it has to be a power of two of at least {page} bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_wins_over_the_file() {
        let file =
            parse("profile: production\nlisten: 127.0.0.1:9999\ntimeouts: { udp_opening: 5 }\n").unwrap();
        let flags = File { profile: Some("development".to_owned()), ..File::default() };
        let settings = flags.or(file).complete();
        assert_eq!(settings.profile.as_deref(), Some("development"));
        assert_eq!(settings.listen.port(), 9999);
        assert_eq!(settings.timeouts.udp_opening, 5);
        assert_eq!(settings.timeouts.tcp_closing, Timeouts::DEFAULT.tcp_closing);
        assert_eq!(settings.inventory, Inventory::Docker { url: None });
    }

    #[test]
    fn the_backstop_is_off_unless_somebody_wants_it() {
        let backstop = |text| parse(text).map(|file| file.complete().backstop);
        assert_eq!(backstop("profile: production\n"), Ok(Backstop::Off));
        assert_eq!(backstop("backstop: off\n"), Ok(Backstop::Off));
        assert_eq!(backstop("backstop: nft\n"), Ok(Backstop::Nft));
        assert!(backstop("backstop: iptables\n").is_err());
    }

    #[test]
    fn a_timeout_of_nothing_is_an_error() {
        let error = parse("timeouts: { icmp: 0 }\n").unwrap_err();
        assert_eq!(error, "timeout `icmp` is 0; it has to be at least 1 second");
    }

    #[test]
    fn sizes_are_those_that_the_kernel_takes() {
        let settings = parse("sizes: { event_buffer: 65536 }\n").unwrap().complete();
        assert_eq!(settings.sizes, Sizes { event_buffer: 65_536, ..Sizes::DEFAULT });
        for wrong in [0, 100, 65_537, 3 << 16] {
            let error = parse(&format!("sizes: {{ event_buffer: {wrong} }}\n")).unwrap_err();
            assert!(error.contains("power of two") && error.contains(&wrong.to_string()), "{error}");
        }
        let error = parse("sizes: { flows: 0 }\n").unwrap_err();
        assert_eq!(error, "size `flows` is 0; without a flow there is no connection");
    }

    #[test]
    fn an_events_file_has_bounds() {
        let settings = parse("event_format: ocsf\nevent_file: { keep: 2 }\n").unwrap().complete();
        assert_eq!(settings.event_format, EventFormat::Ocsf);
        assert_eq!(settings.event_file, Rotation { keep: 2, ..Rotation::DEFAULT });
        assert!(parse("event_file: { max_bytes: 0 }\n").unwrap_err().contains("`max_bytes`"));
        assert!(parse("event_format: cef\n").is_err());
    }

    #[test]
    fn an_audit_has_an_interval_that_makes_sense() {
        let audit = |text: &str| parse(text).map(|file| file.complete().audit);
        assert_eq!(audit("profile: production\n"), Ok(None));
        let minutes = |minutes: u64| Duration::from_secs(minutes * 60);
        assert_eq!(audit("audit: {}\n").unwrap().unwrap().interval, minutes(15));
        assert_eq!(audit("audit: { interval: 1h 30m }\n").unwrap().unwrap().interval, minutes(90));
        let baseline =
            audit("audit: { interval: 10s, baseline: /etc/accepted.yaml }\n").unwrap().unwrap().baseline;
        assert_eq!(baseline.as_deref(), Some(Path::new("/etc/accepted.yaml")));
        for wrong in ["9s", "8d", "-1h", "often", "15"] {
            let error = audit(&format!("audit: {{ interval: \"{wrong}\" }}\n")).unwrap_err();
            assert!(error.contains(&format!("`{wrong}`")), "{error}");
        }
        assert!(audit("audit: { every: 15m }\n").is_err());
    }

    #[test]
    fn an_unknown_key_is_an_error_with_its_place() {
        let error = parse("profile: production\nlissten: 127.0.0.1:1\n").unwrap_err();
        assert!(error.contains("lissten") && error.contains("2:1"), "{error}");
    }
}
