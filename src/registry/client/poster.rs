//! Requests that tell another service something: webhooks, traces.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Uri};
use url::Url;

use super::answer::Answer;
use super::dial::shown;
use super::dialer::{Dialer, place};
use super::retry::retry_after;
use crate::registry::{Error, RegistryConfig, body};

/// Most bytes of an answer that are read.
const MAX_ANSWER: usize = 64 << 10;

/// Posts documents to one address, which an operator named: it may be a private one, or plain HTTP. No
/// credentials are sent, redirects are answers. Cheap to clone; clones share connections.
#[derive(Clone)]
pub struct Poster {
    dialer: Arc<Dialer>,
    url: Url,
    uri: Uri,
}

/// Why a document was not posted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PostError {
    /// The cause, with no more of the address than its host.
    pub cause: String,
    /// Whether another attempt may succeed.
    pub is_transient: bool,
}

/// The answer to a document that was posted.
#[derive(Debug, Clone)]
pub struct Answered {
    /// Its status.
    pub status: StatusCode,
    /// When it may be posted again, if the service says so.
    pub retry_after: Option<Duration>,
    /// The beginning of its body, of at most 64 KiB.
    pub body: Bytes,
}

impl fmt::Debug for Poster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Poster")
    }
}

impl Poster {
    /// With these authorities and time limits; certificates are verified in any case.
    ///
    /// # Errors
    /// If the address or a setting cannot be used.
    pub fn new(address: &str, config: &RegistryConfig) -> Result<Self, Error> {
        let unusable = || Error::Configuration("this is no http or https address".to_owned());
        let url: Url = address.parse().map_err(|_| unusable())?;
        let uri: Uri = address.parse().map_err(|_| unusable())?;
        let has_login = !url.username().is_empty() || url.password().is_some();
        if !matches!(url.scheme(), "http" | "https") || !url.has_host() || has_login {
            return Err(unusable());
        }
        // It is logged.
        let mut origin = url.clone();
        origin.set_path("");
        origin.set_query(None);
        origin.set_fragment(None);
        let dialer = Dialer::elsewhere(origin, config)?;
        Ok(Self {
            dialer: Arc::new(dialer),
            url,
            uri,
        })
    }

    /// The address as logs may show it: its scheme and host. What is behind them may be a secret.
    #[must_use]
    pub fn place(&self) -> String {
        self.url.origin().ascii_serialization()
    }

    /// Posts a JSON document once; the status of the answer.
    ///
    /// # Errors
    /// If there is no answer.
    pub async fn post(
        &self,
        mut headers: HeaderMap,
        content: Bytes,
    ) -> Result<StatusCode, PostError> {
        let json = HeaderValue::from_static("application/json");
        headers.insert(CONTENT_TYPE, json);
        let answer = self.send(headers, content).await?;
        Ok(answer.status())
    }

    /// Posts any document once, whose type is among the headers; the answer, with the beginning of its
    /// body.
    ///
    /// # Errors
    /// If there is no answer.
    pub async fn post_any(
        &self,
        headers: HeaderMap,
        content: Bytes,
    ) -> Result<Answered, PostError> {
        let answer = self.send(headers, content).await?;
        let (status, stall) = (answer.status(), answer.timeouts.stall);
        let retry_after = retry_after(answer.response.headers());
        let start = body::read_start(answer.response.into_body(), MAX_ANSWER);
        // The status is what counts.
        let body = tokio::time::timeout(stall, start).await;
        Ok(Answered {
            status,
            retry_after,
            body: body.unwrap_or_default(),
        })
    }

    async fn send(&self, headers: HeaderMap, content: Bytes) -> Result<Answer, PostError> {
        let mut request = Request::new(body::full(content));
        *request.method_mut() = Method::POST;
        *request.headers_mut() = headers;
        let sent = self
            .dialer
            .send_to(self.url.clone(), self.uri.clone(), request);
        sent.await.map_err(|failure| PostError {
            is_transient: failure.error.is_transient(),
            cause: self.without_path(&failure.error),
        })
    }

    /// The text of an error, which names the whole address.
    fn without_path(&self, error: &Error) -> String {
        let text = error.to_string();
        let text = text.replace(&place(&Method::POST, &self.url), &self.place());
        let text = text.replace(self.url.as_str(), &self.place());
        text.replace(&shown(&self.url), &self.place())
    }
}
