//! LZ4's block format, decoded as strictly as the C library's `LZ4_decompress_safe` does it.

/// Bytes at the end of a block that are literals.
const LAST_LITERALS: usize = 5;
/// No match begins within so many bytes of the end.
const MATCH_LIMIT: usize = 12;

/// Decodes a block that becomes `len` bytes; an error says what is wrong.
pub fn decode(mut stored: &[u8], len: usize) -> Result<Vec<u8>, &'static str> {
    let mut out = Vec::with_capacity(len);
    loop {
        let token = take(&mut stored)?;
        let literals = length(usize::from(token >> 4), &mut stored)?;
        let (run, rest) = stored
            .split_at_checked(literals)
            .ok_or("literals end behind the block")?;
        out.extend_from_slice(run);
        stored = rest;
        if stored.is_empty() {
            return if out.len() == len {
                Ok(out)
            } else {
                Err("another size")
            };
        }
        if out.len() + MATCH_LIMIT > len {
            return Err("a match begins in the last 12 bytes");
        }
        let distance = usize::from(take(&mut stored)?) | usize::from(take(&mut stored)?) << 8;
        let count = length(usize::from(token & 15), &mut stored)? + 4;
        if out.len() + count + LAST_LITERALS > len {
            return Err("the last 5 bytes are no literals");
        }
        let from = match out.len().checked_sub(distance) {
            Some(from) if distance > 0 => from,
            _ => return Err("a match points before the block"),
        };
        // A match may reach into what it makes.
        let mut done = 0;
        while done < count {
            let part = distance.min(count - done);
            out.extend_from_within(from + done..from + done + part);
            done += part;
        }
    }
}

fn take(stored: &mut &[u8]) -> Result<u8, &'static str> {
    let (first, rest) = stored.split_first().ok_or("the block is cut off")?;
    *stored = rest;
    Ok(*first)
}

fn length(nibble: usize, stored: &mut &[u8]) -> Result<usize, &'static str> {
    let mut length = nibble;
    if nibble == 15 {
        loop {
            let more = take(stored)?;
            length += usize::from(more);
            if more != 255 {
                break;
            }
        }
    }
    Ok(length)
}
