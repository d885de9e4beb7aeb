//! The token endpoint (distribution's token authentication specification): where the path of a
//! request chooses the upstream, clients ask here for all of them.
//!
//! The scopes say which upstreams the token is for. Each is asked as it wants to be, with the
//! client's own user and password, and with its own names of the repositories.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use http::header::{
    AUTHORIZATION, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, HeaderValue, WWW_AUTHENTICATE,
};
use http::{HeaderMap, Method, Response, StatusCode, request};
use serde_json::json;

use crate::registry::{ClientAuth, Error};
use crate::server::access::scope;
use crate::server::access::wrapped_token::{self, Seal};
use crate::server::error::ApiError;
use crate::server::http::body::ResponseBody;
use crate::server::limits::hold::Hold;
use crate::server::limits::request_slot::RequestSlot;
use crate::server::observe::metrics::Called;
use crate::server::state::AppState;
use crate::server::upstreams::Chosen;

/// Most scopes of one token.
const MAX_SCOPES: usize = 32;
/// Most upstreams that one token is for.
const MAX_UPSTREAMS: usize = 8;
/// How long a token lives that does not say so: the least that the specification allows.
const DEFAULT_LIFETIME: Duration = Duration::from_mins(1);
/// The longest life that is passed on: clients count it in 32 bits.
const MAX_LIFETIME: Duration = Duration::from_hours(24);
/// After which time a password is looked at again, where each request carries it.
const PASSWORD_LIFETIME: Duration = Duration::from_mins(5);

/// What is asked of one upstream.
struct Part {
    place: usize,
    seal: Seal,
    /// As the upstream knows them.
    scopes: Vec<String>,
}

/// What an upstream takes, and how long.
struct Given {
    authorization: Option<HeaderValue>,
    life: Duration,
    issued_at: Option<String>,
}

/// Answers a request for a token.
///
/// # Errors
/// The error response.
pub(in crate::server) async fn serve(
    state: &AppState,
    chosen: &Chosen<'_>,
    parts: &request::Parts,
    slot: &RequestSlot,
    hold: Hold,
) -> Result<Response<ResponseBody>, ApiError> {
    match parts.method {
        Method::GET => {}
        Method::POST => return Err(no_oauth()),
        _ => return Err(ApiError::method(&["GET"])),
    }
    let login = login(&parts.headers)?;
    let asked = asked(state, chosen, parts.uri.query())?;
    let answers = asked
        .iter()
        .map(|part| ask(state, part, login.as_ref(), slot, hold));
    let answers = join_all(answers).await;
    let mut entries = Vec::new();
    let mut failed = None;
    let mut life: Option<(Duration, Option<String>)> = None;
    for (part, answer) in asked.into_iter().zip(answers) {
        match answer {
            Ok(given) => {
                if life.as_ref().is_none_or(|(least, _)| given.life < *least) {
                    life = Some((given.life, given.issued_at));
                }
                entries.push((part.seal, given.authorization));
            }
            // A client asks for all scopes that it has met, also where its password is for one of
            // the upstreams: the others will say no for themselves.
            Err(failure) => failed = failed.or(Some(failure)),
        }
    }
    if let (true, Some(failure)) = (entries.is_empty(), failed) {
        return Err(failure);
    }
    let (life, issued_at) = life.unwrap_or((PASSWORD_LIFETIME, None));
    let token = wrapped_token::wrap(&entries).ok_or_else(|| {
        let text = "the upstream's token is longer than the proxy passes on";
        tracing::warn!("{text}");
        ApiError::new(StatusCode::BAD_GATEWAY, "UNAVAILABLE", text)
    })?;
    Ok(document(&token, life, issued_at))
}

/// Clients that try OAuth 2 first (containerd and its kin) take 404 for the sign that there are
/// tokens by GET only; 405 they do not all take for it.
fn no_oauth() -> ApiError {
    ApiError::new(
        StatusCode::NOT_FOUND,
        "UNSUPPORTED",
        "tokens are had by GET here, with user and password",
    )
}

/// The client's user and password, if it has any.
fn login(headers: &HeaderMap) -> Result<Option<HeaderValue>, ApiError> {
    let mut given = headers.get_all(AUTHORIZATION).iter();
    let is_basic = |value: &HeaderValue| {
        let start = value.as_bytes().get(.."basic ".len());
        start.is_some_and(|start| start.eq_ignore_ascii_case(b"basic "))
    };
    match (given.next(), given.next()) {
        (None, _) => Ok(None),
        (Some(login), None) if is_basic(login) => {
            let mut login = login.clone();
            login.set_sensitive(true);
            Ok(Some(login))
        }
        _ => Err(refused(ApiError::new(
            StatusCode::UNAUTHORIZED,
            "UNAUTHORIZED",
            "a token is asked for with user and password, or with nothing",
        ))),
    }
}

