//! Whether the host's own firewall turns away what nobody has thought of: a new connection from an uplink to a port that
//! no rule names. Rules are read, never written: those of nftables, which is also what firewalld, ufw and iptables-nft
//! write today, and those of the older iptables.

mod iptables;
mod nftables;

use std::{collections::BTreeMap, fmt, fs, io, process::Command};

use serde::Serialize;

/// The two families; each has its own way in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum Family {
    #[serde(rename = "IPv4")]
    Ipv4,
    #[serde(rename = "IPv6")]
    Ipv6,
}

impl fmt::Display for Family {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Ipv4 => "IPv4",
            Self::Ipv6 => "IPv6",
        })
    }
}

/// What happens to a new TCP connection that no rule was written for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "answer", content = "because")]
pub enum Default {
    /// Turned away, by this chain.
    Denied(String),
    /// Let in, by this rule, or since there is nothing that turns it away.
    Allowed(String),
    /// It hangs on rules that this program does not understand.
    Unclear(String),
}

/// The rules could not be read.
#[derive(Debug, thiserror::Error)]
pub enum FirewallError {
    #[error("failed to run `{program}`")]
    Run { program: &'static str, source: io::Error },
    #[error("`{program}` failed: {said}")]
    Failed { program: &'static str, said: String },
    #[error("`{program}` said something unexpected: {what}")]
    Unexpected { program: &'static str, what: String },
}

/// Rules as their programs print them.
#[derive(Clone, Debug, std::default::Default)]
pub struct Printed {
    /// `nft -j list ruleset`; nothing without that program, which is not to say that there are no rules.
    pub nftables: Option<String>,
    /// `iptables-legacy-save` and `ip6tables-legacy-save`.
    pub iptables: BTreeMap<Family, String>,
}

impl Printed {
    /// Asks the programs that are there. Needs root.
    pub fn read() -> Result<Self, FirewallError> {
        let mut printed = Self { nftables: say("nft", &["-j", "list", "ruleset"])?, ..Self::default() };
        for (family, program, tables) in [
            (Family::Ipv4, "iptables-legacy-save", "/proc/thread-self/net/ip_tables_names"),
            (Family::Ipv6, "ip6tables-legacy-save", "/proc/thread-self/net/ip6_tables_names"),
        ] {
            // Its programs make tables that are not there, and need more rights than the agent has kept.
            if has_none(tables) {
                continue;
            }
            if let Some(rules) = say(program, &[])? {
                printed.iptables.insert(family, rules);
            }
        }
        Ok(printed)
    }

    /// The default of each family. `uplinks` are the names of the interfaces by which the world comes in.
    pub fn defaults(&self, uplinks: &[String]) -> Result<BTreeMap<Family, Default>, FirewallError> {
        self.fate(uplinks, None)
    }

    /// What becomes of a stranger's connection to a TCP port; without one, to a port that no rule names.
    pub fn fate(
        &self,
        uplinks: &[String],
        port: Option<u16>,
    ) -> Result<BTreeMap<Family, Default>, FirewallError> {
        [Family::Ipv4, Family::Ipv6]
            .into_iter()
            .map(|family| {
                let stranger = Stranger { family, uplinks, port };
                let mut ways_in = Vec::new();
                if let Some(rules) = &self.nftables {
                    ways_in.extend(nftables::ways_in(rules, &stranger)?);
                }
                if let Some(rules) = self.iptables.get(&family) {
                    ways_in.extend(iptables::way_in(rules, &stranger));
                }
                let fate = match fate(&ways_in) {
                    Default::Allowed(_) if self.nftables.is_none() => Default::Unclear(NO_NFT.to_owned()),
                    known => known,
                };
                Ok((family, fate))
            })
            .collect()
    }
}

/// Whether the older iptables has no tables here.
fn has_none(tables: &str) -> bool {
    match fs::read_to_string(tables) {
        Ok(names) => names.trim().is_empty(),
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    }
}

const NO_NFT: &str = "there is no `nft` to ask for the rules of nftables";

/// What a program prints; nothing if there is no such program.
fn say(program: &'static str, arguments: &[&str]) -> Result<Option<String>, FirewallError> {
    let output = match Command::new(program).args(arguments).output() {
        Ok(output) => output,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(FirewallError::Run { program, source }),
    };
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Err(FirewallError::Failed { program, said });
    }
    Ok(Some(String::from_utf8_lossy(&output.stdout).into_owned()))
}

/// A SYN from somewhere in the world, which comes in by an uplink, for a port of the host; without a number, for one
/// that no rule names.
struct Stranger<'a> {
    family: Family,
    uplinks: &'a [String],
    port: Option<u16>,
}

/// Whether something is so, as far as it can be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Truth {
    No,
    Unclear,
    Yes,
}

