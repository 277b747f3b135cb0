//! INQUIRY (SPC-4, 6.6) and its vital product data (SPC-4, 7.8; SBC-3, 6.6).

use super::cdb::Cdb;
use super::sense::{Outcome, Sense};
use super::serve::{Call, Limits};
use super::unit::Identity;
use super::{Atomic, Plan, copy, padded};
use crate::dm::Geometry;

/// Claimed versions (SPC-4, table 144): SAM-5, SPC-4, SBC-3, iSCSI.
const VERSIONS: [u16; 4] = [0x00A0, 0x0460, 0x04C0, 0x0960];

/// The peripheral of a LUN with nothing behind it (SPC-4, table 141).
const NOTHING: u8 = 0x7F;

/// What the target port is known by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// Relative target port identifier.
    pub number: u16,
    /// Target port group.
    pub group: u16,
    /// Name of the port, as iSCSI writes it.
    pub name: String,
}

/// INQUIRY to a LUN without a unit: standard data that say so, and the list of no pages.
pub(super) fn nothing(cdb: &Cdb) -> Result<Plan, Outcome> {
    check(cdb)?;
    let data = if cdb.bit(1, 0) {
        if cdb.byte(2) != 0 {
            return Err(Sense::invalid_field(2, None).into());
        }
        vec![NOTHING, 0, 0, 1, 0]
    } else {
        standard(NOTHING, "POLLDM", "")
    };
    Ok(Plan::answer(data, u32::from(cdb.u16(3))))
}

/// INQUIRY to the well-known unit REPORT LUNS.
pub(super) fn well_known(cdb: &Cdb) -> Result<Plan, Outcome> {
    check(cdb)?;
    if cdb.bit(1, 0) {
        if cdb.byte(2) != 0 {
            return Err(Sense::invalid_field(2, None).into());
        }
        return Ok(Plan::answer(vec![0x1E, 0, 0, 1, 0], u32::from(cdb.u16(3))));
    }
    let data = standard(0x1E, "POLLDM", "report luns");
    Ok(Plan::answer(data, u32::from(cdb.u16(3))))
}

fn check(cdb: &Cdb) -> Result<(), Outcome> {
    // CMDDT is obsolete.
    if cdb.bit(1, 1) {
        return Err(Sense::invalid_field(1, Some(1)).into());
    }
    // A page code without EVPD asks for nothing that there is.
    if !cdb.bit(1, 0) && cdb.byte(2) != 0 {
        return Err(Sense::invalid_field(2, None).into());
    }
    Ok(())
}

fn standard(peripheral: u8, vendor: &str, product: &str) -> Vec<u8> {
    let mut data = vec![0; 74];
    data[0] = peripheral;
    // SPC-4.
    data[2] = 0x06;
    // HISUP; response data format 2. NORMACA, where a task set can be at fault.
    data[3] = 0x12 | u8::from(peripheral == 0) << 5;
    data[4] = (data.len() - 5) as u8;
    // TPGS: implicit. 3PC, where there is something to copy.
    data[5] = 0x10 | u8::from(peripheral == 0) << 3;
    // CMDQUE.
    data[7] = 0x02;
    data[8..16].copy_from_slice(&padded::<8>(vendor));
    data[16..32].copy_from_slice(&padded::<16>(product));
    data[32..36].copy_from_slice(&padded::<4>(concat!(
        env!("CARGO_PKG_VERSION_MAJOR"),
        ".",
        env!("CARGO_PKG_VERSION_MINOR")
    )));
    for (place, version) in data[58..].chunks_exact_mut(2).zip(VERSIONS) {
        place.copy_from_slice(&version.to_be_bytes());
    }
    data
}

/// INQUIRY to a unit.
pub(super) fn inquiry(call: &mut Call<'_>) -> Result<Plan, Outcome> {
    let cdb = call.cdb;
    check(&cdb)?;
    let identity = &call.unit.identity;
    let data = if cdb.bit(1, 0) {
        let code = cdb.byte(2);
        let (_, make) = PAGES
            .iter()
            .find(|(known, _)| *known == code)
            .ok_or(Sense::invalid_field(2, None))?;
        let body = make(call);
        let mut data = vec![0, code, 0, 0];
        data[2..4].copy_from_slice(&(body.len() as u16).to_be_bytes());
        data.extend_from_slice(&body);
        data
    } else {
        let mut data = standard(0, &identity.vendor, &identity.product);
        if call.directory.is_explicit() {
            // TPGS: explicit as well.
            data[5] |= 0x20;
        }
        data
    };
    Ok(Plan::answer(data, u32::from(cdb.u16(3))))
}

