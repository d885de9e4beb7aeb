//! Changes by the buttons of the page.
//!
//! No cookie and no remembered login exists, so a page of another origin has nothing that it could
//! use: each request has the token in its body. Requests that browsers say came from elsewhere
//! are refused before that is looked at.

use std::sync::Arc;
use std::time::Duration;

use http::header::{CONTENT_TYPE, ORIGIN};
use http::{Request, StatusCode, request};
use hyper::body::Incoming;

use super::form::Filled;
use crate::convert::FailedImage;
use crate::server::access::token_file::NotAllowed;
use crate::server::error::ApiError;
use crate::server::explain::ImageQuestion;
use crate::server::handlers::api::{MAX_BODY_BYTES, conversions, read_bytes};
use crate::server::http::host;
use crate::server::state::AppState;

/// What was done: the keys of `?done=`, and what they say.
const DONE: [(&str, &str); 6] = [
    ("begun", "The conversion is begun."),
    ("known", "The image is converted already."),
    ("cancelled", "The conversion is cancelled."),
    (
        "forgotten",
        "The failure is forgotten: the next pull begins the conversion again.",
    ),
    ("forgotten-all", "All failures are forgotten."),
    ("nothing", "There was nothing to forget any more."),
];

/// How long it is waited for a cancelled conversion to end, so that the page shows it: times a step.
const STEPS: usize = 40;
const STEP: Duration = Duration::from_millis(50);

/// What a key of `?done=` says.
pub(super) fn done(key: &str) -> Option<&'static str> {
    let found = DONE.iter().find(|(known, _)| *known == key);
    found.map(|(_, text)| *text)
}

/// Why nothing was done.
#[derive(Debug)]
pub(super) struct Failed {
    pub status: StatusCode,
    pub text: String,
    /// What was written in the fields, which is shown again.
    pub filled: Filled,
}

impl From<ApiError> for Failed {
    fn from(error: ApiError) -> Self {
        refused(error.status(), error.message())
    }
}

fn refused(status: StatusCode, text: impl Into<String>) -> Failed {
    Failed {
        status,
        text: text.into(),
        filled: Filled::default(),
    }
}

/// The fields of the form.
#[derive(Debug, Default, PartialEq, Eq)]
struct Fields {
    token: String,
    action: String,
    registry: String,
    repository: String,
    tag: String,
}

impl Fields {
    fn read(body: &[u8]) -> Result<Self, String> {
        let mut fields = Self::default();
        let mut seen: Vec<String> = Vec::new();
        for (key, value) in url::form_urlencoded::parse(body) {
            let place = match &*key {
                "token" => &mut fields.token,
                "action" => &mut fields.action,
                "registry" => &mut fields.registry,
                "repository" => &mut fields.repository,
                "tag" => &mut fields.tag,
                _ => return Err("the form has a field that is not known here".to_owned()),
            };
            // The bound of the names that there are keeps this short.
            if seen.iter().any(|seen| *seen == key) {
                return Err(format!("{key} is there more than once"));
            }
            value.trim().clone_into(place);
            seen.push(key.into_owned());
        }
        Ok(fields)
    }

    fn filled(&self) -> Filled {
        Filled {
            registry: self.registry.clone(),
            repository: self.repository.clone(),
            tag: self.tag.clone(),
            image: String::new(),
        }
    }
}

/// Does what a button says; the key of what was done.
///
/// # Errors
/// Why it was not.
pub(super) async fn act(
    state: &Arc<AppState>,
    request: Request<Incoming>,
) -> Result<&'static str, Failed> {
    let (parts, content) = request.into_parts();
    if let Some(text) = is_from_elsewhere(&parts) {
        return Err(refused(StatusCode::FORBIDDEN, text));
    }
    let media_type = parts.headers.get(CONTENT_TYPE);
    let media_type = media_type.and_then(|one| one.to_str().ok());
    let media_type = media_type.and_then(|one| one.split(';').next());
    let is_form = media_type.is_some_and(|one| {
        let one = one.trim();
        one.eq_ignore_ascii_case("application/x-www-form-urlencoded")
    });
    if !is_form {
        let text = "a form is expected, as application/x-www-form-urlencoded";
        return Err(refused(StatusCode::UNSUPPORTED_MEDIA_TYPE, text));
    }
    let body = read_bytes(content, MAX_BODY_BYTES).await?;
    let fields = Fields::read(&body);
    let fields = fields.map_err(|text| refused(StatusCode::BAD_REQUEST, text))?;
    let done = match may_change(state, &fields.token).await {
        Ok(()) => change(state, &fields).await,
        Err(failed) => Err(failed),
    };
    done.map_err(|failed| Failed {
        filled: fields.filled(),
        ..failed
    })
}

