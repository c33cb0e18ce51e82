//! What the datapath is told when it is opened.

use std::{path::PathBuf, time::Duration};

use agent_common::config::{DEFAULT_MARK_MASK, Timeouts};

use super::{
    attach::Via,
    migrate::convert::{self, Conversion},
    sizes::Sizes,
};
use crate::policy::glob::Glob;

/// How the datapath is set up.
#[derive(Clone, Debug)]
pub struct Options {
    pub pin_dir: PathBuf,
    /// The bits of `skb->mark` that belong to the agent.
    pub mark_mask: u32,
    pub timeouts: Timeouts,
    pub sizes: Sizes,
    /// Overrides the choice by kernel version.
    pub via: Option<Via>,
    /// Whether the programs log what they do.
    pub diagnostics: bool,
    /// Names of the interfaces whose packets to published ports are judged where they come in.
    pub uplinks: Vec<Glob>,
    /// For how long after the first start connections from before it are taken over.
    pub adopt: Duration,
    /// How entries of older layouts are read.
    pub conversions: &'static [Conversion],
}

impl Options {
    #[must_use]
    pub fn new(pin_dir: PathBuf) -> Self {
        Self {
            pin_dir,
            mark_mask: DEFAULT_MARK_MASK,
            timeouts: Timeouts::DEFAULT,
            sizes: Sizes::DEFAULT,
            via: None,
            diagnostics: false,
            uplinks: vec![Glob::new("*")],
            adopt: DEFAULT_ADOPT,
            conversions: convert::ALL,
        }
    }
}

/// Long enough for what keeps a connection open to say something on it.
pub const DEFAULT_ADOPT: Duration = Duration::from_secs(15 * 60);
