//! Requests sent to where they lead: guarded, redirects followed, secrets kept at home.

use std::sync::Arc;

use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Uri, header};
use url::Url;

use super::answer::Answer;
use super::connections::Connections;
use super::connector::Tls;
use super::dial::{Guard, shown};
use super::egress::Routes;
use super::payload::Payload;
use super::retry::Failure;
use super::tls;
use super::transport::Transport;
use crate::registry::{Body, DialOptions, Egress, Error, RegistryConfig, Timeouts, TlsOptions};
use crate::telemetry::{self, Destination};

/// Redirects followed, as many as clients of registries follow.
const MAX_REDIRECTS: usize = 10;

/// A request that can be sent again.
#[derive(Debug, Clone)]
pub(super) struct Outgoing {
    pub(super) method: Method,
    pub(super) url: Url,
    pub(super) headers: HeaderMap,
    pub(super) payload: Payload,
}

/// What one registry's host is reached by.
pub(super) struct Dialer {
    /// The registry's own address.
    pub(super) origin: Url,
    guard: Arc<Guard>,
    own: Transport,
    /// The same without our certificate, for where we are led.
    foreign: Transport,
    pub(super) timeouts: Timeouts,
    /// Sent only to the registry.
    extra: HeaderMap,
}

/// How far redirects are followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reach {
    /// To wherever the guard lets them lead.
    Anywhere,
    /// Within the origin of the request's own address.
    Home,
}

/// Whether scheme, host and port are the same.
pub(super) fn same_origin(a: &Url, b: &Url) -> bool {
    a.scheme() == b.scheme()
        && a.host_str() == b.host_str()
        && a.port_or_known_default() == b.port_or_known_default()
}

/// Method and address, for errors.
pub(super) fn place(method: &Method, url: &Url) -> String {
    format!("{method} {}", shown(url))
}

impl Dialer {
    pub(super) fn new(
        origin: Url,
        tls: &TlsOptions,
        dial: &DialOptions,
        egress: &Egress,
        timeouts: Timeouts,
        (extra, http2): (HeaderMap, bool),
    ) -> Result<Self, Error> {
        let routes = Arc::new(Routes::new(egress)?);
        let hop = routes.of(&to_uri(&origin, "egress-proxy")?);
        if let Some(hop) = hop {
            tracing::info!(registry = %shown(&origin), "reached through {}", hop.shown());
        }
        let guard = Arc::new(Guard::new(
            &origin,
            dial,
            hop.is_some() || routes.lead_loopback_away(),
        ));
        let anonymous = TlsOptions {
            client: None,
            ..tls.clone()
        };
        let registry = tls::config(tls)?;
        // A registry whose certificate is not verified makes no egress proxy trusted.
        let egress = if tls.client.is_none() && !tls.skip_verify {
            Arc::clone(&registry)
        } else {
            tls::config(&TlsOptions {
                skip_verify: false,
                ..anonymous.clone()
            })?
        };
        let transport = |registry| {
            let egress = Arc::clone(&egress);
            let tls = Tls { registry, egress };
            Transport::new(tls, &guard, Arc::clone(&routes), timeouts, http2)
        };
        let own = transport(registry);
        let foreign = if tls.client.is_none() {
            own.clone()
        } else {
            transport(tls::config(&anonymous)?)
        };
        Ok(Self {
            origin,
            guard,
            own,
            foreign,
            timeouts,
            extra,
        })
    }

    /// For an address that is no registry's: certificates are verified in any case, and no client
    /// certificate is shown.
    pub(super) fn elsewhere(origin: Url, config: &RegistryConfig) -> Result<Self, Error> {
        let tls = TlsOptions {
            client: None,
            skip_verify: false,
            ..config.tls.clone()
        };
        Self::new(
            origin,
            &tls,
            &config.dial,
            &config.egress,
            config.timeouts,
            (HeaderMap::new(), config.http2),
        )
    }

