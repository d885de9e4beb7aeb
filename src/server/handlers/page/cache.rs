//! What is kept, and of what use it was.

use super::html::{Html, count, progress, size};
use crate::convert::Status;
use crate::server::observe::metrics::CacheName;
use crate::server::state::AppState;
use crate::store::Objects;

/// What the disk said.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct DiskUse {
    /// Bytes of all blobs.
    pub used: Option<u64>,
    /// Bytes that may still be written.
    pub free: Option<u64>,
}

/// How much is kept, and how often it was found.
pub(super) fn section(state: &AppState, disk: DiskUse) -> Html {
    let mut html = Html::new();
    html.raw("<section aria-labelledby=\"cache\"><h2 id=\"cache\">Cache</h2>");
    kept(&mut html, state, disk);
    let rows: Vec<Vec<Html>> = CacheName::ALL
        .iter()
        .map(|cache| {
            let [misses, hits] = state.metrics.lookups(*cache);
            let what = match cache {
                CacheName::Permission => "Permissions of upstreams",
                CacheName::Image => "Converted images",
                CacheName::Blob => "Converted blobs",
            };
            vec![
                Html::of(what),
                Html::of(hits),
                Html::of(misses),
                Html::of(share(hits, misses)),
            ]
        })
        .collect();
    let columns = ["Looked up", "Found", "Not found", "Share"];
    html.table("Lookups since the start", &columns, &rows);
    html.raw("</section>");
    html
}

fn kept(html: &mut Html, state: &AppState, disk: DiskUse) {
    let blobs = state.converted.store().blobs();
    html.raw("<dl><div><dt>On the disk</dt><dd>");
    match (disk.used, blobs.cache_size()) {
        (None, _) => {
            html.text("the disk does not answer");
        }
        (Some(used), Some(most)) => {
            html.text(format_args!("{} of at most {}", size(used), size(most)));
            html.piece(&progress("Cache on the disk", used, most));
        }
        (Some(used), None) => {
            html.text(size(used));
        }
    }
    html.raw("</dd></div>");
    if let Some(free) = disk.free {
        html.raw("<div><dt>Free</dt><dd>").text(size(free));
        html.raw("</dd></div>");
    }
    let Status {
        layers_converted,
        layers_found,
        source_bytes,
        blob_bytes,
        found_bytes,
        ..
    } = state.converted.converter.status();
    let (evicted, damaged) = (blobs.evicted(), blobs.counters().damaged);
    let found = count(layers_found, "layer");
    let converted = count(layers_converted, "layer");
    let (read, written) = (size(source_bytes), size(blob_bytes));
    html.raw("<div><dt>Since the start</dt><dd>");
    html.text(format_args!(
        "{converted} converted, {found} found and not converted again; {read} read, {written} \
         written; {} evicted, {damaged} damaged",
        count(evicted, "blob")
    ));
    html.raw("</dd></div>");
    html.raw("<div><dt>Not read again</dt><dd>");
    html.text(format_args!("{} of {found} found", size(found_bytes)));
    html.raw("</dd></div>");
    if let Some(objects) = state.converted.store().objects() {
        bucket(html, objects);
    }
    html.raw("</dl>");
}

fn bucket(html: &mut Html, objects: &Objects) {
    let now = objects.counters();
    html.raw("<div><dt>In the bucket</dt><dd>");
    html.text(format_args!(
        "{}: {} uploaded, {} fetched, {} wait to be uploaded, {} damaged",
        objects.place(),
        count(now.uploaded, "blob"),
        count(now.downloaded, "blob"),
        now.waiting,
        now.damaged,
    ));
    if !now.is_up {
        html.text("; it does not answer");
    }
    html.raw("</dd></div>");
}

/// The share of lookups that found something.
fn share(hits: u64, misses: u64) -> String {
    let all = u128::from(hits).saturating_add(u128::from(misses));
    match (u128::from(hits).saturating_mul(100)).checked_div(all) {
        Some(percent) => format!("{percent} %"),
        None => "–".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_of_all_lookups() {
        assert_eq!(share(0, 0), "–");
        assert_eq!(share(1, 2), "33 %");
        assert_eq!(share(u64::MAX, 0), "100 %");
    }
}
