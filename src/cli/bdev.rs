//! `polldm bdev`: what is beneath the mapped devices.

use clap::{Args, Subcommand};

use super::columns::{Column, Layout, bytes, render};
use super::{Connection, Failure, print, print_json};
use crate::config;
use crate::control::schema::{
    AddBdevParams, Bdev, BdevAdd, BdevEntry, BdevLs, BdevRemove, BdevsResult, NoParams, Nvme,
    Remote, RemoteState, RemoveBdevParams,
};

const EXAMPLES: &str = "\
Examples:
  # A gigabyte of memory, and a file that is created if it is missing
  polldm bdev add malloc name=ram2 size=1GiB block_size=4096
  polldm bdev add file name=disk3 path=/srv/disk3.img size=100GiB

  # A disk through the kernel's NVMe driver, past its block layer
  polldm bdev add nvme name=n0 device=/dev/ng0n1

  # A namespace of another machine
  polldm bdev add nvme-tcp name=r0 address=192.0.2.7:4420 \\
      nqn=nqn.2026-11.io.polldm:vol nsid=1

  # A disk is replaced under load
  polldm bdev remove --force disk3
  polldm bdev add file name=disk3 path=/dev/sdc
  polldm dm table vol0 | polldm dm load vol0
  polldm dm resume vol0

Kinds, keys and values are those of 'bdevs:' in the configuration, which
'polldm schema' describes. Nothing is written to the configuration: what is to
be there after a restart goes there, too.";

/// Backing devices: what mapped devices are made of
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct BdevCommand {
    /// Print the answer as JSON
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    verb: BdevVerb,
}

#[derive(Debug, Subcommand)]
enum BdevVerb {
    /// List backing devices: size, block size, what they can do, and who uses them; of remotes, how their connections are; of NVMe
    /// namespaces, whether their completions are polled
    Ls,
    /// Open a backing device, so that tables can name it
    Add {
        /// malloc, null, file, nvme or nvme-tcp; on the SPDK engine spdk-json, too
        kind: String,
        /// What the configuration has to say of such a bdev
        #[arg(value_name = "KEY=VALUE", required = true)]
        keys: Vec<String>,
    },
    /// Close a backing device that no table names
    Remove {
        /// Its name
        bdev: String,
        /// Take it away from under the tables that name it, as when a disk is pulled: their I/O to it fails
        #[arg(long)]
        force: bool,
    },
}

/// Runs `polldm bdev`.
pub(super) fn run(command: &BdevCommand, connection: &Connection) -> Result<(), Failure> {
    let done = match &command.verb {
        BdevVerb::Ls => {
            let result = connection.open()?.call::<BdevLs>(&NoParams {})?;
            return if command.json {
                print_json(&result)
            } else {
                print(&bdevs(&result))
            };
        }
        BdevVerb::Add { kind, keys } => {
            let bdev = entry(kind, keys)?;
            connection
                .open()?
                .call::<BdevAdd>(&AddBdevParams { bdev })?
        }
        BdevVerb::Remove { bdev, force } => {
            let params = RemoveBdevParams {
                name: bdev.clone(),
                force: *force,
            };
            connection.open()?.call::<BdevRemove>(&params)?
        }
    };
    if command.json {
        print_json(&done)
    } else {
        Ok(())
    }
}

/// The entry that the words describe, found right before anybody is asked; paths count from the directory that the command is given in.
fn entry(kind: &str, keys: &[String]) -> Result<BdevEntry, Failure> {
    let mut pairs = Vec::with_capacity(keys.len());
    for word in keys {
        let (key, value) = word.split_once('=').ok_or_else(|| {
            Failure::Usage(format!("'{word}' is no KEY=VALUE: write size=1GiB, say"))
        })?;
        pairs.push(format!("{}: {}", yaml(key), yaml(value)));
    }
    let text = format!("{}: {{ {} }}", yaml(kind), pairs.join(", "));
    let directory = std::env::current_dir().map_err(|error| {
        Failure::Operation(format!("cannot find out the current directory: {error}"))
    })?;
    let plan = config::parse_bdev("bdev add", &text, Some(&directory))?;
    let entry = plan.entry().ok_or_else(|| {
        Failure::Operation("the path of the current directory is not UTF-8".to_owned())
    })?;
    Ok(BdevEntry(entry))
}