type Make = fn(&Call<'_>) -> Vec<u8>;

/// Every page of vital product data, in ascending order.
const PAGES: &[(u8, Make)] = &[
    (0x00, |_| PAGES.iter().map(|(code, _)| *code).collect()),
    (0x80, |call| call.unit.identity.serial.clone().into_bytes()),
    (0x83, |call| identification(&call.unit.identity, call.port)),
    (0x85, |_| Vec::new()),
    (0x86, |call| extended(&call.geometry)),
    (0x87, |_| mode_policy()),
    (0x88, |call| ports(&call.directory.ports())),
    (0x8F, |call| copy::vital_product_data(call)),
    (0xB0, |call| limits(&call.geometry)),
    (0xB1, |_| characteristics()),
    (0xB2, |call| provisioning(&call.geometry)),
];

fn designator(code_set: u8, association: u8, kind: u8, value: &[u8]) -> Vec<u8> {
    // Protocol identifier 5h is iSCSI; PIV says that it holds, for ports and target devices.
    let protocol = if association == 0 { 0 } else { 0x50 };
    let valid = if association == 0 { 0 } else { 0x80 };
    let mut bytes = vec![
        protocol | code_set,
        valid | association << 4 | kind,
        0,
        value.len() as u8,
    ];
    bytes.extend_from_slice(value);
    bytes
}

/// A name in UTF-8, ended by a zero byte and padded to a multiple of four (SPC-4, 7.8.6.10).
fn name_string(name: &str) -> Vec<u8> {
    let mut bytes = name.as_bytes().to_vec();
    bytes.push(0);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

const BINARY: u8 = 1;
const ASCII: u8 = 2;
const UTF8: u8 = 3;
const OF_UNIT: u8 = 0;
const OF_PORT: u8 = 1;
const OF_TARGET: u8 = 2;

/// The unit's name, locally assigned (NAA 3h; SPC-4, 7.8.6.6.4): nobody has given polldm a number of its own.
pub(super) fn naa(identity: &Identity) -> [u8; 8] {
    let mut name: [u8; 8] = std::array::from_fn(|index| identity.uuid[index]);
    name[0] = name[0] & 0x0F | 0x30;
    name
}

/// The designators of a unit itself, by which an EXTENDED COPY may name it.
pub(super) fn names(identity: &Identity) -> [Vec<u8>; 2] {
    let mut vendor_specific = padded::<8>(&identity.vendor).to_vec();
    vendor_specific.extend_from_slice(identity.serial.as_bytes());
    [
        designator(BINARY, OF_UNIT, 3, &naa(identity)),
        designator(ASCII, OF_UNIT, 1, &vendor_specific),
    ]
}

/// Device Identification (SPC-4, 7.8.6).
fn identification(identity: &Identity, port: &Port) -> Vec<u8> {
    let [number, group] = [port.number, port.group].map(|value| {
        let [high, low] = value.to_be_bytes();
        [0, 0, high, low]
    });
    [
        names(identity).concat(),
        designator(BINARY, OF_PORT, 4, &number),
        designator(BINARY, OF_PORT, 5, &group),
        designator(UTF8, OF_PORT, 8, &name_string(&port.name)),
        designator(UTF8, OF_TARGET, 8, &name_string(&identity.target)),
    ]
    .concat()
}

/// Extended INQUIRY Data (SPC-4, 7.8.7): HEADSUP, ORDSUP, SIMPSUP; V_SUP where there is a cache.
fn extended(geometry: &Geometry) -> Vec<u8> {
    let mut body = vec![0; 60];
    body[1] = 0x07;
    body[2] = u8::from(geometry.volatile_cache);
    // LUICLR: unit attentions of a cleared I_T nexus go with it.
    body[3] = 0x01;
    body
}

/// Mode Page Policy (SPC-4, 7.8.9): every page is shared by all.
fn mode_policy() -> Vec<u8> {
    vec![0x3F, 0xFF, 0, 0]
}

/// SCSI Ports (SPC-4, 7.8.10): all ports of the target.
fn ports(ports: &[Port]) -> Vec<u8> {
    let mut body = Vec::new();
    for port in ports {
        let name = designator(UTF8, OF_PORT, 8, &name_string(&port.name));
        let [high, low] = port.number.to_be_bytes();
        // No initiator port has a transport identifier here.
        body.extend_from_slice(&[0, 0, high, low, 0, 0, 0, 0, 0, 0]);
        body.extend_from_slice(&(name.len() as u16).to_be_bytes());
        body.extend_from_slice(&name);
    }
    body
}

/// Block Limits (SBC-3, 6.6.4; of atomic writes, SBC-4).
fn limits(geometry: &Geometry) -> Vec<u8> {
    let limits = Limits::of(geometry);
    let mut body = vec![0; 60];
    // WSNZ: a WRITE SAME of no blocks is refused.
    body[0] = 0x01;
    body[1] = limits.compare_and_write_blocks as u8;
    let granularity = u16::try_from(limits.optimal_blocks).unwrap_or(u16::MAX);
    body[2..4].copy_from_slice(&granularity.to_be_bytes());
    let mut put = |at: usize, value: u32| body[at..at + 4].copy_from_slice(&value.to_be_bytes());
    put(4, limits.transfer_blocks);
    put(8, limits.transfer_blocks);
    put(12, limits.transfer_blocks);
    if geometry.discard {
        put(16, limits.unmap_blocks);
        put(20, limits.unmap_descriptors);
        put(24, limits.unmap_granularity_blocks);
    }
    let Atomic {
        blocks_max,
        alignment,
    } = limits.atomic;
    let atomic = [blocks_max, alignment, alignment, blocks_max, blocks_max];
    (40..)
        .step_by(4)
        .zip(atomic)
        .for_each(|(at, value)| put(at, value));
    body[32..40].copy_from_slice(&u64::from(limits.write_same_blocks).to_be_bytes());
    body
}

/// Block Device Characteristics (SBC-3, 6.6.2): does not rotate.
fn characteristics() -> Vec<u8> {
    let mut body = vec![0; 60];
    body[1] = 1;
    // FUAB: SYNCHRONIZE CACHE and FUA are about the same cache. VBULS: VERIFY finds blocks that were unmapped.
    body[4] = 0x03;
    body
}

/// Logical Block Provisioning (SBC-3, 6.6.5).
fn provisioning(geometry: &Geometry) -> Vec<u8> {
    let mut body = vec![0; 4];
    if geometry.discard {
        // LBPU, LBPWS, LBPWS10; LBPRZ; thin provisioned.
        body[1] = 0xE0 | u8::from(geometry.discard_zeroes) << 2;
        body[2] = 0x02;
    }
    body
}
