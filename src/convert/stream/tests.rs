//! What goes wrong with a layer on its way in, and that the first cause is what comes out.

use std::io::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};

use super::*;

fn gzip(tar: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(tar).unwrap();
    encoder.finish().unwrap()
}

fn input(layer: &[u8], tar: &[u8]) -> LayerInput {
    let chunks: Vec<_> = layer
        .chunks(1000)
        .map(|chunk| Ok(Bytes::copy_from_slice(chunk)))
        .collect();
    let diff_id = DiffId(Digest::of(tar));
    LayerInput {
        chunks: Box::new(chunks.into_iter()),
        digest: Digest::of(layer),
        size: layer.len() as u64,
        chain_id: ChainId::first(&diff_id),
        diff_id,
        is_diff_id_known: false,
        parent_chain_id: None,
        copy: None,
        windows: Windows::unlimited(),
        random_access: None,
    }
}

fn quiet() -> OnProgress {
    Arc::new(|_| {})
}

/// Reads all, as applying the layer would, then waits for the threads.
fn taken(input: LayerInput, limit: u64) -> Result<Vec<u8>, LayerError> {
    let mut inflating = prepare(input, limit, quiet())?;
    let mut tar = Vec::new();
    let read = inflating.tar().unwrap().read_to_end(&mut tar);
    inflating.finish()?;
    read.unwrap();
    Ok(tar)
}

/// More than the queue holds.
fn big() -> Vec<u8> {
    (0..6_000_000u32)
        .flat_map(|n| (n / 7).to_le_bytes())
        .collect()
}

#[test]
fn a_valid_layer_is_read_whole_and_counted() {
    let tar = big();
    let layer = gzip(&tar);
    let (seen, compressed) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let (into_seen, into_compressed) = (Arc::clone(&seen), Arc::clone(&compressed));
    let on_progress: OnProgress = Arc::new(move |progress| {
        into_seen.store(progress.inflated, Ordering::Relaxed);
        into_compressed.store(progress.compressed, Ordering::Relaxed);
    });
    let mut inflating = prepare(input(&layer, &tar), u64::MAX, on_progress).unwrap();
    let mut out = Vec::new();
    inflating.tar().unwrap().read_to_end(&mut out).unwrap();
    inflating.finish().unwrap();
    assert!(out == tar);
    assert_eq!(seen.load(Ordering::Relaxed), tar.len() as u64);
    assert_eq!(compressed.load(Ordering::Relaxed), layer.len() as u64);
    for small in [&b""[..], b"x"] {
        assert_eq!(taken(input(small, small), 1).unwrap(), small);
    }
}

#[test]
fn only_a_layer_whose_diff_id_is_unknown_is_hashed_for_it() {
    let (tar, other) = (big(), b"another tar".to_vec());
    let layer = gzip(&tar);
    let unknown = input(&layer, &other);
    assert!(matches!(
        taken(unknown, u64::MAX),
        Err(LayerError::DiffId { .. })
    ));
    let known = LayerInput {
        is_diff_id_known: true,
        ..input(&layer, &other)
    };
    assert!(taken(known, u64::MAX).unwrap() == tar);
    // The compressed bytes are compared with their digest nevertheless.
    let known = LayerInput {
        is_diff_id_known: true,
        digest: Digest::of(&other),
        ..input(&layer, &tar)
    };
    assert!(matches!(
        taken(known, u64::MAX),
        Err(LayerError::Digest { .. })
    ));
}

#[test]
fn an_unread_layer_is_hashed_to_its_end() {
    let tar = big();
    let mut wrong = input(&gzip(&tar), &tar);
    wrong.diff_id = DiffId(Digest::of(b"another"));
    for (input, good) in [(input(&gzip(&tar), &tar), true), (wrong, false)] {
        let mut inflating = prepare(input, u64::MAX, quiet()).unwrap();
        inflating.tar().unwrap().drain().unwrap();
        match inflating.finish() {
            Ok(()) => assert!(good),
            Err(error) => assert!(
                !good && matches!(error, LayerError::DiffId { .. }),
                "{error}"
            ),
        }
    }
}

#[test]
fn a_wrong_size_or_digest_is_the_error() {
    let tar = b"some tar".repeat(5000);
    let layer = gzip(&tar);
    let with = |edit: &dyn Fn(&mut LayerInput)| {
        let mut input = input(&layer, &tar);
        edit(&mut input);
        taken(input, 1 << 20).unwrap_err()
    };
    let error = with(&|input| input.digest = Digest::of(b"another"));
    assert!(matches!(error, LayerError::Digest { .. }), "{error}");
    let error =
        with(&|input| input.digest = format!("sha512:{}", "0".repeat(128)).parse().unwrap());
    assert!(matches!(error, LayerError::Digest { .. }), "{error}");
    let error = with(&|input| input.diff_id = DiffId(Digest::of(b"another")));
    assert!(matches!(error, LayerError::DiffId { .. }), "{error}");
    let error = with(&|input| input.size -= 1);
    assert!(matches!(error, LayerError::Longer { .. }), "{error}");
    let error = with(&|input| input.size += 1);
    assert!(matches!(error, LayerError::Shorter { .. }), "{error}");
    assert!(matches!(
        taken(input(&layer, &tar), 39_999),
        Err(LayerError::TooLarge { limit: 39_999 })
    ));
    assert_eq!(taken(input(&layer, &tar), 40_000).unwrap().len(), 40_000);
}

