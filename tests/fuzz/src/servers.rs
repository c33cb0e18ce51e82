//! TCP listeners on every port in every namespace. Whoever connects is sent back what it sends.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Result;
use lab::netns::within;

use crate::town::TCP_PORTS;

/// The listeners, and from [`Servers::start`] on the thread that answers for all of them.
#[derive(Debug, Default)]
pub struct Servers {
    listeners: Vec<TcpListener>,
    ended: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Servers {
    /// Listens in a namespace.
    pub fn listen(&mut self, netns: &Path) -> Result<()> {
        for port in TCP_PORTS {
            let listener =
                within(netns, move || TcpListener::bind(SocketAddr::from((Ipv6Addr::UNSPECIFIED, port))))??;
            listener.set_nonblocking(true)?;
            self.listeners.push(listener);
        }
        Ok(())
    }

    /// Begins to answer.
    #[must_use]
    pub fn start(mut self) -> Self {
        let (listeners, ended) = (std::mem::take(&mut self.listeners), Arc::clone(&self.ended));
        self.thread = Some(std::thread::spawn(move || serve(&listeners, &ended)));
        self
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

fn serve(listeners: &[TcpListener], ended: &AtomicBool) {
    let mut streams: Vec<TcpStream> = Vec::new();
    while !ended.load(Ordering::Relaxed) {
        for listener in listeners {
            while let Ok((stream, _)) = listener.accept() {
                if stream.set_nonblocking(true).is_ok() {
                    streams.push(stream);
                }
            }
        }
        streams.retain_mut(echo);
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Whether the stream is still open.
fn echo(stream: &mut TcpStream) -> bool {
    let mut buffer = [0_u8; 4096];
    match stream.read(&mut buffer) {
        Ok(0) => false,
        Ok(read) => stream.write_all(&buffer[..read]).is_ok(),
        Err(error) => matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted),
    }
}
