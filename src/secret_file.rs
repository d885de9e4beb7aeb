//! Files whose first line is a secret.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

/// Most bytes of such a file that are read.
const MAX_FILE_BYTES: u64 = 4096;

/// The first line of a file, without the blanks around it.
///
/// # Errors
/// The file's name and why it cannot be read, in a sentence.
pub(crate) fn first_line(path: &Path) -> Result<String, String> {
    let wrong = |error: std::io::Error| format!("{}: {error}", path.display());
    let mut text = String::new();
    let file = File::open(path).map_err(wrong)?;
    file.take(MAX_FILE_BYTES)
        .read_to_string(&mut text)
        .map_err(wrong)?;
    Ok(text.lines().next().unwrap_or_default().trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_secret_is_the_first_line_whatever_follows() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("secret");
        assert!(first_line(&path).is_err_and(|error| error.contains("secret")));
        for text in ["one", "one\n", " one \r\ntwo\n"] {
            std::fs::write(&path, text).unwrap();
            assert_eq!(first_line(&path).as_deref(), Ok("one"));
        }
        std::fs::write(&path, "").unwrap();
        assert_eq!(first_line(&path).as_deref(), Ok(""));
    }
}
