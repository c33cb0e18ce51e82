//! Files are appended to and survive rotation; the journal gets fields.

use std::{fs, os::unix::net::UnixDatagram, path::Path};

use super::*;
use crate::{
    events::{decode::decode, format::EventFormat},
    state::fixture::{self, CLOCK_OFFSET},
};

fn record() -> Record {
    Record::new(&decode(&fixture::bytes(&fixture::event())).unwrap(), &fixture::state(), CLOCK_OFFSET)
}

fn own() -> Formatter {
    Formatter::new(EventFormat::Json)
}

fn open(path: &Path) -> io::Result<Box<dyn Sink>> {
    Target::File(path.to_owned()).open(own(), Rotation::DEFAULT)
}

#[test]
fn targets() {
    assert_eq!("-".parse(), Ok(Target::Stdout));
    assert_eq!("journald".parse(), Ok(Target::Journald));
    assert_eq!("/var/log/denied.jsonl".parse(), Ok(Target::File(PathBuf::from("/var/log/denied.jsonl"))));
    let server = "[2001:db8::7]:6514".to_owned();
    assert_eq!("syslog+tcp://[2001:db8::7]:6514/".parse(), Ok(Target::Syslog(Transport::Tcp, server)));
    assert_eq!("syslog+udp://siem:514".parse(), Ok(Target::Syslog(Transport::Udp, "siem:514".to_owned())));
    assert_eq!("syslog://siem:514".parse::<Target>(), Err(TargetError::Scheme("syslog".to_owned())));
    assert_eq!("".parse::<Target>(), Err(TargetError::Empty));
}

#[test]
fn a_file_is_appended_to_and_opened_again_after_rotation() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("events.jsonl");
    let rotated = directory.path().join("events.jsonl.1");
    fs::write(&path, "{}\n").unwrap();
    let mut sink = open(&path).unwrap();
    sink.write(&record()).unwrap();
    fs::rename(&path, &rotated).unwrap();
    sink.write(&record()).unwrap();
    sink.write(&record()).unwrap();

    assert_eq!(fs::read_to_string(&rotated).unwrap().lines().count(), 2);
    let text = fs::read_to_string(&path).unwrap();
    let records: Vec<Record> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(records, [record(), record()]);
}

#[test]
fn a_file_that_cannot_be_opened_is_an_error_at_once_and_tried_again_later() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("logs").join("events.jsonl");
    assert!(open(&path).is_err());

    fs::create_dir(path.parent().unwrap()).unwrap();
    let mut sink = open(&path).unwrap();
    fs::remove_dir_all(path.parent().unwrap()).unwrap();
    assert!(sink.write(&record()).is_err());
    fs::create_dir(path.parent().unwrap()).unwrap();
    sink.write(&record()).unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap().lines().filter(|line| !line.is_empty()).count(), 1);
}

#[test]
fn a_file_never_takes_more_than_its_room_and_the_oldest_goes() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("events.jsonl");
    let line = own().json(&record()).unwrap().len() as u64 + 1;
    let rotation = Rotation { max_bytes: 3 * line, keep: 2 };
    let lines = |name: &str| {
        let text = fs::read_to_string(directory.path().join(name)).ok()?;
        assert!(text.lines().all(|line| serde_json::from_str::<Record>(line).is_ok()));
        Some(text.lines().count())
    };
    let mut sink = Target::File(path.clone()).open(own(), rotation).unwrap();
    for _ in 0..4 {
        sink.write(&record()).unwrap();
    }
    assert_eq!(
        (lines("events.jsonl"), lines("events.jsonl.1"), lines("events.jsonl.2")),
        (Some(1), Some(3), None)
    );
    // What was there before counts, also for an agent that has just started.
    let mut sink = Target::File(path).open(own(), rotation).unwrap();
    for _ in 0..20 {
        sink.write(&record()).unwrap();
    }
    assert_eq!(
        (lines("events.jsonl"), lines("events.jsonl.1"), lines("events.jsonl.2")),
        (Some(3), Some(3), Some(3))
    );
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 3);

    let none = Rotation { max_bytes: 1, keep: 0 };
    let alone = directory.path().join("alone.jsonl");
    let mut sink = Target::File(alone).open(own(), none).unwrap();
    for _ in 0..3 {
        sink.write(&record()).unwrap();
    }
    assert_eq!((lines("alone.jsonl"), lines("alone.jsonl.1")), (Some(1), None));
}

#[test]
fn the_journal_gets_a_message_and_fields() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("socket");
    let journald = UnixDatagram::bind(&path).unwrap();
    let mut sink = Journal::open(path.clone(), own()).unwrap();
    let mut record = record();
    record.rule = Some("two\nlines".to_owned());
    sink.write(&record).unwrap();

    let mut buffer = vec![0; 65_536];
    let length = journald.recv(&mut buffer).unwrap();
    let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
    for field in [
        "PRIORITY=3\n",
        "SYSLOG_IDENTIFIER=portcullis\n",
        "PORTCULLIS_REASON=no_rule\n",
        "PORTCULLIS_REVISION=12\n",
        "PORTCULLIS_SOURCE_SERVICE=mailpit\n",
        "PORTCULLIS_DESTINATION_PORT=8080\n",
        "PORTCULLIS_RULE\n\u{9}\0\0\0\0\0\0\0two\nlines\n",
    ] {
        assert!(text.contains(field), "{field:?} in {text}");
    }

    // journald restarts: one record is lost, the next arrives.
    drop(journald);
    fs::remove_file(&path).unwrap();
    let journald = UnixDatagram::bind(&path).unwrap();
    assert!(sink.write(&record).is_err());
    sink.write(&record).unwrap();
    assert!(journald.recv(&mut buffer).unwrap() > 0);
}
