//! Names of files, which may hold any bytes, on standard output.

use std::fmt::Write as _;
use std::io::{self, IsTerminal as _, Write};

/// How names are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Names {
    /// As they are, a line each.
    Raw,
    /// As they are, with a NUL behind each.
    Null,
    /// So that a shell reads them and a terminal does nothing else with them.
    Quoted,
}

impl Names {
    /// For the standard output that there is.
    #[must_use]
    pub fn choose(null: bool) -> Self {
        match null {
            true => Self::Null,
            false if io::stdout().is_terminal() => Self::Quoted,
            false => Self::Raw,
        }
    }

    /// Writes a name.
    ///
    /// # Errors
    /// When `out` cannot be written.
    pub fn write(self, out: &mut impl Write, name: &[u8]) -> io::Result<()> {
        match self {
            Self::Raw | Self::Null => out.write_all(name),
            Self::Quoted => out.write_all(quoted(name).as_bytes()),
        }
    }

    /// Writes what is behind an entry.
    ///
    /// # Errors
    /// When `out` cannot be written.
    pub fn end(self, out: &mut impl Write) -> io::Result<()> {
        out.write_all(if self == Self::Null { b"\0" } else { b"\n" })
    }
}

/// A name as a word of a shell: as it is, in quotes, or as `$'…'` with octal numbers.
#[must_use]
pub fn quoted(name: &[u8]) -> String {
    let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"_-./+,:@%=".contains(byte);
    match std::str::from_utf8(name) {
        Ok(text) if !name.is_empty() && name.iter().all(is_plain) => text.to_owned(),
        Ok(text) if text.chars().all(|c| is_printable(c) && c != '\'') => format!("'{text}'"),
        _ => escaped(name),
    }
}

/// Whether a terminal shows a character, and does nothing else with it.
fn is_printable(c: char) -> bool {
    matches!(c, '"' | '\\' | '\'') || c.escape_debug().count() == 1
}

fn escaped(name: &[u8]) -> String {
    let mut text = "$'".to_owned();
    for chunk in name.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '\'' | '\\' => text.extend(['\\', c]),
                c if is_printable(c) => text.push(c),
                c => octal(&mut text, c.encode_utf8(&mut [0; 4]).as_bytes()),
            }
        }
        octal(&mut text, chunk.invalid());
    }
    text.push('\'');
    text
}

fn octal(text: &mut String, bytes: &[u8]) {
    for byte in bytes {
        // A String takes all.
        let _ = write!(text, "\\{byte:03o}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shell_reads_quoted_names_as_they_are() {
        for (name, word) in [
            (&b"plain-1.txt"[..], "plain-1.txt"),
            (b"", "''"),
            (b"two words", "'two words'"),
            ("gr\u{fc}n".as_bytes(), "'gr\u{fc}n'"),
            (b"it's", "$'it\\'s'"),
            (b"a\nb\x1b[2J", "$'a\\012b\\033[2J'"),
            (b"\xff\xfe", "$'\\377\\376'"),
            ("\u{202e}x".as_bytes(), "$'\\342\\200\\256x'"),
        ] {
            assert_eq!(quoted(name), word);
        }
    }
}
