//! A container image without a registry and without an engine: an OCI layout (Image Format Specification 1.1) in a tar,
//! which also has what `docker load` of engines before 25 looks for. The same binary makes the same image.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::json;
use tar::{Builder, EntryType, Header};

use super::sha256;

const NAME: &str = "portcullis";

/// A file of the layout.
struct Blob {
    digest: String,
    bytes: Vec<u8>,
}

impl Blob {
    fn new(bytes: Vec<u8>) -> Self {
        Self { digest: sha256(&bytes), bytes }
    }

    fn json(value: &serde_json::Value) -> Result<Self> {
        Ok(Self::new(serde_json::to_vec(value)?))
    }

    fn path(&self) -> String {
        format!("blobs/sha256/{}", self.digest)
    }

    fn descriptor(&self, media_type: &str) -> serde_json::Value {
        json!({ "mediaType": media_type, "digest": format!("sha256:{}", self.digest), "size": self.bytes.len() })
    }
}

/// Writes the image to `file`.
pub(super) fn write(binary: &Path, version: &str, file: &Path) -> Result<()> {
    let layer = Blob::new(layer(&fs::read(binary)?)?);
    let config = Blob::json(&json!({
        "architecture": architecture(),
        "os": "linux",
        "config": {
            "Entrypoint": ["/usr/bin/portcullis"],
            "Cmd": ["run"],
            "Env": ["PATH=/usr/bin"],
            "Labels": {
                "org.opencontainers.image.title": "Portcullis",
                "org.opencontainers.image.version": version,
                "org.opencontainers.image.licenses": "MIT OR Apache-2.0",
            },
        },
        "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{}", layer.digest)] },
        "history": [{ "created_by": "cargo xtask dist" }],
    }))?;
    let manifest = Blob::json(&json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": config.descriptor("application/vnd.oci.image.config.v1+json"),
        "layers": [layer.descriptor("application/vnd.oci.image.layer.v1.tar")],
    }))?;
    let mut descriptor = manifest.descriptor("application/vnd.oci.image.manifest.v1+json");
    descriptor["annotations"] = json!({
        "org.opencontainers.image.ref.name": version,
        "io.containerd.image.name": format!("docker.io/library/{NAME}:{version}"),
    });
    let index = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [descriptor],
    });
    let for_old_engines = json!([{
        "Config": config.path(),
        "RepoTags": [format!("{NAME}:{version}"), format!("{NAME}:latest")],
        "Layers": [layer.path()],
    }]);
    let mut tar =
        Builder::new(File::create(file).with_context(|| format!("failed to write `{}`", file.display()))?);
    folder(&mut tar, "blobs/")?;
    folder(&mut tar, "blobs/sha256/")?;
    for blob in [&layer, &config, &manifest] {
        put(&mut tar, &blob.path(), &blob.bytes, 0o644)?;
    }
    put(&mut tar, "index.json", &serde_json::to_vec(&index)?, 0o644)?;
    put(&mut tar, "manifest.json", &serde_json::to_vec(&for_old_engines)?, 0o644)?;
    put(&mut tar, "oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#, 0o644)?;
    tar.into_inner()?.flush()?;
    Ok(())
}

/// The only layer: the binary, and the folders that are mounted over.
fn layer(binary: &[u8]) -> Result<Vec<u8>> {
    let mut tar = Builder::new(Vec::new());
    let folders = [
        "etc/",
        "etc/portcullis/",
        "etc/portcullis/policy.d/",
        "run/",
        "run/portcullis/",
        "sys/",
        "proc/",
        "usr/",
        "usr/bin/",
        "var/",
        "var/lib/",
        "var/lib/portcullis/",
    ];
    for name in folders {
        folder(&mut tar, name)?;
    }
    put(&mut tar, "usr/bin/portcullis", binary, 0o755)?;
    Ok(tar.into_inner()?)
}

/// As the specification calls it, after Go.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn folder(tar: &mut Builder<impl Write>, name: &str) -> Result<()> {
    let mut header = Header::new_ustar();
    header.set_entry_type(EntryType::Directory);
    header.set_mode(0o755);
    header.set_size(0);
    tar.append_data(&mut header, name, &[][..])?;
    Ok(())
}

fn put(tar: &mut Builder<impl Write>, name: &str, bytes: &[u8], mode: u32) -> Result<()> {
    let mut header = Header::new_ustar();
    header.set_mode(mode);
    header.set_size(bytes.len() as u64);
    tar.append_data(&mut header, name, bytes)?;
    Ok(())
}
