//! The matrix as a table for each instance: sources down, services across, one sign for all addresses of a service.

use std::collections::BTreeMap;

use comfy_table::{CellAlignment, Table, presets};
use lab::expectation::Party;
use lab::matrix::{Cell, Expected, Matrix};

pub(super) const LEGEND: &str = "✓ opens, as it should   ✗ denied, as it should   OPEN! SHUT! otherwise";

/// The grid of one instance's services.
pub(super) fn grid(matrix: &Matrix, instance: &str) -> String {
    let columns = columns(matrix, instance);
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED);
    let mut header = vec!["from".to_owned()];
    header.extend(columns.keys().map(|(service, port)| format!("{service}\n{port}")));
    table.set_header(header);
    for (label, signs) in rows(matrix, instance, &columns) {
        let mut row = vec![label];
        row.extend(signs);
        table.add_row(row);
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Center);
    }
    table.to_string()
}

/// Service and port, with the targets that stand for it.
type Columns = BTreeMap<(String, u16), Vec<usize>>;

fn columns(matrix: &Matrix, instance: &str) -> Columns {
    let mut columns = Columns::new();
    for (at, target) in matrix.targets.iter().enumerate().filter(|(_, target)| target.instance == instance) {
        columns.entry((target.service.clone(), target.port)).or_default().push(at);
    }
    columns
}

/// One row a source; sources of another instance that fare alike share one.
fn rows(matrix: &Matrix, instance: &str, columns: &Columns) -> Vec<(String, Vec<String>)> {
    let mut rows: Vec<(String, Vec<String>)> = Vec::new();
    let mut shared: BTreeMap<(String, Vec<String>), Vec<String>> = BTreeMap::new();
    for (at, source) in matrix.sources.iter().enumerate() {
        let signs: Vec<String> = columns.values().map(|targets| sign(matrix, at, targets)).collect();
        match &source.party {
            Party::Service { instance: other, service } if other != instance => {
                shared.entry((other.clone(), signs)).or_default().push(service.clone());
            }
            Party::Service { service, .. } => rows.push((service.clone(), signs)),
            Party::Host | Party::Outside => rows.push((source.party.to_string(), signs)),
        }
    }
    for ((other, signs), services) in shared {
        let all: Vec<&str> =
            matrix.sources.iter().filter_map(|source| service_of(&source.party, &other)).collect();
        let missing: Vec<&str> =
            all.into_iter().filter(|name| !services.iter().any(|service| service == name)).collect();
        let label = match missing.len() {
            0 => format!("{other}: all {}", services.len()),
            1 | 2 if services.len() > 2 => format!("{other}: all but {}", missing.join(", ")),
            _ => format!("{other}: {}", services.join(", ")),
        };
        rows.push((label, signs));
    }
    rows
}

fn service_of<'a>(party: &'a Party, wanted: &str) -> Option<&'a str> {
    match party {
        Party::Service { instance, service } if instance == wanted => Some(service),
        _ => None,
    }
}

fn sign(matrix: &Matrix, source: usize, targets: &[usize]) -> String {
    let cells: Vec<&Cell> =
        matrix.cells.iter().filter(|cell| cell.source == source && targets.contains(&cell.target)).collect();
    let wrong = cells.iter().find(|cell| !cell.is_as_expected());
    match (wrong, cells.first()) {
        (Some(cell), _) if cell.expected == Expected::Open => "SHUT!".to_owned(),
        (Some(_), _) => "OPEN!".to_owned(),
        (None, Some(cell)) if cell.expected == Expected::Open => "✓".to_owned(),
        (None, Some(_)) => "✗".to_owned(),
        (None, None) => String::new(),
    }
}
