//! Decimal numbers in PAX records and sparse maps.

use super::error::{Problem, excerpt};

/// A decimal number that fits 63 bits, with or without a sign, as Go's `strconv.ParseInt`
/// takes it.
pub(super) fn decimal(field: &'static str, value: &[u8]) -> Result<i64, Problem> {
    let (sign, digits) = match value {
        [sign @ (b'-' | b'+'), digits @ ..] => (*sign, digits),
        digits => (b'+', digits),
    };
    let signed = (sign == b'-').then_some(b'-').into_iter();
    let text: Vec<u8> = signed.chain(digits.iter().copied()).collect();
    std::str::from_utf8(&text)
        .ok()
        .filter(|_| !digits.is_empty() && digits.iter().all(u8::is_ascii_digit))
        .and_then(|text| text.parse().ok())
        .ok_or_else(|| Problem::Number {
            field,
            text: excerpt(value),
        })
}
