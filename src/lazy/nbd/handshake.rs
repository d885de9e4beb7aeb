//! The handshake: fixed newstyle, up to the transmission.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;

use super::export::Export;
use super::message::{bounded, option_reply};
use super::protocol::{
    BASE_ALLOCATION, BASE_ALLOCATION_ID, MAX_PAYLOAD, MAX_STRING, OPTION_MAGIC, SERVER_MAGIC,
    ZEROES_LEN, flag, handshake_flag, info, option, option_reply as reply,
};
use super::wire::{ConnectionError, read_exact, skip, write};

/// How long a handshake may take.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(20);
/// Most options of a client.
const MAX_OPTIONS: usize = 64;
/// Longest data of an option that is read, and longest that is skipped, in bytes.
const MAX_OPTION: u32 = 16 << 10;
const MAX_SKIPPED: u32 = 1 << 20;

/// What client and server agreed upon.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Agreed {
    /// Reads are answered with structured replies.
    pub structured: bool,
    /// The client may ask where there is data.
    pub allocation: bool,
}

impl Agreed {
    fn flags(self) -> u16 {
        let df = if self.structured { flag::SEND_DF } else { 0 };
        flag::HAS_FLAGS
            | flag::READ_ONLY
            | flag::SEND_FLUSH
            | flag::CAN_MULTI_CONN
            | flag::SEND_CACHE
            | df
    }
}

/// Shakes hands; `None` where the client only asked.
///
/// # Errors
/// When the client breaks the protocol, takes too long, or leaves.
pub async fn shake_hands<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    export: &Export,
) -> Result<Option<Agreed>, ConnectionError> {
    let negotiated = timeout(HANDSHAKE_TIMEOUT, negotiate(stream, export)).await;
    negotiated.unwrap_or(Err(ConnectionError::Slow(HANDSHAKE_TIMEOUT)))
}

async fn negotiate<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    export: &Export,
) -> Result<Option<Agreed>, ConnectionError> {
    let ours = handshake_flag::FIXED_NEWSTYLE | handshake_flag::NO_ZEROES;
    let mut greeting = SERVER_MAGIC.to_be_bytes().to_vec();
    greeting.extend(OPTION_MAGIC.to_be_bytes());
    greeting.extend(ours.to_be_bytes());
    write(stream, &greeting).await?;
    let mut theirs = [0; 4];
    read_exact(stream, &mut theirs).await?;
    let theirs = u16::try_from(u32::from_be_bytes(theirs)).ok();
    let theirs = theirs.filter(|theirs| theirs & !ours == 0);
    let theirs = theirs.ok_or(ConnectionError::Protocol("unknown client flags"))?;
    let mut agreed = Agreed::default();
    for _ in 0..MAX_OPTIONS {
        let (option, length) = read_option(stream).await?;
        if length > MAX_SKIPPED {
            return Err(ConnectionError::Protocol("an option is too long"));
        }
        if length > MAX_OPTION {
            skip(stream, length).await?;
            if option == option::EXPORT_NAME {
                return Err(ConnectionError::Protocol("an export's name is too long"));
            }
            write(stream, &option_reply(option, reply::ERR_TOO_BIG, &[])).await?;
            continue;
        }
        let mut data = vec![0; usize::try_from(length).map_err(io::Error::other)?];
        read_exact(stream, &mut data).await?;
        if option == option::EXPORT_NAME {
            if !data.is_empty() {
                return Err(ConnectionError::Protocol("there is no such export"));
            }
            let mut answer = export.size().to_be_bytes().to_vec();
            answer.extend(agreed.flags().to_be_bytes());
            if theirs & handshake_flag::NO_ZEROES == 0 {
                answer.extend([0; ZEROES_LEN]);
            }
            write(stream, &answer).await?;
            return Ok(Some(agreed));
        }
        if theirs & handshake_flag::FIXED_NEWSTYLE == 0 {
            return Err(ConnectionError::Protocol("an option needs fixed newstyle"));
        }
        let (answers, is_good) = answer(option, &data, export, &mut agreed);
        let mut message = Vec::new();
        for (kind, payload) in answers {
            message.extend(option_reply(option, kind, &payload));
        }
        write(stream, &message).await?;
        match option {
            option::ABORT => return Ok(None),
            option::GO if is_good => return Ok(Some(agreed)),
            _ => {}
        }
    }
    Err(ConnectionError::Protocol("too many options"))
}

async fn read_option<S: AsyncRead + Unpin>(stream: &mut S) -> Result<(u32, u32), ConnectionError> {
    let mut magic = [0; 8];
    read_exact(stream, &mut magic).await?;
    if u64::from_be_bytes(magic) != OPTION_MAGIC {
        return Err(ConnectionError::Protocol("an option does not begin as one"));
    }
    let (mut option, mut length) = ([0; 4], [0; 4]);
    read_exact(stream, &mut option).await?;
    read_exact(stream, &mut length).await?;
    Ok((u32::from_be_bytes(option), u32::from_be_bytes(length)))
}

type Answers = Vec<(u32, Vec<u8>)>;

