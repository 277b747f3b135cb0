//! SPDK's targets, as operators see them, in the words of the schema.

use serde_json::Value;

use super::schema::{
    IscsiAuthentication, IscsiEvents, IscsiExport, IscsiGroup, IscsiLun, IscsiTarget, Namespace,
    NvmfEvents, NvmfExport, Subsystem,
};
use crate::config::{AluaState, AnaState};
use crate::dm::DeviceId;
use crate::spdk::{self, Export};

/// The NVMe-oF target, as SPDK tells of it. Connections and their events are SPDK's own affair: `rpc.py nvmf_get_stats` and `nvmf_subsystem_get_qpairs` tell of them.
pub(super) fn nvmf_export(export: &Export) -> NvmfExport {
    let subsystems = export.subsystems().unwrap_or_default();
    NvmfExport {
        events: NvmfEvents::default(),
        listeners: export.listeners(),
        subsystems: subsystems
            .iter()
            .map(|told| subsystem(export, told))
            .collect(),
        connections: Vec::new(),
    }
}

fn subsystem(export: &Export, told: &Value) -> Subsystem {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let nqn = text(&told["nqn"]);
    let ana = match export.ana(&nqn).as_deref() {
        Some("non_optimized") => AnaState::NonOptimized,
        Some("inaccessible") => AnaState::Inaccessible,
        _ => AnaState::Optimized,
    };
    Subsystem {
        nqn: nqn.clone(),
        hosts: match told["allow_any_host"].as_bool() {
            Some(true) => None,
            _ => Some(
                list(&told["hosts"])
                    .iter()
                    .map(|host| text(&host["nqn"]))
                    .collect(),
            ),
        },
        ana,
        namespaces: list(&told["namespaces"])
            .iter()
            .map(|namespace| {
                let nsid = namespace["nsid"].as_u64().unwrap_or_default() as u32;
                Namespace {
                    nsid,
                    device: export.device_name(&nqn, nsid).unwrap_or_default(),
                    uuid: text(&namespace["uuid"]),
                }
            })
            .collect(),
        controllers: Vec::new(),
    }
}

fn authentication(chap: Option<&spdk::Chap>) -> IscsiAuthentication {
    match chap {
        None => IscsiAuthentication::None,
        Some(chap) if chap.mutual => IscsiAuthentication::MutualChap,
        Some(_) => IscsiAuthentication::Chap,
    }
}

/// The iSCSI target. Connections are SPDK's own affair here, too: `rpc.py iscsi_get_connections`.
pub(super) fn iscsi_export(export: &spdk::IscsiExport) -> IscsiExport {
    let unit = |(lun, device): &(u16, DeviceId)| IscsiLun {
        lun: *lun,
        device: export.device_name(*device).unwrap_or_default(),
        // What SPDK answers to an INQUIRY.
        serial: export.bdev_name(*device).unwrap_or_default(),
        initiators: None,
    };
    let group = |tag: &u16| IscsiGroup {
        tag: *tag,
        alua: AluaState::Optimized,
    };
    let target = |target: &spdk::Target| IscsiTarget {
        iqn: target.iqn.clone(),
        initiators: target.initiators.clone(),
        authentication: authentication(target.chap.as_ref()),
        portal_groups: target.groups.iter().map(group).collect(),
        explicit_alua: false,
        redirect: None,
        luns: target.luns.iter().map(unit).collect(),
    };
    IscsiExport {
        portals: export
            .portals()
            .iter()
            .map(|(address, _)| address.to_string())
            .collect(),
        portal_tags: export.portals().iter().map(|(_, tag)| *tag).collect(),
        discovery: authentication(export.discovery()),
        targets: export.targets().iter().map(target).collect(),
        connections: Vec::new(),
        events: IscsiEvents::default(),
    }
}
