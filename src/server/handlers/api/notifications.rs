//! Notifications of registries: what was pushed is converted before anyone pulls it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use http::request::Parts;
use hyper::body::Incoming;
use serde_json::json;

use super::conversions::Request;
use super::pushed::{self, Pushed};
use super::{Answer, bad, checked, conversions, parse, read_bytes};
use crate::convert::Asker;
use crate::oci::Tag;
use crate::server::access::token_file::{NotAllowed, TokenFile};
use crate::server::decision;
use crate::server::error::ApiError;
use crate::server::explain::ImageQuestion;
use crate::server::observe::events::Notified;
use crate::server::state::AppState;
use crate::telemetry;

/// The most bytes of a notification.
const MAX_BYTES: usize = 1 << 20;
/// How often, and after which waits, a tag is looked for again that is not there: distribution
/// notifies of a manifest before it writes the tag (`registry/handlers/manifests.go`).
const TAG_WAITS: [Duration; 5] = [
    Duration::from_millis(200),
    Duration::from_secs(1),
    Duration::from_secs(3),
    Duration::from_secs(10),
    Duration::from_secs(30),
];
/// GitHub's signature: `sha256=`, and the HMAC in hexadecimal digits.
const SIGNATURE: &str = "x-hub-signature-256";

/// What a request's query says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Query {
    /// The secret, from registries that send no header.
    secret: Option<String>,
    /// The registry in the names of images, where the notification says another one, or none.
    registry: Option<String>,
}

impl Query {
    fn read(query: &str) -> Result<Self, ApiError> {
        let mut found = Self::default();
        for (key, value) in url::form_urlencoded::parse(query.as_bytes()) {
            let place = match &*key {
                "secret" => &mut found.secret,
                "registry" => &mut found.registry,
                _ => return Err(bad("the parameters are secret and registry")),
            };
            if place.replace(value.into_owned()).is_some() {
                return Err(bad(format!("{key} is there more than once")));
            }
        }
        Ok(found)
    }
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let pairs = text.as_bytes().chunks(2);
    pairs
        .map(|pair| match pair {
            [high, low] => u8::try_from(digit(*high)? * 16 + digit(*low)?).ok(),
            _ => None,
        })
        .collect()
}

/// Whether a notification shows that it knows the secret, in one of the ways that registries have.
fn check(
    secret: &TokenFile,
    parts: &Parts,
    query: &Query,
    content: &[u8],
) -> Result<(), NotAllowed> {
    if let Some(signature) = parts.headers.get(SIGNATURE) {
        let signature = signature
            .to_str()
            .ok()
            .and_then(|text| text.strip_prefix("sha256="));
        let signature = signature.and_then(unhex).unwrap_or_default();
        return secret.check_signature(content, &signature);
    }
    match &query.secret {
        Some(given) => secret.check_text(given),
        None => secret.check(&parts.headers),
    }
}

/// `POST /notifications`: answered at once, because registries wait for less than a conversion takes.
pub(super) async fn take(
    state: &Arc<AppState>,
    parts: &Parts,
    content: Incoming,
) -> Result<Answer, ApiError> {
    let taken = taken(state, parts, content).await;
    let outcome = match &taken {
        Ok((_, 0)) => Notified::Empty,
        Ok(_) => Notified::Accepted,
        Err(error) => match error.status() {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Notified::Refused,
            status if status.is_server_error() => Notified::Failed,
            _ => Notified::Invalid,
        },
    };
    state.metrics.events.notified(outcome);
    taken.map(|(answer, _)| answer)
}

/// The answer to a notification, and how many images it names.
async fn taken(
    state: &Arc<AppState>,
    parts: &Parts,
    content: Incoming,
) -> Result<(Answer, usize), ApiError> {
    let query = Query::read(parts.uri.query().unwrap_or_default())?;
    let registry = query.registry.clone();
    let is_signed = parts.headers.contains_key(SIGNATURE);
    if !is_signed {
        // Before anything is read for whoever it is.
        verify(state, parts, query.clone(), Bytes::new()).await?;
    }
    let bytes = read_bytes(content, MAX_BYTES).await?;
    if is_signed {
        verify(state, parts, query, bytes.clone()).await?;
    }
    let body = parse(&bytes)?;
    if let Some(answer) = pushed::handshake(&body) {
        return Ok((Answer::Found(answer), 0));
    }
    let Some(images) = pushed::images(&body) else {
        return Err(bad("this is no notification of a registry that is known"));
    };
    let mut questions: Vec<ImageQuestion> = Vec::new();
    for image in images {
        if let Some(question) = question(state, image, registry.as_deref())
            && !questions.contains(&question)
        {
            questions.push(question);
        }
    }
    let count = questions.len();
    let answer = Answer::Accepted(json!({ "images": count }));
    // Registries tell of pulls, too.
    if questions.is_empty() {
        return Ok((answer, 0));
    }
    let place = state.unattended.notification();
    let place = place.ok_or_else(|| conversions::too_many("notifications"))?;
    let state = Arc::clone(state);
    telemetry::spawn(async move {
        for image in questions {
            convert(&state, image).await;
        }
        drop(place);
    });
    Ok((answer, count))
}

