//! Medians and spreads of a handful of rounds, and what of them may be compared. Pure.

/// A baseline that varies by more than this by itself says nothing about the others.
pub(super) const STEADY: f64 = 3.0;

/// Time varies more than instructions; beyond this not even pairs tell anything.
pub(super) const STEADY_TIME: f64 = 20.0;

/// The middle of the values; of two in the middle, half-way between. 0 of none.
pub(super) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match (sorted.get(middle), sorted.len() % 2) {
        (Some(upper), 0) => (sorted[middle - 1] + upper) / 2.0,
        (Some(value), _) => *value,
        (None, _) => 0.0,
    }
}

/// From the least to the largest, in per cent of the median.
pub(super) fn spread(values: &[f64]) -> f64 {
    let least = values.iter().copied().fold(f64::INFINITY, f64::min);
    let largest = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let median = median(values);
    if median == 0.0 { 0.0 } else { (largest - least) / median * 100.0 }
}

/// How one series lies to another.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub(super) struct Comparison {
    pub(super) more: f64,
    pub(super) ratio: f64,
}

/// Compares medians; nothing if the baseline is not steady.
pub(super) fn compare(baseline: &[f64], values: &[f64]) -> Option<Comparison> {
    let base = median(baseline);
    (base > 0.0 && spread(baseline) <= STEADY)
        .then(|| Comparison { more: median(values) - base, ratio: median(values) / base })
}

/// Compares round by round, for what drifts: each value with the baseline of its own round.
pub(super) fn compare_paired(baseline: &[f64], values: &[f64]) -> Option<Comparison> {
    let pairs = || baseline.iter().zip(values).filter(|(base, _)| **base > 0.0);
    let ratios: Vec<f64> = pairs().map(|(base, value)| value / base).collect();
    let more: Vec<f64> = pairs().map(|(base, value)| value - base).collect();
    (!ratios.is_empty() && spread(baseline) <= STEADY_TIME)
        .then(|| Comparison { more: median(&more), ratio: median(&ratios) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_whatever_the_order() {
        assert_eq!(median(&[9.0, 1.0, 5.0]), 5.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 100.0]), 3.0);
        assert_eq!(median(&[7.0]), 7.0);
        assert_eq!(median(&[]), 0.0);
    }

    #[test]
    fn the_spread_is_in_per_cent_of_the_median() {
        assert_eq!(spread(&[99.0, 100.0, 102.0]), 3.0);
        assert_eq!(spread(&[5.0, 5.0]), 0.0);
        assert_eq!(spread(&[]), 0.0);
    }

    #[test]
    fn an_unsteady_baseline_is_compared_with_nothing() {
        assert_eq!(
            compare(&[99.0, 100.0, 102.0], &[109.0, 110.0, 300.0]),
            Some(Comparison { more: 10.0, ratio: 1.1 })
        );
        assert_eq!(compare(&[98.0, 100.0, 102.0], &[110.0]), None);
    }

    #[test]
    fn pairs_cancel_a_drift() {
        let comparison = compare_paired(&[100.0, 110.0, 120.0], &[150.0, 165.0, 180.0]).unwrap();
        assert_eq!(comparison, Comparison { more: 55.0, ratio: 1.5 });
        assert_eq!(compare_paired(&[100.0, 130.0], &[150.0, 195.0]), None);
        assert_eq!(compare_paired(&[0.0], &[1.0]), None);
    }
}
