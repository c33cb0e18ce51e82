//! What is on a hook, in the order in which it runs, as the kernel tells it. Not by aya's query, which opens every
//! program by its id and so needs more rights than the agent has.

use std::io;

use aya::programs::TcAttachType;
use rustix::net::{AddressFamily, SocketType, netdevice::index_to_name, socket};

use super::link::bpf;
use crate::netlink::{self, Ask, attributes, number};

/// A command of bpf(2).
const BPF_PROG_QUERY: libc::c_long = 16;
/// More programs than the kernel takes on one hook.
const MOST: usize = 64;

// linux/rtnetlink.h, linux/pkt_sched.h, linux/pkt_cls.h
const RTM_NEWQDISC: u16 = 36;
const RTM_DELQDISC: u16 = 37;
const RTM_NEWTFILTER: u16 = 44;
const RTM_DELTFILTER: u16 = 45;
const RTM_GETTFILTER: u16 = 46;
const TC_CLSACT: u32 = 0xffff_fff1;
const CLSACT_HANDLE: u32 = 0xffff_0000;
const ETH_P_ALL: u16 = 3;
const TCA_KIND: u16 = 1;
const TC_INGRESS: u32 = 0xffff_fff2;
const TC_EGRESS: u32 = 0xffff_fff3;
const TCA_OPTIONS: u16 = 2;
const TCA_CHAIN: u16 = 11;
const TCA_BPF_ID: u16 = 11;

/// A program on a hook of TCX. Ids are 0 where there is none, as for the link of a program attached without one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Attached {
    pub(super) program: u32,
    pub(super) link: u32,
}

/// A filter on a hook of clsact.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Filter {
    pub(super) priority: u16,
    pub(super) handle: u32,
    /// The program's id; 0 for a filter that is none.
    pub(super) program: u32,
}

/// The number by which bpf(2) knows a hook.
pub(super) const fn attach_type(hook: TcAttachType) -> u32 {
    match hook {
        TcAttachType::Egress => 47,
        _ => 46,
    }
}

/// The name of an interface of this network namespace; `None` if there is none of that number.
pub(super) fn interface_name(ifindex: u32) -> Option<String> {
    let socket = socket(AddressFamily::UNIX, SocketType::DGRAM, None).ok()?;
    index_to_name(&socket, ifindex).ok()
}

/// What is attached by TCX. Empty where the kernel has none.
pub(super) fn tcx(ifindex: u32, hook: TcAttachType) -> io::Result<Vec<Attached>> {
    #[repr(C)]
    struct Attributes {
        ifindex: u32,
        attach_type: u32,
        query_flags: u32,
        attach_flags: u32,
        programs: u64,
        count: u32,
        _pad: u32,
        program_flags: u64,
        links: u64,
        link_flags: u64,
        revision: u64,
    }
    let (mut programs, mut links) = ([0_u32; MOST], [0_u32; MOST]);
    let mut attributes = Attributes {
        ifindex,
        attach_type: attach_type(hook),
        query_flags: 0,
        attach_flags: 0,
        programs: programs.as_mut_ptr() as u64,
        count: u32::try_from(MOST).map_err(io::Error::other)?,
        _pad: 0,
        program_flags: 0,
        links: links.as_mut_ptr() as u64,
        link_flags: 0,
        revision: 0,
    };
    match bpf(BPF_PROG_QUERY, &mut attributes) {
        Ok(_) => {}
        // Before 6.6.
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => return Ok(Vec::new()),
        Err(error) => return Err(error),
    }
    let count = MOST.min(usize::try_from(attributes.count).unwrap_or(MOST));
    Ok(programs
        .into_iter()
        .zip(links)
        .take(count)
        .map(|(program, link)| Attached { program, link })
        .collect())
}

/// The filters of clsact that packets meet first of all, those of chain 0. Empty without the qdisc.
pub(super) fn filters(ifindex: u32, hook: TcAttachType) -> io::Result<Vec<Filter>> {
    let answers = ask_for_filters(ifindex, hook)?;
    Ok(answers.iter().filter_map(|answer| filter(answer)).collect())
}

/// Whether anything at all hangs on a hook of clsact, whatever it is.
pub(super) fn has_filters(ifindex: u32, hook: TcAttachType) -> io::Result<bool> {
    Ok(!ask_for_filters(ifindex, hook)?.is_empty())
}

fn ask_for_filters(ifindex: u32, hook: TcAttachType) -> io::Result<Vec<Vec<u8>>> {
    netlink::request(None, RTM_GETTFILTER, Ask::All, &tcmsg(ifindex, 0, parent(hook), 0))
}

