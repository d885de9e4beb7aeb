//! The wait of a request for a conversion, and what it gets when that takes longer.

use std::time::Instant;

use crate::convert::{ConvertError, Converter, PinnedImage};
use crate::oci::{Digest, RepoName};
use crate::server::config::OnTimeout;
use crate::server::context::RequestContext;
use crate::server::error::ApiError;
use crate::server::limits::redirects;

/// Why a wait brought no image.
pub(in crate::server) enum Waited {
    /// It takes longer than requests wait; it goes on.
    TooLong,
    /// There will be none: the source is no image for a platform that is converted.
    NoImage(ApiError),
    /// There will be none.
    Failed(ApiError),
    /// There will be no TurboOCI image, for this reason; there may be a native one.
    NotTurbo(String),
}

impl RequestContext<'_> {
    /// Waits for a conversion as long as requests may; its blobs stay until the answer is
    /// dropped.
    ///
    /// # Errors
    /// [`Waited::TooLong`], or why there is no such image.
    pub async fn wait(
        &self,
        converter: &Converter,
        repo: &RepoName,
        source: &Digest,
    ) -> Result<PinnedImage, Waited> {
        let state = self.state;
        let started = Instant::now();
        let from = self.source(repo);
        let conversion = Box::pin(converter.convert_pinned(&from, source, None));
        let held = self.hold.conversion(conversion);
        let waited = self.slot.wait(&state.limits.conversions, held).await;
        let result = waited.map_err(|full| {
            Waited::Failed(ApiError::full(full, "requests that wait for a conversion"))
        })?;
        let outcome = match &result {
            Ok(Ok(_)) => "done",
            Ok(Err(_)) => "failed",
            Err(_) => "timeout",
        };
        state.metrics.waited(outcome, started.elapsed());
        match result {
            Ok(Ok(held)) => Ok(held),
            Ok(Err(error)) if error.no_turbo().is_some() => {
                Err(Waited::NotTurbo(error.no_turbo().unwrap_or_default()))
            }
            Ok(Err(error)) => {
                let failure = Box::pin(self.unconverted(repo, source, error.cause())).await;
                let failure = match error.remembered() {
                    Some((age, again)) => failure.remembered(age, again),
                    None => failure,
                };
                Err(match error.cause() {
                    ConvertError::NoPlatform { .. } => Waited::NoImage(failure),
                    error if error.is_no_image() => Waited::NoImage(failure),
                    _ => Waited::Failed(failure),
                })
            }
            Err(_) => Err(Waited::TooLong),
        }
    }

    /// What a request for converted content gets when its hold is over.
    pub async fn later(&self) -> ApiError {
        if let Some((repo, selector, head)) = self.allowed.get() {
            let (place, authorization) = (self.chosen.place, &self.authorization);
            let permissions = &self.state.permissions;
            let goes_on = permissions.wait_goes_on(place, repo, selector, authorization, head);
            goes_on.await;
        }
        match self.again() {
            Some(address) => ApiError::wait(&address),
            None => ApiError::converting(),
        }
    }

    /// Where the client is sent to wait on, if it is.
    pub fn again(&self) -> Option<String> {
        match self.state.config.on_timeout {
            OnTimeout::Wait | OnTimeout::WaitThenOriginal => redirects::again(self.address()),
            OnTimeout::Busy | OnTimeout::Original => None,
        }
    }
}
