//! AF_PACKET sockets: out by messages or by a ring of pages, in as whatever reaches an interface.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::path::Path;
use std::ptr;

use anyhow::{Context, Result, bail};
use lab::netns::within;

use crate::frame::{Frame, Way};

const PROTOCOL_ALL: u16 = (libc::ETH_P_ALL as u16).to_be();

/// How many frames a batch may have: the ring has room for so many.
pub const BATCH: usize = 256;
const SLOT: usize = 2048;
/// Where a frame lies in its slot: behind `struct tpacket2_hdr`, aligned.
const DATA: usize = 32;
/// Offsets in that header.
const STATUS: usize = 0;
const LENGTH: usize = 4;

/// Fails with the last error of the system.
pub(crate) fn checked(result: libc::c_int, what: &'static str) -> Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()).context(what) } else { Ok(result) }
}

/// Sets a socket option that is a plain value.
pub(crate) fn set<T>(socket: &OwnedFd, level: libc::c_int, option: libc::c_int, value: &T) -> Result<()> {
    // SAFETY: the value lives until the call returns, and its size is told.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            ptr::from_ref(value).cast(),
            size_of::<T>() as libc::socklen_t,
        )
    };
    checked(result, "failed to set a socket option").map(drop)
}

/// A new socket.
pub(crate) fn socket(family: libc::c_int, kind: libc::c_int, protocol: libc::c_int) -> Result<OwnedFd> {
    // SAFETY: the call takes numbers only.
    let fd = checked(unsafe { libc::socket(family, kind | libc::SOCK_CLOEXEC, protocol) }, "no socket")?;
    // SAFETY: the call has just made this descriptor, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A packet socket on one interface of the namespace that the thread is in.
fn bound(interface: &str, protocol: u16) -> Result<OwnedFd> {
    let socket = socket(libc::AF_PACKET, libc::SOCK_RAW, 0)?;
    let name = CString::new(interface)?;
    // SAFETY: the name ends with a zero byte.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    // SAFETY: all bytes of this type may be 0.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = protocol;
    address.sll_ifindex = index.cast_signed();
    // SAFETY: the address lives until the call returns, and its size is told.
    let result = unsafe {
        libc::bind(
            socket.as_raw_fd(),
            ptr::from_ref(&address).cast(),
            size_of_val(&address) as libc::socklen_t,
        )
    };
    checked(result, "failed to bind a packet socket")?;
    Ok(socket)
}

/// What comes in by an interface of a namespace, as seen by whoever is there.
pub fn receiver(netns: &Path, interface: &'static str) -> Result<OwnedFd> {
    within(netns, move || {
        let socket = bound(interface, PROTOCOL_ALL)?;
        set(&socket, libc::SOL_PACKET, libc::PACKET_IGNORE_OUTGOING, &1_i32)?;
        roomy(&socket)?;
        Ok(socket)
    })?
}

/// Gives a socket room for all that may come while nobody reads.
pub(crate) fn roomy(socket: &OwnedFd) -> Result<()> {
    set(socket, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, &(64 << 20))
}

/// How many frames a receiver had no room for since this was last asked.
pub fn lost(socket: &OwnedFd) -> Result<u32> {
    let mut statistics = [0_u32; 2];
    let mut length = size_of_val(&statistics) as libc::socklen_t;
    // SAFETY: both live until the call returns, and the size is told.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_STATISTICS,
            ptr::from_mut(&mut statistics).cast(),
            &raw mut length,
        )
    };
    checked(result, "failed to ask for lost frames")?;
    Ok(statistics[1])
}

/// Sends frames out of one interface, by both ways.
#[derive(Debug)]
pub struct Sender {
    messages: OwnedFd,
    ring: Ring,
}

impl Sender {
    /// For an interface of a namespace.
    pub fn open(netns: &Path, interface: &'static str) -> Result<Self> {
        within(netns, move || {
            Ok(Self { messages: bound(interface, 0)?, ring: Ring::on(bound(interface, 0)?)? })
        })?
    }

    /// Sends frames in their order. What the kernel does not take counts as lost on the way, not here.
    pub fn send(&mut self, frames: &[Frame]) -> Result<()> {
        for run in frames.chunk_by(|one, next| one.way == next.way) {
            for batch in run.chunks(BATCH) {
                match batch[0].way {
                    Way::Message => self.by_message(batch),
                    Way::Ring => self.ring.send(batch)?,
                }
            }
        }
        Ok(())
    }

