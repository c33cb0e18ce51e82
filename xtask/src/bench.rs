//! `cargo xtask bench`: what enforcement costs, in kernel instructions for a datagram and for a connection, beside no
//! enforcement and beside the kernel's other ways to do the same. Every measurement has namespaces of its own.

mod configuration;
mod counters;
mod firewall;
mod machine;
mod numbers;
mod plot;
mod policy;
mod report;
mod stage;
mod statistics;
mod text;
mod tools;
mod traffic;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};
use indicatif::{ProgressBar, ProgressStyle};
use lab::agent::Agent;
use lab::process::output;
use lab::tools::repository;
use lab::{interrupt, sweep};

use crate::{build, setup};
use configuration::{ALL, Configuration};
use counters::Meter;
use report::{LeftOut, Program, Report, Series};
use stage::{Family, Stage};
use tools::Tools;
use traffic::Load;

const DOCUMENT: &str = "docs/performance.md";
const PICTURE: &str = "docs/images/performance.svg";

/// What to measure, and how long.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Measure each configuration so many times
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u8).range(2..=100))]
    rounds: u8,
    /// Only these configurations, beside `none`: agent-10, agent-1000, agent-10000, agent-backstop, nft-mark, nft-set, br-netfilter, nft-conntrack, iptables-10, iptables-1000
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    only: Vec<String>,
    /// A short look: a quarter of the traffic, three rounds at most
    #[arg(long)]
    quick: bool,
    /// Send over IPv6
    #[arg(long)]
    ipv6: bool,
    /// Take processor time, as where the machine has no counters
    #[arg(long)]
    clock: bool,
    /// The processor that client and server share [default: the last]
    #[arg(long, value_name = "NUMBER")]
    cpu: Option<u32>,
    /// Write all figures to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write docs/performance.md and its picture
    #[arg(long, conflicts_with_all = ["only", "quick", "ipv6", "clock"])]
    write_docs: bool,
    /// Measure instead what a swap of 100,000 rules takes on a host with 5,000 endpoints
    #[arg(long, conflicts_with_all = ["only", "quick", "ipv6", "clock", "json", "write_docs", "agent"])]
    scale: bool,
    /// Use this agent instead of building one
    #[arg(long, value_name = "BINARY")]
    agent: Option<PathBuf>,
}

/// Runs the command: 0 measured, 1 measured but too unsteady to compare, 2 not measured.
pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    interrupt::install();
    let wanted = wanted(&arguments.only)?;
    if let setup::Outcome::Refused(instructions) = setup::ensure()? {
        eprintln!("{instructions}");
        return Ok(ExitCode::from(2));
    }
    if !rustix::process::geteuid().is_root() {
        eprintln!(
            "error: a measurement makes network namespaces and loads kernel programs, which needs root"
        );
        eprintln!("hint: run `cargo xtask bench` as root");
        return Ok(ExitCode::from(2));
    }
    if arguments.scale {
        return scale();
    }
    let tools = tools::ensure()?;
    sweep::dead()?;
    let agent = match &arguments.agent {
        Some(binary) => std::path::absolute(binary)?,
        None => {
            println!("bench: building the agent; kernel programs with {}", setup::toolchain());
            build::agent(true)?
        }
    };
    let result = measure(arguments, &wanted, &agent, &tools);
    if interrupt::arrived() {
        println!("bench: interrupted; everything was removed");
        return Ok(ExitCode::from(130));
    }
    finish(arguments, &result?)
}

