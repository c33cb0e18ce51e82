//! Every map, with who writes it and what happens when it is full, and the accessors that the rest uses.
//!
//! Sizes here are defaults; the agent sets them at load. Names and layouts are fixed per version of the pin
//! directory.

use core::{arch::asm, mem::MaybeUninit};

use agent_common::{
    config::{Config, MAX_SLOTS},
    counter::{DeniedCount, DeniedKey, TOTALS as TOTAL_COUNT, Total},
    endpoint::{Destination, Interface, InterfaceKind, Published, PublishedKey},
    event::{AttemptEntry, AttemptKey},
    flow::{FIN_LOCAL, FIN_REMOTE, FlowEntry, FlowKey, FlowState, HeldKey, PLACES},
    packet::{Address, PROTOCOL_ICMP},
    policy::{AddressKey, PolicyTable, Rule, RuleKey, Scope, Subject, SubjectKey, prefix_words},
    verdict::{Direction, Mode},
};
use aya_ebpf::{
    Global,
    macros::map,
    maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, PerCpuHashMap, RingBuf, lpm_trie::Key},
};

use crate::{
    hooks::{Because, Case},
    identify::Side,
    parse::Frame,
    recent::{Header, LANES, Recent},
    report::Denial,
};

/// Agent writes; one entry.
#[map]
static CONFIG: Array<Config> = Array::with_max_entries(1, 0);
/// Agent writes; an interface that does not fit stays unknown, which denies.
#[map]
static INTERFACES: HashMap<u32, Interface> = HashMap::with_max_entries(16_384, 0);
/// Agent writes: slot of a mark → ifindex of the port, 0 for none.
#[map]
static SLOTS: Array<u32> = Array::with_max_entries(MAX_SLOTS, 0);
/// Agent writes; an address that does not fit would be the world, so the agent refuses to go on without it.
#[map]
static DESTINATIONS: LpmTrie<[u32; 4], Destination> = LpmTrie::with_max_entries(65_536, 0);
/// Agent writes; a published port that does not fit would be nobody's, so the agent refuses to go on without it.
#[map]
static PUBLISHED: LpmTrie<PublishedKey, Published> = LpmTrie::with_max_entries(16_384, 0);
/// Agent writes; a policy that does not fit is refused whole.
#[map]
static SUBJECTS: HashMap<SubjectKey, Subject> = HashMap::with_max_entries(32_768, 0);
/// Agent writes; a policy that does not fit is refused whole.
#[map]
static RULES: LpmTrie<RuleKey, Rule> = LpmTrie::with_max_entries(524_288, 0);
/// Agent writes; a policy that does not fit is refused whole.
#[map]
static ADDRESSES: LpmTrie<AddressKey, u32> = LpmTrie::with_max_entries(131_072, 0);
/// Programs write, the agent removes what has expired. Full: the oldest entries go, which costs half-open
/// connections and lone datagrams their replies, nothing else.
#[map]
static FLOWS_OPENING: LruHashMap<FlowKey, FlowEntry> = LruHashMap::with_max_entries(65_536, 0);
/// Programs write, the agent removes what has expired. Full: new connections are dropped (`table_full`), live
/// ones are never evicted.
#[map]
static FLOWS: HashMap<FlowKey, FlowEntry> = HashMap::with_max_entries(262_144, 0);
/// Programs write: how many flows a port has had in `FLOWS`, less those that they took out themselves. The agent
/// removes ports that are gone. A port that does not fit gets no flows.
#[map]
static FLOWS_HELD: HashMap<HeldKey, u64> = HashMap::with_max_entries(32_768, 0);
/// Agent writes: how many of those are gone. Two maps, so that nobody overwrites what another has just counted.
#[map]
static FLOWS_GONE: HashMap<HeldKey, u64> = HashMap::with_max_entries(32_768, 0);
/// Programs write; full: counted in `TOTALS` without labels.
#[map]
static DENIED: PerCpuHashMap<DeniedKey, DeniedCount> = PerCpuHashMap::with_max_entries(65_536, 0);
/// Programs write.
#[map]
static TOTALS: PerCpuArray<u64> = PerCpuArray::with_max_entries(TOTAL_COUNT, 0);
/// Programs write. Full: the oldest entries go, and a retransmission may count as an attempt.
#[map]
static ATTEMPTS: LruHashMap<AttemptKey, AttemptEntry> = LruHashMap::with_max_entries(65_536, 0);
/// Programs write, the agent reads; full: counted in `TOTALS`.
#[map]
pub(crate) static EVENTS: RingBuf = RingBuf::with_byte_size(1 << 20, 0);

