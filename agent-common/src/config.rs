//! The settings that the programs read on every packet, one entry in one array map.

/// Live settings. Written by the agent as a whole; `revision` is the switch between two policies.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// The revision of the entries in force; 0 before the first policy.
    pub revision: u32,
    /// The bits of `skb->mark` that belong to the agent. The highest says that the mark was written here,
    /// the next that the packet acts as an outsider, the rest is the slot of the sending port.
    pub mark_mask: u32,
    /// The mode of frames whose endpoint is unknown: the strictest that is loaded ([`crate::verdict::Mode`]).
    pub strictest_mode: u8,
    /// 1 if the map `PUBLISHED` has entries: without any nobody's packets need a look for their sake.
    pub has_published: u8,
    /// Moves with every change of what the programs know of the host, right after it: nobody remembers anything longer.
    pub epoch: u16,
    /// Seconds that a flow lives without a packet.
    pub timeouts: Timeouts,
    /// Seconds in which a repeated UDP, ICMP or non-SYN denial is not a new attempt or event.
    pub attempt_window: u32,
    /// Until then, nanoseconds since boot, a connection that is found in the middle is taken for one from before the
    /// first start, if the policy would let it be opened; 0 for never.
    pub adopt_until: u64,
}

/// Seconds without a packet after which a flow ends, by state.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// TCP before the handshake is complete.
    pub tcp_opening: u32,
    /// TCP after the handshake.
    pub tcp_established: u32,
    /// TCP after FIN or RST.
    pub tcp_closing: u32,
    /// UDP before the first reply.
    pub udp_opening: u32,
    /// UDP after the first reply.
    pub udp_established: u32,
    /// ICMP echo.
    pub icmp: u32,
}

impl Timeouts {
    /// Follows netfilter's defaults where they are short; established TCP is kept for two hours.
    pub const DEFAULT: Self = Self {
        tcp_opening: 30,
        tcp_established: 7200,
        tcp_closing: 10,
        udp_opening: 30,
        udp_established: 180,
        icmp: 10,
    };
}

/// The default of [`Config::mark_mask`].
pub const DEFAULT_MARK_MASK: u32 = 0xffff_0000;

/// Entries of the map `SLOTS`: what [`DEFAULT_MARK_MASK`] has room for.
pub const MAX_SLOTS: u32 = 16_384;

/// How the agent's mark bits are divided, see [`Config::mark_mask`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MarkLayout {
    mask: u32,
}

impl MarkLayout {
    /// Accepts contiguous masks of at least 8 bits.
    #[must_use]
    pub const fn new(mask: u32) -> Option<Self> {
        if mask == 0 {
            return None;
        }
        let width = mask.count_ones();
        let contiguous = mask.leading_zeros() + mask.trailing_zeros() + width == 32;
        if contiguous && width >= 8 { Some(Self { mask }) } else { None }
    }

    /// All bits of the agent.
    #[must_use]
    pub const fn mask(self) -> u32 {
        self.mask
    }

    /// How many ports can be told apart.
    #[must_use]
    pub const fn slots(self) -> u32 {
        let slots = 1 << (self.mask.count_ones() - 2);
        if slots < MAX_SLOTS { slots } else { MAX_SLOTS }
    }

    /// The mark of packets from the port with this slot.
    #[must_use]
    pub const fn of_slot(self, slot: u32) -> u32 {
        stamp_bit(self.mask) | ((slot << self.mask.trailing_zeros()) & slot_bits(self.mask))
    }
}

/// The bit that says that a mark was written by the agent's programs.
#[inline(always)]
#[must_use]
pub const fn stamp_bit(mask: u32) -> u32 {
    mask & !(mask >> 1)
}

/// The bit that says that a packet called a published port: whoever sent it acts as an outsider.
#[inline(always)]
#[must_use]
pub const fn outsider_bit(mask: u32) -> u32 {
    stamp_bit(mask) >> 1
}

/// The bits that hold the slot of the sending port.
#[inline(always)]
#[must_use]
pub const fn slot_bits(mask: u32) -> u32 {
    mask & (mask >> 2)
}

const _: () = assert!(size_of::<Config>() == 48);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mark_bits_are_divided_without_overlap() {
        for mask in [DEFAULT_MARK_MASK, 0xff, 0xff00, 0x000f_fff0, u32::MAX] {
            let layout = MarkLayout::new(mask).unwrap();
            assert_eq!(stamp_bit(mask).count_ones(), 1);
            assert_eq!(outsider_bit(mask).count_ones(), 1);
            assert_eq!(stamp_bit(mask) | outsider_bit(mask) | slot_bits(mask), mask);
            assert_eq!(slot_bits(mask).count_ones(), mask.count_ones() - 2);
            let last = layout.slots() - 1;
            let mark = layout.of_slot(last);
            assert_eq!((mark & slot_bits(mask)) >> mask.trailing_zeros(), last);
            assert_eq!(mark & !mask, 0);
        }
    }

    #[test]
    fn no_mask_gives_more_slots_than_the_map_of_slots_has() {
        for (mask, slots) in
            [(0xff, 64), (DEFAULT_MARK_MASK, 16_384), (0x00ff_ffff, 16_384), (u32::MAX, 16_384)]
        {
            assert_eq!(MarkLayout::new(mask).unwrap().slots(), slots, "{mask:#x}");
        }
    }

    #[test]
    fn unusable_masks_are_refused() {
        for mask in [0, 1, 0x7f, 0xff00_00ff, 0x0f0f_0000] {
            assert_eq!(MarkLayout::new(mask), None, "{mask:#x}");
        }
    }

    #[test]
    fn a_mark_is_the_stamp_and_the_slot_and_nothing_else() {
        let layout = MarkLayout::new(0x000f_fff0).unwrap();
        assert_eq!(layout.mask(), 0x000f_fff0);
        assert_eq!(layout.slots(), 1 << 14);
        assert_eq!(layout.of_slot(0), 0x0008_0000);
        assert_eq!(layout.of_slot(5), 0x0008_0050);
        // One that there is no room for does not reach beyond its bits.
        assert_eq!(layout.of_slot(0x0001_4005), 0x0008_0050);
    }
}