/// The test that measures it, optimised as the agent is.
fn scale() -> Result<ExitCode> {
    let test = ["test", "--release", "--package", "integration-tests", "--test", "scale"];
    let mut command = Command::new("cargo");
    command.args(test).args(["--", "--nocapture", "--test-threads=1"]).current_dir(repository());
    let status = command.status().context("failed to run cargo")?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The configurations named, always after the one that they are compared with.
fn wanted(only: &[String]) -> Result<Vec<Configuration>> {
    let known = |name: &String| ALL.into_iter().any(|each| each.name() == *name);
    if let Some(unknown) = only.iter().find(|name| !known(name)) {
        let names: Vec<String> = ALL.into_iter().map(Configuration::name).collect();
        bail!("no configuration `{unknown}`; there are {}", names.join(", "));
    }
    Ok(ALL
        .into_iter()
        .filter(|each| only.is_empty() || *each == Configuration::None || only.contains(&each.name()))
        .collect())
}

fn measure(arguments: &Arguments, wanted: &[Configuration], agent: &Path, tools: &Tools) -> Result<Report> {
    let family = if arguments.ipv6 { Family::V6 } else { Family::V4 };
    let counters = counters::are_there(&tools.perf)?;
    let load = load(arguments, counters)?;
    let rounds = if arguments.quick { arguments.rounds.min(3) } else { arguments.rounds };
    let (possible, left_out) = possible(wanted, agent)?;
    let mut series: Vec<Series> = possible.into_iter().map(empty).collect();
    let mut programs = Vec::new();
    let bar = progress(rounds.into(), series.len())?;
    for _ in 0..rounds {
        for each in &mut series {
            let label = each.configuration.label();
            bar.set_message(label.clone());
            let log = once(each, family, agent, &load, tools)
                .with_context(|| format!("failed to measure `{label}`"))?;
            if let Some(log) = log {
                programs = verified_programs(&log);
            }
            bar.inc(1);
        }
    }
    bar.finish_and_clear();
    let rows = report::rows(&series, load.meter);
    Ok(Report {
        schema: "portcullis.bench/v1",
        machine: machine::Machine::probe(agent, tools),
        family: family.name(),
        unit: load.meter.unit(),
        rounds: rounds.into(),
        datagrams: load.datagrams,
        connections: load.connections,
        targets: report::targets(&rows, load.meter),
        rows,
        programs,
        left_out,
        notes: [notes(&load, counters), sizes(&series)].concat(),
    })
}

/// One configuration on a fresh stage; what its agent logged, if it has one.
fn once(
    series: &mut Series,
    family: Family,
    agent: &Path,
    load: &Load,
    tools: &Tools,
) -> Result<Option<String>> {
    let mut stage = Stage::build(family)?;
    series.configuration.apply(&mut stage, agent)?;
    let (datagrams, connections) = traffic::measure(&stage, load, tools)?;
    if traffic::is_dropped(&stage)? != series.configuration.enforces() {
        bail!("what is not allowed is not treated as it should be");
    }
    series.datagrams.push(datagrams);
    series.connections.push(connections);
    let Some(agent) = stage.agent() else { return Ok(None) };
    series.rules = Some(rules_in_force(agent)?);
    Ok(Some(agent.log()))
}

fn progress(rounds: usize, configurations: usize) -> Result<ProgressBar> {
    println!("bench: {rounds} rounds of {configurations} configurations");
    let bar = ProgressBar::new((rounds * configurations) as u64);
    bar.set_style(
        ProgressStyle::with_template("bench: [{bar:40}] {pos}/{len} {msg}")
            .context("bad progress template")?
            .progress_chars("=> "),
    );
    Ok(bar)
}

fn load(arguments: &Arguments, counters: bool) -> Result<Load> {
    let part = if arguments.quick { 4 } else { 1 };
    let cpu = arguments.cpu.or_else(machine::last_processor).context("no processor to measure on")?;
    let meter = if counters && !arguments.clock { Meter::Instructions } else { Meter::Time };
    Ok(Load {
        datagrams: 40_000 / part,
        connections: 4_000 / part,
        cpu,
        meter,
        real_time: traffic::real_time_is_allowed(),
    })
}

fn notes(load: &Load, counters: bool) -> Vec<String> {
    let mut notes = Vec::new();
    if !counters {
        notes.push("this machine has no performance counters (a virtual machine without a PMU?)".to_owned());
    }
    if load.meter == Meter::Time {
        notes.push("processor time is taken instead of kernel instructions, and each round is compared with its own baseline: such ratios are rough, and no target is judged by them".to_owned());
    }
    if !load.real_time {
        notes.push("no real-time priority was allowed: what else runs disturbs the figures".to_owned());
    }
    notes
}

/// A policy of another size than its row says would be a lie.
fn sizes(series: &[Series]) -> Vec<String> {
    let differs = |each: &Series| {
        let (wanted, found) = (each.configuration.agent_rules()?, each.rules?);
        (wanted as u64 != found).then(|| {
            format!("the agent made {found} entries of the policy of `{}`", each.configuration.name())
        })
    };
    series.iter().filter_map(differs).collect()
}

fn possible(wanted: &[Configuration], agent: &Path) -> Result<(Vec<Configuration>, Vec<LeftOut>)> {
    let help = output(Command::new(agent).args(["run", "--help"]))?;
    let help = String::from_utf8_lossy(&help.stdout);
    let mut left_out = Vec::new();
    let mut possible = Vec::new();
    for each in wanted {
        match each.impossible(&help) {
            Some(why) => left_out.push(LeftOut { name: each.name(), why: why.to_owned() }),
            None => possible.push(*each),
        }
    }
    Ok((possible, left_out))
}

fn empty(configuration: Configuration) -> Series {
    Series { configuration, rules: None, datagrams: Vec::new(), connections: Vec::new() }
}

/// How many entries the kernel's rule table has.
fn rules_in_force(agent: &Agent) -> Result<u64> {
    let samples = agent.metrics()?;
    let table = samples.iter().find(|sample| {
        sample.name == "portcullis_map_entries" && sample.labels.get("map").is_some_and(|map| map == "RULES")
    });
    let entries = table.context("the agent does not say how many rules are in force")?.value;
    Ok(entries.round() as u64)
}

/// The programs and what the verifier walked through, as the agent logs it at start.
fn verified_programs(log: &str) -> Vec<Program> {
    log.lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter_map(|line| {
            let fields = line.get("fields").unwrap_or(&line);
            Some(Program {
                name: fields.get("program")?.as_str()?.to_owned(),
                instructions: fields.get("instructions")?.as_u64()?,
            })
        })
        .collect()
}

fn finish(arguments: &Arguments, report: &Report) -> Result<ExitCode> {
    println!("\n{}", text::terminal(report));
    if let Some(file) = &arguments.json {
        fs::write(file, serde_json::to_string_pretty(report)?)
            .with_context(|| format!("failed to write `{}`", file.display()))?;
    }
    if let Some(why) = text::no_ratio(report) {
        eprintln!("error: {why}");
        eprintln!("hint: run it again on a machine that does nothing else");
        return Ok(ExitCode::FAILURE);
    }
    if arguments.write_docs {
        if report.unit != "instructions" {
            bail!("figures of time are not for the documentation");
        }
        write_docs(&repository(), report)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn write_docs(root: &Path, report: &Report) -> Result<()> {
    let document = root.join(DOCUMENT);
    let old = fs::read_to_string(&document).with_context(|| format!("failed to read `{DOCUMENT}`"))?;
    let new = text::replace(&old, &text::markdown(report))
        .with_context(|| format!("`{DOCUMENT}` has no place for the figures"))?;
    fs::write(document, new)?;
    fs::write(root.join(PICTURE), plot::svg(report))?;
    println!("bench: wrote {DOCUMENT} and {PICTURE}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_baseline_is_always_measured() {
        let names = |only: &[&str]| -> Vec<String> {
            let only: Vec<String> = only.iter().map(|name| (*name).to_owned()).collect();
            wanted(&only).unwrap().into_iter().map(Configuration::name).collect()
        };
        assert_eq!(names(&["nft-set", "agent-10"]), ["none", "agent-10", "nft-set"]);
        assert_eq!(names(&[]).len(), ALL.len());
        assert!(wanted(&["agent-11".to_owned()]).is_err());
    }

    #[test]
    fn programs_are_read_from_the_log() {
        let log = "plain text\n{\"level\":\"INFO\",\"fields\":{\"message\":\"program verified\",\"program\":\"to_endpoint\",\"instructions\":38123}}\n{\"level\":\"INFO\",\"message\":\"program verified\",\"program\":\"to_bridge\",\"instructions\":7}\n{\"message\":\"ready\"}\n";
        let found = verified_programs(log);
        let expected = [("to_endpoint", 38_123), ("to_bridge", 7)];
        assert_eq!(
            found,
            expected.map(|(name, instructions)| Program { name: name.to_owned(), instructions })
        );
    }

    #[test]
    fn the_documentation_has_a_place_for_figures() {
        let document = fs::read_to_string(repository().join(DOCUMENT)).unwrap();
        assert!(text::replace(&document, "figures").is_some());
    }
}
