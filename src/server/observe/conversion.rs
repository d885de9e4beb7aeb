//! A conversion as a JSON object: in the API, and in webhooks.

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::convert::{Conversion, ConversionState, LayerProgress};

/// Seconds since 1970, with thousandths.
pub(in crate::server) fn seconds(at: SystemTime) -> f64 {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    (since.as_secs_f64() * 1000.0).round() / 1000.0
}

fn layer(one: &LayerProgress) -> Value {
    json!({
        "layer": one.layer.as_str(),
        "state": one.state.name(),
        "bytes": { "source": one.bytes, "read": one.read },
    })
}

/// All of it, as `openapi.json` describes it (`Conversion`).
pub(in crate::server) fn shown(one: &Conversion) -> Value {
    let (digest, error) = match &one.state {
        ConversionState::Converted(digest) => (Some(digest.as_str()), None),
        ConversionState::Failed(error) | ConversionState::NoImage(error) => {
            (None, Some(error.as_str()))
        }
        ConversionState::Queued | ConversionState::Running | ConversionState::Cancelled => {
            (None, None)
        }
    };
    let platforms = one.platforms.split(',').filter(|one| !one.is_empty());
    json!({
        "id": one.id,
        "state": one.state.name(),
        "upstream": one.upstream,
        "repository": one.repo.as_str(),
        "tag": one.tag.as_ref().map(ToString::to_string),
        "source": one.source.as_str(),
        "format": one.format.name(),
        "platforms": platforms.collect::<Vec<_>>(),
        "asked_by": one.asker.name(),
        "client": one.asker.client().map(|address| address.to_string()),
        "user": one.user,
        "created_at": seconds(one.created_at),
        "started_at": one.started_at.map(seconds),
        "finished_at": one.finished_at.map(seconds),
        "layers": { "total": one.layers, "found": one.layers_found, "converted": one.layers_made },
        "each_layer": one.each_layer.iter().map(layer).collect::<Vec<_>>(),
        "bytes": { "source": one.source_bytes, "read": one.read_bytes, "written": one.blob_bytes },
        "digest": digest,
        "error": error,
        "remedy": one.remedy,
    })
}
