//! Names, and what the state says of endpoints.

use super::*;
use crate::state::fixture::{self, GONE, MAILPIT, TRUST};

#[test]
fn names_are_those_that_the_registry_handed_out() {
    let mut registry = IdentityRegistry::default();
    let web = registry.identity("shop", "web").unwrap();
    let db = registry.identity("shop", "db").unwrap();
    let policy = registry.policy("shop-policy").unwrap();
    let names = Names::from_registry(&registry);
    assert_eq!(names.identities[&web], ("shop".to_owned(), "web".to_owned()));
    assert_eq!(names.identities[&db], ("shop".to_owned(), "db".to_owned()));
    assert_eq!(names.policies[&policy], "shop-policy");
}

#[test]
fn names_survive_what_they_name() {
    let mut state = fixture::state();
    assert_eq!(state.identity_names(GONE), Some(("shop", "web")));
    assert_eq!(state.policy_name(2), Some("shop"));
    state.entries = Arc::default();
    assert_eq!(state.identity_names(TRUST), Some(("qerds", "qerds-trust")));
    assert_eq!(state.policy_name(1), Some("qerds"));
    assert_eq!(state.identity_names(9_999), None);
}

#[test]
fn an_address_names_a_container_only_with_its_identity() {
    let state = fixture::state();
    let address = IpAddr::from([172, 18, 0, 7]);
    let container =
        |identity| state.endpoint_by_address(address, identity).map(|found| found.container.as_str());
    assert_eq!(container(MAILPIT), Some("qerds-mailpit-1"));
    assert_eq!(container(TRUST), None);
}

#[test]
fn every_kind_of_interface_has_a_name() {
    let state = fixture::state();
    let names = [7, 5, 2, 99].map(|ifindex| state.interface_name(ifindex));
    assert_eq!(names, [Some("veth3f1c"), Some("br-qerds"), Some("eth0"), None]);
}

#[test]
fn an_endpoint_is_pending_until_its_port_is_attached_and_ready() {
    let states = |state: &AgentState| -> Vec<EndpointState> {
        state.endpoints().map(|(endpoint, resolved)| state.endpoint_state(endpoint, resolved)).collect()
    };
    use EndpointState::{Enforced, Observed, Pending, Unmanaged};
    let mut state = fixture::state();
    assert_eq!(states(&state), [Enforced, Observed, Pending, Unmanaged]);
    state.ports.get_mut(&7).unwrap().ready = false;
    state.ports.get_mut(&9).unwrap().attached = false;
    assert_eq!(states(&state), [Pending, Pending, Pending, Unmanaged]);
    state.entries = Arc::default();
    assert_eq!(states(&state), [Pending; 4], "not resolved yet");
}
