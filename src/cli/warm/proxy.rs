//! Through a running proxy: it is asked for the converted image until that is there.

use std::time::Duration;

use anyhow::Context as _;
use http::{HeaderMap, Method, Request, StatusCode, header};
use serde::Deserialize;
use tokio::time::Instant;

use super::Form;
use super::names::{Host, Name, Place, Which};
use super::report::{Outcome, Warmed};
use crate::cli::progress::Terminal;
use crate::convert::Suffixes;

use crate::oci::mirrored_name::official;
use crate::oci::{Digest, Index, Manifest, Platform, RepoName, Tag};
use crate::registry::header_names::CONTENT_DIGEST;
use crate::registry::{Error, ForwardOptions, Redirects, Upstream, body, link};

/// Most bytes of a response body.
const MAX_BODY_BYTES: usize = 32 << 20;
/// Most pages of tags.
const MAX_PAGES: usize = 10_000;
/// The wait before another request, where the response has no `Retry-After`.
const DEFAULT_WAIT: Duration = Duration::from_secs(2);
/// The longest wait between two requests, whatever `Retry-After` says.
const MAX_WAIT: Duration = Duration::from_mins(1);
/// How often in a row the proxy may fail to answer.
const MAX_FAILURES: u32 = 5;

const MANIFESTS: &str = "application/vnd.oci.image.index.v1+json, \
    application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, \
    application/vnd.docker.distribution.manifest.v2+json";

/// What the proxy may say of how an image came to be there.
const OUTCOME: &str = "overlaybd-outcome";
/// What it may say of an image that is not in TurboOCI form, which was asked for.
const FALLBACK: &str = "overlaybd-fallback";

/// Asks a proxy.
pub struct Proxy {
    pub upstream: Upstream,
    /// Its host, by which images may be named too.
    pub host: String,
    pub suffixes: Suffixes,
    /// The longest that one image may take.
    pub timeout: Duration,
}

struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    bytes: bytes::Bytes,
}

impl Answer {
    fn digest(&self) -> Option<Digest> {
        let value = self.headers.get(CONTENT_DIGEST)?;
        value.to_str().ok()?.parse().ok()
    }

    /// The index that it is, if it is one.
    fn index(&self) -> Option<Index> {
        let media_type = self.headers.get(header::CONTENT_TYPE)?.to_str().ok()?;
        match Manifest::parse(media_type, &self.bytes) {
            Ok(Manifest::Index(index)) => Some(index),
            Ok(Manifest::Image(_)) | Err(_) => None,
        }
    }

    /// Whether the proxy says that this is no image to convert.
    fn is_no_image(&self) -> bool {
        let said = self.headers.get(OUTCOME);
        said.is_some_and(|said| said.as_bytes() == b"no-image")
    }

    /// The form that the image has instead of the TurboOCI form, and why.
    fn fallback(&self) -> Option<(&str, &str)> {
        self.headers.get(FALLBACK)?.to_str().ok()?.split_once("; ")
    }

    fn wait(&self) -> Duration {
        let seconds = self
            .headers
            .get(header::RETRY_AFTER)
            .and_then(|value| value.to_str().ok()?.parse().ok());
        seconds.map_or(DEFAULT_WAIT, |seconds: u64| {
            Duration::from_secs(seconds.max(1)).min(MAX_WAIT)
        })
    }

    /// The error that an answer of this status is.
    fn error(&self, place: &str) -> Error {
        let (place, detail) = (
            place.to_owned(),
            crate::registry::error_body::detail_of(&self.bytes),
        );
        match self.status {
            StatusCode::UNAUTHORIZED => Error::Unauthorized {
                place,
                is_own: true,
                challenges: Vec::new(),
                detail,
            },
            StatusCode::FORBIDDEN => Error::Forbidden {
                place,
                is_own: true,
                detail,
            },
            StatusCode::NOT_FOUND => Error::NotFound { place, detail },
            status => Error::Upstream {
                place,
                status: status.as_u16(),
                detail,
            },
        }
    }
}

impl Proxy {
    async fn ask(&self, method: Method, address: &str) -> Result<Answer, Error> {
        let place = || format!("{method} {}", address.split('?').next().unwrap_or_default());
        let request = Request::builder()
            .method(method.clone())
            .uri(address)
            .header(header::ACCEPT, MANIFESTS)
            .header(header::ACCEPT, "application/json")
            .body(body::empty())
            .map_err(|error| Error::invalid(&place(), error.to_string()))?;
        let options = ForwardOptions {
            own_credentials: true,
            redirects: Redirects::Returned,
        };
        let response = self.upstream.forward(request, options).await?;
        let (parts, content) = response.into_parts();
        let bytes = body::read(content, MAX_BODY_BYTES)
            .await
            .map_err(|error| Error::invalid(&place(), error.to_string()))?;
        Ok(Answer {
            status: parts.status,
            headers: parts.headers,
            bytes,
        })
    }

