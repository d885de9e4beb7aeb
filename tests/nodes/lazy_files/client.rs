//! An NBD client that says whatever a test wants, with numbers of its own.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::support::process::Process;

/// The program as a server on a socket.
pub struct Server {
    pub process: Process,
    pub socket: PathBuf,
    _directory: tempfile::TempDir,
}

impl Server {
    /// Serves what the arguments name.
    #[track_caller]
    pub fn start(what: &[&str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("disk.sock");
        let mut command = super::command(&["nbd"]);
        command.args(what).arg("--socket").arg(&socket);
        let mut process = Process::start(command, &directory.path().join("log"));
        process.wait_for("listening on ");
        Self {
            process,
            socket,
            _directory: directory,
        }
    }

    /// For clients.
    pub fn uri(&self) -> String {
        format!("nbd+unix:///?socket={}", self.socket.display())
    }

    pub fn connect(&self) -> Client {
        Client::connect(&self.socket)
    }
}

/// A connection.
pub struct Client(pub UnixStream);

/// A reply to an option: its type and data.
pub type OptionReply = (u32, Vec<u8>);

/// A chunk of a structured reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunk {
    pub is_last: bool,
    pub kind: u16,
    pub payload: Vec<u8>,
}

pub const EXPORT_NAME: u32 = 1;
pub const ABORT: u32 = 2;
pub const LIST: u32 = 3;
pub const STARTTLS: u32 = 5;
pub const INFO: u32 = 6;
pub const GO: u32 = 7;
pub const STRUCTURED: u32 = 8;
pub const SET_META: u32 = 10;

impl Client {
    #[track_caller]
    pub fn connect(socket: &Path) -> Self {
        let stream = UnixStream::connect(socket).unwrap();
        let limit = Some(Duration::from_mins(1));
        stream.set_read_timeout(limit).unwrap();
        stream.set_write_timeout(limit).unwrap();
        Self(stream)
    }

    pub fn send(&mut self, bytes: &[u8]) {
        // The server may have hung up, as a test may expect.
        let _ = self.0.write_all(bytes);
    }

    #[track_caller]
    pub fn take<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        self.0.read_exact(&mut bytes).unwrap();
        bytes
    }

    #[track_caller]
    pub fn take_vec(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.0.read_exact(&mut bytes).unwrap();
        bytes
    }

    /// Waits until the server hangs up; how many bytes came before.
    #[track_caller]
    pub fn end(&mut self) -> usize {
        let mut rest = Vec::new();
        match self.0.read_to_end(&mut rest) {
            Ok(_) => rest.len(),
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => rest.len(),
            Err(error) => panic!("the server does not hang up: {error}"),
        }
    }

    /// Takes the greeting and answers with these flags.
    #[track_caller]
    pub fn greet(&mut self, flags: u32) {
        let greeting: [u8; 18] = self.take();
        assert_eq!(&greeting[..16], b"NBDMAGICIHAVEOPT");
        assert_eq!(greeting[16..], [0, 3]);
        self.send(&flags.to_be_bytes());
    }

    pub fn option(&mut self, option: u32, data: &[u8]) {
        let mut bytes = b"IHAVEOPT".to_vec();
        bytes.extend(option.to_be_bytes());
        bytes.extend(u32::try_from(data.len()).unwrap().to_be_bytes());
        bytes.extend(data);
        self.send(&bytes);
    }

    /// The replies up to the last one.
    #[track_caller]
    pub fn replies(&mut self, option: u32) -> Vec<OptionReply> {
        let mut replies = Vec::new();
        loop {
            let head: [u8; 20] = self.take();
            assert_eq!(head[..8], 0x0003_e889_0455_65a9_u64.to_be_bytes());
            assert_eq!(head[8..12], option.to_be_bytes());
            let number = |at: usize| u32::from_be_bytes(head[at..at + 4].try_into().unwrap());
            let (kind, length) = (number(12), number(16));
            let data = self.take_vec(length.try_into().unwrap());
            replies.push((kind, data));
            if kind == 1 || kind >> 31 == 1 {
                return replies;
            }
        }
    }

    /// The type of the last reply to an option.
    #[track_caller]
    pub fn ask(&mut self, option: u32, data: &[u8]) -> u32 {
        self.option(option, data);
        self.replies(option).last().unwrap().0
    }

    /// To the transmission, with structured replies and block status.
    #[track_caller]
    pub fn go(&mut self) {
        self.greet(3);
        assert_eq!(self.ask(STRUCTURED, &[]), 1);
        let query = [
            &[0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 15][..],
            b"base:allocation",
        ]
        .concat();
        assert_eq!(self.ask(SET_META, &query), 1);
        assert_eq!(self.ask(GO, &[0; 6]), 1);
    }

    pub fn request(&mut self, flags: u16, command: u16, cookie: u64, offset: u64, length: u32) {
        let mut bytes = 0x2560_9513_u32.to_be_bytes().to_vec();
        bytes.extend(flags.to_be_bytes());
        bytes.extend(command.to_be_bytes());
        bytes.extend(cookie.to_be_bytes());
        bytes.extend(offset.to_be_bytes());
        bytes.extend(length.to_be_bytes());
        self.send(&bytes);
    }

    /// The error of a simple reply.
    #[track_caller]
    pub fn simple(&mut self, cookie: u64) -> u32 {
        let head: [u8; 16] = self.take();
        assert_eq!(head[..4], 0x6744_6698_u32.to_be_bytes());
        assert_eq!(head[8..], cookie.to_be_bytes());
        u32::from_be_bytes(head[4..8].try_into().unwrap())
    }

    /// The chunks of the reply to the only request that is under way.
    #[track_caller]
    pub fn structured(&mut self, cookie: u64) -> Vec<Chunk> {
        let mut chunks = Vec::new();
        loop {
            let head: [u8; 20] = self.take();
            assert_eq!(head[..4], 0x668e_33ef_u32.to_be_bytes());
            assert_eq!(head[8..16], cookie.to_be_bytes());
            let length = u32::from_be_bytes(head[16..].try_into().unwrap());
            let chunk = Chunk {
                is_last: head[5] & 1 == 1,
                kind: u16::from_be_bytes([head[6], head[7]]),
                payload: self.take_vec(length.try_into().unwrap()),
            };
            chunks.push(chunk.clone());
            if chunk.is_last {
                return chunks;
            }
        }
    }

    /// The error of a structured reply; 0 if there is none.
    #[track_caller]
    pub fn error(&mut self, cookie: u64) -> u32 {
        let chunks = self.structured(cookie);
        let error = chunks.iter().find(|chunk| chunk.kind >> 15 == 1);
        error.map_or(0, |chunk| {
            u32::from_be_bytes(chunk.payload[..4].try_into().unwrap())
        })
    }
}

/// What chunks of data and holes come to for a read of `length` bytes at `offset`.
#[track_caller]
pub fn put_together(chunks: &[Chunk], offset: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    let mut covered = 0;
    for Chunk { kind, payload, .. } in chunks {
        let Some((at, rest)) = payload.split_at_checked(8) else {
            assert_eq!(*kind, 0, "{chunks:?}");
            continue;
        };
        let at = u64::from_be_bytes(at.try_into().unwrap()) - offset;
        let at = usize::try_from(at).unwrap();
        match kind {
            1 => {
                bytes[at..at + rest.len()].copy_from_slice(rest);
                covered += rest.len();
            }
            2 => covered += u32::from_be_bytes(rest.try_into().unwrap()) as usize,
            _ => panic!("chunk of type {kind}"),
        }
    }
    assert_eq!(covered, length);
    bytes
}