    /// Whether a token may be requested at `realm`, which gets the credentials: never
    /// in the clear, unless the registry itself is or it all stays on this machine.
    pub(super) fn check_realm(&self, place: &str, realm: &Url) -> Result<(), Error> {
        let stays = self.guard.stays_here(realm);
        if realm.scheme() == "http" && self.origin.scheme() != "http" && !stays {
            return Err(Error::Refused {
                place: place.to_owned(),
                target: shown(realm),
                why: "a token's realm must be https".to_owned(),
            });
        }
        self.guard.check(place, realm)
    }

    /// One exchange with the registry itself, whose answer is passed on; `uri` is as it goes out.
    pub(super) async fn send(
        &self,
        place: String,
        uri: Uri,
        mut request: Request<Body>,
    ) -> Result<Answer, Failure> {
        *request.uri_mut() = uri;
        self.add_extra(request.headers_mut());
        let connections = Connections::of_passed(request.method());
        let exchange = self
            .own
            .exchange(&place, Destination::Registry, request, connections);
        let response = exchange.await?;
        Ok(Answer {
            response,
            place,
            url: self.origin.clone(),
            at_home: true,
            is_own: true,
            timeouts: self.timeouts,
        })
    }

    /// One exchange with another host, at the very address `uri`, of which `url` is the same as it
    /// is checked.
    pub(super) async fn send_to(
        &self,
        url: Url,
        uri: Uri,
        mut request: Request<Body>,
    ) -> Result<Answer, Failure> {
        let place = place(request.method(), &url);
        self.guard.check(&place, &url)?;
        *request.uri_mut() = uri;
        // An operator's own service, or where a registry leads.
        let whose = if same_origin(&url, &self.origin) {
            Destination::Service
        } else {
            Destination::Foreign
        };
        let exchange = self
            .foreign
            .exchange(&place, whose, request, Connections::Dedicated);
        let response = exchange.await?;
        Ok(Answer {
            response,
            place,
            url,
            at_home: false,
            is_own: true,
            timeouts: self.timeouts,
        })
    }

    /// Sends a request and follows redirects. `authorization` goes to the origin of the
    /// request's own address only, and no further once a redirect has led away from it.
    pub(super) async fn follow(
        &self,
        outgoing: &Outgoing,
        authorization: Option<&HeaderValue>,
    ) -> Result<Answer, Failure> {
        let connections = Connections::of(&outgoing.method, outgoing.url.path(), &outgoing.payload);
        self.follow_within((Reach::Anywhere, connections), outgoing, authorization)
            .await
    }

