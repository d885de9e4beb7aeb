//! Blobs: pushed whole or in chunks, resumed, mounted.

use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use url::Url;

use super::answer::{Answer, short};
use super::dialer::{Outgoing, location, place};
use super::endpoint::{Call, Endpoint};
use super::payload::Payload;
use super::retry::{Again, Failure, MIN_PROGRESS_BYTES};
use super::scope::Scopes;
use super::upload_session::{OpenSession, delete};
use super::{Registry, repeated};
use crate::oci::{Digest, RepoName};
use crate::registry::header_names::CONTENT_DIGEST;
use crate::registry::{Authorization, BlobSource, Error, Pushed, UploadMode};
use crate::telemetry;

const CHUNK_MIN_LENGTH: HeaderName = HeaderName::from_static("oci-chunk-min-length");

/// A blob on its way to the upstream.
struct Upload<'a> {
    endpoint: Arc<Endpoint>,
    repo: &'a RepoName,
    digest: &'a Digest,
    size: u64,
    source: &'a BlobSource,
    authorization: &'a Authorization,
    mode: UploadMode,
    session: Option<Session>,
    /// The same, to be deleted if the upload is dropped.
    open: OpenSession,
    /// How far it was at the last failure.
    failed_at: u64,
}

/// What the upstream has begun to take.
struct Session {
    location: Url,
    /// So many bytes are there.
    offset: u64,
    /// The least length of a chunk that is not the last.
    least: u64,
    /// Whether its offset must be requested.
    doubtful: bool,
}

impl Session {
    /// The session that a 202 or 204 describes; its address may change with each answer.
    fn of(answer: &Answer, before: Option<&Self>) -> Result<Self, Error> {
        let location = match (location(answer)?, before) {
            (Some(location), _) => location,
            (None, Some(before)) => before.location.clone(),
            (None, None) => return Err(answer.invalid("an upload without Location")),
        };
        let least = answer
            .header(CHUNK_MIN_LENGTH)
            .and_then(|text| text.parse().ok())
            .or(before.map(|before| before.least))
            .unwrap_or(0);
        Ok(Self {
            location,
            offset: 0,
            least,
            doubtful: false,
        })
    }
}

/// How many bytes are there by `Range: 0-LAST`. Without the field none are; `0-0` is said
/// of none and of one, and one byte is soon sent again.
fn received(answer: &Answer) -> Result<u64, Error> {
    let Some(text) = answer.header(header::RANGE) else {
        return Ok(0);
    };
    let text = text.strip_prefix("bytes=").unwrap_or(text);
    match text
        .split_once('-')
        .map(|(first, last)| (first, last.parse::<u64>()))
    {
        Some(("0", Ok(0))) => Ok(0),
        Some(("0", Ok(last))) => Ok(last.saturating_add(1)),
        _ => Err(answer.invalid(format!("Range of an upload is {:?}", short(text)))),
    }
}

/// Whether the upstream has lost a session, or its offset.
fn is_lost(status: StatusCode) -> bool {
    matches!(
        status,
        StatusCode::NOT_FOUND | StatusCode::GONE | StatusCode::RANGE_NOT_SATISFIABLE
    )
}

/// Whether the upstream expects another part of the blob than the one that was sent.
fn is_out_of_place(error: &Error) -> bool {
    matches!(error, Error::Upstream { status, .. } if *status == StatusCode::RANGE_NOT_SATISFIABLE.as_u16())
}

