//! A status for people: the answer first, then tables, and what needs attention in words. Fits 100 columns.

use comfy_table::{CellAlignment, ColumnConstraint, ContentArrangement, Table, presets};

use super::{EndpointStatus, Status};
use crate::state::EndpointState;

const WIDTH: u16 = 100;
/// How many foreign pins are listed.
const STRANGERS: usize = 5;

/// The whole text, without colour.
#[must_use]
pub fn render(status: &Status) -> String {
    let mut text = String::new();
    text.push_str(&headline(status));
    for paragraph in [attention(status), policies(status), endpoints(status), ports(status), counters(status)]
    {
        if !paragraph.is_empty() {
            text.push('\n');
            text.push_str(&paragraph);
        }
    }
    // Labels may hold anything, escape sequences for the reader's terminal included.
    text.replace(|character: char| character.is_control() && character != '\n', "\u{fffd}")
}

fn headline(status: &Status) -> String {
    let state = match &status.waiting_for {
        None => "ready".to_owned(),
        Some(reason) => format!("not ready: {reason}"),
    };
    let count = |state| status.endpoints.iter().filter(|endpoint| endpoint.state == state).count();
    let states = EndpointState::ALL.map(|state| format!("{} {}", count(state), state.name())).join(", ");
    format!(
        "portcullis {}, {state}, up {}, revision {}\nendpoints: {states}\n",
        status.version,
        duration(status.uptime_seconds),
        status.revision,
    )
}

/// What somebody should do something about; empty if nothing.
fn attention(status: &Status) -> String {
    let mut lines = Vec::new();
    let inventory = &status.inventory;
    if !inventory.connected || !inventory.complete {
        let what = if inventory.connected { "is incomplete" } else { "cannot be reached" };
        let why = inventory.error.as_ref().map_or_else(String::new, |error| format!(" ({error})"));
        lines.push(format!(
            "the {} inventory {what}{why}: what was known stays enforced, new containers get nothing",
            inventory.source.name()
        ));
    }
    if let (false, Some(error)) = (status.reload.successful, &status.reload.last_error) {
        lines.push(format!("the last reload failed, the state before it is in force: {error}"));
    }
    lines.extend(interference(status));
    for path in status.strangers.iter().take(STRANGERS) {
        lines.push(format!("`{}` in the pin directory is not ours", path.display()));
    }
    if status.strangers.len() > STRANGERS {
        lines.push(format!("and {} more there", status.strangers.len() - STRANGERS));
    }
    for port in status.ports.iter().filter(|port| !port.attached) {
        lines.push(format!(
            "port {} of {} has no program attached: it is not enforced",
            port.name, port.bridge
        ));
    }
    for container in &status.unnamed {
        lines.push(format!(
            "{} gets and sends nothing: no policy names service `{}` of project `{}`",
            container.container,
            container.service.as_deref().unwrap_or("-"),
            container.project.as_deref().unwrap_or("-"),
        ));
    }
    for container in &status.unenforceable {
        lines.push(format!("{} cannot be enforced: it {}", container.container, container.reason));
    }
    for map in status.maps.iter().filter(|map| map.entries * 10 >= map.capacity * 9 && map.capacity > 0) {
        lines.push(format!("kernel map {} is almost full: {} of {}", map.name, map.entries, map.capacity));
    }
    if status.counters.is_none() {
        lines.push("the kernel's counters cannot be read".to_owned());
    }
    lines.iter().map(|line| format!("! {line}\n")).collect()
}

/// What was done to kinds of things that are not in order, or were not until a moment ago.
fn interference(status: &Status) -> Vec<String> {
    let is_active = |fault| status.enforcement.faults.get(&fault).is_some_and(|state| state.active);
    let incidents = status.enforcement.incidents.iter().map(|incident| &incident.finding);
    let lines = incidents.filter(|finding| is_active(finding.fault)).map(|finding| {
        let place = if finding.interface.is_empty() { "" } else { " of " };
        let (hook, interface) = (&finding.hook, &finding.interface);
        let (found, done) = (&finding.found, &finding.done);
        format!("somebody interfered with {hook}{place}{interface}: {found}; {done}")
    });
    lines.collect()
}

fn policies(status: &Status) -> String {
    if status.policies.is_empty() {
        return "no policy is loaded: nothing is covered\n".to_owned();
    }
    let rows = status.policies.iter().map(|policy| {
        vec![
            policy.name.clone(),
            policy.mode.clone(),
            or_dash(&policy.profile),
            or_dash(&policy.instances.join(", ")),
        ]
    });
    table(&["POLICY", "MODE", "PROFILE", "INSTANCES"], rows)
}

