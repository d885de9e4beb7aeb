//! What credential helpers gave, and when they are asked again.

use std::collections::HashMap;
use std::time::{Duration, Instant, SystemTime};

use super::helper;
use super::login::Login;
use super::secret_end::end;

/// How long credentials are used that do not say when they end. Google's do not; they last about
/// an hour, of which a helper's cache may have taken the most.
const SILENT_LIFETIME: Duration = Duration::from_mins(5);
/// How long others are used at most, so that a changed account is noticed.
const MAX_LIFETIME: Duration = Duration::from_hours(1);
/// The least time between two runs, whatever a helper says of its credentials' end.
const MIN_LIFETIME: Duration = Duration::from_secs(1);
/// Credentials are replaced so long before they end, or a fifth of what is left of them.
const MARGIN: Duration = Duration::from_mins(5);
/// The least time between two runs because of refusals, and after a failure while earlier
/// credentials still hold.
const PAUSE: Duration = Duration::from_secs(10);

/// A helper, and the server that it is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Key {
    /// `docker-credential-PROGRAM`.
    pub(super) program: String,
    pub(super) server: String,
}

/// The answers of helpers.
#[derive(Debug, Default)]
pub(super) struct Helpers(HashMap<Key, State>);

#[derive(Debug, Default)]
struct State {
    given: Option<Given>,
    /// When the last run ended, and with what.
    last: Option<(Instant, Result<Login, String>)>,
    /// When credentials were last taken back.
    refused: Option<Instant>,
}

#[derive(Debug)]
struct Given {
    login: Login,
    end: Option<SystemTime>,
    since: Instant,
    lifetime: Duration,
}

impl Given {
    fn new(login: Login) -> Self {
        let end = end(&login);
        let lifetime = end.map_or(SILENT_LIFETIME, |end| {
            // Past already where the clocks differ: the registry decides.
            let left = end.duration_since(SystemTime::now()).unwrap_or_default();
            left.saturating_sub(MARGIN.min(left / 5))
                .clamp(MIN_LIFETIME, MAX_LIFETIME)
        });
        Self {
            login,
            end,
            since: Instant::now(),
            lifetime,
        }
    }

    fn is_due(&self) -> bool {
        self.since.elapsed() >= self.lifetime
    }

    /// Whether it says itself that it still holds.
    fn still_holds(&self) -> bool {
        self.end.is_some_and(|end| end > SystemTime::now())
    }
}

impl Helpers {
    /// What a helper gave, unless it has to be asked again; or what it said after `came`.
    pub(super) fn get(&self, key: &Key, came: Instant) -> Option<Result<Login, String>> {
        let state = self.0.get(key)?;
        if let Some(given) = state.given.as_ref().filter(|given| !given.is_due()) {
            return Some(Ok(given.login.clone()));
        }
        let (ended, said) = state.last.as_ref()?;
        (*ended >= came).then(|| said.clone())
    }

    /// Keeps what a helper said, and gives what is to be used: a failure does not end what it gave
    /// before and what still holds.
    pub(super) fn put(&mut self, key: Key, said: Result<Login, String>) -> Result<Login, String> {
        let name = helper::name(&key.program);
        let state = self.0.entry(key).or_default();
        let has_failed = matches!(said, Err(_) | Ok(Login::Anonymous));
        let old = state.given.take();
        let used = match (said, old.filter(|old| has_failed && old.still_holds())) {
            (said, Some(old)) => {
                let why = said.err().unwrap_or_else(|| "it has none now".to_owned());
                tracing::warn!(helper = name, %why, "its earlier credentials still hold and are used");
                let login = old.login.clone();
                state.given = Some(Given {
                    since: Instant::now(),
                    lifetime: PAUSE,
                    ..old
                });
                Ok(login)
            }
            (Ok(login), None) => {
                state.given = Some(Given::new(login.clone()));
                Ok(login)
            }
            (Err(error), None) => Err(error),
        };
        state.last = Some((Instant::now(), used.clone()));
        used
    }

    /// Takes back what was refused; the second time within some seconds it is kept, because asking
    /// again has not helped.
    pub(super) fn forget(&mut self, refused: &Login) {
        for state in self.0.values_mut() {
            let is_it = |given: &mut Given| given.login == *refused;
            let pauses = state.refused.is_some_and(|since| since.elapsed() < PAUSE);
            if !pauses && state.given.take_if(is_it).is_some() {
                state.refused = Some(Instant::now());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::Secret;
    use base64::Engine as _;
    use base64::prelude::BASE64_URL_SAFE_NO_PAD;

    fn key() -> Key {
        Key {
            program: "x".to_owned(),
            server: "r.io".to_owned(),
        }
    }

    /// A token that ends in so many seconds.
    fn token(seconds: i64) -> Login {
        let now = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap();
        let end = i64::try_from(now.as_secs()).unwrap() + seconds;
        let claims = BASE64_URL_SAFE_NO_PAD.encode(format!(r#"{{"exp":{end}}}"#));
        Login::Identity(Secret::new(format!("e30.{claims}.c2ln")))
    }

    fn lifetime(login: Login) -> u64 {
        Given::new(login).lifetime.as_secs()
    }

    #[test]
    fn a_helper_is_asked_again_before_what_it_gave_ends() {
        let near = |found: u64, wanted: u64| found <= wanted && found + 2 >= wanted;
        assert!(near(lifetime(token(600)), 480), "four fifths");
        assert!(near(lifetime(token(3000)), 2700), "five minutes before");
        assert_eq!(lifetime(token(43_200)), 3600);
        assert_eq!(lifetime(token(-5)), 1);
        assert_eq!(lifetime(Login::Identity(Secret::new("opaque"))), 300);
    }

    #[test]
    fn a_failure_does_not_end_what_still_holds() {
        for failure in [Err("no".to_owned()), Ok(Login::Anonymous)] {
            let mut helpers = Helpers::default();
            helpers.put(key(), Ok(token(600))).unwrap();
            assert_eq!(helpers.put(key(), failure.clone()), Ok(token(600)));
            let mut helpers = Helpers::default();
            helpers.put(key(), Ok(token(-5))).unwrap();
            assert_eq!(helpers.put(key(), failure.clone()), failure);
        }
    }

    #[test]
    fn what_was_refused_is_taken_back_but_not_each_time() {
        let later = || Instant::now() + Duration::from_secs(1);
        let mut helpers = Helpers::default();
        helpers.put(key(), Ok(token(600))).unwrap();
        helpers.forget(&token(700));
        assert!(
            helpers.get(&key(), later()).is_some(),
            "another was refused"
        );
        helpers.forget(&token(600));
        assert!(helpers.get(&key(), later()).is_none());
        // It fails, and what was refused is not used again.
        assert!(helpers.put(key(), Err("no".to_owned())).is_err());
        helpers.put(key(), Ok(token(600))).unwrap();
        helpers.forget(&token(600));
        assert!(helpers.get(&key(), later()).is_some());
    }

    #[test]
    fn an_error_is_the_answer_to_those_who_waited_for_it_only() {
        let mut helpers = Helpers::default();
        let before = Instant::now();
        assert!(helpers.put(key(), Err("no".to_owned())).is_err());
        assert_eq!(helpers.get(&key(), before), Some(Err("no".to_owned())));
        let after = Instant::now() + Duration::from_secs(1);
        assert_eq!(helpers.get(&key(), after), None);
    }
}