#[test]
fn a_sha512_digest_is_checked_with_sha512() {
    let tar = b"some tar";
    let mut input = input(tar, tar);
    let sha512 = format!("sha512:{}", "0".repeat(128));
    input.digest = sha512.parse::<Digest>().unwrap().of_same_kind(tar);
    assert_eq!(input.digest.algorithm(), "sha512");
    assert_eq!(taken(input, 100).unwrap(), tar);
}

#[test]
fn a_truncated_layer_is_an_error_even_with_the_right_digest() {
    let tar = big();
    let layer = gzip(&tar);
    let cut = &layer[..layer.len() / 2];
    let error = taken(input(cut, &tar), u64::MAX).unwrap_err();
    assert!(matches!(error, LayerError::Inflate(_)), "{error}");
    assert!(error.to_string().contains("truncated"), "{error}");
}

#[test]
fn an_error_of_the_source_is_the_cause() {
    for layer in [
        gzip(&big()),
        zstd::encode_all(&big()[..], 1).unwrap(),
        big(),
    ] {
        let mut input = input(&layer, b"");
        let half: Vec<_> = input.chunks.by_ref().take(20).collect();
        let cut = io::Error::new(io::ErrorKind::ConnectionReset, "cut off");
        input.chunks = Box::new(half.into_iter().chain([Err(cut)]));
        let error = taken(input, u64::MAX).unwrap_err();
        assert!(matches!(error, LayerError::Source(_)), "{error}");
        assert!(error.to_string().contains("cut off"), "{error}");
    }
}

#[test]
fn dropping_a_layer_early_stops_its_threads() {
    let tar = big();
    drop(prepare(input(&gzip(&tar), &tar), u64::MAX, quiet()).unwrap());
    let mut inflating = prepare(input(&gzip(&tar), &tar), u64::MAX, quiet()).unwrap();
    let mut some = [0; 100];
    inflating.tar().unwrap().read_exact(&mut some).unwrap();
    assert!(matches!(inflating.finish(), Err(LayerError::Abandoned)));
}

#[test]
fn the_inflated_data_before_the_reader_is_bounded() {
    let endless = std::iter::repeat_with(|| Ok(Bytes::from(vec![7; 65_536])));
    let count = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&count);
    let mut input = input(b"", b"");
    input.size = u64::MAX;
    input.chunks = Box::new(endless.inspect(move |_| {
        counter.fetch_add(65_536, Ordering::Relaxed);
    }));
    let inflating = prepare(input, u64::MAX, quiet()).unwrap();
    // However long this waits, no more may come.
    thread::sleep(std::time::Duration::from_millis(300));
    let ahead = count.load(Ordering::Relaxed);
    assert!(
        ahead <= (BUFFER_BYTES * (MAX_BUFFERS + 2)) as u64,
        "{ahead}"
    );
    drop(inflating);
}

#[test]
fn what_turbo_cannot_carry_is_said_of_bytes_with_the_right_digest_only() {
    let noise = std::iter::successors(Some(1_u64), |n| {
        let n = n ^ (n << 13);
        let n = n ^ (n >> 7);
        Some(n ^ (n << 17))
    });
    let tar: Vec<u8> = noise.take(300_000).map(|n| n.to_le_bytes()[0]).collect();
    let member = gzip(&tar);
    for layer in [
        zstd::encode_all(&tar[..], 1).unwrap(),
        [&member[..], &member, &member].concat(),
    ] {
        // Longer than what is read before it is seen: the digest is known at the end only.
        assert!(layer.len() >= 300_000);
        let indexed = || LayerInput {
            random_access: Some(RandomAccess {
                index: tempfile::tempfile().unwrap(),
                max_gap: 4 << 20,
            }),
            ..input(&layer, &tar)
        };
        let refused = taken(indexed(), u64::MAX);
        assert!(
            matches!(refused, Err(LayerError::NoRandomAccess(_))),
            "{refused:?}"
        );
        let another = LayerInput {
            digest: Digest::of(b"another layer"),
            ..indexed()
        };
        let refused = taken(another, u64::MAX);
        assert!(
            matches!(refused, Err(LayerError::Digest { .. })),
            "{refused:?}"
        );
    }
}
