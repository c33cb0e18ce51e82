//! What is measured: no enforcement, the agent with policies of several sizes, and the kernel's other ways to do the
//! same.

use std::path::Path;

use anyhow::Result;

use super::stage::{Stage, bridge_netfilter_is_there};
use super::{firewall, policy};

/// One row of the result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Configuration {
    None,
    Agent { rules: usize },
    AgentWithBackstop { rules: usize },
    NftMark,
    NftSet,
    BridgeNetfilter,
    NftConntrack,
    Iptables { rules: usize },
}

/// All rows, in the order in which they are shown; the first is what the others are compared with.
pub(super) const ALL: [Configuration; 11] = [
    Configuration::None,
    Configuration::Agent { rules: 10 },
    Configuration::Agent { rules: 1_000 },
    Configuration::Agent { rules: 10_000 },
    Configuration::AgentWithBackstop { rules: 10 },
    Configuration::NftMark,
    Configuration::NftSet,
    Configuration::BridgeNetfilter,
    Configuration::NftConntrack,
    Configuration::Iptables { rules: 10 },
    Configuration::Iptables { rules: 1_000 },
];

impl Configuration {
    /// The name on the command line and in JSON.
    pub(super) fn name(self) -> String {
        match self {
            Self::None => "none".to_owned(),
            Self::Agent { rules } => format!("agent-{rules}"),
            Self::AgentWithBackstop { .. } => "agent-backstop".to_owned(),
            Self::NftMark => "nft-mark".to_owned(),
            Self::NftSet => "nft-set".to_owned(),
            Self::BridgeNetfilter => "br-netfilter".to_owned(),
            Self::NftConntrack => "nft-conntrack".to_owned(),
            Self::Iptables { rules } => format!("iptables-{rules}"),
        }
    }

    /// The name for people.
    pub(super) fn label(self) -> String {
        match self {
            Self::None => "no enforcement".to_owned(),
            Self::Agent { rules } => format!("portcullis, {} rules", super::numbers::grouped(rules as f64)),
            Self::AgentWithBackstop { rules } => format!("portcullis, {rules} rules, nft backstop"),
            Self::NftMark => "nft bridge, one mark rule".to_owned(),
            Self::NftSet => "nft bridge, one set, stateless".to_owned(),
            Self::BridgeNetfilter => "br_netfilter, no rules".to_owned(),
            Self::NftConntrack => "nft ip, conntrack, one set".to_owned(),
            Self::Iptables { rules } => {
                format!("iptables, conntrack, {} rules", super::numbers::grouped(rules as f64))
            }
        }
    }

    /// Whether the agent enforces here, with how many rules.
    pub(super) fn agent_rules(self) -> Option<usize> {
        match self {
            Self::Agent { rules } | Self::AgentWithBackstop { rules } => Some(rules),
            _ => None,
        }
    }

    /// Whether what is not allowed is dropped here; the others only look at packets.
    pub(super) fn enforces(self) -> bool {
        !matches!(self, Self::None | Self::NftMark | Self::BridgeNetfilter)
    }

    /// Why this row cannot be measured with that agent on this machine.
    pub(super) fn impossible(self, agent_help: &str) -> Option<&'static str> {
        match self {
            Self::AgentWithBackstop { .. } if !agent_help.contains("--backstop") => {
                Some("this agent has no `--backstop`")
            }
            Self::BridgeNetfilter | Self::NftConntrack | Self::Iptables { .. }
                if !bridge_netfilter_is_there() =>
            {
                // Loading the module here would switch it on for every bridge of the machine.
                Some(
                    "the kernel has no br_netfilter loaded, and loading it would change the host's own bridges",
                )
            }
            _ => None,
        }
    }

    /// Brings it about on a fresh stage.
    pub(super) fn apply(self, stage: &mut Stage, agent: &Path) -> Result<()> {
        let family = stage.family();
        match self {
            Self::None => Ok(()),
            Self::Agent { rules } => stage.start_agent(agent, &policy::policy(rules), &[]),
            Self::AgentWithBackstop { rules } => {
                stage.start_agent(agent, &policy::policy(rules), &["--backstop", "nft"])
            }
            Self::NftMark => stage.feed(&["nft", "-f", "-"], &firewall::nft_mark()),
            Self::NftSet => stage.feed(&["nft", "-f", "-"], &firewall::nft_set(family)),
            Self::BridgeNetfilter => stage.bridge_netfilter(true),
            Self::NftConntrack => {
                stage.bridge_netfilter(true)?;
                stage.feed(&["nft", "-f", "-"], &firewall::nft_conntrack(family))
            }
            Self::Iptables { rules } => {
                stage.bridge_netfilter(true)?;
                stage.feed(&[family.iptables_restore()], &firewall::iptables(family, rules))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_and_labels_tell_rows_apart() {
        let names: BTreeSet<String> = ALL.into_iter().map(Configuration::name).collect();
        let labels: BTreeSet<String> = ALL.into_iter().map(Configuration::label).collect();
        assert_eq!((names.len(), labels.len()), (ALL.len(), ALL.len()));
        assert_eq!(ALL[0], Configuration::None);
    }

    #[test]
    fn a_flag_that_the_agent_lacks_leaves_the_row_out() {
        let row = Configuration::AgentWithBackstop { rules: 10 };
        assert!(row.impossible("--policy --listen").is_some());
        assert_eq!(row.impossible("--policy --backstop <off|nft>"), None);
    }
}
