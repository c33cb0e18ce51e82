//! `--backstop nft`: a chain of nftables that lets only frames pass between ports of covered bridges that a program of
//! ours has stamped. It holds where two ports have no program, and needs neither the agent nor BPF. Installed, watched,
//! restored and removed here; not what decides anything else.

mod nftables;
mod ruleset;

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
};

use agent_common::config::stamp_bit;
use serde_json::Value;

use self::{
    nftables::Nft,
    ruleset::{By, Ruleset},
};
use crate::{
    config::Settings,
    interference::{Fault, Finding},
    inventory::snapshot::Snapshot,
    policy::entries::Entries,
};

/// Its name in the state directory, for `nft -f` at boot.
pub const FILE: &str = "backstop.nft";
/// How often somebody else may change the ruleset while ours is being looked at.
const ATTEMPTS: usize = 5;

/// The backstop cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum BackstopError {
    #[error("`backstop: nft` needs the program `nft`, which was not found")]
    NoProgram,
    #[error("nftables does not take the backstop: {why}")]
    Refused { why: String },
    #[error("failed to install the backstop: {why}")]
    Install { why: String },
    #[error("failed to remove the table `bridge {table}` of an earlier backstop: {why}")]
    Remove { table: String, why: String },
    #[error("failed to {verb} `{}`", path.display())]
    Io { verb: &'static str, path: PathBuf, source: io::Error },
}

impl BackstopError {
    /// What the user can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::NoProgram => "install it (package `nftables`), or start with `--backstop off`",
            Self::Refused { .. } => {
                "it needs a kernel with nftables for bridges (CONFIG_NF_TABLES_BRIDGE) and an `nft` that speaks \
                 JSON; or start with `--backstop off`"
            }
            Self::Remove { .. } => "remove it by hand: `nft delete table bridge …`",
            Self::Install { .. } | Self::Io { .. } => return None,
        };
        Some(hint.to_owned())
    }
}

/// The backstop of a running agent.
#[derive(Debug)]
pub struct Backstop {
    nft: Nft,
    file: PathBuf,
    /// What is to be in force; without names that nothing is.
    ruleset: Ruleset,
    installed: Option<Installed>,
}

/// What was installed, as it was listed right afterwards.
#[derive(Debug)]
struct Installed {
    essence: Value,
    /// The ruleset's number when it was last seen to be that.
    generation: u32,
}

impl Backstop {
    /// Makes sure that it can be had, and puts into force what an earlier agent left in the state directory.
    pub fn open(settings: &Settings) -> Result<Self, BackstopError> {
        let nft = Nft::find().ok_or(BackstopError::NoProgram)?;
        let file = settings.state_dir.join(FILE);
        let script = match fs::read_to_string(&file) {
            Ok(script) => Some(script),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(source) => return Err(BackstopError::Io { verb: "read", path: file, source }),
        };
        let mut ruleset = Ruleset {
            table: ruleset::table_name(&settings.pin_dir),
            stamp: stamp_bit(settings.mark_mask),
            by: By::Bridge,
            names: BTreeSet::new(),
        };
        if nft.check(&ruleset.replacing_script()).is_err() {
            ruleset.by = By::Elsewhere;
            nft.check(&ruleset.replacing_script()).map_err(|why| BackstopError::Refused { why })?;
            tracing::warn!(
                "this kernel cannot tell bridges apart in nftables (CONFIG_NFT_BRIDGE_META): \
                 two ports that the agent has not seen yet exchange nothing, on other bridges too"
            );
        }
        nft.check_json().map_err(|why| BackstopError::Refused { why })?;
        let mut backstop = Self { nft, file, ruleset, installed: None };
        // From before another kernel was booted, names may mean the opposite.
        if let Some(script) = script.filter(|script| ruleset::is_by(script, backstop.ruleset.by)) {
            backstop.ruleset.names = ruleset::names_in(&script);
            backstop.install(false)?;
        }
        Ok(backstop)
    }

    /// Brings it to what a snapshot and its resolved policy call for.
    pub fn bring(&mut self, snapshot: &Snapshot, entries: &Entries) -> Result<(), BackstopError> {
        let Some(names) = ruleset::names(self.ruleset.by, snapshot, entries) else {
            self.installed = None;
            return remove_from(&self.ruleset.table, &self.file).map(drop);
        };
        if self.installed.is_some() && self.ruleset.names == names && self.file.exists() {
            return Ok(());
        }
        self.ruleset.names = names;
        self.install(false)?;
        self.write_file()
    }

