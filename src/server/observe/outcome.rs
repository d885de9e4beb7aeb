//! What came of a request, in a word for the access log.

use http::{HeaderMap, Response, StatusCode};

use crate::server::http::header_names::OUTCOME;

/// What an answer is, where its status and headers do not say it: noted with its body by whoever
/// makes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::server) enum Outcome {
    /// From what is here.
    Hit,
    /// The upstream's answer.
    Passed,
    /// The client is to ask again: what it asks for is being made.
    Waiting,
    /// The client is sent to where it reads without credentials.
    Redirected,
}

/// That an answer holds although the upstream could not be asked: among its extensions.
#[derive(Debug, Clone, Copy)]
pub(in crate::server) struct Stale;

impl Outcome {
    fn name(self) -> &'static str {
        match self {
            Self::Hit => "hit",
            Self::Passed => "passed",
            Self::Waiting => "waiting",
            Self::Redirected => "redirected",
        }
    }
}

/// The outcome of an answer, of which this was noted.
pub(in crate::server) fn of<T>(response: &Response<T>, noted: Option<Outcome>) -> &'static str {
    let outcome = match (noted, stated(response.headers())) {
        // The upstream may be such a proxy, too: what it states is not our doing.
        (Some(Outcome::Passed), stated) => match stated {
            Some(ours @ ("original" | "joined" | "filled")) => ours,
            _ => Outcome::Passed.name(),
        },
        (_, Some(stated)) => stated,
        (Some(noted), None) => noted.name(),
        (None, None) => of_status(response.status()),
    };
    match outcome {
        "hit" | "converted" if response.extensions().get::<Stale>().is_some() => "stale",
        outcome => outcome,
    }
}

/// What `overlaybd-outcome` says.
fn stated(headers: &HeaderMap) -> Option<&'static str> {
    Some(match headers.get(OUTCOME)?.as_bytes() {
        b"found" | b"hit" => "hit",
        b"converted" => "converted",
        b"original" => "original",
        b"upstream" => "passed",
        b"joined" => "joined",
        b"filled" => "filled",
        b"no-image" => "no-image",
        _ => return None,
    })
}

fn of_status(status: StatusCode) -> &'static str {
    if status.is_server_error() {
        "failed"
    } else if status.is_client_error() {
        "refused"
    } else {
        "answered"
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn response(status: u16, stated: Option<&'static str>) -> Response<()> {
        let mut response = Response::new(());
        *response.status_mut() = StatusCode::from_u16(status).unwrap();
        if let Some(stated) = stated {
            let value = HeaderValue::from_static(stated);
            response.headers_mut().insert(OUTCOME, value);
        }
        response
    }

    #[test]
    fn an_answer_has_one_outcome() {
        use Outcome::{Hit, Passed, Waiting};
        for (status, stated, noted, is_stale, wanted) in [
            (200, Some("found"), None, false, "hit"),
            (200, Some("found"), Some(Hit), true, "stale"),
            (200, Some("converted"), Some(Hit), false, "converted"),
            (206, None, Some(Hit), false, "hit"),
            (206, None, Some(Hit), true, "stale"),
            (200, None, Some(Passed), false, "passed"),
            (404, None, Some(Passed), false, "passed"),
            (200, Some("converted"), Some(Passed), false, "passed"),
            (200, Some("original"), Some(Passed), true, "original"),
            (200, Some("filled"), None, false, "filled"),
            (307, None, Some(Waiting), false, "waiting"),
            (400, Some("no-image"), None, false, "no-image"),
            (401, None, None, false, "refused"),
            (502, None, None, false, "failed"),
            (200, None, None, false, "answered"),
        ] {
            let mut response = response(status, stated);
            if is_stale {
                response.extensions_mut().insert(Stale);
            }
            assert_eq!(
                of(&response, noted),
                wanted,
                "{status} {stated:?} {noted:?}"
            );
        }
    }
}
