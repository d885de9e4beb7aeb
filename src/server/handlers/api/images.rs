//! The images that were converted, as the index remembers them.

use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::StatusCode;
use serde_json::{Value, json};

use super::{Answer, bad};
use crate::convert::ImagePart;
use crate::oci::name::InvalidName;
use crate::oci::{RepoName, Selector, Tag};
use crate::server::error::ApiError;
use crate::server::explain::{ImageQuestion, place_of};
use crate::server::observe::conversion::seconds;
use crate::server::state::AppState;
use crate::store::{ImageFilter, ImageOrder, ImagePosition, RecordedImage};

/// How many images are listed where the request does not say it, and at most.
const DEFAULT_LIMIT: usize = 1000;
const MAX_LIMIT: usize = 10_000;
/// Most forms of an image that are shown or forgotten by one request: formats, and settings of each.
const MAX_FORMS: usize = 100;
/// Most parts of an answer: those of the largest image that is converted. Forms whose parts would be more
/// are left out, except the latest.
const MAX_SHOWN_PARTS: usize = 1 << 16;
const FORMATS: [&str; 2] = ["native", "turbo"];

/// An image, as `openapi.json` describes it (`Image`).
fn shown(recorded: &RecordedImage) -> Value {
    let image = &recorded.image;
    let tag = match &image.reference {
        Selector::Tag(tag) => Some(tag.as_str()),
        Selector::Digest(_) => None,
    };
    json!({
        "upstream": image.host,
        "repository": image.repo.as_str(),
        "reference": image.reference.to_string(),
        "tag": tag,
        "format": image.format,
        "algorithm": image.algorithm,
        "settings": image.variant,
        "source": image.source.as_str(),
        "digest": image.digest.as_str(),
        "media_type": image.media_type,
        "platforms": image.platforms,
        "layers": { "total": image.layers, "converted": image.layers_made },
        "bytes": { "source": image.source_bytes, "converted": image.bytes },
        "converted_at": seconds(recorded.time()),
    })
}

fn shown_part(part: &ImagePart) -> Value {
    json!({
        "digest": part.digest.as_str(),
        "kind": part.kind.name(),
        "size": part.size,
        "media_type": part.media_type,
        "platform": part.platform,
        "is_cached": part.is_cached,
    })
}

/// Where a list goes on, in one word.
fn cursor(position: &ImagePosition) -> String {
    let value = json!([position.converted_at, position.key]);
    URL_SAFE_NO_PAD.encode(value.to_string())
}

fn position(cursor: &str) -> Option<ImagePosition> {
    let bytes = URL_SAFE_NO_PAD.decode(cursor).ok()?;
    let (converted_at, key) = serde_json::from_slice(&bytes).ok()?;
    Some(ImagePosition { converted_at, key })
}

/// What a list is asked for.
#[derive(Debug, Default, PartialEq, Eq)]
struct ListQuery {
    filter: ImageFilter,
    order: ImageOrder,
    limit: Option<usize>,
    after: Option<ImagePosition>,
}

impl ListQuery {
    fn read(query: &str) -> Result<Self, String> {
        let mut list = Self::default();
        let mut seen = Vec::new();
        for (key, value) in url::form_urlencoded::parse(query.as_bytes()) {
            match &*key {
                "upstream" => list.filter.host = Some(value.into_owned()),
                "repository" => list.filter.repo = Some(value.into_owned()),
                "reference" => list.filter.reference = Some(value.into_owned()),
                "format" => list.filter.format = Some(format(&value)?),
                "order" => {
                    list.order = match &*value {
                        "name" => ImageOrder::Name,
                        "newest" => ImageOrder::Newest,
                        _ => return Err("order is name or newest".to_owned()),
                    }
                }
                "limit" => {
                    let number: Option<usize> = value.parse().ok();
                    let number = number.filter(|number| (1..=MAX_LIMIT).contains(number));
                    list.limit = Some(number.ok_or("limit is 1 to 10000")?);
                }
                "after" => {
                    let after = position(&value).ok_or("after is next of another page")?;
                    list.after = Some(after);
                }
                _ => {
                    return Err(
                        "the parameters are upstream, repository, reference, format, \
                                order, limit and after"
                            .to_owned(),
                    );
                }
            }
            // The bound of the names that there are keeps this short.
            if seen.contains(&key) {
                return Err(format!("{key} is there more than once"));
            }
            seen.push(key);
        }
        Ok(list)
    }
}

