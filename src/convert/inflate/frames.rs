//! zstd frames, one after the other. What a frame's window takes is asked for before the
//! decoder takes it: a header of ten bytes can ask for any amount.

use std::io::{self, BufRead, Read};

use zstd::stream::raw::{DParameter, Decoder, Operation as _};

use super::named;
use crate::oci::compression::{ZSTD, is_skippable};
use crate::sizes::Size;

/// log2 of the largest window taken: 512 MiB, what `zstd --long=29` asks for and containerd
/// takes.
const MAX_WINDOW_LOG: u32 = 29;
const MAX_WINDOW: u64 = 1 << MAX_WINDOW_LOG;
/// Bytes of the longest frame header (RFC 8878 § 3.1.1.1): magic number, descriptor, window,
/// dictionary, content size.
const HEADER: usize = 4 + 1 + 1 + 4 + 8;

/// Is asked for the bytes of each window; an error ends the layer.
pub type Grant<'a> = Box<dyn FnMut(u64) -> io::Result<()> + Send + 'a>;

pub(super) struct Frames<'a, R> {
    input: Peeked<R>,
    decoder: Decoder<'static>,
    is_within: bool,
    grant: Grant<'a>,
}

impl<'a, R: BufRead> Frames<'a, R> {
    pub(super) fn new(input: R, grant: Grant<'a>) -> io::Result<Self> {
        let mut decoder = Decoder::new()?;
        decoder.set_parameter(DParameter::WindowLogMax(MAX_WINDOW_LOG))?;
        Ok(Self {
            input: Peeked {
                head: Vec::new(),
                taken: 0,
                input,
            },
            decoder,
            is_within: false,
            grant,
        })
    }

    /// Whether another frame follows, for whose window there is memory.
    fn begin(&mut self) -> io::Result<bool> {
        let head = self.input.peek()?;
        if head.is_empty() {
            return Ok(false);
        }
        if head.starts_with(&ZSTD) {
            let window = window(head).unwrap_or_default();
            if window.size > MAX_WINDOW {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    format!(
                        "zstd: it was compressed with a window of {}, and {} is the most that is \
                         taken",
                        Size(window.size),
                        Size(MAX_WINDOW)
                    ),
                ));
            }
            (self.grant)(window.taken)?;
        } else if head.len() >= ZSTD.len() && !is_skippable(head) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "zstd: no frame follows the last one, but something else",
            ));
        }
        Ok(true)
    }
}

impl<R: BufRead> Read for Frames<'_, R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if buf.is_empty() {
            return Ok(0);
        }
        loop {
            if !self.is_within {
                if !self.begin()? {
                    return Ok(0);
                }
                self.is_within = true;
            }
            let input = self.input.fill_buf()?;
            let has_ended = input.is_empty();
            let status = self.decoder.run_on_buffers(input, buf);
            let status = status.map_err(|error| named("zstd", error))?;
            self.input.consume(status.bytes_read);
            self.is_within = status.remaining > 0;
            if status.bytes_written > 0 {
                return Ok(status.bytes_written);
            }
            if self.is_within && has_ended {
                return Err(named("zstd", io::ErrorKind::UnexpectedEof.into()));
            }
        }
    }
}

/// What a frame asks for.
#[derive(Debug, Default, PartialEq, Eq)]
struct Window {
    /// How far back its data may point, in bytes.
    size: u64,
    /// Bytes that the decoder keeps for it: no more than there are in all.
    taken: u64,
}

/// From a frame's header; `None` if that is cut.
fn window(header: &[u8]) -> Option<Window> {
    let descriptor = *header.get(4)?;
    let is_single = descriptor & 0x20 != 0;
    let mut at = 5;
    let mut size = 0;
    if !is_single {
        let byte = u64::from(*header.get(at)?);
        let base = 1u64 << (10 + (byte >> 3));
        size = base + base / 8 * (byte & 7);
        at += 1;
    }
    at += [0, 1, 2, 4][usize::from(descriptor & 3)];
    let length = match descriptor >> 6 {
        0 => usize::from(is_single),
        flag => 1 << flag,
    };
    let field = header.get(at..at + length)?;
    let mut content = [0; 8];
    content[..length].copy_from_slice(field);
    let content = u64::from_le_bytes(content) + if length == 2 { 256 } else { 0 };
    if is_single {
        size = content;
    }
    let taken = if length == 0 { size } else { size.min(content) };
    Some(Window { size, taken })
}

/// An input whose next bytes can be looked at.
struct Peeked<R> {
    head: Vec<u8>,
    /// How many of those were taken.
    taken: usize,
    input: R,
}

