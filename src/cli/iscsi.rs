//! `polldm iscsi`: targets and units that come and go, and who is logged in.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};

use super::columns::{Column, Layout, bytes, digests, render};
use super::{Connection, Failure, print, print_json};
use crate::control::schema::{
    self, AddLunParams, AddPortalParams, AddTargetParams, AluaState, ExportLs, IscsiAddLun,
    IscsiAddPortal, IscsiAddTarget, IscsiAuthentication, IscsiRedirect, IscsiRemoveLun,
    IscsiRemovePortal, IscsiRemoveTarget, IscsiSetAlua, IscsiSetDiscovery, IscsiSetKeepAlive,
    IscsiSetLun, IscsiSetTarget, NoParams, RemoveLunParams, RemovePortalParams, RemoveTargetParams,
    SetAluaParams, SetDiscoveryParams, SetKeepAliveParams, SetLunParams, SetTargetParams,
};

const EXAMPLES: &str = "\
Examples:
  polldm iscsi ls
  polldm iscsi add-target iqn.2026-11.io.polldm:more --initiator '*debian*'
  polldm iscsi add-lun iqn.2026-11.io.polldm:more --lun 0 --device vol2
  polldm iscsi remove-lun iqn.2026-11.io.polldm:more --lun 0
  polldm iscsi set-target iqn.2026-11.io.polldm:more --initiator 192.0.2.0/24
  polldm iscsi set-target iqn.2026-11.io.polldm:more --auth none
  polldm iscsi add-portal '[2001:db8::8]:3260' --portal-group 2
  polldm iscsi set-target iqn.2026-11.io.polldm:more --portal-group 1 \\
                                                     --portal-group 2
  polldm iscsi set-discovery --auth chap --secrets /etc/polldm/chap
  polldm iscsi alua iqn.2026-11.io.polldm:more --portal-group 1 standby
  polldm iscsi sessions --json | jq '.[] | select(.outstanding > 0)'

Initiators that are logged in are told of units that come and go. A change is
gone after a restart: write it into the configuration as well.";

/// iSCSI: targets, units and sessions, and their changes
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct IscsiCommand {
    /// Print the answer as JSON
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// List portals, targets, units and sessions
    Ls,
    /// List the connections of initiators
    Sessions,
    /// Add a target, at first without units
    AddTarget {
        /// Its name
        iqn: String,
        /// Who may log in: a name, a pattern with *, a network, or NAME@NETWORK; may be repeated. Everyone when left out
        #[arg(long = "initiator")]
        initiators: Vec<String>,
        /// A file of CHAP secrets; initiators' names are believed without one
        #[arg(long)]
        secrets: Option<PathBuf>,
        /// The target has to prove itself to initiators as well
        #[arg(long, requires = "secrets")]
        mutual: bool,
        /// Tag of a portal group that it is reached through; may be repeated. All when left out
        #[arg(long = "portal-group")]
        portal_groups: Vec<u16>,
        /// Initiators may change its ALUA states
        #[arg(long)]
        explicit_alua: bool,
    },
    /// Change who may log in to a target, how they prove it, which ways lead there, where they are sent
    ///
    /// What is not named stays. Sessions of initiators that may no longer log in, or not the way they came, end; the others go on.
    #[command(group = clap::ArgGroup::new("change").required(true).multiple(true))]
    SetTarget {
        /// Its name
        iqn: String,
        /// Who may log in from now on, as with add-target; `any` alone for all
        #[arg(long = "initiator", group = "change")]
        initiators: Vec<String>,
        /// How they prove who they are
        #[arg(long, group = "change", value_enum)]
        auth: Option<IscsiAuthentication>,
        /// A file of CHAP secrets; one that has changed is read again
        #[arg(long, requires = "auth")]
        secrets: Option<PathBuf>,
        /// Tag of a portal group that it is reached through from now on, only those; may be repeated
        #[arg(long = "portal-group", group = "change")]
        portal_groups: Vec<u16>,
        /// Initiators may change its ALUA states
        #[arg(long, group = "change")]
        explicit_alua: bool,
        /// They may not any more
        #[arg(long, group = "change", conflicts_with = "explicit_alua")]
        no_explicit_alua: bool,
        /// Address and port where they are sent instead
        #[arg(long, value_name = "ADDRESS", group = "change")]
        redirect: Option<SocketAddr>,
        /// They keep to it
        #[arg(long, requires = "redirect")]
        permanent: bool,
        /// They are sent nowhere any more
        #[arg(long, group = "change", conflicts_with = "redirect")]
        no_redirect: bool,
    },
    /// Take a target away: its sessions end
    RemoveTarget {
        /// Its name
        iqn: String,
    },
    /// Serve a mapped device as one more unit of a target
    AddLun {
        /// The target
        iqn: String,
        /// Number of the unit, from 0
        #[arg(long)]
        lun: u16,
        /// The mapped device
        #[arg(long)]
        device: String,
        /// Who sees it, as with add-target; everyone that may log in when left out
        #[arg(long = "initiator")]
        initiators: Vec<String>,
    },
    /// Change who sees a unit: commands of those that no longer do end
    SetLun {
        /// The target
        iqn: String,
        /// Number of the unit
        #[arg(long)]
        lun: u16,
        /// Who sees it, as with add-target; `any` alone for all that may log in
        #[arg(long = "initiator", required = true)]
        initiators: Vec<String>,
    },
    /// Take a unit away from its initiators: commands to it end
    RemoveLun {
        /// The target
        iqn: String,
        /// Number of the unit
        #[arg(long)]
        lun: u16,
    },
    /// Change the ALUA state of a target in a portal group: how its initiators may use that way
    Alua {
        /// The target
        iqn: String,
        /// Tag of the portal group
        #[arg(long)]
        portal_group: u16,
        /// The new state
        state: AluaState,
    },
    /// Listen on one more address; says which, with the port
    AddPortal {
        /// Address and port; port 0 lets the system choose
        address: SocketAddr,
        /// Tag of its group; a new one makes a group, for set-target to name
        #[arg(long)]
        portal_group: u16,
    },
    /// Listen on an address no longer; connections that came by it stay. The last of a group takes the group away
    RemovePortal {
        /// Address and port
        address: SocketAddr,
    },
    /// Change what initiators are asked before they are shown which targets there are
    SetDiscovery {
        /// How they prove who they are
        #[arg(long, value_enum)]
        auth: IscsiAuthentication,
        /// A file of CHAP secrets; one that has changed is read again
        #[arg(long)]
        secrets: Option<PathBuf>,
    },
    /// Change how long initiators may be silent before they are asked, then ended
    KeepAlive {
        /// From 1s to 1h
        #[arg(value_parser = crate::config::parse_duration)]
        time: Duration,
    },
}

