//! Conversions that failed lately: what would fail again is not begun by every retry.
//!
//! How long a failure is remembered follows from where its cause is. An image's bytes do not
//! change, so that its own faults are remembered longest. What hangs on whose credentials a
//! conversion had is nobody else's failure, and is not remembered at all.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use parking_lot::Mutex;

use super::super::error::{ConvertError, Fault};
use super::super::layer::Format;
use super::key::ImageKey;
use crate::oci::{Digest, RepoName, Tag};
use crate::registry::{Authorization, Error};
use crate::store::Shortage;

/// Most failures that are remembered.
const MAX_FAILURES: usize = 4096;
/// The most bytes of an error's text: what is longer is not remembered.
const MAX_TEXT: usize = 4096;
/// How long faults of images are remembered at most, and conversions that took too long.
const IMAGE: Duration = Duration::from_hours(1);
/// Layers that came with other bytes than their digest says, twice.
const WRONG_BYTES: Duration = Duration::from_mins(1);
/// Upstreams that cannot be reached or that fail.
const UPSTREAM: Duration = Duration::from_secs(10);
/// A full disk.
const SPACE: Duration = Duration::from_secs(15);
/// What an operator cancelled: the clients that waited for it ask again.
const CANCELLED: Duration = Duration::from_mins(1);
/// Anything else of this machine.
const LOCAL: Duration = Duration::from_secs(5);

/// A conversion that failed and that is not tried again yet.
#[derive(Debug, Clone)]
pub struct FailedImage {
    /// The upstream's host.
    pub upstream: String,
    /// The repository.
    pub repo: RepoName,
    /// The tag that was asked for, if there was one.
    pub tag: Option<Tag>,
    /// The source's manifest.
    pub source: Digest,
    /// What it was to become.
    pub format: Format,
    /// Where the cause is.
    pub fault: Fault,
    /// The cause.
    pub error: String,
    /// What to do about it, if there is something to say.
    pub remedy: Option<&'static str>,
    /// When it failed.
    pub failed_at: SystemTime,
    /// After which time it is tried again.
    pub again: Duration,
    /// How many requests got the remembered error since.
    pub answered: u64,
}

/// The failures, as far as they are remembered. The clones are the same.
#[derive(Debug, Clone)]
pub(super) struct Failures {
    /// The longest that any is remembered.
    cap: Duration,
    /// Whether the proxy's own credentials are those of all that are let in.
    is_own_everyones: bool,
    known: Arc<Mutex<HashMap<ImageKey, Failure>>>,
}

#[derive(Debug)]
struct Failure {
    error: Arc<ConvertError>,
    tag: Option<Tag>,
    format: Format,
    failed_at: SystemTime,
    since: Instant,
    until: Instant,
    answered: u64,
}

impl Failures {
    /// Failures that are remembered for at most `cap`.
    pub(super) fn new(cap: Duration, is_own_everyones: bool) -> Self {
        Self {
            cap,
            is_own_everyones,
            known: Arc::default(),
        }
    }

    /// Why the conversion of `key` failed, if that is remembered.
    pub(super) fn get(&self, key: &ImageKey) -> Option<ConvertError> {
        let mut known = self.known.lock();
        let failure = known.get_mut(key)?;
        let now = Instant::now();
        if failure.until <= now {
            known.remove(key);
            return None;
        }
        failure.answered = failure.answered.saturating_add(1);
        Some(ConvertError::Remembered {
            cause: Arc::clone(&failure.error),
            age: now.saturating_duration_since(failure.since),
            again: failure.until.saturating_duration_since(now),
        })
    }

    /// Remembers that the conversion of `key`, with this authorization, failed; says for how long.
    pub(super) fn remember(
        &self,
        key: &ImageKey,
        error: &ConvertError,
        authorization: &Authorization,
        (tag, format): (Option<&Tag>, Format),
    ) -> Option<Duration> {
        let is_own = self.is_own_everyones && matches!(authorization, Authorization::Own);
        let lifetime = match error {
            // It is no failure: without this time, cancelling would be of no effect.
            ConvertError::Cancelled => CANCELLED,
            error => lifetime(error, is_own)?.min(self.cap),
        };
        // What an image's documents say may be in it.
        if lifetime.is_zero() || error.to_string().len() > MAX_TEXT {
            return None;
        }
        let now = Instant::now();
        let mut known = self.known.lock();
        if known.len() >= MAX_FAILURES && !known.contains_key(key) {
            known.retain(|_, failure| failure.until > now);
            if known.len() >= MAX_FAILURES {
                // They cost a conversion each that fails again.
                known.clear();
            }
        }
        known.insert(
            key.clone(),
            Failure {
                error: Arc::new(error.clone()),
                tag: tag.cloned(),
                format,
                failed_at: SystemTime::now(),
                since: now,
                until: now + lifetime,
                answered: 0,
            },
        );
        Some(lifetime)
    }

