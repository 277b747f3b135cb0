//! A device that has another size, on two cores.

use super::super::background::Background;
use super::super::harness::{BLOCKS, Harness};
use super::super::session::Local;
use super::super::unit::LocalUnits;
use crate::dm::{CoreId, DeviceId, Geometry};
use crate::export::chunk::ChunkPool;
use crate::iscsi::pdu::opcode;

const DEVICE: DeviceId = DeviceId(0);

/// A core that serves the target of a harness beside the harness's own.
fn second_core(harness: &Harness) -> Local {
    Local {
        core: CoreId(1),
        chunks: ChunkPool::default(),
        units: LocalUnits::new(&harness.target, |_| harness.backend.geometry),
        outbox: Vec::new(),
        waiters: Vec::new(),
        background: Background::default(),
    }
}

/// READ CAPACITY (10) over the harness's core: the last block, or additional sense code and qualifier of what it was told instead.
fn capacity(harness: &mut Harness) -> Result<u64, (u8, u8)> {
    harness.command(3, &[0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0], 8, &[]);
    let sent = harness.take().remove(0);
    if sent.header.opcode() == opcode::DATA_IN {
        return Ok(u64::from(u32::from_be_bytes(
            sent.data[..4].try_into().expect("four bytes"),
        )));
    }
    Err((sent.data[14], sent.data[15]))
}

fn of(harness: &Harness, sectors: u64) -> Option<Geometry> {
    let geometry = harness.backend.geometry?;
    Some(Geometry {
        sectors,
        ..geometry
    })
}

const CHANGED: (u8, u8) = (0x2A, 0x09);

/// SBC-3, 4.7.1: whichever core hears of a size first, initiators are told when the last does, once, also when a second size overtakes the first.
#[test]
fn a_size_is_told_when_all_cores_know_it() {
    for own_first in [true, false] {
        let mut harness = Harness::on_first_of(2);
        harness.login("HeaderDigest=None");
        harness.attend();
        let mut other = second_core(&harness);
        assert_eq!(capacity(&mut harness), Ok(BLOCKS - 1));
        let [small, smaller] = [100, 50].map(|sectors| of(&harness, sectors));
        let hears = |harness: &mut Harness, other: &mut Local, own: bool, size| {
            let core = if own { &mut harness.local } else { other };
            core.device_changed(&harness.target, DEVICE, size);
        };
        hears(&mut harness, &mut other, own_first, small);
        let last = if own_first { 99 } else { BLOCKS - 1 };
        assert_eq!(capacity(&mut harness), Ok(last), "nobody is told yet");
        hears(&mut harness, &mut other, !own_first, small);
        assert_eq!(capacity(&mut harness), Err(CHANGED));
        assert_eq!(capacity(&mut harness), Ok(99));

        hears(&mut harness, &mut other, own_first, smaller);
        hears(&mut harness, &mut other, own_first, small);
        hears(&mut harness, &mut other, !own_first, smaller);
        assert!(capacity(&mut harness).is_ok(), "they do not agree");
        hears(&mut harness, &mut other, !own_first, small);
        assert_eq!(capacity(&mut harness), Err(CHANGED));
        assert_eq!(capacity(&mut harness), Ok(99));

        // The same size with other limits is no news; nor is a device that goes.
        let mut read_only = small;
        read_only
            .iter_mut()
            .for_each(|geometry| geometry.read_only = true);
        for size in [read_only, None] {
            for own in [true, false] {
                hears(&mut harness, &mut other, own, size);
            }
            assert_ne!(capacity(&mut harness), Err(CHANGED));
        }
        harness.close();
    }
}
