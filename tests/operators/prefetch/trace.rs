//! A reader of traces that knows nothing of the program's code. Source: containerd/overlaybd
//! `src/prefetch.cpp`.

use std::io::Read as _;

use super::support;

/// A record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record {
    pub layer: usize,
    pub count: u64,
    pub offset: u64,
}

/// The one file of an acceleration layer, as GNU tar shows and extracts it.
#[track_caller]
pub fn unpacked(blob: &[u8]) -> Vec<u8> {
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("layer.tar");
    std::fs::write(&path, blob).unwrap();
    let shown = support::run(
        support::command("tar")
            .args(["--numeric-owner", "--utc", "-tvf"])
            .arg(&path),
    );
    let shown = String::from_utf8(shown.stdout).unwrap();
    let words: Vec<&str> = shown.split_whitespace().collect();
    assert_eq!(&words[..2], ["-r--r--r--", "0/0"], "{shown}");
    assert_eq!(&words[3..], ["1970-01-01", "00:00", "trace"], "{shown}");
    let mut tar = tar::Archive::new(blob);
    let mut entry = tar.entries().unwrap().next().unwrap().unwrap();
    let mut trace = Vec::new();
    entry.read_to_end(&mut trace).unwrap();
    trace
}

/// The register of CRC-32C after `data`, from 0.
pub fn crc(data: &[u8]) -> u32 {
    data.iter().fold(0, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc: u32, _| {
            (crc >> 1) ^ (0x82f6_3b78 & 0_u32.wrapping_sub(crc & 1))
        })
    })
}

/// The records of a trace; it must be one that overlaybd replays.
#[track_caller]
pub fn records(trace: &[u8]) -> Vec<Record> {
    let u32_at = |at: usize| u32::from_le_bytes(trace[at..at + 4].try_into().unwrap());
    let u64_at = |at: usize| u64::from_le_bytes(trace[at..at + 8].try_into().unwrap());
    assert_eq!(u32_at(0), 3_270_449_184, "the magic");
    assert_eq!(u64_at(8), trace.len() as u64 - 24, "the size");
    assert_eq!(u32_at(16), crc(&trace[24..]), "the checksum");
    assert_eq!((u32_at(4), u32_at(20)), (0, 0), "the padding");
    let (records, rest) = trace[24..].as_chunks::<24>();
    assert!(rest.is_empty());
    (0..records.len())
        .map(|number| {
            let at = 24 + number * 24;
            assert_eq!(u32_at(at), u32::from(b'R'), "record {number}");
            let record = Record {
                layer: u32_at(at + 4) as usize,
                count: u64_at(at + 8),
                offset: u64_at(at + 16),
            };
            // What overlaybd reads it into, without comparing.
            assert!((1..=1 << 20).contains(&record.count), "{record:?}");
            record
        })
        .collect()
}