/// What shows that a page of another origin sent a request, if something does.
fn is_from_elsewhere(parts: &request::Parts) -> Option<&'static str> {
    let site = parts.headers.get("sec-fetch-site");
    if site.is_some_and(|site| site != "same-origin" && site != "none") {
        return Some("this was sent by a page of another site: open this one and press its button");
    }
    let origin = parts.headers.get(ORIGIN)?;
    let own = host::external(parts, false);
    let own = own.as_deref().and_then(|own| own.split_once("://"));
    let given = origin.to_str().ok().and_then(|one| one.split_once("://"));
    // Whatever ends TLS before the proxy may not say that it does.
    let is_same = own
        .zip(given)
        .is_some_and(|((_, own), (_, given))| own.eq_ignore_ascii_case(given));
    (!is_same).then_some(
        "this was sent by a page of another origin. If something stands before the proxy, it must \
         leave Host as it is, or send X-Forwarded-Host",
    )
}

async fn may_change(state: &Arc<AppState>, token: &str) -> Result<(), Failed> {
    let (known, given) = (state.admin_token.clone(), token.to_owned());
    // It reads a file.
    let checked = tokio::task::spawn_blocking(move || known.check_text(&given)).await;
    let text = match checked {
        Ok(Ok(())) => return Ok(()),
        Ok(Err(NotAllowed::Off)) => {
            "changes are off: start the proxy with --admin-token-file FILE".to_owned()
        }
        Ok(Err(NotAllowed::Wrong)) if token.is_empty() => {
            "the token is missing: it is the first line of the file of --admin-token-file"
                .to_owned()
        }
        Ok(Err(NotAllowed::Wrong)) => {
            "the token is wrong: it is the first line of the file of --admin-token-file".to_owned()
        }
        Ok(Err(NotAllowed::Unusable(cause))) => {
            tracing::error!(cause, "a secret cannot be read");
            let text = "the file of --admin-token-file cannot be read";
            return Err(refused(StatusCode::INTERNAL_SERVER_ERROR, text));
        }
        Err(panic) => return Err(ApiError::internal(panic).into()),
    };
    Err(refused(StatusCode::FORBIDDEN, text))
}

async fn change(state: &Arc<AppState>, fields: &Fields) -> Result<&'static str, Failed> {
    let (verb, what) = fields
        .action
        .split_once(' ')
        .unwrap_or((&fields.action, ""));
    let unknown = || refused(StatusCode::BAD_REQUEST, "there is no such button");
    let begun = |is_known| if is_known { "known" } else { "begun" };
    match verb {
        "convert" if what.is_empty() => {
            let question = question(fields);
            let question = question.map_err(|text| refused(StatusCode::BAD_REQUEST, text))?;
            Ok(begun(conversions::begin_named(state, &question).await?))
        }
        "retry" => {
            let (host, repo, tag) = three(what).ok_or_else(unknown)?;
            let (repo, tag) = (repo.parse(), tag.parse());
            let (Ok(repo), Ok(tag)) = (repo, tag) else {
                return Err(unknown());
            };
            let is_known = conversions::begin_again(state, host, repo, tag).await?;
            Ok(begun(is_known))
        }
        "cancel" => {
            let id = conversions::end(state, what)?;
            ended(state, id).await;
            Ok("cancelled")
        }
        "forget" => {
            let (host, repo, source) = three(what).ok_or_else(unknown)?;
            let is_meant = |one: &FailedImage| {
                one.upstream == host && one.repo.as_str() == repo && one.source.as_str() == source
            };
            Ok(forget(state, is_meant, "forgotten"))
        }
        "forget-all" if what.is_empty() => Ok(forget(state, |_| true, "forgotten-all")),
        _ => Err(unknown()),
    }
}