/// Programs write: room for one packet's values, which the 512-byte BPF stack does not have. A program that runs
/// on a CPU is not interrupted by another of ours there.
#[map]
static SCRATCH: PerCpuArray<Scratch> = PerCpuArray::with_max_entries(1, 0);

/// Programs write: what this CPU remembers of flows. Nothing is lost with it but time.
#[map]
static RECENT: PerCpuArray<Recent> = PerCpuArray::with_max_entries(LANES, 0);

/// Programs write: how often a flow was opened whose key falls to this place, so that all CPUs forget what was there before.
#[map]
static OPENINGS: Array<u64> = Array::with_max_entries(PLACES, 0);

/// What one packet needs.
pub(crate) struct Scratch {
    pub(crate) frame: Frame,
    /// As far as it is read without parsing.
    pub(crate) header: Header,
    pub(crate) key: MaybeUninit<FlowKey>,
    pub(crate) case: Case,
    pub(crate) because: Because,
    /// The endpoint that the hook judges for.
    pub(crate) own: Side,
    pub(crate) attempt: MaybeUninit<AttemptKey>,
    pub(crate) denied: MaybeUninit<DeniedKey>,
    pub(crate) denial: MaybeUninit<Denial>,
}

/// Makes the compiler read what lies in maps again, [`Scratch`] above all.
///
/// It would otherwise go on with a copy of the program for each way to get here, with what it knows on that way, and
/// the verifier would have to follow them all: the older, the less it sees that they come to the same.
#[inline(always)]
pub(crate) fn forget() {
    // SAFETY: does nothing, but may have written any memory as far as the compiler knows.
    unsafe { asm!("", options(nostack, preserves_flags)) }
}

/// The same value, of which the compiler knows nothing any more: what follows is compiled once for both.
#[inline(always)]
pub(crate) fn opaque(value: bool) -> bool {
    let mut word = u64::from(value);
    // A register by name, because the text has to be empty: line information would name the next instruction twice.
    // SAFETY: does nothing, but may have changed the register as far as the compiler knows.
    #[cfg(target_arch = "bpf")]
    unsafe {
        asm!("", inout("r1") word, options(nomem, nostack, preserves_flags));
    }
    // Lints are checked for this machine's target, which has no such register.
    // SAFETY: as above.
    #[cfg(not(target_arch = "bpf"))]
    unsafe {
        asm!("/* {word} */", word = inout(reg) word, options(nomem, nostack, preserves_flags));
    }
    word != 0
}

/// How many flows of one port and direction `FLOWS` takes, so that one flooded service leaves room for others. The
/// agent sets it at load.
#[unsafe(no_mangle)]
static FLOWS_PER_PORT: Global<u32> = Global::new(32_768);

/// `BPF_ANY` and `BPF_NOEXIST` of the kernel's bpf.h.
const ANY: u64 = 0;
const NOEXIST: u64 = 1;
const EEXIST: i32 = -17;

#[inline(always)]
pub(crate) fn config() -> Option<&'static Config> {
    CONFIG.get(0)
}

/// The revision in force. Volatile, so that nobody reads it again later.
#[inline(always)]
pub(crate) fn revision(config: &Config) -> u32 {
    // SAFETY: of a reference.
    unsafe { (&raw const config.revision).read_volatile() }
}

/// How the host is numbered now, to be read before anything of it is looked up: see [`after`].
#[inline(always)]
pub(crate) fn epoch(config: &Config) -> u32 {
    // SAFETY: of a reference.
    u32::from(unsafe { (&raw const config.epoch).read_volatile() })
}

