//! Log lines of the process, `log` records of libraries included. Logging is set up once per process, so this file
//! has one test, which runs itself again as the process to look at.

use std::{
    io,
    process::{Command, Output},
};

use portcullis::telemetry::logging::{self, LogFormat, LoggingError};

const CHILD: &str = "PORTCULLIS_TEST_LOGGING";

fn child(format: &str, environment: &[(&str, &str)]) -> io::Result<Output> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["--exact", "log_lines", "--nocapture"]).env_remove("RUST_LOG").env_remove("JOURNAL_STREAM");
    command.env(CHILD, format).envs(environment.iter().copied()).output()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn log_lines() {
    if let Ok(format) = std::env::var(CHILD) {
        let format = if format == "text" { LogFormat::Text } else { LogFormat::Auto };
        logging::init(format, None).unwrap();
        tracing::info!(ports = 3, "ports are enforced");
        tracing::debug!("too much detail");
        log::warn!("a library speaks");
        assert!(matches!(logging::init(format, None), Err(LoggingError::Twice(_))));
        return;
    }

    let text = stderr(&child("text", &[]).unwrap());
    assert!(text.contains("INFO ports are enforced ports=3"), "{text}");
    assert!(text.contains("WARN a library speaks") && !text.contains("too much detail"), "{text}");
    assert!(!text.contains('\u{1b}'), "no colour in a pipe: {text}");

    // Not a terminal, and a journal that standard error is not connected to.
    let json = stderr(&child("auto", &[("RUST_LOG", "debug"), ("JOURNAL_STREAM", "1:2")]).unwrap());
    let lines: Vec<serde_json::Value> =
        json.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let line =
        |message: &str| lines.iter().find(|line| line["message"] == message).cloned().unwrap_or_default();
    assert_eq!(line("ports are enforced")["ports"], 3, "{json}");
    assert_eq!(line("ports are enforced")["level"], "INFO");
    assert_eq!(line("a library speaks")["level"], "WARN", "{json}");
    assert_eq!(line("too much detail")["level"], "DEBUG");

    let error = logging::init(LogFormat::Text, Some("info,=")).unwrap_err();
    assert_eq!(error.to_string(), "invalid log level `info,=`");
    assert!(error.hint().is_some());
}
