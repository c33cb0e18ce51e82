//! Numbers as people read them. Pure.

/// Whole, with a comma between thousands.
pub(super) fn grouped(value: f64) -> String {
    let digits = format!("{:.0}", value.abs());
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    if value <= -0.5 { format!("\u{2212}{text}") } else { text }
}

/// The same with its sign.
pub(super) fn signed(value: f64) -> String {
    if value <= -0.5 { grouped(value) } else { format!("+{}", grouped(value)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_are_grouped() {
        assert_eq!(grouped(0.4), "0");
        assert_eq!(grouped(999.6), "1,000");
        assert_eq!(grouped(1_234_567.0), "1,234,567");
        assert_eq!(grouped(-1_234.0), "\u{2212}1,234");
        assert_eq!(signed(2_700.0), "+2,700");
        assert_eq!(signed(-0.2), "+0");
    }
}
