//! `polldm dm`: dmsetup's verbs on the mapped devices of a running server.

use std::fs::File;
use std::io::{self, IsTerminal, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};

use super::dm_output as output;
use super::{Connection, Failure, print, print_json};
use crate::control::schema::*;
use crate::control::server::REQUEST_BYTES_MAX;

/// Longest table that is read: what fits a request, with room for the escapes of JSON.
const TABLE_BYTES_MAX: usize = REQUEST_BYTES_MAX / 2;

const EXAMPLES: &str = "\
Examples:
  # A new device over the first GiB of bdev ram0
  polldm dm create vol2 --table '0 2097152 linear ram0 0'

  # Another table, under load: hosts see a pause, never an error
  polldm dm swap vol2 --table '0 2097152 linear ram1 0' --timeout 10

  # The same in steps
  polldm dm load vol2 --table '0 2097152 linear ram1 0'
  polldm dm suspend vol2 --noflush
  polldm dm resume vol2

  # A device and all mapped devices beneath it at rest, and running again
  polldm dm suspend vol2 --stack
  polldm dm resume vol2 --stack

  # As soon as anything happens to it
  polldm dm wait vol2 && polldm dm status vol2

  # The same device on another machine that has such bdevs
  polldm dm table vol2 | ssh other polldm dm create vol2

  # For scripts
  polldm dm info -c --noheadings --separator : -o name,open,attr
  polldm dm info --json | jq -r '.devices[] | select(.suspended).name'

Tables are dmsetup's: a line 'START LENGTH TYPE ARGUMENTS…' per target, in
sectors of 512 bytes, without gaps. Backing and mapped devices go by their
names; 'polldm bdev ls' and 'polldm dm ls' show them.";

/// Mapped devices: dmsetup's verbs
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Dm {
    /// Print the answer as JSON
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// List devices
    Ls {
        /// Only devices whose live table has a target of this type
        #[arg(long, value_name = "TYPE")]
        target: Option<String>,
    },
    /// Show state, tables present, open count and events of devices
    Info(Info),
    /// Show tables, as they could be loaded again
    Table {
        /// Devices; all of them when left out
        devices: Vec<String>,
        /// Only targets of this type
        #[arg(long, value_name = "TYPE")]
        target: Option<String>,
        /// The inactive table rather than the live one
        #[arg(long)]
        inactive: bool,
    },
    /// Show what the targets say of themselves
    Status {
        /// Devices; all of them when left out
        devices: Vec<String>,
        /// Only targets of this type
        #[arg(long, value_name = "TYPE")]
        target: Option<String>,
    },
    /// Make a device and let it run: create, load and resume in one step, or nothing at all
    Create {
        /// Its name, 1 to 127 bytes
        device: String,
        #[command(flatten)]
        table: TableSource,
        /// Make it without a table
        #[arg(short, long, conflicts_with_all = ["table", "file"])]
        notable: bool,
        /// An identifier of your own that stays when it is renamed
        #[arg(short, long, default_value = "", hide_default_value = true)]
        uuid: String,
        /// What a flush promises
        #[arg(long, value_enum, default_value_t = Flush::Relaxed, value_name = "POLICY")]
        flush: Flush,
        /// Refuse writes, as long as this table is live
        #[arg(short, long, conflicts_with = "notable")]
        readonly: bool,
        /// How long I/O may wait for the suspended device before it fails: 30s, 2min; for ever when left out
        #[arg(long, value_name = "TIME", value_parser = crate::config::parse_duration)]
        parked_limit: Option<Duration>,
    },
    /// Load a table into the inactive slot; resume makes it live
    #[command(visible_alias = "reload")]
    Load {
        /// The device
        device: String,
        #[command(flatten)]
        table: TableSource,
        /// Refuse writes, as long as this table is live
        #[arg(short, long)]
        readonly: bool,
    },
    /// Empty the inactive slot
    Clear {
        /// Devices
        #[arg(required = true)]
        devices: Vec<String>,
    },
    /// Park new I/O and wait until what is in flight has ended; hosts notice a pause only
    Suspend {
        /// Devices
        #[arg(required = true)]
        devices: Vec<String>,
        #[command(flatten)]
        how: How,
    },
    /// Make the inactive table live, if there is one, and let I/O run
    Resume {
        /// Devices
        #[arg(required = true)]
        devices: Vec<String>,
        #[command(flatten)]
        how: How,
    },
    /// Make a table live in one step: load, suspend with --noflush and resume, or nothing at all
    Swap {
        /// The device
        device: String,
        #[command(flatten)]
        table: TableSource,
        /// Refuse writes, as long as this table is live
        #[arg(short, long)]
        readonly: bool,
        /// Give up after so many seconds: the device runs on, on the table it has
        #[arg(long, value_name = "SECONDS", value_parser = seconds)]
        timeout: Option<Duration>,
    },
    /// Give up the suspend of devices that is under way: they run on
    Cancel {
        /// Devices
        #[arg(required = true)]
        devices: Vec<String>,
    },
    /// Fail what waits on suspended devices; hosts get I/O errors
    FailParked {
        /// Devices
        #[arg(required = true)]
        devices: Vec<String>,
    },
    /// Tell a target something; @cancel_deferred_remove is for the device itself
    Message {
        /// The device
        device: String,
        /// A sector of the target
        sector: u64,
        /// What to tell it
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        words: Vec<String>,
    },
    /// Wait until something happens to a device: until its event number is another
    Wait {
        /// The device
        device: String,
        /// The event number that is known; the present one when left out
        event_nr: Option<u32>,
        /// Show the device's state then
        #[arg(short, long)]
        verbose: bool,
    },
    /// Give a device another name
    Rename {
        /// The device
        device: String,
        /// The name it is to have
        new_name: String,
        /// Give it this uuid instead, once and for all
        #[arg(long)]
        setuuid: bool,
    },
    /// Remove devices that nothing uses: neither an export nor another device's table
    Remove {
        /// Devices
        #[arg(required = true)]
        devices: Vec<String>,
        /// Those that are in use: when nothing uses them any more
        #[arg(long)]
        deferred: bool,
    },
    /// Remove all devices that nothing uses
    #[command(name = "remove_all", visible_alias = "remove-all")]
    RemoveAll {
        /// Those that are in use: when nothing uses them any more
        #[arg(long)]
        deferred: bool,
    },
    /// Show what devices sit on: the backing and mapped devices that their live tables name
    Deps {
        /// Devices; all of them when left out
        devices: Vec<String>,
    },
    /// Show the target types tables can be made of
    Targets,
}

