//! What becomes of I/O that has no path: the state of `queue_if_no_path` across suspends, and the no-path timer (5.7, MP-4, MP-5).

/// What becomes of an I/O that has no path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It waits in the target.
    Wait,
    /// It goes back to the core.
    PushBack,
    /// It fails.
    Fail,
}

/// The no-path timer. Some calls that start it have no clock, so it starts in two steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Timer {
    Off,
    /// To be set at the next look at the clock.
    Start,
    At(u64),
    /// It has come, and the home core was told.
    Told,
}

/// Whether I/O without a path waits, and for how long.
///
/// Beside *on* there is *saved*: a suspend turns waiting off, or it could not end, and the resume turns it on again.
#[derive(Clone, Debug, PartialEq)]
pub struct Queueing {
    on: bool,
    saved: bool,
    /// Between presuspend and the end of the suspend: whether with noflush.
    suspending: Option<bool>,
    /// Resumed, and no suspend has begun.
    running: bool,
    timeout_secs: u32,
    timer: Timer,
    /// How often the timer was started: the same on every core, because what starts it is.
    round: u64,
}

impl Queueing {
    /// As a table line says; the timer is off for 0 seconds.
    pub fn new(on: bool, timeout_secs: u32) -> Queueing {
        Queueing {
            on,
            saved: false,
            suspending: None,
            running: false,
            timeout_secs,
            timer: Timer::Off,
            round: 0,
        }
    }

    /// On, or will be when a suspend is over: what a table text must say, or a reload would lose it.
    pub fn kept(&self) -> bool {
        self.on || self.saved
    }

    /// Seconds of the no-path timer, 0 for none.
    pub fn timeout_secs(&self) -> u32 {
        self.timeout_secs
    }

    /// What becomes of an I/O that has no path; `soon` if one will be usable without an operator's doing.
    ///
    /// In a noflush suspend only what would wait outside of it is pushed back: without queueing the host has asked for errors
    /// (the rule of 2006, OQ-3).
    pub fn fate(&self, soon: bool) -> Fate {
        let noflush = self.suspending == Some(true);
        match () {
            () if self.on => Fate::Wait,
            () if noflush && (self.saved || soon) => Fate::PushBack,
            () if soon => Fate::Wait,
            () => Fate::Fail,
        }
    }

    /// Message `queue_if_no_path`. In a suspend it comes into force with the resume: it must not keep the suspend from ending.
    pub fn turn_on(&mut self, none_valid: bool) {
        match self.running {
            true => self.on = true,
            false => self.saved = true,
        }
        self.restart(none_valid);
    }

    /// Message `fail_if_no_path`.
    pub fn turn_off(&mut self) {
        self.on = false;
        self.saved = false;
        self.timer = Timer::Off;
    }

    /// Message `queue_if_no_path_timeout_secs`.
    pub fn set_timeout(&mut self, seconds: u32, none_valid: bool) {
        self.timeout_secs = seconds;
        self.restart(none_valid);
    }

    /// A suspend begins: nothing may wait any more.
    pub fn presuspend(&mut self, noflush: bool) {
        // `saved` without `on` is a suspend of a device that was never resumed since the last one: nothing may be lost.
        self.saved |= self.on;
        self.on = false;
        self.suspending = Some(noflush);
        self.running = false;
        self.timer = Timer::Off;
    }

    /// The suspend is over: it is in force.
    pub fn postsuspend(&mut self) {
        self.suspending = None;
    }

    /// The device runs, again or for the first time, or a suspend was given up (SU-8).
    pub fn run(&mut self, none_valid: bool) {
        self.on |= std::mem::take(&mut self.saved);
        self.suspending = None;
        self.running = true;
        self.look(none_valid);
    }

    /// Starts or stops the timer after the set of valid paths has changed.
    pub fn look(&mut self, none_valid: bool) {
        let wanted = self.running && self.on && none_valid && self.timeout_secs > 0;
        match self.timer {
            Timer::Off if wanted => {
                self.timer = Timer::Start;
                self.round += 1;
            }
            _ if !wanted => self.timer = Timer::Off,
            _ => {}
        }
    }

    fn restart(&mut self, none_valid: bool) {
        self.timer = Timer::Off;
        self.look(none_valid);
    }

    /// When the timer is due; at once if it is yet to be set.
    pub fn due_ns(&self) -> u64 {
        match self.timer {
            Timer::Off | Timer::Told => u64::MAX,
            Timer::Start => 0,
            Timer::At(due_ns) => due_ns,
        }
    }

    /// The clock stands at `now_ns`: the timer's round, for the home core, if it has come.
    pub fn timer(&mut self, now_ns: u64) -> Option<u64> {
        match self.timer {
            Timer::Start => {
                let period_ns = u64::from(self.timeout_secs) * 1_000_000_000;
                self.timer = Timer::At(now_ns.saturating_add(period_ns));
                None
            }
            Timer::At(due_ns) if due_ns <= now_ns => {
                self.timer = Timer::Told;
                Some(self.round)
            }
            _ => None,
        }
    }

    /// Some core's timer of this round has come, and it is its turn: queueing goes off, unless the timer was stopped or started anew
    /// meanwhile. Whether that is news.
    pub fn expired(&mut self, round: u64) -> bool {
        let news = self.timer != Timer::Off && self.round == round;
        if news {
            self.turn_off();
        }
        news
    }
}
