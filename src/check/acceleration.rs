//! The acceleration layer of a converted image: overlaybd does not put it into the disk, but reads
//! ahead what the trace in it says.
//! Sources: containerd/overlaybd `src/image_file.cpp`, `src/prefetch.cpp`;
//! containerd/accelerated-container-image `cmd/ctr/record_trace.go`.

use std::sync::Arc;

use anyhow::Context as _;
use serde_json::Value;

use super::annotations::{check_blob, is_acceleration_layer};
use super::fetch::Blobs;
use super::report::{Damaged, finding};
use crate::format::blob::{AccelerationError, LayerBlob, unpack_trace};
use crate::format::prefetch::Trace;
use crate::oci::{Descriptor, DiffId, ImageManifest};

/// What its entry in the config's history says.
const HISTORY: &str = "Acceleration Layer";

/// Takes the acceleration layer off an image, if it has one.
pub(super) fn take_off(
    manifest: &mut ImageManifest,
    diff_ids: &mut Vec<DiffId>,
) -> Option<Descriptor> {
    let top = manifest.layers.pop_if(|top| is_acceleration_layer(top))?;
    diff_ids.truncate(manifest.layers.len());
    Some(top)
}

/// Takes its entry out of a config's history. The reference's tool puts it first.
pub(super) fn without_history(config: &mut Value) {
    let Some(history) = config.get_mut("history").and_then(Value::as_array_mut) else {
        return;
    };
    let is_its = |entry: &Value| entry.get("created_by").and_then(Value::as_str) == Some(HISTORY);
    if history.pop_if(|last| is_its(last)).is_none() && history.first().is_some_and(is_its) {
        history.remove(0);
    }
}

/// The trace in an acceleration layer over `layers` layers; `None` if it is damaged or missing.
pub(super) fn trace(
    blobs: &Blobs,
    layer: &Descriptor,
    layers: usize,
    problems: &mut Vec<String>,
) -> anyhow::Result<Option<Trace>> {
    check_blob(layer, problems);
    let read = || -> anyhow::Result<Trace> {
        let file = blobs.to_file(layer)?;
        // The file is a local copy: what cannot be read of it is damaged.
        let damaged = |error: AccelerationError| Damaged(error.to_string());
        let trace = unpack_trace(std::io::BufReader::new(file)).map_err(damaged)?;
        let missing = "it has no file \"trace\": nodes read nothing ahead";
        let trace = trace.ok_or_else(|| Damaged(missing.to_owned()))?;
        Ok(Trace::parse(&trace, layers).map_err(|error| Damaged(error.to_string()))?)
    };
    match read().with_context(|| format!("acceleration layer {}", layer.digest)) {
        Ok(trace) => Ok(Some(trace)),
        Err(error) => {
            problems.push(finding(error)?);
            Ok(None)
        }
    }
}

/// Compares what a trace's records read with what there is in the layers.
pub(super) fn check_ranges(trace: &Trace, layers: &[Arc<LayerBlob>], problems: &mut Vec<String>) {
    let Trace::Records(records) = trace else {
        return;
    };
    for (number, record) in records.iter().enumerate() {
        let layer = usize::try_from(record.layer)
            .ok()
            .and_then(|n| layers.get(n));
        let size = layer.map_or(0, |layer| layer.zfile().original_size);
        let end = record.offset.saturating_add(record.count);
        if end > size {
            problems.push(format!(
                "the acceleration layer: record {number} reads up to byte {end} of layer {}, \
                 which has {size}",
                record.layer
            ));
            return;
        }
    }
}
