//! What is known already: helpers run once for all who ask, and ahead of them.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, Shared};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::answer::Answer;
use super::question::Question;
use crate::registry::{DockerLogin, DockerLogins};

/// Most repositories whose answers are kept.
const MAX_KNOWN: u64 = 1024;
/// Most questions that wait for helpers.
const MAX_RUNNING: usize = 64;
/// Of these, most of one host: a helper that hangs for one must not take the places of others.
const MAX_RUNNING_OF_HOST: usize = 8;
/// How often helpers are run ahead.
const AHEAD_EVERY: Duration = Duration::from_secs(30);
/// How long after a question its answer is kept fresh.
const AHEAD_FOR: Duration = Duration::from_mins(15);

type Running = Shared<BoxFuture<'static, Answer>>;

/// The answers, and the questions that helpers work on.
pub struct Known {
    logins: DockerLogins,
    answers: moka::future::Cache<Key, Entry>,
    running: Mutex<HashMap<Key, Running>>,
    /// Told when one of them ends.
    freed: Notify,
    /// Counts how often all was forgotten.
    generation: AtomicU64,
    seen: Mutex<Seen>,
    within: Duration,
    stale: Duration,
}

/// A question, and the generation that it was asked in.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key(u64, Question);

/// A place among the questions that helpers work on, until this goes.
struct Place {
    known: Arc<Known>,
    key: Key,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.known.running.lock().remove(&self.key);
        self.known.freed.notify_waiters();
    }
}

/// An answer.
#[derive(Debug, Clone)]
struct Entry {
    answer: Answer,
    since: Instant,
    asked: Arc<Mutex<Instant>>,
}

/// The file when it was last looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Seen {
    Never,
    Absent,
    /// With its time, size and inode.
    File(SystemTime, u64, u64),
}

impl Seen {
    async fn now(path: &Path) -> Self {
        use std::os::unix::fs::MetadataExt as _;
        match tokio::fs::metadata(path).await {
            Ok(data) => {
                let time = data.modified().unwrap_or(SystemTime::UNIX_EPOCH);
                Self::File(time, data.len(), data.ino())
            }
            Err(_) => Self::Absent,
        }
    }
}

impl Known {
    /// `within` is how long a question waits, `stale` how long an answer may be given after the
    /// helper gave it.
    pub fn new(logins: DockerLogins, within: Duration, stale: Duration) -> Self {
        Self {
            logins,
            answers: moka::future::Cache::new(MAX_KNOWN),
            running: Mutex::default(),
            freed: Notify::new(),
            generation: AtomicU64::new(0),
            seen: Mutex::new(Seen::Never),
            within,
            stale,
        }
    }

    /// Forgets all answers. What a helper is about to say is not given any more.
    pub fn forget(&self) {
        self.generation.fetch_add(1, Ordering::AcqRel);
        self.answers.invalidate_all();
        self.logins.forget();
    }

    /// Forgets all if the configuration changed, came or went.
    async fn notice_change(&self) {
        let Some(path) = self.logins.path() else {
            return;
        };
        let now = Seen::now(&path).await;
        let before = std::mem::replace(&mut *self.seen.lock(), now);
        if before != Seen::Never && before != now {
            tracing::info!(file = %path.display(), "the file changed: all answers are forgotten");
            self.forget();
        }
    }

    /// The answer for one who asks now.
    pub async fn ask(self: &Arc<Self>, question: &Question) -> Answer {
        self.notice_change().await;
        let key = Key(self.generation.load(Ordering::Acquire), question.clone());
        let fresh = timeout(self.within, self.work_on(&key)).await.ok();
        let before = self.answers.get(&key).await;
        if let Some(entry) = &before {
            *entry.asked.lock() = Instant::now();
        }
        let why = match fresh {
            Some(answer @ Answer::Login(_)) => return answer,
            Some(Answer::Unknown(why)) => why,
            None => format!(
                "the credential helper gives no answer within {:?}, or too many questions wait \
                 for it; ask again",
                self.within
            ),
        };
        match before.filter(|entry| entry.since.elapsed() <= self.stale) {
            Some(entry) => {
                let age = entry.since.elapsed().as_secs();
                tracing::warn!(place = %question.place(), age, why, "an earlier answer is given");
                entry.answer
            }
            None => Answer::Unknown(why),
        }
    }

    /// The answer, as soon as there is room to work on it.
    async fn work_on(self: &Arc<Self>, key: &Key) -> Answer {
        loop {
            // What ends from here on is noticed.
            let freed = self.freed.notified();
            if let Some(running) = self.begin(key) {
                return running.await;
            }
            freed.await;
        }
    }

