//! Values of another layout, and an agent that ends in a panic. The agent's own code in this process: a conversion is
//! handed to it, and what it holds is dropped on the way out of a panic.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use agent_common::flow::{FlowEntry, FlowKey};
use aya::maps::{HashMap, Map, MapData};
use integration_tests::flood::Flood;
use integration_tests::small_lab::{POLICY, SmallLab, answers};
use lab::netns::within;
use portcullis::datapath::attach::Via;
use portcullis::datapath::migrate::convert::Conversion;
use portcullis::datapath::pins::LAYOUT;
use portcullis::datapath::{Datapath, Options};
use portcullis::inventory::identity::IdentityRegistry;
use portcullis::inventory::snapshot::{Bridge, Endpoint, Interface, Port, Snapshot};
use portcullis::policy::{Source, load, resolve};

use crate::{assert_enforced, assert_settled, ifindex};

/// A flow as a layout has it that never was: without the last word.
type Shorter = [u8; 28];

fn lengthen(key: &[u8], value: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
    Some((key.to_vec(), [value, &[0; 4]].concat()))
}

const LENGTHEN: [Conversion; 1] =
    [Conversion { map: "FLOWS", layout: LAYOUT, key: 48, value: 28, convert: lengthen }];

fn snapshot(lab: &SmallLab) -> Snapshot {
    let interface = |name: &str| Interface { ifindex: ifindex(lab, name), name: name.to_owned() };
    let bridge = interface("lab0");
    let members = ["web", "api", "db", "stray"];
    let endpoint = |name: &str| Endpoint {
        container_id: name.to_owned(),
        container: format!("{name}-1"),
        project: (name != "stray").then(|| "shop".to_owned()),
        service: (name != "stray").then(|| name.to_owned()),
        labels: BTreeMap::new(),
        network: "lab".to_owned(),
        bridge: "lab0".to_owned(),
        port: Some(interface(lab.port(name).unwrap())),
        mac: None,
        addresses: vec![lab.address(name).unwrap()],
        published: Vec::new(),
        resolvers: Vec::new(),
    };
    Snapshot {
        endpoints: members.map(endpoint).into(),
        ports: members
            .map(|name| Port { interface: interface(lab.port(name).unwrap()), bridge: bridge.ifindex })
            .into(),
        bridges: vec![Bridge {
            interface: bridge,
            network: "lab".to_owned(),
            subnets: vec!["198.18.7.0/24".parse().unwrap()],
        }],
        host_addresses: vec![IpAddr::from([198, 18, 7, 1])],
        ..Snapshot::default()
    }
}

/// Starts to enforce the lab's policy, does something with it, and drops it.
fn with_datapath(
    lab: &SmallLab,
    via: Option<Via>,
    conversions: &'static [Conversion],
    action: impl FnOnce(&mut Datapath) + Send + 'static,
) -> Result<(), String> {
    let snapshot = snapshot(lab);
    let options = Options { adopt: Duration::ZERO, via, conversions, ..Options::new(lab.pins()) };
    let ended = within(&lab.host().path(), move || {
        let loaded = load(&[Source { name: "shop.yaml".to_owned(), text: POLICY.to_owned() }], None);
        let entries =
            resolve(&loaded.policies.unwrap(), &snapshot, &mut IdentityRegistry::default()).unwrap();
        let mut datapath = Datapath::open(&options).unwrap();
        for _ in 0..2 {
            let errors = datapath.attach(&snapshot, true, || None);
            assert!(errors.is_empty(), "{errors:?}");
            datapath.apply(&snapshot, &entries).unwrap();
        }
        action(&mut datapath);
    });
    ended.map_err(|error| error.to_string())
}

/// Puts a map with shorter values into the place of the flows, as an agent of that layout would have left it.
fn shorten_flows(lab: &SmallLab) -> usize {
    let path = lab.pins().join("v1/maps/FLOWS");
    let flows: HashMap<MapData, FlowKey, FlowEntry> =
        Map::HashMap(MapData::from_pin(&path).unwrap()).try_into().unwrap();
    let mut shorter = HashMap::<MapData, [u8; 48], Shorter>::create(1024, 0).unwrap();
    let mut count = 0;
    for (key, entry) in flows.iter().map(Result::unwrap) {
        // SAFETY: both are plain values without padding that is not named.
        let (key, entry): ([u8; 48], [u8; 32]) = unsafe {
            (std::mem::transmute::<FlowKey, [u8; 48]>(key), std::mem::transmute::<FlowEntry, [u8; 32]>(entry))
        };
        shorter.insert(key, *entry.first_chunk::<28>().unwrap(), 0).unwrap();
        count += 1;
    }
    std::fs::remove_file(&path).unwrap();
    shorter.pin(&path).unwrap();
    // Whoever knew the programs would know that they use another map.
    std::fs::remove_dir_all(lab.pins().join("v1/programs")).unwrap();
    count
}

#[test]
fn values_of_another_layout_are_converted_or_dropped() {
    let lab = SmallLab::start().unwrap();
    with_datapath(&lab, None, &[], |_| {}).unwrap();
    let mut stream = lab.connect("web", "api", 8000).unwrap().unwrap();
    assert!(answers(&mut stream));
    let leaked = lab.datagrams();
    let flood = Flood::start(&lab).unwrap();
    assert_eq!(shorten_flows(&lab), 2, "one connection, both ends");
    with_datapath(&lab, None, &LENGTHEN, |_| {}).unwrap();
    assert!(answers(&mut stream), "the flow was not converted");
    assert_enforced(&lab);
    assert_settled(&lab);
    // Nobody knows how: the connection is cut, new ones open, nothing else is lost.
    shorten_flows(&lab);
    with_datapath(&lab, None, &[], |_| {}).unwrap();
    assert!(!answers(&mut stream), "by what flow?");
    assert_enforced(&lab);
    let sent = flood.stop();
    assert_eq!(lab.datagrams(), leaked, "leaked, of {sent}");
}

fn a_panic_takes_nothing_off(via: Via) {
    let via = Some(via);
    let lab = SmallLab::start().unwrap();
    let flood = Flood::start(&lab).unwrap();
    with_datapath(&lab, via, &[], |_| {}).unwrap();
    let leaked = lab.datagrams();
    let mut stream = lab.connect("web", "api", 8000).unwrap().unwrap();
    assert!(answers(&mut stream));
    for _ in 0..3 {
        let ended = with_datapath(&lab, via, &[], |_| panic!("on purpose"));
        assert!(ended.unwrap_err().contains("panicked"));
        assert!(answers(&mut stream));
        assert_enforced(&lab);
    }
    let sent = flood.stop();
    assert_eq!(lab.datagrams(), leaked, "leaked, of {sent}");
    assert_eq!(lab.detach().unwrap().code, Some(0));
    assert!(lab.reaches("web", "db", 5432).unwrap());
}

#[test]
fn a_panic_that_unwinds_takes_no_link_off() {
    a_panic_takes_nothing_off(Via::Tcx);
}

#[test]
fn a_panic_that_unwinds_takes_no_filter_off() {
    a_panic_takes_nothing_off(Via::Clsact);
}
