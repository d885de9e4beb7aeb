//! The list of tags, and the pages that lists come in.

use std::collections::HashSet;

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode};
use serde::Deserialize;
use url::Url;

use super::answer::Answer;
use super::dialer::{place, same_origin};
use super::endpoint::Endpoint;
use super::retry::Failure;
use super::scope::Scopes;
use super::{Need, Registry, call};
use crate::oci::{RepoName, Tag};
use crate::registry::{Authorization, Error, link};

/// Longest page, in bytes. Some registries send all tags in one.
const MAX_PAGE_BYTES: usize = 32 << 20;
/// Most pages of one list.
const MAX_PAGES: usize = 10_000;
/// Most tags of one repository.
const MAX_TAGS: usize = 1_000_000;

/// The address of a list's next page, which must be at the same origin: the credentials
/// go with it.
pub(super) fn next_page(answer: &Answer) -> Result<Option<Url>, Error> {
    let Some(target) = link::next_page(answer.response.headers()) else {
        return Ok(None);
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
    Ok(Some(next))
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
    /// Asks for one tag, whichever: all that may read a repository get an answer.
    pub(in crate::registry) async fn can_read(
        &self,
        repo: &RepoName,
        authorization: &Authorization,
    ) -> Result<(), Error> {
        self.first(Need::Resolve, authorization, |endpoint| async move {
            let mut url = endpoint.url(&format!("{repo}/tags/list"));
            url.query_pairs_mut().append_pair("n", "1");
            endpoint
                .page(url, repo, HeaderMap::new(), authorization)
                .await?;
            Ok(())
        })
        .await
    }

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
    fn a_list_without_tags_may_say_null() {
        assert!(read(br#"{"name":"a","tags":null}"#).unwrap().is_empty());
        assert_eq!(read(br#"{"tags":["a","-","b"]}"#).unwrap().len(), 2);
        assert!(read(b"<html>").is_err());
    }
}
