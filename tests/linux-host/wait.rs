//! Waiting for what has no event of its own: another process's exit, a port that opens.

use std::time::{Duration, Instant};

/// Asks `condition` every few milliseconds until it says `Ok(true)`. An error from it, or `limit` passing, ends the wait.
pub fn wait_until(
    limit: Duration,
    mut condition: impl FnMut() -> Result<bool, String>,
) -> Result<(), String> {
    let deadline = Instant::now() + limit;
    while !condition()? {
        if Instant::now() > deadline {
            return Err(format!("it did not happen within {limit:?}"));
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}
