//! A part of a blob, streamed, and resumed where a connection broke.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream::try_unfold;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use http_body_util::BodyExt;
use http_body_util::combinators::BoxBody;

use super::answer::{Answer, short};
use super::call;
use super::endpoint::Endpoint;
use super::retry::{Attempts, Failure, MIN_PROGRESS_BYTES};
use super::scope::Scopes;
use crate::oci::{Digest, RepoName};
use crate::registry::{Authorization, BlobStream, Error, RetryPolicy};
use crate::telemetry;

/// What is downloaded.
#[derive(Debug, Clone)]
pub(super) struct Blob {
    pub(super) repo: RepoName,
    pub(super) digest: Digest,
    pub(super) authorization: Authorization,
}

/// So many bytes are thrown away to come to a range of a server that does not know ranges.
const MAX_SKIP_BYTES: u64 = 16 << 20;

/// The bytes of a part of a blob, as they come.
pub(super) struct Download {
    /// Those not given up yet, the current one first.
    endpoints: Vec<Arc<Endpoint>>,
    attempts: Attempts,
    blob: Blob,
    /// The next byte wanted, and the end of the range.
    offset: u64,
    end: u64,
    /// The blob's length, where it is known.
    size: Option<u64>,
    /// Whether the first answer is to say how long the blob is.
    is_unsized: bool,
    /// Where `offset` was at the last failure.
    failed_at: u64,
    body: Option<Reading>,
}

/// A response's body that is being read.
struct Reading {
    body: BoxBody<Bytes, Error>,
    place: String,
    /// Bytes before the wanted ones that the server sends nevertheless.
    skip: u64,
    /// Whether bytes behind the wanted ones are an error.
    exact: bool,
    /// The length that the answer to a request for the whole blob stated.
    length: Option<u64>,
}

/// The value of `Content-Range` (RFC 9110 § 14.4): first and last byte, whole length.
fn content_range(text: &str) -> Option<(u64, u64, Option<u64>)> {
    let (range, total) = text.strip_prefix("bytes")?.trim_start().split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let total = match total.trim() {
        "*" => None,
        total => Some(total.parse().ok()?),
    };
    let (first, last) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
    let fits = first <= last && total.is_none_or(|total| last < total);
    fits.then_some((first, last, total))
}

impl Download {
    /// The bytes of `range`; `size` is the blob's length, where it is known.
    pub(super) fn new(
        endpoints: Vec<Arc<Endpoint>>,
        retry: RetryPolicy,
        blob: Blob,
        range: Range<u64>,
        size: Option<u64>,
    ) -> Self {
        let first = endpoints.first();
        let attempts = first.map_or_else(|| Attempts::new(retry), |first| first.attempts());
        Self {
            endpoints,
            attempts,
            blob,
            offset: range.start,
            end: range.end,
            size,
            is_unsized: false,
            failed_at: range.start,
            body: None,
        }
    }

    /// All of a blob whose length the first answer says.
    pub(super) fn whole(endpoints: Vec<Arc<Endpoint>>, retry: RetryPolicy, blob: Blob) -> Self {
        Self {
            is_unsized: true,
            ..Self::new(endpoints, retry, blob, 0..u64::MAX, None)
        }
    }

    fn endpoint(&self) -> Result<Arc<Endpoint>, Error> {
        self.endpoints
            .first()
            .cloned()
            .ok_or_else(|| Error::Configuration("there is no endpoint".to_owned()))
    }

    /// Waits for another attempt, continues with the next endpoint, or gives up.
    async fn recover(&mut self, failure: Failure) -> Result<(), Error> {
        self.body = None;
        if self.offset.saturating_sub(self.failed_at) >= MIN_PROGRESS_BYTES {
            self.attempts.reset();
        }
        self.failed_at = self.offset;
        let Err(error) = self.attempts.pause(failure).await else {
            return Ok(());
        };
        if !self.endpoints.is_empty() {
            self.endpoints.remove(0);
        }
        match self.endpoints.first() {
            None => Err(error),
            Some(next) => {
                tracing::debug!(%error, "the next host is asked");
                self.attempts = next.attempts();
                Ok(())
            }
        }
    }

