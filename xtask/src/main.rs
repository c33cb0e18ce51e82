//! Development commands of Portcullis, behind the README's commands and behind CI. Each is a module of its own.
#![expect(clippy::print_stdout, reason = "what these commands have to say is for the terminal")]

mod alerts;
mod apt;
mod bench;
mod build;
mod conform;
mod dashboards;
mod demo;
mod dist;
mod engines;
mod fuzz;
mod mutants;
mod setup;
mod soak;
mod test;
mod tidy;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Development commands of Portcullis.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Install what a build or a test needs; does nothing when all is there
    Setup,
    /// Build the agent with its kernel programs inside
    Build(build::Arguments),
    /// Show the agent at work on containers of its own
    Demo(demo::Arguments),
    /// Run every test, also those that need root
    Test(test::Arguments),
    /// Run the demo and the Docker tests on other versions of Docker
    Engines(engines::Arguments),
    /// Send hostile frames between namespaces and look who gets them, for as long as there is time
    Fuzz(fuzz::Arguments),
    /// Make the packages, the container image and what belongs to them
    Dist(dist::Arguments),
    /// Kill, restart, replace and renew everything under traffic, for as long as there is time
    Soak(soak::Arguments),
    /// Check the alerts, and make the Kubernetes object of them
    Alerts(alerts::Arguments),
    /// Draw the Grafana dashboards as they would show an attack
    Dashboards(dashboards::Arguments),
    /// Measure what enforcement costs
    Bench(bench::Arguments),
    /// Break the shared crate in every small way and see whether its tests notice
    Mutants(mutants::Arguments),
    /// Compare how compose files are read with Docker Compose itself
    Conform(conform::Arguments),
    /// Check the rules of the code base that no compiler knows
    Tidy,
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Setup => setup::run(),
        Command::Build(arguments) => build::run(&arguments),
        Command::Demo(arguments) => demo::run(&arguments),
        Command::Test(arguments) => test::run(&arguments),
        Command::Engines(arguments) => engines::run(&arguments),
        Command::Fuzz(arguments) => fuzz::run(&arguments),
        Command::Dist(arguments) => dist::run(&arguments),
        Command::Soak(arguments) => soak::run(&arguments),
        Command::Alerts(arguments) => alerts::run(&arguments),
        Command::Dashboards(arguments) => dashboards::run(&arguments),
        Command::Bench(arguments) => bench::run(&arguments),
        Command::Mutants(arguments) => mutants::run(&arguments),
        Command::Conform(arguments) => conform::run(&arguments),
        Command::Tidy => tidy::run(),
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}
