//! The iSCSI target of a native engine's node, as operators reach it.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use super::iscsi::IscsiTargets;
use super::native::{command_stats, export_error};
use super::schema::{
    AddLunParams, AddPortalParams, AddTargetParams, IscsiAuthentication, IscsiConnection,
    IscsiEvents, IscsiExport, IscsiGroup, IscsiLun, IscsiRedirect, IscsiTarget, RemoveLunParams,
    RemovePortalParams, RemoveTargetParams, SessionStats, SetAluaParams, SetDiscoveryParams,
    SetKeepAliveParams, SetLunParams, SetTargetParams, UnitStats,
};
use crate::dm::{Errno, Error};
use crate::export::iscsi;
use crate::export::stats::Kind;
use crate::node::{ChangedTarget, NewTarget, Node};

impl IscsiTargets for Node {
    fn unit_stats(&self) -> Vec<UnitStats> {
        let Some(iscsi) = self.iscsi() else {
            return Vec::new();
        };
        let of = |report: iscsi::UnitReport| UnitStats {
            operations: command_stats(&report.stats),
            iqn: report.iqn,
            lun: report.lun,
            device: report.device_name,
        };
        iscsi.stats(self.engine()).into_iter().map(of).collect()
    }

    fn session_stats(&self) -> Vec<SessionStats> {
        let Some(iscsi) = self.iscsi() else {
            return Vec::new();
        };
        let of = |report: iscsi::ConnectionReport| SessionStats {
            operations: command_stats(&report.stats),
            iqn: report.iqn,
            initiator: report.initiator,
            session: report.session,
        };
        let connections = iscsi.snapshot(self.engine()).connections.into_iter();
        // Discovery, and who is not logged in yet, has no target.
        let sessions = connections.filter(|report| !report.iqn.is_empty());
        sessions.map(of).collect()
    }

    fn add_target(&self, params: &AddTargetParams) -> Result<(), Error> {
        let wanted = NewTarget {
            iqn: &params.iqn,
            initiators: params.initiators.as_deref(),
            chap: params
                .secrets
                .as_ref()
                .map(|path| (Path::new(path), params.mutual)),
            groups: params.portal_groups.as_deref(),
            explicit_alua: params.explicit_alua,
        };
        Node::add_target(self, &wanted).map_err(export_error)
    }

    fn set_target(&self, params: &SetTargetParams) -> Result<(), Error> {
        let chap = match (params.authentication, &params.secrets) {
            (None, None) => None,
            (Some(wanted), secrets) => Some(authentication(wanted, secrets.as_ref())?),
            (None, Some(_)) => {
                return Err(invalid(
                    "secrets are for the authentication `chap` or `mutual-chap`",
                ));
            }
        };
        let redirect = match &params.redirect {
            Some(_) if params.no_redirect => {
                return Err(invalid("initiators are sent somewhere, or nowhere"));
            }
            Some(redirect) => Some(Some((
                socket_address(&redirect.address)?,
                redirect.permanent,
            ))),
            None => params.no_redirect.then_some(None),
        };
        let asked = (&params.initiators, chap, redirect);
        let ways = (&params.portal_groups, params.explicit_alua);
        if asked == (&None, None, None) && ways == (&None, None) {
            return Err(invalid("nothing to change"));
        }
        let wanted = ChangedTarget {
            iqn: &params.iqn,
            initiators: params.initiators.as_deref(),
            chap,
            groups: params.portal_groups.as_deref(),
            explicit_alua: params.explicit_alua,
            redirect,
        };
        Node::set_target(self, &wanted).map_err(export_error)
    }

    fn remove_target(&self, params: &RemoveTargetParams) -> Result<(), Error> {
        Node::remove_target(self, &params.iqn).map_err(export_error)
    }

    fn add_lun(&self, params: &AddLunParams) -> Result<(), Error> {
        let seen_by = params.initiators.as_deref();
        self.add_unit(&params.iqn, params.lun, &params.device, seen_by)
            .map_err(export_error)
    }

    fn set_lun(&self, params: &SetLunParams) -> Result<(), Error> {
        self.set_unit(&params.iqn, params.lun, &params.initiators)
            .map_err(export_error)
    }

    fn remove_lun(&self, params: &RemoveLunParams) -> Result<(), Error> {
        self.remove_unit(&params.iqn, params.lun)
            .map_err(export_error)
    }

    fn set_alua(&self, params: &SetAluaParams) -> Result<(), Error> {
        Node::set_alua(self, &params.iqn, params.portal_group, params.state).map_err(export_error)
    }

