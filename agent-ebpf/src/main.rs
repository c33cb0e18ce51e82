//! The kernel programs of Portcullis, one per hook: parse, identify, track, decide, report.
//!
//! This file only names the programs and turns verdicts into return values. What a hook does stands in
//! `hooks`; nothing here depends on a living agent.

#![no_std]
#![no_main]
// Inline assembly for BPF is not stabilised; both toolchains that can build this accept it.
#![feature(asm_experimental_arch)]

mod diagnose;
mod hooks;
mod identify;
mod maps;
mod parse;
mod recent;
mod report;
mod skb;
mod track;

use agent_common::verdict::{Hook, Verdict};
use aya_ebpf::{macros::classifier, programs::TcContext};

use crate::skb::Skb;

/// tc egress of a bridge port: everything that would enter the container behind it.
#[classifier]
#[inline(always)]
pub(crate) fn to_endpoint(ctx: TcContext) -> i32 {
    action(hooks::at_port(Skb::new(&ctx), Hook::ToEndpoint))
}

/// tc ingress of a bridge port: everything that the container behind it sends.
#[classifier]
#[inline(always)]
pub(crate) fn from_endpoint(ctx: TcContext) -> i32 {
    action(hooks::at_port(Skb::new(&ctx), Hook::FromEndpoint))
}

/// tc egress of a bridge device: what the host sends or forwards to the containers.
#[classifier]
#[inline(always)]
pub(crate) fn to_bridge(ctx: TcContext) -> i32 {
    action(hooks::to_bridge(Skb::new(&ctx)))
}

/// tc ingress of a bridge device: what the containers send to the host or through it.
#[classifier]
#[inline(always)]
pub(crate) fn from_bridge(ctx: TcContext) -> i32 {
    action(hooks::from_bridge(Skb::new(&ctx)))
}

/// tc ingress of an uplink: what the world sends.
#[classifier]
#[inline(always)]
pub(crate) fn from_uplink(ctx: TcContext) -> i32 {
    action(hooks::from_uplink(Skb::new(&ctx)))
}

/// -1 lets the next program run (TCX_NEXT, TC_ACT_UNSPEC), 2 drops (TC_ACT_SHOT). Any other value would end
/// the chain with the packet delivered.
#[inline(always)]
const fn action(verdict: Verdict) -> i32 {
    match verdict {
        Verdict::Forwarded | Verdict::Observed(_) => -1,
        Verdict::Dropped(_) => 2,
    }
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
