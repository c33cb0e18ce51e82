//! The whole of a container that sends from its first instruction on: a number and the time of the start, to every address
//! it is given. Compiled for itself and linked statically, so that it needs no image.

use std::net::UdpSocket;
use std::time::{Duration, SystemTime};

fn main() {
    let start = SystemTime::now();
    let arguments: Vec<String> = std::env::args().collect();
    let number: u64 = arguments[1].parse().expect("a number");
    let started = start.duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_nanos() as u64;
    let datagram = [number.to_be_bytes(), started.to_be_bytes()].concat();
    let socket = UdpSocket::bind("0.0.0.0:0").expect("a socket");
    // Bounded: whoever forgets it must not have it for ever.
    while start.elapsed().is_ok_and(|since| since < Duration::from_secs(1800)) {
        for target in &arguments[2..] {
            // There may be no way to send yet.
            let _unsent = socket.send_to(&datagram, target);
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}
