//! Which programs of ours are on an interface, by either way of attaching, as the kernel tells it.

use std::collections::BTreeSet;

use anyhow::{Context, Result};
use aya::programs::{SchedClassifier, TcAttachType};
use lab::netns::{Netns, within};
use lab::process::run;
use lab::tools;

/// The tags of our programs on an interface, which tell what code they are.
pub fn tags(host: &Netns, interface: &str) -> Result<BTreeSet<String>> {
    let mut found = BTreeSet::new();
    let tc = tools::find("tc").context("`tc` is missing: it is part of iproute2")?;
    for (direction, kind) in [("egress", TcAttachType::Egress), ("ingress", TcAttachType::Ingress)] {
        let shown = run(host.command(&tc).args(["filter", "show", "dev", interface, direction]))?;
        let mut words = shown.split_whitespace();
        while words.any(|word| word == "tag") {
            found.extend(words.next().map(str::to_owned));
        }
        let interface = interface.to_owned();
        let tags = within(&host.path(), move || {
            SchedClassifier::query_tcx(&interface, kind).map_or_else(
                |_older| Vec::new(),
                |(_, programs)| programs.iter().map(|program| format!("{:016x}", program.tag())).collect(),
            )
        })?;
        found.extend(tags);
    }
    Ok(found)
}

/// What is on one interface, one line for each program: the way, the direction, the name.
pub fn on(host: &Netns, interface: &str) -> Result<Vec<String>> {
    let mut found = Vec::new();
    let tc = tools::find("tc").context("`tc` is missing: it is part of iproute2")?;
    for (direction, kind) in [("egress", TcAttachType::Egress), ("ingress", TcAttachType::Ingress)] {
        let shown = run(host.command(&tc).args(["filter", "show", "dev", interface, direction]))?;
        let names = shown
            .lines()
            .filter(|line| line.contains("direct-action"))
            .filter_map(|line| line.split_whitespace().find(|word| word.ends_with("_endpoint")));
        found.extend(names.map(|name| format!("clsact {direction} {name}")));
        let interface = interface.to_owned();
        // Before 6.6 there is nothing to ask.
        let names = within(&host.path(), move || {
            SchedClassifier::query_tcx(&interface, kind).map_or_else(
                |_older| Vec::new(),
                |(_, programs)| {
                    programs.iter().filter_map(|program| program.name_as_str().map(str::to_owned)).collect()
                },
            )
        })?;
        found.extend(names.into_iter().map(|name| format!("tcx {direction} {name}")));
    }
    Ok(found)
}