/// The replies to an option, and whether it went well.
fn answer(option: u32, data: &[u8], export: &Export, agreed: &mut Agreed) -> (Answers, bool) {
    let refused = |kind: u32, why: &str| (vec![(kind, why.as_bytes().to_vec())], false);
    let acknowledged = |mut answers: Answers| {
        answers.push((reply::ACK, Vec::new()));
        (answers, true)
    };
    match option {
        option::ABORT => acknowledged(Vec::new()),
        option::LIST | option::STARTTLS | option::STRUCTURED_REPLY if !data.is_empty() => {
            refused(reply::ERR_INVALID, "no data is expected")
        }
        option::LIST => {
            // The empty name, and a description behind it.
            let mut payload = 0_u32.to_be_bytes().to_vec();
            payload.extend(bounded(&export.description).as_bytes());
            acknowledged(vec![(reply::SERVER, payload)])
        }
        option::STARTTLS => refused(reply::ERR_POLICY, "there is no TLS here"),
        option::STRUCTURED_REPLY => {
            agreed.structured = true;
            acknowledged(Vec::new())
        }
        option::INFO | option::GO => match parse_info(data) {
            None => refused(reply::ERR_INVALID, "the option cannot be read"),
            Some((name, _)) if !name.is_empty() => {
                refused(reply::ERR_UNKNOWN, "the only export is the default one")
            }
            Some((_, wanted)) => acknowledged(infos(&wanted, export, *agreed)),
        },
        option::LIST_META_CONTEXT | option::SET_META_CONTEXT => {
            let is_set = option == option::SET_META_CONTEXT;
            if is_set {
                agreed.allocation = false;
            }
            if !agreed.structured {
                return refused(reply::ERR_INVALID, "structured replies come first");
            }
            match parse_queries(data) {
                None => refused(reply::ERR_INVALID, "the option cannot be read"),
                Some((name, _)) if !name.is_empty() => {
                    refused(reply::ERR_UNKNOWN, "the only export is the default one")
                }
                Some((_, queries)) => {
                    let is_asked = queries.iter().any(|query| {
                        *query == BASE_ALLOCATION.as_bytes() || (!is_set && *query == b"base:")
                    });
                    let is_found = is_asked || (!is_set && queries.is_empty());
                    agreed.allocation |= is_set && is_found;
                    let id = if is_set { BASE_ALLOCATION_ID } else { 0 };
                    let mut payload = id.to_be_bytes().to_vec();
                    payload.extend(BASE_ALLOCATION.as_bytes());
                    let context = (reply::META_CONTEXT, payload);
                    acknowledged(is_found.then_some(context).into_iter().collect())
                }
            }
        }
        _ => refused(reply::ERR_UNSUP, "the option is not known"),
    }
}

fn infos(wanted: &[u16], export: &Export, agreed: Agreed) -> Answers {
    let mut answers = Vec::new();
    let mut add = |kind: u16, payload: &[u8]| {
        let mut whole = kind.to_be_bytes().to_vec();
        whole.extend(payload);
        answers.push((reply::INFO, whole));
    };
    let mut size = export.size().to_be_bytes().to_vec();
    size.extend(agreed.flags().to_be_bytes());
    add(info::EXPORT, &size);
    if wanted.contains(&info::NAME) {
        add(info::NAME, &[]);
    }
    if wanted.contains(&info::DESCRIPTION) {
        let description = bounded(&export.description);
        add(info::DESCRIPTION, description.as_bytes());
    }
    if wanted.contains(&info::BLOCK_SIZE) {
        let sizes = [1_u32, 4096, MAX_PAYLOAD];
        let sizes: Vec<u8> = sizes.iter().flat_map(|size| size.to_be_bytes()).collect();
        add(info::BLOCK_SIZE, &sizes);
    }
    answers
}

fn take<'a>(data: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (taken, rest) = data.split_at_checked(length)?;
    *data = rest;
    Some(taken)
}

fn take_u32(data: &mut &[u8]) -> Option<u32> {
    Some(u32::from_be_bytes(take(data, 4)?.try_into().ok()?))
}

fn take_string<'a>(data: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = usize::try_from(take_u32(data)?).ok()?;
    take(data, length).filter(|string| string.len() <= MAX_STRING)
}

/// The name of an export, and what is wanted of it.
fn parse_info(mut data: &[u8]) -> Option<(&[u8], Vec<u16>)> {
    let name = take_string(&mut data)?;
    let count = u16::from_be_bytes(take(&mut data, 2)?.try_into().ok()?);
    if data.len() != usize::from(count) * 2 {
        return None;
    }
    let wanted = data.chunks_exact(2);
    let wanted = wanted.map(|pair| u16::from_be_bytes([pair[0], pair[1]]));
    Some((name, wanted.collect()))
}

/// The name of an export, and queries for its metadata contexts.
fn parse_queries(mut data: &[u8]) -> Option<(&[u8], Vec<&[u8]>)> {
    let name = take_string(&mut data)?;
    let count = take_u32(&mut data)?;
    let mut queries = Vec::new();
    for _ in 0..count {
        queries.push(take_string(&mut data)?);
    }
    data.is_empty().then_some((name, queries))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_that_claim_more_than_they_have_are_refused() {
        let go = [&[0, 0, 0, 2][..], b"ab", &[0, 1, 0, 3]].concat();
        assert_eq!(parse_info(&go), Some((&b"ab"[..], vec![3])));
        for end in 0..go.len() {
            assert_eq!(parse_info(&go[..end]), None, "{end}");
        }
        assert_eq!(parse_info(&[go, vec![0]].concat()), None);
        let query = [&[0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 5][..], b"base:"].concat();
        assert_eq!(parse_queries(&query), Some((&b""[..], vec![&b"base:"[..]])));
        for end in 0..query.len() {
            assert_eq!(parse_queries(&query[..end]), None, "{end}");
        }
        assert_eq!(parse_queries(&[0, 0, 0, 0, 255, 255, 255, 255]), None);
        assert_eq!(parse_queries(&[255, 255, 255, 255, 0]), None);
    }
}