async fn verify(
    state: &AppState,
    parts: &Parts,
    query: Query,
    content: Bytes,
) -> Result<(), ApiError> {
    let (secret, parts) = (state.notification_secret.clone(), parts.clone());
    let check = move || check(&secret, &parts, &query, &content);
    checked("notification-secret-file", check).await
}

/// The image that was pushed, if it is one to convert: what was pushed under the tag of a converted
/// image is one already.
fn question(state: &AppState, pushed: Pushed, registry: Option<&str>) -> Option<ImageQuestion> {
    let tag: Tag = pushed.tag.parse().ok()?;
    let (plain, _) = decision::read(&state.config, &tag, None);
    // By which name a client reached the registry says little where there is one only.
    let is_one = state.config.upstreams.len() == 1;
    let named = pushed.registry.filter(|_| !is_one);
    let repository = pushed.repository.parse().ok()?;
    (plain == tag).then(|| ImageQuestion {
        host: registry.map(ToOwned::to_owned).or(named),
        repository,
        tag,
    })
}

/// Converts an image, one after the other of a notification: nobody waits. A tag that is not there
/// is waited for aside, without the notification's place.
async fn convert(state: &Arc<AppState>, image: ImageQuestion) {
    let resolved = conversions::resolve(state, &image, Asker::Notification).await;
    if !is_missing(&resolved) {
        return begin(resolved, &image).await;
    }
    let Some(awaited) = state.unattended.awaited_tag() else {
        tracing::warn!(repo = %image.repository, tag = %image.tag,
            "what a registry notifies of is not converted: its tag is not there yet, and too many \
             others are waited for");
        return;
    };
    let state = Arc::clone(state);
    telemetry::spawn(async move {
        let mut resolved = resolved;
        for wait in TAG_WAITS {
            tokio::time::sleep(wait).await;
            resolved = conversions::resolve(&state, &image, Asker::Notification).await;
            if !is_missing(&resolved) {
                break;
            }
        }
        let place = match resolved {
            Ok(_) => state.unattended.notified_tag().await,
            Err(_) => None,
        };
        drop(awaited);
        begin(resolved, &image).await;
        drop(place);
    });
}

fn is_missing(resolved: &Result<Request, ApiError>) -> bool {
    matches!(resolved, Err(error) if error.status() == StatusCode::NOT_FOUND)
}

/// Converts what was found of an image, unless that is done.
async fn begin(resolved: Result<Request, ApiError>, image: &ImageQuestion) {
    let (repo, tag) = (&image.repository, &image.tag);
    match resolved {
        Ok(request) if request.known().await.is_some() => {
            tracing::debug!(%repo, %tag, "what a registry notifies of is converted already");
        }
        Ok(request) => request.convert().await,
        Err(error) => {
            let registry = image.host.as_deref();
            tracing::warn!(registry, %repo, %tag, error = error.message(),
                "what a registry notifies of is not converted");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hexadecimal_digits_are_bytes() {
        assert_eq!(unhex("00fF10"), Some(vec![0, 255, 16]));
        assert_eq!(unhex(""), Some(Vec::new()));
        for wrong in ["0", "0g", "000", "é0"] {
            assert_eq!(unhex(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_query_says_secret_and_registry_once() {
        let query = Query::read("registry=a.example%3A5000&secret=s").unwrap();
        assert_eq!(query.registry.as_deref(), Some("a.example:5000"));
        assert_eq!(query.secret.as_deref(), Some("s"));
        for wrong in ["secret=a&secret=b", "token=a", "x"] {
            assert!(Query::read(wrong).is_err(), "{wrong}");
        }
    }
}
