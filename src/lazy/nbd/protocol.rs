//! Numbers of the NBD protocol, all big-endian on the wire (NBD's `doc/proto.md`).

/// Begins the handshake: `NBDMAGIC`.
pub const SERVER_MAGIC: u64 = 0x4e42_444d_4147_4943;
/// Begins the newstyle handshake, and each option of a client: `IHAVEOPT`.
pub const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054;
/// Begins the reply to an option.
pub const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
/// Begins a request.
pub const REQUEST_MAGIC: u32 = 0x2560_9513;
/// Begins a simple reply.
pub const SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;
/// Begins a chunk of a structured reply.
pub const STRUCTURED_REPLY_MAGIC: u32 = 0x668e_33ef;

/// Bytes of a request's header.
pub const REQUEST_LEN: usize = 28;
/// Bytes of zeros behind the answer to [`option::EXPORT_NAME`], unless they are not wanted.
pub const ZEROES_LEN: usize = 124;
/// Longest string, in bytes.
pub const MAX_STRING: usize = 4096;
/// Most bytes that one request reads, and the least that servers should allow.
pub const MAX_PAYLOAD: u32 = 32 << 20;

/// Handshake flags; the client's have the same bits.
pub mod handshake_flag {
    /// Fixed newstyle.
    pub const FIXED_NEWSTYLE: u16 = 1;
    /// No zeros behind the answer to `EXPORT_NAME`.
    pub const NO_ZEROES: u16 = 1 << 1;
}

/// Options that a client sends.
pub mod option {
    /// Begin transmission, without a way to say no.
    pub const EXPORT_NAME: u32 = 1;
    /// End the session.
    pub const ABORT: u32 = 2;
    /// Which exports there are.
    pub const LIST: u32 = 3;
    /// Begin TLS.
    pub const STARTTLS: u32 = 5;
    /// Tell of an export.
    pub const INFO: u32 = 6;
    /// Begin transmission.
    pub const GO: u32 = 7;
    /// Answer reads with structured replies.
    pub const STRUCTURED_REPLY: u32 = 8;
    /// Which metadata contexts there are.
    pub const LIST_META_CONTEXT: u32 = 9;
    /// Choose metadata contexts.
    pub const SET_META_CONTEXT: u32 = 10;
}

/// Replies to options.
pub mod option_reply {
    /// Done.
    pub const ACK: u32 = 1;
    /// An export's name and description.
    pub const SERVER: u32 = 2;
    /// Something of an export.
    pub const INFO: u32 = 3;
    /// A metadata context.
    pub const META_CONTEXT: u32 = 4;
    /// The option is not known.
    pub const ERR_UNSUP: u32 = (1 << 31) + 1;
    /// The option is not allowed.
    pub const ERR_POLICY: u32 = (1 << 31) + 2;
    /// The option makes no sense.
    pub const ERR_INVALID: u32 = (1 << 31) + 3;
    /// There is no such export.
    pub const ERR_UNKNOWN: u32 = (1 << 31) + 6;
    /// The option is too long.
    pub const ERR_TOO_BIG: u32 = (1 << 31) + 9;
}

/// What [`option_reply::INFO`] is about.
pub mod info {
    /// Size and transmission flags.
    pub const EXPORT: u16 = 0;
    /// The name.
    pub const NAME: u16 = 1;
    /// A text for people.
    pub const DESCRIPTION: u16 = 2;
    /// Least, best and most bytes of a request.
    pub const BLOCK_SIZE: u16 = 3;
}

/// Transmission flags.
pub mod flag {
    /// There are flags.
    pub const HAS_FLAGS: u16 = 1;
    /// Nothing can be written.
    pub const READ_ONLY: u16 = 1 << 1;
    /// [`command::FLUSH`](super::command::FLUSH) is understood.
    pub const SEND_FLUSH: u16 = 1 << 2;
    /// [`request_flag::DF`](super::request_flag::DF) is understood.
    pub const SEND_DF: u16 = 1 << 7;
    /// Several connections see the same disk.
    pub const CAN_MULTI_CONN: u16 = 1 << 8;
    /// [`command::CACHE`](super::command::CACHE) is understood.
    pub const SEND_CACHE: u16 = 1 << 10;
}

/// What a request asks for.
pub mod command {
    /// Data.
    pub const READ: u16 = 0;
    /// To write, with data behind the header.
    pub const WRITE: u16 = 1;
    /// To end the session.
    pub const DISC: u16 = 2;
    /// That what was written is durable.
    pub const FLUSH: u16 = 3;
    /// To drop data.
    pub const TRIM: u16 = 4;
    /// To have data ready soon.
    pub const CACHE: u16 = 5;
    /// To write zeros.
    pub const WRITE_ZEROES: u16 = 6;
    /// Where there is data.
    pub const BLOCK_STATUS: u16 = 7;
}

/// Flags of a request.
pub mod request_flag {
    /// The answer must be one chunk.
    pub const DF: u16 = 1 << 2;
    /// One extent is enough.
    pub const REQ_ONE: u16 = 1 << 3;
}

/// Chunks of structured replies.
pub mod chunk {
    /// The last chunk of a reply.
    pub const FLAG_DONE: u16 = 1;
    /// Nothing more.
    pub const NONE: u16 = 0;
    /// Data at an offset.
    pub const OFFSET_DATA: u16 = 1;
    /// Zeros at an offset.
    pub const OFFSET_HOLE: u16 = 2;
    /// Extents of a metadata context.
    pub const BLOCK_STATUS: u16 = 5;
    /// An error of the whole request.
    pub const ERROR: u16 = (1 << 15) + 1;
    /// An error at an offset.
    pub const ERROR_OFFSET: u16 = (1 << 15) + 2;
}

/// States of an extent in the context [`BASE_ALLOCATION`].
pub mod state {
    /// Nothing is stored for it, and it reads as zero.
    pub const HOLE_ZERO: u32 = 0b11;
    /// There is data.
    pub const DATA: u32 = 0;
}

/// The metadata context that tells where there is data.
pub const BASE_ALLOCATION: &str = "base:allocation";
/// The number that it has on every connection.
pub const BASE_ALLOCATION_ID: u32 = 1;

/// Errors of requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Errno {
    /// The export is read-only.
    Perm = 1,
    /// The disk cannot be read.
    Io = 5,
    /// The request makes no sense.
    Inval = 22,
    /// The request is for too much.
    Overflow = 75,
}
