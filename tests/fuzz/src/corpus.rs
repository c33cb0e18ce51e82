//! Frames kept from one run for the next: one file each, to be read by people as well.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::frame::{Expected, Frame, Way, numbers};
use crate::town::Points;

/// How many frames of one label are worth keeping.
const ENOUGH: usize = 2;
const SUFFIX: &str = "frame";

/// A directory of frames.
#[derive(Debug)]
pub struct Corpus {
    directory: PathBuf,
    kept: BTreeMap<String, usize>,
}

impl Corpus {
    /// Opens a directory, or makes it, and reads what it holds.
    pub fn open(directory: &Path) -> Result<(Self, Vec<Frame>)> {
        fs::create_dir_all(directory).with_context(|| format!("failed to make `{}`", directory.display()))?;
        let mut paths: Vec<PathBuf> = fs::read_dir(directory)?
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| path.extension().is_some_and(|suffix| suffix == SUFFIX))
            .collect();
        paths.sort();
        let mut corpus = Self { directory: directory.to_path_buf(), kept: BTreeMap::new() };
        let mut frames = Vec::new();
        for path in paths {
            let text = fs::read_to_string(&path)?;
            let frame = read(&text).with_context(|| format!("`{}` is not a frame", path.display()))?;
            *corpus.kept.entry(frame.label.to_string()).or_default() += 1;
            frames.push(frame);
        }
        Ok((corpus, frames))
    }

    /// Keeps a frame unless there are enough of its kind.
    pub fn keep(&mut self, frame: &Frame) -> Result<()> {
        let kept = self.kept.entry(frame.label.to_string()).or_default();
        if *kept >= ENOUGH {
            return Ok(());
        }
        *kept += 1;
        self.write("", frame)
    }

    /// Keeps a frame that should not have come through, or should have.
    pub fn keep_finding(&self, frame: &Frame) -> Result<()> {
        self.write("finding-", frame)
    }

    fn write(&self, prefix: &str, frame: &Frame) -> Result<()> {
        let name: String =
            frame.label.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
        let number = numbers(&frame.bytes).next().map_or(0, |(_, number)| number);
        let path = self.directory.join(format!("{prefix}{name}-{number:08x}.{SUFFIX}"));
        fs::write(&path, text(frame)).with_context(|| format!("failed to write `{}`", path.display()))
    }
}

/// The file of a frame.
#[must_use]
pub fn text(frame: &Frame) -> String {
    let Expected { may, must, answered } = frame.expected;
    format!(
        "label {}\nmay {}\nmust {}\nanswered {answered}\nway {}\nbytes {}\n",
        frame.label,
        may.names(),
        must.names(),
        frame.way.name(),
        hexadecimal(&frame.bytes)
    )
}

/// Bytes as people write them.
#[must_use]
pub fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn read(text: &str) -> Result<Frame> {
    let fields: BTreeMap<&str, &str> = text.lines().filter_map(|line| line.split_once(' ')).collect();
    let field = |name: &str| fields.get(name).copied().with_context(|| format!("no `{name}`"));
    let points = |name: &str| Points::read(field(name)?).with_context(|| format!("`{name}` names nobody"));
    let way = match field("way")? {
        "ring" => Way::Ring,
        "message" => Way::Message,
        other => bail!("`{other}` is no way to send"),
    };
    let bytes = field("bytes")?;
    let bytes: Result<Vec<u8>> = (0..bytes.len() / 2)
        .map(|at| {
            let pair = bytes.get(2 * at..2 * at + 2).context("not hexadecimal")?;
            u8::from_str_radix(pair, 16).context("not hexadecimal")
        })
        .collect();
    let bytes = bytes?;
    if !(14..=1540).contains(&bytes.len()) {
        bail!("{} bytes are no frame", bytes.len());
    }
    let answered = field("answered")? == "true";
    let expected = Expected { may: points("may")?, must: points("must")?, answered };
    Ok(Frame { bytes, label: Cow::Owned(field("label")?.to_owned()), expected, way })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_read_as_it_was_written() {
        let frame = Frame {
            bytes: (0..40).collect(),
            label: Cow::Borrowed("class: variant"),
            expected: Expected::exactly(Points::VICTIM),
            way: Way::Ring,
        };
        assert_eq!(read(&text(&frame)).unwrap(), frame);
        assert!(read("label x\n").is_err());
        assert!(read(&text(&frame).replace("victim", "nobody")).is_err());
    }
}
