//! How much the maps hold that traffic fills. What is pinned with another size is carried over into a new map.

use aya::EbpfLoader;

/// Sizes of the maps that an operator may want otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Bytes of `EVENTS`: a power of two, whole pages.
    pub event_buffer: u32,
    /// Entries of `FLOWS`.
    pub flows: u32,
    /// Entries of `FLOWS_OPENING`.
    pub flows_opening: u32,
    /// Entries of `DENIED`: combinations of labels that denials are counted by.
    pub denied: u32,
    /// Entries of `FLOWS` that one port may have for each direction.
    pub flows_per_port: u32,
}

impl Sizes {
    /// What suits a host with some hundred containers.
    pub const DEFAULT: Self = Self {
        event_buffer: 1 << 20,
        flows: 262_144,
        flows_opening: 65_536,
        denied: 65_536,
        flows_per_port: 32_768,
    };

    /// The maps that have one of these sizes.
    const fn of_maps(&self) -> [(&'static str, u32); 4] {
        [
            ("EVENTS", self.event_buffer),
            ("FLOWS", self.flows),
            ("FLOWS_OPENING", self.flows_opening),
            ("DENIED", self.denied),
        ]
    }

    /// What a map's size is to be; `None` if it is not up to anybody.
    pub(super) fn of(&self, map: &str) -> Option<u32> {
        self.of_maps().into_iter().find(|(name, _)| *name == map).map(|(_, size)| size)
    }

    pub(super) fn set<'a>(&'a self, loader: &mut EbpfLoader<'a>) {
        loader.override_global("FLOWS_PER_PORT", &self.flows_per_port, true);
        for (name, size) in self.of_maps() {
            loader.map_max_entries(name, size);
        }
    }
}
