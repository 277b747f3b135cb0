//! `polldm dm`: dmsetup's verbs on the mapped devices of a running server.

use std::fs::File;
use std::io::{self, IsTerminal, Read};
use std::path::{Path, PathBuf};

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
  polldm dm load vol2 --table '0 2097152 linear ram1 0'
  polldm dm resume vol2

  # The same device on another machine that has such bdevs
  polldm dm table vol2 | ssh other polldm dm create vol2

  # For scripts
  polldm dm info -c --noheadings --separator : -o name,open,attr
  polldm dm info --json | jq -r '.devices[] | select(.suspended).name'

Tables are dmsetup's: a line 'START LENGTH TYPE ARGUMENTS…' per target, in
sectors of 512 bytes, without gaps. Backing devices go by their names;
'polldm bdev ls' shows them.";

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
    },
    /// Make the inactive table live, if there is one, and let I/O run
    Resume {
        /// Devices
        #[arg(required = true)]
        devices: Vec<String>,
    },
    /// Give a device another name
    Rename {
        /// The device
        device: String,
        /// The name it is to have
        new_name: String,
    },
    /// Remove devices that nothing exports
    Remove {
        /// Devices
        #[arg(required = true)]
        devices: Vec<String>,
    },
    /// Show the backing devices beneath devices
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
        Verb::Clear { devices } => each::<DmClear>(json, connection, devices),
        Verb::Suspend { devices } => each::<DmSuspend>(json, connection, devices),
        Verb::Resume { devices } => each::<DmResume>(json, connection, devices),
        Verb::Rename {
            device: name,
            new_name,
        } => {
            let done = connection
                .open()?
                .call::<DmRename>(&RenameParams { name, new_name })?;
            show(json, &done, String::new)
        }
        Verb::Remove { devices } => each::<DmRemove>(json, connection, devices),
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
    let devices = ask_each(connection, arguments.devices.clone(), |client, name| {
        client
            .call::<DmInfo>(&InfoParams { name })
            .map(|result| result.devices)
    })?;
    let result = InfoResult { devices };
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
    ask: impl Fn(
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
fn each<M>(json: bool, connection: &Connection, devices: Vec<String>) -> Result<(), Failure>
where
    M: Method<Params = DeviceParams, Result = Done>,
{
    let mut client = connection.open()?;
    let mut refused = Vec::new();
    for name in devices {
        match client.call::<M>(&DeviceParams { name }) {
            Ok(Done {}) => {}
            Err(error @ crate::control::ClientError::Refused { .. }) => {
                refused.push(error.to_string())
            }
            Err(error) => return Err(error.into()),
        }
    }
    if refused.is_empty() {
        show(json, &Done {}, String::new)
    } else {
        Err(Failure::Operation(refused.join("\npolldm: ")))
    }
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
