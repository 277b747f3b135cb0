//! When to try again and when to give up: the life of one remote, without a clock and without a socket.
//!
//! ```text
//!          lost                       ctrl_loss_timeout
//! Live ───────────▶ Connecting ──────────────────────────▶ Lost
//!   ▲                 │  │  ▲
//!   └──── attached ───┘  └──┘ refused: after a pause that doubles, up to reconnect_delay
//! ```
//!
//! Times are spans since some beginning, given by whoever asks.

use std::time::Duration;

use super::{RemoteSpec, RemoteState};

/// The pause after the first attempt that fails.
const PAUSE_MIN: Duration = Duration::from_millis(100);

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Try to connect; answered by [`Life::attached`] or [`Life::refused`].
    Attach,
    /// I/O is no longer kept: what was fails, what comes fails until there is a connection.
    FailHeld,
    /// The same for good; no more attempts.
    GiveUp,
    /// Nothing until then; `None`: until something happens.
    Wait(Option<Duration>),
}

#[derive(Debug)]
pub(super) struct Life {
    reconnect_delay: Duration,
    ctrl_loss_timeout: Duration,
    fast_io_fail_timeout: Duration,
    now: State,
    /// The next pause.
    pause: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Live {
        since: Duration,
    },
    Connecting {
        since: Duration,
        next_attempt: Duration,
        holding: bool,
    },
    Lost,
}

impl Life {
    /// Of a remote that has been connected just now.
    pub(super) fn new(spec: &RemoteSpec, now: Duration) -> Life {
        Life {
            reconnect_delay: spec.reconnect_delay,
            ctrl_loss_timeout: spec.ctrl_loss_timeout,
            fast_io_fail_timeout: spec.fast_io_fail_timeout.unwrap_or(spec.ctrl_loss_timeout),
            now: State::Live { since: now },
            pause: PAUSE_MIN.min(spec.reconnect_delay),
        }
    }

    pub(super) fn state(&self) -> RemoteState {
        match self.now {
            State::Live { .. } => RemoteState::Live,
            State::Connecting { .. } => RemoteState::Connecting,
            State::Lost => RemoteState::Lost,
        }
    }

    /// The connection is gone. The first attempt is made at once, unless this one did not last: who takes connections only to drop them
    /// is not asked in a tight loop.
    pub(super) fn lost(&mut self, now: Duration) {
        let State::Live { since } = self.now else {
            return;
        };
        let lasted = now.saturating_sub(since) >= self.reconnect_delay;
        let next_attempt = match lasted {
            true => {
                self.pause = PAUSE_MIN.min(self.reconnect_delay);
                now
            }
            false => now + self.take_pause(),
        };
        self.now = State::Connecting {
            since: now,
            next_attempt,
            holding: true,
        };
    }

    /// An attempt has succeeded.
    pub(super) fn attached(&mut self, now: Duration) {
        self.now = State::Live { since: now };
    }

    /// An attempt has failed.
    pub(super) fn refused(&mut self, now: Duration) {
        let pause = self.take_pause();
        if let State::Connecting { next_attempt, .. } = &mut self.now {
            *next_attempt = now + pause;
        }
    }

    fn take_pause(&mut self) -> Duration {
        let pause = self.pause;
        self.pause = (pause * 2).min(self.reconnect_delay);
        pause
    }

    /// What is to be done now. To be asked again until it says to wait.
    pub(super) fn step(&mut self, now: Duration) -> Step {
        let State::Connecting {
            since,
            next_attempt,
            holding,
        } = &mut self.now
        else {
            return Step::Wait(None);
        };
        let fail_at = *since + self.fast_io_fail_timeout;
        let give_up_at = *since + self.ctrl_loss_timeout;
        if now >= give_up_at {
            self.now = State::Lost;
            return Step::GiveUp;
        }
        if *holding && now >= fail_at {
            *holding = false;
            return Step::FailHeld;
        }
        if now >= *next_attempt {
            return Step::Attach;
        }
        let fail_at = if *holding { fail_at } else { give_up_at };
        Step::Wait(Some((*next_attempt).min(give_up_at).min(fail_at)))
    }