    /// Those that are remembered, the latest first. That there is nothing to convert is remembered, and is
    /// no failure.
    pub(super) fn list(&self) -> Vec<FailedImage> {
        let now = Instant::now();
        let known = self.known.lock();
        let mut listed: Vec<FailedImage> = known
            .iter()
            .filter(|(_, failure)| failure.until > now && !failure.error.is_no_image())
            .map(|(key, failure)| failure.describe(key, now))
            .collect();
        drop(known);
        listed.sort_by(|a, b| (b.failed_at, &b.repo).cmp(&(a.failed_at, &a.repo)));
        listed
    }

    /// Forgets those that `is_meant`; how many these were.
    pub(super) fn forget(&self, is_meant: impl Fn(&FailedImage) -> bool) -> usize {
        let now = Instant::now();
        let mut known = self.known.lock();
        known.retain(|_, failure| failure.until > now);
        let before = known.len();
        known.retain(|key, failure| !is_meant(&failure.describe(key, now)));
        before - known.len()
    }
}

impl Failure {
    fn describe(&self, key: &ImageKey, now: Instant) -> FailedImage {
        let mut error = self.error.to_string();
        if error.len() > MAX_TEXT {
            let end = (0..=MAX_TEXT).rev().find(|at| error.is_char_boundary(*at));
            error.truncate(end.unwrap_or_default());
        }
        FailedImage {
            upstream: key.host.clone(),
            repo: key.repo.clone(),
            tag: self.tag.clone(),
            source: key.source.clone(),
            format: self.format,
            fault: self.error.fault(),
            error,
            remedy: self.error.remedy(),
            failed_at: self.failed_at,
            again: self.until.saturating_duration_since(now),
            answered: self.answered,
        }
    }
}

/// How long a failure is worth remembering; `None`: not at all. `is_own`: the source was read with
/// the proxy's own credentials, which are everyone's who is let in.
fn lifetime(error: &ConvertError, is_own: bool) -> Option<Duration> {
    match error.shortage() {
        Some(Shortage::Space) => return Some(SPACE),
        Some(Shortage::Files) => return Some(LOCAL),
        None => {}
    }
    // The server remembers by itself which images cannot be of that form.
    if error.no_turbo().is_some() {
        return None;
    }
    match error {
        ConvertError::Upstream(error) => of_upstream(error, is_own),
        // These say nothing of the image: the next request may find that they are over.
        ConvertError::Remembered { .. }
        | ConvertError::Index(_)
        | ConvertError::QueueFull(_)
        | ConvertError::Interrupted => None,
        ConvertError::TimedOut(_) => Some(IMAGE),
        ConvertError::Cancelled => Some(CANCELLED),
        error if error.is_wrong_bytes() => Some(WRONG_BYTES),
        error => Some(match error.fault() {
            Fault::Image => IMAGE,
            Fault::Upstream => UPSTREAM,
            Fault::Local => LOCAL,
        }),
    }
}

