//! From the samples of all rounds to rows, and from rows to what the targets say. Pure.

use serde::Serialize;

use super::configuration::{ALL, Configuration};
use super::counters::{Counted, Meter};
use super::machine::Machine;
use super::numbers::signed;
use super::statistics::{Comparison, STEADY, STEADY_TIME, compare, compare_paired, median, spread};

/// At most so many kernel instructions more than without enforcement.
pub(super) const MORE_FOR_A_DATAGRAM: f64 = 1_200.0;
pub(super) const MORE_FOR_A_CONNECTION: f64 = 9_000.0;
/// At most so much between the smallest and the largest policy, in per cent.
pub(super) const GROWTH: f64 = 3.0;

/// Everything that a run found; also what `--json` writes.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Report {
    pub(super) schema: &'static str,
    pub(super) machine: Machine,
    /// `IPv4` or `IPv6`.
    pub(super) family: &'static str,
    /// `instructions` or, where there are no counters, `nanoseconds`.
    pub(super) unit: &'static str,
    pub(super) rounds: usize,
    pub(super) datagrams: u32,
    pub(super) connections: u32,
    pub(super) rows: Vec<Row>,
    pub(super) programs: Vec<Program>,
    pub(super) left_out: Vec<LeftOut>,
    pub(super) notes: Vec<String>,
    pub(super) targets: Vec<Target>,
}

/// One configuration.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Row {
    pub(super) name: String,
    pub(super) label: String,
    /// Entries in the kernel's rule table, as the agent counts them.
    pub(super) rules: Option<u64>,
    pub(super) datagram: Figure,
    pub(super) connection: Figure,
}

/// What one unit of work costs.
#[derive(Debug, Clone, Default, Serialize)]
pub(super) struct Figure {
    pub(super) median: f64,
    pub(super) spread_percent: f64,
    pub(super) cycles: f64,
    /// With the first row; missing on itself, and where that one is not steady.
    pub(super) compared: Option<Comparison>,
    pub(super) samples: Vec<f64>,
}

/// A kernel program and what the verifier walked through to accept it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Program {
    pub(super) name: String,
    pub(super) instructions: u64,
}

/// A configuration that was not measured.
#[derive(Debug, Clone, Serialize)]
pub(super) struct LeftOut {
    pub(super) name: String,
    pub(super) why: String,
}

/// What is wanted, and whether it is so.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Target {
    pub(super) wanted: String,
    /// What was found; nothing if it was not measured.
    pub(super) found: Option<String>,
    pub(super) met: Option<bool>,
}

/// The samples of one configuration, a pair for each round.
#[derive(Debug, Clone)]
pub(super) struct Series {
    pub(super) configuration: Configuration,
    pub(super) rules: Option<u64>,
    pub(super) datagrams: Vec<Counted>,
    pub(super) connections: Vec<Counted>,
}

/// One row a series; the first is what the others are compared with, if it is the one without enforcement.
pub(super) fn rows(series: &[Series], meter: Meter) -> Vec<Row> {
    let baseline = series.first().filter(|first| first.configuration == Configuration::None);
    let figure = |each: &Series, pick: fn(&Series) -> &Vec<Counted>| {
        let base = baseline.filter(|_| each.configuration != Configuration::None).map(pick);
        figure(pick(each), base, meter)
    };
    series
        .iter()
        .map(|each| Row {
            name: each.configuration.name(),
            label: each.configuration.label(),
            rules: each.rules,
            datagram: figure(each, |series| &series.datagrams),
            connection: figure(each, |series| &series.connections),
        })
        .collect()
}

fn figure(samples: &[Counted], baseline: Option<&Vec<Counted>>, meter: Meter) -> Figure {
    let values = |samples: &[Counted]| samples.iter().map(|sample| sample.cost).collect::<Vec<f64>>();
    let cycles: Vec<f64> = samples.iter().map(|sample| sample.cycles).collect();
    let own = values(samples);
    // Time drifts: it is compared within a round, instructions are not.
    let how = match meter {
        Meter::Instructions => compare,
        Meter::Time => compare_paired,
    };
    Figure {
        median: median(&own),
        spread_percent: spread(&own),
        cycles: median(&cycles),
        compared: baseline.and_then(|baseline| how(&values(baseline), &own)),
        samples: own,
    }
}

/// The workloads whose baseline is not steady enough to compare anything with, with its spread.
pub(super) fn unsteady(rows: &[Row], unit: &str) -> Vec<(&'static str, f64)> {
    let Some(baseline) = rows.first().filter(|row| row.name == Configuration::None.name()) else {
        return Vec::new();
    };
    [("datagrams", &baseline.datagram), ("connections", &baseline.connection)]
        .into_iter()
        .map(|(workload, figure)| (workload, figure.spread_percent))
        .filter(|(_, spread)| *spread > limit(unit))
        .collect()
}

/// How much a baseline may vary, in per cent.
pub(super) fn limit(unit: &str) -> f64 {
    if unit == Meter::Instructions.unit() { STEADY } else { STEADY_TIME }
}