impl Truth {
    const fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::No, _) | (_, Self::No) => Self::No,
            (Self::Yes, Self::Yes) => Self::Yes,
            _ => Self::Unclear,
        }
    }

    const fn not(self) -> Self {
        match self {
            Self::No => Self::Yes,
            Self::Unclear => Self::Unclear,
            Self::Yes => Self::No,
        }
    }
}

impl From<bool> for Truth {
    fn from(yes: bool) -> Self {
        if yes { Self::Yes } else { Self::No }
    }
}

impl Stranger<'_> {
    /// Whether it comes in by an interface of this name; `eth+` and `eth*` stand for all that begin so.
    fn comes_by(&self, name: &str) -> Truth {
        let fits = |uplink: &String| match name.strip_suffix(['+', '*']) {
            Some(start) => uplink.starts_with(start),
            None => uplink == name,
        };
        self.uplinks.iter().any(fits).into()
    }

    /// Whether it is for a port between two, both included.
    fn is_for(&self, first: u16, last: u16) -> Truth {
        let all = first <= 1 && last == u16::MAX;
        (all || self.port.is_some_and(|port| (first..=last).contains(&port))).into()
    }

    /// Whether it comes from this range: only from the one that is everything.
    fn comes_from(prefix_length: u8) -> Truth {
        (prefix_length == 0).into()
    }
}

/// What a rule does if it matches.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Action {
    Accept,
    Deny,
    /// On to another chain, and back after it.
    Jump(String),
    /// The same without a way back.
    Goto(String),
    Return,
    /// Counts, logs, marks.
    Nothing,
}

#[derive(Clone, Debug)]
struct Rule {
    matches: Truth,
    action: Action,
    text: String,
}

/// Chains by name, and where to begin.
#[derive(Clone, Debug)]
struct WayIn {
    chains: BTreeMap<String, Vec<Rule>>,
    first: String,
    /// What becomes of a packet at the end of the first chain.
    denies_in_the_end: bool,
    /// For people: `table inet filter, chain input`.
    name: String,
}

/// How a walk through a chain ends.
enum End {
    Accepted(String),
    Denied,
    Through,
}

impl WayIn {
    fn default(&self) -> Default {
        let mut unclear = None;
        match self.walk(&self.first, 0, &mut unclear) {
            End::Accepted(rule) => Default::Allowed(format!("{}: {rule}", self.name)),
            _ if unclear.is_some() => {
                Default::Unclear(format!("{}: {}", self.name, unclear.unwrap_or_default()))
            }
            End::Denied => Default::Denied(self.name.clone()),
            End::Through if self.denies_in_the_end => Default::Denied(self.name.clone()),
            End::Through => Default::Allowed(format!("{}: nothing turns it away", self.name)),
        }
    }

    /// `unclear` takes the first rule that would let it in if what is not understood were so.
    fn walk(&self, chain: &str, depth: usize, unclear: &mut Option<String>) -> End {
        // The kernel allows no loops and 16 levels.
        if depth > 16 {
            return End::Through;
        }
        for rule in self.chains.get(chain).into_iter().flatten() {
            if rule.matches == Truth::No {
                continue;
            }
            let sure = rule.matches == Truth::Yes;
            match &rule.action {
                Action::Accept if sure => return End::Accepted(rule.text.clone()),
                Action::Deny if sure => return End::Denied,
                Action::Return if sure => return End::Through,
                Action::Accept | Action::Return => {
                    unclear.get_or_insert_with(|| rule.text.clone());
                }
                Action::Jump(next) | Action::Goto(next) => match self.walk(next, depth + 1, unclear) {
                    End::Accepted(text) if sure => return End::Accepted(text),
                    End::Accepted(text) => {
                        unclear.get_or_insert(text);
                    }
                    End::Denied if sure => return End::Denied,
                    End::Through if sure && matches!(rule.action, Action::Goto(_)) => return End::Through,
                    End::Denied | End::Through => {}
                },
                Action::Deny | Action::Nothing => {}
            }
        }
        End::Through
    }
}

/// Every way in has to be passed: one that denies is enough.
fn fate(ways_in: &[WayIn]) -> Default {
    let all: Vec<Default> = ways_in.iter().map(WayIn::default).collect();
    let find = |wanted: fn(&Default) -> bool| all.iter().find(|answer| wanted(answer)).cloned();
    find(|answer| matches!(answer, Default::Denied(_)))
        .or_else(|| find(|answer| matches!(answer, Default::Unclear(_))))
        .or_else(|| find(|answer| matches!(answer, Default::Allowed(_))))
        .unwrap_or_else(|| Default::Allowed("there are no rules for what comes in".to_owned()))
}

#[cfg(test)]
mod tests;
