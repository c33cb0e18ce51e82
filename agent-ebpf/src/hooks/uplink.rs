//! What the world sends to a published port of the host. Everything else passes untouched.

use agent_common::{
    config::Config,
    verdict::{Direction, DropReason, Hook, Verdict},
};

use super::{
    Action, conclude,
    flow::{Scene, flow, goes_on},
    published, refuse,
};
use crate::{
    identify::Side,
    maps::{self, Scratch},
    parse::{self, Ports},
    recent, report,
    skb::Skb,
};

/// tc ingress of an uplink.
#[inline(always)]
pub(crate) fn from_uplink(skb: Skb) -> Verdict {
    let (Some(config), Some(scratch)) = (maps::config(), maps::scratch()) else {
        return report::without_config(Hook::FromUplink);
    };
    if config.has_published == 0 {
        return report::forward(Hook::FromUplink);
    }
    scratch.case.revision = maps::revision(config);
    if maps::opaque(recent::passes(skb, config, Direction::Ingress, &mut scratch.header)) {
        return report::forward(Hook::FromUplink);
    }
    let has_link_header = maps::interface(skb.ifindex()).is_none_or(|uplink| uplink.has_link_header());
    parse::locate(skb, &mut scratch.frame, has_link_header);
    let action = judge(skb, config, scratch, has_link_header);
    conclude(skb, config, scratch, Hook::FromUplink, action)
}

#[inline(always)]
fn judge(skb: Skb, config: &'static Config, scratch: &mut Scratch, has_link_header: bool) -> Action {
    let packet = &scratch.frame.packet;
    scratch.own = Side::UNKNOWN;
    match scratch.frame.ports() {
        Ports::None => return Action::Forward,
        Ports::Hidden => return published::hidden(&scratch.frame, &mut scratch.because),
        Ports::Found => {}
    }
    let called = published::called(config, packet.protocol, &packet.destination, packet.destination_port);
    if !called.is_published {
        return Action::Forward;
    }
    scratch.own = called.side;
    let service = called.port;
    maps::forget();
    if !scratch.own.is_covered() {
        return refuse(&mut scratch.because, DropReason::NotReady, Side::UNKNOWN);
    }
    let Some(port) = maps::port(scratch.own.peer) else {
        return refuse(&mut scratch.because, DropReason::NotReady, Side::UNKNOWN);
    };
    if goes_on(skb, config, scratch, Direction::Ingress, has_link_header) {
        return Action::Forward;
    }
    let own = scratch.own.party;
    let hook = Hook::FromUplink;
    let scene = Scene { skb, config, hook, port, own, service, tracked: true };
    let action = flow(&scene, scratch, Direction::Ingress);
    if matches!(action, Action::Observe) {
        // So that it is not counted once more where it enters the container.
        published::mark_outsider(skb, config);
    }
    action
}