fn of_upstream(error: &Error, is_own: bool) -> Option<Duration> {
    match error {
        // Of whose credentials it is the failure, nobody but these should have it.
        Error::Unauthorized { .. } | Error::Forbidden { .. } | Error::Credentials { .. } => None,
        // Registries say so to those as well who may not know of it, and count each for itself.
        Error::NotFound { .. } => is_own.then_some(UPSTREAM),
        Error::RateLimited { retry_after, .. } => {
            is_own.then(|| retry_after.unwrap_or(UPSTREAM).max(UPSTREAM))
        }
        Error::Upstream { .. }
        | Error::Unreachable { .. }
        | Error::TooManyFiles { .. }
        | Error::TimedOut { .. }
        | Error::Mismatch { .. }
        | Error::Invalid { .. }
        | Error::Refused { .. }
        | Error::Unsupported { .. }
        | Error::Configuration(_)
        | Error::Io { .. } => Some(UPSTREAM),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FAULT: (Option<&Tag>, Format) = (None, Format::Native);

    fn key(number: usize) -> ImageKey {
        ImageKey {
            host: "up.example".to_owned(),
            repo: "a".parse().unwrap(),
            source: Digest::of(number.to_string().as_bytes()),
            variant: "v1".into(),
        }
    }

    fn broken() -> ConvertError {
        ConvertError::Document {
            what: "manifest",
            digest: Digest::of(b""),
            cause: "no JSON".to_owned(),
        }
    }

    fn place() -> String {
        "GET https://up.example/v2/a/blobs/x".to_owned()
    }

    fn of_client() -> Authorization {
        Authorization::Client(None)
    }

    #[test]
    fn a_failure_is_remembered_until_its_time_is_over() {
        let cap = Duration::from_mins(3);
        let failures = Failures::new(cap, true);
        let remembered = failures.remember(&key(1), &broken(), &of_client(), FAULT);
        assert_eq!(remembered, Some(cap));
        let again = failures.get(&key(1)).unwrap();
        assert!(again.to_string().contains("no JSON"), "{again}");
        assert!(again.remembered().is_some() && again.fault() == Fault::Image);
        assert!(failures.get(&key(2)).is_none());
        assert_eq!(failures.list()[0].answered, 1);
        let mut known = failures.known.lock();
        known.get_mut(&key(1)).unwrap().until = Instant::now();
        drop(known);
        assert!(failures.get(&key(1)).is_none());
        assert!(failures.list().is_empty());
    }

    #[test]
    fn nothing_is_remembered_with_a_cap_of_zero() {
        let failures = Failures::new(Duration::ZERO, true);
        let remembered = failures.remember(&key(1), &broken(), &of_client(), FAULT);
        assert_eq!(remembered, None);
        assert!(failures.get(&key(1)).is_none());
    }

    #[test]
    fn what_hangs_on_a_clients_credentials_is_not_remembered() {
        let detail = String::new;
        let refused = |is_own| Error::Unauthorized {
            place: place(),
            is_own,
            challenges: Vec::new(),
            detail: detail(),
        };
        let denied = Error::Forbidden {
            place: place(),
            is_own: false,
            detail: detail(),
        };
        let missing = Error::NotFound {
            place: place(),
            detail: detail(),
        };
        let limited = Error::RateLimited {
            place: place(),
            retry_after: None,
            detail: detail(),
        };
        let unreachable = Error::Unreachable {
            place: place(),
            cause: detail(),
        };
        // For a client's credentials, and for the proxy's own.
        for (error, of_client, of_own) in [
            (refused(false), None, None),
            (refused(true), None, None),
            (denied, None, None),
            (missing, None, Some(UPSTREAM)),
            (limited, None, Some(UPSTREAM)),
            (unreachable, Some(UPSTREAM), Some(UPSTREAM)),
        ] {
            let error = ConvertError::Upstream(error);
            assert_eq!(lifetime(&error, false), of_client, "{error}");
            assert_eq!(lifetime(&error, true), of_own, "{error}");
        }
        assert_eq!(lifetime(&ConvertError::Interrupted, true), None);
        assert_eq!(lifetime(&ConvertError::QueueFull(1), true), None);
    }

    #[test]
    fn the_number_of_failures_is_bounded() {
        let failures = Failures::new(IMAGE, true);
        for number in 0..MAX_FAILURES * 2 {
            failures.remember(&key(number), &broken(), &of_client(), FAULT);
        }
        assert!(failures.list().len() <= MAX_FAILURES);
    }

    #[test]
    fn those_that_are_meant_are_forgotten() {
        let failures = Failures::new(IMAGE, true);
        failures.remember(&key(1), &broken(), &of_client(), FAULT);
        failures.remember(&key(2), &broken(), &of_client(), FAULT);
        let source = key(1).source;
        assert_eq!(failures.forget(|one| one.source == source), 1);
        assert!(failures.get(&key(1)).is_none());
        assert!(failures.get(&key(2)).is_some());
        assert_eq!(failures.forget(|_| true), 1);
    }
}