    /// The address of something in a repository, with `ns` for a registry that was named.
    fn address(&self, host: Option<&str>, repo: &RepoName, rest: &str) -> String {
        match host.filter(|host| *host != self.host) {
            Some(host) => {
                let mut query = url::form_urlencoded::Serializer::new(String::new());
                format!(
                    "/v2/{repo}/{rest}?{}",
                    query.append_pair("ns", host).finish()
                )
            }
            None => format!("/v2/{repo}/{rest}"),
        }
    }

    pub async fn tags(&self, place: &Place) -> anyhow::Result<Vec<Tag>> {
        #[derive(Deserialize)]
        struct List {
            tags: Option<Vec<String>>,
        }
        let mut address = self.address(named(place)?, &place.repo, "tags/list");
        let mut tags = Vec::new();
        for _ in 0..MAX_PAGES {
            let answer = self.ask(Method::GET, &address).await?;
            let what = || format!("the tags of {place}");
            if answer.status != StatusCode::OK {
                return Err(answer.error(&format!("GET {address}"))).with_context(what);
            }
            let list: List = serde_json::from_slice(&answer.bytes).with_context(what)?;
            let listed = list.tags.unwrap_or_default();
            tags.extend(listed.iter().filter_map(|tag| tag.parse().ok()));
            match next_page(&answer.headers) {
                Some(next) if next != address => address = next,
                _ => return Ok(tags),
            }
        }
        anyhow::bail!("the tags of {place} fill over {MAX_PAGES} pages")
    }

    pub async fn warm(
        &self,
        title: &str,
        name: &Name,
        form: Form,
        terminal: &Terminal,
    ) -> anyhow::Result<Warmed> {
        let place = &name.place;
        let (tag, pinned) = match &name.which {
            Which::Tag(tag) => (tag, None),
            Which::Digest(digest, Some(tag)) => (tag, Some(digest)),
            Which::Digest(_, None) | Which::Matching(_) => anyhow::bail!(
                "a proxy is asked by tag: name the image as REPOSITORY:TAG@DIGEST, or leave --proxy out"
            ),
        };
        let suffix = match form {
            Form::Native => self.suffixes.native.as_str(),
            Form::Turbo => self.suffixes.turbo.as_deref().unwrap_or_default(),
        };
        let wanted: Tag = format!("{tag}{suffix}").parse()?;
        let host = named(place)?;
        // What it must not be: a proxy may answer with the source while it converts.
        let mut repo = place.repo.clone();
        let mut plain = self.plain(host, &repo, tag).await;
        let completed = official(&repo);
        let is_missing = plain.as_ref().is_err_and(Error::is_not_found);
        if is_missing && host.is_none() && completed != repo {
            let second = self.plain(host, &completed, tag).await;
            if second.is_ok() {
                (repo, plain) = (completed, second);
            }
        }
        let plain = plain?;
        if let Some(pinned) = pinned
            && plain.as_ref() != Some(pinned)
        {
            let now = plain.map_or_else(|| "another image".to_owned(), |now| now.to_string());
            anyhow::bail!(
                "the tag {tag} is {now} by now, and a proxy converts what a tag names: only without \
                 --proxy can {pinned} be warmed"
            );
        }
        let bar = terminal.count_bar(title.to_owned(), 1);
        bar.set_message("asking");
        let address = self.address(host, &repo, &format!("manifests/{wanted}"));
        let there = self.until_there(&address, plain.as_ref()).await;
        bar.finish_and_clear();
        let (mut warmed, converted) = there?;
        if let (Some(converted), Some(plain)) = (converted, plain) {
            let source = self.address(host, &repo, &format!("manifests/{plain}"));
            warmed.left = self.left(&source, &converted).await;
        }
        Ok(warmed)
    }

    /// The platforms of an index that are in the converted one as they were; empty where that cannot be
    /// told.
    async fn left(&self, source: &str, converted: &Index) -> Vec<Platform> {
        let source = self.ask(Method::GET, source).await;
        let Some(source) = source.ok().as_ref().and_then(Answer::index) else {
            return Vec::new();
        };
        let entries = converted.manifests.iter();
        entries
            .filter(|entry| !entry.is_attestation())
            .filter(|entry| {
                source
                    .manifests
                    .iter()
                    .any(|one| one.digest == entry.digest)
            })
            .filter_map(|entry| entry.platform.clone())
            .collect()
    }

