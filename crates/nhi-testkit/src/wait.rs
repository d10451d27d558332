//! Waiting for a state, not for a time.

use std::{fmt::Debug, time::Duration};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout_at};

/// Between two looks: short against what tests wait for, long against what a look costs.
const LOOK_MS: u64 = 10;

/// What a look can see: the thing waited for, or what was there instead.
pub trait Look {
    /// The thing waited for.
    type Found;

    /// The thing, or a word about the state without it.
    ///
    /// # Errors
    /// The state, as it is reported when the deadline passes.
    fn judge(self) -> Result<Self::Found, String>;
}

impl Look for bool {
    type Found = ();

    fn judge(self) -> Result<(), String> {
        if self { Ok(()) } else { Err("false".to_owned()) }
    }
}

impl<T> Look for Option<T> {
    type Found = T;

    fn judge(self) -> Result<T, String> {
        self.ok_or_else(|| "nothing".to_owned())
    }
}

impl<T, S: Debug> Look for Result<T, S> {
    type Found = T;

    fn judge(self) -> Result<T, String> {
        self.map_err(|state| format!("{state:?}"))
    }
}

/// Looks again and again until the thing is there. A look that gives `Err(state)` makes for the better report.
///
/// # Panics
/// When it is not there at the deadline; the message has the last state seen.
pub async fn wait_for<L: Look>(what: &str, deadline: Duration, mut look: impl AsyncFnMut() -> L) -> L::Found {
    let until = Instant::now() + deadline;
    let mut pace = interval(Duration::from_millis(LOOK_MS));
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut last = "the first look did not end".to_owned();
    loop {
        pace.tick().await;
        match timeout_at(until, look()).await.map(Look::judge) {
            Ok(Ok(found)) => return found,
            Ok(Err(state)) => last = state,
            Err(_) => panic!("waited {deadline:?} for {what}; last seen: {last}"),
        }
        assert!(Instant::now() < until, "waited {deadline:?} for {what}; last seen: {last}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::panic::AssertUnwindSafe;

    #[tokio::test]
    async fn the_last_state_is_reported() {
        let mut n = 0;
        let third = wait_for("three", Duration::from_secs(5), async || {
            n += 1;
            if n == 3 { Ok(n) } else { Err(n) }
        });
        assert_eq!(third.await, 3);

        let never = wait_for("the moon", Duration::from_millis(50), async || Err::<(), _>("only stars"));
        let outcome = futures::FutureExt::catch_unwind(AssertUnwindSafe(never)).await;
        let text = *outcome.unwrap_err().downcast::<String>().unwrap();
        assert!(text.contains("the moon") && text.contains("only stars"), "{text}");
    }

    #[tokio::test]
    async fn a_look_that_hangs_ends_at_the_deadline() {
        let hung =
            wait_for("an end", Duration::from_millis(50), async || std::future::pending::<bool>().await);
        let outcome = futures::FutureExt::catch_unwind(AssertUnwindSafe(hung)).await;
        assert!(outcome.is_err());
    }
}