/// Runs `polldm iscsi`.
pub(super) fn run(command: IscsiCommand, connection: &Connection) -> Result<(), Failure> {
    let json = command.json;
    let mut client = connection.open()?;
    let some = |list: Vec<String>| (!list.is_empty()).then_some(list);
    let done = match command.verb {
        Verb::Ls => {
            let result = client.call::<ExportLs>(&NoParams {})?.iscsi;
            return match (&result, json) {
                (result, true) => print_json(result),
                (Some(iscsi), false) => print(&text(iscsi)),
                (None, false) => print("No iSCSI target\n"),
            };
        }
        Verb::Sessions => {
            let result = client.call::<ExportLs>(&NoParams {})?.iscsi;
            let connections = result.unwrap_or_default().connections;
            return if json {
                print_json(&connections)
            } else {
                print(&sessions(&connections))
            };
        }
        Verb::AddTarget {
            iqn,
            initiators,
            secrets,
            mutual,
            portal_groups,
            explicit_alua,
        } => client.call::<IscsiAddTarget>(&AddTargetParams {
            iqn,
            initiators: some(initiators),
            secrets: secrets.map(absolute).transpose()?,
            mutual,
            portal_groups: (!portal_groups.is_empty()).then_some(portal_groups),
            explicit_alua,
        })?,
        Verb::SetTarget {
            iqn,
            initiators,
            auth,
            secrets,
            portal_groups,
            explicit_alua,
            no_explicit_alua,
            redirect,
            permanent,
            no_redirect,
        } => client.call::<IscsiSetTarget>(&SetTargetParams {
            iqn,
            initiators: some(initiators),
            authentication: auth,
            secrets: secrets.map(absolute).transpose()?,
            portal_groups: (!portal_groups.is_empty()).then_some(portal_groups),
            explicit_alua: (explicit_alua || no_explicit_alua).then_some(explicit_alua),
            redirect: redirect.map(|address| IscsiRedirect {
                address: address.to_string(),
                permanent,
            }),
            no_redirect,
        })?,
        Verb::RemoveTarget { iqn } => {
            client.call::<IscsiRemoveTarget>(&RemoveTargetParams { iqn })?
        }
        Verb::AddLun {
            iqn,
            lun,
            device,
            initiators,
        } => client.call::<IscsiAddLun>(&AddLunParams {
            iqn,
            lun,
            device,
            initiators: some(initiators),
        })?,
        Verb::SetLun {
            iqn,
            lun,
            initiators,
        } => client.call::<IscsiSetLun>(&SetLunParams {
            iqn,
            lun,
            initiators,
        })?,
        Verb::RemoveLun { iqn, lun } => {
            client.call::<IscsiRemoveLun>(&RemoveLunParams { iqn, lun })?
        }
        Verb::Alua {
            iqn,
            portal_group,
            state,
        } => client.call::<IscsiSetAlua>(&SetAluaParams {
            iqn,
            portal_group,
            state,
        })?,
        Verb::AddPortal {
            address,
            portal_group,
        } => {
            let result = client.call::<IscsiAddPortal>(&AddPortalParams {
                address: address.to_string(),
                portal_group,
            })?;
            return match json {
                true => print_json(&result),
                false => print(&format!("{}\n", result.address)),
            };
        }
        Verb::RemovePortal { address } => {
            let address = address.to_string();
            client.call::<IscsiRemovePortal>(&RemovePortalParams { address })?
        }
        Verb::SetDiscovery { auth, secrets } => {
            client.call::<IscsiSetDiscovery>(&SetDiscoveryParams {
                authentication: auth,
                secrets: secrets.map(absolute).transpose()?,
            })?
        }
        Verb::KeepAlive { time } => client.call::<IscsiSetKeepAlive>(&SetKeepAliveParams {
            milliseconds: time.as_millis() as u64,
        })?,
    };
    if json { print_json(&done) } else { Ok(()) }
}