impl Upload<'_> {
    async fn call(
        &self,
        method: Method,
        url: Url,
        headers: HeaderMap,
        payload: Payload,
        also: Option<Scopes>,
    ) -> Result<Answer, Failure> {
        let scopes = Scopes::push(self.repo);
        self.endpoint
            .call(&Call {
                outgoing: Outgoing {
                    method,
                    url,
                    headers,
                    payload,
                },
                scopes: match also {
                    Some(also) => scopes.union(also),
                    None => scopes,
                },
                authorization: self.authorization,
            })
            .await
    }

    fn uploads(&self) -> Url {
        self.endpoint.url(&format!("{}/blobs/uploads/", self.repo))
    }

    /// Whether the blob is there, in its length.
    async fn is_there(&self) -> Result<bool, Failure> {
        // One token for all of the upload.
        let scopes = Scopes::push(self.repo);
        let size = self
            .endpoint
            .blob_size(self.repo, self.digest, scopes, self.authorization)
            .await;
        match size {
            Ok(size) => Ok(size == self.size),
            Err(failure) if failure.error.is_not_found() => Ok(false),
            // Not every upstream answers HEAD; the upload fails if something is wrong.
            Err(Failure {
                error: Error::Upstream { .. } | Error::Invalid { .. },
                again: Again::Never,
            }) => Ok(false),
            Err(failure) => Err(failure),
        }
    }

    async fn begin(&self) -> Result<Session, Failure> {
        let answer = self
            .call(
                Method::POST,
                self.uploads(),
                HeaderMap::new(),
                Payload::Empty,
                None,
            )
            .await?
            .expect(&[StatusCode::ACCEPTED])
            .await?;
        let session = Session::of(&answer, None)?;
        answer.drain().await;
        Ok(session)
    }

    /// How far a session is; `None` if the upstream does not know it any more.
    async fn ask(&self, session: &Session) -> Result<Option<Session>, Failure> {
        let url = session.location.clone();
        let answer = self
            .call(Method::GET, url, HeaderMap::new(), Payload::Empty, None)
            .await?;
        match answer.status() {
            StatusCode::NO_CONTENT | StatusCode::ACCEPTED | StatusCode::OK => {
                let next = Session {
                    offset: received(&answer)?,
                    ..Session::of(&answer, Some(session))?
                };
                answer.drain().await;
                Ok((next.offset <= self.size).then_some(next))
            }
            // The question itself may be one that it does not know.
            status if status.is_client_error() && status != StatusCode::UNAUTHORIZED => {
                let failure = answer.failure().await;
                match failure.again {
                    Again::Never => Ok(None),
                    _ => Err(failure),
                }
            }
            _ => Err(answer.failure().await),
        }
    }

    /// One attempt; what has arrived of it serves the next one.
    async fn attempt(&mut self) -> Result<(), Failure> {
        let mut was_asked = None;
        let mut session = match self.session.take() {
            None => self.begin().await?,
            Some(session) if session.doubtful => match self.ask(&session).await {
                Ok(Some(session)) => {
                    tracing::debug!(offset = session.offset, "resuming an upload");
                    was_asked = Some(session.offset);
                    session
                }
                // It may be unknown because it is complete.
                Ok(None) if self.is_there().await? => {
                    self.open.ended();
                    return Ok(());
                }
                Ok(None) => self.begin().await?,
                Err(failure) => {
                    self.session = Some(session);
                    return Err(failure);
                }
            },
            Some(session) => session,
        };
        self.open.is_at(&session.location);
        let sent = self.send(&mut session).await;
        match &sent {
            Ok(()) => self.open.ended(),
            // What it said of how far it is may be wrong as well.
            Err(failure)
                if was_asked == Some(session.offset) && is_out_of_place(&failure.error) =>
            {
                self.cancel(session.location).await;
                self.open.ended();
            }
            Err(_) => {
                session.doubtful = true;
                self.session = Some(session);
            }
        }
        sent
    }

    async fn send(&mut self, session: &mut Session) -> Result<(), Failure> {
        let whole_at_once = self.mode == UploadMode::Monolithic && session.offset == 0;
        if !whole_at_once {
            while session.offset < self.size {
                self.send_chunk(session).await?;
            }
        }
        let start = if whole_at_once { 0 } else { self.size };
        let mut url = session.location.clone();
        url.query_pairs_mut()
            .append_pair("digest", self.digest.as_str());
        let mut headers = HeaderMap::new();
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/octet-stream"),
        );
        let payload = Payload::part(self.source, start, self.size);
        let answer = self.call(Method::PUT, url, headers, payload, None).await?;
        let answer = self
            .settled(answer, &[StatusCode::CREATED, StatusCode::NO_CONTENT])
            .await?;
        if let Some(stated) = answer
            .header(CONTENT_DIGEST)
            .and_then(|text| text.parse::<Digest>().ok())
            && stated.algorithm() == self.digest.algorithm()
            && stated != *self.digest
        {
            return Err(Failure::from(Error::Mismatch {
                place: answer.place.clone(),
                what: "stored blob's digest",
                expected: self.digest.to_string(),
                found: stated.to_string(),
            }));
        }
        answer.drain().await;
        Ok(())
    }

    async fn send_chunk(&mut self, session: &mut Session) -> Result<(), Failure> {
        let longest = match self.mode {
            UploadMode::Monolithic => u64::MAX,
            UploadMode::Chunked(length) => length.max(session.least).max(1),
        };
        let start = session.offset;
        let end = start.saturating_add(longest).min(self.size);
        let mut headers = HeaderMap::new();
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/octet-stream"),
        );
        let range = format!("{start}-{}", end.saturating_sub(1));
        headers.insert(
            header::CONTENT_RANGE,
            HeaderValue::from_str(&range)
                .map_err(|error| Error::Configuration(error.to_string()))?,
        );
        let payload = Payload::part(self.source, start, end);
        let url = session.location.clone();
        let answer = self
            .call(Method::PATCH, url, headers, payload, None)
            .await?;
        let taken = [
            StatusCode::ACCEPTED,
            StatusCode::NO_CONTENT,
            StatusCode::CREATED,
        ];
        let answer = self.settled(answer, &taken).await?;
        let next = Session::of(&answer, Some(session))?;
        answer.drain().await;
        // A chunk is taken whole or not at all. `Range` says so too, but in some registries it
        // lags behind (ECR) or counts otherwise (zot): the next chunk's answer is what counts.
        *session = Session {
            offset: end,
            ..next
        };
        self.open.is_at(&session.location);
        Ok(())
    }

    /// As [`Answer::expect`]; a session that is lost is worth another attempt.
    async fn settled(&self, answer: Answer, statuses: &[StatusCode]) -> Result<Answer, Failure> {
        let lost = is_lost(answer.status());
        answer.expect(statuses).await.map_err(|failure| {
            if lost {
                Failure::passing(failure.error)
            } else {
                failure
            }
        })
    }

    /// Cancels the upload; errors are ignored.
    async fn cancel(&self, location: Url) {
        delete(&self.endpoint, self.repo, self.authorization, location).await;
    }
}