/// A refusal with a challenge: of user and password, whatever the upstream's token server says.
fn refused(mut failure: ApiError) -> ApiError {
    failure.headers_mut().remove(WWW_AUTHENTICATE);
    if failure.status() == StatusCode::UNAUTHORIZED {
        let basic = HeaderValue::from_static(r#"Basic realm="overlaybd-proxy""#);
        failure = failure.with(WWW_AUTHENTICATE, basic);
    }
    failure
}

/// Which upstreams the token is to be for. Without a scope it is for that of the prefix. At the
/// root, where clients log in, it is for the only one there is: of several it cannot be known
/// whose password this is, and none is shown another's.
fn asked(
    state: &AppState,
    chosen: &Chosen<'_>,
    query: Option<&str>,
) -> Result<Vec<Part>, ApiError> {
    let upstreams = &state.upstreams;
    let mut asked: Vec<Part> = Vec::new();
    let mut add = |place: usize, scope: Option<String>| {
        let seal = upstreams
            .seal(place)
            .ok_or_else(|| ApiError::internal("no upstream is configured at the chosen place"))?;
        // The same upstream may have several prefixes.
        match asked.iter_mut().find(|part| part.seal == *seal) {
            Some(part) => part.scopes.extend(scope),
            None => asked.push(Part {
                place,
                seal: seal.clone(),
                scopes: scope.into_iter().collect(),
            }),
        }
        Ok::<(), ApiError>(())
    };
    let pairs = url::form_urlencoded::parse(query.unwrap_or_default().as_bytes());
    let texts: Vec<_> = pairs.filter(|(key, _)| key == "scope").collect();
    let scopes = texts
        .iter()
        .flat_map(|(_, text)| text.split_ascii_whitespace());
    let mut count: usize = 0;
    for scope in scopes {
        count = count.saturating_add(1);
        if count > MAX_SCOPES {
            return Err(too_much());
        }
        match scope::name(scope) {
            Some(name) => {
                let (place, name) = upstreams.of_repository(name);
                add(place, Some(scope::renamed(scope, name)))?;
            }
            None => add(chosen.place, Some(scope.to_owned()))?,
        }
    }
    if count == 0 {
        let mut seals: Vec<&Seal> = Vec::new();
        for seal in upstreams
            .by_path()
            .filter_map(|place| upstreams.seal(place))
        {
            if !seals.contains(&seal) {
                seals.push(seal);
            }
        }
        if chosen.mount.prefix.is_some() || seals.len() == 1 {
            add(chosen.place, None)?;
        }
    }
    if asked.len() > MAX_UPSTREAMS {
        return Err(too_much());
    }
    Ok(asked)
}

fn too_much() -> ApiError {
    ApiError::new(
        StatusCode::BAD_REQUEST,
        "UNSUPPORTED",
        format!("a token is for at most {MAX_SCOPES} scopes of {MAX_UPSTREAMS} upstreams"),
    )
}

/// Asks one upstream.
async fn ask(
    state: &AppState,
    part: &Part,
    login: Option<&HeaderValue>,
    slot: &RequestSlot,
    hold: Hold,
) -> Result<Given, ApiError> {
    let missing = || ApiError::internal("no upstream is configured at the chosen place");
    let upstream = state.upstreams.get(part.place).ok_or_else(missing)?;
    let slots = state.limits.upstreams.get(part.place).ok_or_else(missing)?;
    let started = Instant::now();
    let place = || format!("a token for {}", upstream.host());
    let client_auth = Box::pin(upstream.authenticate_client(&part.scopes, login));
    let client_auth = slot.wait(slots, hold.upstream(place, client_auth)).await;
    let client_auth =
        client_auth.map_err(|full| ApiError::full(full, "requests that wait for the upstream"))?;
    let (called, took) = (Called::of(&client_auth), started.elapsed());
    state.metrics.call(upstream.host(), "token", called, took);
    let (authorization, life, issued_at) = match client_auth {
        Ok(ClientAuth::Anonymous) => (None, PASSWORD_LIFETIME, None),
        Ok(ClientAuth::Basic) => (login.cloned(), PASSWORD_LIFETIME, None),
        Ok(ClientAuth::Bearer(token)) => {
            let life = token
                .expires_in
                .unwrap_or(DEFAULT_LIFETIME)
                .min(MAX_LIFETIME);
            (Some(token.header), life, token.issued_at)
        }
        Err(error) => return Err(refused(api_error(&error))),
    };
    Ok(Given {
        authorization,
        life,
        issued_at,
    })
}

/// What an upstream's error means here: nothing is asked for but a token.
fn api_error(error: &Error) -> ApiError {
    let failure = ApiError::upstream(error, false);
    match error {
        Error::NotFound { .. } => {
            let text = "the upstream's token server cannot be found";
            ApiError::new(StatusCode::BAD_GATEWAY, "UNAVAILABLE", text)
        }
        _ => failure,
    }
}

/// The token as clients read it: `access_token` is the same for those that know OAuth 2.
fn document(token: &str, life: Duration, issued_at: Option<String>) -> Response<ResponseBody> {
    let mut document = json!({
        "token": token,
        "access_token": token,
        "expires_in": life.as_secs(),
    });
    if let Some(issued_at) = issued_at {
        document["issued_at"] = issued_at.into();
    }
    let text = document.to_string();
    let mut response = Response::new(ResponseBody::empty());
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CONTENT_LENGTH, HeaderValue::from(text.len()));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    *response.body_mut() = ResponseBody::bytes(text);
    response
}
