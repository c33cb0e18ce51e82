//! The two hooks of a bridge port: what its container sends, and what would enter it.

use agent_common::{
    config::Config,
    endpoint::Interface,
    flow::LENT,
    verdict::{Direction, DropReason, Hook, Verdict},
};

use super::{
    Action, Because,
    bridge::is_guarded,
    case::Case,
    conclude,
    flow::{Scene, flow, goes_on, lay_out},
    published, refuse,
    sender::{has_foreign_mac, is_unsound},
};
use crate::{
    diagnose,
    identify::{self, Side},
    maps::{self, Scratch},
    parse::{self, Frame, FrameKind, Ports},
    recent, report,
    skb::Skb,
    track,
};

/// Runs one hook of a port on one packet.
#[inline(always)]
pub(crate) fn at_port(skb: Skb, hook: Hook) -> Verdict {
    let (Some(config), Some(scratch)) = (maps::config(), maps::scratch()) else {
        return report::without_config(hook);
    };
    let direction = if matches!(hook, Hook::FromEndpoint) { Direction::Egress } else { Direction::Ingress };
    scratch.case.revision = maps::revision(config);
    // Most packets end here.
    if recent::passes(skb, config, direction, &mut scratch.header) {
        return report::forward(hook);
    }
    let port = maps::port(maps::after(scratch.header.epoch, skb.ifindex()));
    if let Some(port) = port
        && passes_unseen(skb, config, port, hook)
    {
        return report::forward(hook);
    }
    // Also at a port that nothing is known of yet, for the report.
    let strictly = !matches!(hook, Hook::FromEndpoint) || port.is_none_or(Interface::is_validated);
    if maps::opaque(strictly) {
        parse::parse(skb, &mut scratch.frame);
    }
    // Most others here, before anything is laid out that only the rest needs.
    if let Some(port) = port
        && is_tracked(skb, port, &scratch.frame, hook)
        && goes_on(skb, config, scratch, direction, true)
    {
        return report::forward(hook);
    }
    maps::forget();
    let action = judge(skb, config, port, scratch, hook);
    if !matches!(action, Action::Forward) {
        scratch.own = match port {
            Some(port) => Side::of_port(skb.ifindex(), port),
            None => Side::UNKNOWN,
        };
    }
    conclude(skb, config, scratch, hook, action)
}

/// What a hook comes to for one packet.
#[inline(always)]
fn judge(
    skb: Skb,
    config: &'static Config,
    port: Option<&'static Interface>,
    scratch: &mut Scratch,
    hook: Hook,
) -> Action {
    let Some(port) = port else {
        diagnose::port_without_entry(skb.ifindex());
        let reason = match scratch.frame.flaw() {
            Some(DropReason::InvalidPacket) => DropReason::InvalidPacket,
            _ => DropReason::NotReady,
        };
        let action = refuse(&mut scratch.because, reason, Side::UNKNOWN);
        // A new container's stack finds its way before anybody uses it.
        // SAFETY: just written.
        unsafe { scratch.because.assume_init_mut() }.opening = matches!(scratch.frame.kind, FrameKind::Flow);
        return action;
    };
    let scene = Scene {
        skb,
        config,
        hook,
        port,
        own: Side::of_port(skb.ifindex(), port).party,
        service: 0,
        tracked: port.is_covered(),
    };
    if matches!(hook, Hook::FromEndpoint) {
        from_endpoint(&scene, scratch)
    } else if port.is_covered() {
        to_endpoint(&scene, scratch)
    } else {
        into_unmanaged(&scene, &scratch.frame, &mut scratch.because)
    }
}

/// Whether nothing about a packet matters here, so that it need not be parsed.
#[inline(always)]
fn passes_unseen(skb: Skb, config: &Config, port: &Interface, hook: Hook) -> bool {
    if matches!(hook, Hook::FromEndpoint) {
        // What leaves here carries its sender, for hooks that see it after it has been routed.
        skb.set_mark_bits(port.mark, config.mark_mask);
        return !port.is_validated() && config.has_published == 0;
    }
    // Unmanaged containers are left alone, except by covered ones.
    !port.is_covered() && !identify::sender(skb, config).is_covered()
}

