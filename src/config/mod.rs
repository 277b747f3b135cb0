//! The configuration: one YAML file becomes a typed, validated [`Plan`], or one [`Error`] that says what is wrong, where, and what
//! would be right.
//!
//! ```text
//! text ──YAML──> raw types (shape) ──build──> Plan (meaning) ──node──> what runs
//!                      │                        │                        │
//!                      └────── every error: file, line, column, snippet, help ──────┘
//! ```
//!
//! The raw types are private: they exist for serde and for the JSON Schema. Nothing here opens a file other than the configuration,
//! binds a port or starts a thread, so `check` and `serve` do exactly the same.

mod alua;
mod ana;
mod build;
mod duration;
mod names;
mod one_bdev;
mod parse_error;
mod plan;
mod process;
mod raw;
mod scalar;
mod source;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::time::Duration;

pub use alua::AluaState;
pub use ana::AnaState;
pub use duration::parse_duration;
pub(crate) use names::check_iscsi_name;
pub use names::{DEVICE_UUID_BYTES_MAX, DISCOVERY_NQN, NAME_BYTES_MAX, NQN_BYTES_MAX};
pub use one_bdev::{bdev_schema, parse_bdev};
pub use plan::{
    BdevKind, BdevPlan, ChapPlan, DevicePlan, Direct, Engine, FilePlan, FlushPolicy, HostsPlan,
    IscsiPlan, LunPlan, NamespacePlan, NvmeTcpPlan, NvmfPlan, Plan, PollPlan, ReactorsPlan,
    SpdkPlan, SubsystemPlan, TargetPlan, Uuid,
};
pub use process::default_control_socket;
pub use source::{At, Error, Source, Span};

use build::Surroundings;
use process::Process;
use source::Problem;

/// Bytes of a sector, the unit of tables.
pub(crate) const SECTOR_BYTES: u64 = 512;
/// Largest configuration file in bytes: over ten thousand namespaces fit; whatever is larger is no configuration.
pub const FILE_BYTES_MAX: usize = 4 << 20;
/// Most reactors: each has a mailbox to each other one, so memory grows with the square.
pub const REACTORS_MAX: usize = 256;
/// Longest path of a UNIX socket in bytes: `sun_path` has 108, one of them the NUL.
pub const SOCKET_PATH_BYTES_MAX: usize = 107;
/// What a vfio-user controller's socket is called in its directory, as SPDK has it.
pub(crate) const VFIO_USER_SOCKET: &str = "cntrl";
/// Most listeners of the NVMe/TCP target: each is a socket to poll and an entry per subsystem in the discovery log.
pub const LISTENERS_MAX: usize = 64;
/// Most subsystems of the NVMe/TCP target: each is a table per reactor and an entry per listener in the discovery log.
pub const SUBSYSTEMS_MAX: usize = 256;
/// Largest namespace identifier, and so the number of namespaces a subsystem can have (NN): the changed-namespace list of
/// NVMe holds 1024 entries.
pub const NSID_MAX: u32 = 1024;
/// Most iSCSI targets: each is a table per reactor.
pub const TARGETS_MAX: usize = 256;
/// Largest logical unit number: what every initiator can address.
pub const LUN_MAX: u16 = 255;
/// The shortest silence after which an iSCSI initiator is asked whether it is there: silence is looked for four times a second.
pub const KEEP_ALIVE_MIN: Duration = Duration::from_secs(1);
/// The longest.
pub const KEEP_ALIVE_MAX: Duration = Duration::from_secs(3600);

/// What to put into an empty file.
const SMALLEST: &str = "the smallest useful configuration has `bdevs`, `devices` and `exports`: see conf/quickstart.yaml";

/// Reads a configuration file. Relative paths in it count from the file's directory.
///
/// # Errors
/// The file cannot be read, is too large, is not UTF-8, is not YAML, or describes something that cannot be.
pub fn load(path: &Path) -> Result<Plan, Error> {
    load_for(path, None)
}

/// The same, for another engine than the one that is written, if one is given.
///
/// # Errors
/// As [`load`]; and what that engine cannot do.
pub fn load_for(path: &Path, engine: Option<Engine>) -> Result<Plan, Error> {
    let name = path.display().to_string();
    let refuse = |message: String| Source::new(&name, "").error(Problem::whole(message));
    let mut bytes = Vec::new();
    File::open(path)
        // One byte more than allowed tells a large file from one that just fits, also where there is no end (/dev/zero).
        .and_then(|file| file.take(FILE_BYTES_MAX as u64 + 1).read_to_end(&mut bytes))
        .map_err(|error| refuse(format!("cannot read the configuration: {error}")))?;
    let process = current_process(&name)?;
    let directory = path
        .parent()
        .filter(|directory| !directory.as_os_str().is_empty());
    let surroundings = Surroundings {
        process: &process,
        directory,
        engine,
    };
    parse_bytes(&name, &bytes, &surroundings)
}

/// Reads a configuration from its text; `source_name` is what errors call it. Relative paths in it stay as they are.
///
/// # Errors
/// As [`load`].
pub fn parse(source_name: &str, text: &str) -> Result<Plan, Error> {
    let process = current_process(source_name)?;
    let surroundings = Surroundings {
        process: &process,
        directory: None,
        engine: None,
    };
    parse_bytes(source_name, text.as_bytes(), &surroundings)
}

