//! What the program itself makes of blobs that nodes refuse.

use std::sync::Arc;

use overlaybd_proxy::format::blob::{BlobError, LayerBlob, Refusal};

use super::cases;
use super::overlaybd::Rule;

/// Rules of the format that overlaybd's reader does not look at, so that a node takes a layer
/// which breaks them, and does with it what was meant.
const NOT_READ: [Rule; 18] = [
    Rule::TarMagic,
    Rule::TarKinds,
    Rule::TarNames,
    Rule::TarRecord,
    Rule::TarSize,
    Rule::TarZeros,
    Rule::ZFileMagic,
    Rule::ZFileFlags,
    Rule::ZFileReserved,
    Rule::ZFileAlgorithm,
    Rule::ZFileAgreement,
    Rule::ZFileBlocks,
    Rule::LsmtVersion,
    Rule::LsmtReserved,
    Rule::LsmtHeaderIndex,
    Rule::LsmtUuid,
    Rule::LsmtAgreement,
    Rule::LsmtPadding,
];

fn open(blob: &[u8]) -> Result<(), String> {
    let opened = LayerBlob::open(Arc::new(blob.to_vec())).map_err(|error| error.to_string())?;
    opened.verify().map_err(|error| error.to_string())?;
    Ok(())
}

#[test]
fn the_program_opens_no_layer_that_overlaybd_refuses() {
    let taken: Vec<String> = cases::all()
        .into_iter()
        .filter(|(rule, _, blob)| !NOT_READ.contains(rule) && open(blob).is_ok())
        .map(|(rule, what, _)| format!("{rule:?}: {what}"))
        .collect();
    // LZ4's own decoder is stricter than ours, and the reader sets the tags of native layers.
    assert_eq!(
        taken,
        ["ZFileBlockContent: a match at the end", "LsmtTag: 1"]
    );
}

#[test]
fn a_layer_that_only_overlaybd_refuses_can_be_inspected_with_the_reason() {
    for (rule, what, blob) in cases::all() {
        let expected = match rule {
            Rule::LsmtZeros => "must point at a sector from 8 to 168",
            Rule::ZFileLargeBlock => "is stored in 65537 bytes",
            Rule::ZFileGroup => "65535 bytes since",
            _ => continue,
        };
        let blob: Arc<Vec<u8>> = Arc::new(blob);
        let refused = LayerBlob::open(blob.clone()).unwrap_err();
        assert!(
            matches!(refused, BlobError::Refused(_)),
            "{what}: {refused}"
        );
        let opened = LayerBlob::open_readable(blob).unwrap();
        let refusals = opened.refusals();
        let is_zeros = matches!(refusals[..], [Refusal::Zeros(_)]);
        assert_eq!((refusals.len(), is_zeros), (1, rule == Rule::LsmtZeros));
        assert!(
            refusals[0].to_string().contains(expected),
            "{}",
            refusals[0]
        );
        opened.verify().unwrap();
    }
}
