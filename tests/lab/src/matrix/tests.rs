use super::*;

fn matrix() -> Matrix {
    let expectation = Expectation::load(&["app"], "production").unwrap();
    let service = |service: &str| Party::Service { instance: "myapp-dev".into(), service: service.into() };
    let parties = [service("proxy"), service("backend"), Party::Host, Party::Outside];
    let sources = parties.map(|party| Source { party, netns: PathBuf::new() }).into();
    let target = |address: &str, way| Target {
        instance: "myapp-dev".into(),
        service: "proxy".into(),
        port: 80,
        address: address.parse().unwrap(),
        way,
    };
    let targets = vec![
        target("198.18.1.2:80", Way::Direct),
        target("203.0.113.1:80", Way::Published),
        target("[2001:db8:ff::1]:80", Way::Published),
        target("127.0.0.1:8000", Way::Loopback),
    ];
    Matrix::new(sources, targets, &expectation)
}

fn expected_of(matrix: &Matrix, source: usize, target: usize) -> Option<Expected> {
    matrix.cells.iter().find(|cell| cell.source == source && cell.target == target).map(|cell| cell.expected)
}

#[test]
fn pairs_that_cannot_tell_anything_have_no_cell() {
    let matrix = matrix();
    assert_eq!(expected_of(&matrix, 0, 0), None, "a container and its own address");
    assert_eq!(expected_of(&matrix, 1, 3), None, "the host's loopback and somebody else");
    assert_eq!(expected_of(&matrix, 2, 3), Some(Expected::Open));
}

#[test]
fn who_calls_a_published_port_is_an_outsider() {
    let matrix = matrix();
    assert_eq!(expected_of(&matrix, 1, 0), Some(Expected::Denied));
    assert_eq!(expected_of(&matrix, 1, 1), Some(Expected::Denied), "a container that may not leave");
    assert_eq!(expected_of(&matrix, 3, 1), Some(Expected::Open), "the outside by IPv4");
    assert_eq!(expected_of(&matrix, 3, 2), Some(Expected::Open), "the outside by IPv6");
    assert_eq!(expected_of(&matrix, 2, 2), Some(Expected::Open), "the host is who it seems to be");
}

#[test]
fn when_everything_opens_only_what_should_be_denied_differs() {
    let mut matrix = matrix();
    for cell in &mut matrix.cells {
        cell.outcome = Some(Outcome::Open("proxy".into()));
    }
    assert!(matrix.differences().iter().all(|text| text.contains("Denied")), "{:?}", matrix.differences());
    assert!(matrix.wrong_answers().is_empty());
}