    fn by_message(&self, frames: &[Frame]) {
        let mut parts: Vec<libc::iovec> = frames
            .iter()
            .map(|frame| libc::iovec {
                iov_base: frame.bytes.as_ptr().cast_mut().cast(),
                iov_len: frame.bytes.len(),
            })
            .collect();
        let mut messages: Vec<libc::mmsghdr> = parts
            .iter_mut()
            .map(|part| {
                // SAFETY: all bytes of this type may be 0.
                let mut message: libc::mmsghdr = unsafe { std::mem::zeroed() };
                message.msg_hdr.msg_iov = part;
                message.msg_hdr.msg_iovlen = 1;
                message
            })
            .collect();
        let mut at = 0;
        while at < messages.len() {
            let rest = &mut messages[at..];
            // SAFETY: the messages, and the frames that they point to, live until the call returns.
            let sent = unsafe {
                libc::sendmmsg(self.messages.as_raw_fd(), rest.as_mut_ptr(), rest.len() as libc::c_uint, 0)
            };
            // After one that the kernel does not take, the next may do.
            at += usize::try_from(sent).unwrap_or(0).max(1);
        }
    }
}

/// Pages that the kernel sends from.
#[derive(Debug)]
struct Ring {
    socket: OwnedFd,
    pages: *mut u8,
    next: usize,
}

// SAFETY: the pages belong to this value alone, whichever thread it is in.
unsafe impl Send for Ring {}

impl Ring {
    fn on(socket: OwnedFd) -> Result<Self> {
        set(&socket, libc::SOL_PACKET, libc::PACKET_VERSION, &(libc::tpacket_versions::TPACKET_V2 as i32))?;
        // A frame that the kernel does not take is passed over.
        set(&socket, libc::SOL_PACKET, libc::PACKET_LOSS, &1_i32)?;
        let request = libc::tpacket_req {
            tp_block_size: (SLOT * BATCH) as u32,
            tp_block_nr: 1,
            tp_frame_size: SLOT as u32,
            tp_frame_nr: BATCH as u32,
        };
        set(&socket, libc::SOL_PACKET, libc::PACKET_TX_RING, &request)?;
        let pages = Self::map(socket.as_raw_fd())?;
        Ok(Self { socket, pages, next: 0 })
    }

    fn map(socket: RawFd) -> Result<*mut u8> {
        // SAFETY: a new mapping of the size that was asked for.
        let pages = unsafe {
            libc::mmap(
                ptr::null_mut(),
                SLOT * BATCH,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                socket,
                0,
            )
        };
        if pages == libc::MAP_FAILED {
            return Err(io::Error::last_os_error()).context("failed to map the ring");
        }
        Ok(pages.cast())
    }

    /// A field of a slot's header, shared with the kernel.
    fn field(&self, slot: usize, offset: usize) -> *mut u32 {
        // SAFETY: the slot lies within the mapping, and fields of the header are aligned.
        unsafe { self.pages.add(slot * SLOT + offset).cast() }
    }

    /// The kernel goes round the ring from where it stopped last: `next` goes with it.
    fn send(&mut self, frames: &[Frame]) -> Result<()> {
        let first = self.next;
        for frame in frames {
            let slot = self.next;
            // SAFETY: the slot is ours until its status says otherwise, and long enough for any frame.
            unsafe {
                let place = self.pages.add(slot * SLOT + DATA);
                ptr::copy_nonoverlapping(frame.bytes.as_ptr(), place, frame.bytes.len().min(SLOT - DATA));
                self.field(slot, LENGTH).write_volatile(frame.bytes.len() as u32);
                self.field(slot, STATUS).write_volatile(libc::TP_STATUS_SEND_REQUEST);
            }
            self.next = (slot + 1) % BATCH;
        }
        for _ in 0..=frames.len() {
            // SAFETY: the call takes no memory of ours: it sends from the ring, and waits for its end.
            unsafe { libc::send(self.socket.as_raw_fd(), ptr::null(), 0, 0) };
            let left = (0..frames.len()).map(|at| (first + at) % BATCH).any(|slot| {
                // SAFETY: as above.
                let status = unsafe { self.field(slot, STATUS).read_volatile() };
                status != libc::TP_STATUS_AVAILABLE
            });
            if !left {
                return Ok(());
            }
        }
        bail!("the ring did not empty")
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // SAFETY: the mapping is this value's, and nobody uses it any more.
        unsafe { libc::munmap(self.pages.cast(), SLOT * BATCH) };
    }
}
