//! `nbd` by the protocol's letter, and clients that break it.

use std::time::{Duration, Instant};

use super::Demo;
use super::client::{
    ABORT, Client, EXPORT_NAME, GO, INFO, LIST, SET_META, STARTTLS, STRUCTURED, Server,
    put_together,
};

const UNSUPPORTED: u32 = (1 << 31) + 1;
const POLICY: u32 = (1 << 31) + 2;
const INVALID: u32 = (1 << 31) + 3;
const UNKNOWN: u32 = (1 << 31) + 6;
const TOO_BIG: u32 = (1 << 31) + 9;

fn narrow(length: usize) -> u32 {
    length.try_into().unwrap()
}

#[test]
fn options_are_answered_by_the_protocol_s_letter() {
    let demo = Demo::odd();
    let server = Server::start(&[&demo.image()]);
    let mut client = server.connect();
    client.greet(3);
    let base = b"base:allocation";
    let query = |text: &[u8]| {
        let length = u32::try_from(text.len()).unwrap().to_be_bytes();
        [&[0, 0, 0, 0, 0, 0, 0, 1][..], &length, text].concat()
    };
    for (option, data, expected) in [
        (STARTTLS, vec![], POLICY),
        (11, vec![], UNSUPPORTED),
        (4711, vec![1, 2, 3], UNSUPPORTED),
        (LIST, vec![0], INVALID),
        (SET_META, query(base), INVALID),
        (STRUCTURED, vec![0], INVALID),
        (STRUCTURED, vec![], 1),
        (SET_META, query(b"qemu:dirty"), 1),
        (SET_META, query(base)[..20].to_vec(), INVALID),
        (INFO, vec![0, 0, 0, 1, b'x', 0, 0], UNKNOWN),
        (GO, vec![0, 0, 0, 1, b'x', 0, 0], UNKNOWN),
        (GO, vec![255; 6], INVALID),
        (GO, vec![0; 5], INVALID),
        (GO, vec![0; 20_000], TOO_BIG),
    ] {
        assert_eq!(
            client.ask(option, &data),
            expected,
            "{option} {}",
            data.len()
        );
    }
    client.option(SET_META, &query(base));
    let replies = client.replies(SET_META);
    assert_eq!(replies.len(), 2);
    assert_eq!(replies[0].1[4..], base[..]);
    client.option(INFO, &[0, 0, 0, 0, 0, 1, 0, 3]);
    let replies = client.replies(INFO);
    let sizes = replies.iter().find(|(_, data)| data.starts_with(&[0, 3]));
    assert_eq!(sizes.unwrap().1[2..], [0, 0, 0, 1, 0, 0, 16, 0, 2, 0, 0, 0]);
    assert_eq!(client.ask(ABORT, &[]), 1);
    assert_eq!(client.end(), 0);
}

#[test]
fn an_old_client_reads_with_simple_replies() {
    let demo = Demo::odd();
    let disk = std::fs::read(demo.raw()).unwrap();
    let server = Server::start(&[&demo.image()]);
    for flags in [0_u32, 2, 3] {
        let mut client = server.connect();
        client.greet(flags);
        client.option(EXPORT_NAME, &[]);
        let size: [u8; 8] = client.take();
        assert_eq!(u64::from_be_bytes(size), 64 << 20);
        let transmission = u16::from_be_bytes(client.take());
        // Flags, read-only, flush, many connections and cache; no DF.
        assert_eq!(transmission, 0b101_0000_0111);
        if flags & 2 == 0 {
            assert_eq!(client.take_vec(124), [0; 124]);
        }
        for (cookie, (offset, length)) in (0..).zip([
            (0, 1),
            (1023, 5000),
            (0, 4 << 20),
            ((64 << 20) - 3, 3),
            (7, 0),
        ]) {
            client.request(0, 0, cookie, offset as u64, narrow(length));
            assert_eq!(client.simple(cookie), 0);
            assert!(client.take_vec(length) == disk[offset..offset + length]);
        }
        client.request(0, 0, 9, (64 << 20) - 3, 4);
        assert_eq!(client.simple(9), 22);
        client.request(0, 2, 10, 0, 0);
        assert_eq!(client.end(), 0);
    }
    let mut client = server.connect();
    client.greet(3);
    client.option(EXPORT_NAME, b"another");
    assert_eq!(client.end(), 0);
}

#[test]
fn structured_reads_have_holes_and_one_chunk_where_that_is_wanted() {
    let demo = Demo::odd();
    let disk = std::fs::read(demo.raw()).unwrap();
    let server = Server::start(&[&demo.image()]);
    let mut client = server.connect();
    client.go();
    let mut holes = 0;
    for (cookie, (offset, length)) in (0..).zip([
        (0, 32 << 20),
        (32 << 20, 32 << 20),
        (511, 4098),
        ((64 << 20) - 1, 1),
    ]) {
        for flags in [0, 4] {
            client.request(flags, 0, cookie, offset as u64, narrow(length));
            let chunks = client.structured(cookie);
            let read = put_together(&chunks, offset as u64, length);
            assert!(read == disk[offset..offset + length], "{offset} {length}");
            holes += chunks.iter().filter(|chunk| chunk.kind == 2).count();
            assert!(flags == 0 || chunks.len() == 1);
        }
    }
    assert!(holes > 0);
}

