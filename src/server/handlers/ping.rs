//! `GET /v2/` of an upstream: clients ask it before anything else, and give up where it fails. So
//! what the upstream said is repeated while it fails, as its permissions are.

use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderValue, WWW_AUTHENTICATE};
use http::{Response, StatusCode};

use crate::registry::header_names::{API_VERSION, REGISTRY_2};
use crate::registry::{Authorization, Error};
use crate::server::access::decisions::Allowed;
use crate::server::access::permission::Ping;
use crate::server::context::RequestContext;
use crate::server::error::ApiError;
use crate::server::handlers::forward;
use crate::server::http::body::ResponseBody;

/// Most bytes of challenges that are remembered of one answer.
const MAX_CHALLENGE_BYTES: usize = 4 << 10;

/// `GET` or `HEAD` of `/v2/`.
///
/// # Errors
/// The error response.
pub(in crate::server) async fn serve(
    context: RequestContext<'_>,
) -> Result<Response<ResponseBody>, ApiError> {
    let (state, chosen) = (context.state, context.chosen.clone());
    let (authorization, is_head) = (context.authorization.clone(), context.is_head());
    let stale_since = context.stale_since;
    let place = format!("/v2/ at {}", chosen.upstream.host());
    let mut answer = None;
    let question = async {
        let live = answer.insert(forward::pass(context).await);
        meaning(live, &authorization, place)
    };
    let asked = state
        .permissions
        .ping(&chosen, &authorization, Box::pin(question));
    let decided = asked.await;
    match (decided, answer) {
        (Ok(stale @ Allowed { is_stale: true, .. }), _) => {
            state.metrics.stale_permission();
            let _ = stale_since.set(stale.since);
            repeated(stale.answer, is_head)
        }
        (_, Some(answer)) => answer,
        // The question was not asked, and there is no answer to repeat.
        (Ok(allowed), None) => repeated(allowed.answer, is_head),
        (Err(error), None) => Err(ApiError::upstream(&error, state.is_own())),
    }
}

/// What an answer means for the next ones. That credentials are refused is not repeated.
fn meaning(
    answer: &Result<Response<ResponseBody>, ApiError>,
    authorization: &Authorization,
    place: String,
) -> Result<Ping, Error> {
    let (status, challenges) = match answer {
        Ok(answer) => {
            let challenges = answer.headers().get_all(WWW_AUTHENTICATE);
            (
                answer.status(),
                challenges.iter().cloned().collect::<Vec<_>>(),
            )
        }
        Err(failure) => (failure.status(), Vec::new()),
    };
    let detail = String::new();
    match status {
        StatusCode::OK => Ok(Ping::Open),
        StatusCode::UNAUTHORIZED => {
            let length = challenges.iter().map(HeaderValue::len).sum::<usize>();
            let is_asked = matches!(authorization, Authorization::Client(None));
            if is_asked && (1..=MAX_CHALLENGE_BYTES).contains(&length) {
                return Ok(Ping::Challenges(challenges));
            }
            Err(Error::Unauthorized {
                place,
                is_own: false,
                challenges,
                detail,
            })
        }
        StatusCode::TOO_MANY_REQUESTS => Err(Error::RateLimited {
            place,
            retry_after: None,
            detail,
        }),
        status => Err(Error::Upstream {
            place,
            status: status.as_u16(),
            detail,
        }),
    }
}

/// What an upstream said before.
fn repeated(ping: Ping, is_head: bool) -> Result<Response<ResponseBody>, ApiError> {
    match ping {
        Ping::Open => Ok(welcome(is_head)),
        Ping::Challenges(challenges) => {
            let text = "credentials are needed";
            let failure = ApiError::new(StatusCode::UNAUTHORIZED, "UNAUTHORIZED", text);
            Err(challenges.into_iter().fold(failure, |failure, challenge| {
                failure.with(WWW_AUTHENTICATE, challenge)
            }))
        }
    }
}

/// The answer to who is let in.
pub(in crate::server) fn welcome(is_head: bool) -> Response<ResponseBody> {
    const TEXT: &str = "{}";
    let mut response = Response::new(ResponseBody::empty());
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CONTENT_LENGTH, HeaderValue::from(TEXT.len()));
    headers.insert(API_VERSION, REGISTRY_2);
    if !is_head {
        *response.body_mut() = ResponseBody::bytes(TEXT);
    }
    response
}
