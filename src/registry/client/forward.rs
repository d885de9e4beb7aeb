//! Forwards requests: streamed both ways, changed only where the proxy has to.

use std::sync::Arc;

use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, header,
};
use http_body::Body as _;
use http_body_util::BodyExt;
use url::Url;

use super::answer::Answer;
use super::auth::AuthorizationHeader;
use super::connections::Connections;
use super::dialer::{Outgoing, Reach, place};
use super::endpoint::Endpoint;
use super::payload::Payload;
use super::retry::{Again, Failure};
use super::scope::Scopes;
use super::{Need, Registry};
use crate::registry::{Authorization, Body, Error, ForwardOptions, Redirects, body};
use crate::telemetry;

/// Hop-by-hop headers (RFC 9110 § 7.6.1, and what was before it).
const HOP_BY_HOP: [HeaderName; 9] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

pub(super) fn drop_hop_by_hop(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        // A `Connection` header that names these would change the meaning of the message.
        .filter(|name| {
            !matches!(
                *name,
                header::CONTENT_LENGTH | header::AUTHORIZATION | header::HOST
            )
        })
        .collect();
    for name in named.iter().chain(&HOP_BY_HOP) {
        headers.remove(name);
    }
}

/// A request that is to be passed on.
struct Passing {
    method: Method,
    /// Behind `/v2`.
    path: String,
    query: Option<String>,
    headers: HeaderMap,
    scopes: Scopes,
    options: ForwardOptions,
}

impl Passing {
    fn new(head: http::request::Parts, options: ForwardOptions) -> Result<Self, Error> {
        let path = head.uri.path();
        let below = path.strip_prefix("/v2").unwrap_or_default();
        let dots = |part: &str| {
            let part = part.replace("%2e", ".").replace("%2E", ".");
            part == "." || part == ".."
        };
        // Where redirects are followed, `\` would become a slash.
        let is_odd = below.contains('\\') || below.split('/').any(dots);
        // The upstream could read them otherwise than they were checked here.
        if !(below.starts_with('/') || path == "/v2") || is_odd {
            return Err(Error::Unsupported {
                place: format!("{} {path}", head.method),
                detail: "only addresses below /v2/ are passed on".to_owned(),
            });
        }
        let mut headers = head.headers;
        drop_hop_by_hop(&mut headers);
        // Both are the next connection's own.
        headers.remove(header::HOST);
        headers.remove(header::EXPECT);
        if options.own_credentials {
            headers.remove(header::AUTHORIZATION);
        }
        let query = head.uri.query().map(str::to_owned);
        let scopes = Scopes::of_request(
            &head.method,
            below.trim_start_matches('/'),
            query.as_deref().unwrap_or_default(),
        );
        Ok(Self {
            path: below.to_owned(),
            query,
            headers,
            scopes,
            options,
            method: head.method,
        })
    }

    fn is_read(&self) -> bool {
        self.method == Method::GET || self.method == Method::HEAD
    }

    /// Whose credentials go with it, which decides where it may go.
    fn authorization(&self) -> Authorization {
        if self.options.own_credentials {
            Authorization::Own
        } else {
            Authorization::Client(self.headers.get(header::AUTHORIZATION).cloned())
        }
    }

    fn need(&self) -> Need {
        if !self.is_read() || self.path.contains("/blobs/uploads/") {
            Need::Push
        } else if self.path.contains("/manifests/sha") || self.path.contains("/blobs/") {
            Need::Pull
        } else {
            Need::Resolve
        }
    }

    /// Sends it to an endpoint, once.
    async fn send(
        &self,
        endpoint: &Endpoint,
        authorization: Option<&AuthorizationHeader>,
        body: Body,
    ) -> Result<Answer, Failure> {
        let origin = &endpoint.dialer.origin;
        let path = endpoint.path_and_query(&self.path, self.query.as_deref());
        let shown_path = path.split('?').next().unwrap_or_default();
        let root = super::dial::shown(origin);
        let root = root.strip_suffix(origin.path()).unwrap_or(&root);
        let place = format!("{} {root}{shown_path}", self.method);
        let address = format!("{root}{path}");
        let reach = match self.options.redirects {
            Redirects::Followed => Some(Reach::Anywhere),
            Redirects::FollowedAtHome => Some(Reach::Home),
            Redirects::Returned => None,
        };
        if let Some(reach) = reach
            && self.is_read()
        {
            let url: Url = address
                .parse()
                .map_err(|_| Error::invalid(&place, "the address cannot be requested"))?;
            let mut headers = self.headers.clone();
            let authorization = match authorization {
                Some(own) => Some(own.value.clone()),
                None => headers.get(header::AUTHORIZATION).cloned(),
            };
            headers.remove(header::AUTHORIZATION);
            let outgoing = Outgoing {
                method: self.method.clone(),
                url,
                headers,
                payload: Payload::Empty,
            };
            let connections = Connections::of_passed(&self.method);
            return endpoint
                .dialer
                .follow_within((reach, connections), &outgoing, authorization.as_ref())
                .await;
        }
        let uri: Uri = address
            .parse()
            .map_err(|_| Error::invalid(&place, "the address cannot be requested"))?;
        let mut request = Request::new(body);
        *request.method_mut() = self.method.clone();
        request.headers_mut().clone_from(&self.headers);
        if let Some(own) = authorization {
            request
                .headers_mut()
                .insert(header::AUTHORIZATION, own.value.clone());
        }
        endpoint.dialer.send(place, uri, request).await
    }