    /// Looks whether somebody changed it, and restores it. Costs one question, unless some ruleset was changed.
    pub fn watch(&mut self) -> Vec<Finding> {
        let Some(installed) = &mut self.installed else { return Vec::new() };
        let looked = look(&self.nft, &self.ruleset.table, installed);
        let found = match looked {
            Ok(None) => return Vec::new(),
            Ok(Some(found)) => found.to_owned(),
            Err(why) => format!("it cannot be looked at: {why}"),
        };
        let repair = self.install(true);
        let repaired = repair.is_ok();
        let done = repair.err().map_or_else(|| "restored".to_owned(), |error| error.to_string());
        let (interface, hook) = (String::new(), "backstop".to_owned());
        vec![Finding { interface, hook, fault: Fault::Backstop, found, done, repaired }]
    }

    /// Puts the ruleset into force, and remembers how that is listed. The listing counts only if nobody changed
    /// anything between the two.
    fn install(&mut self, replace: bool) -> Result<(), BackstopError> {
        let failed = |why| BackstopError::Install { why };
        let generation = || nftables::generation().map_err(|error| failed(error.to_string()));
        let ruleset = &self.ruleset;
        for attempt in 0..ATTEMPTS {
            let before = generation()?;
            let updated = if replace || attempt > 0 { None } else { self.nft.run(&ruleset.script()).ok() };
            if updated.is_none() {
                self.nft.run(&ruleset.replacing_script()).map_err(failed)?;
            }
            let after = generation()?;
            let listing = self.nft.list(&ruleset.table).map_err(failed)?;
            if let Some(listing) = listing
                && after == before.wrapping_add(1)
                && generation()? == after
            {
                self.installed = Some(Installed { essence: ruleset::essence(listing), generation: after });
                return Ok(());
            }
        }
        Err(failed("somebody keeps changing the ruleset".to_owned()))
    }

    /// For `nft -f` at boot, before Docker starts.
    fn write_file(&self) -> Result<(), BackstopError> {
        let new = self.file.with_extension("nft.new");
        let text = format!(
            "# Made by portcullis run --backstop nft, which replaces it: for `nft -f` at boot, before Docker starts.\n{}",
            self.ruleset.script()
        );
        let failed = |source| BackstopError::Io { verb: "write", path: self.file.clone(), source };
        fs::write(&new, text).and_then(|()| fs::rename(&new, &self.file)).map_err(failed)
    }
}

/// What is wrong with what was installed; asks for the number of the ruleset first, and lists it if that has moved.
fn look(nft: &Nft, table: &str, installed: &mut Installed) -> Result<Option<&'static str>, String> {
    let generation = nftables::generation().map_err(|error| error.to_string())?;
    if generation == installed.generation {
        return Ok(None);
    }
    match nft.list(table)?.map(ruleset::essence) {
        None => Ok(Some("the table is gone")),
        Some(essence) if essence != installed.essence => Ok(Some("the table was changed")),
        Some(_) => {
            installed.generation = generation;
            Ok(None)
        }
    }
}

/// Removes what an agent with these pins and this state directory installed. Returns whether there was anything.
pub fn remove(pin_dir: &Path, state_dir: &Path) -> Result<bool, BackstopError> {
    remove_from(&ruleset::table_name(pin_dir), &state_dir.join(FILE))
}

fn remove_from(table: &str, file: &Path) -> Result<bool, BackstopError> {
    // The file first: it must not bring back at boot what nobody maintains.
    let had_file = match fs::remove_file(file) {
        Ok(()) => true,
        Err(error) if error.kind() == io::ErrorKind::NotFound => false,
        Err(source) => return Err(BackstopError::Io { verb: "remove", path: file.to_owned(), source }),
    };
    if !nftables::exists(table) {
        return Ok(had_file);
    }
    let failed = |why| BackstopError::Remove { table: table.to_owned(), why };
    let nft = Nft::find().ok_or_else(|| failed("the program `nft` was not found".to_owned()))?;
    nft.run(&ruleset::removing_script(table)).map_err(failed)?;
    Ok(true)
}

/// What the backstop of an agent with these pins has dropped; `None` if there is none.
#[must_use]
pub fn dropped_packets(pin_dir: &Path) -> Option<u64> {
    nftables::packets(&ruleset::table_name(pin_dir), ruleset::COUNTER)
}