fn endpoints(status: &Status) -> String {
    if status.endpoints.is_empty() {
        return String::new();
    }
    let row = |endpoint: &EndpointStatus| {
        let name = match (&endpoint.project, &endpoint.service) {
            (Some(project), Some(service)) => format!("{project}/{service}"),
            (project, service) => or_dash(project.as_ref().or(service.as_ref()).map_or("", String::as_str)),
        };
        let addresses: Vec<String> = endpoint.addresses.iter().map(ToString::to_string).collect();
        vec![
            endpoint.state.name().to_owned(),
            name,
            endpoint.container.clone(),
            or_dash(endpoint.port.as_deref().unwrap_or("")),
            or_dash(&addresses.join(" ")),
        ]
    };
    table(&["STATE", "SERVICE", "CONTAINER", "PORT", "ADDRESSES"], status.endpoints.iter().map(row))
}

fn ports(status: &Status) -> String {
    if status.bridges.is_empty() {
        return String::new();
    }
    let row = |bridge: &super::BridgeStatus| {
        let ports = || status.ports.iter().filter(|port| port.bridge == bridge.name);
        let ready = ports().filter(|port| port.state == "ready").count();
        let subnets: Vec<String> = bridge.subnets.iter().map(ToString::to_string).collect();
        let mut via: Vec<&str> =
            ports().filter_map(|port| port.via).map(crate::state::AttachKind::name).collect();
        via.sort_unstable();
        via.dedup();
        vec![
            bridge.name.clone(),
            or_dash(&bridge.network),
            or_dash(&subnets.join(" ")),
            if bridge.covered { "yes" } else { "no" }.to_owned(),
            format!("{ready} of {} ready", ports().count()),
            or_dash(&via.join(", ")),
        ]
    };
    table(&["BRIDGE", "NETWORK", "SUBNETS", "COVERED", "PORTS", "VIA"], status.bridges.iter().map(row))
}

fn counters(status: &Status) -> String {
    let Some(counters) = &status.counters else {
        return String::new();
    };
    let of = |packets: &std::collections::BTreeMap<String, u64>, hook: &str| {
        packets.get(hook).copied().unwrap_or_default().to_string()
    };
    let rows = counters
        .forwarded
        .keys()
        .map(|hook| vec![hook.clone(), of(&counters.forwarded, hook), of(&counters.dropped, hook)]);
    let mut text = numbers(&["HOOK", "FORWARDED", "DROPPED"], rows);
    text.push('\n');
    if counters.denied.is_empty() {
        text.push_str("nothing was denied yet\n");
    } else {
        let rows = counters.denied.iter().map(|denied| {
            vec![
                denied.reason.clone(),
                denied.verdict.clone(),
                denied.attempts.to_string(),
                denied.packets.to_string(),
            ]
        });
        text.push_str(&numbers(&["REASON", "VERDICT", "ATTEMPTS", "PACKETS"], rows));
    }
    text.push_str(&format!(
        "\nevents: {} lost, {} suppressed\n",
        counters.events_lost, counters.events_suppressed
    ));
    text
}

/// Blanks around a cell.
const PADDING: usize = 2;
/// What an IPv4 address needs.
const ROOM_FOR_THE_LAST: usize = 18;

fn table(header: &[&str], rows: impl Iterator<Item = Vec<String>>) -> String {
    aligned(header, rows, 0)
}

/// A table whose last two columns are numbers.
fn numbers(header: &[&str], rows: impl Iterator<Item = Vec<String>>) -> String {
    aligned(header, rows, 2)
}

fn aligned(header: &[&str], rows: impl Iterator<Item = Vec<String>>, numbers: usize) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic).set_width(WIDTH);
    table.set_header(header);
    table.add_rows(rows);
    for column in table.column_iter_mut().rev().take(numbers) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    // Names stay whole where that leaves the last column, whose words may wrap, some room.
    let widths = table.column_max_content_widths();
    let names: usize = widths.iter().rev().skip(1).map(|width| usize::from(*width) + PADDING).sum();
    if names + ROOM_FOR_THE_LAST <= usize::from(WIDTH) {
        for column in table.column_iter_mut().rev().skip(1) {
            column.set_constraint(ColumnConstraint::ContentWidth);
        }
    }
    let mut text = String::new();
    for line in table.lines() {
        // The first column has a blank before it that serves only drawn borders.
        text.push_str(line.strip_prefix(' ').unwrap_or(&line).trim_end());
        text.push('\n');
    }
    text
}

fn or_dash(text: &str) -> String {
    if text.is_empty() { "-" } else { text }.to_owned()
}

fn duration(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3_600 => format!("{} min", seconds / 60),
        3_600..172_800 => format!("{} h {} min", seconds / 3_600, seconds / 60 % 60),
        _ => format!("{} days", seconds / 86_400),
    }
}
