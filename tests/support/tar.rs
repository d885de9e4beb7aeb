//! Layer tars made by hand, header by header: nothing here is the program's own.

/// Kinds of entries, as the header's type flag.
pub const FILE: u8 = b'0';
pub const HARD: u8 = b'1';
pub const SYMLINK: u8 = b'2';
pub const CHAR: u8 = b'3';
pub const BLOCK: u8 = b'4';
pub const DIRECTORY: u8 = b'5';
pub const FIFO: u8 = b'6';

/// When everything was changed that says nothing else.
pub const TIME: i64 = 1_600_000_000;

/// One entry. What does not fit into its header goes into PAX records, as Go does it.
#[derive(Clone)]
pub struct Entry<'a> {
    pub kind: u8,
    pub name: &'a [u8],
    pub link: &'a [u8],
    pub mode: u32,
    pub uid: u64,
    pub gid: u64,
    pub mtime: i64,
    pub device: (u32, u32),
    pub data: &'a [u8],
    /// The size in the header, if it is not `data`'s length.
    pub size: Option<u64>,
    /// Further PAX records.
    pub pax: Vec<(&'a str, Vec<u8>)>,
}

impl<'a> Entry<'a> {
    pub fn new(kind: u8, name: &'a str) -> Self {
        let mode = match kind {
            DIRECTORY => 0o755,
            SYMLINK => 0o777,
            _ => 0o644,
        };
        Self {
            kind,
            name: name.as_bytes(),
            link: b"",
            mode,
            uid: 0,
            gid: 0,
            mtime: TIME,
            device: (0, 0),
            data: b"",
            size: None,
            pax: Vec::new(),
        }
    }

    pub fn link(mut self, target: &'a str) -> Self {
        self.link = target.as_bytes();
        self
    }

    pub fn mode(mut self, mode: u32) -> Self {
        self.mode = mode;
        self
    }

    pub fn owner(mut self, uid: u64, gid: u64) -> Self {
        (self.uid, self.gid) = (uid, gid);
        self
    }

    pub fn mtime(mut self, seconds: i64) -> Self {
        self.mtime = seconds;
        self
    }

    pub fn device(mut self, major: u32, minor: u32) -> Self {
        self.device = (major, minor);
        self
    }

    pub fn data(mut self, data: &'a [u8]) -> Self {
        self.data = data;
        self
    }

    pub fn size(mut self, size: u64) -> Self {
        self.size = Some(size);
        self
    }

    pub fn pax(mut self, name: &'a str, value: impl AsRef<[u8]>) -> Self {
        self.pax.push((name, value.as_ref().to_vec()));
        self
    }

    pub fn xattr(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        // A few bytes a test, so that names may be put together.
        let key = Box::leak(format!("SCHILY.xattr.{name}").into_boxed_str());
        self.pax.push((key, value.as_ref().to_vec()));
        self
    }
}

/// A tar under construction.
#[derive(Default, Clone)]
pub struct Tar(Vec<u8>);

/// `LEN NAME=VALUE\n`, where LEN counts itself.
pub fn pax_record(name: &str, value: &[u8]) -> Vec<u8> {
    let rest = 1 + name.len() + 1 + value.len() + 1;
    let mut len = rest + 1;
    while len != rest + len.to_string().len() {
        len = rest + len.to_string().len();
    }
    let mut record = format!("{len} {name}=").into_bytes();
    record.extend(value);
    record.push(b'\n');
    record
}

impl Tar {
    pub fn new() -> Self {
        Self::default()
    }

