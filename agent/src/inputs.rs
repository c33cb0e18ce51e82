//! Everything that reads bytes of others, as functions of those bytes: for `tests/inputs`, which calls them with whatever
//! a fuzzer thinks of. None of them may panic, and none may take memory that the bytes do not justify.

use std::{io, net::IpAddr, path::Path, sync::Arc};

use axum::serve::Listener;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream},
    sync::{mpsc, watch},
};

use crate::{
    config, control, diagnostics,
    events::{decode::decode, recent::Recent, record::Record},
    http::{self, Limits},
    inventory::{
        docker, file,
        identity::IdentityRegistry,
        links::{Links, Moment},
        merge::{Known, merge},
        netlink as following, resolvers,
        snapshot::{Endpoint, Snapshot},
    },
    netlink as asking,
    policy::{self, Source},
    state::AgentState,
    status::Status,
    telemetry::source::MemoryCounters,
};

/// An input and what reads it.
pub type Input = (&'static str, fn(&[u8]));

/// Every input by its name.
pub const ALL: [Input; 7] = [
    ("policy", policy),
    ("settings", settings),
    ("inventory", inventory),
    ("engine", engine),
    ("netlink", netlink),
    ("record", record),
    ("control", control),
];

/// A policy: read, validated, rendered if it is wrong, resolved if it is right.
fn policy(bytes: &[u8]) {
    let source = Source { name: "policy.yaml".to_owned(), text: String::from_utf8_lossy(bytes).into_owned() };
    for profile in [None, Some("production")] {
        let loaded = policy::load(std::slice::from_ref(&source), profile);
        drop(diagnostics::render(&loaded.diagnostics, true));
        if let Some(set) = loaded.policies {
            drop(policy::resolve(&set, &host(), &mut IdentityRegistry::default()));
        }
    }
}

/// Containers that the seeds' policies are about.
fn host() -> Snapshot {
    let endpoint = |project: &str, service: &str, last: u8| Endpoint {
        container_id: format!("{project}{service}"),
        container: format!("{project}-{service}-1"),
        project: Some(project.to_owned()),
        service: Some(service.to_owned()),
        labels: [("tier".to_owned(), service.to_owned())].into(),
        network: String::new(),
        bridge: String::new(),
        port: None,
        mac: None,
        addresses: vec![IpAddr::from([198, 51, 100, last])],
        published: Vec::new(),
        resolvers: vec![IpAddr::from([192, 0, 2, 53])],
    };
    let names = [("shop", "web"), ("shop", "db"), ("qerds", "mailpit"), ("myapp-dev", "backend")];
    let endpoints = names.iter().zip(2..).map(|(&(project, service), last)| endpoint(project, service, last));
    Snapshot { endpoints: endpoints.collect(), ..Snapshot::default() }
}

/// `agent.yaml`.
fn settings(bytes: &[u8]) {
    if let Ok(file) = config::parse(&String::from_utf8_lossy(bytes)) {
        drop(file.complete());
    }
}

/// An inventory file, merged with no interfaces at all.
fn inventory(bytes: &[u8]) {
    if let Ok(listed) = file::parse(&String::from_utf8_lossy(bytes), Path::new("inventory.yaml")) {
        drop(merge(Known::File(&listed), &Links::default()));
    }
}

/// What an engine answers, and the resolver files beside it.
fn engine(bytes: &[u8]) {
    docker::read_anything(bytes);
    let text = String::from_utf8_lossy(bytes);
    drop(resolvers::of_container(&text));
    drop(resolvers::of_host(&text, Some(&text)));
}

/// A buffer of netlink messages: as notifications, and as the answers to a question.
fn netlink(bytes: &[u8]) {
    let mut links = Links::default();
    for change in following::read_anything(bytes) {
        links.apply(change, Moment(0));
    }
    let mut rest = bytes;
    while let Some((kind, payload, next)) = asking::message(rest) {
        if let Some(change) = following::read_one(kind, payload) {
            links.apply(change, Moment(1));
        }
        crate::datapath::read_filter(payload);
        rest = next;
    }
    drop(merge(Known::File(&[]), &links));
}

/// A clock's offset and a record of the ring buffer, to the line that people read.
fn record(bytes: &[u8]) {
    let Some((offset, bytes)) = bytes.split_first_chunk() else { return };
    if let Ok(denial) = decode(bytes) {
        let record = Record::new(&denial, &AgentState::default(), i64::from_ne_bytes(*offset));
        drop((record.line(), serde_json::to_string(&record)));
    }
}

/// What comes in on the control socket, and what an agent of another version may answer there.
fn control(bytes: &[u8]) {
    drop(serde_json::from_slice::<Status>(bytes));
    drop(serde_json::from_slice::<control::RecentEvents>(bytes));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
    if let Ok(runtime) = runtime {
        runtime.block_on(converse(bytes));
    }
}

/// Says these bytes on a connection, and nothing more; waits for all that is answered.
async fn converse(bytes: &[u8]) {
    const ROOM: usize = 1 << 20;
    let (sender, connections) = mpsc::channel(1);
    let (mut ours, theirs) = tokio::io::duplex(ROOM);
    let (_state, state) = watch::channel(Arc::default());
    let router = control::router(state, Arc::new(MemoryCounters::default()), Arc::new(Recent::default()));
    let (_stop, mut stopped) = watch::channel(());
    let serving = http::serve(Connections(connections), router, Limits::default(), async move {
        drop(stopped.changed().await);
    });
    let talking = async {
        drop(sender.send(theirs).await);
        drop(ours.write_all(bytes).await);
        drop(ours.shutdown().await);
        drop(ours.read_to_end(&mut Vec::new()).await);
    };
    tokio::select! {
        () = serving => {}
        () = talking => {}
    }
}

/// Connections that are made in this process.
struct Connections(mpsc::Receiver<DuplexStream>);

impl Listener for Connections {
    type Io = DuplexStream;
    type Addr = ();

    async fn accept(&mut self) -> (DuplexStream, ()) {
        match self.0.recv().await {
            Some(connection) => (connection, ()),
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<()> {
        Ok(())
    }
}
