//! Learns priority lists from the starts that were seen, one after the other.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use crate::convert::image::{disk_layers, is_turbo_layer};
use crate::convert::{ConvertedImage, Converter, Overrides, Source};
use crate::oci::{Descriptor, Digest};
use crate::registry::Authorization;
use crate::server::decision::Kind;
use crate::server::learn::{Repository, Start, files};
use crate::server::policy::with_lists;
use crate::server::state::AppState;

/// How often it is looked for windows that have ended.
const INTERVAL: Duration = Duration::from_secs(1);
/// Most sources that are tried for one start.
const MAX_SOURCES: usize = 16;

/// Runs until it is dropped.
pub(in crate::server) async fn learn(state: Arc<AppState>) {
    if !state.learner.is_learning() {
        return;
    }
    loop {
        tokio::time::sleep(INTERVAL).await;
        while let Some((repository, start)) = state.learner.take_ended() {
            match Box::pin(add(&state, &repository, &start)).await {
                Ok(()) => {}
                Err(Unlearned::Not(why)) => {
                    tracing::debug!(%repository, why, "nothing is learned from a start");
                }
                Err(Unlearned::Failed(error)) => {
                    tracing::warn!(%repository, %error, "a start cannot be learned from");
                }
            }
        }
    }
}

/// Why nothing is learned from a start.
enum Unlearned {
    Not(&'static str),
    Failed(String),
}

// It is what errors are mapped with.
#[allow(clippy::needless_pass_by_value)]
fn failed(error: impl ToString) -> Unlearned {
    Unlearned::Failed(error.to_string())
}

async fn add(
    state: &AppState,
    repository: &Arc<Repository>,
    start: &Start,
) -> Result<(), Unlearned> {
    let layers = layers(state, repository, start).await?;
    let top = layers.len().checked_sub(1);
    let mut pieces = Vec::with_capacity(start.pieces.len());
    for (blob, range) in &start.pieces {
        let digest = start.blobs.get(*blob);
        let layer = layers.iter().position(|layer| Some(layer) == digest);
        pieces.extend(layer.map(|layer| (layer, range.clone())));
    }
    // Whoever opens an image reads how its uppermost layer begins.
    let is_opened = |(layer, range): &(usize, Range<u64>)| Some(*layer) == top && range.start == 0;
    if !pieces.iter().any(is_opened) {
        return Err(Unlearned::Not("it does not open the image"));
    }
    let mut blobs = Vec::with_capacity(layers.len());
    for layer in &layers {
        let opened = state.converted.store().blobs().open_async(layer).await;
        let missing = || Unlearned::Not("not all of its layers are in the store");
        blobs.push(opened.map_err(failed)?.ok_or_else(missing)?);
    }
    let read = tokio::task::spawn_blocking(move || files(&blobs, &pieces)).await;
    let paths = read.map_err(failed)?.map_err(failed)?;
    if paths.is_empty() {
        return Err(Unlearned::Not("it read no file"));
    }
    let count = paths.len();
    tracing::debug!(%repository, files = count, "a start was learned from");
    if let Some(list) = state.learner.add(repository, paths).await.map_err(failed)? {
        tracing::info!(
            %repository, files = list.entries().count(), list = %list.digest(),
            "images are converted with a priority list that was learned (--learn-prefetch)"
        );
    }
    Ok(())
}

/// The layers of the image that was read, bottom first.
async fn layers(
    state: &AppState,
    repository: &Arc<Repository>,
    start: &Start,
) -> Result<Vec<Digest>, Unlearned> {
    let (converted, host) = (&state.converted, repository.upstream.host());
    // The layer with the fewest sources tells most.
    let mut sources: Option<Vec<Digest>> = None;
    for blob in &start.blobs {
        let asked = converted.ask_for_sources(host, &repository.repo, blob);
        let known = asked.await.map_err(failed)?;
        if sources.as_ref().is_none_or(|few| known.len() < few.len()) {
            sources = Some(known);
        }
    }
    let converters = converters(state, repository).await;
    let from = Source {
        upstream: repository.upstream.clone(),
        repo: repository.repo.clone(),
        // The index is asked, and nobody else.
        authorization: Authorization::Own,
    };
    for source in sources.iter().flatten().take(MAX_SOURCES) {
        for converter in &converters {
            let image = converter.lookup(&from, source).await.map_err(failed)?;
            let found = image.as_deref().and_then(|image| matching(image, start));
            if let Some(layers) = found {
                return Ok(layers.iter().map(|layer| layer.digest.clone()).collect());
            }
        }
    }
    Err(Unlearned::Not("its layers are not those of one image"))
}

/// What may have made the image.
async fn converters(state: &AppState, repository: &Repository) -> Vec<Converter> {
    let lists = state.learner.lists(repository).await;
    let policy = state.policy();
    let upstreams = [repository.upstream.host().to_owned()];
    let rules = policy
        .policy
        .overrides(&upstreams, repository.repo.as_str());
    let mut all: Vec<Overrides> = rules.into_iter().cloned().collect();
    let learned = with_lists(&all, &lists);
    all.extend(learned);
    all.push(Overrides::default());
    let converters = all.iter();
    converters
        .filter_map(|overrides| state.converted.converter_of(Kind::Native, overrides))
        .collect()
}

/// The layers of the disk of the manifest that has all blobs of a start.
fn matching<'a>(image: &'a ConvertedImage, start: &Start) -> Option<&'a [Descriptor]> {
    let has_all = |layers: &[Descriptor]| {
        let mut blobs = start.blobs.iter();
        blobs.all(|blob| layers.iter().any(|layer| layer.digest == *blob))
    };
    let mut manifests = image.manifests.iter();
    let found = manifests.find(|manifest| has_all(&manifest.layers))?;
    let (layers, _) = disk_layers(&found.layers);
    let is_native = !layers.iter().any(is_turbo_layer);
    is_native.then_some(layers)
}
