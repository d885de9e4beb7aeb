//! What the records of a native image read.

use super::support::noise;
use super::support::overlaybd::Layer;
use super::trace::{Record, records, unpacked};
use super::{Converted, LIST, WANTED, Workshop};

/// All bytes of a layer's LSMT file, by a reader that is not the program's.
fn original(converted: &Converted, number: usize) -> Vec<u8> {
    Layer::open(&converted.blob(number)).unwrap().original()
}

fn bytes<'a>(layers: &'a [Vec<u8>], record: &Record) -> &'a [u8] {
    let start = usize::try_from(record.offset).unwrap();
    &layers[record.layer][start..start + usize::try_from(record.count).unwrap()]
}

/// Where `data` is in `all`.
fn find(all: &[u8], data: &[u8]) -> Option<usize> {
    all.windows(data.len()).position(|part| part == data)
}

#[test]
fn records_read_the_files_of_the_list_in_its_order() {
    let workshop = Workshop::new();
    let list = workshop.list("list", LIST);
    for more in [
        &["--algorithm", "zstd", "--bs", "16"][..],
        &["--algorithm", "lz4", "--bs", "4"],
    ] {
        let out = more[1];
        let options = [&["--prefetch-list", &list], more].concat();
        let converted = workshop.convert("1", out, &options);
        let records = records(&unpacked(&converted.blob(2)));
        let layers = [original(&converted, 0), original(&converted, 1)];
        let read: Vec<u8> = records
            .iter()
            .flat_map(|record| bytes(&layers, record))
            .copied()
            .collect();
        let mut at = 0;
        for (seed, len) in WANTED {
            // The whole content, in one piece, behind that of the file before.
            let place = find(&read[at..], &noise(seed, len));
            at += place.unwrap_or_else(|| panic!("content {seed} behind byte {at}"));
        }
        for unwanted in [1, 4, 5] {
            let start = noise(unwanted, 512);
            assert_eq!(find(&read, &start), None, "content {unwanted}");
        }
        // What leads to the files comes before them: the superblock, as the upper layer has it.
        let upper = Layer::open(&converted.blob(1)).unwrap();
        let mapping = upper
            .mappings()
            .iter()
            .find(|mapping| mapping.end() > 2)
            .unwrap();
        let superblock = (mapping.moffset + 2 - mapping.offset) * 512;
        let reads = |record: &Record| {
            let end = record.offset + record.count;
            record.layer == 1 && (record.offset..end).contains(&superblock)
        };
        let is_data = |record: &Record| find(bytes(&layers, record), &noise(6, 4096)).is_some();
        let place = |wanted: &dyn Fn(&Record) -> bool| records.iter().position(wanted).unwrap();
        assert!(place(&reads) < place(&is_data), "{records:?}");
        // Nothing is read twice.
        let mut sorted = records.clone();
        sorted.sort_by_key(|record| (record.layer, record.offset));
        for pair in sorted.windows(2) {
            let is_apart =
                pair[0].layer < pair[1].layer || pair[0].offset + pair[0].count <= pair[1].offset;
            assert!(is_apart, "{pair:?}");
        }
        let wanted: usize = WANTED.iter().map(|(_, len)| len).sum();
        assert!(read.len() < wanted + 500_000, "{} bytes", read.len());
    }
}

#[test]
fn a_list_of_which_nothing_is_there_adds_no_layer() {
    let workshop = Workshop::new();
    let list = workshop.list(
        "list",
        "/missing\n/etc\n/data/empty\n/bin/tool/x\n/data/one/\n",
    );
    let converted = workshop.convert("1", "out", &["--prefetch-list", &list]);
    assert_eq!(converted.count(), 2);
    super::check(&converted.name, &workshop.source("1"));
}
