//! The one harness for hostile bytes on the wire: unit test, property test and fuzz target all call it.
//!
//! The target's state machine (what may come when) has its own; this is everything below it: the header decoder
//! and the decoders of what a header announces.

use super::command::{Command, Completion, DataPointer, DatasetRange};
use super::fabrics::{CONNECT_DATA_SIZE, Connect, ConnectData};
use super::pdu::{
    self, COMMON_HEADER_SIZE, HEADER_SIZE_MAX, InitializeRequest, InitializeResponse, Kind, Layout,
    Receiver, Rules, Terminate, Transfer, decode_header,
};

/// Most in-capsule data under the harness: smaller than a polldm target's, so that the limit is soon met.
const CAPSULE_DATA_SIZE_MAX: u32 = 8192;
/// Most data in a data PDU under the harness.
const DATA_SIZE_MAX: u32 = 131_072;

/// Reads `data` as one end of a connection would: the first two bytes choose what was negotiated, the rest is a stream
/// of PDUs. Nothing may panic; what is accepted must be within its own size and the limits, and what is decoded must
/// survive being encoded and decoded again. Returns how many PDUs were accepted whole.
pub fn fuzz(data: &[u8]) -> usize {
    let mut accepted = 0;
    let [choice, alignment, stream @ ..] = data else {
        return accepted;
    };
    let rules = Rules {
        receiver: if choice & 1 == 0 {
            Receiver::Controller
        } else {
            Receiver::Host
        },
        header_digest: choice & 2 != 0,
        data_digest: choice & 4 != 0,
        alignment: alignment % (pdu::ALIGNMENT_MAX + 1),
        capsule_data_size_max: CAPSULE_DATA_SIZE_MAX,
        data_size_max: DATA_SIZE_MAX,
    };
    let mut rest = stream;
    while rest.len() >= COMMON_HEADER_SIZE {
        let layout = match decode_header(rest, &rules) {
            Ok(layout) => layout,
            Err(reason) => {
                assert!((reason.fei as usize) < HEADER_SIZE_MAX, "{reason}");
                return accepted;
            }
        };
        check_layout(&layout, &rules);
        let Some(bytes) = rest.get(..layout.total_size as usize) else {
            return accepted;
        };
        if layout.header_digest {
            // Either answer is right: a fuzzer seldom finds a CRC.
            let _ = pdu::check_header_digest(bytes, layout.header_size as usize);
        }
        check_contents(&layout, bytes);
        rest = &rest[bytes.len()..];
        accepted += 1;
    }
    accepted
}

/// What every accepted header must satisfy.
fn check_layout(layout: &Layout, rules: &Rules) {
    assert_eq!(layout.kind.receiver(), rules.receiver);
    assert_eq!(layout.header_size as usize, layout.kind.header_size());
    // A stream is read on: a PDU of no size would be read for ever.
    assert!(layout.total_size as usize >= layout.kind.header_size());
    let header_end = layout.header_size + 4 * u32::from(layout.header_digest);
    assert!(layout.data_offset >= header_end);
    let data_end = layout.data_offset + layout.data_size + 4 * u32::from(layout.data_digest);
    // The data of a TermReq is the header in error, which is no data of a command.
    if !matches!(layout.kind, Kind::HostTerminate | Kind::ControllerTerminate) {
        assert_eq!(data_end, layout.total_size);
    }
    let size_max = match layout.kind {
        Kind::Command => CAPSULE_DATA_SIZE_MAX,
        _ => DATA_SIZE_MAX,
    };
    assert!(layout.data_size <= size_max);
}

/// What the type of the PDU says follows its common header.
fn check_contents(layout: &Layout, bytes: &[u8]) {
    match layout.kind {
        Kind::InitializeRequest => {
            let request = InitializeRequest::decode(bytes);
            assert_eq!(InitializeRequest::decode(&request.encode()), request);
        }
        Kind::InitializeResponse => {
            let response = InitializeResponse::decode(bytes);
            assert_eq!(InitializeResponse::decode(&response.encode()), response);
        }
        Kind::HostTerminate | Kind::ControllerTerminate => {
            let _ = Terminate::decode(bytes);
        }
        Kind::Command => {
            let command = pdu::decode_command(bytes);
            let data = &bytes[layout.data_offset as usize..][..layout.data_size as usize];
            check_command(&command, data);
        }
        Kind::Response => {
            let completion = pdu::decode_response(bytes);
            let mut again = [0; 16];
            completion.encode(&mut again);
            assert_eq!(Completion::decode(&again), completion);
        }
        Kind::HostData | Kind::ControllerData | Kind::ReadyToTransfer => {
            let transfer = Transfer::decode(bytes);
            if transfer.check(layout).is_ok() {
                assert_eq!(transfer.size, layout.data_size);
                assert_eq!((transfer.offset % 4, transfer.size % 4), (0, 0));
            }
        }
    }
}

