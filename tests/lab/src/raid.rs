//! Attacks on the lab without Docker, as a container that was taken over would make them: for the alerts and the
//! dashboards, which have to show them.

use std::net::{SocketAddr, UdpSocket};
use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::engine::DockerHost;
use crate::image;
use crate::netns::within;
use crate::outside::OUTSIDE_V4;
use crate::plain_lab::PlainLab;
use crate::probe::attempts;
use crate::process::{run, words};

/// Instance and service.
pub type Member<'a> = (&'a str, &'a str);

/// `source` calls ports of `target`, none of which it may reach; an open one is an error.
pub fn call(
    lab: &PlainLab,
    source: Member<'_>,
    target: Member<'_>,
    ports: impl IntoIterator<Item = u16>,
) -> Result<()> {
    let place = lab.netns_of(source.0, source.1)?;
    let address = lab.address_of(target.0, target.1)?;
    let targets: Vec<SocketAddr> = ports.into_iter().map(|port| SocketAddr::new(address, port)).collect();
    denied(&place, targets)
}

/// What an audit finds: a container of `member` that could take everything over, and publishes a port to everybody. Its
/// name.
pub fn expose(engine: &DockerHost, member: Member<'_>, port: u16) -> Result<String> {
    let mut command = engine.docker();
    command.args(["run", "--detach", "--cap-add=SYS_ADMIN", &format!("--publish={port}:{port}")]);
    for (label, value) in [("project", member.0), ("service", member.1)] {
        command.arg(format!("--label=com.docker.compose.{label}={value}"));
    }
    let name = format!("{}-{}-1", member.0, member.1);
    run(command.args(["--name", &name, image::NAME, "stand-in", member.1, &port.to_string()]))?;
    Ok(name)
}

/// The same from the host itself.
pub fn call_from_host(lab: &PlainLab, target: Member<'_>, port: u16) -> Result<()> {
    let address = lab.address_of(target.0, target.1)?;
    denied(&lab.host().path(), vec![SocketAddr::new(address, port)])
}

/// The same from a place outside.
pub fn call_from_outside(lab: &PlainLab, target: Member<'_>, ports: &[u16]) -> Result<()> {
    let address = lab.address_of(target.0, target.1)?;
    denied(&lab.outside().path(), ports.iter().map(|&port| SocketAddr::new(address, port)).collect())
}

/// `source` calls ports of an address outside.
pub fn call_out(lab: &PlainLab, source: Member<'_>, ports: impl IntoIterator<Item = u16>) -> Result<()> {
    let place = lab.netns_of(source.0, source.1)?;
    denied(&place, ports.into_iter().map(|port| SocketAddr::from((OUTSIDE_V4, port))).collect())
}

/// `source` calls a port that it may reach; whether it was answered in time, which a busy machine may not manage.
pub fn visit(lab: &PlainLab, source: Member<'_>, target: Member<'_>, port: u16) -> Result<bool> {
    let place = lab.netns_of(source.0, source.1)?;
    let address = SocketAddr::new(lab.address_of(target.0, target.1)?, port);
    let tried = attempts(&place, vec![address])?;
    Ok(tried.iter().all(|attempt| attempt.outcome.is_open()))
}

fn denied(place: &Path, targets: Vec<SocketAddr>) -> Result<()> {
    let tried = attempts(place, targets.clone())?;
    let open = targets.iter().zip(&tried).find(|(_, attempt)| attempt.outcome.is_open());
    if let Some((target, attempt)) = open {
        bail!("`{target}` should be denied: {:?}", attempt.outcome);
    }
    Ok(())
}

/// `source` sends a datagram in the name of an address of its bridge that nobody has.
pub fn spoof(lab: &PlainLab, source: Member<'_>, target: Member<'_>) -> Result<()> {
    let place = lab.netns_of(source.0, source.1)?;
    let name = place.file_name().context("a namespace without a name")?.to_string_lossy().into_owned();
    let target = SocketAddr::new(lab.address_of(target.0, target.1)?, 53);
    let SocketAddr::V4(v4) = target else { bail!("`{target}` is no IPv4 address") };
    let mut octets = v4.ip().octets();
    octets[3] = 250;
    let foreign = std::net::Ipv4Addr::from(octets);
    // Left there by an earlier call it is there already.
    let present =
        run(&mut words(&format!("ip -n {name} address show dev eth0")))?.contains(&foreign.to_string());
    if !present {
        run(&mut words(&format!("ip -n {name} address add {foreign}/32 dev eth0")))?;
    }
    within(&place, move || -> Result<()> {
        let socket = UdpSocket::bind((foreign, 0))?;
        socket.send_to(b"x", target)?;
        Ok(())
    })?
}
