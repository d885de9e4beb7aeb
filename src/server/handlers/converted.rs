//! The converted image of a source that a request may have, or what is answered instead.

use std::sync::Arc;
use std::time::Duration;

use http::header::HeaderValue;
use http::{Response, StatusCode};
use tokio::time::timeout;

use crate::convert::{Converter, Overrides, Source};
use crate::oci::{Digest, RepoName, Tag};
use crate::server::config::{OnTimeout, TurboFallback};
use crate::server::context::RequestContext;
use crate::server::context::waiting::Waited;
use crate::server::decision::Kind;
use crate::server::document::Document;
use crate::server::error::ApiError;
use crate::server::handlers::forward;
use crate::server::http::body::ResponseBody;
use crate::server::http::header_names::{FALLBACK, OUTCOME};
use crate::server::observe::metrics::CacheName;

/// How long the upstream may take over the original that is answered when the hold is over.
const ORIGINAL: Duration = Duration::from_secs(5);

/// A source that a request may have.
#[derive(Debug, Clone)]
pub(in crate::server) struct Image {
    pub source: Source,
    /// Its tag, without a suffix.
    pub tag: Tag,
    /// Its manifest.
    pub digest: Digest,
}

/// What is wanted of it.
#[derive(Debug)]
pub(in crate::server) struct Wanted {
    pub image: Image,
    pub kind: Kind,
    /// What is served where TurboOCI cannot carry it.
    pub fallback: TurboFallback,
    /// What is made of it, where that is not as the converter has it.
    pub overrides: Overrides,
}

/// What came of it.
pub(in crate::server) enum Got {
    /// The converted image, whether it was `found` or `converted`, and why it is native where
    /// TurboOCI was wanted.
    Document(Arc<Document>, &'static str, Option<Arc<str>>),
    /// The original is to be served, for this reason.
    Original(Arc<str>),
    /// The conversion takes longer than requests wait; it goes on.
    TooLong,
    /// The source is no image that can be converted.
    NoImage(ApiError),
    /// TurboOCI cannot carry it, and that is to be an error.
    Refused(ApiError),
    /// There is none.
    Failed(ApiError),
}

/// What becomes of an image that TurboOCI cannot carry.
enum Instead {
    Native(Converter),
    This(Got),
}

impl Wanted {
    fn converter(&self, context: &RequestContext<'_>, kind: Kind) -> Result<Converter, ApiError> {
        let converted = &context.state.converted;
        let converter = converted.converter_of(kind, &self.overrides);
        let asked_by = context.asked_by(Some(&self.image.tag));
        let converter = converter.map(|converter| converter.asked_by(asked_by));
        converter.ok_or_else(|| ApiError::internal("no TurboOCI images are made here"))
    }

    /// By what it is remembered that the source is no image to convert.
    fn key(&self, context: &RequestContext<'_>) -> Option<(Digest, Arc<str>)> {
        let converter = self.converter(context, self.kind).ok()?;
        Some((self.image.digest.clone(), Arc::clone(converter.variant())))
    }

    /// Why the source is no image to convert, if that was found lately.
    pub async fn no_image(&self, context: &RequestContext<'_>) -> Option<Arc<str>> {
        let no_image = &context.state.converted.no_image;
        no_image.get(&self.key(context)?).await
    }

    /// Remembers that the source is no image to convert.
    pub async fn remember_no_image(&self, context: &RequestContext<'_>, reason: &str) {
        if let Some(key) = self.key(context) {
            let no_image = &context.state.converted.no_image;
            no_image.insert(key, reason.into()).await;
        }
    }