/// Every reading of a command that the target has, whatever its opcode, and of the data that came with it.
fn check_command(command: &Command, data: &[u8]) {
    let pointer = command.data_pointer();
    let mut again = [0; 16];
    pointer.encode(&mut again);
    assert_eq!(DataPointer::decode(&again), pointer);

    assert!((1..=0x1_0000).contains(&command.block_count()));
    assert!((1..=256).contains(&command.range_count()));
    let _ = (command.fuse(), command.lba(), command.log_size());
    let _ = (command.log_offset(), command.abort_target());

    let connect = Connect::decode(command);
    assert_eq!(Connect::decode(&connect.encode()), connect);
    if data.len() >= CONNECT_DATA_SIZE
        && let Ok(decoded) = ConnectData::decode(&data[..CONNECT_DATA_SIZE])
    {
        let encoded = decoded.encode();
        assert_eq!(ConnectData::decode(&encoded), Ok(decoded));
    }
    for range in data.chunks_exact(DatasetRange::SIZE) {
        let decoded = DatasetRange::decode(range);
        let mut again = [0; DatasetRange::SIZE];
        decoded.encode(&mut again);
        assert_eq!(again, range);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nvme::fabrics::CONTROLLER_ID_DYNAMIC;
    use crate::nvme::pdu::{COMMAND_HEADER_SIZE, Digests, encode_command};
    use proptest::prelude::*;

    const PLAIN: Digests = Digests {
        header: false,
        data: false,
    };

    /// A real beginning of a connection, ICReq and Connect with its data, is read to its end; and so is each
    /// cut-off and each single-byte change of it.
    #[test]
    fn a_connection_and_its_neighbours() {
        let mut stream = vec![0, 0];
        stream.extend(
            InitializeRequest {
                format_version: 0,
                host_alignment: 0,
                digests: PLAIN,
                ready_to_transfer_max: 1,
            }
            .encode(),
        );
        let mut command = Connect {
            record_format: 0,
            queue_id: 0,
            queue_size: 31,
            attributes: 0,
            keep_alive_ms: 5000,
        }
        .encode();
        command.set_data_pointer(DataPointer::in_capsule(0, CONNECT_DATA_SIZE as u32));
        let mut capsule = [0; COMMAND_HEADER_SIZE];
        let data_size = CONNECT_DATA_SIZE as u32;
        let end = encode_command(&mut capsule, &command, PLAIN, 0, data_size);
        assert_eq!(end, capsule.len());
        stream.extend(capsule);
        stream.extend(
            ConnectData {
                host_id: [7; 16],
                controller_id: CONTROLLER_ID_DYNAMIC,
                subsystem_nqn: "nqn.2026-11.io.polldm:a",
                host_nqn: "nqn.2026-11.io.polldm:b",
            }
            .encode(),
        );
        assert_eq!(fuzz(&stream), 2);
        for size in 0..stream.len() {
            fuzz(&stream[..size]);
        }
        for index in 0..400 {
            for byte in [0x00, 0x01, 0x7F, 0x80, 0xFF] {
                let mut changed = stream.clone();
                changed[index] = byte;
                fuzz(&changed);
            }
        }
    }

    proptest! {
        /// PDUs of every type with right lengths and random contents, so that the decoders behind the header are met.
        #[test]
        fn announced_contents(
            choice in 0u8..8, alignment: u8,
            kinds in prop::collection::vec((0u8..10, 0usize..256), 1..6), contents in prop::collection::vec(any::<u8>(), 4096),
        ) {
            let mut stream = vec![choice, alignment];
            for (kind, data_size) in kinds {
                let header_size = Kind::decode(kind).map_or(24, Kind::header_size);
                let mut bytes = contents[..header_size + data_size].to_vec();
                let total_size = bytes.len() as u32;
                let data_offset = if data_size > 0 { header_size as u8 } else { 0 };
                pdu::encode_common(&mut bytes, Kind::decode(kind).unwrap_or(Kind::Command), choice >> 1, data_offset, total_size);
                bytes[0] = kind;
                stream.extend(bytes);
            }
            fuzz(&stream);
        }

        /// Bytes without any form.
        #[test]
        fn noise(data in prop::collection::vec(any::<u8>(), 0..600)) {
            fuzz(&data);
        }
    }
}