impl Registry {
    pub(in crate::registry) async fn push_blob(
        &self,
        repo: &RepoName,
        digest: &Digest,
        size: u64,
        source: &BlobSource,
        authorization: &Authorization,
    ) -> Result<Pushed, Error> {
        check_length(source, size).await?;
        let endpoint = self.writer(authorization)?;
        let mut upload = Upload {
            endpoint: Arc::clone(&endpoint),
            repo,
            digest,
            size,
            source,
            authorization,
            mode: self.0.config.upload,
            session: None,
            open: OpenSession::none(&endpoint, repo, authorization),
            failed_at: 0,
        };
        if repeated(&endpoint, || upload.is_there()).await? {
            return Ok(Pushed::Present);
        }
        let mut attempts = endpoint.attempts();
        loop {
            let attempt = telemetry::resent(attempts.failed(), upload.attempt());
            let Err(failure) = attempt.await else {
                return Ok(Pushed::Uploaded);
            };
            let offset = upload.session.as_ref().map_or(0, |session| session.offset);
            if offset.saturating_sub(upload.failed_at) >= MIN_PROGRESS_BYTES {
                attempts.reset();
            }
            upload.failed_at = offset;
            if let Err(error) = attempts.pause(failure).await {
                if let Some(session) = upload.session.take() {
                    upload.cancel(session.location).await;
                    upload.open.ended();
                }
                return Err(error);
            }
        }
    }

    /// Begins an upload and cancels it: so whether a push is allowed is known before there is
    /// anything to push.
    pub(in crate::registry) async fn try_push(
        &self,
        repo: &RepoName,
        authorization: &Authorization,
    ) -> Result<(), Error> {
        let endpoint = self.writer(authorization)?;
        let upload = Upload {
            endpoint: Arc::clone(&endpoint),
            repo,
            digest: &Digest::of(b""),
            size: 0,
            source: &BlobSource::Bytes(bytes::Bytes::new()),
            authorization,
            mode: self.0.config.upload,
            session: None,
            open: OpenSession::none(&endpoint, repo, authorization),
            failed_at: 0,
        };
        let session = repeated(&endpoint, || upload.begin()).await?;
        upload.cancel(session.location).await;
        Ok(())
    }

    pub(in crate::registry) async fn mount_blob(
        &self,
        repo: &RepoName,
        digest: &Digest,
        from: &RepoName,
        authorization: &Authorization,
    ) -> Result<bool, Error> {
        let endpoint = self.writer(authorization)?;
        let upload = Upload {
            endpoint: Arc::clone(&endpoint),
            repo,
            digest,
            size: 0,
            source: &BlobSource::Bytes(bytes::Bytes::new()),
            authorization,
            mode: self.0.config.upload,
            session: None,
            open: OpenSession::none(&endpoint, repo, authorization),
            failed_at: 0,
        };
        let mut url = upload.uploads();
        url.query_pairs_mut()
            .append_pair("mount", digest.as_str())
            .append_pair("from", from.as_str());
        let place = place(&Method::POST, &url);
        let mounted = repeated(&endpoint, || async {
            let also = Some(Scopes::pull(from));
            let answer = upload
                .call(
                    Method::POST,
                    url.clone(),
                    HeaderMap::new(),
                    Payload::Empty,
                    also,
                )
                .await?;
            match answer.status() {
                StatusCode::CREATED => {
                    answer.drain().await;
                    Ok(None)
                }
                // It started an upload instead, which is not continued.
                StatusCode::ACCEPTED => {
                    let session = location(&answer)?;
                    answer.drain().await;
                    Ok(Some(session))
                }
                _ => Err(answer.failure().await),
            }
        })
        .await;
        match mounted {
            Ok(None) => Ok(true),
            Ok(Some(session)) => {
                if let Some(session) = session {
                    upload.cancel(session).await;
                }
                Ok(false)
            }
            // It may be `from` that we may not read; the push will show whether it is `repo`.
            Err(
                error @ (Error::Unauthorized { .. }
                | Error::Forbidden { .. }
                | Error::NotFound { .. }
                | Error::Upstream {
                    status: 400..=499, ..
                }),
            ) => {
                tracing::debug!(%place, %error, "no mount");
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }
}

async fn check_length(source: &BlobSource, size: u64) -> Result<(), Error> {
    let (place, found) = match source {
        BlobSource::Bytes(bytes) => ("blob to be pushed".to_owned(), bytes.len() as u64),
        BlobSource::File(path) | BlobSource::Verified { path, .. } => {
            let found = tokio::fs::metadata(path).await;
            let found = found.map_err(|error| Error::io(path, &error))?;
            (path.display().to_string(), found.len())
        }
    };
    if found == size {
        return Ok(());
    }
    Err(Error::Mismatch {
        place,
        what: "length",
        expected: format!("{size} bytes"),
        found: format!("{found} bytes"),
    })
}
