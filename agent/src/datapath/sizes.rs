//! How much the maps hold that traffic fills. They are made once: what is pinned keeps its size.

use aya::{EbpfLoader, maps::MapInfo};

use super::pins::Pins;

/// Sizes of the maps that an operator may want otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Bytes of `EVENTS`: a power of two, whole pages.
    pub event_buffer: u32,
    /// Entries of `FLOWS`.
    pub flows: u32,
    /// Entries of `FLOWS_OPENING`.
    pub flows_opening: u32,
    /// Entries of `FLOWS` that one port may have for each direction. Takes effect at start, whatever is pinned.
    pub flows_per_port: u32,
}

impl Sizes {
    /// What suits a host with some hundred containers.
    pub const DEFAULT: Self =
        Self { event_buffer: 1 << 20, flows: 262_144, flows_opening: 65_536, flows_per_port: 32_768 };

    pub(super) fn set<'a>(&'a self, loader: &mut EbpfLoader<'a>) {
        loader.override_global("FLOWS_PER_PORT", &self.flows_per_port, true);
        for (name, size) in
            [("EVENTS", self.event_buffer), ("FLOWS", self.flows), ("FLOWS_OPENING", self.flows_opening)]
        {
            loader.map_max_entries(name, size);
        }
    }

    /// These sizes, but for maps that are pinned already. A ring buffer cannot even be read under another size.
    pub(super) fn or_pinned(mut self, pins: &Pins) -> Self {
        for (map, wanted) in [
            ("EVENTS", &mut self.event_buffer),
            ("FLOWS", &mut self.flows),
            ("FLOWS_OPENING", &mut self.flows_opening),
        ] {
            let Ok(info) = MapInfo::from_pin(pins.map(map)) else { continue };
            let size = info.max_entries();
            if size != *wanted {
                tracing::warn!(map, size, wanted, "the pinned map keeps its size until `portcullis detach`");
                *wanted = size;
            }
        }
        self
    }
}
