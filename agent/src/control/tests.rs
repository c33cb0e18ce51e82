//! The socket and its client, end to end.

use std::{
    fs,
    os::unix::{fs::PermissionsExt, net::UnixListener},
    path::PathBuf,
    time::Duration,
};

use tokio::{sync::oneshot, task::JoinHandle, time::timeout};

use super::*;
use crate::{
    control::client::ControlError,
    events::{EventPipeline, decode::decode},
    http::{self, Limits},
    state::fixture::{self, CLOCK_OFFSET},
    telemetry::source::MemoryCounters,
};

struct Agent {
    recent: Arc<Recent>,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
    _state: watch::Sender<Arc<AgentState>>,
}

fn start(path: &Path) -> Agent {
    let socket = ControlSocket::bind(path).unwrap();
    let (state, receiver) = watch::channel(Arc::new(fixture::state()));
    let counters = Arc::new(MemoryCounters::default());
    counters.set(fixture::reading());
    let recent = Arc::new(Recent::default());
    let router = router(receiver, counters, Arc::clone(&recent));
    let (stop, stopped) = oneshot::channel::<()>();
    let task = tokio::spawn(http::serve(socket, router, Limits::default(), async move {
        drop(stopped.await);
    }));
    Agent { recent, stop, task, _state: state }
}

fn socket_path(directory: &tempfile::TempDir) -> PathBuf {
    directory.path().join("run").join("portcullis.sock")
}

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().permissions().mode() & 0o777
}

#[tokio::test]
async fn a_round_trip() {
    let directory = tempfile::tempdir().unwrap();
    let path = socket_path(&directory);
    let agent = start(&path);
    assert_eq!(mode(&path), 0o600);
    assert_eq!(mode(path.parent().unwrap()), 0o700);
    assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "nothing but the socket is left");

    let status: Status = client::get(&path, STATUS).await.unwrap();
    assert_eq!(status.schema, "portcullis.status/v1");
    assert_eq!(status.revision, 12);

    let none: RecentEvents = client::get(&path, RECENT_EVENTS).await.unwrap();
    assert_eq!((none.schema.as_str(), none.events.len(), none.next), ("portcullis.events/v1", 0, 0));
    let pipeline = EventPipeline::new(Arc::clone(&agent.recent), None);
    for _ in 0..3 {
        pipeline.handle(&fixture::bytes(&fixture::event()), &fixture::state(), CLOCK_OFFSET).unwrap();
    }
    let all: RecentEvents = client::get(&path, RECENT_EVENTS).await.unwrap();
    assert_eq!((all.events.len(), all.next), (3, 3));
    let expected =
        Record::new(&decode(&fixture::bytes(&fixture::event())).unwrap(), &fixture::state(), CLOCK_OFFSET);
    assert_eq!(all.events[0], expected);
    let new: RecentEvents = client::get(&path, &format!("{RECENT_EVENTS}?from=2")).await.unwrap();
    assert_eq!(new.events.len(), 1);

    let refused = client::get::<RecentEvents>(&path, &format!("{RECENT_EVENTS}?last=2")).await.unwrap_err();
    assert_eq!(refused.to_string(), "agent answered `400 Bad Request`: expected `from=NUMBER`");

    agent.stop.send(()).unwrap();
    timeout(Duration::from_secs(10), agent.task).await.unwrap().unwrap();
    assert!(!path.exists(), "the socket goes away with the agent");
}

#[tokio::test]
async fn a_live_agent_is_not_replaced_and_a_dead_one_is() {
    let directory = tempfile::tempdir().unwrap();
    let path = socket_path(&directory);
    fs::create_dir(path.parent().unwrap()).unwrap();
    drop(UnixListener::bind(&path).unwrap());
    assert!(path.exists(), "a stale socket");

    let agent = start(&path);
    let error = ControlSocket::bind(&path).unwrap_err();
    assert_eq!(error.to_string(), format!("another agent answers on `{}`", path.display()));
    assert!(error.hint().is_some());
    drop(client::get::<Status>(&path, STATUS).await.unwrap());

    // Somebody else's socket stays when this agent ends.
    fs::remove_file(&path).unwrap();
    let _other = UnixListener::bind(&path).unwrap();
    agent.stop.send(()).unwrap();
    timeout(Duration::from_secs(10), agent.task).await.unwrap().unwrap();
    assert!(path.exists());
}

#[tokio::test]
async fn a_file_in_the_way_is_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("notes.txt");
    fs::write(&path, "precious").unwrap();
    assert!(matches!(ControlSocket::bind(&path), Err(BindError::NotASocket { .. })));
    assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
}

#[tokio::test]
async fn a_missing_or_dead_agent_is_said_to_be_so() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("portcullis.sock");
    let missing = client::get::<Status>(&path, STATUS).await.unwrap_err();
    assert_eq!(missing.to_string(), format!("agent is not running: nobody answers on `{}`", path.display()));
    assert!(missing.hint().unwrap().contains("--control"));
    drop(UnixListener::bind(&path).unwrap());
    let dead = client::get::<Status>(&path, STATUS).await.unwrap_err();
    assert!(matches!(dead, ControlError::NotRunning { .. }));
}

#[tokio::test]
async fn an_agent_that_hangs_is_given_up_on() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("portcullis.sock");
    let _silent = UnixListener::bind(&path).unwrap();
    let error = client::get_within::<Status>(&path, STATUS, Duration::from_millis(50)).await.unwrap_err();
    assert!(matches!(error, ControlError::TimedOut { .. }), "{error}");
}