#[derive(Debug, Args)]
struct Info {
    /// Devices; all of them when left out
    devices: Vec<String>,
    /// A row per device
    #[arg(short, short_alias = 'C', long)]
    columns: bool,
    /// The columns to show, with commas between them (implies -c)
    #[arg(short = 'o', long = "options", value_name = "COLUMNS")]
    fields: Option<String>,
    /// Between columns, which are then not aligned (implies -c)
    #[arg(long)]
    separator: Option<String>,
    /// Leave the headings out (implies -c)
    #[arg(long)]
    noheadings: bool,
}

/// How to suspend.
#[derive(Debug, Args)]
struct How {
    /// Keep I/O that merely waits, such as for a path, rather than wait for it or fail it
    #[arg(long)]
    noflush: bool,
    /// Do not flush the device before
    #[arg(long)]
    nolockfs: bool,
    /// Give up after so many seconds: the device runs on
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    timeout: Option<Duration>,
    /// With all mapped devices beneath it, or nothing at all: suspend from the top down, resume from the bottom up
    #[arg(long)]
    stack: bool,
}

impl How {
    fn of(&self, name: String) -> SuspendParams {
        SuspendParams {
            name,
            noflush: self.noflush,
            nolockfs: self.nolockfs,
            timeout_ms: self.timeout.map(milliseconds),
            stack: self.stack,
        }
    }
}

/// Reads a number of seconds, or a time with its unit.
fn seconds(text: &str) -> Result<Duration, String> {
    match text.bytes().all(|byte| byte.is_ascii_digit()) && !text.is_empty() {
        true => crate::config::parse_duration(&format!("{text}s")),
        false => crate::config::parse_duration(text),
    }
}

/// Times that are read here are at most a year.
fn milliseconds(time: Duration) -> u64 {
    time.as_millis() as u64
}

/// Where a table comes from: one of the two, or standard input.
#[derive(Debug, Args)]
struct TableSource {
    /// The table itself
    #[arg(long, conflicts_with = "file")]
    table: Option<String>,
    /// A file with the table; standard input when neither is given
    file: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Flush {
    /// As with a disk: what had completed before the flush is durable after it
    Relaxed,
    /// A barrier as well: what came before completes before, what comes after waits
    Ordered,
}

impl TableSource {
    fn read(&self) -> Result<String, Failure> {
        let text = match (&self.table, &self.file) {
            (Some(table), _) => return Ok(table.clone()),
            (None, Some(path)) if path != Path::new("-") => {
                let read = File::open(path).and_then(read_table);
                read.map_err(|error| {
                    Failure::Usage(format!("cannot read the table {}: {error}", path.display()))
                })?
            }
            (None, _) => {
                if io::stdin().is_terminal() {
                    eprintln!("polldm: the table, from the terminal; end it with Ctrl-D");
                }
                let read = read_table(io::stdin().lock());
                read.map_err(|error| {
                    Failure::Usage(format!(
                        "cannot read the table from standard input: {error}"
                    ))
                })?
            }
        };
        if text.trim().is_empty() {
            return Err(Failure::Usage(
                "the table is empty: it takes at least one line, 'START LENGTH TYPE …'".into(),
            ));
        }
        Ok(text)
    }
}

/// Reads a table, bounded, as text.
fn read_table(from: impl Read) -> io::Result<String> {
    let mut text = String::new();
    from.take(TABLE_BYTES_MAX as u64 + 1)
        .read_to_string(&mut text)?;
    if text.len() > TABLE_BYTES_MAX {
        return Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            format!("it has more than {TABLE_BYTES_MAX} bytes"),
        ));
    }
    Ok(text)
}

