//! What is done later, in the background: uploads that failed, blobs that were in the directory
//! before the process started, objects whose bytes were not seen yet.

use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::Inner;
use super::download;
use super::error::ObjectError;
use super::upload::{Uploaded, on_disk};
use crate::oci::Digest;

/// Most blobs that wait by name. Beyond that the whole blob directory is gone through.
const MAX_WAITING: usize = 4096;
/// Most objects that wait to be verified: others are when they are asked for again.
const MAX_VERIFICATIONS: usize = 256;
/// One of so many tasks is a verification, if any waits, and one of two is of the directory.
const TURNS: usize = 8;
/// The waits between attempts while the storage does not answer.
const LEAST_WAIT: Duration = Duration::from_secs(1);
const MOST_WAIT: Duration = Duration::from_secs(15);

/// What waits.
#[derive(Debug, Default)]
pub(super) struct Pending {
    waiting: Mutex<Waiting>,
    added: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    uploads: Queue,
    verifications: Queue,
    /// What the directory had when it was last listed, and was not looked at since.
    listed: VecDeque<Digest>,
    /// Whether any blob of the directory may be missing in the bucket.
    has_more: bool,
    /// Tasks that were begun.
    turn: usize,
}

/// Digests in order, each once.
#[derive(Debug, Default)]
struct Queue {
    order: VecDeque<Digest>,
    all: HashSet<Digest>,
}

impl Queue {
    fn push(&mut self, digest: &Digest) {
        if self.all.insert(digest.clone()) {
            self.order.push_back(digest.clone());
        }
    }

    fn pop(&mut self) -> Option<Digest> {
        let digest = self.order.pop_front()?;
        self.all.remove(&digest);
        Some(digest)
    }
}

/// What is done next.
#[derive(Debug, PartialEq, Eq)]
enum Task {
    Upload(Digest),
    Verify(Digest),
    List,
}

impl Waiting {
    /// All kinds have their turns: one that fails again and again, or is long, holds up no other.
    fn next(&mut self) -> Option<Task> {
        let turn = self.turn % TURNS;
        self.turn = self.turn.wrapping_add(1);
        if turn == TURNS - 1
            && let Some(digest) = self.verifications.pop()
        {
            return Some(Task::Verify(digest));
        }
        let upload = if turn.is_multiple_of(2) {
            self.uploads.pop().map(Task::Upload)
        } else {
            None
        };
        upload
            .or_else(|| self.listed.pop_front().map(Task::Upload))
            .or_else(|| std::mem::take(&mut self.has_more).then_some(Task::List))
            .or_else(|| self.uploads.pop().map(Task::Upload))
            .or_else(|| self.verifications.pop().map(Task::Verify))
    }
}

impl Pending {
    /// How many blobs wait to be uploaded, or may.
    pub(super) fn len(&self) -> usize {
        let waiting = self.waiting.lock();
        waiting.uploads.order.len() + waiting.listed.len()
    }
}

/// Has a blob uploaded later.
pub(super) fn later(inner: &Inner, digest: &Digest) {
    let mut waiting = inner.pending.waiting.lock();
    if waiting.uploads.order.len() < MAX_WAITING {
        waiting.uploads.push(digest);
    } else {
        waiting.has_more = true;
    }
    drop(waiting);
    inner.pending.added.notify_one();
}

/// After an object was found to be gone: a blob of the directory is uploaded again if it was made here.
pub(super) async fn gone(inner: &Inner, digest: &Digest) {
    inner.known.forget(digest);
    let (blobs, wanted) = (inner.blobs.clone(), digest.clone());
    let is_there = on_disk(move || Ok(blobs.has_made(&wanted))).await;
    if matches!(is_there, Ok(true)) {
        later(inner, digest);
    }
}

/// After an upload that failed: where it was the storage, another attempt is made later. What is
/// wrong with one blob is not right the next time, and is left out.
pub(super) fn failed(inner: &Inner, digest: &Digest, error: &ObjectError) {
    if error.is_of_storage() {
        tracing::debug!(%error, %digest, "a blob is uploaded later");
        later(inner, digest);
    } else {
        tracing::warn!(%error, %digest,
            "a blob is not uploaded: another attempt is made when it is converted again, and at the \
             next start");
    }
}

