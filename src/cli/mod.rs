//! The commands (under construction).

/// Runs the command line; the process's exit code.
pub fn main() -> std::process::ExitCode {
    std::process::ExitCode::SUCCESS
}