    /// How long an attempt that begins now may take before something else is to be done.
    pub(super) fn room(&self, now: Duration) -> Duration {
        match self.now {
            State::Connecting { since, holding, .. } => {
                let ends = match holding {
                    true => self.fast_io_fail_timeout.min(self.ctrl_loss_timeout),
                    false => self.ctrl_loss_timeout,
                };
                (since + ends).saturating_sub(now)
            }
            _ => Duration::MAX,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(count: u64) -> Duration {
        Duration::from_millis(count)
    }

    fn life(fast_io_fail_ms: Option<u64>) -> Life {
        let spec = RemoteSpec {
            reconnect_delay: ms(1000),
            ctrl_loss_timeout: ms(10_000),
            fast_io_fail_timeout: fast_io_fail_ms.map(ms),
            ..super::super::tests::spec("127.0.0.1:1".parse().unwrap())
        };
        Life::new(&spec, ms(0))
    }

    /// Runs attempts that fail until nothing more is tried; what was done, and when.
    fn run(life: &mut Life, from_ms: u64) -> Vec<(u64, Step)> {
        let mut now = ms(from_ms);
        let mut done = Vec::new();
        loop {
            match life.step(now) {
                Step::Wait(None) => return done,
                Step::Wait(Some(until)) => {
                    assert!(until > now, "waits for what is to come");
                    now = until;
                }
                step => {
                    done.push((now.as_millis() as u64, step));
                    if step == Step::Attach {
                        life.refused(now);
                    }
                }
            }
        }
    }

    #[test]
    fn attempts_become_rarer_and_end() {
        let mut life = life(None);
        assert_eq!(life.step(ms(5)), Step::Wait(None));
        life.lost(ms(5000));
        assert_eq!(life.state(), RemoteState::Connecting);
        let done = run(&mut life, 5000);
        let attempts: Vec<u64> = done
            .iter()
            .filter(|(_, step)| *step == Step::Attach)
            .map(|(at, _)| at - 5000)
            .collect();
        assert_eq!(
            attempts,
            [
                0, 100, 300, 700, 1500, 2500, 3500, 4500, 5500, 6500, 7500, 8500, 9500
            ]
        );
        assert_eq!(done.last(), Some(&(15_000, Step::GiveUp)));
        assert_eq!(life.state(), RemoteState::Lost);
        // What is lost stays lost, whoever says so again.
        life.lost(ms(16_000));
        assert_eq!(life.step(ms(99_000)), Step::Wait(None));
    }

    #[test]
    fn held_io_fails_once_and_attempts_go_on() {
        let mut life = life(Some(2000));
        life.lost(ms(5000));
        assert_eq!(life.room(ms(6000)), ms(1000));
        let done = run(&mut life, 5000);
        let at = done.iter().position(|(_, step)| *step == Step::FailHeld);
        let at = at.expect("it is said");
        assert_eq!(done[at].0, 7000);
        assert!(
            done[at + 1..]
                .iter()
                .all(|(_, step)| *step != Step::FailHeld)
        );
        assert!(done[at + 1..].contains(&(7500, Step::Attach)));
    }

    #[test]
    fn a_connection_that_lasts_is_tried_again_at_once_and_one_that_does_not_after_a_pause() {
        let mut life = life(None);
        let mut now = ms(5000);
        life.lost(now);
        assert_eq!(life.step(now), Step::Attach);
        let mut pauses = Vec::new();
        for _ in 0..6 {
            life.attached(now);
            now += ms(1);
            life.lost(now);
            let Step::Wait(Some(until)) = life.step(now) else {
                panic!("it did not last");
            };
            pauses.push((until - now).as_millis());
            now = until;
            assert_eq!(life.step(now), Step::Attach);
        }
        assert_eq!(pauses, [100, 200, 400, 800, 1000, 1000]);
        life.attached(now);
        now += ms(1000);
        life.lost(now);
        assert_eq!(life.step(now), Step::Attach);
        // And the pauses begin anew.
        life.refused(now);
        assert_eq!(life.step(now), Step::Wait(Some(now + ms(100))));
    }

    #[test]
    fn a_loss_that_is_told_twice_is_one() {
        let mut life = life(None);
        life.lost(ms(5000));
        life.refused(ms(5000));
        life.lost(ms(5050));
        assert_eq!(life.step(ms(5050)), Step::Wait(Some(ms(5100))));
    }
}
