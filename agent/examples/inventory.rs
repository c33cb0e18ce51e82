//! Prints every inventory update as a JSON line: `inventory [--file FILE | URL]`. For labs and curiosity.

use std::{
    io::Write,
    path::PathBuf,
    time::{SystemTime, UNIX_EPOCH},
};

use portcullis::inventory::{self, Source};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .init();
    let mut arguments = std::env::args().skip(1);
    let source = match arguments.next().as_deref() {
        Some("--file") => Source::File(PathBuf::from(arguments.next().unwrap_or_default())),
        url => Source::Docker { url: url.map(str::to_owned) },
    };
    let handle = inventory::start(source)?;
    let mut updates = handle.updates();
    while updates.changed().await.is_ok() {
        let update = updates.borrow_and_update().clone();
        let time = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs_f64();
        let line = serde_json::json!({
            "time": time,
            "connected": update.connected,
            "complete": update.complete,
            "error": update.error,
            "snapshot": *update.snapshot,
        });
        writeln!(std::io::stdout().lock(), "{line}")?;
    }
    Ok(())
}
