//! The medians as a picture: a bar for each configuration, from zero, what it adds to no enforcement in colour. Pure;
//! readable on light and on dark pages.

use super::numbers::{grouped, signed};
use super::report::{Figure, Report, Row};

const WIDTH: f64 = 860.0;
const LABELS: f64 = 232.0;
/// Room for the figures behind the longest bar.
const FIGURES: f64 = 190.0;
const BAR: f64 = 16.0;
const STEP: f64 = 26.0;
const HEAD: f64 = 46.0;
const GAP: f64 = 26.0;

const STYLE: &str = "<style>
  text { font: 13px system-ui, -apple-system, 'Segoe UI', Helvetica, Arial, sans-serif; fill: #24292f }
  .title { font-weight: 600; font-size: 15px }
  .quiet { fill: #59636e }
  .base { fill: #afb8c1 }
  .ours { fill: #0a7ea4 }
  .peer { fill: #bf7a2a }
  .line { stroke: #8c959f; stroke-width: 1; stroke-dasharray: 3 3 }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3 }
    .quiet { fill: #9198a1 }
    .base { fill: #56606b }
    .ours { fill: #39b3d7 }
    .peer { fill: #d9963f }
  }
</style>
";

/// The picture as SVG.
pub(super) fn svg(report: &Report) -> String {
    let panel = HEAD + STEP * report.rows.len() as f64;
    let legend = 34.0;
    let height = 2.0 * panel + GAP + legend;
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" height=\"{height}\" role=\"img\" aria-label=\"Kernel instructions by configuration\">\n{STYLE}"
    );
    let unit = if report.unit == "instructions" { "Kernel instructions" } else { "Nanoseconds" };
    draw(&mut text, 0.0, &format!("{unit} for a 64-byte datagram"), &report.rows, |row| &row.datagram);
    draw(&mut text, panel + GAP, &format!("{unit} for an HTTP connection"), &report.rows, |row| {
        &row.connection
    });
    let below = height - 12.0;
    for (at, class, word) in [
        (LABELS, "base", "without enforcement"),
        (LABELS + 170.0, "ours", "added by Portcullis"),
        (LABELS + 330.0, "peer", "added by others"),
    ] {
        line(
            &mut text,
            &format!(
                "<rect class=\"{class}\" x=\"{at}\" y=\"{}\" width=\"12\" height=\"12\" rx=\"2\"/><text class=\"quiet\" x=\"{}\" y=\"{below}\">{word}</text>",
                below - 11.0,
                at + 18.0
            ),
        );
    }
    text.push_str("</svg>\n");
    text
}

fn draw(text: &mut String, top: f64, title: &str, rows: &[Row], pick: fn(&Row) -> &Figure) {
    line(text, &format!("<text class=\"title\" x=\"{LABELS}\" y=\"{}\">{title}</text>", top + 24.0));
    let most = rows.iter().map(|row| pick(row).median).fold(1.0, f64::max);
    let scale = (WIDTH - LABELS - FIGURES) / most;
    let base = rows.first().map_or(0.0, |row| pick(row).median);
    for (number, row) in rows.iter().enumerate() {
        let figure = pick(row);
        let y = top + HEAD + STEP * number as f64;
        let middle = y + BAR - 3.5;
        let (grey, end) = (figure.median.min(base) * scale, figure.median * scale);
        line(
            text,
            &format!(
                "<text x=\"{:.1}\" y=\"{middle:.1}\" text-anchor=\"end\">{}</text>",
                LABELS - 10.0,
                row.label
            ),
        );
        line(text, &bar("base", LABELS, y, grey));
        if end > grey {
            let class = if row.rules.is_some() { "ours" } else { "peer" };
            line(text, &bar(class, LABELS + grey, y, end - grey));
        }
        let said = match figure.compared {
            Some(compared) => format!("{} ({:+.1} %)", signed(compared.more), (compared.ratio - 1.0) * 100.0),
            None => grouped(figure.median),
        };
        line(
            text,
            &format!("<text class=\"quiet\" x=\"{:.1}\" y=\"{middle:.1}\">{said}</text>", LABELS + end + 8.0),
        );
    }
    let x = LABELS + base * scale;
    let (from, to) = (top + HEAD - 6.0, top + HEAD + STEP * rows.len() as f64 - 4.0);
    line(
        text,
        &format!("<line class=\"line\" x1=\"{x:.1}\" y1=\"{from:.1}\" x2=\"{x:.1}\" y2=\"{to:.1}\"/>"),
    );
}

fn bar(class: &str, x: f64, y: f64, width: f64) -> String {
    format!("<rect class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{BAR}\"/>")
}

fn line(text: &mut String, element: &str) {
    text.push_str(element);
    text.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::machine::Machine;
    use crate::bench::report::tests::steady;

    #[test]
    fn every_row_has_its_bars_inside_the_picture() {
        let rows = steady();
        let count = rows.len();
        let report = Report {
            schema: "",
            machine: Machine::default(),
            family: "IPv4",
            unit: "instructions",
            rounds: 5,
            datagrams: 1,
            connections: 1,
            rows,
            programs: Vec::new(),
            left_out: Vec::new(),
            notes: Vec::new(),
            targets: Vec::new(),
        };
        let text = svg(&report);
        assert_eq!(text.matches("class=\"base\" x=\"232.0\"").count(), 2 * count);
        assert_eq!(text.matches("class=\"ours\"").count(), 4 + 1);
        for rect in text.lines().filter(|line| line.starts_with("<rect") && line.ends_with("/>")) {
            let number = |name: &str| -> f64 {
                rect.split_once(&format!(" {name}=\"")).unwrap().1.split_once('"').unwrap().0.parse().unwrap()
            };
            assert!(number("x") + number("width") <= WIDTH - FIGURES + 0.1, "{rect}");
        }
        assert!(text.contains("+179,600 (+104.4 %)"));
    }
}
