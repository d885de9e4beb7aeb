//! What an image's files are, for people and for programs.

use std::io::{self, Write};

use base64::Engine as _;
use serde_json::{Value, json};

use super::quoting::Names;
use crate::format::ext4::{FileType, Metadata, Timestamp};
use crate::lazy::ImageFilesystem;
use crate::lazy::path::{PathError, Place, shown};

/// A file with what its inode says.
pub struct Listed {
    /// Where it is.
    pub place: Place,
    /// What its inode says.
    pub metadata: Metadata,
    /// Where a symbolic link points to.
    pub target: Option<Vec<u8>>,
}

impl Listed {
    /// Reads what the inode says.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn read(filesystem: &ImageFilesystem, place: Place) -> Result<Self, PathError> {
        let failed = |source| PathError::Filesystem {
            path: shown(&place.path),
            source,
        };
        let metadata = filesystem.metadata(place.ino).map_err(failed)?;
        let target = match metadata.file_type {
            FileType::Symlink => Some(filesystem.read_link(place.ino).map_err(failed)?),
            _ => None,
        };
        Ok(Self {
            place,
            metadata,
            target,
        })
    }

    /// As an object of JSON. Bytes that are no UTF-8 are also given as base64.
    #[must_use]
    pub fn json(&self) -> Value {
        let Metadata { mode, uid, gid, .. } = self.metadata;
        let mut object = json!({
            "path": String::from_utf8_lossy(&self.place.path),
            "type": word(self.metadata.file_type),
            "mode": format!("{mode:04o}"),
            "uid": uid,
            "gid": gid,
            "size": self.metadata.size,
            "mtime": time(self.metadata.mtime, true),
            "links": self.metadata.links,
            "inode": self.place.ino,
        });
        if let Some(target) = &self.target {
            object["target"] = String::from_utf8_lossy(target).into();
        }
        let both = [
            ("path_base64", Some(&self.place.path)),
            ("target_base64", self.target.as_ref()),
        ];
        for (key, bytes) in both {
            if let Some(bytes) = bytes.filter(|bytes| std::str::from_utf8(bytes).is_err()) {
                object[key] = base64::engine::general_purpose::STANDARD
                    .encode(bytes)
                    .into();
            }
        }
        if is_device(self.metadata.file_type) {
            let (major, minor) = self.metadata.rdev;
            object["device"] = json!([major, minor]);
        }
        object
    }

    fn size(&self) -> String {
        let (major, minor) = self.metadata.rdev;
        if is_device(self.metadata.file_type) {
            format!("{major}, {minor}")
        } else {
            self.metadata.size.to_string()
        }
    }
}

/// Files as `ls -l` lists them, with numbers for owners and times in UTC; their last names.
///
/// # Errors
/// When `out` cannot be written.
pub fn write_long(
    out: &mut impl Write,
    files: &[(Listed, Vec<u8>)],
    names: Names,
) -> io::Result<()> {
    let cells = files.iter().map(|(file, _)| {
        [
            file.metadata.links.to_string(),
            file.metadata.uid.to_string(),
            file.metadata.gid.to_string(),
            file.size(),
        ]
    });
    let cells: Vec<[String; 4]> = cells.collect();
    let mut widths = [0; 4];
    for row in &cells {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.len().max(*width);
        }
    }
    for ((file, name), [links, uid, gid, size]) in files.iter().zip(&cells) {
        let [w0, w1, w2, w3] = widths;
        write!(
            out,
            "{} {links:>w0$} {uid:<w1$} {gid:<w2$} {size:>w3$} {} ",
            permissions(&file.metadata),
            time(file.metadata.mtime, false),
        )?;
        names.write(out, name)?;
        if let Some(target) = &file.target {
            out.write_all(b" -> ")?;
            names.write(out, target)?;
        }
        names.end(out)?;
    }
    Ok(())
}

fn is_device(file_type: FileType) -> bool {
    matches!(file_type, FileType::CharDevice | FileType::BlockDevice)
}

