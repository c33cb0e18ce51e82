//! What can go wrong on the kernel's side, and what the user can do about it.

use aya::maps::MapError;

use super::{
    attach::AttachError, counters::CounterError, kernel::KernelError, loader::LoadError, maps::TakeError,
    pins::PinError,
};

/// The kernel side did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum DatapathError {
    #[error(transparent)]
    Kernel(#[from] KernelError),
    #[error(transparent)]
    Pins(#[from] PinError),
    #[error(transparent)]
    Load(#[from] LoadError),
    #[error(transparent)]
    Take(#[from] TakeError),
    #[error(transparent)]
    Attach(#[from] AttachError),
    #[error(transparent)]
    Counters(#[from] CounterError),
    #[error("mark mask `{mask:#x}` is not at least 8 contiguous bits")]
    Mark { mask: u32 },
    #[error("mark mask `{new:#x}` cannot take the place of `{old:#x}` while another layout does too")]
    MarkInUse { old: u32, new: u32 },
    #[error("failed to open what was just pinned")]
    Reopen(#[source] std::io::Error),
    #[error("failed to follow events")]
    Events(#[source] std::io::Error),
    #[error("failed to write map `{map}`")]
    Write { map: &'static str, source: MapError },
    #[error("{what} need {needed} entries in map `{map}`, which has room for {room}")]
    Full { what: &'static str, map: &'static str, needed: usize, room: usize },
}

impl DatapathError {
    /// What the user can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Kernel(error) => Some(error.hint().to_owned()),
            Self::Pins(error) => Some(error.hint().to_owned()),
            Self::Mark { .. } => Some("the default is `0xffff0000`".to_owned()),
            Self::MarkInUse { old, .. } => {
                Some(format!("start this version with `mark_mask: {old:#x}` first, then change it"))
            }
            _ => None,
        }
    }
}
