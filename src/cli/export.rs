//! `polldm export`: who reaches the mapped devices.

use clap::{Args, Subcommand};

use super::columns::{Column, Layout, digests, render};
use super::{Connection, Failure, iscsi, print, print_json};
use crate::control::schema::{
    self, AddNamespaceParams, AnaState, ExportLs, ExportsResult, NoParams, NvmfAddNamespace,
    NvmfRemoveNamespace, NvmfSetAna, RemoveNamespaceParams, SetAnaParams,
};

const EXPORT_EXAMPLES: &str = "\
Examples:
  polldm export ls
  polldm export add-ns nqn.2026-11.io.polldm:quickstart --nsid 3 --device vol2
  polldm export remove-ns nqn.2026-11.io.polldm:quickstart --nsid 3
  polldm export ana nqn.2026-11.io.polldm:quickstart inaccessible
  polldm export ls --json | jq '.nvmf.connections[] | select(.outstanding > 0)'

Hosts that are connected are told and rescan by themselves.";

/// Exports: what hosts can reach, and which are connected
#[derive(Debug, Args)]
#[command(after_help = EXPORT_EXAMPLES)]
pub(super) struct ExportCommand {
    /// Print the answer as JSON
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    verb: ExportVerb,
}

#[derive(Debug, Subcommand)]
enum ExportVerb {
    /// List listeners, subsystems, namespaces, hosts and connections
    Ls,
    /// Serve a mapped device as one more namespace of a subsystem
    AddNs {
        /// The subsystem
        nqn: String,
        /// Number of the namespace, from 1
        #[arg(long)]
        nsid: u32,
        /// The mapped device
        #[arg(long)]
        device: String,
    },
    /// Take a namespace away from its hosts, when the I/O on it has ended
    RemoveNs {
        /// The subsystem
        nqn: String,
        /// Number of the namespace
        #[arg(long)]
        nsid: u32,
    },
    /// Change the ANA state of a subsystem: how its hosts may use it
    Ana {
        /// The subsystem
        nqn: String,
        /// The new state
        state: AnaState,
    },
}

/// Runs `polldm export`.
pub(super) fn run_export(command: ExportCommand, connection: &Connection) -> Result<(), Failure> {
    let json = command.json;
    let mut client = connection.open()?;
    let done = match command.verb {
        ExportVerb::Ls => {
            let result = client.call::<ExportLs>(&NoParams {})?;
            return if json {
                print_json(&result)
            } else {
                print(&exports(&result))
            };
        }
        ExportVerb::AddNs { nqn, nsid, device } => {
            client.call::<NvmfAddNamespace>(&AddNamespaceParams { nqn, nsid, device })?
        }
        ExportVerb::RemoveNs { nqn, nsid } => {
            client.call::<NvmfRemoveNamespace>(&RemoveNamespaceParams { nqn, nsid })?
        }
        ExportVerb::Ana { nqn, state } => {
            client.call::<NvmfSetAna>(&SetAnaParams { nqn, state })?
        }
    };
    if json { print_json(&done) } else { Ok(()) }
}

fn exports(result: &ExportsResult) -> String {
    let parts: Vec<String> = result
        .nvmf
        .iter()
        .map(nvmf_text)
        .chain(result.iscsi.iter().map(iscsi::text))
        .collect();
    if parts.is_empty() {
        return "No exports\n".into();
    }
    parts.join("\n")
}

fn nvmf_text(nvmf: &schema::NvmfExport) -> String {
    let mut text = format!("NVMe/TCP on {}\n", nvmf.listeners.join(", "));
    for subsystem in &nvmf.subsystems {
        text.push_str(&format!("\n{}\n", subsystem.nqn));
        let hosts = match &subsystem.hosts {
            None => "any".to_owned(),
            Some(hosts) => hosts.join(", "),
        };
        text.push_str(&format!("  hosts: {hosts}\n"));
        text.push_str(&format!("  ana: {}\n", subsystem.ana.name()));
        for namespace in &subsystem.namespaces {
            text.push_str(&format!(
                "  namespace {}: {}  {}\n",
                namespace.nsid, namespace.device, namespace.uuid
            ));
        }
        for controller in &subsystem.controllers {
            text.push_str(&format!(
                "  controller {}: {}, {} I/O queue{}\n",
                controller.id,
                controller.host_nqn,
                controller.io_queues,
                if controller.io_queues == 1 { "" } else { "s" }
            ));
        }
    }
    if !nvmf.connections.is_empty() {
        text.push('\n');
        text.push_str(&connections(&nvmf.connections));
    }
    text
}

fn connections(connections: &[schema::Connection]) -> String {
    let columns = [
        Column::left("PEER"),
        Column::right("CNTLID"),
        Column::left("QUEUE"),
        Column::right("SIZE"),
        Column::right("OUTSTANDING"),
        Column::right("REACTOR"),
        Column::left("DIGESTS"),
        Column::left("SUBSYSTEM"),
    ];
    let unknown = || "-".to_owned();
    let row = |connection: &schema::Connection| {
        vec![
            if connection.peer.is_empty() {
                unknown()
            } else {
                connection.peer.clone()
            },
            connection
                .controller
                .map_or_else(unknown, |id| id.to_string()),
            match connection.queue {
                None => unknown(),
                Some(0) => "admin".to_owned(),
                Some(queue) => queue.to_string(),
            },
            connection.queue_size.to_string(),
            connection.outstanding.to_string(),
            connection.reactor.to_string(),
            digests(connection.header_digest, connection.data_digest).to_owned(),
            if connection.nqn.is_empty() {
                unknown()
            } else {
                connection.nqn.clone()
            },
        ]
    };
    render(
        &columns,
        &connections.iter().map(row).collect::<Vec<_>>(),
        Layout::OURS,
    )
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::control::Service;
    use crate::control::fake::Fake;
    use crate::control::schema::Serve;

    #[test]
    fn exports_with_their_hosts() {
        let service = Service::new(Arc::new(Fake::with_devices()));
        let text = exports(&Serve::<ExportLs>::serve(&service, NoParams {}).unwrap());
        let expected = "\
NVMe/TCP on 127.0.0.1:4420

nqn.2026-11.io.polldm:quickstart
  hosts: any
  ana: inaccessible
  namespace 1: vol0  8c9f1f64-9d6c-5a35-93b6-5bd53f7b2b31
  controller 1: nqn.2014-08.org.nvmexpress:uuid:1b4e28ba, 1 I/O queue

PEER             CNTLID  QUEUE  SIZE  OUTSTANDING  REACTOR  DIGESTS  SUBSYSTEM
127.0.0.1:51514       1  admin   128            0        0  none     nqn.2026-11.io.polldm:quickstart
127.0.0.1:51514       1  1       128            2        1  data     nqn.2026-11.io.polldm:quickstart

iSCSI on 127.0.0.1:3260

iqn.2026-11.io.polldm:disks
  initiators: any
  authentication: none
  portal group 1: optimized
  unit 0: vol0  8c9f1f649d6c8a3593b65bd53f7b2b31

PEER             SESSION  OUTSTANDING  COMMANDS   READ  WRITTEN  REACTOR  DIGESTS  TARGET                       INITIATOR
127.0.0.1:40000        1            3        12  4 KiB      0 B        0  header   iqn.2026-11.io.polldm:disks  iqn.1993-08.org.debian:01:host
";
        assert_eq!(text, expected);
        assert_eq!(exports(&ExportsResult::default()), "No exports\n");
    }
}
