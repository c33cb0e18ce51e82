//! A report as a table for the terminal and as Markdown for the documentation. Pure.

use comfy_table::{CellAlignment, Table, presets};

use super::numbers::{grouped, signed};
use super::report::{Figure, Report, Row, Target, limit, unsteady};

/// The report for a terminal.
pub(super) fn terminal(report: &Report) -> String {
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED);
    table.set_header(header(report));
    for row in &report.rows {
        table.add_row(cells(row));
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    let mut text = format!("{table}\n\n{}\n", measured(report));
    for left_out in &report.left_out {
        text.push_str(&format!("left out: {}: {}\n", left_out.name, left_out.why));
    }
    for note in &report.notes {
        text.push_str(&format!("note: {note}\n"));
    }
    if !report.programs.is_empty() {
        text.push_str(&format!("verified instructions: {}\n", programs(report)));
    }
    for target in &report.targets {
        text.push_str(&format!("target: {}: {}\n", target.wanted, verdict(target)));
    }
    text
}

/// Why there is no ratio, if there is none.
pub(super) fn no_ratio(report: &Report) -> Option<String> {
    let unsteady: Vec<String> = unsteady(&report.rows, report.unit)
        .iter()
        .map(|(workload, spread)| format!("{spread:.1} % for {workload}"))
        .collect();
    (!unsteady.is_empty()).then(|| {
        format!(
            "no ratio: without enforcement the rounds differ by {}, more than {} %",
            unsteady.join(" and "),
            limit(report.unit)
        )
    })
}

/// The part of the documentation that a run writes.
pub(super) fn markdown(report: &Report) -> String {
    let machine = &report.machine;
    let virtual_machine = if machine.hypervisor { ", a virtual machine" } else { "" };
    let mut text = format!(
        "Taken on {} with commit `{}`.\n\n| | |\n|---|---|\n| processor | {}, {} of them{virtual_machine} |\n| kernel | {} |\n| programs | {} |\n| measured | {} |\n\n",
        machine.date,
        machine.commit,
        machine.processor,
        machine.processors,
        machine.kernel,
        machine.tools.join(", "),
        measured(report),
    );
    text.push_str("![Kernel instructions for a datagram and a connection, by configuration](images/performance.svg)\n\n");
    let header = header(report);
    text.push_str(&format!("| {} |\n|---|{}\n", header.join(" | "), "---:|".repeat(header.len() - 1)));
    for row in &report.rows {
        text.push_str(&format!("| {} |\n", cells(row).join(" | ")));
    }
    for left_out in &report.left_out {
        text.push_str(&format!("\nNot measured: `{}`, because {}.\n", left_out.name, left_out.why));
    }
    for note in &report.notes {
        text.push_str(&format!("\n{note}.\n"));
    }
    text.push_str("\n| target | found | |\n|---|---:|---|\n");
    for target in &report.targets {
        let found = target.found.as_deref().unwrap_or("not measured");
        let met = target.met.map_or("", |met| if met { "met" } else { "**missed**" });
        text.push_str(&format!("| {} | {found} | {met} |\n", target.wanted));
    }
    text.push_str("\n| program | instructions that the verifier walked through |\n|---|---:|\n");
    for program in &report.programs {
        text.push_str(&format!("| `{}` | {} |\n", program.name, grouped(program.instructions as f64)));
    }
    text
}

const BEGIN: &str = "<!-- written by `cargo xtask bench --write-docs`: begin -->";
const END: &str = "<!-- end -->";

/// Puts a new part into a document in place of the old one; nothing if the document has no place for it.
pub(super) fn replace(document: &str, part: &str) -> Option<String> {
    let (before, rest) = document.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{BEGIN}\n\n{}\n\n{END}{after}", part.trim_end()))
}

