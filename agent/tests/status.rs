//! `portcullis status` as a user runs it, against no agent, and against the control socket of one.

use std::{path::Path, sync::Arc};

use assert_cmd::Command;
use portcullis::{
    control::{self, ControlSocket},
    events::recent::Recent,
    http::{self, Limits},
    state::AgentState,
    telemetry::source::MemoryCounters,
};
use tokio::{sync::watch, task::spawn_blocking};

fn portcullis(control: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_portcullis"));
    command.arg("status").arg("--control").arg(control).args(arguments);
    command
}

#[test]
fn without_an_agent_it_says_so_and_what_to_do() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("portcullis.sock");
    let output = portcullis(&path, &[]).assert().code(2).get_output().clone();
    assert!(output.stdout.is_empty());
    assert_eq!(
        String::from_utf8(output.stderr).unwrap(),
        format!(
            "error: agent is not running: nobody answers on `{}`\n\
             hint: start it with `portcullis run`, or name its socket with `--control`\n",
            path.display()
        )
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_an_agent_it_prints_text_and_json() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("portcullis.sock");
    let (state, receiver) = watch::channel(Arc::new(AgentState { ready: true, ..AgentState::default() }));
    let router = control::router(receiver, Arc::new(MemoryCounters::default()), Arc::new(Recent::default()));
    let socket = ControlSocket::bind(&path).unwrap();
    let server = tokio::spawn(http::serve(socket, router, Limits::default(), std::future::pending()));

    let [text, json] = [vec![], vec!["-o", "json"]].map(|arguments| {
        let path = path.clone();
        spawn_blocking(move || portcullis(&path, &arguments).assert().success().get_output().clone())
    });
    let (text, json) = (text.await.unwrap(), json.await.unwrap());
    assert!(String::from_utf8(text.stdout).unwrap().starts_with("portcullis "));
    let json: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(json["schema"], "portcullis.status/v1");
    assert_eq!(json["ready"], true);
    server.abort();
    drop(state);
}
