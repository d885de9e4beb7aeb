//! The words of `find` that choose files, of which all must hold.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt as _;

use super::glob;
use crate::cli::listing::{Listed, letter};
use crate::format::ext4::FileType;
use crate::lazy::ImageFilesystem;
use crate::lazy::path::{PathError, Place};

/// What is printed of what is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Paths, a line each.
    Print,
    /// Paths with a NUL behind each.
    Print0,
    /// As `ls -l`.
    Ls,
    /// An object of JSON each.
    Json,
}

/// What was asked for.
#[derive(Debug)]
pub struct Expression {
    /// Where to begin.
    pub paths: Vec<OsString>,
    /// The least and the most depth of what is shown, from 0 at the beginning.
    pub depths: (usize, usize),
    /// What is printed.
    pub action: Action,
    tests: Vec<(bool, Test)>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Test {
    Name(Vec<u8>, bool),
    Path(Vec<u8>),
    Type(String),
    Size(Count, u64),
    Uid(Count),
    Gid(Count),
    Links(Count),
    Inode(Count),
    Mode(u16, Bits),
    Empty,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Bits {
    Exactly,
    All,
    Any,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Count {
    Less(u64),
    Exactly(u64),
    More(u64),
}

impl Count {
    fn parse(text: &str) -> Option<Self> {
        let (make, digits): (fn(u64) -> Self, _) = match text.split_at_checked(1) {
            Some(("+", rest)) => (Self::More, rest),
            Some(("-", rest)) => (Self::Less, rest),
            _ => (Self::Exactly, text),
        };
        let is_number = digits.bytes().all(|byte| byte.is_ascii_digit());
        digits.parse().ok().filter(|_| is_number).map(make)
    }

    fn holds(self, number: u64) -> bool {
        match self {
            Self::Less(than) => number < than,
            Self::Exactly(same) => number == same,
            Self::More(than) => number > than,
        }
    }
}

impl Expression {
    /// Reads the words behind the image: paths first, then tests.
    ///
    /// # Errors
    /// What is wrong with them, for people.
    pub fn parse(words: Vec<OsString>) -> Result<Self, String> {
        let mut words = words.into_iter().peekable();
        let is_path = |word: &OsString| !word.as_bytes().starts_with(b"-") && word != "!";
        let mut expression = Self {
            paths: std::iter::from_fn(|| words.next_if(is_path)).collect(),
            depths: (0, usize::MAX),
            action: Action::Print,
            tests: Vec::new(),
        };
        let mut is_negated = false;
        while let Some(word) = words.next() {
            let word = word.to_string_lossy().into_owned();
            let mut value = || -> Result<OsString, String> {
                words.next().ok_or(format!("{word} needs a value"))
            };
            let depth = |text: OsString| -> Result<usize, String> {
                let number = text.to_str().and_then(|text| text.parse().ok());
                number.ok_or(format!("{word}: {} is no number", text.display()))
            };
            match word.as_str() {
                "!" | "-not" => {
                    is_negated = !is_negated;
                    continue;
                }
                "-a" | "-and" | "-xdev" | "-mount" => {}
                "-maxdepth" => expression.depths.1 = depth(value()?)?,
                "-mindepth" => expression.depths.0 = depth(value()?)?,
                "-print" => expression.action = Action::Print,
                "-print0" | "--null" | "-0" => expression.action = Action::Print0,
                "-ls" => expression.action = Action::Ls,
                "-json" | "--json" => expression.action = Action::Json,
                _ => {
                    let test = Test::parse(&word, value)?;
                    expression
                        .tests
                        .push((std::mem::take(&mut is_negated), test));
                    continue;
                }
            }
            if is_negated {
                return Err(format!("{word} cannot be negated"));
            }
        }
        if is_negated {
            return Err("nothing is behind the last !".to_owned());
        }
        Ok(expression)
    }

    /// Whether all tests hold. What an inode says is read only where a test needs it.
    ///
    /// # Errors
    /// When that cannot be read.
    pub fn holds(&self, filesystem: &ImageFilesystem, place: &Place) -> Result<bool, PathError> {
        let mut listed = None;
        for (is_negated, test) in &self.tests {
            if test.needs_inode() && listed.is_none() {
                listed = Some(Listed::read(filesystem, place.clone())?);
            }
            let holds = match test {
                Test::Empty if place.file_type == FileType::Directory => {
                    crate::lazy::walk::sorted_entries(filesystem, place)?.is_empty()
                }
                test => test.holds(place, listed.as_ref()),
            };
            if holds == *is_negated {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

impl Test {
    fn parse(word: &str, value: impl FnOnce() -> Result<OsString, String>) -> Result<Self, String> {
        let bytes = |value: OsString| value.as_bytes().to_vec();
        match word {
            "-empty" => return Ok(Self::Empty),
            "-name" => return Ok(Self::Name(bytes(value()?), false)),
            "-iname" => return Ok(Self::Name(bytes(value()?), true)),
            "-path" | "-wholename" => return Ok(Self::Path(bytes(value()?))),
            "-type" | "-size" | "-uid" | "-gid" | "-links" | "-inum" | "-perm" => {}
            _ => {
                return Err(format!(
                    "{word} is none of the words that are known: -name -iname -path -type -size \
                     -perm -uid -gid -links -inum -empty ! -mindepth -maxdepth -print -print0 \
                     -ls --json; other options go before the image"
                ));
            }
        }
        let text = value()?.to_string_lossy().into_owned();
        let wrong = |what: &str| format!("{word}: {text:?} is no {what}");
        let count = |text: &str| Count::parse(text).ok_or_else(|| wrong("number"));
        match word {
            "-type" => {
                let letters: String = text.split(',').collect();
                let is_known = letters.chars().all(|letter| "fdlcbps".contains(letter));
                if letters.is_empty() || !is_known {
                    return Err(wrong("type: f, d, l, c, b, p and s are, with commas"));
                }
                Ok(Self::Type(letters))
            }
            "-size" => {
                let unit = |end: char| match end {
                    'c' => Some(1),
                    'w' => Some(2),
                    'b' => Some(512),
                    'k' => Some(1 << 10),
                    'M' => Some(1 << 20),
                    'G' => Some(1 << 30),
                    _ => None,
                };
                let size = match text.chars().last().and_then(unit) {
                    Some(unit) => Count::parse(&text[..text.len() - 1]).map(|count| (count, unit)),
                    None => Count::parse(&text).map(|count| (count, 512)),
                };
                let (count, unit) = size.ok_or_else(|| wrong("size, such as +10k or -1M"))?;
                Ok(Self::Size(count, unit))
            }
            "-perm" => {
                let (bits, digits) = match text.split_at_checked(1) {
                    Some(("-", digits)) => (Bits::All, digits),
                    Some(("/", digits)) => (Bits::Any, digits),
                    _ => (Bits::Exactly, text.as_str()),
                };
                let mode = u16::from_str_radix(digits, 8).ok();
                let mode = mode.filter(|mode| *mode <= 0o7777 && !digits.starts_with('+'));
                let mode = mode.ok_or_else(|| wrong("octal mode, such as -4000"))?;
                Ok(Self::Mode(mode, bits))
            }
            "-uid" => Ok(Self::Uid(count(&text)?)),
            "-gid" => Ok(Self::Gid(count(&text)?)),
            "-links" => Ok(Self::Links(count(&text)?)),
            _ => Ok(Self::Inode(count(&text)?)),
        }
    }

    fn needs_inode(&self) -> bool {
        !matches!(
            self,
            Self::Name(..) | Self::Path(_) | Self::Type(_) | Self::Inode(_)
        )
    }

    fn holds(&self, place: &Place, listed: Option<&Listed>) -> bool {
        match self {
            Self::Name(pattern, ignore_case) => {
                let name = match place.name() {
                    b"" => b"/",
                    name => name,
                };
                return glob::matches(pattern, name, *ignore_case);
            }
            Self::Path(pattern) => return glob::matches(pattern, &place.path, false),
            Self::Type(letters) => return letters.contains(letter(place.file_type)),
            Self::Inode(count) => return count.holds(place.ino.into()),
            _ => {}
        }
        let Some(metadata) = listed.map(|listed| &listed.metadata) else {
            return false;
        };
        match self {
            Self::Size(count, unit) => count.holds(metadata.size.div_ceil(*unit)),
            Self::Uid(count) => count.holds(metadata.uid.into()),
            Self::Gid(count) => count.holds(metadata.gid.into()),
            Self::Links(count) => count.holds(metadata.links.into()),
            Self::Mode(mode, Bits::Exactly) => metadata.mode == *mode,
            Self::Mode(mode, Bits::All) => metadata.mode & mode == *mode,
            Self::Mode(mode, Bits::Any) => *mode == 0 || metadata.mode & mode != 0,
            _ => metadata.file_type == FileType::File && metadata.size == 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Expression, String> {
        Expression::parse(text.split_whitespace().map(OsString::from).collect())
    }

    #[test]
    fn words_are_read_as_find_reads_them() {
        let all = "/etc /usr -type f,l ! -name *.so -size +10k -perm -4000 -maxdepth 3 -print0";
        let expression = parse(all).unwrap();
        assert_eq!(expression.paths, ["/etc", "/usr"]);
        assert_eq!(expression.depths, (0, 3));
        assert_eq!(expression.action, Action::Print0);
        let tests = [
            (false, Test::Type("fl".to_owned())),
            (true, Test::Name(b"*.so".to_vec(), false)),
            (false, Test::Size(Count::More(10), 1 << 10)),
            (false, Test::Mode(0o4000, Bits::All)),
        ];
        assert_eq!(expression.tests, tests);
        for wrong in [
            "-nme x",
            "-name",
            "-type x",
            "-size k",
            "-size ++1",
            "-size 1x",
            "-perm 8",
            "-uid me",
            "!",
            "! -print",
            "-maxdepth -1",
            "--insecure",
        ] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
