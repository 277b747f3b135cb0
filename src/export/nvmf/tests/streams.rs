//! Property tests: streams of commands, good and bad, cut anywhere, give the same answers; and the device holds what a
//! plain array would hold.

use proptest::prelude::*;

use super::super::harness::{BLOCKS, Harness, capsule_with, fuzz_connection};
use super::host::{Answer, answers};
use crate::nvme::command::Fuse;
use crate::nvme::opcode::io;
use crate::nvme::pdu::{Digests, FLAG_LAST, Kind, Transfer};
use crate::nvme::{Command, DataPointer};

/// One step of a host.
#[derive(Clone, Debug)]
struct Step {
    opcode: u8,
    nsid: u32,
    lba: u64,
    count: u32,
    fuse: u8,
    in_capsule: bool,
    fill: u8,
}

fn step() -> impl Strategy<Value = Step> {
    let opcode = prop_oneof![
        4 => Just(io::READ), 4 => Just(io::WRITE), 1 => Just(io::COMPARE), 1 => Just(io::WRITE_ZEROES),
        1 => Just(io::FLUSH), 1 => Just(io::VERIFY), 1 => any::<u8>()
    ];
    let nsid = prop_oneof![9 => Just(1u32), 1 => any::<u32>()];
    let lba = prop_oneof![9 => 0..BLOCKS + 2, 1 => any::<u64>()];
    let fuse = prop_oneof![8 => Just(0u8), 1 => 1u8..4];
    (opcode, nsid, lba, 1u32..9, fuse, any::<bool>(), any::<u8>()).prop_map(
        |(opcode, nsid, lba, count, fuse, in_capsule, fill)| Step {
            opcode,
            nsid,
            lba,
            count,
            fuse,
            in_capsule,
            fill,
        },
    )
}

impl Step {
    fn bytes(&self, id: u16, digests: Digests) -> Vec<u8> {
        let mut command = Command::block_io(self.opcode, self.nsid, self.lba, self.count);
        command.set_command_id(id);
        command.set_fuse(
            [Fuse::Normal, Fuse::First, Fuse::Second, Fuse::Reserved][usize::from(self.fuse)],
        );
        let size = self.count * 512;
        let takes_data = matches!(self.opcode, io::WRITE | io::COMPARE);
        if takes_data && self.in_capsule {
            command.set_data_pointer(DataPointer::in_capsule(0, size));
            return capsule_with(&command, &vec![self.fill; size as usize], digests);
        }
        command.set_data_pointer(DataPointer::transport(size));
        capsule_with(&command, &[], digests)
    }
}

/// Runs the steps one after the other, answering R2Ts at once; everything that came back.
fn run(steps: &[Step], digests: Digests, piece: usize) -> (Vec<Answer>, Vec<u8>) {
    let mut harness = Harness::new();
    harness.connect_io(digests, true);
    let mut all = Vec::new();
    for (index, step) in steps.iter().enumerate() {
        harness.feed(&step.bytes(index as u16, digests), piece);
        loop {
            let got = answers(&mut harness);
            if got.is_empty() {
                break;
            }
            for answer in &got {
                if let Answer::Ready(ready) = answer {
                    let step = &steps[usize::from(ready.command_id)];
                    let data = vec![step.fill; ready.size as usize];
                    let mut bytes = vec![0; 28];
                    let offset = Transfer { ..*ready }.encode_data(
                        &mut bytes,
                        Kind::HostData,
                        FLAG_LAST,
                        digests,
                        0,
                    );
                    bytes.truncate(offset);
                    bytes.extend_from_slice(&data);
                    if digests.data {
                        bytes.extend_from_slice(&crate::nvme::pdu::digest(&data).to_le_bytes());
                    }
                    harness.feed(&bytes, piece);
                }
            }
            all.extend(got);
        }
    }
    let contents = harness.backend.bytes.to_vec();
    harness.disconnect_admin();
    harness.close();
    (all, contents)
}

/// What the device must hold afterwards: the obvious way.
fn oracle(steps: &[Step]) -> Vec<u8> {
    let mut contents = vec![0; BLOCKS as usize * 512];
    let mut index = 0;
    while index < steps.len() {
        let step = &steps[index];
        index += 1;
        let end = step.lba.checked_add(u64::from(step.count));
        let valid = |step: &Step| step.nsid == 1 && end.is_some_and(|end| end <= BLOCKS);
        if !valid(step) {
            continue;
        }
        let range = step.lba as usize * 512..(step.lba as usize + step.count as usize) * 512;
        match (step.opcode, step.fuse) {
            (io::WRITE, 0) => contents[range].fill(step.fill),
            (io::WRITE_ZEROES, 0) => contents[range].fill(0),
            (io::COMPARE, 1) => {
                if let Some(second) = steps.get(index).filter(|second| {
                    second.opcode == io::WRITE
                        && second.fuse == 2
                        && (second.nsid, second.lba, second.count)
                            == (step.nsid, step.lba, step.count)
                }) {
                    index += 1;
                    if contents[range.clone()]
                        .iter()
                        .all(|&byte| byte == step.fill)
                    {
                        contents[range].fill(second.fill);
                    }
                }
            }
            _ => {}
        }
    }
    contents
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn cutting_changes_nothing(
        steps in proptest::collection::vec(step(), 1..40),
        piece in 1usize..700,
        header: bool,
        data: bool,
    ) {
        let digests = Digests { header, data };
        let whole = run(&steps, digests, usize::MAX);
        let cut = run(&steps, digests, piece);
        prop_assert_eq!(&whole, &cut);
        prop_assert!(whole.1 == oracle(&steps));
    }

    #[test]
    fn no_bytes_make_it_panic_or_leak(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        fuzz_connection(&bytes);
    }

    /// A good stream with a few bytes changed.
    #[test]
    fn damaged_streams_do_no_harm(
        steps in proptest::collection::vec(step(), 1..20),
        damage in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 0..6),
        mode: u8,
    ) {
        let digests = Digests { header: mode & 0x10 != 0, data: mode & 0x20 != 0 };
        let mut bytes = vec![mode | 3];
        for (index, step) in steps.iter().enumerate() {
            bytes.extend(step.bytes(index as u16, digests));
        }
        for (index, value) in damage {
            let index = index.index(bytes.len());
            if index > 0 {
                bytes[index] = value;
            }
        }
        fuzz_connection(&bytes);
    }
}
