//! Answers of a real Engine 20.10 and what is read from them.

use bollard::models::EventActor;

use super::*;

const INSPECT: &str = include_str!("fixtures/inspect-20.10.json");
const NETWORKS: &str = include_str!("fixtures/networks-20.10.json");

fn inspected() -> ContainerInspectResponse {
    serde_json::from_str(INSPECT).unwrap()
}

fn read(response: ContainerInspectResponse, image_labels: &[(&str, &str)]) -> Option<Container> {
    let image_labels = image_labels
        .iter()
        .map(|&(key, value)| (key.to_owned(), value.to_owned()))
        .collect::<BTreeMap<_, _>>();
    container_of(response, &image_labels, None, || vec!["192.0.2.53".parse().unwrap()])
}

fn addresses(list: &[&str]) -> Vec<IpAddr> {
    list.iter().map(|address| address.parse().unwrap()).collect()
}

#[test]
fn a_multi_homed_container() {
    let container = read(inspected(), &[]).unwrap();
    assert_eq!(container.name, "web");
    assert_eq!(container.project().as_deref(), Some("lab"));
    assert_eq!(container.service().as_deref(), Some("web"));
    assert_eq!(container.network_mode, NetworkMode::Own);
    assert_eq!(container.sandbox.as_deref(), Some(Path::new("/var/run/docker/netns/e95541ff38ac")));
    let [front, six] = &container.attachments[..] else { panic!("{:?}", container.attachments) };
    assert_eq!((front.network_name.as_str(), six.network_name.as_str()), ("front", "six"));
    assert_eq!(front.mac, Some([2, 0x42, 0xac, 0x12, 0, 2]));
    // The absent IPv6 address is `""` here.
    assert_eq!(front.addresses, addresses(&["172.18.0.2"]));
    assert_eq!(six.addresses, addresses(&["172.30.0.2", "2001:db8:30::2"]));
    let published: Vec<_> =
        container.published.iter().map(|port| (port.host_address.to_string(), port.host_port)).collect();
    assert_eq!(published, [("0.0.0.0".to_owned(), 8080), ("::".to_owned(), 8080)]);
    assert!(
        container.published.iter().all(|port| (port.container_port, port.protocol) == (80, Protocol::Tcp))
    );
}

#[test]
fn labels_of_the_image_are_not_the_containers() {
    let image = [("com.docker.compose.service", "web"), ("com.docker.compose.project", "other")];
    let container = read(inspected(), &image).unwrap();
    assert_eq!(container.service(), None);
    // Given to the container with another value than the image has.
    assert_eq!(container.project().as_deref(), Some("lab"));
}

#[test]
fn resolvers_come_from_the_most_exact_source() {
    let with = |dns: &[&str], own: Option<&str>| {
        let mut response = inspected();
        response.host_config.as_mut().unwrap().dns =
            Some(dns.iter().map(|&server| server.to_owned()).collect());
        container_of(response, &BTreeMap::new(), own, || addresses(&["192.0.2.53"])).unwrap().resolvers
    };
    let embedded = Some("nameserver 127.0.0.11\n# ExtServers: [192.0.2.7]\n");
    assert_eq!(with(&["192.0.2.1"], embedded), addresses(&["192.0.2.7"]));
    assert_eq!(with(&["192.0.2.1"], Some("nameserver 127.0.0.11\n")), addresses(&["192.0.2.1"]));
    assert_eq!(with(&["192.0.2.1"], None), addresses(&["192.0.2.1"]));
    assert_eq!(with(&[], None), addresses(&["192.0.2.53"]));
}

#[test]
fn states_and_network_modes() {
    let with = |change: &dyn Fn(&mut ContainerInspectResponse)| {
        let mut response = inspected();
        change(&mut response);
        read(response, &[])
    };
    let exited = with(&|response| response.state.as_mut().unwrap().running = Some(false));
    assert_eq!(exited, None);
    let restarting = with(&|response| {
        let state = response.state.as_mut().unwrap();
        (state.running, state.restarting) = (Some(false), Some(true));
    });
    assert!(restarting.is_some());

    let mode = |mode: &str| {
        with(&|response| response.host_config.as_mut().unwrap().network_mode = Some(mode.to_owned())).unwrap()
    };
    assert_eq!(mode("host").network_mode, NetworkMode::Host);
    assert_eq!(mode("none").network_mode, NetworkMode::Own);
    let shared = mode("container:0123");
    assert_eq!(shared.network_mode, NetworkMode::Container("0123".to_owned()));
    assert!(shared.attachments.is_empty() && shared.published.is_empty());
}

