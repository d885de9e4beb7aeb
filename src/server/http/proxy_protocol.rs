//! Headers of the PROXY protocol: before anything else of a connection a balancer says in them
//! whose it is.
//!
//! "The PROXY protocol", versions 1 and 2, `HAProxy` (`doc/proxy-protocol.txt`, § 2). Which senders
//! are asked for one is configured, and never guessed from the bytes (§ 2, § 5). What belongs to the
//! connection behind the header is not read here, not even into a buffer.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::net::TcpStream;

/// § 2.2.
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
const V1: &[u8] = b"PROXY ";
/// Most bytes of a header of version 1, with its end of line (§ 2.1).
const MAX_LINE: usize = 107;
/// Most bytes behind the 16 that each header of version 2 has: addresses and extensions. The
/// protocol's field could say 64 KiB; what balancers send is some hundred.
const MAX_BLOCK: usize = 4096;
/// Bytes of the longest addresses that are read: two of IPv6, and two ports.
const ADDRESSES: usize = 36;

/// What is wrong with a connection's beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// It has no header.
    #[error("it begins with no header of the PROXY protocol")]
    Missing,
    /// A header of version 1 that does not end within 107 bytes.
    #[error("its PROXY line is longer than 107 bytes")]
    LongLine,
    /// A header of version 1 with something else than protocol, addresses and ports.
    #[error("its PROXY line is not PROXY TCP4|TCP6 ADDRESS ADDRESS PORT PORT, or PROXY UNKNOWN")]
    Line,
    /// A header of version 2 of another version, command, or address family.
    #[error(
        "its binary PROXY header has a version, a command or a kind of address that there is not"
    )]
    Unknown,
    /// A header of version 2 that is shorter than its addresses.
    #[error("its binary PROXY header is too short for its addresses")]
    Short,
    /// A header of version 2 with more extensions than are taken.
    #[error("its binary PROXY header has more than 4 KiB of extensions")]
    LongBlock,
}

