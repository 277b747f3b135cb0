//! What the wire format costs: parsing a stream of commands where it lies, writing headers, and digests.
//!
//! `cargo bench --bench pdu`. A parsed command is its common header checked against what was negotiated and its 64 bytes taken out, as the
//! target does for every command of a turn; the figure is for one of 128.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use polldm::nvme::pdu::{
    COMMAND_HEADER_SIZE, DATA_HEADER_SIZE, DIGEST_SIZE, Digests, FLAG_LAST, FLAG_SUCCESS,
    HEADER_SIZE_MAX, Kind, Layout, Receiver, Rules, TermReason, Transfer, check_header_digest,
    decode_command, decode_header, digest, encode_command,
};
use polldm::nvme::{Command, DataPointer, opcode};

/// Commands in the stream: a full queue of depth 128 that was received at once.
const COMMANDS: u16 = 128;
/// Bytes of each transfer.
const TRANSFER_BYTES: u32 = 4096;

const PLAIN: Digests = Digests {
    header: false,
    data: false,
};
const HEADER_DIGEST: Digests = Digests {
    header: true,
    data: false,
};

/// What a controller with 16 KiB of in-capsule data holds commands against.
fn rules(digests: Digests) -> Rules {
    Rules {
        receiver: Receiver::Controller,
        header_digest: digests.header,
        data_digest: digests.data,
        alignment: 0,
        capsule_data_size_max: 16 << 10,
        data_size_max: 256 << 10,
    }
}

/// Reads of 4 KiB, one after the other, as a host sends them.
fn stream(digests: Digests) -> Vec<u8> {
    let mut bytes = Vec::new();
    for command_id in 0..COMMANDS {
        let mut command = Command::block_io(opcode::io::READ, 1, u64::from(command_id) * 8, 8);
        command.set_command_id(command_id);
        command.set_data_pointer(DataPointer::transport(TRANSFER_BYTES));
        let mut header = [0; COMMAND_HEADER_SIZE + DIGEST_SIZE];
        let size = encode_command(&mut header, &command, digests, 0, 0);
        bytes.extend_from_slice(&header[..size]);
    }
    bytes
}

/// The next PDU of a stream, checked, and its command.
#[inline(always)]
fn next_command(bytes: &[u8], rules: &Rules) -> Result<(Layout, Command), TermReason> {
    let layout = decode_header(bytes, rules)?;
    if layout.header_digest {
        check_header_digest(bytes, COMMAND_HEADER_SIZE)?;
    }
    Ok((layout, decode_command(bytes)))
}

fn parsing(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("CapsuleCmd, 128 in a buffer");
    group.throughput(Throughput::Elements(u64::from(COMMANDS)));
    for (name, digests) in [("plain", PLAIN), ("header digest", HEADER_DIGEST)] {
        let (bytes, rules) = (stream(digests), rules(digests));
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                let mut rest = black_box(&bytes[..]);
                let mut seen = 0;
                while !rest.is_empty() {
                    let (layout, command) = next_command(rest, &rules).expect("a good stream");
                    black_box(&command);
                    rest = &rest[layout.total_size as usize..];
                    seen += 1;
                }
                assert_eq!(seen, COMMANDS, "every command was parsed");
            });
        });
    }
    group.finish();
}

fn encoding(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("C2HData header");
    for (name, digests) in [("plain", PLAIN), ("header digest", HEADER_DIGEST)] {
        group.bench_function(name, |bencher| {
            let mut header = [0; HEADER_SIZE_MAX + DIGEST_SIZE];
            bencher.iter(|| {
                let transfer = Transfer {
                    command_id: 7,
                    tag: 0,
                    offset: 0,
                    size: TRANSFER_BYTES,
                };
                let end = black_box(transfer).encode_data(
                    &mut header,
                    Kind::ControllerData,
                    FLAG_LAST | FLAG_SUCCESS,
                    digests,
                    0,
                );
                debug_assert!(end >= DATA_HEADER_SIZE);
                black_box(&header);
                end
            });
        });
    }
    group.finish();
}

fn digests(criterion: &mut Criterion) {
    let data: Vec<u8> = (0..TRANSFER_BYTES).map(|index| index as u8).collect();
    let mut group = criterion.benchmark_group("crc32c");
    group.throughput(Throughput::Bytes(u64::from(TRANSFER_BYTES)));
    group.bench_function("4 KiB", |bencher| {
        bencher.iter(|| digest(black_box(&data)));
    });
    group.finish();
}

criterion_group!(benches, parsing, encoding, digests);
criterion_main!(benches);