fn header(report: &Report) -> [String; 9] {
    let unit = if report.unit == "instructions" { "instr" } else { "ns" };
    [
        "configuration".to_owned(),
        format!("{unit}/datagram"),
        "Δ".to_owned(),
        "ratio".to_owned(),
        "spread".to_owned(),
        format!("{unit}/connection"),
        "Δ".to_owned(),
        "ratio".to_owned(),
        "spread".to_owned(),
    ]
}

fn cells(row: &Row) -> Vec<String> {
    let mut cells = vec![row.label.clone()];
    cells.extend(figure(&row.datagram));
    cells.extend(figure(&row.connection));
    cells
}

fn figure(figure: &Figure) -> [String; 4] {
    let compared = figure.compared;
    [
        grouped(figure.median),
        compared.map(|compared| signed(compared.more)).unwrap_or_default(),
        compared.map(|compared| format!("{:.3}", compared.ratio)).unwrap_or_default(),
        format!("{:.2} %", figure.spread_percent),
    ]
}

fn measured(report: &Report) -> String {
    format!(
        "{} rounds, interleaved, medians; {} datagrams and {} connections a round, {}; Δ and ratio against no enforcement; spread from least to largest in % of the median",
        report.rounds,
        grouped(f64::from(report.datagrams)),
        grouped(f64::from(report.connections)),
        report.family
    )
}

fn programs(report: &Report) -> String {
    let programs: Vec<String> = report
        .programs
        .iter()
        .map(|program| format!("{} {}", program.name, grouped(program.instructions as f64)))
        .collect();
    programs.join(", ")
}

fn verdict(target: &Target) -> String {
    match (&target.found, target.met) {
        (Some(found), Some(true)) => format!("met ({found})"),
        (Some(found), Some(false)) => format!("MISSED ({found})"),
        _ => "not measured".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::counters::Meter;
    use crate::bench::machine::Machine;
    use crate::bench::report::{LeftOut, Program, targets, tests::steady};

    fn report() -> Report {
        let rows = steady();
        Report {
            schema: "portcullis.bench/v1",
            machine: Machine { processor: "Some Processor".to_owned(), processors: 2, ..Machine::default() },
            family: "IPv4",
            unit: "instructions",
            rounds: 5,
            datagrams: 40_000,
            connections: 4_000,
            targets: targets(&rows, Meter::Instructions),
            rows,
            programs: vec![Program { name: "to_endpoint".to_owned(), instructions: 38_123 }],
            left_out: vec![LeftOut { name: "agent-backstop".to_owned(), why: "it is not there".to_owned() }],
            notes: Vec::new(),
        }
    }

    #[test]
    fn a_report_becomes_markdown() {
        let text = markdown(&report());
        assert!(text.contains("| portcullis, 10 rules | 16,705 | +1,005 | 1.064 | 0.06 % | 180,000 | +7,900 | 1.046 | 0.00 % |"), "{text}");
        assert!(text.contains("| no enforcement | 15,700 |  |  | 0.13 % |"), "{text}");
        assert!(
            text.contains("| at most +9,000 kernel instructions for a connection | +17,900 | **missed** |"),
            "{text}"
        );
        assert!(text.contains("Not measured: `agent-backstop`, because it is not there."), "{text}");
        assert!(text.contains("| `to_endpoint` | 38,123 |"), "{text}");
    }

    #[test]
    fn the_terminal_says_what_became_of_each_target() {
        let text = terminal(&report());
        assert!(
            text.contains("for a datagram: met (+1,100)\n") && text.contains("MISSED (+17,900)\n"),
            "{text}"
        );
        assert_eq!(no_ratio(&report()), None);
    }

    #[test]
    fn only_the_part_of_the_document_that_is_generated_is_replaced() {
        let document = format!("# Cost\n\n{BEGIN}\nold\n{END}\n\nRest.\n");
        let new = replace(&document, "new\n").unwrap();
        assert_eq!(new, format!("# Cost\n\n{BEGIN}\n\nnew\n\n{END}\n\nRest.\n"));
        assert_eq!(replace(&new, "new\n").unwrap(), new);
        assert_eq!(replace("# Cost\n", "new"), None);
    }
}