    /// As [`follow`](Self::follow), no further than `reach`: a redirect beyond is the answer.
    pub(super) async fn follow_within(
        &self,
        (reach, connections): (Reach, Connections),
        outgoing: &Outgoing,
        authorization: Option<&HeaderValue>,
    ) -> Result<Answer, Failure> {
        let home = outgoing.url.clone();
        let mut url = outgoing.url.clone();
        let mut at_home = true;
        let mut method = outgoing.method.clone();
        for redirects in 0..=MAX_REDIRECTS {
            let place = place(&method, &url);
            let is_registry = same_origin(&url, &self.origin);
            if !is_registry {
                self.guard.check(&place, &url)?;
            }
            let mut request = Request::builder()
                .method(method.clone())
                .uri(to_uri(&url, &place)?)
                .body(outgoing.payload.body())
                .map_err(|error| Error::invalid(&place, error.to_string()))?;
            let headers = request.headers_mut();
            headers.clone_from(&outgoing.headers);
            if !at_home {
                headers.remove(header::COOKIE);
            }
            if method != Method::GET && method != Method::HEAD {
                headers.insert(header::CONTENT_LENGTH, outgoing.payload.length().into());
            }
            if is_registry && at_home {
                self.add_extra(headers);
            }
            if let Some(value) = authorization
                && at_home
            {
                headers.insert(header::AUTHORIZATION, value.clone());
            }
            headers
                .entry(header::USER_AGENT)
                .or_insert(HeaderValue::from_static(USER_AGENT));
            let (transport, whose) = match (is_registry, at_home) {
                (true, _) => (&self.own, Destination::Registry),
                (false, true) => (&self.foreign, Destination::Service),
                (false, false) => (&self.foreign, Destination::Foreign),
            };
            // What storage services are asked for is large.
            let connections = if at_home {
                connections
            } else {
                Connections::Dedicated
            };
            let exchange = transport.exchange(&place, whose, request, connections);
            let times = u32::try_from(redirects).unwrap_or(u32::MAX);
            let response = telemetry::resent(times, exchange).await?;
            let answer = Answer {
                response,
                place,
                url: url.clone(),
                at_home,
                is_own: true,
                timeouts: self.timeouts,
            };
            let Some(target) = redirect(&answer)? else {
                return Ok(answer);
            };
            if reach == Reach::Home && !same_origin(&target, &home) {
                return Ok(answer);
            }
            self.guard.check(&answer.place, &target)?;
            let stays = same_origin(&target, &url);
            match answer.status().as_u16() {
                _ if method == Method::GET || method == Method::HEAD => {}
                // Bodies go where they were addressed to, and on within the same origin only.
                307 | 308 if stays => {}
                _ => return Err(answer.final_failure().await),
            }
            at_home &= same_origin(&target, &home);
            tracing::debug!(from = %answer.place, to = %shown(&target), "following a redirect");
            answer.drain().await;
            url = target;
            method = outgoing.method.clone();
        }
        let place = place(&method, &home);
        let detail = format!("more than {MAX_REDIRECTS} redirects, as in a loop");
        Err(Error::Invalid { place, detail }.into())
    }

    fn add_extra(&self, headers: &mut HeaderMap) {
        for name in self.extra.keys() {
            headers.remove(name);
        }
        for (name, value) in &self.extra {
            headers.append(name, value.clone());
        }
    }
}

const USER_AGENT: &str = concat!("overlaybd-proxy/", env!("CARGO_PKG_VERSION"));

/// Where a redirect leads to.
fn redirect(answer: &Answer) -> Result<Option<Url>, Error> {
    let is_redirect = matches!(
        answer.status(),
        StatusCode::MOVED_PERMANENTLY
            | StatusCode::FOUND
            | StatusCode::SEE_OTHER
            | StatusCode::TEMPORARY_REDIRECT
            | StatusCode::PERMANENT_REDIRECT
    );
    if !is_redirect {
        return Ok(None);
    }
    match location(answer)? {
        Some(target) => Ok(Some(target)),
        None => Err(answer.invalid("a redirect without Location")),
    }
}

/// The address in `Location`, which may be relative.
pub(super) fn location(answer: &Answer) -> Result<Option<Url>, Error> {
    let Some(value) = answer.response.headers().get(header::LOCATION) else {
        return Ok(None);
    };
    let mut target = value
        .to_str()
        .ok()
        .and_then(|text| answer.url.join(text).ok())
        .ok_or_else(|| answer.invalid("Location is no address"))?;
    // A registry behind a proxy that ends TLS may not know that the connection is secure.
    let is_same_host = target.host_str() == answer.url.host_str() && target.port().is_none();
    if is_same_host && answer.url.scheme() == "https" && target.scheme() == "http" {
        let port = answer.url.port();
        if target.set_scheme("https").is_err() || target.set_port(port).is_err() {
            return Err(answer.invalid("Location is no address"));
        }
    }
    Ok(Some(target))
}

fn to_uri(url: &Url, place: &str) -> Result<Uri, Error> {
    let mut url = url.clone();
    url.set_fragment(None);
    url.as_str()
        .parse()
        .map_err(|_| Error::invalid(place, "the address cannot be requested"))
}
