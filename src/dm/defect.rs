//! Defects that the simulator plants into the mapper, to show that it would find them.

/// Lists the defects once: variant, name, what of the semantics it goes against, and what is done wrong.
macro_rules! defects {
    ($($variant:ident $name:literal $id:literal $what:literal),+ $(,)?) => {
        /// A known defect, each a line in the mapper that only [`super::Env::planted`] can switch on; no engine does.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Defect { $(#[doc = concat!($what, " (", $id, ").")] $variant),+ }

        impl Defect {
            /// All of them.
            pub const ALL: &[Defect] = &[$(Defect::$variant),+];

            /// The name on a command line.
            pub fn name(self) -> &'static str {
                match self { $(Defect::$variant => $name),+ }
            }

            /// What of the semantics it goes against.
            pub fn id(self) -> &'static str {
                match self { $(Defect::$variant => $id),+ }
            }

            /// What is done wrong, in a sentence without its full stop.
            pub fn what(self) -> &'static str {
                match self { $(Defect::$variant => $what),+ }
            }
        }
    };
}

defects! {
    PreFlushErrorIgnored "pre-flush-error-ignored" "FL-18, FL-27"
        "The data of a barrier is written although the flush before it has failed",
    SecondLegNotFlushed "second-leg-not-flushed" "FL-22"
        "A flush reaches only the first of several lower devices",
    FlushErrorDropped "flush-error-dropped" "FL-27"
        "A flush clone that failed counts as done",
    FirstFlushErrorWins "first-flush-error-wins" "FL-6"
        "'Not supported' does not outrank an earlier error of the same flush",
    FuaNotEmulated "fua-not-emulated" "FL-28"
        "A write with FUA to a device that takes none completes without a flush after it",
    PostFlushSkipped "post-flush-skipped" "3.1"
        "A barrier completes when its data is written, without the flush after it",
    GateOpenedEarly "gate-opened-early" "AT-20"
        "The gates open before the flush that ends a sequence",
    SequenceWhileHeld "sequence-while-held" "AT-27, R4"
        "A second sequence begins while the device is being suspended",
    CompareWithoutSequence "compare-without-sequence" "IO-21"
        "A compare-and-write does not have the device to itself",
    AtomicWithoutSequence "atomic-without-sequence" "IO-21"
        "An atomic write does not have the device to itself",
    DrainedEarly "drained-early" "IO-18"
        "A core says that it has drained while its last original is under way",
    NotDrained "not-drained" "SU-6"
        "A core that was told to close its gate does not wait for what is in flight",
    LateAckAccepted "late-ack-accepted" "PM-2"
        "An acknowledgement of an earlier round is taken for one of this",
    GatePassed "gate-passed" "IO-1"
        "What needs no slot goes through a closed gate",
    WayKept "way-kept" "IO-1"
        "A gate that closes leaves the ways good that were found while it was open",
    WakeUpLost "wake-up-lost" "IO-19"
        "A core opens its gate and does not look at what it has parked",
    ReissuedTwice "reissued-twice" "IO-21"
        "A parked original is issued twice",
    LaterOvertakes "later-overtakes" "SU-13"
        "What is parked later is issued earlier",
    BacklogOvertaken "backlog-overtaken" "SU-13"
        "A core admits what is new while it still has something parked to submit",
    ShrunkUnchecked "shrunk-unchecked" "LC-16"
        "A parked original is issued beyond the end of a table that became shorter",
    OldTableKept "old-table-kept" "PM-12"
        "A core goes on with the table before the swap",
    ChannelsLeaked "channels-leaked" "1.4"
        "The lower devices of a table that was replaced stay open",
    BusyForgotten "busy-forgotten" "PM-15"
        "A clone is forgotten when its lower device has no room for it twice",
    PiecesMisplaced "pieces-misplaced" "IO-8"
        "Every piece of an original carries the first piece's data",
    CompletedTwice "completed-twice" "FL-7, AT-25"
        "An original that fails is completed twice",
    AbortedStaysParked "aborted-stays-parked" "AT-78"
        "An original that its host has given up stays on the list of what is parked",
    PushedBackLate "pushed-back-late" "IO-18, R3"
        "A core counts an original out before it is on the list of what was pushed back",
    PushBackReversed "push-back-reversed" "IO-20"
        "What was pushed back first goes on last",
    FlagStaysUp "flag-stays-up" "SU-4, AT-13"
        "The noflush flag falls later than the suspend ends",
    UndoneLate "undone-late" "SU-8"
        "A suspend that is given up opens the gate before its targets have their state back",
    EndedTwice "ended-twice" "MP-6"
        "A clone that is parked after an error keeps its path, which is told of its end again",
    DataRepeated "data-repeated" "FL-12"
        "A flush step that is to be repeated after the data repeats the data as well",
    DrainNotRepeated "drain-not-repeated" "AT-20, PM-21"
        "A sequence takes for drained what a suspend has pushed back that was given up",
    BlockLetGoEarly "block-let-go-early" "ebs"
        "Who writes a part of a block lets others write to the block before it is written back",
}