/// The JSON Schema of the configuration, for editors.
pub fn schema() -> serde_json::Value {
    schemars::schema_for!(raw::Config).to_value()
}

/// The one harness for hostile input: unit test, property test and fuzz target all call it. Whatever the bytes are, there
/// is a plan or an error that can be shown, and a plan is the same when its text is read again.
pub fn fuzz(data: &[u8]) {
    // Fixed, so that what a fuzzer found is found again on any machine.
    let process = Process {
        cpus: (0..8).collect(),
        user_id: 1000,
        runtime_directory: None,
    };
    let surroundings = Surroundings {
        process: &process,
        directory: None,
        engine: None,
    };
    match parse_bytes("fuzz.yaml", data, &surroundings) {
        Ok(plan) => {
            assert!(!plan.reactors.cpus.is_empty());
            let again = parse_bytes("fuzz.yaml", plan.source.text().as_bytes(), &surroundings);
            assert_eq!(again.as_ref(), Ok(&plan), "the same text, another plan");
        }
        Err(error) => {
            let text = error.to_string();
            assert!(text.starts_with("error: "), "{text}");
            assert!(text.contains("fuzz.yaml"), "{text}");
            assert!(
                text.chars().all(|c| c == '\n' || !c.is_control()),
                "control characters in {text:?}"
            );
        }
    }
}

fn current_process(source_name: &str) -> Result<Process, Error> {
    Process::current().map_err(|error| {
        let message = format!("cannot find out on which CPUs this process may run: {error}");
        Source::new(source_name, "").error(Problem::whole(message))
    })
}

fn parse_bytes(
    source_name: &str,
    bytes: &[u8],
    surroundings: &Surroundings<'_>,
) -> Result<Plan, Error> {
    check_length(source_name, bytes.len())?;
    let source = match std::str::from_utf8(bytes) {
        Ok(text) => Source::new(source_name, text),
        Err(error) => return Err(not_utf8(source_name, bytes, error.valid_up_to())),
    };
    let empty = || source.error(Problem::whole("the configuration is empty").help(SMALLEST));
    let only_comments = source.text().lines().all(|line| {
        let line = line.trim();
        line.is_empty() || line.starts_with('#')
    });
    if only_comments {
        return Err(empty());
    }
    // An `Option`, because a document without content is YAML's null.
    let config: Option<raw::Config> = from_yaml(&source)?;
    let config = config.ok_or_else(empty)?;
    build::plan(config, &source, surroundings).map_err(|problem| source.error(problem))
}

fn check_length(source_name: &str, bytes: usize) -> Result<(), Error> {
    if bytes <= FILE_BYTES_MAX {
        return Ok(());
    }
    let message = format!(
        "the configuration is larger than {}",
        scalar::size_shown(FILE_BYTES_MAX as u64)
    );
    Err(Source::new(source_name, "").error(Problem::whole(message)))
}

fn from_yaml<T: serde::de::DeserializeOwned>(source: &Source) -> Result<T, Error> {
    serde_yaml::from_str_with_options(source.text(), options())
        .map_err(|error| source.error(parse_error::problem(&error, source)))
}

fn not_utf8(source_name: &str, bytes: &[u8], valid_bytes: usize) -> Error {
    let text = String::from_utf8_lossy(bytes);
    let source = Source::new(source_name, &text);
    let valid = String::from_utf8_lossy(&bytes[..valid_bytes]);
    let valid = valid.strip_prefix('\u{feff}').unwrap_or(&valid);
    let line_start = valid.rfind('\n').map_or(0, |at| at + 1);
    let narrow = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
    let span = Span {
        line: narrow(valid.matches('\n').count() + 1),
        column: narrow(valid[line_start..].chars().count() + 1),
        chars: 1,
    };
    let message = format!("the byte 0x{:02x} here is not UTF-8", bytes[valid_bytes]);
    source.error(Problem::at(span, message).help("save the file as UTF-8"))
}

/// How YAML is read: no leniency that the schema would not show, and bounds that no honest file of
/// [`FILE_BYTES_MAX`] meets.
fn options() -> serde_yaml::Options {
    serde_yaml::options! {
        // `yes` and `on` are words in YAML 1.2; as booleans they would surprise both the schema and `direct: on`.
        strict_booleans: true,
        // The snippet is made by `source`, together with the help.
        with_snippet: false,
        // Comments are of no use here.
        emit_comments: false,
        budget: serde_yaml::budget! {
            // The deepest path of the schema is 7; YAML's own nesting may be a few more.
            max_depth: 32,
            flow_nesting_limit: 32,
        },
        alias_limits: serde_yaml::alias_limits! {
            max_total_replayed_events: 100_000,
            max_replay_stack_depth: 16,
        },
    }
}

/// A list of names for a message, cut when long.
fn some_of(names: &[&str]) -> String {
    const NAMES_SHOWN_MAX: usize = 8;
    let shown: Vec<String> = names
        .iter()
        .take(NAMES_SHOWN_MAX)
        .map(|name| source::shown(name))
        .collect();
    let more = names.len().saturating_sub(NAMES_SHOWN_MAX);
    match more {
        0 => shown.join(", "),
        _ => format!("{} and {more} more", shown.join(", ")),
    }
}
