//! Published ports: `8080:80`, `127.0.0.1:8000-8010:8000-8010/udp`, `[::1]:53:53`, one entry per container port.

use super::{take, texts_at};
use crate::node::{Fault, FaultKind, Node, Result, Span, Value};

/// The most published ports that a run may hold: every port of one service, and something.
const MAX_PORTS: usize = 70_000;

/// How many ports were written out, over all files of a run.
#[derive(Debug, Default)]
pub(crate) struct PortBudget {
    used: usize,
}

/// Writes out a list of ports.
pub(crate) fn expand(node: &mut Node, budget: &mut PortBudget) -> Result<()> {
    let Value::List(items) = take(node).value else {
        return Ok(());
    };
    let mut ports = Vec::with_capacity(items.len());
    for item in items {
        match item.printed() {
            Some(text) => ports.extend(short(&text, item.span, budget)?),
            None => ports.push(long(item)),
        }
    }
    node.value = Value::List(ports);
    Ok(())
}

fn long(mut port: Node) -> Node {
    if let Some(published) = port.as_map_mut().and_then(|map| map.get_mut("published"))
        && let Some(number) = published.as_int()
    {
        published.value = Value::Text(number.to_string());
    }
    port
}

/// A range of ports, the first and the last.
type Range = (u16, u16);

fn range(text: &str) -> Option<Range> {
    let number = |digits: &str| {
        let plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
        digits.parse().ok().filter(|_| plain)
    };
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (number(first)?, number(last)?);
    (first <= last).then_some((first, last))
}

fn short(text: &str, span: Span, budget: &mut PortBudget) -> Result<Vec<Node>> {
    let fault = |message: String| {
        Fault::schema(span, message).hint("ports are written `[ADDRESS:][HOST:]CONTAINER[/PROTOCOL]`")
    };
    let (before, container) =
        text.rsplit_once(':').map_or((None, text), |(before, last)| (Some(before), last));
    let (address, host) = match before.map(|before| before.rsplit_once(':').unwrap_or(("", before))) {
        Some((address, host)) => (address, host),
        None => ("", ""),
    };
    let inner = address.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let bare = inner.unwrap_or(address);
    // Without brackets nobody could tell where the address ends.
    let is_address = bare.parse::<std::net::IpAddr>().is_ok() && (inner.is_some() || !bare.contains(':'));
    if !address.is_empty() && !is_address {
        return Err(fault(format!("`{address}` in the port `{text}` is no address")));
    }
    let (container, protocol) = match container.split_once('/') {
        Some((container, protocol)) if !protocol.is_empty() => (container, protocol.to_lowercase()),
        Some((container, _)) => (container, "tcp".to_owned()),
        None => (container, "tcp".to_owned()),
    };
    if !["tcp", "udp", "sctp"].contains(&protocol.as_str()) {
        return Err(fault(format!("unknown protocol `{protocol}` in the port `{text}`")));
    }
    let (first, last) = range(container)
        .ok_or_else(|| fault(format!("`{container}` in `{text}` is no port of a container")))?;
    let published = match host {
        "" => None,
        host => {
            Some(range(host).ok_or_else(|| fault(format!("`{host}` in `{text}` is no port of the host")))?)
        }
    };
    if let Some((from, to)) = published
        && last - first != to - from
        && first != last
    {
        return Err(fault(format!("the ranges in `{text}` differ in length")));
    }
    budget.used += usize::from(last - first) + 1;
    if budget.used > MAX_PORTS {
        let message = format!("more than {MAX_PORTS} ports are published");
        return Err(Fault::new(FaultKind::Limit, span, message));
    }
    let mut numbers: Vec<u16> = (first..=last).collect();
    // Compose sorts by what is written.
    numbers.sort_by_cached_key(u16::to_string);
    Ok(numbers
        .into_iter()
        .map(|number| {
            let mut port = texts_at(span, &[("mode", "ingress"), ("protocol", protocol.as_str())]);
            port.insert("target", span, Node::new(span, Value::Int(i64::from(number))));
            if !bare.is_empty() {
                port.insert("host_ip", span, Node::text(span, bare));
            }
            if let Some((from, to)) = published {
                let text = if first == last && from != to {
                    format!("{from}-{to}")
                } else {
                    (from + (number - first)).to_string()
                };
                port.insert("published", span, Node::text(span, text));
            }
            Node::new(span, Value::Map(port))
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(text: &str) -> Result<Vec<String>> {
        let nodes = short(text, Span::default(), &mut PortBudget::default())?;
        let field = |node: &Node, key: &str| node.get(key).and_then(Node::printed).unwrap_or_default();
        Ok(nodes
            .iter()
            .map(|node| {
                let [ip, published, target, protocol] =
                    ["host_ip", "published", "target", "protocol"].map(|key| field(node, key));
                format!("{ip}|{published}|{target}/{protocol}")
            })
            .collect())
    }

    #[test]
    fn every_form() {
        for (text, expected) in [
            ("80", &["||80/tcp"] as &[&str]),
            ("8080:80/udp", &["|8080|80/udp"]),
            ("8080-8081:80-81", &["|8080|80/tcp", "|8081|81/tcp"]),
            ("8080-8090:80", &["|8080-8090|80/tcp"]),
            ("127.0.0.1::80", &["127.0.0.1||80/tcp"]),
            ("[::1]:80:80", &["::1|80|80/tcp"]),
            ("9-10", &["||10/tcp", "||9/tcp"]),
        ] {
            assert_eq!(written(text).unwrap(), expected, "{text}");
        }
        for text in [
            "",
            "a",
            "80:",
            "::1:80:80",
            "[]:80:80",
            "1.2.3:80:80",
            "80-81:1-3",
            "70000",
            "80/x",
            "3-1",
            "80:-1",
            "+80",
        ] {
            assert!(written(text).is_err(), "{text}");
        }
    }
}