    async fn plain(
        &self,
        host: Option<&str>,
        repo: &RepoName,
        tag: &Tag,
    ) -> Result<Option<Digest>, Error> {
        let address = self.address(host, repo, &format!("manifests/{tag}"));
        let answer = self.ask(Method::HEAD, &address).await?;
        match answer.status {
            StatusCode::OK => Ok(answer.digest()),
            _ => Err(answer.error(&format!("HEAD {address}"))),
        }
    }

    /// What became of the image, and the converted index if it is one.
    async fn until_there(
        &self,
        address: &str,
        plain: Option<&Digest>,
    ) -> anyhow::Result<(Warmed, Option<Index>)> {
        let deadline = Instant::now() + self.timeout;
        let (mut failures, mut waited) = (0, false);
        loop {
            let asked = self.ask(Method::GET, address).await;
            let wait = match asked {
                Ok(answer) if answer.status == StatusCode::OK => {
                    let digest = answer.digest();
                    let fallback = answer.fallback();
                    if let Some(("original", reason)) = fallback {
                        return Ok((Warmed::skipped(reason.to_owned()), None));
                    }
                    if plain.is_none() || digest.as_ref() != plain {
                        let warmed = Warmed {
                            outcome: outcome(&answer, waited),
                            reason: fallback.map(|(form, reason)| format!("as {form}: {reason}")),
                            digest,
                            left: Vec::new(),
                        };
                        return Ok((warmed, answer.index()));
                    }
                    answer.wait()
                }
                // Another hold.
                Ok(answer) if answer.status == StatusCode::TEMPORARY_REDIRECT => Duration::ZERO,
                Ok(answer)
                    if matches!(
                        answer.status,
                        StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE
                    ) =>
                {
                    answer.wait()
                }
                Ok(answer) if answer.is_no_image() => {
                    let reason = crate::registry::error_body::detail_of(&answer.bytes);
                    return Ok((Warmed::skipped(reason), None));
                }
                Ok(answer) => return Err(answer.error(&format!("GET {address}")).into()),
                Err(error) if error.is_transient() && failures < MAX_FAILURES => {
                    failures += 1;
                    tracing::info!(%error, "the proxy is asked again");
                    tokio::time::sleep(DEFAULT_WAIT).await;
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            (failures, waited) = (0, true);
            if Instant::now() + wait >= deadline {
                anyhow::bail!(
                    "it is not converted after {}: --timeout allows more; the proxy goes on",
                    humantime::format_duration(self.timeout)
                );
            }
            // A redirect to the same place must not become a storm.
            tokio::time::sleep(wait.max(Duration::from_millis(50))).await;
        }
    }
}

/// The registry that a name has, which it is for the proxy to reach.
fn named(place: &Place) -> anyhow::Result<Option<&str>> {
    let Some(Host { scheme, name }) = &place.host else {
        return Ok(None);
    };
    if let Some(scheme) = scheme {
        let scheme = scheme.as_str();
        anyhow::bail!(
            "whether {name} is reached over TLS is a setting of the proxy: leave {scheme}:// out"
        );
    }
    Ok(Some(name))
}

fn outcome(answer: &Answer, waited: bool) -> Outcome {
    let said = answer.headers.get(OUTCOME).map(http::HeaderValue::as_bytes);
    match said {
        Some(b"converted") => Outcome::Converted,
        Some(b"found") if !waited => Outcome::Found,
        _ if waited => Outcome::Converted,
        _ => Outcome::Ready,
    }
}

/// The address of the next page (RFC 8288, OCI distribution-spec § Listing Tags).
fn next_page(headers: &HeaderMap) -> Option<String> {
    let target = link::next_page(headers)?;
    // Only path and query count: it is the same proxy that goes on.
    let base = url::Url::parse("http://proxy/").ok()?;
    let url = base.join(target).ok()?;
    Some(match url.query() {
        Some(query) => format!("{}?{query}", url.path()),
        None => url.path().to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_page_is_on_the_same_proxy() {
        let next = |link: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::LINK, http::HeaderValue::from_static(link));
            next_page(&headers)
        };
        let expected = Some("/v2/x/tags/list?last=b&n=2".to_owned());
        assert_eq!(
            next(r#"</v2/x/tags/list?last=b&n=2>; rel="next""#),
            expected
        );
        assert_eq!(
            next("<http://other/v2/x/tags/list?last=b&n=2>; rel=next"),
            expected
        );
        assert_eq!(next(r#"</v2/x>; rel="first""#), None);
        assert_eq!(next("nonsense"), None);
    }
}