/// A word as YAML: plain if it can only be read as itself there, so that `true` stays a truth value; quoted otherwise.
fn yaml(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_./+".contains(c);
    let is_plain = word.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '/')
        && word.chars().all(|c| plain(c) || c == '-');
    match is_plain {
        true => word.to_owned(),
        false => serde_json::Value::from(word).to_string(),
    }
}

fn bdevs(result: &BdevsResult) -> String {
    let columns = [
        Column::left("NAME"),
        Column::left("KIND"),
        Column::right("SIZE"),
        Column::right("BLOCK"),
        Column::left("CACHE"),
        Column::left("CAN"),
        Column::right("TABLES"),
        Column::left("USED BY"),
    ];
    let row = |bdev: &Bdev| {
        let can = [
            (bdev.flush, "flush"),
            (bdev.fua, "fua"),
            (bdev.discard, "discard"),
            (bdev.write_zeroes, "zeroes"),
        ];
        let mut can: Vec<_> = can
            .iter()
            .filter(|(able, _)| *able)
            .map(|(_, what)| *what)
            .collect();
        if bdev.read_only {
            can.push("read-only");
        }
        if bdev.removed {
            can = vec!["removed"];
        }
        vec![
            bdev.name.clone(),
            bdev.kind.clone(),
            bytes(bdev.sectors.saturating_mul(512)),
            bdev.block_bytes.to_string(),
            if bdev.volatile_cache {
                "volatile"
            } else {
                "none"
            }
            .to_owned(),
            can.join(","),
            bdev.tables.to_string(),
            if bdev.devices.is_empty() {
                "-".to_owned()
            } else {
                bdev.devices.join(",")
            },
        ]
    };
    let rows: Vec<_> = result.bdevs.iter().map(row).collect();
    let mut text = render(&columns, &rows, Layout::OURS);
    let remotes = result.bdevs.iter();
    let remotes = remotes.filter_map(|bdev| Some((&bdev.name, bdev.remote.as_ref()?)));
    let remotes: Vec<_> = remotes.map(|(name, remote)| row_of(name, remote)).collect();
    if !remotes.is_empty() {
        text.push('\n');
        text.push_str(&render(&remote_columns(), &remotes, Layout::OURS));
    }
    let namespaces = result.bdevs.iter();
    let namespaces = namespaces.filter_map(|bdev| Some((&bdev.name, bdev.nvme.as_ref()?)));
    let namespaces: Vec<_> = namespaces
        .map(|(name, nvme)| row_of_namespace(name, nvme))
        .collect();
    if !namespaces.is_empty() {
        text.push('\n');
        text.push_str(&render(&namespace_columns(), &namespaces, Layout::OURS));
    }
    text
}

fn namespace_columns() -> [Column; 7] {
    [
        Column::left("NVME"),
        Column::left("DEVICE"),
        Column::right("NSID"),
        Column::left("COMPLETIONS"),
        Column::right("TRANSFER"),
        Column::left("MODEL"),
        Column::left("SERIAL"),
    ]
}

fn row_of_namespace(name: &str, nvme: &Nvme) -> Vec<String> {
    let completions = if nvme.polled { "polled" } else { "interrupts" };
    vec![
        name.to_owned(),
        nvme.device.clone(),
        nvme.nsid.to_string(),
        completions.to_owned(),
        bytes(nvme.transfer_bytes_max),
        nvme.model.clone(),
        nvme.serial.clone(),
    ]
}

