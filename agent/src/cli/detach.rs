//! `portcullis detach`: takes everything out of the kernel again. Needs no running agent.

use std::{path::PathBuf, process::ExitCode};

use clap::Args;

use super::output;
use crate::{
    config,
    datapath::{attach, pins::Pins},
    reconcile::Chain,
};

/// Arguments of `detach`.
#[derive(Debug, Args)]
pub(super) struct DetachArgs {
    /// Where programs, links and maps are pinned
    #[arg(long, value_name = "DIR", default_value = config::DEFAULT_PIN_DIR)]
    pin_dir: PathBuf,
}

/// 0 if nothing of ours is left, 2 if that could not be done.
#[must_use]
pub(super) fn run(args: &DetachArgs) -> ExitCode {
    let pins = Pins::new(&args.pin_dir);
    let filters = attach::detach_filters(&pins);
    match pins.remove() {
        Ok(0) if filters == 0 => output::finish("nothing was attached\n", output::CLEAN),
        Ok(removed) => output::finish(
            &format!("removed {removed} pins and {filters} filters; nothing is enforced any more\n"),
            output::CLEAN,
        ),
        Err(error) => {
            output::note(&format!("error: {}", Chain(&error)));
            output::note("\nhint: run as root");
            ExitCode::from(output::UNKNOWN)
        }
    }
}
