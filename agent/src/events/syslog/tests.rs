//! What a server of either kind receives.

use std::{io::Read, net::TcpListener};

use super::*;
use crate::{
    events::{decode::decode, format::EventFormat},
    state::fixture::{self, CLOCK_OFFSET},
};

fn record() -> Record {
    Record::new(&decode(&fixture::bytes(&fixture::event())).unwrap(), &fixture::state(), CLOCK_OFFSET)
}

fn sink(transport: Transport, server: &str) -> Syslog {
    Syslog::open(transport, server.to_owned(), Formatter::new(EventFormat::Json)).unwrap()
}

/// Header and JSON of one message.
fn parts(message: &str) -> (Vec<&str>, Record) {
    let (header, json) = message.split_once('\u{feff}').unwrap();
    (header.split(' ').collect(), serde_json::from_str(json).unwrap())
}

#[test]
fn a_datagram_for_each_event() {
    let server = UdpSocket::bind("127.0.0.1:0").unwrap();
    server.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut sink = sink(Transport::Udp, &server.local_addr().unwrap().to_string());
    sink.write(&record()).unwrap();
    let mut buffer = [0; 4096];
    let length = server.recv(&mut buffer).unwrap();
    let message = std::str::from_utf8(&buffer[..length]).unwrap();
    let (header, sent) = parts(message);
    assert_eq!(sent, record());
    // Facility 4, severity 2: `critical`.
    assert_eq!(header[0], "<34>1");
    assert_eq!(header[1], record().time);
    assert_eq!(
        (header[3], header[4], header[5], header[6]),
        ("portcullis", &*std::process::id().to_string(), "no_rule", "-")
    );
}

#[test]
fn over_tcp_each_message_has_its_length_and_a_lost_server_is_found_again() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let mut sink = sink(Transport::Tcp, &address.to_string());
    let (mut server, _) = listener.accept().unwrap();
    for _ in 0..2 {
        sink.write(&record()).unwrap();
        let mut length = String::new();
        let mut byte = [0];
        while server.read_exact(&mut byte).is_ok() && byte[0] != b' ' {
            length.push(char::from(byte[0]));
        }
        let mut message = vec![0; length.parse().unwrap()];
        server.read_exact(&mut message).unwrap();
        assert_eq!(parts(std::str::from_utf8(&message).unwrap()).1, record());
    }
    // The server goes: what is written fails at the latest when the kernel knows of it, and then it is back.
    drop(server);
    let failed = (0..100).find(|_| {
        std::thread::sleep(Duration::from_millis(1));
        sink.write(&record()).is_err()
    });
    assert!(failed.is_some());
    sink.write(&record()).unwrap();
    let (mut server, _) = listener.accept().unwrap();
    let mut start = [0; 4];
    server.read_exact(&mut start).unwrap();
    assert!(start[0].is_ascii_digit());
}

#[test]
fn a_server_that_is_not_there_is_no_reason_not_to_start() {
    // Bound and not listening: refused.
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    drop(taken);
    let mut sink = sink(Transport::Tcp, &address.to_string());
    assert!(sink.write(&record()).is_err());
    let listener = TcpListener::bind(address).unwrap();
    sink.write(&record()).unwrap();
    drop(listener);
    assert!(Syslog::open(Transport::Udp, "no port".to_owned(), Formatter::new(EventFormat::Json)).is_err());
}

#[test]
fn header_fields_are_printable() {
    assert_eq!(printable("büro host\n", 255), "brohost");
    assert_eq!(printable("\t", 255), "-");
    assert_eq!(printable("abcdef", 3), "abc");
}
