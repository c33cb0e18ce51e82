//! Writes the archive that a kernel unpacks as its first file system: cpio, format `newc`.

use std::collections::BTreeSet;
use std::path::Path;

/// An archive in memory.
#[derive(Default)]
pub(super) struct Archive {
    bytes: Vec<u8>,
    folders: BTreeSet<String>,
    next: u32,
}

const FOLDER: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
const LINK: u32 = 0o120_777;
const CONSOLE: u32 = 0o020_600;

impl Archive {
    /// Adds a file that may be run, and the folders above it.
    pub(super) fn file(&mut self, path: &str, contents: &[u8]) {
        self.folders_above(path);
        self.entry(path, PROGRAM, contents, (0, 0));
    }

    /// Adds a symbolic link.
    pub(super) fn link(&mut self, path: &str, target: &str) {
        self.folders_above(path);
        self.entry(path, LINK, target.as_bytes(), (0, 0));
    }

    /// Adds a folder and those above it.
    pub(super) fn folder(&mut self, path: &str) {
        self.folders_above(path);
        if self.folders.insert(path.trim_start_matches('/').to_owned()) {
            self.entry(path, FOLDER, &[], (0, 0));
        }
    }

    /// Adds the console, without which the first program has no output.
    pub(super) fn console(&mut self) {
        self.folders_above("/dev/console");
        self.entry("/dev/console", CONSOLE, &[], (5, 1));
    }

    /// The finished archive.
    pub(super) fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, &[], (0, 0));
        self.bytes
    }

    fn folders_above(&mut self, path: &str) {
        if let Some(parent) = Path::new(path).parent().and_then(Path::to_str)
            && !parent.trim_start_matches('/').is_empty()
        {
            self.folder(parent);
        }
    }

    fn entry(&mut self, path: &str, mode: u32, contents: &[u8], device: (u32, u32)) {
        let name = path.trim_start_matches('/');
        self.next += 1;
        let links = 1;
        let sizes = [contents.len(), name.len() + 1].map(|size| u32::try_from(size).unwrap_or(u32::MAX));
        let fields = [self.next, mode, 0, 0, links, 0, sizes[0], 0, 0, device.0, device.1, sizes[1], 0];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08X}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(contents);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_padded_to_words_and_follows_its_folders() {
        let mut archive = Archive::default();
        archive.file("/a/b", b"hello");
        let bytes = archive.finish();
        assert_eq!(bytes.len() % 4, 0);
        assert!(bytes.starts_with(b"07070100000001000041ED"));
        let text = String::from_utf8_lossy(&bytes);
        assert!(text.contains("a/b\0") && text.contains("hello\0\0\0") && text.contains("TRAILER!!!"));
    }
}
