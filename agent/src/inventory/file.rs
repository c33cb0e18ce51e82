//! The inventory as a file: endpoints by the name of their port, for labs, tests and other container managers.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::{OsStr, OsString},
    io,
    net::{IpAddr, Ipv4Addr},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use futures_util::StreamExt;
use inotify::{EventStream, Inotify, WatchMask};
use serde::{Deserialize, Deserializer, de::Error as _};
use serde_saphyr::Spanned;
use tokio::{
    sync::watch,
    time::{Instant, sleep},
};
use tracing::{info, warn};

use super::{
    containers::parse_mac,
    snapshot::{Protocol, Published},
};

/// Editors write a file in several steps; only the last one is worth reading.
const DEBOUNCE: Duration = Duration::from_millis(200);
/// Without notifications the file is read again that often; with them, when its directory comes back.
const POLL: Duration = Duration::from_secs(2);

/// One endpoint of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// The interface name of the host-side veth.
    pub port: String,
    pub container: String,
    pub project: Option<String>,
    pub service: Option<String>,
    pub labels: BTreeMap<String, String>,
    pub mac: Option<[u8; 6]>,
    pub addresses: Vec<IpAddr>,
    pub published: Vec<Published>,
}

/// What the file said last.
#[derive(Clone, Debug, Default)]
pub(super) struct FileState {
    pub(super) listed: Arc<Vec<Listed>>,
    /// Whether the file is readable and valid as it is now.
    pub(super) connected: bool,
    /// Whether it ever was.
    pub(super) complete: bool,
    pub(super) error: Option<String>,
}

/// An inventory file could not be used.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    #[error("failed to read inventory `{}`: {source}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("invalid inventory at {}:{line}:{column}: {message}", path.display())]
    Invalid { path: PathBuf, line: u64, column: u64, message: String },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    #[serde(rename = "version", deserialize_with = "version")]
    _version: (),
    endpoints: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    port: Spanned<String>,
    container: String,
    project: Option<String>,
    service: Option<String>,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    #[serde(default, deserialize_with = "mac")]
    mac: Option<[u8; 6]>,
    addresses: Vec<IpAddr>,
    #[serde(default)]
    published: Vec<PublishedEntry>,
}

struct PublishedEntry(Published);

impl<'de> Deserialize<'de> for PublishedEntry {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        parse_published(&text).map(Self).ok_or_else(|| {
            D::Error::custom(format_args!("`{text}` is not a published port such as `0.0.0.0:8080:80/tcp`"))
        })
    }
}

fn version<'de, D: Deserializer<'de>>(deserializer: D) -> Result<(), D::Error> {
    match u64::deserialize(deserializer)? {
        1 => Ok(()),
        other => Err(D::Error::custom(format_args!("version `{other}` is not supported, only `1`"))),
    }
}

fn mac<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<[u8; 6]>, D::Error> {
    let Some(text) = Option::<String>::deserialize(deserializer)? else {
        return Ok(None);
    };
    parse_mac(&text).map(Some).ok_or_else(|| {
        D::Error::custom(format_args!("`{text}` is not a MAC address such as `02:00:00:00:00:02`"))
    })
}

/// Reads `[HOST_ADDRESS:]HOST_PORT:CONTAINER_PORT[/PROTOCOL]`, IPv6 addresses in brackets.
fn parse_published(text: &str) -> Option<Published> {
    let (ports, protocol) = match text.rsplit_once('/') {
        None | Some((_, "tcp")) => (text.strip_suffix("/tcp").unwrap_or(text), Protocol::Tcp),
        Some((ports, "udp")) => (ports, Protocol::Udp),
        Some(_) => return None,
    };
    let (host, container_port) = ports.rsplit_once(':')?;
    let (host_address, host_port) = match host.rsplit_once(':') {
        None => (IpAddr::V4(Ipv4Addr::UNSPECIFIED), host),
        Some((address, port)) => {
            let bare = address.strip_prefix('[').and_then(|address| address.strip_suffix(']'));
            (bare.unwrap_or(address).parse().ok()?, port)
        }
    };
    let port = |text: &str| text.parse().ok().filter(|&port: &u16| port != 0);
    Some(Published {
        host_address,
        host_port: port(host_port)?,
        container_port: port(container_port)?,
        protocol,
    })
}

