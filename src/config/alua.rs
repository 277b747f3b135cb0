//! The states of target port groups as operators write them: in the configuration, on the command line and on the control socket.

use clap::ValueEnum;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::scsi::Access;

/// How initiators may use a target through a portal group (asymmetric logical unit access; SPC-4, 5.15).
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ValueEnum,
)]
#[serde(rename_all = "kebab-case")]
pub enum AluaState {
    /// I/O runs.
    #[default]
    Optimized,
    /// I/O runs, but initiators that have an optimized path use that.
    NonOptimized,
    /// I/O is refused; what asks about the unit, and reservations, are answered.
    Standby,
    /// The same is refused; initiators are told that this way leads nowhere for now.
    Unavailable,
}

impl AluaState {
    /// As it is written.
    pub fn name(self) -> &'static str {
        match self {
            Self::Optimized => "optimized",
            Self::NonOptimized => "non-optimized",
            Self::Standby => "standby",
            Self::Unavailable => "unavailable",
        }
    }
}

impl From<AluaState> for Access {
    fn from(state: AluaState) -> Self {
        match state {
            AluaState::Optimized => Self::Optimized,
            AluaState::NonOptimized => Self::NonOptimized,
            AluaState::Standby => Self::Standby,
            AluaState::Unavailable => Self::Unavailable,
        }
    }
}

impl From<Access> for AluaState {
    fn from(access: Access) -> Self {
        match access {
            Access::Optimized => Self::Optimized,
            Access::NonOptimized => Self::NonOptimized,
            Access::Standby => Self::Standby,
            Access::Unavailable => Self::Unavailable,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One name per state, on the command line, in YAML and in JSON, and back from the unit's.
    #[test]
    fn a_state_has_one_name_everywhere() {
        for &state in AluaState::value_variants() {
            let name = state.name();
            assert_eq!(serde_json::to_value(state).unwrap(), name);
            assert_eq!(AluaState::from_str(name, false), Ok(state));
            assert_eq!(AluaState::from(Access::from(state)), state);
        }
    }
}