/// Whether a packet is one of those that flows are made of, and comes from whom it says.
#[inline(always)]
fn is_tracked(skb: Skb, port: &Interface, frame: &Frame, hook: Hook) -> bool {
    port.is_covered()
        && frame.flaw().is_none()
        && matches!(frame.kind, FrameKind::Flow)
        && (matches!(hook, Hook::ToEndpoint) || !(has_foreign_mac(port, frame) || skb.is_for_group_mac()))
}

/// tc egress of a port: what would enter the container.
#[inline(always)]
fn to_endpoint(scene: &Scene, scratch: &mut Scratch) -> Action {
    if let Some(reason) = scratch.frame.flaw() {
        return refuse(&mut scratch.because, reason, Side::UNKNOWN);
    }
    match scratch.frame.kind {
        FrameKind::Flow => flow(scene, scratch, Direction::Ingress),
        // Checked where they were sent; the host's own are trusted.
        FrameKind::Arp | FrameKind::Solicitation | FrameKind::Advertisement => Action::Forward,
        FrameKind::Listener | FrameKind::Chatter => {
            refuse(&mut scratch.because, DropReason::UnsupportedProtocol, Side::UNKNOWN)
        }
    }
}

/// What a covered container sends into an unmanaged one was judged by the address that it called, so it has to be
/// this container's. The report looks up the sender by itself.
#[inline(always)]
fn into_unmanaged(scene: &Scene, frame: &Frame, because: &mut Because) -> Action {
    if let Some(reason) = frame.flaw() {
        return refuse(because, reason, Side::UNKNOWN);
    }
    match frame.kind {
        FrameKind::Arp | FrameKind::Solicitation | FrameKind::Advertisement => Action::Forward,
        FrameKind::Flow if scene.port.owns(&frame.packet.destination) => Action::Forward,
        _ => refuse(because, DropReason::UnknownDestination, Side::UNKNOWN),
    }
}

/// tc ingress of a port: what the container sends.
#[inline(always)]
fn from_endpoint(scene: &Scene, scratch: &mut Scratch) -> Action {
    if scene.port.is_validated()
        && let Some(reason) = is_unsound(scene.skb, scene.port, &scratch.frame)
    {
        return refuse(&mut scratch.because, reason, Side::UNKNOWN);
    }
    maps::forget();
    if scene.tracked {
        if !matches!(scratch.frame.kind, FrameKind::Flow) {
            return Action::Forward;
        }
    } else {
        if is_for_nobody(scene, &scratch.frame, &mut scratch.case) {
            return refuse(&mut scratch.because, DropReason::UnknownDestination, Side::UNKNOWN);
        }
        maps::forget();
        if scene.config.has_published == 0 {
            return Action::Forward;
        }
        parse::locate(scene.skb, &mut scratch.frame, true);
        match scratch.frame.ports() {
            Ports::None => return Action::Forward,
            Ports::Hidden => return published::hidden(&scratch.frame, &mut scratch.because),
            Ports::Found => {}
        }
    }
    // Also of a covered container's: no flow was looked for if the frame is for a group.
    lay_out(&mut scratch.key, scene.skb, Direction::Egress, &scratch.frame);
    maps::forget();
    scratch.case.flags = 0;
    let action = flow(scene, scratch, Direction::Egress);
    maps::forget();
    // Only now: what is denied has no answer to expect.
    if action.goes_on() && scratch.case.flags & LENT != 0 {
        // SAFETY: laid out before the packet's flow was looked for.
        let key = unsafe { scratch.key.assume_init_ref() };
        track::lend(key, &mut scratch.case.new);
    }
    action
}

/// Whether what an unmanaged container sends would get to one that is not known, on a bridge where only known ones may
/// be sent to. Of a packet that could not be parsed the address is there all the same, if it has one.
#[inline(always)]
fn is_for_nobody(scene: &Scene, frame: &Frame, case: &mut Case) -> bool {
    let bridge = scene.port.bridge;
    scene.port.is_validated()
        && matches!(frame.kind, FrameKind::Flow)
        && identify::is_for_nobody(scene.skb, frame, bridge, &mut case.route)
        && is_guarded(bridge)
}
