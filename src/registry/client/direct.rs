//! Requests to addresses that are no registry's: those that registries redirect to.

use std::fmt;
use std::sync::Arc;

use http::{HeaderMap, Method, Request, Response, Uri, header};
use url::Url;

use super::dialer::{Dialer, place};
use super::forward::{drop_hop_by_hop, respond};
use crate::registry::{Body, Error, RegistryConfig, body};

/// Whoever has a signed address of a storage service may read there: what is sent is the address,
/// no credentials, and redirects are answers. The guard over where registries lead holds here too.
/// Cheap to clone; clones share connections.
#[derive(Clone)]
pub struct Direct(Arc<Dialer>);

impl fmt::Debug for Direct {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Direct")
    }
}

impl Direct {
    /// With these authorities, time limits and allowed hosts; certificates are verified in any
    /// case, and no client certificate is shown.
    ///
    /// # Errors
    /// If a setting cannot be used.
    pub fn new(config: &RegistryConfig) -> Result<Self, Error> {
        // No host is trusted for its own sake.
        let origin = Url::parse("https://invalid/")
            .map_err(|error| Error::Configuration(error.to_string()))?;
        let dialer = Dialer::elsewhere(origin, config)?;
        Ok(Self(Arc::new(dialer)))
    }

    /// Reads what is at `address`, to the letter: a signature is of how it is written. `headers` go
    /// with it, but for `Authorization`.
    ///
    /// # Errors
    /// [`Error::Refused`] where the address leads to a private one or is plain HTTP, and if there
    /// is no response.
    pub async fn read(
        &self,
        method: Method,
        address: &str,
        mut headers: HeaderMap,
    ) -> Result<Response<Body>, Error> {
        let unusable = || Error::Unsupported {
            place: method.to_string(),
            detail: "this is no address that can be requested".to_owned(),
        };
        let url: Url = address.parse().map_err(|_| unusable())?;
        let uri: Uri = address.parse().map_err(|_| unusable())?;
        drop_hop_by_hop(&mut headers);
        for name in [header::HOST, header::EXPECT, header::AUTHORIZATION] {
            headers.remove(name);
        }
        let mut request = Request::new(body::empty());
        request.method_mut().clone_from(&method);
        *request.headers_mut() = headers;
        let shown = place(&method, &url);
        let answer = self.0.send_to(url, uri, request).await.map_err(|failure| {
            tracing::debug!(place = shown, error = %failure.error, "no answer");
            failure.error
        })?;
        Ok(respond(answer))
    }
}
