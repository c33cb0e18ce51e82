//! Port scans by nmap, and what its report says about each port.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use lab::netns::Netns;
use lab::process::output;
use lab::tools;

/// What nmap says about one host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostReport {
    /// It answered in any way.
    pub up: bool,
    /// State by `80/tcp`.
    pub ports: BTreeMap<String, String>,
}

/// Waits briefly for each answer and asks once more: a scan of silence takes about a second.
const PACE: &str = "-n -T5 --max-retries 1 --min-rtt-timeout 150ms --initial-rtt-timeout 150ms --max-rtt-timeout 400ms \
                    --host-timeout 20s --min-parallelism 12 --disable-arp-ping -oX -";

/// Runs nmap inside a namespace; what it says about each host, by address.
pub fn nmap(netns: &Netns, arguments: &str) -> Result<BTreeMap<String, HostReport>> {
    let nmap = tools::find("nmap").context("`nmap` is missing: `cargo xtask setup` installs it")?;
    let mut command = netns.command(nmap);
    command.args(PACE.split_whitespace()).args(arguments.split_whitespace());
    let said = output(&mut command)?;
    let text = String::from_utf8_lossy(&said.stdout);
    if !said.status.success() || !text.contains("exit=\"success\"") {
        bail!("`nmap {arguments}` failed: {text}{}", String::from_utf8_lossy(&said.stderr));
    }
    read(&text).with_context(|| format!("`nmap {arguments}` said {text}"))
}

fn read(xml: &str) -> Result<BTreeMap<String, HostReport>> {
    let mut hosts = BTreeMap::new();
    for host in xml.replace("<host>", "<host >").split("<host ").skip(1) {
        let host = host.split("</host>").next().unwrap_or_default();
        if host.contains("<extraports") || host.contains("timedout=\"true\"") {
            bail!("not every port was reported");
        }
        let status = host.split("<status ").nth(1).and_then(|status| attribute(status, "state"));
        let address = host.split("<address ").nth(1).and_then(|address| attribute(address, "addr"));
        let ports = host
            .split("<port ")
            .skip(1)
            .map(|port| {
                let number = attribute(port, "portid").context("a port without a number")?;
                let protocol = attribute(port, "protocol").context("a port without a protocol")?;
                let state = attribute(port, "state").context("a port without a state")?;
                Ok((format!("{number}/{protocol}"), state.to_owned()))
            })
            .collect::<Result<_>>()?;
        let report = HostReport { up: status == Some("up"), ports };
        hosts.insert(address.context("a host without an address")?.to_owned(), report);
    }
    Ok(hosts)
}

/// The first attribute of that name, which may be the first thing in the text.
fn attribute<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let value = match text.strip_prefix(&format!("{name}=\"")) {
        Some(value) => value,
        None => text.split_once(&format!(" {name}=\""))?.1,
    };
    value.split('"').next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_says_what_each_port_is() {
        let xml = r#"<host starttime="1"><status state="up" reason="user-set" reason_ttl="0"/>
            <address addr="198.18.7.10" addrtype="ipv4"/>
            <ports><port protocol="tcp" portid="80"><state state="open" reason="syn-ack"/><service name="http"/></port>
            <port protocol="udp" portid="53"><state state="open|filtered" reason="no-response"/></port></ports></host>"#;
        let report = &read(xml).unwrap()["198.18.7.10"];
        assert!(report.up);
        assert_eq!(report.ports["80/tcp"], "open");
        assert_eq!(report.ports["53/udp"], "open|filtered");
        assert!(read("<host><extraports state=\"filtered\" count=\"9\"></host>").is_err());
    }
}
