//! Names in a policy: which are allowed, which are reserved, and which one was probably meant.

/// Names that stand for peers and cannot be given to services or groups.
pub(super) const RESERVED: [&str; 4] = ["host", "world", "dns", "any"];

/// Whether the name could be a compose service: letters, digits, `.`, `_` and `-`, not first of all a sign.
pub(super) fn is_plain(name: &str) -> bool {
    name.starts_with(|first: char| first.is_ascii_alphanumeric())
        && name.chars().all(|each| each.is_ascii_alphanumeric() || matches!(each, '.' | '_' | '-'))
}

/// How many names a hint lists, and how many are compared for one: nobody reads more.
const MAX_LISTED: usize = 12;
const MAX_COMPARED: usize = 1000;

/// The candidate that was probably meant, if one is near enough to say so.
pub(super) fn nearest<'a>(wanted: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let wanted = wanted.to_lowercase();
    let limit = (wanted.chars().count() / 3).max(1);
    candidates
        .into_iter()
        .take(MAX_COMPARED)
        // What differs more in length is not worth comparing.
        .filter(|candidate| candidate.len().abs_diff(wanted.len()) <= 4 * limit)
        .map(|candidate| (distance(&wanted, &candidate.to_lowercase()), candidate))
        .filter(|&(distance, _)| distance <= limit)
        .min()
        .map(|(_, candidate)| candidate)
}

/// How many insertions, removals, replacements and swaps of neighbours lead from one text to the other.
fn distance(left: &str, right: &str) -> usize {
    let left: Vec<char> = left.chars().collect();
    let right: Vec<char> = right.chars().collect();
    let mut rows: Vec<Vec<usize>> = vec![(0..=right.len()).collect()];
    for i in 1..=left.len() {
        let mut row = vec![i];
        for j in 1..=right.len() {
            let replaced = rows[i - 1][j - 1] + usize::from(left[i - 1] != right[j - 1]);
            let mut best = replaced.min(rows[i - 1][j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && left[i - 1] == right[j - 2] && left[i - 2] == right[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            row.push(best);
        }
        rows.push(row);
    }
    rows[left.len()][right.len()]
}

/// `did you mean …?`, or else the list of what there is.
pub(super) fn hint(wanted: &str, candidates: &[&str], what: &str) -> Option<String> {
    if let Some(found) = nearest(wanted, candidates.iter().copied()) {
        return Some(format!("did you mean `{found}`?"));
    }
    if candidates.is_empty() {
        return None;
    }
    let listed: Vec<String> = candidates.iter().take(MAX_LISTED).map(|name| format!("`{name}`")).collect();
    let more = if candidates.len() > MAX_LISTED { ", …" } else { "" };
    Some(format!("{what}: {}{more}", listed.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_names_are_suggested_and_far_ones_are_not() {
        let services = ["reverse-proxy", "qerds-api", "db"];
        assert_eq!(nearest("qerds-apu", services), Some("qerds-api"));
        assert_eq!(nearest("reverse_proxy", services), Some("reverse-proxy"));
        assert_eq!(nearest("dbb", services), Some("db"));
        assert_eq!(nearest("redis", services), None);
        assert_eq!(nearest("form", ["from"]), Some("from"));
    }

    #[test]
    fn plain_names() {
        for name in ["db", "qerds-api", "a.b_c", "9"] {
            assert!(is_plain(name), "{name}");
        }
        for name in ["", "-x", "a b", "a*", "a/b", "ä"] {
            assert!(!is_plain(name), "{name}");
        }
    }
}