    /// Opens the body, by whichever attempt succeeds.
    pub(super) async fn open(&mut self) -> Result<(), Error> {
        while self.body.is_none() {
            let failed = self.attempts.failed();
            match telemetry::resent(failed, self.ask()).await {
                Ok(reading) => {
                    if self.is_unsized {
                        let length = reading.length.ok_or_else(|| {
                            let detail = "the answer does not say how long the blob is";
                            Error::invalid(&reading.place, detail)
                        })?;
                        (self.size, self.end, self.is_unsized) = (Some(length), length, false);
                    }
                    self.body = Some(reading);
                }
                Err(failure) => self.recover(failure).await?,
            }
        }
        Ok(())
    }

    async fn ask(&self) -> Result<Reading, Failure> {
        let endpoint = self.endpoint()?;
        let url = endpoint.url(&format!("{}/blobs/{}", self.blob.repo, self.blob.digest));
        let mut headers = HeaderMap::new();
        let whole = self.is_unsized || (self.offset == 0 && self.size == Some(self.end));
        if !whole {
            let last = self.end.saturating_sub(1);
            let range = format!("bytes={}-{last}", self.offset);
            let value = HeaderValue::from_str(&range)
                .map_err(|error| Error::Configuration(error.to_string()))?;
            headers.insert(header::RANGE, value);
        }
        let scopes = Scopes::pull(&self.blob.repo);
        let call = call(Method::GET, url, headers, scopes, &self.blob.authorization);
        let answer = endpoint.call(&call).await?;
        match answer.status() {
            StatusCode::PARTIAL_CONTENT if !whole => self.partial(answer),
            StatusCode::OK => self.complete(answer, whole),
            StatusCode::RANGE_NOT_SATISFIABLE => {
                let found = answer
                    .header(header::CONTENT_RANGE)
                    .and_then(|text| text.rsplit_once('/'))
                    .and_then(|(_, total)| total.trim().parse::<u64>().ok());
                let found = found.map_or("less".to_owned(), |total| format!("{total} bytes"));
                Err(self.wrong_length(&answer.place, &found).into())
            }
            _ => Err(answer.failure().await),
        }
    }

    fn wrong_length(&self, place: &str, found: &str) -> Error {
        Error::Mismatch {
            place: place.to_owned(),
            what: "blob's length",
            expected: match self.size {
                Some(size) => format!("{size} bytes"),
                None => format!("at least {} bytes", self.end),
            },
            found: found.to_owned(),
        }
    }

    /// An answer that keeps to the range.
    fn partial(&self, answer: Answer) -> Result<Reading, Failure> {
        check_encoding(&answer)?;
        let text = answer.header(header::CONTENT_RANGE).unwrap_or_default();
        let Some((first, last, total)) = content_range(text) else {
            let detail = format!("status 206 with Content-Range {:?}", short(text));
            return Err(answer.invalid(detail).into());
        };
        if let (Some(total), Some(size)) = (total, self.size)
            && total != size
        {
            let found = format!("{total} bytes");
            return Err(self.wrong_length(&answer.place, &found).into());
        }
        // A shorter part is allowed: the rest is requested when it ends.
        let length_fits = answer.length().is_none_or(|length| {
            last.checked_sub(first).and_then(|n| n.checked_add(1)) == Some(length)
        });
        if first != self.offset || last >= self.end || !length_fits {
            let wanted = format!("{}-{}", self.offset, self.end.saturating_sub(1));
            let detail = format!(
                "bytes {wanted} were asked for, Content-Range is {:?}",
                short(text)
            );
            return Err(answer.invalid(detail).into());
        }
        Ok(Reading {
            place: answer.place.clone(),
            body: answer.into_body().boxed(),
            skip: 0,
            exact: true,
            length: None,
        })
    }

    /// The whole blob, requested or not.
    fn complete(&self, answer: Answer, asked: bool) -> Result<Reading, Failure> {
        check_encoding(&answer)?;
        if let Some(length) = answer.length() {
            let fits = match self.size {
                Some(size) => length == size,
                None => self.is_unsized || length >= self.end,
            };
            if !fits {
                let found = format!("{length} bytes");
                return Err(self.wrong_length(&answer.place, &found).into());
            }
        }
        // What has come once may come again; to go far for a small range is not worth it.
        let most = if self.size.is_some() {
            u64::MAX
        } else {
            MAX_SKIP_BYTES
        };
        if !asked && self.offset > most {
            let place = answer.place.clone();
            let detail = "the upstream does not know ranges of blobs".to_owned();
            return Err(Error::Unsupported { place, detail }.into());
        }
        Ok(Reading {
            length: answer.length(),
            place: answer.place.clone(),
            body: answer.into_body().boxed(),
            skip: self.offset,
            exact: self.is_unsized || self.size == Some(self.end),
        })
    }