#[test]
fn what_is_missing_or_odd_is_left_out() {
    let empty = ContainerInspectResponse::default();
    assert_eq!(read(empty, &[]), None);

    let mut response = inspected();
    let settings = response.network_settings.as_mut().unwrap();
    settings.sandbox_key = Some(String::new());
    let binding = |host: &str, port: &str| bollard::models::PortBinding {
        host_ip: Some(host.to_owned()),
        host_port: Some(port.to_owned()),
    };
    settings.ports = Some(HashMap::from([
        ("53/udp".to_owned(), Some(vec![binding("", "53")])),
        ("81/tcp".to_owned(), None),
        ("82/sctp".to_owned(), Some(vec![binding("0.0.0.0", "82")])),
        ("83/tcp".to_owned(), Some(vec![binding("192.0.2.1", "no number")])),
    ]));
    let container = read(response, &[]).unwrap();
    assert_eq!(container.sandbox, None);
    let expected = Published {
        host_address: "0.0.0.0".parse().unwrap(),
        host_port: 53,
        container_port: 53,
        protocol: Protocol::Udp,
    };
    assert_eq!(container.published, [expected]);
}

#[test]
fn a_container_that_is_being_started() {
    let network: NetworkInspect = serde_json::from_value(serde_json::json!({
        "Name": "six", "Id": "net6", "Containers": {
            "c1": { "MacAddress": "02:42:ac:1e:00:02", "IPv4Address": "172.30.0.2/24", "IPv6Address": "2001:db8:30::2/64" },
            "c2": { "MacAddress": "02:42:ac:1e:00:03", "IPv4Address": "172.30.0.3/24", "IPv6Address": "" },
        }
    }))
    .unwrap();
    assert_eq!(attachment_of(network.clone(), "c2").unwrap().addresses, addresses(&["172.30.0.3"]));
    assert_eq!(attachment_of(network.clone(), "absent"), None);
    let attachment = attachment_of(network, "c1").unwrap();
    assert_eq!(attachment.mac, Some([2, 0x42, 0xac, 0x1e, 0, 2]));
    assert_eq!(attachment.addresses, addresses(&["172.30.0.2", "2001:db8:30::2"]));

    let summary: ContainerSummary = serde_json::from_value(serde_json::json!({
        "Id": "c1", "Names": ["/other/alias", "/web"], "State": "created",
        "Labels": { "com.docker.compose.service": "web", "com.docker.compose.project": "lab" },
    }))
    .unwrap();
    let image = [("com.docker.compose.service".to_owned(), "web".to_owned())].into();
    let container = starting_of(summary, vec![attachment], &image, Vec::new).unwrap();
    assert_eq!((container.name.as_str(), container.sandbox.as_ref()), ("web", None));
    assert_eq!((container.project().as_deref(), container.service()), (Some("lab"), None));
}

#[test]
fn networks_and_their_bridges() {
    let models: Vec<NetworkModel> = serde_json::from_str(NETWORKS).unwrap();
    let mut networks: Vec<Network> =
        models.into_iter().filter_map(network_of).map(|(_, network)| network).collect();
    networks.sort_by(|a, b| a.name.cmp(&b.name));
    let read: Vec<_> = networks
        .iter()
        .map(|network| {
            let subnets: Vec<String> = network.subnets.iter().map(ToString::to_string).collect();
            (network.name.as_str(), network.driver.as_str(), network.bridge.as_deref(), subnets.join(" "))
        })
        .collect();
    assert_eq!(
        read,
        [
            ("bridge", "bridge", Some("docker0"), "172.17.0.0/16".to_owned()),
            ("front", "bridge", Some("br-fc6832c111d5"), "172.18.0.0/16".to_owned()),
            ("host", "host", None, String::new()),
            ("none", "null", None, String::new()),
            ("six", "bridge", Some("br-3adda3518bc6"), "172.30.0.0/24 2001:db8:30::/64".to_owned()),
        ]
    );
}

#[test]
fn events() {
    let event = |typ, action: &str, attributes: &[(&str, &str)]| {
        let attributes = attributes
            .iter()
            .map(|&(key, value)| (key.to_owned(), value.to_owned()))
            .collect::<HashMap<_, _>>();
        event_of(EventMessage {
            typ: Some(typ),
            action: Some(action.to_owned()),
            actor: Some(EventActor { id: Some("id".to_owned()), attributes: Some(attributes) }),
            ..EventMessage::default()
        })
    };
    use EventMessageTypeEnum::{CONTAINER, IMAGE, NETWORK};
    assert_eq!(event(CONTAINER, "start", &[]), Event::Container("id".to_owned()));
    assert_eq!(event(CONTAINER, "exec_create: sh", &[]), Event::Irrelevant);
    let connected = Event::Connected { container: "c".to_owned(), network: "id".to_owned() };
    assert_eq!(event(NETWORK, "connect", &[("container", "c")]), connected);
    assert_eq!(event(NETWORK, "disconnect", &[("container", "c")]), Event::Container("c".to_owned()));
    assert_eq!(event(NETWORK, "connect", &[]), Event::Irrelevant);
    assert_eq!(event(NETWORK, "create", &[]), Event::Networks);
    assert_eq!(event(IMAGE, "pull", &[]), Event::Irrelevant);
}