    fn instead(&self, context: &RequestContext<'_>, reason: &Arc<str>) -> Instead {
        match self.fallback {
            TurboFallback::Native => match self.converter(context, Kind::Native) {
                Ok(native) => Instead::Native(native),
                Err(failure) => Instead::This(Got::Failed(failure)),
            },
            TurboFallback::Original => Instead::This(Got::Original(Arc::clone(reason))),
            TurboFallback::Error => {
                let failure = ApiError::not_turbo(&self.image.digest, reason);
                Instead::This(Got::Refused(failure))
            }
        }
    }
}

/// The converted image: as it is recorded, or converted now.
pub(in crate::server) async fn get(context: &RequestContext<'_>, wanted: &Wanted) -> Got {
    match try_get(context, wanted).await {
        Ok(got) => got,
        Err(failure) => Got::Failed(failure),
    }
}

async fn try_get(context: &RequestContext<'_>, wanted: &Wanted) -> Result<Got, ApiError> {
    let state = context.state;
    let Image {
        source,
        tag,
        digest,
    } = &wanted.image;
    let mut converter = wanted.converter(context, wanted.kind)?;
    let mut instead = None;
    if wanted.kind == Kind::Turbo
        && let Some(reason) = state.converted.not_turbo.get(digest).await
    {
        match wanted.instead(context, &reason) {
            Instead::Native(native) => converter = native,
            Instead::This(got) => return Ok(got),
        }
        instead = Some(reason);
    }
    let known = Box::pin(converter.lookup(source, digest));
    let known = context.hold.question(known);
    let Ok(known) = context.aside(known).await? else {
        return Ok(Got::TooLong);
    };
    let known = known.map_err(|error| ApiError::conversion(&error, state.is_own()))?;
    state.metrics.lookup(CacheName::Image, known.is_some());
    if instead.is_none() {
        let place = context.chosen.place;
        let followed = state.tags.follow(&converter, place, source, tag, digest);
        followed.await;
    }
    if let Some(image) = known {
        let document = Arc::new(Document::new(&image.root));
        return Ok(Got::Document(document, "found", instead));
    }
    loop {
        match context.wait(&converter, &source.repo, digest).await {
            Ok(held) => {
                let document = Arc::new(Document::new(&held.image.root));
                return Ok(Got::Document(document, "converted", instead));
            }
            Err(Waited::NotTurbo(reason)) => {
                let reason: Arc<str> = reason.into();
                tracing::info!(repo = %source.repo, %tag, source = %digest, %reason,
                    "an image cannot be a TurboOCI image");
                let not_turbo = &state.converted.not_turbo;
                not_turbo.insert(digest.clone(), Arc::clone(&reason)).await;
                match wanted.instead(context, &reason) {
                    Instead::Native(native) => converter = native,
                    Instead::This(got) => return Ok(got),
                }
                instead = Some(reason);
                // It may have been made before; if that is not known, it is found out below.
                let native = Box::pin(converter.lookup(source, digest));
                if let Ok(Some(image)) = context.aside(native).await? {
                    let document = Arc::new(Document::new(&image.root));
                    return Ok(Got::Document(document, "found", instead));
                }
            }
            Err(Waited::NoImage(failure)) => return Ok(Got::NoImage(failure)),
            Err(Waited::Failed(failure)) => return Ok(Got::Failed(failure)),
            Err(Waited::TooLong) => return Ok(Got::TooLong),
        }
    }
}

/// The answer with a converted image, and why it is native where TurboOCI was wanted.
pub(in crate::server) fn answer(
    context: &RequestContext<'_>,
    document: &Document,
    outcome: &'static str,
    instead: Option<&str>,
) -> Response<ResponseBody> {
    let mut response = document.answer(&context.parts.headers, context.is_head());
    let outcome = HeaderValue::from_static(outcome);
    response.headers_mut().insert(OUTCOME, outcome);
    if let Some(reason) = instead {
        add_fallback(&mut response, "native", reason);
    }
    response
}

/// The original image, and why it is that.
///
/// # Errors
/// When the upstream gives no answer.
pub(in crate::server) async fn original(
    context: RequestContext<'_>,
    image: &Image,
    reason: &str,
) -> Result<Response<ResponseBody>, ApiError> {
    let target = format!("/v2/{}/manifests/{}", image.source.repo, image.digest);
    let answer = forward::pass_to(context, &target).await?;
    let mut response = with_outcome(answer, "original");
    add_fallback(&mut response, "original", reason);
    Ok(response)
}

/// Says that an image is not of the form that was asked for, and why.
fn add_fallback(response: &mut Response<ResponseBody>, form: &str, reason: &str) {
    if let Ok(value) = HeaderValue::try_from(format!("{form}; {reason}")) {
        response.headers_mut().insert(FALLBACK, value);
    }
}

/// A good answer with a word on what it is.
pub(in crate::server) fn with_outcome(
    mut response: Response<ResponseBody>,
    outcome: &'static str,
) -> Response<ResponseBody> {
    let status = response.status();
    if status.is_success() || status == StatusCode::NOT_MODIFIED {
        let outcome = HeaderValue::from_static(outcome);
        response.headers_mut().insert(OUTCOME, outcome);
    }
    response
}

/// What is answered when the hold is over. Where the upstream has not even said what the source
/// is, there is no original to answer with.
///
/// # Errors
/// Nearly always: that it is to be asked again, or the upstream's.
pub(in crate::server) async fn too_long(
    context: RequestContext<'_>,
    repo: &RepoName,
    source: Option<&Digest>,
) -> Result<Response<ResponseBody>, ApiError> {
    match (context.state.config.on_timeout, source) {
        (OnTimeout::Wait | OnTimeout::Busy, _) => Err(context.later().await),
        (OnTimeout::WaitThenOriginal, _) if context.again().is_some() => Err(context.later().await),
        (OnTimeout::Original | OnTimeout::WaitThenOriginal, None) => {
            Err(ApiError::silent_upstream(context.hold.time()))
        }
        (OnTimeout::Original | OnTimeout::WaitThenOriginal, Some(source)) => {
            let hold = context.hold.time();
            let target = format!("/v2/{repo}/manifests/{source}");
            let original = Box::pin(forward::pass_to(context, &target));
            let answer = timeout(ORIGINAL, original).await;
            let answer = answer.unwrap_or_else(|_| Err(ApiError::silent_upstream(hold)))?;
            Ok(with_outcome(answer, "original"))
        }
    }
}
