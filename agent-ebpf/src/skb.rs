//! The fields of the packet's `__sk_buff` that the programs use, and safe loads from the packet.

use core::mem::MaybeUninit;

use aya_ebpf::{bindings::__sk_buff, helpers::generated::bpf_skb_load_bytes, programs::TcContext};

/// One packet at a tc hook.
#[derive(Clone, Copy)]
pub(crate) struct Skb {
    raw: *mut __sk_buff,
}

/// Integers that packets are read as. Fields are taken out by shifting: the BPF target would read byte arrays one
/// byte at a time.
pub(crate) trait Word: Copy {}
impl Word for u16 {}
impl Word for u32 {}
impl Word for u64 {}

macro_rules! field {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[inline(always)]
        pub(crate) fn $name(self) -> u32 {
            // SAFETY: the context is valid for as long as the program runs; the verifier turns the access
            // into a load of the kernel's own field.
            unsafe { (*self.raw).$name }
        }
    };
}

impl Skb {
    #[inline(always)]
    pub(crate) const fn new(ctx: &TcContext) -> Self {
        Self { raw: ctx.skb.skb }
    }

    field!(
        /// Length of the frame, Ethernet header included.
        len
    );
    field!(
        /// The interface of this hook.
        ifindex
    );
    field!(
        /// The interface that the packet came in by; 0 for what the host itself made.
        ingress_ifindex
    );
    field!(
        /// Not 0 if the outermost VLAN tag was taken off by the kernel or the device.
        vlan_present
    );
    field!(
        /// The tag that was taken off, if there was one.
        vlan_tci
    );
    field!(
        /// The ethertype in network order, behind the outermost VLAN tag.
        protocol
    );
    field!(
        /// Whom the frame's MAC address is for (`PACKET_*` of the kernel's if_packet.h).
        pkt_type
    );
    field!(mark);

    /// Replaces the bits of the mark that `mask` names; other users' bits survive.
    #[inline(always)]
    pub(crate) fn set_mark_bits(self, bits: u32, mask: u32) {
        // SAFETY: as for the fields; the mark may be written.
        unsafe { (*self.raw).mark = ((*self.raw).mark & !mask) | bits }
    }

    /// A copy of the words at `offset`, wherever in the packet's pages they lie; `None` past its end.
    ///
    /// The helper is used instead of direct access because a sender decides how much of a packet is linear
    /// (a TX_RING socket delivers 14 bytes).
    #[inline(always)]
    pub(crate) fn load<W: Word, const N: usize>(self, offset: usize) -> Option<[W; N]> {
        let mut words = MaybeUninit::<[W; N]>::uninit();
        self.load_to(offset, words.as_mut_ptr()).then(|| {
            // SAFETY: the helper has filled all of it.
            unsafe { words.assume_init() }
        })
    }

    /// Like [`Self::load`], into memory outside the small BPF stack.
    #[inline(always)]
    pub(crate) fn load_into<W: Word, const N: usize>(
        self,
        offset: usize,
        words: &mut [W; N],
    ) -> Option<&[W; N]> {
        self.load_to(offset, words).then_some(words)
    }

    #[inline(always)]
    fn load_to<W: Word, const N: usize>(self, offset: usize, target: *mut [W; N]) -> bool {
        // SAFETY: the target has room for N words.
        unsafe {
            bpf_skb_load_bytes(self.raw.cast(), offset as u32, target.cast(), size_of::<[W; N]>() as u32) == 0
        }
    }
}