    /// The next bytes; `None` when all have come.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        loop {
            self.open().await?;
            match self.read().await {
                Ok(Some(bytes)) if bytes.is_empty() => {}
                Ok(bytes) => return Ok(bytes),
                Err(failure) => self.recover(failure).await?,
            }
        }
    }

    /// The next byte wanted, and the end of what is wanted.
    pub(super) fn wanted(&self) -> (u64, u64) {
        (self.offset, self.end)
    }

    /// The same for another part of the blob, of those endpoints that are not given up.
    pub(super) fn another(&self, range: Range<u64>) -> Self {
        let (endpoints, retry) = (self.endpoints.clone(), self.attempts.policy());
        Self::new(endpoints, retry, self.blob.clone(), range, self.size)
    }

    /// As [`another`](Self::another), by one attempt at the current endpoint.
    pub(super) fn single(&self, range: Range<u64>) -> Self {
        let mut single = self.another(range);
        single.endpoints.truncate(1);
        single.attempts = Attempts::once(self.attempts.policy());
        single
    }

    /// The bytes, unless the answer begins before them.
    pub(super) async fn open_partial(mut self) -> Result<BlobStream, Error> {
        self.open().await?;
        match &self.body {
            Some(reading) if reading.skip > 0 => Err(Error::Unsupported {
                place: reading.place.clone(),
                detail: "the upstream does not know ranges of blobs".to_owned(),
            }),
            _ => Ok(self.stream()),
        }
    }

    pub(super) fn stream(self) -> BlobStream {
        let stream = try_unfold(self, |mut download| async move {
            let bytes = download.next().await?;
            Ok(bytes.map(|bytes| (bytes, download)))
        });
        BlobStream {
            inner: Box::pin(stream),
        }
    }

    async fn read(&mut self) -> Result<Option<Bytes>, Failure> {
        let Some(reading) = &mut self.body else {
            return Ok(Some(Bytes::new()));
        };
        let left = self.end.saturating_sub(self.offset);
        if left == 0 && !reading.exact {
            return Ok(None);
        }
        let data = match reading.body.frame().await {
            Some(Ok(frame)) => frame.into_data().unwrap_or_default(),
            // All is there; how the connection ends is of no interest.
            Some(Err(_)) | None if left == 0 => return Ok(None),
            Some(Err(error)) => return Err(Failure::passing(error)),
            None => {
                return Err(Failure::passing(Error::Unreachable {
                    place: reading.place.clone(),
                    cause: format!("the body ends {left} bytes early"),
                }));
            }
        };
        let skipped = reading.skip.min(data.len() as u64);
        reading.skip = reading.skip.saturating_sub(skipped);
        let mut data = data.slice(
            usize::try_from(skipped)
                .unwrap_or(usize::MAX)
                .min(data.len())..,
        );
        if data.len() as u64 > left {
            if reading.exact {
                let place = reading.place.clone();
                return Err(self.wrong_length(&place, "more").into());
            }
            data.truncate(usize::try_from(left).unwrap_or(usize::MAX));
        }
        self.offset = self.offset.saturating_add(data.len() as u64);
        Ok(Some(data))
    }
}

fn check_encoding(answer: &Answer) -> Result<(), Error> {
    match answer.header(header::CONTENT_ENCODING) {
        None | Some("" | "identity") => Ok(()),
        Some(encoding) => Err(answer.invalid(format!(
            "the blob is encoded once more ({}), which nobody asked for",
            short(encoding)
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn valid_content_ranges_are_parsed() {
        assert_eq!(content_range("bytes 0-9/10"), Some((0, 9, Some(10))));
        assert_eq!(content_range("bytes 5-5/*"), Some((5, 5, None)));
        for bad in [
            "",
            "bytes */10",
            "bytes 0-10/10",
            "bytes 9-0/10",
            "bytes -1-2/10",
            "bytes 0-99999999999999999999/*",
            "items 0-1/2",
        ] {
            assert_eq!(content_range(bad), None, "{bad}");
        }
    }
}