fn format(text: &str) -> Result<String, String> {
    if FORMATS.contains(&text) {
        Ok(text.to_owned())
    } else {
        Err("format is native or turbo".to_owned())
    }
}

/// `GET /images`: by name or the latest first, `limit` of those behind `after`.
pub(super) async fn list(state: &AppState, query: &str) -> Result<Answer, ApiError> {
    let asked = ListQuery::read(query).map_err(bad)?;
    let limit = asked.limit.unwrap_or(DEFAULT_LIMIT);
    let index = state.converted.store().index();
    let after = asked.after.as_ref();
    let found = index.images(&asked.filter, asked.order, after, limit.saturating_add(1));
    let mut page = found.await.map_err(|error| ApiError::from(&error))?;
    let is_more = page.len() > limit;
    page.truncate(limit);
    let next = page.last().filter(|_| is_more);
    Ok(Answer::Found(json!({
        "images": page.iter().map(shown).collect::<Vec<_>>(),
        "next": next.map(|last| cursor(&last.position())),
    })))
}

fn parsed<T: FromStr<Err = InvalidName>>(text: &str) -> Result<T, String> {
    text.parse().map_err(|error: InvalidName| error.to_string())
}

/// Which image is meant.
#[derive(Debug, PartialEq, Eq)]
struct ImageQuery {
    registry: Option<String>,
    repository: RepoName,
    reference: Selector,
    format: Option<String>,
}

impl ImageQuery {
    fn read(query: &str) -> Result<Self, String> {
        let (mut registry, mut repository, mut reference, mut format) = (None, None, None, None);
        for (key, value) in url::form_urlencoded::parse(query.as_bytes()) {
            let place = match &*key {
                "registry" => &mut registry,
                "repository" => &mut repository,
                "reference" => &mut reference,
                "format" => &mut format,
                _ => {
                    return Err(
                        "an image is named by registry, repository, reference and format"
                            .to_owned(),
                    );
                }
            };
            if place.replace(value.into_owned()).is_some() {
                return Err(format!("{key} is there more than once"));
            }
        }
        let repository = repository.ok_or("repository is missing")?;
        let reference = reference.ok_or("reference is missing: a tag or a digest")?;
        Ok(Self {
            registry,
            repository: parsed(&repository)?,
            reference: parsed(&reference)?,
            format: format.map(|text| self::format(&text)).transpose()?,
        })
    }

    /// The upstream's host and the repository there, as pulls of the image find them. Of an upstream
    /// that is none any more, rows are found by its host.
    fn place(&self, state: &AppState) -> (Option<String>, String) {
        let tag = match &self.reference {
            Selector::Tag(tag) => tag.clone(),
            Selector::Digest(_) => Tag::default_tag(),
        };
        let question = ImageQuestion {
            host: self.registry.clone(),
            repository: self.repository.clone(),
            tag,
        };
        let found = place_of(&state.upstreams, &question).ok();
        let found = found.and_then(|(place, repo)| {
            let upstream = state.upstreams.get(place)?;
            Some((upstream.host().to_owned(), repo))
        });
        match found {
            Some((host, repo)) => (Some(host), repo.as_str().to_owned()),
            None => (self.registry.clone(), self.repository.as_str().to_owned()),
        }
    }

    /// All forms in which it was converted.
    async fn find(&self, state: &AppState) -> Result<Vec<RecordedImage>, ApiError> {
        let (host, repo) = self.place(state);
        let filter = ImageFilter {
            host,
            repo: Some(repo),
            reference: Some(self.reference.to_string()),
            format: self.format.clone(),
        };
        let index = state.converted.store().index();
        let found = index.images(&filter, ImageOrder::Newest, None, MAX_FORMS);
        let found = found.await.map_err(|error| ApiError::from(&error))?;
        if found.is_empty() {
            let text = "no such image is known to be converted";
            return Err(ApiError::new(StatusCode::NOT_FOUND, "NAME_UNKNOWN", text));
        }
        Ok(found)
    }
}