/// A path as the server finds it, whose directory is another.
fn absolute(path: PathBuf) -> Result<String, Failure> {
    let absolute = std::path::absolute(&path)
        .map_err(|error| Failure::Operation(format!("`{}`: {error}", path.display())))?;
    absolute
        .into_os_string()
        .into_string()
        .map_err(|_| Failure::Operation(format!("`{}` is not UTF-8", path.display())))
}

/// Targets, units and who is logged in.
pub(super) fn text(iscsi: &schema::IscsiExport) -> String {
    let portals = iscsi.portals.iter().enumerate().map(|(index, portal)| {
        match iscsi.portal_tags.get(index) {
            Some(&tag) if tag != 1 => format!("{portal} (group {tag})"),
            _ => portal.clone(),
        }
    });
    let portals: Vec<String> = portals.collect();
    let mut text = format!("iSCSI on {}\n", portals.join(", "));
    if iscsi.discovery != IscsiAuthentication::None {
        text.push_str(&format!("discovery: {}\n", iscsi.discovery.name()));
    }
    for target in &iscsi.targets {
        let initiators = match &target.initiators {
            None => "any".to_owned(),
            Some(initiators) => initiators.join(", "),
        };
        text.push_str(&format!("\n{}\n  initiators: {initiators}\n", target.iqn));
        text.push_str(&format!(
            "  authentication: {}\n",
            target.authentication.name()
        ));
        for group in &target.portal_groups {
            let state = group.alua.name();
            text.push_str(&format!("  portal group {}: {state}\n", group.tag));
        }
        if target.explicit_alua {
            text.push_str("  initiators may change these states\n");
        }
        if let Some(redirect) = &target.redirect {
            let how = if redirect.permanent {
                "for good"
            } else {
                "each time"
            };
            text.push_str(&format!("  sent to {}, {how}\n", redirect.address));
        }
        for lun in &target.luns {
            let (number, device, serial) = (lun.lun, &lun.device, &lun.serial);
            text.push_str(&format!("  unit {number}: {device}  {serial}"));
            if let Some(initiators) = &lun.initiators {
                text.push_str(&format!("  for {}", initiators.join(", ")));
            }
            text.push('\n');
        }
    }
    if !iscsi.connections.is_empty() {
        text.push('\n');
        text.push_str(&sessions(&iscsi.connections));
    }
    text
}

fn sessions(connections: &[schema::IscsiConnection]) -> String {
    let columns = [
        Column::left("PEER"),
        Column::right("SESSION"),
        Column::right("OUTSTANDING"),
        Column::right("COMMANDS"),
        Column::right("READ"),
        Column::right("WRITTEN"),
        Column::right("REACTOR"),
        Column::left("DIGESTS"),
        Column::left("TARGET"),
        Column::left("INITIATOR"),
    ];
    let known = |text: &str| {
        if text.is_empty() {
            "-".to_owned()
        } else {
            text.to_owned()
        }
    };
    let row = |connection: &schema::IscsiConnection| {
        vec![
            known(&connection.peer),
            connection.session.to_string(),
            connection.outstanding.to_string(),
            connection.commands.to_string(),
            bytes(connection.read_bytes),
            bytes(connection.written_bytes),
            connection.reactor.to_string(),
            digests(connection.header_digest, connection.data_digest).to_owned(),
            known(&connection.iqn),
            known(&connection.initiator),
        ]
    };
    let rows: Vec<_> = connections.iter().map(row).collect();
    render(&columns, &rows, Layout::OURS)
}
