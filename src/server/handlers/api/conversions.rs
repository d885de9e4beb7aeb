//! Conversions of images: those under way and those that ended lately.

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Answer, bad};
use crate::convert::{Asker, Conversion, ConvertError, Converter, Requester, Source};
use crate::oci::{Digest, RepoName, Selector, Tag};
use crate::registry::Authorization;
use crate::server::error::ApiError;
use crate::server::explain::{ImageQuestion, place_of};
use crate::server::handlers::converted::Image;
use crate::server::handlers::manifest;
use crate::server::observe::conversion::shown;
use crate::server::state::AppState;
use crate::telemetry;

/// What a list can be of.
const STATES: [&str; 6] = [
    "queued",
    "running",
    "converted",
    "failed",
    "cancelled",
    "no-image",
];

/// What is to be converted.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    /// The registry in the image's name, if it is not the first upstream's.
    registry: Option<String>,
    repository: RepoName,
    tag: Tag,
}

/// `GET /conversions`: those that have not ended, then those that ended, each the latest first; `state` chooses.
pub(super) fn list(state: &AppState, query: &str) -> Result<Answer, ApiError> {
    let mut wanted = None;
    for (key, value) in url::form_urlencoded::parse(query.as_bytes()) {
        if key != "state" || wanted.is_some() {
            return Err(bad("the only parameter is state, once"));
        }
        if !STATES.contains(&&*value) {
            return Err(bad(format!("state is one of {}", STATES.join(", "))));
        }
        wanted = Some(value);
    }
    let all = state.converted.converter.conversions();
    let chosen = all.iter().filter(|one| {
        wanted
            .as_ref()
            .is_none_or(|wanted| one.state.name() == wanted)
    });
    let chosen: Vec<Value> = chosen.map(shown).collect();
    Ok(Answer::Found(json!({ "conversions": chosen })))
}

fn find(state: &AppState, id: &str) -> Result<Conversion, ApiError> {
    let missing = || {
        let text = "there is no such conversion, or it ended long ago";
        ApiError::new(StatusCode::NOT_FOUND, "NAME_UNKNOWN", text)
    };
    let id: u64 = id.parse().map_err(|_| missing())?;
    let mut all = state.converted.converter.conversions().into_iter();
    all.find(|one| one.id == id).ok_or_else(missing)
}

/// `GET /conversions/{id}`.
pub(super) fn one(state: &AppState, id: &str) -> Result<Answer, ApiError> {
    Ok(Answer::Found(shown(&find(state, id)?)))
}

/// `DELETE /conversions/{id}`: ends it, and keeps what was finished.
pub(super) fn cancel(state: &AppState, id: &str) -> Result<Answer, ApiError> {
    Ok(Answer::Accepted(json!({ "id": end(state, id)? })))
}

/// Ends a conversion, for an operator; its number.
///
/// # Errors
/// When there is none of this number, or it is over.
pub(in crate::server) fn end(state: &AppState, id: &str) -> Result<u64, ApiError> {
    let found = find(state, id)?;
    if !state.converted.converter.cancel(found.id) {
        let text = format!("the conversion is over: {}", found.state.name());
        return Err(ApiError::new(StatusCode::CONFLICT, "UNSUPPORTED", text));
    }
    tracing::info!(id = found.id, repo = %found.repo, source = %found.source,
        "an operator cancels a conversion");
    Ok(found.id)
}

/// That too many of these are under way.
pub(super) fn too_many(what: &str) -> ApiError {
    let text = format!("too many {what} are under way");
    let error = ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "UNAVAILABLE", text);
    error.retry_after(Duration::from_secs(10))
}

/// An image that is to be converted.
pub(super) struct Request {
    image: Image,
    converter: Converter,
}

/// What an image with this name becomes, as policy says and with the proxy's own credentials.
///
/// # Errors
/// When no upstream has it, or policy says that it is not converted.
pub(super) async fn resolve(
    state: &AppState,
    question: &ImageQuestion,
    by: Asker,
) -> Result<Request, ApiError> {
    let place = place_of(&state.upstreams, question);
    let (place, repo) = place.map_err(|error| bad(error.to_string()))?;
    resolve_at(state, place, repo, question.tag.clone(), by).await
}

/// As [`resolve`], of the upstream of a place.
async fn resolve_at(
    state: &AppState,
    place: usize,
    repo: RepoName,
    tag: Tag,
    by: Asker,
) -> Result<Request, ApiError> {
    let upstream = state.upstreams.get(place);
    let upstream = upstream.ok_or_else(|| bad("there is no such upstream"))?;
    let source = Source {
        upstream: upstream.clone(),
        repo,
        authorization: Authorization::Own,
    };
    let selector = Selector::Tag(tag.clone());
    let head = upstream.head_manifest(&source.repo, &selector, &source.authorization);
    let head = head.await;
    let head = head.map_err(|error| ApiError::upstream(&error, true))?;
    let image = Image {
        source,
        tag,
        digest: head.digest,
    };
    let policy = state.policy();
    let converter = Box::pin(manifest::planning::preparing(
        state,
        &policy.policy,
        place,
        &image,
    ))
    .await;
    let converter = converter.ok_or_else(|| {
        let text = "policy says that this image is not converted: `overlaybd-proxy config \
                    explain` says by which rule";
        ApiError::new(StatusCode::CONFLICT, "DENIED", text)
    })?;
    let asked_by = Requester {
        tag: Some(image.tag.clone()),
        asker: by,
        ..Requester::default()
    };
    Ok(Request {
        image,
        converter: converter.asked_by(asked_by),
    })
}

