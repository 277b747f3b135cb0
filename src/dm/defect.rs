//! Defects that the simulator plants into the mapper, to show that it would find them.

/// A known defect, each a line in the mapper that only [`super::Env::planted`] can switch on; no engine does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Defect {
    /// A core says it has drained when one original is still under way (IO-18, reversed).
    DrainedEarly,
}
