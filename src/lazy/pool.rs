//! Things of which one is used by one thread at a time, made as they are needed.

use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

/// At most a number of things, each lent to one thread at a time.
#[derive(Debug)]
pub(super) struct Pool<T> {
    most: usize,
    state: Mutex<State<T>>,
    freed: Condvar,
}

#[derive(Debug)]
struct State<T> {
    /// Those that nobody uses, the last used last: what it has in memory is most likely to be
    /// wanted.
    idle: Vec<T>,
    /// Those that there are, lent ones among them.
    count: usize,
}

/// A thing that is lent. It goes back when this is dropped.
#[derive(Debug)]
pub(super) struct Lent<'a, T> {
    pool: &'a Pool<T>,
    /// `None` once it has gone back, or was not made.
    thing: Option<T>,
}

impl<T> Pool<T> {
    /// A pool of at most `most` things, of which there is one.
    pub(super) fn new(first: T, most: usize) -> Self {
        Self {
            most: most.max(1),
            state: Mutex::new(State {
                idle: vec![first],
                count: 1,
            }),
            freed: Condvar::new(),
        }
    }

    /// Calls `work` with a thing that nobody uses. Where all are in use, another one is made; where
    /// there are as many as may be, it waits for whichever is free first. `None` if none is within
    /// `limit`.
    ///
    /// # Errors
    /// Of `make` and of `work`.
    pub(super) fn with<R, E>(
        &self,
        limit: Duration,
        make: impl FnOnce() -> Result<T, E>,
        work: impl FnOnce(&mut T) -> Result<R, E>,
    ) -> Option<Result<R, E>> {
        let mut lent = self.lend(limit)?;
        let thing = match lent.thing.take() {
            Some(thing) => Ok(thing),
            None => make(),
        };
        Some(thing.and_then(|thing| work(lent.thing.insert(thing))))
    }

    /// A thing, or the right to make one.
    fn lend(&self, limit: Duration) -> Option<Lent<'_, T>> {
        let end = Instant::now().checked_add(limit);
        let mut state = self.state.lock();
        loop {
            let thing = state.idle.pop();
            if thing.is_none() && state.count < self.most {
                state.count += 1;
            } else if thing.is_none() {
                match end {
                    Some(end) if self.freed.wait_until(&mut state, end).timed_out() => {
                        if state.idle.is_empty() && state.count >= self.most {
                            return None;
                        }
                    }
                    Some(_) => {}
                    None => self.freed.wait(&mut state),
                }
                continue;
            }
            return Some(Lent { pool: self, thing });
        }
    }
}

impl<T> Drop for Lent<'_, T> {
    fn drop(&mut self) {
        // What a panic left is not used again.
        let thing = self.thing.take().filter(|_| !std::thread::panicking());
        let mut state = self.pool.state.lock();
        match thing {
            Some(thing) => state.idle.push(thing),
            None => state.count = state.count.saturating_sub(1),
        }
        drop(state);
        self.pool.freed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    const SHORT: Duration = Duration::from_millis(50);
    const LONG: Duration = Duration::from_secs(20);

    fn take(pool: &Pool<u32>, limit: Duration) -> Option<Result<u32, ()>> {
        pool.with(limit, || Err(()), |thing| Ok(*thing))
    }

    #[test]
    fn who_waits_gets_whichever_is_free_first_and_not_later_than_the_limit() {
        let pool = Pool::new(0, 3);
        std::thread::scope(|scope| {
            let (begun, begins) = channel();
            let ends: Vec<_> = (0..3)
                .map(|number| {
                    let (end, ended) = channel::<()>();
                    let (pool, begun) = (&pool, begun.clone());
                    scope.spawn(move || {
                        let work = |thing: &mut u32| {
                            begun.send(*thing).unwrap();
                            let _ = ended.recv();
                            Ok::<_, ()>(())
                        };
                        pool.with(LONG, || Ok(number), work).unwrap().unwrap();
                    });
                    begins.recv_timeout(LONG).unwrap();
                    end
                })
                .collect();
            assert!(take(&pool, SHORT).is_none());
            // The second is free, the first is not.
            let waiting = scope.spawn(|| take(&pool, LONG));
            std::thread::sleep(SHORT);
            let mut ends = ends.into_iter();
            let (first, second) = (ends.next(), ends.next());
            drop(second);
            assert_eq!(waiting.join().unwrap(), Some(Ok(1)));
            assert_eq!(take(&pool, SHORT), Some(Ok(1)));
            drop(first);
        });
        let state = pool.state.lock();
        assert_eq!((state.idle.len(), state.count), (3, 3));
    }

    #[test]
    fn what_could_not_be_made_or_was_left_by_a_panic_takes_no_place() {
        let pool = Pool::new(0, 2);
        let nested = |_: &mut u32| take(&pool, SHORT).unwrap();
        for _ in 0..5 {
            assert_eq!(pool.with(SHORT, || Ok(9), nested), Some(Err(())));
        }
        let panics = || {
            let work = |_: &mut u32| -> Result<(), ()> { panic!("on purpose") };
            pool.with(SHORT, || Ok(9), work)
        };
        for _ in 0..5 {
            let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(panics));
            assert!(panicked.is_err());
        }
        assert_eq!(pool.state.lock().count, 0);
        assert_eq!(
            pool.with(SHORT, || Ok(7), |seven| Ok::<_, ()>(*seven)),
            Some(Ok(7))
        );
    }
}
