//! Which requests reading makes.

use std::collections::BTreeSet;

use overlaybd_proxy::lazy::Reading;

use crate::lazy::served::{LARGE, Served, large, open_large, read};
use crate::support::noise;

const PIECE: u64 = 256 << 10;

#[test]
fn a_file_that_is_read_on_and_on_takes_few_requests() {
    for is_turbo in [false, true] {
        let Some(served) = Served::start(1, is_turbo) else {
            return;
        };
        let reading = Reading {
            keeps_requests: true,
            ..Reading::default()
        };
        let (disk, files) = served.files(reading);
        let file = open_large(&files);
        let before = disk.traffic.requests();
        assert!(read(&files, &file, 128 << 10).unwrap() == large());
        let requests = disk.traffic.requests() - before;
        let pieces = LARGE as u64 / PIECE;
        assert!(requests < pieces / 4, "{requests} for {pieces} pieces");
        // Each byte once.
        let mut bytes: Vec<_> = disk.traffic.fetched();
        assert_eq!(bytes.len() as u64, disk.traffic.requests());
        bytes.sort_by_key(|fetched| (fetched.blob.clone(), fetched.range.start));
        for pair in bytes.windows(2) {
            let is_apart = pair[0].blob != pair[1].blob || pair[0].range.end <= pair[1].range.start;
            assert!(is_apart, "{pair:?}");
        }
        // What is in memory is there without the server.
        served.gate.fail(Some(http::StatusCode::NOT_FOUND));
        let again = read(&files, &file, 1 << 20).unwrap();
        assert!(again == large());
    }
}

#[test]
fn a_node_like_reader_asks_for_single_aligned_pieces() {
    let Some(served) = Served::start(2, false) else {
        return;
    };
    let reading = Reading {
        node_like: true,
        keeps_requests: true,
        ..Reading::default()
    };
    let (disk, files) = served.files(reading);
    let file = open_large(&files);
    assert!(read(&files, &file, 1 << 20).unwrap() == large());
    let fetched = disk.traffic.fetched();
    let distinct: BTreeSet<_> = fetched
        .iter()
        .map(|fetched| (fetched.blob.clone(), fetched.range.start))
        .collect();
    assert_eq!(distinct.len(), fetched.len(), "a piece was fetched twice");
    assert_eq!(fetched.len() as u64, disk.traffic.requests());
    for fetched in fetched {
        let range = fetched.range;
        assert!(
            range.start % PIECE == 0 && range.end - range.start <= PIECE,
            "{range:?}"
        );
    }
}

#[test]
fn many_threads_read_the_same_bytes() {
    let Some(served) = Served::start(2, false) else {
        return;
    };
    // Less memory than there is to read.
    let reading = Reading {
        memory: 4 << 20,
        ..Reading::default()
    };
    let (_disk, files) = served.files(reading);
    let (file, expected) = (open_large(&files), large());
    std::thread::scope(|scope| {
        for thread in 0..16_usize {
            let (files, file, expected) = (&files, &file, &expected);
            scope.spawn(move || {
                let places = noise(thread as u64, 8 * 40);
                for place in places.chunks_exact(8) {
                    let place = u64::from_le_bytes(place.try_into().unwrap());
                    let at = usize::try_from(place % LARGE as u64).unwrap();
                    let mut buffer = vec![0; 1 + (at % 300_000)];
                    let count = files.read(file, at as u64, &mut buffer).unwrap();
                    let end = (at + buffer.len()).min(LARGE);
                    assert!(buffer[..count] == expected[at..end], "{at}");
                }
            });
        }
    });
}