/// `GET /image`: the forms in which it was converted, the latest first, and their parts.
pub(super) async fn one(state: &AppState, query: &str) -> Result<Answer, ApiError> {
    let asked = ImageQuery::read(query).map_err(bad)?;
    let (mut images, mut left) = (Vec::new(), MAX_SHOWN_PARTS);
    for recorded in asked.find(state).await? {
        let parts = state.converted.converter.image_parts(&recorded).await;
        let parts = parts.map_err(|error| ApiError::conversion(&error, true))?;
        if parts.len() > left && !images.is_empty() {
            break;
        }
        left = left.saturating_sub(parts.len());
        let mut image = shown(&recorded);
        image["is_cached"] = parts.iter().all(|part| part.is_cached).into();
        image["parts"] = parts.iter().map(shown_part).collect();
        images.push(image);
    }
    Ok(Answer::Found(json!({ "images": images })))
}

/// `DELETE /image`: the next pull looks its layers up again, and makes those that are gone.
pub(super) async fn forget(state: &AppState, query: &str) -> Result<Answer, ApiError> {
    let asked = ImageQuery::read(query).map_err(bad)?;
    let mut forgotten = Vec::new();
    for recorded in asked.find(state).await? {
        let converter = &state.converted.converter;
        let was_there = converter.forget_image(&recorded).await;
        // It may have been converted anew meanwhile.
        if !was_there.map_err(|error| ApiError::from(&error))? {
            continue;
        }
        let image = &recorded.image;
        tracing::info!(upstream = image.host, repo = %image.repo, reference = %image.reference,
            format = image.format, source = %image.source, digest = %image.digest,
            "an operator has an image forgotten: the next pull looks its layers up again");
        forgotten.push(shown(&recorded));
    }
    // Answers that were given name what was forgotten.
    state.responses.clear();
    Ok(Answer::Found(json!({ "forgotten": forgotten })))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_one_word_and_leads_back() {
        let at = ImagePosition {
            converted_at: 1_700_000_000_123,
            key: [
                "oci:/srv/a b",
                "team/app",
                "1",
                "v3 zstd 16384 platforms=all",
            ]
            .map(str::to_owned),
        };
        let text = cursor(&at);
        assert!(
            text.chars()
                .all(|c| c.is_ascii_alphanumeric() || "-_".contains(c))
        );
        assert_eq!(position(&text), Some(at));
        for wrong in ["", "x", "W10", &cursor_of("[1,[\"a\"]]")] {
            assert_eq!(position(wrong), None, "{wrong}");
        }
    }

    fn cursor_of(text: &str) -> String {
        URL_SAFE_NO_PAD.encode(text)
    }

    #[test]
    fn a_list_is_asked_for_by_known_parameters_once() {
        let list = ListQuery::read("repository=a%2Fb&order=newest&limit=5&format=turbo").unwrap();
        assert_eq!(list.filter.repo.as_deref(), Some("a/b"));
        assert_eq!((list.order, list.limit), (ImageOrder::Newest, Some(5)));
        assert_eq!(ListQuery::read(""), Ok(ListQuery::default()));
        for wrong in [
            "repo=a",
            "limit=0",
            "limit=10001",
            "order=size",
            "format=zstd",
            "after=x",
            "upstream=a&upstream=b",
        ] {
            assert!(ListQuery::read(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_image_is_named_by_repository_and_reference_at_least() {
        let image = ImageQuery::read("repository=a%2Fb&reference=1").unwrap();
        assert_eq!(image.repository.as_str(), "a/b");
        // What is not understood must not be taken for more than is meant.
        for wrong in [
            "",
            "repository=a",
            "reference=1",
            "repository=A&reference=1",
            "repository=a&reference=.",
            "repository=a&reference=1&reference=2",
            "repository=a&reference=1&tag=2",
            "repository=a&reference=1&format=all",
        ] {
            assert!(ImageQuery::read(wrong).is_err(), "{wrong}");
        }
    }
}