/// Runs a verb.
pub(super) fn run(dm: Dm, connection: &Connection) -> Result<(), Failure> {
    let json = dm.json;
    match dm.verb {
        Verb::Ls { target } => {
            let result = connection.open()?.call::<DmLs>(&LsParams { target })?;
            show(json, &result, || output::ls(&result))
        }
        Verb::Info(arguments) => info(&arguments, json, connection),
        Verb::Table {
            devices,
            target,
            inactive,
        } => {
            let named = devices.len() != 1;
            let result = ask_each(connection, devices, |client, name| {
                client
                    .call::<DmTable>(&TableParams {
                        name,
                        target: target.clone(),
                        inactive,
                    })
                    .map(|result| result.devices)
            })?;
            show_lines(json, LinesResult { devices: result }, named)
        }
        Verb::Status { devices, target } => {
            let named = devices.len() != 1;
            let result = ask_each(connection, devices, |client, name| {
                client
                    .call::<DmStatus>(&StatusParams {
                        name,
                        target: target.clone(),
                    })
                    .map(|result| result.devices)
            })?;
            show_lines(json, LinesResult { devices: result }, named)
        }
        Verb::Create {
            device: name,
            table,
            notable,
            uuid,
            flush,
            readonly: read_only,
            parked_limit,
        } => {
            let table = if notable { None } else { Some(table.read()?) };
            let flush = match flush {
                Flush::Relaxed => FlushPolicy::Relaxed,
                Flush::Ordered => FlushPolicy::Ordered,
            };
            let done = connection.open()?.call::<DmCreate>(&CreateParams {
                name,
                uuid,
                flush,
                table,
                read_only,
                parked_limit_ms: parked_limit.map(milliseconds),
            })?;
            show(json, &done, String::new)
        }
        Verb::Load {
            device: name,
            table,
            readonly: read_only,
        } => {
            let table = table.read()?;
            let done = connection.open()?.call::<DmLoad>(&LoadParams {
                name,
                table,
                read_only,
            })?;
            show(json, &done, String::new)
        }
        Verb::Clear { devices } => each::<DmClear>(json, connection, devices, device),
        Verb::Suspend { devices, how } => {
            each::<DmSuspend>(json, connection, devices, |name| how.of(name))
        }
        Verb::Resume { devices, how } => {
            each::<DmResume>(json, connection, devices, |name| how.of(name))
        }
        Verb::Swap {
            device: name,
            table,
            readonly: read_only,
            timeout,
        } => {
            let table = table.read()?;
            let done = connection.open()?.call::<DmSwap>(&SwapParams {
                name,
                table,
                read_only,
                timeout_ms: timeout.map(milliseconds),
            })?;
            show(json, &done, String::new)
        }
        Verb::Cancel { devices } => each::<DmCancel>(json, connection, devices, device),
        Verb::FailParked { devices } => fail_parked(devices, json, connection),
        Verb::Message {
            device: name,
            sector,
            words,
        } => {
            let result = connection.open()?.call::<DmMessage>(&MessageParams {
                name,
                sector,
                words,
            })?;
            show(json, &result, || output::message(&result))
        }
        Verb::Wait {
            device: name,
            event_nr,
            verbose,
        } => {
            let result = connection
                .open()?
                .call::<DmWait>(&WaitParams { name, event_nr })?;
            show(json, &result, || output::wait(&result, verbose))
        }
        Verb::Rename {
            device: name,
            new_name: uuid,
            setuuid: true,
        } => {
            let done = connection
                .open()?
                .call::<DmSetUuid>(&SetUuidParams { name, uuid })?;
            show(json, &done, String::new)
        }
        Verb::Rename {
            device: name,
            new_name,
            setuuid: false,
        } => {
            let done = connection
                .open()?
                .call::<DmRename>(&RenameParams { name, new_name })?;
            show(json, &done, String::new)
        }
        Verb::Remove { devices, deferred } => each::<DmRemove>(json, connection, devices, |name| {
            RemoveParams { name, deferred }
        }),
        Verb::RemoveAll { deferred } => {
            let result = connection
                .open()?
                .call::<DmRemoveAll>(&RemoveAllParams { deferred })?;
            show(json, &result, String::new)
        }
        Verb::Deps { devices } => {
            let named = devices.len() != 1;
            let devices = ask_each(connection, devices, |client, name| {
                client
                    .call::<DmDeps>(&InfoParams { name })
                    .map(|result| result.devices)
            })?;
            let result = DepsResult { devices };
            show(json, &result, || output::deps(&result, named))
        }
        Verb::Targets => {
            let result = connection.open()?.call::<DmTargets>(&NoParams {})?;
            show(json, &result, || output::targets(&result))
        }
    }
}