fn forget(
    state: &AppState,
    is_meant: impl Fn(&FailedImage) -> bool,
    done: &'static str,
) -> &'static str {
    let forgotten = state.converted.converter.forget_failures(is_meant);
    tracing::info!(
        forgotten,
        "failed conversions were forgotten: they begin again when they are asked for"
    );
    if forgotten == 0 { "nothing" } else { done }
}

/// Waits a moment for a conversion's end.
async fn ended(state: &AppState, id: u64) {
    for _ in 0..STEPS {
        let all = state.converted.converter.conversions();
        let is_live = |state: &crate::convert::ConversionState| !state.is_ended();
        if !all.iter().any(|one| one.id == id && is_live(&one.state)) {
            return;
        }
        tokio::time::sleep(STEP).await;
    }
}

/// A host, which may have spaces in it (it may be a directory), and two words.
fn three(text: &str) -> Option<(&str, &str, &str)> {
    let (rest, last) = text.rsplit_once(' ')?;
    let (host, middle) = rest.rsplit_once(' ')?;
    Some((host, middle, last))
}

/// The image that is to be converted.
fn question(fields: &Fields) -> Result<ImageQuestion, String> {
    let repository = fields.repository.parse();
    let tag = fields.tag.parse();
    Ok(ImageQuestion {
        host: (!fields.registry.is_empty()).then(|| fields.registry.clone()),
        repository: repository
            .map_err(|error: crate::oci::name::InvalidName| format!("Repository: {error}"))?,
        tag: tag.map_err(|error: crate::oci::name::InvalidName| format!("Tag: {error}"))?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_form_is_read_and_nothing_else() {
        let fields = Fields::read(b"token=+a%20b+&action=cancel+17&tag=").unwrap();
        assert_eq!(
            (fields.token.as_str(), fields.action.as_str()),
            ("a b", "cancel 17")
        );
        for wrong in [&b"x=1"[..], b"action=a&action=b", b"=", b"token"] {
            let is_wrong = Fields::read(wrong).is_err();
            assert_eq!(is_wrong, wrong != b"token", "{wrong:?}");
        }
    }

    #[test]
    fn requests_of_other_pages_are_seen() {
        let seen = |headers: &[(&str, &str)]| {
            let mut request = Request::post("/actions").header("host", "proxy:8481");
            for (name, value) in headers {
                request = request.header(*name, *value);
            }
            is_from_elsewhere(&request.body(()).unwrap().into_parts().0).is_some()
        };
        for own in [
            &[][..],
            &[("sec-fetch-site", "same-origin")],
            &[("sec-fetch-site", "none")],
            &[("origin", "http://proxy:8481")],
            &[("origin", "https://PROXY:8481")],
            &[
                ("origin", "https://admin.example"),
                ("x-forwarded-host", "admin.example"),
            ],
        ] {
            assert!(!seen(own), "{own:?}");
        }
        for other in [
            &[("sec-fetch-site", "cross-site")][..],
            &[("sec-fetch-site", "same-site")],
            &[
                ("sec-fetch-site", "cross-site"),
                ("origin", "http://proxy:8481"),
            ],
            &[("origin", "http://evil.example")],
            &[("origin", "http://proxy:8480")],
            &[("origin", "null")],
        ] {
            assert!(seen(other), "{other:?}");
        }
    }

    #[test]
    fn the_host_of_a_button_may_have_spaces() {
        assert_eq!(three("oci:/a b c d"), Some(("oci:/a b", "c", "d")));
        assert_eq!(three("a b"), None);
    }

    #[test]
    fn each_key_of_what_was_done_says_something() {
        for (key, text) in DONE {
            assert_eq!(done(key), Some(text));
        }
        assert_eq!(done("<script>"), None);
    }
}
