//! Where pushes are refused: images are served from the store then, and nothing is pushed there for
//! a while.
//!
//! The credentials of a push are the proxy's own. That they are wrong is no reason to refuse an image
//! to clients whose own are right.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::super::error::ConvertError;
use super::destination::Destination;
use crate::oci::RepoName;
use crate::registry::Error;

/// After which time a push is tried again.
pub(super) const PAUSE: Duration = Duration::from_mins(1);
/// Most repositories that are remembered.
const MAX_REPOS: usize = 10_000;

/// The repositories that refused a push, and have not taken one since. The clones are the same.
#[derive(Debug, Clone, Default)]
pub(super) struct RefusedPushes(Arc<Mutex<HashMap<(String, RepoName), Instant>>>);

fn key(to: &Destination) -> (String, RepoName) {
    (to.host.clone(), to.repo.clone())
}

impl RefusedPushes {
    /// A push was refused: none is tried for a while.
    pub(super) fn refused(&self, to: &Destination) {
        let mut refused = self.0.lock();
        if refused.len() >= MAX_REPOS {
            // Each is noted again when it refuses the next push.
            refused.clear();
        }
        refused.insert(key(to), Instant::now() + PAUSE);
    }

    /// A push was taken, or it is not known any more that none is.
    pub(super) fn forget(&self, to: &Destination) {
        self.0.lock().remove(&key(to));
    }

    /// All of them may be taken from now on.
    pub(super) fn forget_all(&self) {
        self.0.lock().clear();
    }

    /// Whether no push is tried now.
    pub(super) fn is_paused(&self, to: &Destination) -> bool {
        let refused = self.0.lock();
        refused
            .get(&key(to))
            .is_some_and(|next| *next > Instant::now())
    }

    /// Whether the last push that was tried was refused.
    pub(super) fn is_refused(&self, to: &Destination) -> bool {
        self.0.lock().contains_key(&key(to))
    }
}

/// Whether an error may be that of the proxy's own credentials for a push.
pub(super) fn is_of_own_credentials(error: &ConvertError) -> bool {
    matches!(
        error,
        ConvertError::Upstream(
            Error::Unauthorized { is_own: true, .. }
                | Error::Forbidden { is_own: true, .. }
                | Error::Credentials { .. }
        )
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::{RegistryConfig, Upstream};

    #[test]
    fn a_refused_push_is_known_by_its_repository_until_one_is_taken() {
        let upstream = Upstream::registry("up.example", &RegistryConfig::default()).unwrap();
        let to = |repo: &str| Destination {
            host: upstream.host().to_owned(),
            upstream: upstream.clone(),
            repo: repo.parse().unwrap(),
            is_pushed: true,
        };
        let refused = RefusedPushes::default();
        assert!(!refused.is_paused(&to("a")) && !refused.is_refused(&to("a")));
        refused.refused(&to("a"));
        assert!(refused.is_paused(&to("a")) && refused.is_refused(&to("a")));
        assert!(!refused.is_paused(&to("b")));
        refused.forget(&to("a"));
        assert!(!refused.is_refused(&to("a")));
        for number in 0..MAX_REPOS + 10 {
            refused.refused(&to(&format!("a{number}")));
        }
        assert!(refused.0.lock().len() <= MAX_REPOS);
    }
}
