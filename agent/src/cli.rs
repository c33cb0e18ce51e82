//! The command line: one file per command, each with its arguments and a `run` that returns the exit code.

mod audit;
mod check;
mod detach;
mod output;
mod policy;
mod reporting;
mod run;
mod status;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Enforces a declarative service exposure policy on Docker hosts.
#[derive(Debug, Parser)]
#[command(name = "portcullis", version, propagate_version = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs the agent
    Run(run::RunArgs),
    Check(check::CheckArgs),
    Audit(audit::AuditArgs),
    Policy(policy::Arguments),
    /// Shows what is attached and enforced
    Status(status::StatusArgs),
    /// Removes every program, link and pin: nothing is enforced any more
    Detach(detach::DetachArgs),
}

/// Runs the command that the arguments name.
#[must_use]
pub fn run(cli: &Cli) -> ExitCode {
    match &cli.command {
        Command::Run(args) => run::run(args),
        Command::Check(args) => check::run(args),
        Command::Audit(args) => audit::run(args),
        Command::Detach(args) => detach::run(args),
        Command::Policy(arguments) => policy::run(arguments),
        Command::Status(args) => status::run(args),
    }
}