fn word(file_type: FileType) -> &'static str {
    match file_type {
        FileType::File => "file",
        FileType::Directory => "directory",
        FileType::Symlink => "symlink",
        FileType::CharDevice => "char",
        FileType::BlockDevice => "block",
        FileType::Fifo => "fifo",
        FileType::Socket => "socket",
    }
}

/// The letter of `find -type` and of `ls -l`, which has `-` for files.
#[must_use]
pub fn letter(file_type: FileType) -> char {
    match file_type {
        FileType::File => 'f',
        FileType::Directory => 'd',
        FileType::Symlink => 'l',
        FileType::CharDevice => 'c',
        FileType::BlockDevice => 'b',
        FileType::Fifo => 'p',
        FileType::Socket => 's',
    }
}

fn permissions(metadata: &Metadata) -> String {
    let kind = letter(metadata.file_type);
    let mut text = String::from(if kind == 'f' { '-' } else { kind });
    for (shift, special, lower) in [(6, 0o4000, 's'), (3, 0o2000, 's'), (0, 0o1000, 't')] {
        let bits = metadata.mode >> shift;
        text.push(if bits & 4 == 0 { '-' } else { 'r' });
        text.push(if bits & 2 == 0 { '-' } else { 'w' });
        text.push(match (metadata.mode & special != 0, bits & 1 != 0) {
            (true, true) => lower,
            (true, false) => lower.to_ascii_uppercase(),
            (false, true) => 'x',
            (false, false) => '-',
        });
    }
    text
}

/// A time in UTC: by RFC 3339 to the nanosecond, or to the second as people read it.
fn time(time: Timestamp, is_exact: bool) -> String {
    const DAY: i64 = 86_400;
    let (days, second) = (time.secs.div_euclid(DAY), time.secs.rem_euclid(DAY));
    let (year, month, day) = date(days);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    if is_exact {
        let nanos = time.nanos;
        format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{nanos:09}Z")
    } else {
        format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}")
    }
}

/// The Gregorian date of a day, counted from 1970-01-01. A year is taken to begin in March, so
/// that the leap day is its last.
fn date(days: i64) -> (i64, i64, i64) {
    const FOUR_CENTURIES: i64 = 146_097;
    // Days from 0000-03-01 to 1970-01-01.
    let days = days.saturating_add(719_468);
    let (era, day) = (
        days.div_euclid(FOUR_CENTURIES),
        days.rem_euclid(FOUR_CENTURIES),
    );
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    // Months of 31, 30, 31, 30, 31 days from March on are 153 days.
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (month, later) = if month < 10 {
        (month + 3, 0)
    } else {
        (month - 9, 1)
    };
    (era * 400 + year + later, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_those_of_the_calendar() {
        for (secs, text) in [
            (0, "1970-01-01 00:00:00"),
            (-1, "1969-12-31 23:59:59"),
            (951_782_400, "2000-02-29 00:00:00"),
            (951_868_799, "2000-02-29 23:59:59"),
            (1_600_000_000, "2020-09-13 12:26:40"),
            (4_107_542_400, "2100-03-01 00:00:00"),
            (-2_147_483_648, "1901-12-13 20:45:52"),
        ] {
            assert_eq!(time(Timestamp { secs, nanos: 5 }, false), text);
        }
        let exact = Timestamp { secs: 1, nanos: 5 };
        assert_eq!(time(exact, true), "1970-01-01T00:00:01.000000005Z");
    }

    #[test]
    fn permissions_are_those_of_ls() {
        let mut metadata = Metadata {
            file_type: FileType::File,
            mode: 0o4755,
            uid: 0,
            gid: 0,
            size: 0,
            mtime: Timestamp::default(),
            atime: Timestamp::default(),
            ctime: Timestamp::default(),
            sectors: 0,
            links: 1,
            rdev: (0, 0),
        };
        assert_eq!(permissions(&metadata), "-rwsr-xr-x");
        (metadata.file_type, metadata.mode) = (FileType::Directory, 0o1777);
        assert_eq!(permissions(&metadata), "drwxrwxrwt");
        metadata.mode = 0o7000;
        assert_eq!(permissions(&metadata), "d--S--S--T");
    }
}
