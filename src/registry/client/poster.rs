//! Requests that tell another service something: webhooks.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Uri};
use url::Url;

use super::dial::shown;
use super::dialer::{Dialer, place};
use crate::registry::{Error, RegistryConfig, body};

/// Posts JSON to one address, which an operator named: it may be a private one, or plain HTTP. No
/// credentials are sent, redirects are answers. Cheap to clone; clones share connections.
#[derive(Clone)]
pub struct Poster {
    dialer: Arc<Dialer>,
    url: Url,
    uri: Uri,
}

/// Why a document was not posted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unsent {
    /// The cause, with no more of the address than its host.
    pub cause: String,
    /// Whether another attempt may succeed.
    pub is_transient: bool,
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

    /// Posts a document once; the status of the answer.
    ///
    /// # Errors
    /// If there is no answer.
    pub async fn post(&self, headers: HeaderMap, content: Bytes) -> Result<StatusCode, Unsent> {
        let mut request = Request::new(body::full(content));
        *request.method_mut() = Method::POST;
        *request.headers_mut() = headers;
        let json = HeaderValue::from_static("application/json");
        request.headers_mut().insert(CONTENT_TYPE, json);
        let sent = self
            .dialer
            .send_to(self.url.clone(), self.uri.clone(), request);
        let answer = sent.await.map_err(|failure| Unsent {
            is_transient: failure.error.is_transient(),
            cause: self.without_path(&failure.error),
        })?;
        Ok(answer.status())
    }

    /// The text of an error, which names the whole address.
    fn without_path(&self, error: &Error) -> String {
        let text = error.to_string();
        let text = text.replace(&place(&Method::POST, &self.url), &self.place());
        let text = text.replace(self.url.as_str(), &self.place());
        text.replace(&shown(&self.url), &self.place())
    }
}