impl Request {
    /// Whether it is converted already.
    pub(super) async fn known(&self) -> Option<Digest> {
        let known = self
            .converter
            .lookup(&self.image.source, &self.image.digest);
        let known = known.await.ok().flatten();
        known.map(|known| known.root.digest.clone())
    }

    /// Converts it, and gives it its tag where it is pushed. The log and the list say how it ends.
    pub(super) async fn convert(self) {
        let Self { image, converter } = self;
        let converted = converter.convert(&image.source, &image.digest, None).await;
        let converted = match converted {
            Ok(converted) => converted,
            Err(error) => {
                // Those that began are logged where they end.
                if matches!(error, ConvertError::QueueFull(_)) || error.remembered().is_some() {
                    tracing::warn!(repo = %image.source.repo, tag = %image.tag, %error,
                        "an image is not converted");
                }
                return;
            }
        };
        let pushed = converter
            .push_tag(&image.source, &converted, &image.tag)
            .await;
        if let Err(error) = pushed {
            tracing::warn!(repo = %image.source.repo, tag = %image.tag, %error,
                "a converted image has no tag where it was pushed");
        }
    }
}

/// `POST /conversions`: begins to convert an image, unless that is done or under way.
pub(super) async fn start(state: &Arc<AppState>, wanted: Value) -> Result<Answer, ApiError> {
    let wanted: Wanted = serde_json::from_value(wanted).map_err(|error| bad(error.to_string()))?;
    let question = ImageQuestion {
        host: wanted.registry,
        repository: wanted.repository,
        tag: wanted.tag,
    };
    let request = resolve(state, &question, Asker::Operator).await?;
    let (image, format) = (request.image.clone(), request.converter.format());
    let known = begin(state, request).await?;
    let answer = json!({
        "repository": image.source.repo.as_str(),
        "tag": image.tag.as_str(),
        "source": image.digest.as_str(),
        "format": format.name(),
        "digest": known.as_ref().map(Digest::as_str),
    });
    Ok(match known {
        Some(_) => Answer::Found(answer),
        None => Answer::Accepted(answer),
    })
}

/// Begins to convert an image for an operator, who means it whatever failed before; what it became
/// if it is converted already.
///
/// # Errors
/// When a conversion of it is being cancelled, or too many are under way.
async fn begin(state: &AppState, request: Request) -> Result<Option<Digest>, ApiError> {
    let known = request.known().await;
    if known.is_some() {
        return Ok(known);
    }
    let (image, converter) = (&request.image, &request.converter);
    if converter.is_being_cancelled(&image.source, &image.digest) {
        let text = "a conversion of this image is being cancelled: ask again";
        let error = ApiError::new(StatusCode::CONFLICT, "UNAVAILABLE", text);
        return Err(error.retry_after(Duration::from_secs(1)));
    }
    let place = state.unattended.operator();
    let place = place.ok_or_else(|| too_many("conversions of operators"))?;
    converter.forget_failures(|failed| {
        failed.source == image.digest && failed.repo == image.source.repo
    });
    telemetry::spawn(async move {
        request.convert().await;
        drop(place);
    });
    Ok(None)
}

/// Begins to convert the image that an operator names; whether it is converted already.
///
/// # Errors
/// When no upstream has it, policy says that it is not converted, or too many are under way.
pub(in crate::server) async fn begin_named(
    state: &AppState,
    question: &ImageQuestion,
) -> Result<bool, ApiError> {
    let request = resolve(state, question, Asker::Operator).await?;
    Ok(begin(state, request).await?.is_some())
}

/// As [`begin_named`], of an image by the host that lists of conversions have.
///
/// # Errors
/// As [`begin_named`].
pub(in crate::server) async fn begin_again(
    state: &AppState,
    host: &str,
    repo: RepoName,
    tag: Tag,
) -> Result<bool, ApiError> {
    let place = (0..state.config.upstreams.len()).find(|place| {
        let upstream = state.upstreams.get(*place);
        upstream.is_some_and(|upstream| upstream.host() == host)
    });
    let place = place.ok_or_else(|| bad("there is no such upstream"))?;
    let request = resolve_at(state, place, repo, tag, Asker::Operator).await?;
    Ok(begin(state, request).await?.is_some())
}