    /// The work on a question, begun unless it runs; `None` if too much runs.
    fn begin(self: &Arc<Self>, key: &Key) -> Option<Running> {
        let mut running = self.running.lock();
        if let Some(found) = running.get(key) {
            return Some(found.clone());
        }
        let of_host = running.keys().filter(|other| other.1.host == key.1.host);
        if running.len() >= MAX_RUNNING || of_host.count() >= MAX_RUNNING_OF_HOST {
            return None;
        }
        let known = Arc::clone(self);
        let of = key.clone();
        // It goes on when nobody waits any more.
        let task = tokio::spawn(async move {
            let place = Place { known, key: of };
            place.known.look(&place.key).await
        });
        let work = task.map(|ended| {
            ended.unwrap_or_else(|_| Answer::Unknown("the question could not be asked".to_owned()))
        });
        let work = work.boxed().shared();
        running.insert(key.clone(), work.clone());
        Some(work)
    }

    async fn look(&self, key: &Key) -> Answer {
        let Key(generation, question) = key;
        let found = self
            .logins
            .find(&question.host, question.repo.as_deref())
            .await;
        let answer = match found {
            Ok(login) => Answer::Login(login),
            Err(error) => {
                tracing::warn!(place = %question.place(), %error, "no credentials can be had");
                return Answer::Unknown("the credential helper or config.json fails".to_owned());
            }
        };
        if *generation != self.generation.load(Ordering::Acquire) {
            return answer;
        }
        let before = self.answers.get(key).await;
        let is_news = before.as_ref().is_none_or(|before| before.answer != answer);
        if is_news {
            let is_token = matches!(
                answer,
                Answer::Login(DockerLogin::IdentityToken | DockerLogin::RegistryToken)
            );
            if is_token {
                tracing::warn!(place = %question.place(), "{}", answer.why_not());
            } else {
                tracing::debug!(place = %question.place(), usable = answer.is_usable(), "known");
            }
        }
        let asked = before.map_or_else(|| Arc::new(Mutex::new(Instant::now())), |e| e.asked);
        let entry = Entry {
            answer: answer.clone(),
            since: Instant::now(),
            asked,
        };
        self.answers.insert(key.clone(), entry).await;
        answer
    }
}

/// Has helpers run before anyone waits for them, as soon as their last answer ends: for the hosts
/// that the configuration names, and for what was asked lately.
pub async fn run_ahead(known: Arc<Known>) {
    let mut ticks = interval(AHEAD_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        known.notice_change().await;
        let hosts = known.logins.named_hosts().await;
        let mut questions: HashSet<Question> = hosts
            .into_iter()
            .map(|host| Question { host, repo: None })
            .collect();
        let lately = known.answers.iter();
        let lately = lately.filter(|(_, entry)| entry.asked.lock().elapsed() <= AHEAD_FOR);
        questions.extend(lately.map(|(key, _)| key.1.clone()));
        for question in questions {
            let generation = known.generation.load(Ordering::Acquire);
            if let Some(running) = known.begin(&Key(generation, question)) {
                // One after the other, so that there is room for those who ask.
                let _ = timeout(AHEAD_EVERY, running).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn broken(path: &Path) {
        // The same file, length and time: it does not look changed.
        let before = std::fs::metadata(path).unwrap();
        let length = usize::try_from(before.len()).unwrap();
        std::fs::write(path, "{".repeat(length)).unwrap();
        let file = std::fs::File::options().write(true).open(path).unwrap();
        file.set_modified(before.modified().unwrap()).unwrap();
    }

    #[tokio::test]
    async fn an_earlier_answer_is_given_as_long_as_it_may_while_no_newer_one_can_be_had() {
        for (stale, is_given) in [(Duration::from_hours(1), true), (Duration::ZERO, false)] {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("config.json");
            let text = r#"{"auths": {"r.example": {"username": "a", "password": "b"}}}"#;
            std::fs::write(&path, text).unwrap();
            let within = Duration::from_secs(20);
            let logins = DockerLogins::new(Some(path.clone()), within);
            let known = Arc::new(Known::new(logins, within, stale));
            let question = Question {
                host: "r.example".to_owned(),
                repo: Some("x".to_owned()),
            };
            let first = known.ask(&question).await;
            assert!(first.is_usable());
            broken(&path);
            // As if the time of what was read were over.
            known.logins.forget();
            let second = known.ask(&question).await;
            assert_eq!(second == first, is_given, "{stale:?}: {second:?}");
            known.forget();
            assert!(!known.ask(&question).await.is_usable());
        }
    }
}