/// Why there is no header.
#[derive(Debug, thiserror::Error)]
pub(in crate::server) enum ReadError {
    /// The connection ended before it, with nothing sent: balancers look whether a port is open.
    #[error("it was closed before anything came")]
    Closed,
    #[error("it ended within its PROXY header: {0}")]
    Io(#[from] io::Error),
    #[error(transparent)]
    Header(#[from] HeaderError),
}

/// Reads the header that a connection begins with: its client's address, or `None` where the header
/// names none, and the connection's own address is used (LOCAL, UNKNOWN). Takes no time limit: that is the caller's.
///
/// # Errors
/// When there is no header.
pub(in crate::server) async fn read(
    stream: &mut TcpStream,
) -> Result<Option<SocketAddr>, ReadError> {
    let mut start = [0; SIGNATURE.len()];
    // A header of either version is longer than that.
    if stream.read(&mut start[..1]).await? == 0 {
        return Err(ReadError::Closed);
    }
    stream.read_exact(&mut start[1..]).await?;
    if start == *SIGNATURE {
        let mut rest = [0; 4];
        stream.read_exact(&mut rest).await?;
        let (kind, length) = v2_kind(rest)?;
        return Ok(read_block(stream, kind, length).await?);
    }
    if !start.starts_with(V1) {
        return Err(HeaderError::Missing.into());
    }
    let mut line = [0; MAX_LINE];
    line[..start.len()].copy_from_slice(&start);
    let mut filled = start.len();
    // Only what is known to belong to the line is taken.
    while !line[..filled].ends_with(b"\n") {
        let left = &mut line[filled..];
        if left.is_empty() {
            return Err(HeaderError::LongLine.into());
        }
        let there = stream.peek(left).await?;
        if there == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        let end = left[..there].iter().position(|byte| *byte == b'\n');
        let taken = end.map_or(there, |end| end + 1);
        stream.read_exact(&mut left[..taken]).await?;
        filled += taken;
    }
    Ok(v1(&line[..filled])?)
}

/// The client in a header of version 1 (§ 2.1), which is its whole line.
///
/// # Errors
/// What is wrong with it.
pub fn v1(line: &[u8]) -> Result<Option<SocketAddr>, HeaderError> {
    if line.len() > MAX_LINE {
        return Err(HeaderError::LongLine);
    }
    let text = line.strip_suffix(b"\r\n").ok_or(HeaderError::Line)?;
    let text = text.strip_prefix(V1).ok_or(HeaderError::Line)?;
    // What is behind it is to be ignored.
    if text == b"UNKNOWN" || text.starts_with(b"UNKNOWN ") {
        return Ok(None);
    }
    let text = std::str::from_utf8(text).map_err(|_| HeaderError::Line)?;
    let mut words = text.split(' ');
    let mut word = || words.next().ok_or(HeaderError::Line);
    let family = word()?;
    let addresses = [word()?, word()?];
    let ports = [port(word()?)?, port(word()?)?];
    if words.next().is_some() {
        return Err(HeaderError::Line);
    }
    let address = |text: &str| -> Option<IpAddr> {
        match family {
            "TCP4" => text.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
            "TCP6" => text.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
            _ => None,
        }
    };
    match addresses.map(address) {
        [Some(source), Some(_)] => Ok(Some(SocketAddr::new(source, ports[0]))),
        _ => Err(HeaderError::Line),
    }
}

/// Digits without a leading zero.
fn port(text: &str) -> Result<u16, HeaderError> {
    let is_plain = text.bytes().all(|byte| byte.is_ascii_digit());
    let is_short = text == "0" || !text.starts_with('0');
    let port = text.parse().ok().filter(|_| is_plain && is_short);
    port.ok_or(HeaderError::Line)
}

/// What addresses a header of version 2 has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// None that count: the connection's own address is used (LOCAL, UNKNOWN), or the address is of no kind that TCP has.
    None,
    V4,
    V6,
}

/// What is behind the signature: the version, the command, the family, and the length of the rest.
fn v2_kind(rest: [u8; 4]) -> Result<(Kind, usize), HeaderError> {
    let [command, family, high, low] = rest;
    let length = usize::from(u16::from_be_bytes([high, low]));
    let kind = match (command, family) {
        (0x21, 0x11) => Kind::V4,
        (0x21, 0x21) => Kind::V6,
        // LOCAL, whatever the family; then unspecified, datagrams, and Unix sockets: "use the real
        // connection endpoints".
        (0x20, _) | (0x21, 0x00 | 0x12 | 0x22 | 0x31 | 0x32) => Kind::None,
        _ => return Err(HeaderError::Unknown),
    };
    if length > MAX_BLOCK {
        return Err(HeaderError::LongBlock);
    }
    let needed = match kind {
        Kind::None => 0,
        Kind::V4 => 12,
        Kind::V6 => ADDRESSES,
    };
    if length < needed {
        return Err(HeaderError::Short);
    }
    Ok((kind, length))
}

async fn read_block<S: AsyncRead + Unpin>(
    stream: &mut S,
    kind: Kind,
    length: usize,
) -> io::Result<Option<SocketAddr>> {
    let mut addresses = [0; ADDRESSES];
    let first = length.min(ADDRESSES);
    stream.read_exact(&mut addresses[..first]).await?;
    let mut left = length - first;
    let mut extensions = [0; 256];
    while left > 0 {
        let part = left.min(extensions.len());
        stream.read_exact(&mut extensions[..part]).await?;
        left -= part;
    }
    Ok(source(kind, &addresses))
}

/// The first of the addresses, and its port.
fn source(kind: Kind, block: &[u8; ADDRESSES]) -> Option<SocketAddr> {
    let port = |at: usize| Some(u16::from_be_bytes(*block.get(at..)?.first_chunk()?));
    match kind {
        Kind::None => None,
        Kind::V4 => {
            let address = Ipv4Addr::from(*block.first_chunk::<4>()?);
            Some(SocketAddr::new(address.into(), port(8)?))
        }
        Kind::V6 => {
            let address = Ipv6Addr::from(*block.first_chunk::<16>()?);
            Some(SocketAddr::new(address.into(), port(32)?))
        }
    }
}

/// The client in a whole header of version 2 (§ 2.2), and the header's length.
///
/// # Errors
/// What is wrong with it.
pub fn v2(bytes: &[u8]) -> Result<(Option<SocketAddr>, usize), HeaderError> {
    let rest = bytes.strip_prefix(SIGNATURE).ok_or(HeaderError::Missing)?;
    let (fields, block) = rest.split_first_chunk().ok_or(HeaderError::Short)?;
    let (kind, length) = v2_kind(*fields)?;
    let block = block.get(..length).ok_or(HeaderError::Short)?;
    let mut addresses = [0; ADDRESSES];
    let first = length.min(ADDRESSES);
    addresses[..first].copy_from_slice(&block[..first]);
    Ok((source(kind, &addresses), SIGNATURE.len() + 4 + length))
}

#[cfg(test)]
mod tests;
