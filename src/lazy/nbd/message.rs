//! Messages to clients, as bytes.

use super::protocol::{
    Errno, MAX_STRING, OPTION_REPLY_MAGIC, SIMPLE_REPLY_MAGIC, STRUCTURED_REPLY_MAGIC, chunk,
};

/// Bytes of a structured chunk's header, and of the offset behind it.
pub const DATA_HEADER_LEN: usize = 28;

/// A string within the protocol's bound.
#[must_use]
pub fn bounded(text: &str) -> &str {
    let mut end = text.len().min(MAX_STRING);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

fn length(bytes: &[u8]) -> u32 {
    // All payloads but data are short; data has its length from a request.
    u32::try_from(bytes.len()).unwrap_or(u32::MAX)
}

/// The reply to an option.
#[must_use]
pub fn option_reply(option: u32, kind: u32, payload: &[u8]) -> Vec<u8> {
    let mut message = Vec::with_capacity(20 + payload.len());
    message.extend(OPTION_REPLY_MAGIC.to_be_bytes());
    message.extend(option.to_be_bytes());
    message.extend(kind.to_be_bytes());
    message.extend(length(payload).to_be_bytes());
    message.extend(payload);
    message
}

/// A simple reply; data follows it where there is no error.
#[must_use]
pub fn simple(cookie: u64, error: Option<Errno>) -> Vec<u8> {
    let mut message = Vec::with_capacity(16);
    message.extend(SIMPLE_REPLY_MAGIC.to_be_bytes());
    message.extend(error.map_or(0, |error| error as u32).to_be_bytes());
    message.extend(cookie.to_be_bytes());
    message
}

fn structured_header(cookie: u64, flags: u16, kind: u16, length: u32) -> Vec<u8> {
    let mut message = Vec::with_capacity(DATA_HEADER_LEN);
    message.extend(STRUCTURED_REPLY_MAGIC.to_be_bytes());
    message.extend(flags.to_be_bytes());
    message.extend(kind.to_be_bytes());
    message.extend(cookie.to_be_bytes());
    message.extend(length.to_be_bytes());
    message
}

/// A chunk of a structured reply.
#[must_use]
pub fn structured(cookie: u64, flags: u16, kind: u16, payload: &[u8]) -> Vec<u8> {
    let mut message = structured_header(cookie, flags, kind, length(payload));
    message.extend(payload);
    message
}

/// The header of a chunk with `length` bytes of data at `offset`, [`DATA_HEADER_LEN`] bytes.
#[must_use]
pub fn data_header(cookie: u64, flags: u16, offset: u64, length: u32) -> Vec<u8> {
    let kind = chunk::OFFSET_DATA;
    let mut message = structured_header(cookie, flags, kind, length.saturating_add(8));
    message.extend(offset.to_be_bytes());
    message
}

/// A chunk that says that `length` bytes at `offset` are zero.
#[must_use]
pub fn hole(cookie: u64, flags: u16, offset: u64, length: u32) -> Vec<u8> {
    let mut payload = offset.to_be_bytes().to_vec();
    payload.extend(length.to_be_bytes());
    structured(cookie, flags, chunk::OFFSET_HOLE, &payload)
}

/// The last chunk of a request that failed, at `offset` if it is known.
#[must_use]
pub fn error(cookie: u64, error: Errno, text: &str, offset: Option<u64>) -> Vec<u8> {
    let text = bounded(text).as_bytes();
    let mut payload = (error as u32).to_be_bytes().to_vec();
    payload.extend(u16::try_from(text.len()).unwrap_or(0).to_be_bytes());
    payload.extend(text);
    let kind = match offset {
        Some(offset) => {
            payload.extend(offset.to_be_bytes());
            chunk::ERROR_OFFSET
        }
        None => chunk::ERROR,
    };
    structured(cookie, chunk::FLAG_DONE, kind, &payload)
}
