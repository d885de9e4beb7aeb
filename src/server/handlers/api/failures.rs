//! The conversions that failed lately: shown to operators, and forgotten when they say so.

use std::time::UNIX_EPOCH;

use serde_json::{Value, json};

use super::{Answer, bad};
use crate::convert::FailedImage;
use crate::server::error::ApiError;
use crate::server::state::AppState;

/// All of them, the latest first.
pub(super) fn list(state: &AppState) -> Answer {
    let failures = state.converted.converter.failures();
    let failures: Vec<Value> = failures.iter().map(shown).collect();
    Answer::Found(json!({ "failures": failures }))
}

fn shown(failed: &FailedImage) -> Value {
    let at = failed.failed_at.duration_since(UNIX_EPOCH);
    let at = at.unwrap_or_default().as_secs();
    json!({
        "upstream": failed.upstream,
        "repository": failed.repo.as_str(),
        "tag": failed.tag.as_ref().map(ToString::to_string),
        "source": failed.source.as_str(),
        "format": failed.format.name(),
        "fault": failed.fault.name(),
        "error": failed.error,
        "remedy": failed.remedy,
        "failed_at": at,
        "retry_after_seconds": failed.again.as_secs(),
        "times_returned": failed.answered,
    })
}

/// Which of them a `DELETE` is about: all that have each of these.
#[derive(Debug, Default, PartialEq, Eq)]
struct FailureFilter {
    upstream: Option<String>,
    repository: Option<String>,
    source: Option<String>,
}

impl FailureFilter {
    fn read(query: &str) -> Result<Self, String> {
        let mut filter = Self::default();
        for (key, value) in url::form_urlencoded::parse(query.as_bytes()) {
            let place = match &*key {
                "upstream" => &mut filter.upstream,
                "repository" => &mut filter.repository,
                "source" => &mut filter.source,
                _ => {
                    return Err("failures are chosen by upstream, repository and source".to_owned());
                }
            };
            if place.replace(value.into_owned()).is_some() {
                return Err(format!("{key} is there more than once"));
            }
        }
        Ok(filter)
    }

    fn has(&self, failed: &FailedImage) -> bool {
        let is = |wanted: &Option<String>, found: &str| {
            wanted.as_ref().is_none_or(|wanted| wanted == found)
        };
        is(&self.upstream, &failed.upstream)
            && is(&self.repository, failed.repo.as_str())
            && is(&self.source, failed.source.as_str())
    }
}

/// Forgets those that the query chooses, all without one; the answer says how many these were.
///
/// # Errors
/// What is wrong with the query.
pub(super) fn forget(state: &AppState, query: &str) -> Result<Answer, ApiError> {
    let filter = FailureFilter::read(query).map_err(bad)?;
    let converter = &state.converted.converter;
    let forgotten = converter.forget_failures(|failed| filter.has(failed));
    tracing::info!(
        forgotten,
        upstream = filter.upstream,
        repo = filter.repository,
        source = filter.source,
        "failed conversions were forgotten: they begin again when they are asked for"
    );
    Ok(Answer::Found(json!({ "forgotten": forgotten })))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_chooses_by_its_keys() {
        let filter = FailureFilter::read("repository=library%2Fredis&source=sha256:1").unwrap();
        assert_eq!(filter.repository.as_deref(), Some("library/redis"));
        assert_eq!(filter.source.as_deref(), Some("sha256:1"));
        assert_eq!(FailureFilter::read(""), Ok(FailureFilter::default()));
        // What is not understood must not be taken for all of them.
        for wrong in ["repo=a", "repository=a&repository=b", "a"] {
            assert!(FailureFilter::read(wrong).is_err(), "{wrong}");
        }
    }
}