/// The targets, judged by the rows of the agent, without the backstop, whose cost stands beside it. They are about
/// instructions: time says nothing of them.
pub(super) fn targets(rows: &[Row], meter: Meter) -> Vec<Target> {
    let alone: Vec<String> = ALL
        .into_iter()
        .filter(|configuration| matches!(configuration, Configuration::Agent { .. }))
        .map(Configuration::name)
        .collect();
    let agents: Vec<&Row> =
        rows.iter().filter(|row| alone.contains(&row.name) && meter == Meter::Instructions).collect();
    let most = |pick: fn(&Row) -> &Figure, limit: f64, unit: &str| {
        let all: Option<Vec<f64>> =
            agents.iter().map(|row| pick(row).compared.map(|compared| compared.more)).collect();
        let largest = all.and_then(|all| all.into_iter().max_by(f64::total_cmp));
        Target {
            wanted: format!("at most {} kernel instructions for a {unit}", signed(limit)),
            found: largest.map(signed),
            met: largest.map(|largest| largest <= limit),
        }
    };
    let growth = |pick: fn(&Row) -> &Figure, unit: &str| {
        let of = |rules| {
            let name = Configuration::Agent { rules }.name();
            agents.iter().find(|row| row.name == name).map(|row| pick(row).median)
        };
        let found = of(10).zip(of(10_000)).map(|(few, many)| (many / few - 1.0) * 100.0);
        Target {
            wanted: format!("at most +{GROWTH} % between 10 and 10,000 rules for a {unit}"),
            found: found.map(|found| format!("{found:+.1} %")),
            met: found.map(|found| found <= GROWTH),
        }
    };
    vec![
        most(|row| &row.datagram, MORE_FOR_A_DATAGRAM, "datagram"),
        most(|row| &row.connection, MORE_FOR_A_CONNECTION, "connection"),
        growth(|row| &row.datagram, "datagram"),
        growth(|row| &row.connection, "connection"),
    ]
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    fn samples(values: &[f64]) -> Vec<Counted> {
        values.iter().map(|&cost| Counted { cost, cycles: cost / 2.0 }).collect()
    }

    fn series(configuration: Configuration, datagrams: &[f64], connections: &[f64]) -> Series {
        Series {
            configuration,
            rules: configuration.agent_rules().map(|rules| rules as u64),
            datagrams: samples(datagrams),
            connections: samples(connections),
        }
    }

    /// A run with a steady baseline, an agent with 10 and 10,000 rules, and iptables.
    pub(in crate::bench) fn steady() -> Vec<Row> {
        let all = [
            series(Configuration::None, &[15_700.0, 15_710.0, 15_690.0], &[172_000.0, 172_100.0, 172_200.0]),
            series(Configuration::Agent { rules: 10 }, &[16_700.0, 16_710.0], &[180_000.0]),
            series(Configuration::Agent { rules: 10_000 }, &[16_800.0], &[190_000.0]),
            series(Configuration::Iptables { rules: 1_000 }, &[20_500.0], &[351_700.0]),
        ];
        rows(&all, Meter::Instructions)
    }

    #[test]
    fn rows_are_compared_with_the_first() {
        let rows = steady();
        assert_eq!(rows[0].datagram.compared, None);
        let compared = rows[1].datagram.compared.unwrap();
        assert_eq!(compared.more, 1_005.0);
        assert!((compared.ratio - 1.064).abs() < 1e-3);
        assert_eq!(unsteady(&rows, "instructions"), []);
    }

    #[test]
    fn targets_are_met_or_missed_by_the_dearest_row_of_the_agent() {
        let met: Vec<Option<bool>> =
            targets(&steady(), Meter::Instructions).into_iter().map(|target| target.met).collect();
        assert_eq!(met, [Some(true), Some(false), Some(true), Some(false)]);
        let found = targets(&steady(), Meter::Instructions);
        assert_eq!(found[0].found.as_deref(), Some("+1,100"));
        assert_eq!(found[3].found.as_deref(), Some("+5.6 %"));
    }

    #[test]
    fn an_unsteady_baseline_gives_no_ratio_and_no_verdict() {
        let all = [
            series(Configuration::None, &[15_000.0, 16_000.0], &[172_000.0]),
            series(Configuration::Agent { rules: 10 }, &[16_700.0], &[180_000.0]),
        ];
        let rows = rows(&all, Meter::Instructions);
        assert_eq!(rows[1].datagram.compared, None);
        assert!(rows[1].connection.compared.is_some());
        let unsteady = unsteady(&rows, "instructions");
        assert_eq!((unsteady.len(), unsteady[0].0), (1, "datagrams"));
        assert_eq!(targets(&rows, Meter::Instructions)[0].met, None);
    }

    #[test]
    fn what_was_not_measured_is_not_judged() {
        let rows = rows(&[series(Configuration::None, &[1.0], &[1.0])], Meter::Instructions);
        assert!(targets(&rows, Meter::Instructions).iter().all(|target| target.met.is_none()));
        assert!(targets(&steady(), Meter::Time).iter().all(|target| target.met.is_none()));
    }

    #[test]
    fn time_is_compared_round_by_round() {
        let all = [
            series(Configuration::None, &[100.0, 110.0], &[100.0, 200.0]),
            series(Configuration::Agent { rules: 10 }, &[110.0, 121.0], &[100.0, 200.0]),
        ];
        let rows = rows(&all, Meter::Time);
        assert!((rows[1].datagram.compared.unwrap().ratio - 1.1).abs() < 1e-9);
        assert_eq!(rows[1].datagram.median, 115.5);
        assert_eq!(rows[1].connection.compared, None, "that baseline drifts too far");
        assert_eq!(unsteady(&rows, "nanoseconds").len(), 1);
    }
}