    /// Sends it with whose credentials are to be used.
    async fn authorized(&self, endpoint: &Endpoint, body: Option<Body>) -> Result<Answer, Failure> {
        let has_body = body.is_some();
        let body = body.unwrap_or_else(body::empty);
        if !self.options.own_credentials {
            return self.send(endpoint, None, body).await;
        }
        if has_body {
            // A body can be sent once, so the scheme must be known before.
            endpoint.detect_scheme().await?;
        }
        let sent = endpoint.authorize(&self.scopes).await?;
        let answer = self.send(endpoint, sent.as_ref(), body).await?;
        if answer.status() != StatusCode::UNAUTHORIZED || !answer.at_home {
            return Ok(answer);
        }
        // Learnt in any case: it serves the next request.
        let next = endpoint
            .answer_challenge(&answer, sent.as_ref(), &self.scopes)
            .await?;
        match next {
            Some(next) if !has_body => {
                answer.drain().await;
                let again = self.send(endpoint, Some(&next), body::empty());
                telemetry::resent(1, again).await
            }
            _ => Ok(answer),
        }
    }
}

impl Registry {
    pub(in crate::registry) async fn forward(
        &self,
        request: Request<Body>,
        options: ForwardOptions,
    ) -> Result<Response<Body>, Error> {
        let (head, body) = request.into_parts();
        let passing = Passing::new(head, options)?;
        let endpoints = self.endpoints(passing.need(), &passing.authorization())?;
        let has_body = !body.is_end_stream();
        if has_body || !passing.is_read() {
            let endpoint = first(&endpoints)?;
            let body = has_body.then_some(body);
            let answer = passing.authorized(endpoint, body).await?;
            return Ok(respond(answer));
        }
        let mut last = None;
        for endpoint in &endpoints {
            let mut answered = passing.authorized(endpoint, None).await;
            // A connection that was kept may have been closed meanwhile; nothing is done
            // twice by asking twice.
            if let Err(Failure {
                error: Error::Unreachable { .. },
                again: Again::Later,
            }) = &answered
            {
                answered = telemetry::resent(1, passing.authorized(endpoint, None)).await;
            }
            match answered {
                // A mirror that does not have it, or will not give it, is no answer.
                Ok(answer) if !endpoint.is_registry && answer.status().as_u16() >= 400 => {
                    let status = answer.status();
                    tracing::debug!(place = %answer.place, %status, "the next host is asked");
                    last = Some(Ok(answer));
                }
                Ok(answer) => return Ok(respond(answer)),
                Err(failure) => {
                    if !endpoint.is_registry {
                        tracing::debug!(error = %failure.error, "the next host is asked");
                    }
                    last = Some(Err(failure.error));
                }
            }
        }
        match last {
            Some(Ok(answer)) => Ok(respond(answer)),
            Some(Err(error)) => Err(error),
            None => Err(Error::Unsupported {
                place: place(&passing.method, &first(&endpoints)?.url("")),
                detail: "there is no host to ask".to_owned(),
            }),
        }
    }
}

fn first(endpoints: &[Arc<Endpoint>]) -> Result<&Arc<Endpoint>, Error> {
    endpoints
        .first()
        .ok_or_else(|| Error::Configuration("there is no endpoint".to_owned()))
}

pub(super) fn respond(answer: Answer) -> Response<Body> {
    let mut response = Response::new(body::empty());
    *response.status_mut() = answer.status();
    response.headers_mut().clone_from(answer.response.headers());
    drop_hop_by_hop(response.headers_mut());
    if !answer.at_home {
        // The client would send the registry's password to another server.
        response.headers_mut().remove(header::WWW_AUTHENTICATE);
    }
    if let Some(location) = at_its_host(&answer) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    *response.body_mut() = answer.into_body().map_err(Into::into).boxed_unsync();
    response
}

/// A `Location` that is a path outside of the API, as an address: whoever stands before the
/// registry has nothing there. (Google's Artifact Registry has downloads and uploads at such.)
fn at_its_host(answer: &Answer) -> Option<HeaderValue> {
    let path = answer.header(header::LOCATION)?;
    if !path.starts_with('/') || path.starts_with("//") || path.starts_with("/v2/") {
        return None;
    }
    let address = answer.url.join(path).ok()?;
    HeaderValue::from_str(address.as_str()).ok()
}
