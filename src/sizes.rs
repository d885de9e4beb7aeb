//! Sizes as people read them.

use std::fmt;

/// A number of bytes, printed as `64.00 GiB`.
///
/// For budgets, limits and disks. Where a byte more or less matters, as in what is damaged, bytes
/// are printed as a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Size(pub u64);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        indicatif::BinaryBytes(self.0).fmt(f)
    }
}

/// A size as an option takes it, exactly: `64KiB`, `1536MiB`, or the number of bytes.
pub(crate) fn as_option(bytes: u64) -> String {
    let units = [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    units
        .iter()
        .find(|(unit, _)| bytes > 0 && bytes.is_multiple_of(*unit))
        .map_or_else(
            || bytes.to_string(),
            |(unit, name)| format!("{}{name}", bytes / unit),
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_the_unit_that_people_use() {
        for (bytes, shown, option) in [
            (0, "0 B", "0"),
            (1000, "1000 B", "1000"),
            (1024, "1.00 KiB", "1KiB"),
            (1536 << 20, "1.50 GiB", "1536MiB"),
            (64 << 30, "64.00 GiB", "64GiB"),
            ((1 << 30) + 1, "1.00 GiB", "1073741825"),
        ] {
            assert_eq!(Size(bytes).to_string(), shown);
            assert_eq!(as_option(bytes), option);
        }
    }
}