fn remote_columns() -> [Column; 9] {
    [
        Column::left("REMOTE"),
        Column::left("STATE"),
        Column::right("QUEUES"),
        Column::right("CONNECTS"),
        Column::right("LOSSES"),
        Column::right("TIMEOUTS"),
        Column::right("FAILED"),
        Column::left("ADDRESS"),
        Column::left("LAST ERROR"),
    ]
}

fn row_of(name: &str, remote: &Remote) -> Vec<String> {
    let state = match remote.state {
        RemoteState::Live => "live",
        RemoteState::Connecting => "connecting",
        RemoteState::Lost => "lost",
    };
    vec![
        name.to_owned(),
        state.to_owned(),
        remote.queues.to_string(),
        remote.connects.to_string(),
        remote.losses.to_string(),
        remote.timeouts.to_string(),
        remote.failed_attempts.to_string(),
        remote.address.clone(),
        remote.last_error.clone().unwrap_or_else(|| "-".to_owned()),
    ]
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::control::Service;
    use crate::control::fake::Fake;
    use crate::control::schema::Serve;

    #[test]
    fn bdevs_in_columns() {
        let service = Service::new(Arc::new(Fake::with_devices()));
        let text = bdevs(&Serve::<BdevLs>::serve(&service, NoParams {}).unwrap());
        let expected = "\
NAME  KIND     SIZE  BLOCK  CACHE  CAN                       TABLES  USED BY
ram0  malloc  1 GiB    512  none   flush,fua,discard,zeroes       1  vol0
";
        assert_eq!(text, expected);
    }

    #[test]
    fn remotes_have_a_table_of_their_own() {
        let service = Service::new(Arc::new(Fake::with_devices()));
        let mut result = Serve::<BdevLs>::serve(&service, NoParams {}).unwrap();
        result.bdevs[0].remote = Some(Remote {
            address: "nvme-tcp://192.0.2.7:4420/nqn.a?nsid=1".into(),
            state: RemoteState::Connecting,
            queues: 2,
            connects: 3,
            losses: 4,
            failed_attempts: 6,
            timeouts: 1,
            last_error: Some("the controller closed the connection".into()),
        });
        let text = bdevs(&result);
        let expected = "
REMOTE  STATE       QUEUES  CONNECTS  LOSSES  TIMEOUTS  FAILED  ADDRESS                                 LAST ERROR
ram0    connecting       2         3       4         1       6  nvme-tcp://192.0.2.7:4420/nqn.a?nsid=1  the controller closed the connection
";
        assert!(text.ends_with(expected), "{text}");
    }

    #[test]
    fn namespaces_have_a_table_of_their_own() {
        let service = Service::new(Arc::new(Fake::with_devices()));
        let mut result = Serve::<BdevLs>::serve(&service, NoParams {}).unwrap();
        result.bdevs[0].nvme = Some(Nvme {
            device: "/dev/ng0n1".into(),
            nsid: 1,
            model: "A disk".into(),
            serial: "S1".into(),
            polled: true,
            transfer_bytes_max: 128 << 10,
        });
        let text = bdevs(&result);
        let expected = "
NVME  DEVICE      NSID  COMPLETIONS  TRANSFER  MODEL   SERIAL
ram0  /dev/ng0n1     1  polled        128 KiB  A disk  S1
";
        assert!(text.ends_with(expected), "{text}");
    }

    /// Words with anything in them arrive as they are.
    #[test]
    fn values_are_quoted_where_yaml_would_read_something_else() {
        let keys = ["name=a", "path=/srv/a b: {c}, \"d\" #e", "read_only=true"];
        let BdevEntry(entry) = entry("file", &keys.map(str::to_owned)).unwrap();
        assert_eq!(
            entry,
            serde_json::json!({"file": {
                "name": "a", "path": "/srv/a b: {c}, \"d\" #e", "read_only": true, "direct": "auto", "block_size": 512
            }})
        );
        for word in ["-", "~", "", "a:", "[x]", "*a", "&a", "!t", "a,b", "é"] {
            assert!(yaml(word).starts_with('"'), "{word}");
        }
    }
}