impl<R: BufRead> Peeked<R> {
    /// The next bytes, as many as a header has; fewer only where the input ends.
    fn peek(&mut self) -> io::Result<&[u8]> {
        self.head.drain(..self.taken);
        self.taken = 0;
        let missing = HEADER.saturating_sub(self.head.len());
        let input = self.input.by_ref();
        input.take(missing as u64).read_to_end(&mut self.head)?;
        Ok(&self.head)
    }

    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.taken < self.head.len() {
            return Ok(&self.head[self.taken..]);
        }
        self.input.fill_buf()
    }

    fn consume(&mut self, count: usize) {
        if self.taken < self.head.len() {
            self.taken += count.min(self.head.len() - self.taken);
        } else {
            self.input.consume(count);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    /// Data in a frame of which nobody said how much it would be.
    fn frame(data: &[u8], window_log: u32) -> Vec<u8> {
        let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
        encoder.window_log(window_log).unwrap();
        encoder.write_all(data).unwrap();
        encoder.finish().unwrap()
    }

    /// What comes out where windows up to `limit` are granted, and which were asked for.
    fn read(layer: &[u8], limit: u64, step: usize) -> (io::Result<Vec<u8>>, Vec<u64>) {
        let mut asked = Vec::new();
        let grant: Grant<'_> = Box::new(|window| {
            asked.push(window);
            match window {
                window if window > limit => Err(io::Error::other("too large")),
                _ => Ok(()),
            }
        });
        let input = io::BufReader::with_capacity(step, layer);
        let mut data = Vec::new();
        let read = Frames::new(input, grant)
            .unwrap()
            .read_to_end(&mut data)
            .map(|_| data);
        (read, asked)
    }

    #[test]
    fn memory_for_each_window_is_requested_before_it_is_allocated() {
        let skippable = [&[0x5a, 0x2a, 0x4d, 0x18, 3, 0, 0, 0][..], b"xyz"].concat();
        let known = zstd::bulk::compress(&[7; 5000], 1).unwrap();
        let layer = [
            frame(b"one", 20),
            skippable,
            known,
            frame(&[], 17),
            frame(b"two", 29),
        ]
        .concat();
        for step in [1, 7, 4096] {
            let (data, asked) = read(&layer, MAX_WINDOW, step);
            assert_eq!(data.unwrap(), [&b"one"[..], &[7; 5000], b"two"].concat());
            assert_eq!(asked, [1 << 20, 5000, 0, 1 << 29], "step {step}");
            let (data, asked) = read(&layer, MAX_WINDOW - 1, step);
            assert!(data.unwrap_err().to_string().contains("too large"));
            assert_eq!(asked.len(), 4);
        }
    }

    #[test]
    fn a_window_over_the_limit_is_refused_without_a_request_for_memory() {
        let mut layer = frame(&[7; 1000], 29);
        for descriptor in [19 << 3 | 1, 20 << 3, 31 << 3 | 7] {
            layer[5] = descriptor;
            let (data, asked) = read(&layer, u64::MAX, 4096);
            let error = data.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{error}");
            assert!(error.to_string().contains("window"), "{error}");
            assert_eq!(asked, [0; 0]);
        }
        // Of a single segment, the content is the window.
        let mut layer = ZSTD.to_vec();
        layer.push(0xe0);
        layer.extend_from_slice(&u64::MAX.to_le_bytes());
        assert!(read(&layer, u64::MAX, 4096).0.is_err());
    }

    #[test]
    fn the_window_size_is_parsed_from_every_form_of_header() {
        let of = |bytes: &[u8]| window(&[&ZSTD[..], bytes].concat());
        let is = |size, taken| Some(Window { size, taken });
        assert_eq!(of(&[0x00, 0x00]), is(1 << 10, 1 << 10));
        assert_eq!(
            of(&[0x00, 0x53]),
            is((1 << 20) / 8 * 11, (1 << 20) / 8 * 11)
        );
        assert_eq!(of(&[0x20, 9]), is(9, 9));
        assert_eq!(of(&[0x61, 1, 0, 1]), is(512, 512));
        assert_eq!(of(&[0x40, 0x50, 0, 0]), is(1 << 20, 256));
        assert_eq!(
            of(&[0x83, 0x00, 1, 2, 3, 4, 0, 0, 1, 0]),
            is(1 << 10, 1 << 10)
        );
        assert_eq!(
            of(&[0xe2, 1, 2, 0, 0, 0, 0, 1, 0, 0, 0]),
            is(1 << 32, 1 << 32)
        );
        assert_eq!(of(&[0xe2, 1, 2, 0]), None);
        assert_eq!(of(&[]), None);
    }
}
