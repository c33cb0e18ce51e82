//! The fuzzer: libFuzzer's engine, and one of the agent's inputs, which `PORTCULLIS_INPUT` names. `cargo xtask fuzz
//! --input` builds it with `--cfg fuzzing` and the instrumentation that tells the engine how far an input got.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
mod fuzzing {
    use std::sync::OnceLock;

    use portcullis::inputs::ALL;

    static INPUT: OnceLock<fn(&[u8])> = OnceLock::new();

    fn chosen() -> fn(&[u8]) {
        let name = std::env::var("PORTCULLIS_INPUT").unwrap_or_default();
        match ALL.iter().find(|(known, _)| *known == name) {
            Some((_, read)) => *read,
            None => {
                panic!("PORTCULLIS_INPUT is `{name}`; there are {}", ALL.map(|(name, _)| name).join(", "))
            }
        }
    }

    libfuzzer_sys::fuzz_target!(|bytes: &[u8]| INPUT.get_or_init(chosen)(bytes));
}

#[cfg(not(fuzzing))]
fn main() -> std::process::ExitCode {
    eprintln!("error: built without instrumentation");
    eprintln!("hint: `cargo xtask fuzz --input all` builds and runs it");
    std::process::ExitCode::from(2)
}