    fn add_portal(&self, params: &AddPortalParams) -> Result<String, Error> {
        let address = socket_address(&params.address)?;
        let bound = Node::add_portal(self, address, params.portal_group).map_err(export_error)?;
        Ok(bound.to_string())
    }

    fn remove_portal(&self, params: &RemovePortalParams) -> Result<(), Error> {
        let address = socket_address(&params.address)?;
        Node::remove_portal(self, address).map_err(export_error)
    }

    fn set_discovery(&self, params: &SetDiscoveryParams) -> Result<(), Error> {
        let chap = authentication(params.authentication, params.secrets.as_ref())?;
        Node::set_discovery(self, chap).map_err(export_error)
    }

    fn set_keep_alive(&self, params: &SetKeepAliveParams) -> Result<(), Error> {
        let span = Duration::from_millis(params.milliseconds);
        self.set_iscsi_keep_alive(span).map_err(export_error)
    }
}

/// A file of secrets, and whether the target has to prove itself as well; `None` for no proof at all.
fn authentication(
    wanted: IscsiAuthentication,
    secrets: Option<&String>,
) -> Result<Option<(&Path, bool)>, Error> {
    match (wanted, secrets.map(Path::new)) {
        (IscsiAuthentication::None, None) => Ok(None),
        (IscsiAuthentication::None, Some(_)) => {
            Err(invalid("without authentication there are no secrets"))
        }
        (IscsiAuthentication::Chap, Some(path)) => Ok(Some((path, false))),
        (IscsiAuthentication::MutualChap, Some(path)) => Ok(Some((path, true))),
        (_, None) => Err(invalid("CHAP needs a file of secrets")),
    }
}

/// What has to be proved, as it is told: `true` where the target has to as well.
fn shown(chap: Option<bool>) -> IscsiAuthentication {
    match chap {
        None => IscsiAuthentication::None,
        Some(false) => IscsiAuthentication::Chap,
        Some(true) => IscsiAuthentication::MutualChap,
    }
}

fn invalid(reason: &str) -> Error {
    Error::new(Errno::Einval, reason)
}

fn socket_address(text: &str) -> Result<SocketAddr, Error> {
    text.parse().map_err(|_| {
        invalid(&format!(
            "`{text}` is no address and port, such as 192.0.2.8:3260 or [2001:db8::8]:3260"
        ))
    })
}

/// The initiators of a list, as they were written; `None` for all.
fn rules(initiators: &iscsi::Initiators) -> Option<Vec<String>> {
    match initiators {
        iscsi::Initiators::Any => None,
        iscsi::Initiators::List(list) => {
            Some(list.iter().map(|rule| rule.text().to_owned()).collect())
        }
    }
}

pub(super) fn iscsi_export(snapshot: &iscsi::Snapshot) -> IscsiExport {
    let connection = |report: &iscsi::ConnectionReport| IscsiConnection {
        peer: report.peer.clone(),
        initiator: report.initiator.clone(),
        iqn: report.iqn.clone(),
        session: report.session,
        outstanding: report.outstanding as u64,
        reactor: report.core,
        commands: report.stats.commands(),
        read_bytes: report.stats.kind(Kind::Read).sectors * 512,
        written_bytes: report.stats.kind(Kind::Write).sectors * 512,
        header_digest: report.digests.0,
        data_digest: report.digests.1,
    };
    let target = |target: &iscsi::TargetSnapshot| IscsiTarget {
        iqn: target.iqn.clone(),
        initiators: rules(&target.initiators),
        portal_groups: target
            .ports
            .iter()
            .map(|&(tag, access)| IscsiGroup {
                tag,
                alua: access.into(),
            })
            .collect(),
        explicit_alua: target.explicit_alua,
        redirect: target.redirect.as_ref().map(|redirect| IscsiRedirect {
            address: redirect.address.to_string(),
            permanent: redirect.is_permanent,
        }),
        authentication: shown(target.chap),
        luns: target
            .luns
            .iter()
            .map(|lun| IscsiLun {
                lun: lun.lun,
                device: lun.device.clone(),
                serial: lun.serial.clone(),
                initiators: rules(&lun.initiators),
            })
            .collect(),
    };
    IscsiExport {
        events: IscsiEvents {
            accepted: snapshot.accepted,
            refused: snapshot.refused,
            violations: snapshot.violations,
            logins_refused: snapshot.logins_refused,
        },
        portals: snapshot
            .addresses
            .iter()
            .map(|(address, _)| address.to_string())
            .collect(),
        portal_tags: snapshot.addresses.iter().map(|(_, tag)| *tag).collect(),
        discovery: shown(snapshot.discovery),
        targets: snapshot.targets.iter().map(target).collect(),
        connections: snapshot.connections.iter().map(connection).collect(),
    }
}
