//! What the end-to-end tests share: real servers, images made by hand, independent verifiers.

// Each test binary uses its part of this.
#![allow(dead_code)]
#![allow(clippy::needless_pass_by_value)]

pub mod bench;
pub mod chain;
pub mod containerd;
pub mod disk;
pub mod everything;
pub mod gate;
pub mod http;
pub mod image;
pub mod layout;
pub mod overlaybd;
pub mod process;
pub mod proxy;
pub mod pulled;
pub mod registry;
pub mod s3;
pub mod skopeo;
pub mod tar;
pub mod traced;
pub mod turbo;
pub mod unpack;
pub mod until;
pub mod verifier;
pub mod walk;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// Prints that something is not tested, or fails where everything must be.
pub fn skip(reason: &str) {
    assert!(
        std::env::var("OVERLAYBD_PROXY_TEST_ALL").as_deref() != Ok("1"),
        "SKIPPED is not allowed here: {reason}"
    );
    eprintln!("SKIPPED: {reason}");
}

/// Whether mounts, devices and foreign owners are allowed; prints SKIPPED if not.
pub fn is_root(what: &str) -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        skip(&format!("{what} needs root"));
    }
    root
}

/// A program's place, also where administrators' programs are.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var("PATH").unwrap_or_default();
    path.split(':')
        .chain(["/usr/sbin", "/usr/bin", "/sbin", "/bin"])
        .map(|place| Path::new(place).join(program))
        .find(|path| path.is_file())
}

/// Whether all programs are there; prints SKIPPED and what is missing if not.
pub fn have(programs: &[&str]) -> bool {
    let missing: Vec<_> = programs
        .iter()
        .filter(|program| find(program).is_none())
        .collect();
    if !missing.is_empty() {
        skip(&format!("not installed (tests/setup.sh does): {missing:?}"));
    }
    missing.is_empty()
}

/// Runs a command, which must succeed.
#[track_caller]
pub fn run(command: &mut Command) -> Output {
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(
        output.status.success(),
        "{command:?}: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    output
}

/// A command for a program of [`find`].
pub fn command(program: &str) -> Command {
    Command::new(find(program).unwrap_or_else(|| program.into()))
}

/// `sha256:…` of some bytes.
pub fn sha256(bytes: &[u8]) -> String {
    use sha2::Digest as _;
    format!("sha256:{}", hex(&sha2::Sha256::digest(bytes)))
}

/// Bytes in hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    format!("{:x}", bytes::Bytes::copy_from_slice(bytes))
}

/// Bytes that do not compress and are the same each time.
pub fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        // xorshift64*
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        bytes.extend(state.wrapping_mul(0x2545_F491_4F6C_DD1D).to_be_bytes());
    }
    bytes.truncate(len);
    bytes
}