/// Reads an inventory's text; `path` is for messages.
pub fn parse(text: &str, path: &Path) -> Result<Vec<Listed>, FileError> {
    let invalid = |location: Option<serde_saphyr::Location>, message: String| FileError::Invalid {
        path: path.to_owned(),
        line: location.map_or(1, |location| location.line()),
        column: location.map_or(1, |location| location.column()),
        message,
    };
    let document: Document = serde_saphyr::from_str(text).map_err(|error| {
        let (error, location) = (error.without_snippet().to_string(), error.location());
        // The place stands in front already.
        let place = location.as_ref().map(|at| format!(" at line {}, column {}", at.line(), at.column()));
        let message = place.and_then(|place| error.strip_suffix(&place)).unwrap_or(&error).to_owned();
        invalid(location, message)
    })?;
    let mut seen = BTreeSet::new();
    document
        .endpoints
        .into_iter()
        .map(|entry| {
            if !seen.insert(entry.port.value.clone()) {
                let message = format!("port `{}` is listed twice", entry.port.value);
                return Err(invalid(Some(entry.port.referenced), message));
            }
            Ok(Listed {
                port: entry.port.value,
                container: entry.container,
                project: entry.project,
                service: entry.service,
                labels: entry.labels,
                mac: entry.mac,
                addresses: entry.addresses,
                published: entry.published.into_iter().map(|published| published.0).collect(),
            })
        })
        .collect()
}

/// Reads an inventory file.
pub fn read(path: &Path) -> Result<Vec<Listed>, FileError> {
    let text =
        std::fs::read_to_string(path).map_err(|source| FileError::Read { path: path.to_owned(), source })?;
    parse(&text, path)
}

/// Keeps `sender` in step with the file for as long as somebody listens. A state that cannot be read keeps the
/// endpoints of the one before.
pub(super) async fn follow(path: PathBuf, sender: watch::Sender<FileState>) {
    loop {
        // The watch comes first, so that no change falls between reading and watching.
        let mut watcher = watch_directory(&path)
            .inspect_err(|error| warn!(path = %path.display(), %error, "inventory directory not watched"))
            .ok();
        reload(&path, &sender);
        loop {
            let changed = async {
                match &mut watcher {
                    Some(events) => wait_for_change(events, path.file_name()).await,
                    None => {
                        sleep(POLL).await;
                        Changed::Lost
                    }
                }
            };
            let changed = tokio::select! {
                changed = changed => changed,
                () = sender.closed() => return,
            };
            if matches!(changed, Changed::Lost) {
                break;
            }
            reload(&path, &sender);
        }
    }
}

fn reload(path: &Path, sender: &watch::Sender<FileState>) {
    let result = read(path);
    sender.send_if_modified(|state| match result {
        Ok(listed) => {
            let changed = !state.connected || *state.listed != listed;
            if changed {
                info!(path = %path.display(), endpoints = listed.len(), "inventory read");
                *state = FileState { listed: Arc::new(listed), connected: true, complete: true, error: None };
            }
            changed
        }
        Err(error) => {
            let error = error.to_string();
            let changed = state.error.as_ref() != Some(&error);
            if changed {
                warn!(%error, "inventory not read, the one before stays in force");
                state.connected = false;
                state.error = Some(error);
            }
            changed
        }
    });
}

enum Changed {
    File,
    /// The directory is gone or the watch is broken: watch anew.
    Lost,
}

/// Watches the directory: a file that is replaced by renaming leaves a watch of its own behind.
fn watch_directory(path: &Path) -> io::Result<EventStream<[u8; 4096]>> {
    let inotify = Inotify::init()?;
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    inotify.watches().add(
        directory,
        WatchMask::CLOSE_WRITE
            | WatchMask::MOVED_TO
            | WatchMask::MOVED_FROM
            | WatchMask::CREATE
            | WatchMask::DELETE
            | WatchMask::DELETE_SELF
            | WatchMask::MOVE_SELF,
    )?;
    inotify.into_event_stream([0; 4096])
}

