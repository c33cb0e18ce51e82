//! What a plain word in YAML stands for: the rules of the parser that Compose uses (YAML 1.2 with the numbers of 1.1).

use crate::node::Value;

/// The value of an unquoted scalar.
pub(crate) fn plain(text: &str) -> Value {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Value::Null,
        "true" | "True" | "TRUE" => return Value::Bool(true),
        "false" | "False" | "FALSE" => return Value::Bool(false),
        ".nan" | ".NaN" | ".NAN" => return Value::Float(f64::NAN),
        ".inf" | ".Inf" | ".INF" | "+.inf" | "+.Inf" | "+.INF" => return Value::Float(f64::INFINITY),
        "-.inf" | "-.Inf" | "-.INF" => return Value::Float(f64::NEG_INFINITY),
        _ => {}
    }
    if !text.starts_with(|first: char| first.is_ascii_digit() || matches!(first, '+' | '-' | '.')) {
        return Value::Text(text.to_owned());
    }
    let digits = text.replace('_', "");
    integer(&digits)
        .map(Value::Int)
        .or_else(|| float(&digits).map(Value::Float))
        .unwrap_or_else(|| Value::Text(text.to_owned()))
}

fn integer(text: &str) -> Option<i64> {
    let (sign, rest) = match text.strip_prefix('-') {
        Some(rest) => (-1, rest),
        None => (1, text.strip_prefix('+').unwrap_or(text)),
    };
    let (radix, digits) = match rest.as_bytes() {
        [b'0', b'x' | b'X', ..] => (16, &rest[2..]),
        [b'0', b'o' | b'O', ..] => (8, &rest[2..]),
        [b'0', b'b' | b'B', ..] => (2, &rest[2..]),
        // As in C: `0440` is octal.
        [b'0', _, ..] => (8, &rest[1..]),
        _ => (10, rest),
    };
    // A second sign is none.
    if !digits.starts_with(|first: char| first.is_ascii_alphanumeric()) {
        return None;
    }
    i64::from_str_radix(digits, radix).ok().map(|value| sign * value)
}

fn float(text: &str) -> Option<f64> {
    let known = |c: char| c.is_ascii_digit() || matches!(c, '.' | 'e' | 'E' | '+' | '-');
    let has_digit = text.contains(|c: char| c.is_ascii_digit());
    if !has_digit || !text.chars().all(known) {
        return None;
    }
    text.parse().ok()
}

/// A float as Go's `%v` prints it.
pub(crate) fn print_float(value: f64) -> String {
    if value.is_nan() {
        return "NaN".to_owned();
    }
    if value.is_infinite() {
        return if value > 0.0 { "+Inf" } else { "-Inf" }.to_owned();
    }
    let scientific = format!("{value:e}");
    let exponent = scientific.split_once('e').and_then(|(_, exponent)| exponent.parse::<i32>().ok());
    match exponent {
        Some(exponent) if value != 0.0 && !(-4..21).contains(&exponent) => {
            let mantissa = scientific.split('e').next().unwrap_or_default();
            let sign = if exponent < 0 { '-' } else { '+' };
            format!("{mantissa}e{sign}{:02}", exponent.abs())
        }
        _ => format!("{value}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_and_numbers() {
        assert_eq!(plain("0440"), Value::Int(0o440));
        assert_eq!(plain("0x1F"), Value::Int(31));
        assert_eq!(plain("1_000"), Value::Int(1000));
        assert_eq!(plain("-5"), Value::Int(-5));
        assert_eq!(plain("1.50"), Value::Float(1.5));
        assert_eq!(plain("yes"), Value::Text("yes".to_owned()));
        assert_eq!(plain("22:22"), Value::Text("22:22".to_owned()));
        assert_eq!(plain("1.2.3"), Value::Text("1.2.3".to_owned()));
        assert_eq!(plain("-"), Value::Text("-".to_owned()));
        assert_eq!(plain("~"), Value::Null);
    }

    #[test]
    fn floats_as_go_prints_them() {
        for (value, text) in
            [(1.5, "1.5"), (1e21, "1e+21"), (1e20, "100000000000000000000"), (0.00001, "1e-05")]
        {
            assert_eq!(print_float(value), text);
        }
    }
}