#[test]
fn what_cannot_be_done_is_refused_and_the_connection_goes_on() {
    let demo = Demo::odd();
    let server = Server::start(&[&demo.image()]);
    let mut client = server.connect();
    client.go();
    // With the data that it is about, which is no request.
    client.request(0, 1, 1, 0, 4096);
    client.send(&[0x25; 4096]);
    assert_eq!(client.simple(1), 1);
    for (flags, command, offset, length, error) in [
        (0, 4, 0, 4096, 1),
        (0, 6, 0, 4096, 1),
        (0, 3, 0, 0, 0),
        (0, 5, 0, 1 << 20, 0),
        (0, 5, 0, 33 << 20, 22),
        (0, 99, 0, 0, 22),
        (1, 5, 0, 512, 22),
    ] {
        client.request(flags, command, 2, offset, length);
        assert_eq!(client.simple(2), error, "command {command}");
    }
    for (flags, command, offset, length, error) in [
        (0, 0, 64 << 20, 1, 22),
        (0, 0, u64::MAX, 2, 22),
        (0, 0, 0, (32 << 20) + 1, 75),
        (0, 0, 0, u32::MAX, 22),
        (0x80, 0, 0, 1, 22),
        (8, 0, 0, 1, 22),
        (0, 7, 0, 0, 22),
        (4, 7, 0, 512, 22),
        (8, 7, 0, 512, 0),
        (0, 7, 0, 64 << 20, 0),
    ] {
        client.request(flags, command, 3, offset, length);
        assert_eq!(
            client.error(3),
            error,
            "command {command} {offset} {length}"
        );
    }
    // Many requests before the first reply is read.
    for cookie in 0..500 {
        client.request(0, 3, cookie, 0, 0);
    }
    let mut seen: Vec<u64> = (0..500)
        .map(|_| {
            let head: [u8; 16] = client.take();
            u64::from_be_bytes(head[8..].try_into().unwrap())
        })
        .collect();
    seen.sort_unstable();
    assert!(seen.into_iter().eq(0..500));
}

/// Reads the beginning of the disk.
#[track_caller]
fn assert_serves(server: &Server) {
    let mut client = server.connect();
    client.go();
    client.request(0, 0, 1, 0, 4096);
    assert_eq!(client.error(1), 0);
}

#[test]
fn clients_that_break_the_protocol_are_cut_off_and_others_go_on() {
    let demo = Demo::odd();
    let server = Server::start(&[&demo.image()]);
    let begin: &dyn Fn() -> Client = &|| server.connect();
    let broken: [&dyn Fn() -> Client; 7] = [
        &|| {
            let mut client = begin();
            client.greet(0xffff_ffff);
            client
        },
        &|| {
            let mut client = begin();
            client.send(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n");
            client
        },
        &|| {
            let mut client = begin();
            client.greet(3);
            client.send(&[0xff; 64]);
            client
        },
        &|| {
            // An option that claims 4 GiB.
            let mut client = begin();
            client.greet(3);
            client.send(b"IHAVEOPT\0\0\0\x07\xff\xff\xff\xff");
            client
        },
        &|| {
            // Options without end.
            let mut client = begin();
            client.greet(3);
            for _ in 0..70 {
                client.option(INFO, &[0; 6]);
            }
            client
        },
        &|| {
            // A request with another magic.
            let mut client = begin();
            client.go();
            client.send(&[0; 28]);
            client
        },
        &|| {
            // A write of more than is taken.
            let mut client = begin();
            client.go();
            client.request(0, 1, 1, 0, u32::MAX);
            client
        },
    ];
    for (number, broken) in broken.iter().enumerate() {
        let mut client = broken();
        assert!(client.end() < 8000, "{number}");
        assert_serves(&server);
    }
}

#[test]
fn silent_and_slow_clients_hold_nobody_up() {
    let demo = Demo::odd();
    let server = Server::start(&[&demo.image()]);
    let begin = Instant::now();
    // Half-open, and in the middle of an option.
    let mut silent: Vec<Client> = (0..20).map(|_| server.connect()).collect();
    silent[0].greet(3);
    silent[0].send(b"IHAVE");
    // One that takes nothing of what it asks for.
    let mut greedy = server.connect();
    greedy.go();
    for cookie in 0..100 {
        greedy.request(4, 0, cookie, 0, 32 << 20);
    }
    assert_serves(&server);
    assert!(begin.elapsed() < Duration::from_secs(15), "others waited");
    let pid = server.process.pid();
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let peak: u64 = peak
        .unwrap()
        .split_whitespace()
        .next()
        .unwrap()
        .parse()
        .unwrap();
    assert!(peak < 400 << 10, "{peak} KiB");
    // The silent ones are hung up on in the end.
    for client in &mut silent[..2] {
        client.end();
    }
    assert!(begin.elapsed() < Duration::from_secs(50));
}
