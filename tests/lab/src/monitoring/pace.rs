//! Makes a shipped configuration run faster: every duration in it is divided by one number, nothing else is changed.

use anyhow::{Context, Result, bail};

/// What stands before a duration in rules and configurations.
const BEFORE: [&str; 6] = ["[", "offset ", " for: ", "_interval: ", "_wait: ", "_timeout: "];

/// The text with every duration divided by `by`.
pub(super) fn faster(text: &str, by: u32) -> Result<String> {
    if by == 0 {
        bail!("nothing can be divided by 0");
    }
    let mut result = String::new();
    for line in text.split_inclusive('\n') {
        let is_comment = line.trim_start().starts_with('#');
        result.push_str(&if is_comment { line.to_owned() } else { faster_line(line, by)? });
    }
    Ok(result)
}

fn faster_line(line: &str, by: u32) -> Result<String> {
    let mut result = String::new();
    let mut rest = line;
    while !rest.is_empty() {
        let ahead = BEFORE.iter().find(|word| rest.starts_with(**word));
        if let Some(word) = ahead
            && let Some((length, milliseconds)) = duration(&rest[word.len()..])
        {
            let scaled = milliseconds / u64::from(by);
            if scaled == 0 {
                bail!("no time is left of `{}`", line.trim());
            }
            result.push_str(word);
            result.push_str(&format!("{scaled}ms"));
            rest = &rest[word.len() + length..];
            continue;
        }
        let first = rest.chars().next().context("an empty rest")?;
        result.push(first);
        rest = &rest[first.len_utf8()..];
    }
    Ok(result)
}

/// A duration at the start of a text, of one number and one unit: its length, and how many milliseconds it is.
fn duration(text: &str) -> Option<(usize, u64)> {
    const UNITS: [(&str, u64); 6] =
        [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000), ("w", 604_800_000)];
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number: u64 = text[..digits].parse().ok()?;
    let (unit, factor) = UNITS.iter().find(|(unit, _)| text[digits..].starts_with(unit))?;
    Some((digits + unit.len(), number * factor))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_divided_and_words_are_left() {
        let rules = "# [5m]\n- expr: increase(a[5m]) > 5 * avg_over_time(b:rate5m[1d] offset 15m)\n  for: 2m\n  description: for 7 days, 10m\n";
        let wanted = "# [5m]\n- expr: increase(a[10000ms]) > 5 * avg_over_time(b:rate5m[2880000ms] offset 30000ms)\n  for: 4000ms\n  description: for 7 days, 10m\n";
        assert_eq!(faster(rules, 30).unwrap(), wanted);
        assert_eq!(faster("  scrape_interval: 15s\n", 30).unwrap(), "  scrape_interval: 500ms\n");
        assert_eq!(faster("group_by: [alertname]\n", 30).unwrap(), "group_by: [alertname]\n");
        assert!(faster("group_wait: 1s", 2_000).is_err());
    }
}
