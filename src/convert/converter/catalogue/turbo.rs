//! Looks up the TurboOCI layer of a chain that points into one compressed layer of the source.

use std::io::{self, Read};
use std::sync::Arc;

use super::super::context::Context;
use super::super::threads::on_thread;
use super::fit::{Misfit, check_turbo_fit};
use super::layer::{Base, Layer, Wanted};
use super::proof::prove;
use super::publish::push_layer;
use crate::convert::error::ConvertError;
use crate::convert::scratch::Scratch;
use crate::convert::turbo::{self, UnusableTurbo};
use crate::store::BlobFile;

/// A blob from front to back.
struct Whole<'a> {
    file: &'a BlobFile,
    at: u64,
}

impl Read for Whole<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let rest = usize::try_from(self.file.size() - self.at).unwrap_or(usize::MAX);
        let length = rest.min(buf.len());
        let part = buf.get_mut(..length).unwrap_or_default();
        self.file.read_exact_at(part, self.at)?;
        self.at += length as u64;
        Ok(length)
    }
}

/// The layer, if this program made it and its blob is in the store.
pub(super) async fn find_turbo(
    context: &Context,
    wanted: &Wanted<'_>,
    scratch: &Arc<Scratch>,
) -> Result<Option<Layer>, ConvertError> {
    let (index, chain) = (context.store.index(), &wanted.step.chain_id);
    let variant = context.variant_of(wanted.step);
    let Some(row) = index.find_built(chain, &variant).await? else {
        return Ok(None);
    };
    let (blobs, digest, size) = (context.store.blobs().clone(), row.digest.clone(), row.size);
    let scratch = Arc::clone(scratch);
    let opened = on_thread("open", move || {
        let Some(file) = blobs.open(&digest)?.filter(|file| file.size() == size) else {
            return Ok(None);
        };
        let mut unpacked = blobs.unnamed()?;
        let blob = || Whole { file: &file, at: 0 };
        let opened = turbo::open(blob, &mut unpacked, &scratch);
        if matches!(
            opened,
            Err(UnusableTurbo::Content(_) | UnusableTurbo::Meta(_))
        ) {
            // It may have been damaged since it was verified: opening it again moves it aside.
            blobs.doubt(&digest);
        }
        let pin = file.pin()?;
        Ok(Some(
            opened
                .map(|opened| (opened, pin))
                .map_err(|error| error.to_string()),
        ))
    })
    .await?;
    let fitting = match opened {
        None => return Ok(None),
        Some(Err(cause)) => Err(Misfit::Unreadable(cause)),
        Some(Ok(opened)) => {
            let size = context.config.settings.virtual_size;
            check_turbo_fit(&opened.0.0, wanted, size).map(|()| opened)
        }
    };
    let ((blob, turbo), pin) = match fitting {
        Ok(opened) => opened,
        Err(misfit) => {
            tracing::warn!(%chain, blob = %row.digest, %misfit,
                "a row names a TurboOCI layer that is not this chain's; it is not used");
            return Ok(None);
        }
    };
    prove(context, wanted.source, wanted.step).await?;
    let layer = Layer {
        digest: row.digest,
        size: row.size,
        blob: Arc::new(blob),
        pin: Some(pin),
        base: Base::Own,
        turbo: Some(turbo),
    };
    if wanted.destination.is_pushed {
        push_layer(context, wanted.source, wanted.destination, &layer).await?;
    }
    Ok(Some(layer))
}