/// Takes a BPF filter off.
pub(super) fn remove_filter(ifindex: u32, hook: TcAttachType, filter: &Filter) -> io::Result<()> {
    let info = u32::from(filter.priority) << 16 | u32::from(ETH_P_ALL.to_be());
    let request = [tcmsg(ifindex, filter.handle, parent(hook), info), kind(b"bpf\0")].concat();
    netlink::request(None, RTM_DELTFILTER, Ask::One, &request).map(drop)
}

/// Adds a clsact qdisc, if the interface has none.
pub(super) fn add_clsact(ifindex: u32) -> io::Result<()> {
    let request = [tcmsg(ifindex, CLSACT_HANDLE, TC_CLSACT, 0), kind(b"clsact\0")].concat();
    netlink::request(None, RTM_NEWQDISC, Ask::New, &request).map(drop)
}

/// Asks for a BPF filter without a program, which is refused: how, tells whether there are such filters.
pub(super) fn add_empty_filter(ifindex: u32) -> io::Result<()> {
    let info = u32::from(ETH_P_ALL.to_be());
    let request = [tcmsg(ifindex, 0, TC_EGRESS, info), kind(b"bpf\0")].concat();
    netlink::request(None, RTM_NEWTFILTER, Ask::New, &request).map(drop)
}

/// Removes the clsact qdisc of an interface, with all that hangs on it.
pub(super) fn remove_clsact(ifindex: u32) -> io::Result<()> {
    let request = [tcmsg(ifindex, CLSACT_HANDLE, TC_CLSACT, 0), kind(b"clsact\0")].concat();
    netlink::request(None, RTM_DELQDISC, Ask::One, &request).map(drop)
}

const fn parent(hook: TcAttachType) -> u32 {
    match hook {
        TcAttachType::Egress => TC_EGRESS,
        _ => TC_INGRESS,
    }
}

/// `tcmsg`: family, interface, handle, parent, info.
fn tcmsg(ifindex: u32, handle: u32, parent: u32, info: u32) -> Vec<u8> {
    [0, ifindex, handle, parent, info].map(u32::to_ne_bytes).concat()
}

/// The attribute that says of what kind something is.
fn kind(name: &[u8]) -> Vec<u8> {
    let length = 4 + name.len() as u16;
    let mut attribute = [length.to_ne_bytes(), TCA_KIND.to_ne_bytes()].concat();
    attribute.extend(name);
    attribute.resize(attribute.len().next_multiple_of(4), 0);
    attribute
}

/// A filter, from the kernel's words; `None` for what only leads up to one, or is of another chain.
pub(super) fn filter(payload: &[u8]) -> Option<Filter> {
    let handle = number(payload.get(8..12)?)?;
    let info = number(payload.get(16..20)?)?;
    let (mut options, mut chain) = (None, 0);
    for (kind, value) in attributes(payload.get(20..)?) {
        match kind {
            TCA_OPTIONS => options = Some(value),
            TCA_CHAIN => chain = number(value)?,
            _ => {}
        }
    }
    let program = attributes(options?).find(|&(kind, _)| kind == TCA_BPF_ID);
    let filter = Filter {
        // The upper half; the lower is the protocol.
        priority: u16::try_from(info >> 16).ok()?,
        handle,
        program: program.and_then(|(_, value)| number(value)).unwrap_or_default(),
    };
    (chain == 0).then_some(filter)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let length = u16::try_from(value.len() + 4).unwrap();
        [&length.to_ne_bytes()[..], &kind.to_ne_bytes(), value].concat()
    }

    fn message(chain: u32, options: &[u8]) -> Vec<u8> {
        let header = [0, 7, 0x706f_7274, TC_EGRESS, 1 << 16 | 0x300].map(u32::to_ne_bytes).concat();
        [header, attribute(1, b"bpf\0"), attribute(TCA_CHAIN, &chain.to_ne_bytes()), options.to_vec()]
            .concat()
    }

    #[test]
    fn filters_are_read_and_what_leads_up_to_them_is_not() {
        let options = attribute(TCA_OPTIONS, &attribute(TCA_BPF_ID, &42_u32.to_ne_bytes()));
        let expected = Filter { priority: 1, handle: 0x706f_7274, program: 42 };
        assert_eq!(filter(&message(0, &options)), Some(expected));
        assert_eq!(filter(&message(3, &options)), None);
        assert_eq!(filter(&message(0, &[])), None);
        let of_another_kind = attribute(TCA_OPTIONS, &attribute(1, &[0; 4]));
        assert_eq!(filter(&message(0, &of_another_kind)), Some(Filter { program: 0, ..expected }));
    }
}
