//! The `polldm` binary: everything is in the library, so that tests can run it in-process.

fn main() -> std::process::ExitCode {
    polldm::cli::main()
}
