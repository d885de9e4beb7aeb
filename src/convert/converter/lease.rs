//! Waiting for leases that other processes hold.

use std::time::Duration;

/// The shortest time between two attempts to acquire a lease.
const MIN_POLL_INTERVAL: Duration = Duration::from_millis(20);
/// The longest time between two attempts.
const MAX_POLL_INTERVAL: Duration = Duration::from_millis(500);

/// How long to wait for a lease that another process holds for `remaining` more.
pub(super) fn poll_interval(remaining: Duration) -> Duration {
    remaining.clamp(MIN_POLL_INTERVAL, MAX_POLL_INTERVAL)
}
