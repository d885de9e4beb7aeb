//! The list of tags, and the pages that lists come in.

use std::collections::HashSet;

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode, header};
use serde::Deserialize;
use url::Url;

use super::answer::Answer;
use super::dialer::{place, same_origin};
use super::endpoint::Endpoint;
use super::retry::Failure;
use super::scope::Scopes;
use super::{Need, Registry, call};
use crate::oci::{RepoName, Tag};
use crate::registry::{Authorization, Error};

/// Longest page, in bytes. Some registries send all tags in one.
const MAX_PAGE_BYTES: usize = 32 << 20;
/// Most pages of one list.
const MAX_PAGES: usize = 10_000;
/// Most tags of one repository.
const MAX_TAGS: usize = 1_000_000;

/// The address of a list's next page, which must be at the same origin: the credentials
/// go with it.
pub(super) fn next_page(answer: &Answer) -> Result<Option<Url>, Error> {
    for value in answer.response.headers().get_all(header::LINK) {
        let Some(target) = value.to_str().ok().and_then(next_link) else {
            continue;
        };
        let next = answer
            .url
            .join(target)
            .map_err(|_| answer.invalid("Link is no address"))?;
        if !same_origin(&next, &answer.url) {
            return Err(Error::Refused {
                place: answer.place.clone(),
                target: super::dial::shown(&next),
                why: "the next page of a list must be at the same host".to_owned(),
            });
        }
        return Ok(Some(next));
    }
    Ok(None)
}

/// The target of `<TARGET>; rel="next"` (RFC 8288) among the links of one field.
fn next_link(text: &str) -> Option<&str> {
    let mut rest = text;
    while let Some((_, behind)) = rest.split_once('<') {
        let (target, behind) = behind.split_once('>')?;
        let end = behind.find('<').unwrap_or(behind.len());
        let (parameters, next) = behind.split_at(end);
        let is_next = parameters.split([';', ',']).any(|parameter| {
            parameter.split_once('=').is_some_and(|(name, value)| {
                name.trim().eq_ignore_ascii_case("rel")
                    && value
                        .trim()
                        .trim_matches('"')
                        .split_ascii_whitespace()
                        .any(|relation| relation.eq_ignore_ascii_case("next"))
            })
        });
        if is_next {
            return Some(target);
        }
        rest = next;
    }
    None
}

impl Endpoint {
    /// One page of a list, and where the next one is.
    pub(super) async fn page(
        &self,
        url: Url,
        repo: &RepoName,
        headers: HeaderMap,
        authorization: &Authorization,
    ) -> Result<(Bytes, Option<Url>), Failure> {
        let call = call(Method::GET, url, headers, Scopes::pull(repo), authorization);
        let answer = self.call(&call).await?.expect(&[StatusCode::OK]).await?;
        let next = next_page(&answer)?;
        Ok((answer.document(MAX_PAGE_BYTES).await?, next))
    }

    async fn tags(
        &self,
        repo: &RepoName,
        authorization: &Authorization,
    ) -> Result<Vec<Tag>, Error> {
        let mut tags: Vec<Tag> = Vec::new();
        let mut url = self.url(&format!("{repo}/tags/list"));
        let mut seen = HashSet::new();
        while seen.insert(url.clone()) {
            let place = place(&Method::GET, &url);
            if seen.len() > MAX_PAGES {
                return Err(Error::invalid(
                    &place,
                    format!("more than {MAX_PAGES} pages"),
                ));
            }
            let (page, next) = super::repeated(self, || {
                self.page(url.clone(), repo, HeaderMap::new(), authorization)
            })
            .await?;
            tags.extend(read(&page).map_err(|detail| Error::invalid(&place, detail))?);
            if tags.len() > MAX_TAGS {
                return Err(Error::invalid(&place, format!("more than {MAX_TAGS} tags")));
            }
            match next {
                Some(next) => url = next,
                None => return Ok(tags),
            }
        }
        let place = place(&Method::GET, &url);
        Err(Error::invalid(
            &place,
            "the pages of the list go round in a circle",
        ))
    }
}

fn read(page: &[u8]) -> Result<Vec<Tag>, String> {
    #[derive(Deserialize)]
    struct Page {
        // Go writes an empty list as null.
        tags: Option<Vec<String>>,
    }
    let page: Page = serde_json::from_slice(page)
        .map_err(|error| format!("this is no list of tags: {error}"))?;
    let texts = page.tags.unwrap_or_default();
    let mut tags = Vec::with_capacity(texts.len());
    for text in texts {
        match text.parse() {
            Ok(tag) => tags.push(tag),
            // It could not be requested.
            Err(error) => tracing::warn!(%error, "passed over in a list of tags"),
        }
    }
    Ok(tags)
}

impl Registry {
    pub(in crate::registry) async fn tags(
        &self,
        repo: &RepoName,
        authorization: &Authorization,
    ) -> Result<Vec<Tag>, Error> {
        self.first(Need::Resolve, authorization, |endpoint| async move {
            // The pages are repeated one by one.
            Ok(endpoint.tags(repo, authorization).await?)
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_page_is_found_among_links() {
        assert_eq!(next_link(r#"</v2/a?n=1>; rel="next""#), Some("/v2/a?n=1"));
        assert_eq!(next_link("</x>;REL=next"), Some("/x"));
        let several = r#"</a>; rel="prev", </b,c>; title="<"; rel="x next""#;
        assert_eq!(
            next_link(r#"</a>; rel="prev", </b,c>; rel="x next""#),
            Some("/b,c")
        );
        assert_eq!(next_link(several), None);
        assert_eq!(next_link("</a"), None);
        assert_eq!(next_link(r#"</a>; rel="last""#), None);
    }

    #[test]
    fn a_list_without_tags_may_say_null() {
        assert!(read(br#"{"name":"a","tags":null}"#).unwrap().is_empty());
        assert_eq!(read(br#"{"tags":["a","-","b"]}"#).unwrap().len(), 2);
        assert!(read(b"<html>").is_err());
    }
}