fn info(arguments: &Info, json: bool, connection: &Connection) -> Result<(), Failure> {
    let in_columns = arguments.columns
        || arguments.fields.is_some()
        || arguments.separator.is_some()
        || arguments.noheadings;
    if json && in_columns {
        let reason =
            "--json has every field and no columns; leave -c, -o, --separator and --noheadings out";
        return Err(Failure::Usage(reason.into()));
    }
    let mut global_event_nr = None;
    let devices = ask_each(connection, arguments.devices.clone(), |client, name| {
        let result = client.call::<DmInfo>(&InfoParams { name })?;
        // The first: what comes after it is news.
        global_event_nr.get_or_insert(result.global_event_nr);
        Ok(result.devices)
    })?;
    let result = InfoResult {
        devices,
        global_event_nr: global_event_nr.unwrap_or_default(),
    };
    if json || !in_columns {
        return show(json, &result, || output::info(&result));
    }
    let fields = arguments
        .fields
        .as_deref()
        .unwrap_or(output::FIELDS_DEFAULT);
    let text = output::info_columns(
        &result,
        fields,
        arguments.separator.as_deref(),
        !arguments.noheadings,
    );
    print(&text.map_err(Failure::Usage)?)
}

/// Asks about each device that was named, or once about all.
fn ask_each<T>(
    connection: &Connection,
    devices: Vec<String>,
    mut ask: impl FnMut(
        &mut crate::control::Client,
        Option<String>,
    ) -> Result<Vec<T>, crate::control::ClientError>,
) -> Result<Vec<T>, Failure> {
    let mut client = connection.open()?;
    if devices.is_empty() {
        return Ok(ask(&mut client, None)?);
    }
    let mut all = Vec::new();
    for name in devices {
        all.extend(ask(&mut client, Some(name))?);
    }
    Ok(all)
}

/// Does a verb to each device in turn. One that is refused does not keep the others from it.
fn each<M>(
    json: bool,
    connection: &Connection,
    devices: Vec<String>,
    params: impl Fn(String) -> M::Params,
) -> Result<(), Failure>
where
    M: Method<Result = Done>,
{
    each_with::<M>(connection, devices, params, |_, Done {}| {})?;
    show(json, &Done {}, String::new)
}

/// The same, with what comes of it; `take` is given each device's name and result.
fn each_with<M: Method>(
    connection: &Connection,
    devices: Vec<String>,
    params: impl Fn(String) -> M::Params,
    mut take: impl FnMut(String, M::Result),
) -> Result<(), Failure> {
    let mut client = connection.open()?;
    let mut refused = Vec::new();
    for name in devices {
        match client.call::<M>(&params(name.clone())) {
            Ok(result) => take(name, result),
            Err(error @ crate::control::ClientError::Refused { .. }) => {
                refused.push(error.to_string())
            }
            Err(error) => return Err(error.into()),
        }
    }
    match refused.is_empty() {
        true => Ok(()),
        false => Err(Failure::Operation(refused.join("\npolldm: "))),
    }
}

fn device(name: String) -> DeviceParams {
    DeviceParams { name }
}

/// Says how many I/Os were failed, also of those devices that come before one that is refused.
fn fail_parked(devices: Vec<String>, json: bool, connection: &Connection) -> Result<(), Failure> {
    let named = devices.len() != 1;
    let mut failed = Vec::new();
    let ended = each_with::<DmFailParked>(connection, devices, device, |name, result| {
        failed.push((name, result.failed));
    });
    let sum = FailParkedResult {
        failed: failed.iter().map(|(_, count)| count).sum(),
    };
    if !failed.is_empty() {
        show(json, &sum, || output::fail_parked(&failed, named))?;
    }
    ended
}

fn show_lines(json: bool, result: LinesResult, named: bool) -> Result<(), Failure> {
    show(json, &result, || output::lines(&result, named))
}

fn show<T: serde::Serialize>(
    json: bool,
    result: &T,
    text: impl FnOnce() -> String,
) -> Result<(), Failure> {
    if json {
        print_json(result)
    } else {
        print(&text())
    }
}