/// Has an object read through later, so that readers may be sent to it.
pub(super) fn verify_later(inner: &Inner, digest: &Digest) {
    let mut waiting = inner.pending.waiting.lock();
    if waiting.verifications.order.len() < MAX_VERIFICATIONS && !inner.known.is_damaged(digest) {
        waiting.verifications.push(digest);
    }
    drop(waiting);
    inner.pending.added.notify_one();
}

/// Starts the task, which ends with the last user of the objects. The first that it does is to look
/// for blobs that an earlier process did not get to upload.
pub(super) fn start(inner: &Arc<Inner>) {
    inner.pending.waiting.lock().has_more = true;
    inner.pending.added.notify_one();
    tokio::spawn(run(Arc::downgrade(inner)));
}

async fn run(objects: Weak<Inner>) {
    let mut wait = LEAST_WAIT;
    loop {
        let Some(inner) = objects.upgrade() else {
            return;
        };
        let failed = match inner.ensure_checked().await {
            Ok(()) => {
                let task = inner.pending.waiting.lock().next();
                if let Some(task) = task {
                    work(&inner, task).await
                } else {
                    idle(&inner).await;
                    continue;
                }
            }
            Err(error) => Some(error),
        };
        let Some(error) = failed else {
            wait = LEAST_WAIT;
            continue;
        };
        tracing::debug!(%error, ?wait, "the bucket is tried again later");
        drop(inner);
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(MOST_WAIT);
    }
}

/// Waits until there is something to do.
async fn idle(inner: &Arc<Inner>) {
    // Nothing that waits would show that the storage answers again.
    if inner.health.trouble().is_some()
        && let Err(error) = inner.check().await
    {
        tracing::debug!(%error, "the bucket does not work yet");
    }
    // Looked at now and then, because there may be nobody left who would notify.
    let notified = inner.pending.added.notified();
    let _ = tokio::time::timeout(MOST_WAIT, notified).await;
}

/// Does a task. An error is one of the storage, or of the directory as a whole: the next task is for
/// later, too.
async fn work(inner: &Arc<Inner>, task: Task) -> Option<ObjectError> {
    match task {
        Task::Upload(digest) => match inner.upload_pending(&digest).await {
            Ok(Uploaded::Done | Uploaded::Gone | Uploaded::Later) => None,
            Err(error) => Some(error).filter(ObjectError::is_of_storage),
        },
        Task::List => match list(inner).await {
            Ok(listed) => {
                inner.pending.waiting.lock().listed = listed;
                None
            }
            Err(error) => {
                tracing::warn!(%error, "what the bucket lacks cannot be looked for now");
                inner.pending.waiting.lock().has_more = true;
                Some(error)
            }
        },
        Task::Verify(digest) => {
            download::verify(inner, &digest).await;
            None
        }
    }
}

/// What the blob directory has and the bucket may not have: what was made here, and no copies of what
/// upstreams have.
async fn list(inner: &Arc<Inner>) -> Result<VecDeque<Digest>, ObjectError> {
    let blobs = inner.blobs.clone();
    let listed = on_disk(move || blobs.list()).await?;
    let made = listed.into_iter().filter(|blob| !blob.is_copy);
    Ok(made
        .map(|blob| blob.digest)
        .filter(|digest| !inner.known.is_present(digest))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_fails_again_and_again_holds_up_the_rest() {
        let digests: Vec<_> = (0..40_u8).map(|byte| Digest::of(&[byte])).collect();
        let (bad, read) = (&digests[0], &digests[1]);
        let mut waiting = Waiting {
            has_more: true,
            ..Waiting::default()
        };
        waiting.uploads.push(bad);
        waiting.verifications.push(read);
        let mut done = Vec::new();
        for _ in 0..100 {
            match waiting.next() {
                // It fails each time.
                Some(Task::Upload(digest)) if digest == *bad => waiting.uploads.push(bad),
                Some(Task::List) => waiting.listed = digests[2..].iter().cloned().collect(),
                Some(task) => done.push(task),
                None => break,
            }
        }
        let place = done
            .iter()
            .position(|task| *task == Task::Verify(read.clone()));
        assert!(place.is_some_and(|place| place < TURNS), "{place:?}");
        let uploaded = |digest: &Digest| done.contains(&Task::Upload(digest.clone()));
        assert!(digests[2..].iter().all(uploaded));
    }
}
