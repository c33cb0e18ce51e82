//! Something to call beyond the containers: a listener on the host and one on the outside, so that what leaves a
//! container is tried as well as what enters one.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::process::CommandExt;
use std::process::{Child, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::engine::{HOST_V4, HOST_V6};
use crate::interrupt::wait_for;
use crate::matrix::{Target, direct};
use crate::netns::Netns;
use crate::outside::{OUTSIDE_V4, OUTSIDE_V6};
use crate::probe::attempts;
use crate::process::stop_child;
use crate::scratch::Scratch;
use crate::tools;

/// What the tables call the place.
pub const BEYOND: &str = "beyond";
const HOST_PORT: u16 = 9998;
const OUTSIDE_PORT: u16 = 9997;

/// A busybox web server that answers with a service's name.
pub fn listener(place: &Netns, scratch: &Scratch, service: &str, port: u16) -> Result<Child> {
    let busybox = tools::find("busybox").context("`busybox` is missing: run `cargo xtask setup`")?;
    let root = scratch.path().join("www").join(service);
    fs::create_dir_all(&root)?;
    fs::write(root.join("name"), format!("{service}\n"))?;
    let child = place
        .command(busybox)
        .args(["httpd", "-f", "-p"])
        .arg(format!("[::]:{port}"))
        .arg("-h")
        .arg(&root)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()?;
    scratch.note_process(child.id())?;
    Ok(child)
}

/// Waits until something answers on a port of a place's own loopback: no packet crosses a bridge for that.
pub fn wait_until_listening(place: &std::path::Path, what: &str, port: u16) -> Result<()> {
    wait_for(&format!("`{what}` on port {port}"), Duration::from_secs(20), || {
        let local = vec![SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port)];
        Ok(attempts(place, local)?.iter().all(|attempt| attempt.outcome.is_open()).then_some(()))
    })
}

/// The two listeners; they end with the value.
#[derive(Debug)]
pub struct Beyond {
    children: [Child; 2],
    kept: bool,
}

impl Beyond {
    /// Starts both and waits until they answer.
    pub fn start(host: &Netns, outside: &Netns, scratch: &Scratch) -> Result<Self> {
        let children = [
            listener(host, scratch, "host", HOST_PORT)?,
            listener(outside, scratch, "outside", OUTSIDE_PORT)?,
        ];
        let beyond = Self { children, kept: false };
        wait_until_listening(&host.path(), "host", HOST_PORT)?;
        wait_until_listening(&outside.path(), "outside", OUTSIDE_PORT)?;
        Ok(beyond)
    }

    /// Where they can be called.
    #[must_use]
    pub fn targets() -> Vec<Target> {
        let host = [IpAddr::V4(HOST_V4), IpAddr::V6(HOST_V6)];
        let outside = [IpAddr::V4(OUTSIDE_V4), IpAddr::V6(OUTSIDE_V6)];
        let mut targets = direct(BEYOND, "host", &[HOST_PORT], &host);
        targets.extend(direct(BEYOND, "outside", &[OUTSIDE_PORT], &outside));
        targets
    }

    /// Leaves them running when the value goes.
    pub fn keep(&mut self) {
        self.kept = true;
    }
}

impl Drop for Beyond {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        for child in &mut self.children {
            stop_child(child, Duration::from_secs(1));
        }
    }
}