    // Callers build an entry in place.
    #[allow(clippy::needless_pass_by_value)]
    pub fn entry(mut self, entry: Entry<'_>) -> Self {
        let mut records: Vec<u8> = Vec::new();
        if entry.name.len() > 100 || !entry.name.is_ascii() {
            records.extend(pax_record("path", entry.name));
        }
        if entry.link.len() > 100 || !entry.link.is_ascii() {
            records.extend(pax_record("linkpath", entry.link));
        }
        for (name, id) in [("uid", entry.uid), ("gid", entry.gid)] {
            if id > 0o7_777_777 {
                records.extend(pax_record(name, id.to_string().as_bytes()));
            }
        }
        if !(0..=0o77_777_777_777).contains(&entry.mtime) {
            records.extend(pax_record("mtime", entry.mtime.to_string().as_bytes()));
        }
        for (name, value) in &entry.pax {
            records.extend(pax_record(name, value));
        }
        if !records.is_empty() {
            let head = Entry::new(b'x', "PaxHeaders.0/x").data(&records);
            self.raw(&head);
        }
        self.raw(&entry);
        self
    }

    /// Header, data and padding, as they are.
    pub fn raw(&mut self, entry: &Entry<'_>) {
        self.0.extend(header(entry));
        self.0.extend(entry.data);
        self.pad();
    }

    /// Bytes as they are, padded to a block.
    pub fn bytes(mut self, bytes: &[u8]) -> Self {
        self.0.extend(bytes);
        self.pad();
        self
    }

    fn pad(&mut self) {
        self.0.resize(self.0.len().next_multiple_of(512), 0);
    }

    pub fn file(self, name: &str, data: impl AsRef<[u8]>) -> Self {
        self.entry(Entry::new(FILE, name).data(data.as_ref()))
    }

    pub fn dir(self, name: &str) -> Self {
        self.entry(Entry::new(DIRECTORY, name))
    }

    pub fn soft(self, name: &str, target: &str) -> Self {
        self.entry(Entry::new(SYMLINK, name).link(target))
    }

    pub fn hard(self, name: &str, target: &str) -> Self {
        self.entry(Entry::new(HARD, name).link(target))
    }

    /// The archive, with its end.
    pub fn finish(mut self) -> Vec<u8> {
        self.0.extend([0; 1024]);
        self.0
    }

    /// The archive, cut off where it is.
    pub fn unfinished(self) -> Vec<u8> {
        self.0
    }
}

/// A ustar header; numbers that do not fit it are cut (a PAX record carries them).
pub fn header(entry: &Entry<'_>) -> [u8; 512] {
    let mut block = [0; 512];
    put(&mut block[..100], entry.name);
    octal(&mut block[100..108], entry.mode.into());
    octal(&mut block[108..116], entry.uid & 0o7_777_777);
    octal(&mut block[116..124], entry.gid & 0o7_777_777);
    octal(
        &mut block[124..136],
        entry.size.unwrap_or(entry.data.len() as u64),
    );
    octal(
        &mut block[136..148],
        u64::try_from(entry.mtime).unwrap_or(0) & 0o77_777_777_777,
    );
    block[156] = entry.kind;
    put(&mut block[157..257], entry.link);
    block[257..265].copy_from_slice(b"ustar\x0000");
    octal(&mut block[329..337], entry.device.0.into());
    octal(&mut block[337..345], entry.device.1.into());
    checksum(&mut block);
    block
}

/// Writes the sum over the header that it has now.
pub fn checksum(block: &mut [u8; 512]) {
    block[148..156].fill(b' ');
    let sum: u64 = block.iter().map(|&byte| u64::from(byte)).sum();
    let text = format!("{sum:06o}\0 ");
    block[148..156].copy_from_slice(text.as_bytes());
}

/// GNU's base-256 form of a number in a header's field.
pub fn base256(field: &mut [u8], number: i64) {
    let fill = if number < 0 { 0xFF } else { 0 };
    field.fill(fill);
    let bytes = number.to_be_bytes();
    let take = bytes.len().min(field.len());
    let at = field.len() - take;
    field[at..].copy_from_slice(&bytes[bytes.len() - take..]);
    field[0] = if number < 0 { 0xFF } else { field[0] | 0x80 };
}

fn put(field: &mut [u8], text: &[u8]) {
    let len = text.len().min(field.len());
    field[..len].copy_from_slice(&text[..len]);
}

fn octal(field: &mut [u8], number: u64) {
    let digits = field.len() - 1;
    let text = format!("{number:0digits$o}");
    field[..digits].copy_from_slice(text.as_bytes());
}
