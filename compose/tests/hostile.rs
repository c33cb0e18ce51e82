//! Files that nobody would write: the loader says no, or yes, but never panics, and always ends.

#![expect(clippy::unwrap_used, reason = "tests panic")]

use std::{fs, path::Path, time::Instant};

use compose::{Loaded, Request, load};

/// Numbers that look random and are the same in every run (xorshift).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % u64::try_from(end.max(1)).unwrap()).unwrap()
    }
}

/// What is put in: signs that mean something to YAML, to Compose or to nobody.
const PIECES: [&str; 24] = [
    ":",
    ": ",
    "-",
    "- ",
    "{",
    "}",
    "[",
    "]",
    "\"",
    "'",
    "#",
    "&a",
    "*a",
    "<<: ",
    "!reset ",
    "!override ",
    "$",
    "${",
    "\n",
    "\t",
    "\u{0}",
    "é",
    "99999999999999999999",
    "x-",
];

fn changed(text: &str, numbers: &mut Numbers) -> String {
    let mut text: Vec<char> = text.chars().collect();
    for _ in 0..=numbers.below(2) {
        let at = numbers.below(text.len() + 1);
        match numbers.below(3) {
            0 => {
                let end = (at + numbers.below(12)).min(text.len());
                text.drain(at..end);
            }
            1 => {
                let piece: Vec<char> = PIECES[numbers.below(PIECES.len())].chars().collect();
                text.splice(at..at, piece);
            }
            _ => {
                let from = numbers.below(text.len() + 1);
                let end = (from + numbers.below(40)).min(text.len());
                let copy = text[from..end].to_vec();
                text.splice(at..at, copy);
            }
        }
    }
    text.into_iter().collect()
}

#[test]
fn changed_files_never_panic() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/compose");
    let folder = tempfile::tempdir().unwrap();
    let mut numbers = Numbers(0x5eed);
    let (mut loaded, mut refused) = (0, 0);
    for entry in fs::read_dir(corpus).unwrap() {
        let text = fs::read_to_string(entry.unwrap().path()).unwrap();
        // The first file of a case.
        let Some(first) = text.split("\n-- ").nth(1) else {
            continue;
        };
        let body = first.split_once('\n').map_or("", |(_, body)| body);
        for _ in 0..100 {
            let text = changed(body, &mut numbers);
            let start = Instant::now();
            let Loaded { sources, project, .. } = load(&Request {
                files: vec!["-".into()],
                standard_input: Some(text.clone()),
                working_directory: folder.path().to_owned(),
                project_name: Some("p".to_owned()),
                ..Request::default()
            });
            assert!(start.elapsed().as_secs() < 20, "{text}");
            match project {
                Ok(project) => {
                    loaded += 1;
                    let _printed = compose::emit(&project);
                }
                Err(faults) => {
                    refused += 1;
                    assert!(!faults.is_empty(), "{text}");
                    for span in faults.iter().filter_map(|fault| fault.span) {
                        let source = &sources.files[span.source];
                        assert!(span.start <= source.text.len(), "{span:?} in {text}");
                    }
                }
            }
        }
    }
    assert!(loaded > 500 && refused > 500, "{loaded} loaded, {refused} refused");
}
