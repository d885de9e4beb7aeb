//! Runs the job that converts one image, once it is admitted.

use std::sync::Arc;

use tracing::Instrument as _;

use super::super::error::ConvertError;
use super::super::types::{Observer, Source};
use super::Converter;
use super::admission::{Class, Slot};
use super::conversion_list::Entry;
use super::conversion_log::ConversionLog;
use super::conversion_span;
use super::deadline::Deadline;
use super::image::{self, Halt, ImageJob};
use super::key::ImageKey;
use super::pins::{PinnedBlobs, PinnedImage};
use super::refused_pushes::is_of_own_credentials;
use super::status::{ConversionCounters, Gauge};
use crate::telemetry::{ActiveSpan, CapturedContext};

impl Converter {
    /// Why the conversion of `key` failed a moment ago, if it did and is not to be tried again yet.
    pub(super) fn remembered(&self, key: &ImageKey) -> Option<ConvertError> {
        self.context.failures.as_ref()?.get(key)
    }

    /// Waits until the image is admitted, and converts it, unless an operator cancels that. A job
    /// that waits is small.
    pub(super) async fn run_job(
        &self,
        source: Source,
        observer: Option<Observer>,
        key: ImageKey,
        span: &ActiveSpan,
    ) -> Result<PinnedImage, ConvertError> {
        let (format, tally) = (self.format(), Arc::new(ConversionCounters::default()));
        let entry = self.inner.list.add(&key, &self.asked_by, format, &tally);
        let log = ConversionLog::new(&key, &self.asked_by, format, span.trace_id());
        let run = Run {
            source: &source,
            observer: observer.as_ref(),
            key: &key,
            log: &log,
            tally: &tally,
            entry: &entry,
        };
        let converted = self.run_once_admitted(&run).await;
        let image = converted.as_ref().map(|pinned| &*pinned.image);
        conversion_span::end(span, image, &tally);
        match converted {
            Ok(pinned) => {
                entry.converted(&pinned.image.root.digest);
                Ok(pinned)
            }
            Err(error @ ConvertError::Remembered { .. }) => {
                entry.remove();
                Err(error)
            }
            Err(error) => {
                // Before the job is over, so that none begins in between.
                let remembered = self.context.failures.as_ref().and_then(|failures| {
                    let what = (self.asked_by.tag.as_ref(), format);
                    failures.remember(&key, &error, &source.authorization, what)
                });
                // The request that started the job may have ended, and others may follow.
                log.fail(&error, remembered);
                entry.failed(&error);
                Err(error)
            }
        }
    }

    /// Waits for a slot, unless the conversion is cancelled.
    async fn admit(&self, class: Class, entry: &Entry) -> Result<Slot<'_>, ConvertError> {
        tokio::select! {
            () = entry.cancellation().cancelled() => Err(ConvertError::Cancelled),
            slot = self.inner.admission.enter(class) => Ok(slot),
        }
    }

    async fn run_once_admitted(&self, run: &Run<'_>) -> Result<PinnedImage, ConvertError> {
        let Run {
            source,
            observer,
            key,
            log,
            tally,
            entry,
        } = *run;
        let context = &self.context;
        let mut class = Class::Unknown;
        let mut slot = self.admit(class, entry).await?;
        // The same may have failed since this was asked for.
        if let Some(error) = self.remembered(key) {
            return Err(error);
        }
        entry.begin();
        let span = log.span();
        log.begin();
        CapturedContext::current().event("admitted");
        let mut refused = None;
        let error = loop {
            let _running = Gauge::up(&context.counters.images_running);
            tally.begin();
            let job = ImageJob {
                context,
                source,
                destination: context.destination(source),
                observer,
                tag: self.asked_by.tag.as_ref(),
                pins: PinnedBlobs::default(),
                tally,
                deadline: Deadline::after(context.config.timeout, entry.cancellation()),
                slot,
            };
            // On the heap: it is large, and most jobs are not that far.
            let converted = Box::pin(image::convert(&job, &key.source).instrument(span.clone()));
            match converted.await {
                Ok(image) => {
                    log.end(&image, tally);
                    let image = Arc::new(image);
                    if let Some((to, error)) = &refused {
                        log.unpushed(to, error);
                    } else if job.destination.is_pushed
                        && let Some(pushes) = &context.refused_pushes
                    {
                        pushes.forget(&job.destination);
                    }
                    // What is to be pushed and was not has to be looked at again.
                    if job.destination.is_pushed || self.push_target().is_none() {
                        self.inner
                            .cache
                            .insert(key.clone(), Arc::clone(&image))
                            .await;
                    }
                    let pins = job.pins;
                    return Ok(PinnedImage { image, pins });
                }
                Err(Halt::Big) => class = Class::Big,
                // Whether it is the push that was refused shows without one.
                Err(Halt::Failed(error))
                    if refused.is_none()
                        && job.destination.is_pushed
                        && is_of_own_credentials(&error)
                        && let Some(pushes) = &context.refused_pushes =>
                {
                    pushes.refused(&job.destination);
                    refused = Some((job.destination.clone(), error));
                }
                Err(Halt::Failed(error)) => break error,
            }
            drop(job);
            slot = match self.admit(class, entry).await {
                Ok(slot) => slot,
                Err(error) => break error,
            };
        };
        if let (Some((to, _)), Some(pushes)) = (&refused, &context.refused_pushes) {
            pushes.forget(to);
        }
        Err(error)
    }
}

/// What one conversion is about.
#[derive(Clone, Copy)]
struct Run<'a> {
    source: &'a Source,
    observer: Option<&'a Observer>,
    key: &'a ImageKey,
    log: &'a ConversionLog<'a>,
    tally: &'a Arc<ConversionCounters>,
    entry: &'a Entry,
}