/// Waits until the file, or the `..data` link that Kubernetes swaps, changed and then kept still.
async fn wait_for_change(events: &mut EventStream<[u8; 4096]>, file: Option<&OsStr>) -> Changed {
    let mut first: Option<Instant> = None;
    loop {
        let event = match first {
            None => events.next().await,
            // A directory that never keeps still must not starve the reload.
            Some(since) if since.elapsed() > DEBOUNCE * 5 => return Changed::File,
            Some(_) => match tokio::time::timeout(DEBOUNCE, events.next()).await {
                Ok(event) => event,
                Err(_elapsed) => return Changed::File,
            },
        };
        let Some(Ok(event)) = event else {
            return Changed::Lost;
        };
        let name: Option<&OsString> = event.name.as_ref();
        if event.mask.intersects(
            inotify::EventMask::DELETE_SELF | inotify::EventMask::MOVE_SELF | inotify::EventMask::IGNORED,
        ) {
            return Changed::Lost;
        }
        let concerns = event.mask.contains(inotify::EventMask::Q_OVERFLOW)
            || name.is_some_and(|name| Some(name.as_os_str()) == file || name == "..data");
        if concerns && first.is_none() {
            first = Some(Instant::now());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<Vec<Listed>, String> {
        parse(text, Path::new("inventory.yaml")).map_err(|error| error.to_string())
    }

    #[test]
    fn every_field() {
        let listed = parsed(
            r#"
version: 1
endpoints:
  - { port: veth2, project: lab, service: web, container: web-1, mac: "02:00:00:00:00:02",
      addresses: [198.51.100.2, "2001:db8:30::2"],
      published: ["0.0.0.0:8080:80/tcp", "[::1]:53:5353/udp", "81:80"], labels: {tier: front} }
  - { port: veth3, container: other, addresses: [] }
"#,
        )
        .unwrap();
        assert_eq!(listed.len(), 2);
        let web = &listed[0];
        assert_eq!(web.mac, Some([2, 0, 0, 0, 0, 2]));
        assert_eq!(
            web.addresses,
            ["198.51.100.2".parse::<IpAddr>().unwrap(), "2001:db8:30::2".parse().unwrap()]
        );
        assert_eq!(web.labels["tier"], "front");
        let published: Vec<_> = web
            .published
            .iter()
            .map(|port| (port.host_address.to_string(), port.host_port, port.container_port, port.protocol))
            .collect();
        assert_eq!(
            published,
            [
                ("0.0.0.0".to_owned(), 8080, 80, Protocol::Tcp),
                ("::1".to_owned(), 53, 5353, Protocol::Udp),
                ("0.0.0.0".to_owned(), 81, 80, Protocol::Tcp),
            ]
        );
        assert_eq!((&listed[1].project, &listed[1].mac), (&None, &None));
    }

    #[test]
    fn errors_name_the_place() {
        let cases = [
            ("version: 2\nendpoints: []\n", ":1:10: ", "version `2` is not supported"),
            ("version: 1\nendpoints: []\nextra: 1\n", ":3:1: ", "extra"),
            (
                "version: 1\nendpoints:\n  - {port: a, container: a, addresses: [1.2.3]}\n",
                ":3:41: ",
                "IP address",
            ),
            (
                "version: 1\nendpoints:\n  - {port: a, container: a, addresses: [], mac: x}\n",
                ":3:49: ",
                "`x` is not a MAC address",
            ),
            (
                "version: 1\nendpoints:\n  - {port: a, container: a, addresses: [], published: ['80']}\n",
                ":3:56: ",
                "`80` is not a published port",
            ),
            (
                "version: 1\nendpoints:\n  - {port: a, container: a, addresses: []}\n  - {port: a, container: b, addresses: []}\n",
                ":4:12: ",
                "port `a` is listed twice",
            ),
        ];
        for (text, place, message) in cases {
            let error = parsed(text).unwrap_err();
            assert!(error.starts_with("invalid inventory at inventory.yaml"), "{error}");
            assert!(error.contains(place), "{error}");
            assert!(error.contains(message), "{error}");
        }
    }

    #[test]
    fn impossible_published_ports() {
        for wrong in ["", "80", "80/tcp", "0:80", "8080:80/sctp", "host:80:80", "1.2.3.4:x:80", "70000:80"] {
            assert_eq!(parse_published(wrong), None, "{wrong}");
        }
    }

    #[tokio::test]
    async fn a_replaced_file_is_read_again_and_a_broken_one_keeps_the_last() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("inventory.yaml");
        let (sender, mut receiver) = watch::channel(FileState::default());
        let task = tokio::spawn(follow(path.clone(), sender));

        let one = "version: 1\nendpoints:\n  - {port: a, container: a, addresses: []}\n";
        receiver.wait_for(|state| state.error.is_some() && !state.complete).await.unwrap();

        std::fs::write(&path, one).unwrap();
        receiver.wait_for(|state| state.connected && state.listed.len() == 1).await.unwrap();

        std::fs::write(&path, "version: 3").unwrap();
        let state = receiver.wait_for(|state| !state.connected).await.unwrap().clone();
        assert_eq!((state.listed.len(), state.complete), (1, true));

        let other = directory.path().join("next");
        std::fs::write(&other, "version: 1\nendpoints: []\n").unwrap();
        std::fs::rename(&other, &path).unwrap();
        receiver.wait_for(|state| state.connected && state.listed.is_empty()).await.unwrap();

        drop(receiver);
        task.await.unwrap();
    }
}