/// `index`, as something that follows from `epoch`. A processor that reads ahead may look up an index before it has read
/// an epoch that stands earlier in the program, and so find what is old under a number that is new; what depends on the
/// epoch it cannot know earlier. The other half is the agent's, which writes the epoch last.
#[inline(always)]
pub(crate) fn after(epoch: u32, index: u32) -> u32 {
    let mut nothing = u64::from(epoch);
    // SAFETY: a register is cleared, in a way that the compiler does not see through.
    unsafe { asm!("{nothing} &= 0", nothing = inout(reg) nothing, options(nomem, nostack)) }
    index | nothing as u32
}

#[inline(always)]
pub(crate) fn scratch() -> Option<&'static mut Scratch> {
    // SAFETY: this CPU's only entry, and taken once per packet; zeroed memory is a valid `Frame`.
    SCRATCH.get_ptr_mut(0).map(|scratch| unsafe { &mut *scratch })
}

#[inline(always)]
pub(crate) fn interface(ifindex: u32) -> Option<&'static Interface> {
    // SAFETY: entries are replaced as a whole and never reused for another key while a program runs long enough
    // to see it: a deleted interface's index is not given out again soon.
    unsafe { INTERFACES.get(ifindex) }
}

/// The port with this ifindex, and nothing else.
#[inline(always)]
pub(crate) fn port(ifindex: u32) -> Option<&'static Interface> {
    interface(ifindex).filter(|interface| interface.kind == InterfaceKind::Port as u8)
}

/// The ifindex of the port that a mark's slot stands for.
#[inline(always)]
pub(crate) fn port_of_slot(slot: u32) -> Option<u32> {
    SLOTS.get(slot).copied().filter(|&ifindex| ifindex != 0)
}

#[inline(always)]
pub(crate) fn destination(address: &Address) -> Option<Destination> {
    DESTINATIONS.get(Key::new(128, prefix_words(address))).copied()
}

#[inline(always)]
pub(crate) fn published(protocol: u8, port: u16, address: &Address) -> Option<Published> {
    let key =
        PublishedKey { protocol: u16::from(protocol), port_be: port.to_be(), address: prefix_words(address) };
    PUBLISHED.get(Key::new(PublishedKey::PREFIX_BASE + 128, key)).copied()
}

/// Whether a port number is published on any address.
#[inline(always)]
pub(crate) fn is_published_number(protocol: u8, port: u16) -> bool {
    let key = PublishedKey {
        protocol: PublishedKey::NUMBER | u16::from(protocol),
        port_be: port.to_be(),
        address: [0; 4],
    };
    PUBLISHED.get(Key::new(PublishedKey::PREFIX_BASE, key)).is_some()
}

/// Adds one to an exact counter.
#[inline(always)]
pub(crate) fn add_total(total: Total) {
    if let Some(count) = TOTALS.get_ptr_mut(total as u32) {
        increment(count);
    }
}

/// Adds one packet, and one attempt if it is one, to a labelled counter.
#[inline(always)]
pub(crate) fn add_denied(key: &DeniedKey, attempt: bool) {
    let mut found = DENIED.get_ptr_mut(key);
    if found.is_none() {
        // Another CPU may have made the entry in the meantime: that is as good.
        let mut none = MaybeUninit::<DeniedCount>::uninit();
        let count = none.as_mut_ptr();
        // One by one, so that the compiler does not call `memset` for both.
        // SAFETY: the fields are there, and all of them are written.
        let none = unsafe {
            (&raw mut (*count).packets).write_volatile(0);
            (&raw mut (*count).attempts).write_volatile(0);
            none.assume_init_ref()
        };
        let inserted = DENIED.insert(key, none, NOEXIST);
        if inserted.is_ok() || inserted == Err(EEXIST) {
            found = DENIED.get_ptr_mut(key);
        }
    }
    let Some(count) = found else {
        add_total(Total::DeniedUnlabelled);
        return;
    };
    // SAFETY: the pointer is to this CPU's own copy of the entry, whose fields are aligned.
    let (packets, attempts) = unsafe { (&raw mut (*count).packets, &raw mut (*count).attempts) };
    increment(packets);
    if attempt {
        increment(attempts);
    }
}

#[inline(always)]
fn increment(count: *mut u64) {
    add(count, 1);
}

#[inline(always)]
fn add(count: *mut u64, number: u64) {
    // Atomic, because on PREEMPT_RT two contexts of one CPU may interleave. As an instruction, because the target
    // has no atomic types, and without fetching the old value, which 5.10 cannot do.
    // SAFETY: the callers pass aligned pointers into map values.
    unsafe {
        asm!("lock *(u64 *)({count} + 0) += {number}", count = in(reg) count, number = in(reg) number, options(nostack));
    }
}

