//! The HTTP endpoints over a real socket.

use std::net::SocketAddr;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::oneshot,
    task::JoinHandle,
    time::timeout,
};

use super::*;
use crate::http::{self, Limits};

struct Server {
    address: SocketAddr,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

async fn serve(rig: &Rig, limits: Limits) -> Server {
    let listener = server::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap();
    let address = listener.local_addr().unwrap();
    let router = server::router(Arc::clone(&rig.telemetry), rig.state.subscribe(), None);
    let (stop, stopped) = oneshot::channel::<()>();
    let task = tokio::spawn(http::serve(listener, router, limits, async move {
        drop(stopped.await);
    }));
    Server { address, stop, task }
}

/// The whole answer to a request that lets the server close.
async fn get(address: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    timeout(Duration::from_secs(10), stream.read_to_string(&mut answer)).await.unwrap().unwrap();
    answer
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn endpoints_answer() {
    let rig = Rig::new(fixture::state());
    rig.counters.set(fixture::reading());
    let server = serve(&rig, Limits::default()).await;

    let metrics = get(server.address, "/metrics").await;
    assert!(metrics.starts_with("HTTP/1.1 200"), "{metrics}");
    assert!(metrics.to_lowercase().contains("content-type: text/plain; version=0.0.4\r\n"));
    assert!(metrics.contains(&format!("{} 7\n", attempts(MAILPIT_TO_TRUST))));

    assert!(get(server.address, "/healthz").await.ends_with("\r\n\r\nok\n"));
    let landing = get(server.address, "/").await;
    for path in ["/metrics", "/healthz", "/readyz"] {
        assert!(landing.contains(&format!("href=\"{path}\"")));
    }
    assert!(get(server.address, "/secret").await.starts_with("HTTP/1.1 404"));

    server.stop.send(()).unwrap();
    timeout(Duration::from_secs(10), server.task).await.unwrap().unwrap();
    assert!(TcpStream::connect(server.address).await.is_err());
}

#[tokio::test]
async fn ready_only_when_everything_is_enforced() {
    let rig = Rig::new(AgentState::default());
    let server = serve(&rig, Limits::default()).await;
    let answer = get(server.address, "/readyz").await;
    assert!(answer.starts_with("HTTP/1.1 503") && answer.ends_with("not ready: starting\n"), "{answer}");

    let mut state = fixture::state();
    state.ready = false;
    state.ports.get_mut(&9).unwrap().ready = false;
    rig.state.send_replace(Arc::new(state));
    let answer = get(server.address, "/readyz").await;
    assert!(answer.ends_with("not ready: 1 of 3 ports are not enforced yet\n"), "{answer}");

    rig.state.send_replace(Arc::new(fixture::state()));
    let answer = get(server.address, "/readyz").await;
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("ready\n"), "{answer}");
}

#[tokio::test]
async fn a_taken_port_is_named() {
    let taken = server::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap();
    let address = taken.local_addr().unwrap();
    let error = server::bind(address).await.unwrap_err();
    assert_eq!(error.to_string(), format!("cannot listen on `{address}`"));
    assert!(error.hint().unwrap().contains(&format!("sport = :{}", address.port())));
}

#[tokio::test]
async fn idle_connections_do_not_keep_others_out() {
    let rig = Rig::new(fixture::state());
    let limits = Limits { connections: 2, header: Duration::from_millis(200), ..Limits::default() };
    let server = serve(&rig, limits).await;
    let mut idle = Vec::new();
    for _ in 0..4 {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        stream.write_all(b"GET / HT").await.unwrap();
        idle.push(stream);
    }
    assert!(get(server.address, "/healthz").await.ends_with("ok\n"));
}

#[tokio::test]
async fn an_open_connection_does_not_hold_up_the_end() {
    let rig = Rig::new(fixture::state());
    let limits = Limits { drain: Duration::from_millis(200), ..Limits::default() };
    let server = serve(&rig, limits).await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream.write_all(b"GET /healthz HTTP/1.1\r\n").await.unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    server.stop.send(()).unwrap();
    timeout(Duration::from_secs(3), server.task).await.unwrap().unwrap();
}
