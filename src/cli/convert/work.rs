//! The conversion, once it can begin.

use std::path::PathBuf;
use std::sync::OnceLock;

use anyhow::Context as _;
use serde_json::json;

use super::ConvertArgs;
use super::dump::dump;
use super::plan::Plan;
use crate::cli::data;
use crate::cli::exit::{self, ExitStatus};
use crate::cli::output::{self, size};
use crate::cli::platforms::{self, LacksPlatform};
use crate::cli::progress::{Detail, ImageProgress, Terminal};
use crate::cli::push::Destination;
use crate::convert::layer::Format;
use crate::convert::push::Parts;
use crate::convert::{Converter, Requester, Source};
use crate::oci::{Digest, Platform, Selector};
use crate::registry::{Authorization, Sharing};
use crate::store::Store;

/// Converts the source to all formats that are wanted, in a store that is put into `shared`. One that
/// fails leaves the others.
pub(super) async fn convert_all(
    args: &ConvertArgs,
    plan: Plan,
    shared: &OnceLock<Store>,
    terminal: &Terminal,
) -> anyhow::Result<ExitStatus> {
    let store = match &plan.temporary {
        Some(temporary) => Store::open(plan.store).await.with_context(|| {
            let place = temporary.path().display();
            format!("temporary data in {place}: --dir names another place")
        })?,
        None => data::open(plan.store, &plan.data_origin).await?,
    };
    let store = shared.get_or_init(|| store);
    let converter = Converter::new(store.clone(), plan.converter)?;
    let source = Source {
        upstream: plan.upstream,
        repo: plan.source.repo().clone(),
        authorization: Authorization::Own,
    };
    let name = plan.source.to_string();
    let selector = plan.source.selector();
    let (digest, tag) = match &selector {
        Selector::Digest(digest) => (digest.clone(), None),
        Selector::Tag(tag) => {
            let head = source
                .upstream
                .head_manifest(&source.repo, &selector, &source.authorization)
                .await
                .with_context(|| format!("image {name}"))?;
            (head.digest, Some(tag.clone()))
        }
    };
    let converter = converter.asked_by(Requester {
        tag,
        ..Requester::default()
    });
    let there = platforms::of_source(&source, &digest, platforms::Read::Config)
        .await
        .with_context(|| format!("image {name}"))?;
    if let Some(lacking) = platforms::lacking(&plan.asked_for, &there) {
        let there = platforms::joined(&there.iter().collect::<Vec<_>>());
        anyhow::bail!(LacksPlatform(format!(
            "image {name} is not there for {lacking}, which --platform asks for; it is for {there}"
        )));
    }
    if let Some(destination) = plan.results.iter().find_map(|one| one.destination.as_ref()) {
        let tried = destination.try_out().await;
        tried.context("the destination")?;
    }
    let sharing = match plan.temporary {
        Some(_) => Sharing::Inode,
        None => Sharing::Blocks,
    };
    let converter = match plan.results.len() {
        1 => converter,
        _ => converter.sharing_tars(),
    };
    let image = SourceImage {
        source,
        digest,
        name,
        there,
        sharing,
    };
    let mut failed = None;
    for wanted in &plan.results {
        let converter = converter.in_format(wanted.format);
        let destination = wanted.destination.as_ref();
        let converted = convert(args, &image, &converter, destination, terminal).await;
        if let Err(error) = converted
            && let Some(earlier) = failed.replace(error)
        {
            output::note(exit::describe(&earlier));
        }
    }
    drop(plan.temporary);
    failed.map_or(Ok(ExitStatus::Ok), Err)
}

/// The image that is converted.
struct SourceImage {
    source: Source,
    digest: Digest,
    name: String,
    /// The platforms that it is there for.
    there: Vec<Platform>,
    /// How a layout may share what is in the store.
    sharing: Sharing,
}

/// Converts the image to one format, and puts the result where it belongs.
async fn convert(
    args: &ConvertArgs,
    image: &SourceImage,
    converter: &Converter,
    destination: Option<&Destination>,
    terminal: &Terminal,
) -> anyhow::Result<()> {
    let SourceImage {
        source,
        digest,
        name,
        there,
        sharing,
    } = image;
    let store = converter.store();
    let progress = ImageProgress::new(terminal, name.clone(), Detail::Layers);
    let converted = converter
        .convert(source, digest, Some(progress.observer()))
        .await;
    progress.clear();
    let converted = converted.with_context(|| format!("image {name}"))?;
    if args.dump_manifest {
        let directory = args.dir.clone().unwrap_or_else(|| PathBuf::from("."));
        dump(store, &converted, &directory)
            .with_context(|| format!("manifests in {} (--dir)", directory.display()))?;
    }
    let mut pushed = None;
    if let Some(destination) = destination {
        let parts = Parts {
            store,
            sharing: *sharing,
        };
        let summary = destination.take(parts, &converted, source).await;
        pushed = Some(summary.context("putting the converted image where it belongs")?);
    }
    let tally = progress.tally();
    let layers: usize = converted
        .manifests
        .iter()
        .map(|made| made.layers.len())
        .sum();
    // Of an image that is known as a whole, no layer is looked at.
    let found = (layers as u64).saturating_sub(tally.converted);
    terminal.event(&json!({
        "event": "done",
        "image": name,
        "format": match converter.format() {
            Format::Native => "native",
            Format::Turbo(_) => "turbo",
        },
        "source": digest.as_str(),
        "digest": converted.root.digest.as_str(),
        "media_type": converted.root.media_type,
        "manifests": converted.manifests.len(),
        "layers": layers,
        "converted": tally.converted,
        "found": found,
        "blob_bytes": tally.blob_bytes,
        "uploaded": pushed.map(|summary| summary.uploaded),
        "uploaded_bytes": pushed.map(|summary| summary.uploaded_bytes),
        "present": pushed.map(|summary| summary.present),
    }));
    if !terminal.is_json() {
        output::line(&converted.root.digest)?;
        if converted.root.digest == *digest {
            terminal.tell("it is in overlaybd format already");
        } else {
            terminal.tell(format_args!(
                "{}: {} converted ({}), {found} found",
                output::count(layers, "layer"),
                tally.converted,
                size(tally.blob_bytes),
            ));
        }
        if let Some(summary) = platforms::summary(&converted, there) {
            terminal.tell(summary);
        }
    }
    Ok(())
}