/// For operations whose failure changes nothing: the entry is gone already, or will expire.
#[inline(always)]
const fn best_effort(_result: Result<(), i32>) {}

/// The entry of the last attempt like this one.
#[inline(always)]
pub(crate) fn attempt(key: &AttemptKey) -> Option<*mut AttemptEntry> {
    ATTEMPTS.get_ptr_mut(key)
}

#[inline(always)]
pub(crate) fn remember_attempt(key: &AttemptKey, entry: &AttemptEntry) {
    // A full LRU map evicts; if even that fails, the next packet counts as an attempt: too high, never too low.
    best_effort(ATTEMPTS.insert(key, entry, ANY));
}

/// This CPU's copy of a place.
#[inline(always)]
pub(crate) fn recent(place: u32) -> Option<*mut Recent> {
    RECENT.get_ptr_mut(place)
}

/// How often a flow was opened at a place.
#[inline(always)]
pub(crate) fn openings(place: u32) -> u64 {
    match OPENINGS.get_ptr(place) {
        // SAFETY: the pointer is to an aligned map value.
        Some(count) => unsafe { count.read_volatile() },
        None => 0,
    }
}

#[inline(always)]
pub(crate) fn add_opening(place: u32) {
    if let Some(count) = OPENINGS.get_ptr_mut(place) {
        increment(count);
    }
}

/// A live or expired entry of either table. It is in one of them: `opening` says where to look first.
#[inline(always)]
pub(crate) fn flow(key: &FlowKey, opening: bool) -> Option<*mut FlowEntry> {
    if opening {
        if let Some(entry) = opening_flow(key) {
            return Some(entry);
        }
        return established_flow(key);
    }
    if let Some(entry) = established_flow(key) {
        return Some(entry);
    }
    opening_flow(key)
}

/// A live or expired entry of the table that evicts.
#[inline(always)]
fn opening_flow(key: &FlowKey) -> Option<*mut FlowEntry> {
    // SAFETY: as in `track::find`.
    FLOWS_OPENING.get_ptr_mut(key).filter(|&entry| unsafe { (*entry).state } != FlowState::Moved as u8)
}

/// A live or expired entry of the table that never evicts.
#[inline(always)]
pub(crate) fn established_flow(key: &FlowKey) -> Option<*mut FlowEntry> {
    // A ping never gets there.
    if key.protocol == PROTOCOL_ICMP { None } else { FLOWS.get_ptr_mut(key) }
}

/// Removes what is left of an earlier flow with the same addresses, which would otherwise be found first. It goes on
/// counting as held until the agent looks.
#[inline(always)]
pub(crate) fn remove_established_flow(key: &FlowKey) {
    best_effort(FLOWS.remove(key));
}

/// Remembers a flow that has just been allowed to open.
#[inline(always)]
pub(crate) fn open_flow(key: &FlowKey, entry: &FlowEntry) -> Result<(), ()> {
    FLOWS_OPENING.insert(key, entry, ANY).or(Err(()))
}

/// Remembers what replies an uplink may see, see [`agent_common::flow::LENT`].
#[inline(always)]
pub(crate) fn remember_lent(key: &FlowKey, entry: &FlowEntry) {
    best_effort(FLOWS_OPENING.insert(key, entry, ANY));
}

#[inline(always)]
pub(crate) fn lent(key: &FlowKey) -> Option<*mut FlowEntry> {
    FLOWS_OPENING.get_ptr_mut(key)
}

/// Puts a flow into the table that never evicts, unless its port has too many there.
#[inline(always)]
pub(crate) fn establish_flow(key: &FlowKey, entry: &FlowEntry) -> Result<(), ()> {
    let place = HeldKey::new(key, entry);
    let held = held(&place)?;
    let limit = i64::from(FLOWS_PER_PORT.load());
    // SAFETY: as above; the count may move meanwhile, and the limit is no exact one.
    let ever_held = unsafe { held.read_volatile() };
    // How many are gone is only asked where it matters. Less than none are where ports were told apart by other numbers.
    if !(0..limit).contains(&ever_held.cast_signed())
        && ever_held.wrapping_sub(gone(&place)).cast_signed() >= limit
    {
        return Err(());
    }
    match FLOWS.insert(key, entry, NOEXIST) {
        Ok(()) => increment(held),
        // Both sides' packets may get here at once on two CPUs.
        Err(EEXIST) => {}
        Err(_) => return Err(()),
    }
    Ok(())
}

