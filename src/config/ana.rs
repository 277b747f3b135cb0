//! The ANA states as operators write them: in the configuration, on the command line and on the control socket.

use clap::ValueEnum;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::nvme::log;

/// How hosts may use a subsystem (asymmetric namespace access; NVMe Base 2.0, 8.1.3).
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ValueEnum,
)]
#[serde(rename_all = "kebab-case")]
pub enum AnaState {
    /// I/O runs.
    #[default]
    Optimized,
    /// I/O runs, but hosts that have an optimized path use that.
    NonOptimized,
    /// I/O is refused; hosts hold it until another path or another state lets it run.
    Inaccessible,
    /// I/O is refused for good. A controller never leaves this state: another one ends the hosts' connections.
    PersistentLoss,
    /// I/O is refused for the moment between two states, which hosts expect to last 60 seconds at most. They are told by the refusals only.
    Change,
}

impl AnaState {
    /// As it is written.
    pub fn name(self) -> &'static str {
        match self {
            Self::Optimized => "optimized",
            Self::NonOptimized => "non-optimized",
            Self::Inaccessible => "inaccessible",
            Self::PersistentLoss => "persistent-loss",
            Self::Change => "change",
        }
    }
}

impl From<AnaState> for log::AnaState {
    fn from(state: AnaState) -> Self {
        match state {
            AnaState::Optimized => Self::Optimized,
            AnaState::NonOptimized => Self::NonOptimized,
            AnaState::Inaccessible => Self::Inaccessible,
            AnaState::PersistentLoss => Self::PersistentLoss,
            AnaState::Change => Self::Change,
        }
    }
}

impl From<log::AnaState> for AnaState {
    fn from(state: log::AnaState) -> Self {
        match state {
            log::AnaState::Optimized => Self::Optimized,
            log::AnaState::NonOptimized => Self::NonOptimized,
            log::AnaState::Inaccessible => Self::Inaccessible,
            log::AnaState::PersistentLoss => Self::PersistentLoss,
            log::AnaState::Change => Self::Change,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One name per state, on the command line, in YAML and in JSON, and back from the target's.
    #[test]
    fn a_state_has_one_name_everywhere() {
        for &state in AnaState::value_variants() {
            let name = state.name();
            assert_eq!(serde_json::to_value(state).unwrap(), name);
            assert_eq!(AnaState::from_str(name, false), Ok(state));
            assert_eq!(AnaState::from(log::AnaState::from(state)), state);
        }
    }
}
