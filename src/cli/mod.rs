//! The commands. This room reads arguments, prints and sets exit codes; what is done is done below.
//!
//! | exit code | |
//! |---|---|
//! | 0 | done |
//! | 1 | refused, or failed on the way |
//! | 2 | the command line or the configuration is wrong; nothing was begun |

mod bdev;
mod bench;
mod chart;
mod columns;
mod demo;
mod dm;
mod dm_output;
mod export;
mod iscsi;
mod serve;
mod signals;
mod sim;
mod stats;

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::config;
use crate::control::schema::describe;
use crate::control::{Client, ClientError};

const ABOUT: &str = "User-space device mapper and polled NVMe/TCP storage target";

const EXAMPLES: &str = "\
Examples:
  polldm check conf/quickstart.yaml      is it right?
  polldm serve conf/quickstart.yaml      run it
  polldm dm info                         how are the devices?
  polldm stats                           what do they do?
  polldm export ls                       who is connected?
  polldm sim                             is the mapper right?
  polldm demo                            what does a swap look like?

dm, bdev, export and stats speak to a running server through its control
socket. Without --socket that is /run/polldm.sock for root, for others
$XDG_RUNTIME_DIR/polldm.sock, or /tmp/polldm-UID/control.sock without that.

Exit codes: 0 done; 1 refused or failed; 2 the command line or the
configuration is wrong, and nothing was begun.";

#[derive(Debug, Parser)]
#[command(name = "polldm", version, about = ABOUT, after_help = EXAMPLES, max_term_width = 120)]
struct Cli {
    #[command(flatten)]
    connection: Connection,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Serve(serve::Serve),
    Check(Check),
    Dm(dm::Dm),
    Bdev(bdev::BdevCommand),
    Export(export::ExportCommand),
    Iscsi(iscsi::IscsiCommand),
    Stats(stats::StatsCommand),
    Bench(Box<bench::Bench>),
    Demo(demo::DemoCommand),
    Sim(sim::Sim),
    Schema(Schema),
}

/// Validate a configuration without opening a port or a device
#[derive(Debug, Args)]
struct Check {
    /// The configuration
    #[arg(value_name = "FILE")]
    file: PathBuf,
    #[command(flatten)]
    _no_socket: NoSocket,
}

/// Print the JSON Schema of the configuration, for editors
#[derive(Debug, Args)]
struct Schema {
    /// That of the control socket's methods instead
    #[arg(long)]
    control: bool,
    #[command(flatten)]
    _no_socket: NoSocket,
}

/// How to reach a running server.
#[derive(Debug, Args)]
struct Connection {
    /// The server's control socket
    #[arg(long, global = true, value_name = "PATH")]
    socket: Option<PathBuf>,
}

/// Keeps `--socket` out of the help of a command that reaches no server. It is taken there all the same, so that
/// `alias p='polldm --socket PATH'` does for every command.
#[derive(Debug, Args)]
struct NoSocket {
    #[arg(id = "socket", long, hide = true, value_name = "PATH")]
    _socket: Option<PathBuf>,
}

impl Connection {
    /// Connects to the server.
    fn open(&self) -> Result<Client, ClientError> {
        match &self.socket {
            Some(path) => Client::connect(path),
            None => Client::connect(&config::default_control_socket()),
        }
    }
}

/// What polls the devices, whatever a configuration says.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Engine {
    /// polldm's own reactors and backing devices
    Native,
    /// SPDK's, in a polldm that was built with it
    Spdk,
}

impl From<Engine> for crate::config::Engine {
    fn from(engine: Engine) -> crate::config::Engine {
        match engine {
            Engine::Native => crate::config::Engine::Native,
            Engine::Spdk => crate::config::Engine::Spdk,
        }
    }
}

/// Why a command came to nothing.
#[derive(Debug)]
enum Failure {
    /// It was refused, or failed on the way.
    Operation(String),
    /// The arguments make no sense.
    Usage(String),
    /// The configuration is wrong, or cannot be had on this machine now.
    Config(config::Error),
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Failure {
        Failure::Operation(error.to_string())
    }
}

impl From<config::Error> for Failure {
    fn from(error: config::Error) -> Failure {
        Failure::Config(error)
    }
}

/// Runs the command line; the process's exit code.
pub fn main() -> ExitCode {
    // Wrong arguments end the process here, with clap's message and exit code 2.
    match run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Operation(reason)) => {
            complain(&format!("polldm: {reason}"));
            ExitCode::from(1)
        }
        Err(Failure::Usage(reason)) => {
            complain(&format!("polldm: {reason}"));
            ExitCode::from(2)
        }
        Err(Failure::Config(error)) => {
            complain(&error.to_string());
            ExitCode::from(2)
        }
    }
}

fn run(cli: Cli) -> Result<(), Failure> {
    let connection = &cli.connection;
    match cli.command {
        Command::Serve(serve) => serve::run(&serve, cli.connection.socket),
        Command::Check(check) => {
            let plan = config::load(&check.file)?;
            print(&summary(&plan, &check.file))
        }
        Command::Dm(dm) => dm::run(dm, connection),
        Command::Bdev(bdev) => bdev::run(&bdev, connection),
        Command::Export(export) => export::run_export(export, connection),
        Command::Iscsi(iscsi) => iscsi::run(iscsi, connection),
        Command::Bench(bench) => bench::run(&bench),
        Command::Demo(demo) => demo::run(&demo),
        Command::Sim(sim) => sim::run(&sim),
        Command::Stats(stats) => stats::run(stats, connection),
        Command::Schema(schema) => print_json(&if schema.control {
            describe()
        } else {
            config::schema()
        }),
    }
}

/// What a configuration that is right describes.
fn summary(plan: &config::Plan, file: &std::path::Path) -> String {
    let mut text = format!("{}: all is well\n", file.display());
    let mut line = |what: &str, names: Vec<&str>| {
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "  {:<11} {}",
            format!("{what}:"),
            if names.is_empty() {
                "none".into()
            } else {
                names.join(", ")
            }
        );
    };
    line(
        "bdevs",
        plan.bdevs
            .iter()
            .map(|bdev| bdev.name.value.as_str())
            .collect(),
    );
    line(
        "devices",
        plan.devices
            .iter()
            .map(|device| device.name.value.as_str())
            .collect(),
    );
    let subsystems = plan.nvmf.iter().flat_map(|nvmf| &nvmf.subsystems);
    line(
        "subsystems",
        subsystems
            .map(|subsystem| subsystem.nqn.value.as_str())
            .collect(),
    );
    if let Some(iscsi) = &plan.iscsi {
        let targets = iscsi.targets.iter();
        line(
            "targets",
            targets.map(|target| target.iqn.value.as_str()).collect(),
        );
    }
    text
}

/// Prints to standard output.
fn print(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        // Whoever reads may have seen enough: `polldm dm ls | head -1`.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => {
            other.map_err(|error| Failure::Operation(format!("cannot write the output: {error}")))
        }
    }
}

/// Prints as JSON.
fn print_json<T: serde::Serialize>(value: &T) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(value)
        .map_err(|error| Failure::Operation(format!("cannot write the output as JSON: {error}")))?;
    print(&format!("{text}\n"))
}

/// Prints to standard error. Nobody is left to tell when that fails.
fn complain(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}

/// Says something while serving. The server does not end because nobody listens.
fn say(text: &str) {
    complain(&format!("polldm: {text}"));
}

#[cfg(test)]
mod tests;
