//! Whether an initiator is still there: one that says nothing is asked (NOP-In, RFC 7143, 11.19), and one that does not answer is gone.

use super::session::{Session, State};
use crate::export::backend::Lend;
use crate::iscsi::pdu::{FINAL, Header, NO_TAG, opcode};

/// The tag of our question, which comes back with the answer; there is one at a time.
const PING_TAG: u32 = 0x5049_4E47;

/// What is known of an initiator's being there.
#[derive(Default)]
pub(super) struct Watch {
    /// It has said something since the last look.
    pub(super) has_heard: bool,
    /// When it was last known to be there; 0 before the first look.
    heard_ns: u64,
    /// It has been asked, and has said nothing since.
    has_asked: bool,
}

impl<L: Lend> Session<L> {
    /// A look at the clock, a few times a second. True when the initiator is gone: it has said nothing for `keep_alive_ns`, and nothing for
    /// as long again after it was asked.
    ///
    /// While there is no room for what it says, it cannot be heard, so nothing is concluded from its silence.
    pub fn is_lost(&mut self, now_ns: u64, keep_alive_ns: u64) -> bool {
        let has_heard = std::mem::take(&mut self.watch.has_heard);
        let is_deaf = !self.may_receive() || self.is_starved();
        if has_heard || is_deaf || self.watch.heard_ns == 0 || !matches!(self.state, State::Full) {
            self.watch.heard_ns = now_ns.max(1);
            self.watch.has_asked = false;
            return false;
        }
        let silent_ns = now_ns.saturating_sub(self.watch.heard_ns);
        if silent_ns >= keep_alive_ns && !self.watch.has_asked {
            self.watch.has_asked = true;
            let mut header = Header::new(opcode::NOP_IN, FINAL);
            header.put(16, NO_TAG);
            header.put(20, PING_TAG);
            self.put_control(header, Vec::new());
        }
        silent_ns >= 2 * keep_alive_ns
    }
}
