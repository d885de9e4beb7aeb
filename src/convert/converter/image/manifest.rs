//! Converts one image manifest.

use bytes::Bytes;

use super::super::admission::BIG_IMAGE_BYTES;
use super::super::catalogue::{Base, Layer, share};
use super::super::chain::{ChainJob, convert_chain};
use super::super::errors::{document_error, not_image};
use super::super::status::add;
use super::document::{converted_manifest, subject_of};
use super::job::{Halt, ImageJob, MAX_SMALL_DOCUMENT};
use super::source::{source_config, source_layers};
use crate::convert::error::ConvertError;
use crate::convert::image::{self as documents, LayerBlob, TurboBlob};
use crate::convert::layer::{ConvertedLayer, Format};
use crate::convert::plan::{Step, steps};
use crate::convert::types::{ConvertedManifest, Event, PlannedLayer, StoredManifest};
use crate::oci::{ImageConfig, ImageManifest, Manifest, Platform};
use crate::registry::RawManifest;

impl ImageJob<'_> {
    /// Converts one image manifest.
    pub(super) async fn convert_manifest(
        &self,
        raw: &RawManifest,
        parsed: &ImageManifest,
        platform: Option<Platform>,
    ) -> Result<ConvertedManifest, Halt> {
        let layers = source_layers(self.source, parsed).await?;
        let bytes = layers.iter().map(|layer| layer.size);
        if bytes.fold(0, u64::saturating_add) >= BIG_IMAGE_BYTES && !self.slot.admits_big() {
            return Err(Halt::Big);
        }
        if !parsed.is_image() {
            let kind = format!("an artifact of {}", parsed.config.media_type);
            return Err(not_image(raw, kind).into());
        }
        let config = source_config(self.source, &parsed.config).await?;
        let image_config = {
            let _memory = self.document_memory(config.len()).await;
            ImageConfig::parse(&config)
                .map_err(|error| document_error("image config", &parsed.config.digest, error))?
        };
        // The image's config decides, not the platform that an index gives.
        if let Some(platform) = image_config
            .platform
            .as_ref()
            .filter(|platform| platform.os != "linux")
        {
            return Err(Halt::Failed(ConvertError::NotLinux {
                manifest: raw.digest.clone(),
                platform: platform.clone(),
            }));
        }
        let config = (config.len() <= MAX_SMALL_DOCUMENT).then_some(config);
        let steps: Vec<Step> =
            steps(layers, &image_config.diff_ids).map_err(|cause| ConvertError::Plan {
                manifest: raw.digest.clone(),
                cause,
            })?;
        let known = platform.as_ref().or(image_config.platform.as_ref());
        let known = known.map_or_else(|| "unknown".to_owned(), ToString::to_string);
        self.tally.platform(&known);
        for step in &steps {
            add(&self.tally.layers, 1);
            add(&self.tally.layer_bytes, step.layer.size);
            self.tally.each.add(step);
        }
        if let Some(observer) = self.observer {
            observer(Event::Planned {
                platform: platform.clone().or(image_config.platform),
                layers: steps.iter().map(planned).collect(),
            });
        }
        let chain = ChainJob {
            context: self.context,
            source: self.source,
            destination: &self.destination,
            steps: &steps,
            observer: self.observer,
            tally: self.tally,
            deadline: self.deadline.clone(),
        };
        let mut chain = convert_chain(chain).await?;
        let of = Sources {
            raw,
            parsed,
            config,
            steps: &steps,
        };
        // Shared rows and an acceleration layer need the layers in the store, not only their digests.
        let needs_layers = self.destination.is_pushed || self.is_accelerated();
        let early = if needs_layers {
            None
        } else {
            chain.parts().await
        };
        let (layers, (stored, parsed)) = if let Some(parts) = early {
            // The documents name the layers by their digests: all are made durable at one time.
            let (layers, made) = tokio::join!(chain.finish(), self.documents(of, parts, None));
            (layers?, made?)
        } else {
            let layers = chain.finish().await?;
            let is_native = self.context.config.settings.format == Format::Native;
            if self.destination.is_pushed && is_native {
                share(self.context, &self.destination, &steps, &layers).await?;
            }
            let accelerated = self.acceleration(&layers, &steps).await?;
            let parts = layers.iter().map(Layer::part).collect();
            (layers, self.documents(of, parts, accelerated).await?)
        };
        let mut one = converted_manifest(&raw.digest, platform, stored, parsed);
        one.has_foreign_layers = layers.iter().any(|layer| layer.base != Base::Own);
        self.pins
            .extend(layers.into_iter().filter_map(|layer| layer.pin));
        Ok(one)
    }

    /// Makes the config and the manifest of an image of these layers, and puts them into the store.
    async fn documents(
        &self,
        of: Sources<'_>,
        layers: Vec<ConvertedLayer>,
        accelerated: Option<LayerBlob>,
    ) -> Result<(StoredManifest, ImageManifest), Halt> {
        let Sources {
            raw,
            parsed,
            config,
            steps,
        } = of;
        let layers = layers.into_iter().zip(steps);
        let mut blobs: Vec<_> = layers.map(|(layer, step)| blob(layer, step)).collect();
        blobs.extend(accelerated);
        let style = &self.context.config.style;
        let config = match config {
            Some(config) => config,
            None => source_config(self.source, &parsed.config).await?,
        };
        let memory = self.document_memory(config.len()).await;
        let config = documents::config(&config, &parsed.config.media_type, &blobs, style)
            .map_err(|error| document_error("image config", &parsed.config.digest, error))?;
        let subject = subject_of(raw);
        let made = documents::manifest(
            &raw.bytes,
            parsed.kind.media_type(),
            &config,
            &blobs,
            style,
            Some(&subject),
        )
        .map_err(|error| document_error("manifest", &raw.digest, error))?;
        drop(memory);
        let stored = StoredManifest {
            digest: made.digest,
            media_type: made.media_type,
            bytes: made.bytes.into(),
        };
        let documents = [
            (config.digest, config.bytes.into()),
            (stored.digest.clone(), stored.bytes.clone()),
        ];
        self.store_together(documents).await?;
        match Manifest::parse(&stored.media_type, &stored.bytes) {
            Ok(Manifest::Image(parsed)) => Ok((stored, parsed)),
            Ok(Manifest::Index(_)) => {
                Err(document_error("manifest", &raw.digest, "is an index").into())
            }
            Err(error) => Err(document_error("manifest", &raw.digest, error).into()),
        }
    }
}

/// What documents are made of.
struct Sources<'a> {
    raw: &'a RawManifest,
    parsed: &'a ImageManifest,
    /// The source's config, if it is small: a job that waits for layers keeps no large documents.
    config: Option<Bytes>,
    steps: &'a [Step],
}

fn blob(layer: ConvertedLayer, step: &Step) -> LayerBlob {
    LayerBlob {
        digest: layer.digest,
        size: layer.size,
        turbo: layer.turbo.map(|turbo| TurboBlob {
            diff_id: turbo.diff_id,
            target: step.layer.digest.clone(),
            is_gzip: turbo.is_gzip,
        }),
        is_acceleration: false,
    }
}

fn planned(step: &Step) -> PlannedLayer {
    PlannedLayer {
        chain: step.chain_id.clone(),
        digest: step.layer.digest.clone(),
        size: step.layer.size,
    }
}
