//! The fields of the packet's `__sk_buff` that the programs use, and safe loads from the packet.

use core::mem::MaybeUninit;

use aya_ebpf::{
    bindings::{__sk_buff, bpf_fib_lookup},
    helpers::generated,
    programs::TcContext,
};

/// One packet at a tc hook.
#[derive(Clone, Copy)]
pub(crate) struct Skb {
    raw: *mut __sk_buff,
}

/// Integers that packets are read as. Fields are taken out by shifting: the BPF target would read byte arrays one
/// byte at a time.
pub(crate) trait Word: Copy {}
impl Word for u8 {}
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

    /// Whether the frame's MAC address is a group's, so that the bridge copies it to every port.
    #[inline(always)]
    pub(crate) fn is_for_group_mac(self) -> bool {
        /// Of the kernel's if_packet.h.
        const BROADCAST: u32 = 1;
        const MULTICAST: u32 = 2;
        matches!(self.pkt_type(), BROADCAST | MULTICAST)
    }

    /// Whether the host has an interface with this index now, however old what the maps say may be.
    ///
    /// `bpf_fib_lookup` is the only helper that tells (since 4.18): it looks for the interface first. What it is asked for
    /// then is no route, since the host's loopback needs none, and costs little. `room` lies outside the small stack.
    #[inline(always)]
    pub(crate) fn has_interface(self, ifindex: u32, room: &mut MaybeUninit<bpf_fib_lookup>) -> bool {
        const AF_INET: u8 = 2;
        const LOOPBACK: u32 = u32::from_be_bytes([127, 0, 0, 1]).to_be();
        const ENODEV: i64 = -19;
        const LENGTH: i32 = (size_of::<bpf_fib_lookup>() as u32).cast_signed();
        let question = room.as_mut_ptr();
        // SAFETY: within the room; all that is read of it is set, and zeroes or what an earlier answer has left is as good
        // for the rest.
        unsafe {
            (&raw mut (*question).family).write(AF_INET);
            (&raw mut (*question).l4_protocol).write(0);
            (&raw mut (*question).__bindgen_anon_1.tot_len).write(0);
            (&raw mut (*question).ifindex).write(ifindex);
            (&raw mut (*question).__bindgen_anon_2.tos).write(0);
            (&raw mut (*question).__bindgen_anon_3.ipv4_src).write(0);
            (&raw mut (*question).__bindgen_anon_4.ipv4_dst).write(LOOPBACK);
            generated::bpf_fib_lookup(self.raw.cast(), question, LENGTH, 0) != ENODEV
        }
    }

    /// Replaces the bits of the mark that `mask` names; other users' bits survive.
    #[inline(always)]
    pub(crate) fn set_mark_bits(self, bits: u32, mask: u32) {
        // SAFETY: as for the fields; the mark may be written.
        unsafe { (*self.raw).mark = ((*self.raw).mark & !mask) | bits }
    }

    /// A copy of the words at `offset`, wherever in the packet's pages they lie; `None` past its end.
    ///
    /// Mostly they lie in the linear part and are read where they are. How much of a packet is linear is up to its
    /// sender (a TX_RING socket delivers 14 bytes): the rest is copied by the helper. Nothing is ever pulled, which
    /// would copy the whole head of every cloned segment.
    #[inline(always)]
    pub(crate) fn load<W: Word, const N: usize>(self, offset: usize) -> Option<[W; N]> {
        // SAFETY: the verifier lets nothing of the packet be read that these two do not enclose.
        let (data, end) = unsafe { ((*self.raw).data as usize, (*self.raw).data_end as usize) };
        if data + offset + size_of::<[W; N]>() > end {
            return self.copy(offset);
        }
        let mut words = MaybeUninit::<[W; N]>::uninit();
        let (source, target) = ((data + offset) as *const W, words.as_mut_ptr().cast::<W>());
        let mut index = 0;
        while index < N {
            // Volatile: each word is read once, and the compiler may not make one load of this and of `copy`'s, since a
            // pointer is either to the packet or to the stack.
            // SAFETY: within the linear part. The machines this runs on load from any address.
            unsafe { target.add(index).write(source.add(index).read_volatile()) }
            index += 1;
        }
        // SAFETY: all of it has been written.
        Some(unsafe { words.assume_init() })
    }

    /// The first bytes of the frame if they all lie in the linear part.
    #[inline(always)]
    pub(crate) fn head<const LENGTH: usize>(self) -> Option<Head<LENGTH>> {
        // SAFETY: as in `load`.
        let (data, end) = unsafe { ((*self.raw).data as usize, (*self.raw).data_end as usize) };
        if data + LENGTH > end { None } else { Some(Head { data }) }
    }

    #[inline(always)]
    pub(crate) fn copy<W: Word, const N: usize>(self, offset: usize) -> Option<[W; N]> {
        let mut words = MaybeUninit::<[W; N]>::uninit();
        // SAFETY: the target has room for N words.
        let result = unsafe {
            generated::bpf_skb_load_bytes(
                self.raw.cast(),
                offset as u32,
                words.as_mut_ptr().cast(),
                size_of::<[W; N]>() as u32,
            )
        };
        // SAFETY: the helper has filled all of it.
        (result == 0).then(|| unsafe { words.assume_init() })
    }
}

/// So many bytes of a frame, where they lie.
#[derive(Clone, Copy)]
pub(crate) struct Head<const LENGTH: usize> {
    data: usize,
}

impl<const LENGTH: usize> Head<LENGTH> {
    /// The word at `OFFSET`.
    #[inline(always)]
    pub(crate) fn word<W: Word, const OFFSET: usize>(self) -> W {
        const { assert!(OFFSET + size_of::<W>() <= LENGTH) }
        // SAFETY: within the linear part. The machines this runs on load from any address.
        unsafe { ((self.data + OFFSET) as *const W).read_volatile() }
    }
}
