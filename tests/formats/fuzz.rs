//! The fuzzers' corpus, and damaged copies of it, on any toolchain. `cargo fuzz` goes deeper:
//! see `fuzz/README.md`.

#[path = "../../fuzz/src/targets.rs"]
mod targets;

use std::fs;
use std::path::PathBuf;

/// Damaged copies for each target, unless `OVERLAYBD_PROXY_TEST_FUZZ` says another number.
const ROUNDS: u64 = 400;

/// xorshift64*: the same copies in every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound.max(1) as u64).unwrap()
    }
}

/// What damages do: bits, bytes that mean much, cuts, repeated and foreign pieces.
fn damage(bytes: &mut Vec<u8>, other: &[u8], random: &mut Random) {
    for _ in 0..=random.below(6) {
        if bytes.is_empty() {
            bytes.push(0);
        }
        let place = random.below(bytes.len());
        match random.below(7) {
            0 => bytes[place] ^= 1 << random.below(8),
            1 => bytes[place] = [0, 1, 0x7f, 0x80, 0xff, b'/', b'9'][random.below(7)],
            2 => bytes.truncate(place),
            3 => {
                let end = (place + random.below(600)).min(bytes.len());
                let piece = bytes[place..end].to_vec();
                let at = random.below(bytes.len());
                bytes.splice(at..at, piece);
            }
            4 => {
                let from = random.below(other.len());
                let piece = &other[from..(from + random.below(600)).min(other.len())];
                let end = (place + piece.len()).min(bytes.len());
                bytes[place..end].copy_from_slice(&piece[..end - place]);
            }
            5 => {
                // A number of 32 or 64 bits.
                let number = [0, 1, u64::MAX, u64::MAX >> 1, 1 << 40, random.next()];
                let number = number[random.below(6)].to_le_bytes();
                let piece = &number[..4 << random.below(2)];
                let end = (place + piece.len()).min(bytes.len());
                bytes[place..end].copy_from_slice(&piece[..end - place]);
            }
            _ => {
                let end = (place + random.below(64)).min(bytes.len());
                bytes.drain(place..end);
            }
        }
    }
}

fn corpus(name: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let directory = format!("{}/fuzz/corpus/{name}", env!("CARGO_MANIFEST_DIR"));
    let entries = fs::read_dir(&directory).unwrap_or_else(|error| panic!("{directory}: {error}"));
    let mut files: Vec<_> = entries
        .map(|entry| entry.unwrap().path())
        .map(|path| (path.clone(), fs::read(path).unwrap()))
        .collect();
    files.sort();
    assert!(!files.is_empty(), "{directory} holds nothing");
    files
}

fn run(name: &str) {
    let (_, target) = targets::TARGETS
        .iter()
        .find(|(known, _)| *known == name)
        .unwrap();
    let corpus = corpus(name);
    for (path, bytes) in &corpus {
        eprintln!("{}", path.display());
        target(bytes);
    }
    let rounds = std::env::var("OVERLAYBD_PROXY_TEST_FUZZ");
    let rounds = rounds.map_or(ROUNDS, |text| text.parse().unwrap());
    let failing = std::env::temp_dir().join(format!("fuzz-{name}-{}", std::process::id()));
    for round in 0..rounds {
        let mut random = Random(round.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
        let mut bytes = corpus[random.below(corpus.len())].1.clone();
        let other = &corpus[random.below(corpus.len())].1;
        damage(&mut bytes, other, &mut random);
        // What ends the process is there to be looked at.
        fs::write(&failing, &bytes).unwrap();
        target(&bytes);
    }
    fs::remove_file(&failing).unwrap();
}

macro_rules! tests {
    ($($target:ident)*) => {$(
        mod $target {
            #[test]
            fn a_target_runs_on_its_corpus_and_on_damaged_copies() {
                super::run(stringify!($target));
            }
        }
    )*};
}

tests!(tar layer inflate zfile lsmt blob gzip_index turbo trace ext4 manifest reference challenge dsn route);

#[test]
fn every_target_has_a_fuzzer() {
    for (name, _) in targets::TARGETS {
        let path = format!("{}/fuzz/fuzz_targets/{name}.rs", env!("CARGO_MANIFEST_DIR"));
        let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
        assert!(text.contains(&format!("targets::{name}(data)")), "{path}");
    }
}