/// Removes what is left in the table that evicts of an earlier flow with the same addresses.
#[inline(always)]
pub(crate) fn remove_opening_flow(key: &FlowKey) {
    best_effort(FLOWS_OPENING.remove(key));
}

/// Moves a flow that is over to the table that evicts; without room there it stays until it expires.
#[inline(always)]
pub(crate) fn close_flow(key: &FlowKey, entry: &FlowEntry) {
    if put_back(key, entry)
        && FLOWS.remove(key).is_ok()
        && let Ok(held) = held(&HeldKey::new(key, entry))
    {
        add(held, u64::MAX);
    }
}

/// Makes an entry in the table that evicts of a flow that has come from there: in the one that it has left, if that is
/// still there.
#[inline(always)]
fn put_back(key: &FlowKey, entry: &FlowEntry) -> bool {
    if let Some(left) = FLOWS_OPENING.get_ptr_mut(key) {
        // SAFETY: as in `track::find`.
        let left = unsafe { &mut *left };
        if left.state == FlowState::Moved as u8
            && left.peer == entry.peer
            && left.revision == entry.revision
            && (left.flags ^ entry.flags) & !(FIN_LOCAL | FIN_REMOTE) == 0
        {
            // The map may reuse it for another flow at this moment, which is then over too early. Nothing is written that
            // says whether a flow is allowed, by whom, or how its packets are marked.
            left.last_seen = entry.last_seen;
            left.refreshed = entry.refreshed;
            left.state = entry.state;
            return true;
        }
    }
    FLOWS_OPENING.insert(key, entry, ANY).is_ok()
}

/// The count of a port's flows in one direction.
#[inline(always)]
fn held(place: &HeldKey) -> Result<*mut u64, ()> {
    if let Some(count) = FLOWS_HELD.get_ptr_mut(place) {
        return Ok(count);
    }
    // Another CPU may have made the entry in the meantime: that is as good.
    best_effort(FLOWS_HELD.insert(place, 0, NOEXIST));
    FLOWS_HELD.get_ptr_mut(place).ok_or(())
}

#[inline(always)]
fn gone(place: &HeldKey) -> u64 {
    // SAFETY: one number, replaced as a whole.
    unsafe { FLOWS_GONE.get(place) }.copied().unwrap_or(0)
}

/// The entries of the revision in force, read once per packet.
pub(crate) struct Policy<'a> {
    pub(crate) config: &'a Config,
    /// Copied, so that one packet never sees two revisions.
    pub(crate) revision: u32,
}

impl PolicyTable for Policy<'_> {
    #[inline(always)]
    fn strictest_mode(&self) -> Mode {
        Mode::from_number(self.config.strictest_mode)
    }

    #[inline(always)]
    fn subject(&self, identity: u32) -> Option<Subject> {
        let key = SubjectKey { revision: self.revision, identity };
        // SAFETY: entries of a revision are not changed after it is in force, and removed only well after it
        // has been replaced.
        unsafe { SUBJECTS.get(key) }.copied()
    }

    #[inline(always)]
    fn address_class(&self, subject: u32, scope: Scope, address: &Address) -> Option<u32> {
        let key = AddressKey {
            revision: self.revision,
            subject,
            scope: scope as u32,
            address: prefix_words(address),
        };
        ADDRESSES.get(Key::new(AddressKey::PREFIX_BASE + 128, key)).copied()
    }

    #[inline(always)]
    fn rule(&self, subject: u32, peer: u32, direction: Direction, protocol: u8, port: u16) -> Option<Rule> {
        let key = RuleKey {
            revision: self.revision,
            subject,
            peer,
            direction: direction as u8,
            protocol,
            port_be: port.to_be(),
        };
        RULES.get(Key::new(RuleKey::PREFIX_BASE + 16, key)).copied()
    }
}
