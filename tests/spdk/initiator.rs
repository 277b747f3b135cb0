//! An iSCSI initiator of a few lines, for what the tools of others do not send: a command that is left waiting, and a LOGICAL UNIT RESET.
//! One session, one connection, no digests (RFC 7143, section 11).

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// Far longer than any answer takes.
const PATIENCE: Duration = Duration::from_secs(60);

/// Bytes of a basic header segment.
const HEADER: usize = 48;

const SCSI_COMMAND: u8 = 0x01;
const TASK_MANAGEMENT: u8 = 0x02;
const LOGIN: u8 = 0x03;
const IMMEDIATE: u8 = 0x40;
const SCSI_RESPONSE: u8 = 0x21;
const TASK_MANAGEMENT_RESPONSE: u8 = 0x22;
const LOGIN_RESPONSE: u8 = 0x23;
const DATA_IN: u8 = 0x25;
const LOGICAL_UNIT_RESET: u8 = 5;

/// A session.
pub struct Initiator {
    stream: TcpStream,
    task_tag: u32,
    command_sn: u32,
    status_sn: u32,
}

impl Initiator {
    /// Logs in to a target.
    pub fn login(port: u16, iqn: &str) -> Initiator {
        let stream = TcpStream::connect(("127.0.0.1", port)).expect("a target");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        let mut initiator = Initiator {
            stream,
            task_tag: 0,
            command_sn: 1,
            status_sn: 0,
        };
        let keys = format!(
            "InitiatorName=iqn.2026-11.io.polldm:test\0TargetName={iqn}\0SessionType=Normal\0HeaderDigest=None\0DataDigest=None\0"
        );
        // From the operational stage straight to the full feature phase.
        let mut header = initiator.header(LOGIN | IMMEDIATE, 0x87);
        header[8] = 0x40;
        initiator.send(&mut header, keys.as_bytes());
        let (answer, _) = initiator.receive();
        assert_eq!(answer[0] & 0x3f, LOGIN_RESPONSE);
        assert_eq!(answer[36..38], [0, 0], "the login succeeds");
        assert_eq!(answer[1] & 0x83, 0x83, "in the full feature phase");
        initiator
    }

    /// Sends a READ (10) of one block, without waiting for anything; its task tag.
    pub fn send_read(&mut self, lun: u8, block: u8) -> u32 {
        let mut header = self.header(SCSI_COMMAND, 0xc1);
        header[9] = lun;
        header[20..24].copy_from_slice(&512u32.to_be_bytes());
        header[32] = 0x28;
        header[37] = block;
        header[40] = 1;
        self.send(&mut header, &[]);
        self.command_sn += 1;
        self.task_tag
    }

    /// Reads one block: the SCSI status, and the block.
    pub fn read(&mut self, lun: u8, block: u8) -> (u8, Vec<u8>) {
        let tag = self.send_read(lun, block);
        self.answer_to(tag)
    }

    /// COMPARE AND WRITE of one block: the SCSI status, and the sense key.
    pub fn compare_and_write(
        &mut self,
        lun: u8,
        block: u8,
        compare: &[u8; 512],
        write: &[u8; 512],
    ) -> (u8, u8) {
        let mut header = self.header(SCSI_COMMAND, 0xa1);
        header[9] = lun;
        header[20..24].copy_from_slice(&1024u32.to_be_bytes());
        header[32] = 0x89;
        header[41] = block;
        header[45] = 1;
        self.send(&mut header, &[*compare, *write].concat());
        self.command_sn += 1;
        let (status, data) = self.answer_to(self.task_tag);
        // Two bytes of length, then fixed sense data.
        (status, data.get(4).map_or(0, |byte| byte & 0xf))
    }

    /// The status of a command, and the data that came with it or before it.
    fn answer_to(&mut self, tag: u32) -> (u8, Vec<u8>) {
        let mut data = Vec::new();
        loop {
            let (answer, more) = self.receive();
            if answer[16..20] != tag.to_be_bytes() {
                continue;
            }
            data.extend(more);
            let has_status = match answer[0] & 0x3f {
                SCSI_RESPONSE => true,
                DATA_IN => answer[1] & 1 != 0,
                _ => false,
            };
            if has_status {
                return (answer[3], data);
            }
        }
    }

    /// Resets a unit and waits until that is done: the response, 0 for "function complete". What is answered to commands before is passed over.
    pub fn reset(&mut self, lun: u8) -> u8 {
        let mut header = self.header(TASK_MANAGEMENT | IMMEDIATE, 0x80 | LOGICAL_UNIT_RESET);
        header[9] = lun;
        header[20..24].fill(0xff);
        self.send(&mut header, &[]);
        loop {
            let (answer, _) = self.receive();
            if answer[0] & 0x3f == TASK_MANAGEMENT_RESPONSE {
                return answer[2];
            }
        }
    }

    fn header(&mut self, opcode: u8, flags: u8) -> [u8; HEADER] {
        self.task_tag += 1;
        let mut header = [0; HEADER];
        header[0] = opcode;
        header[1] = flags;
        header[16..20].copy_from_slice(&self.task_tag.to_be_bytes());
        header[24..28].copy_from_slice(&self.command_sn.to_be_bytes());
        header[28..32].copy_from_slice(&self.status_sn.to_be_bytes());
        header
    }

    fn send(&mut self, header: &mut [u8; HEADER], data: &[u8]) {
        header[5..8].copy_from_slice(&(data.len() as u32).to_be_bytes()[1..]);
        let mut pdu = header.to_vec();
        pdu.extend(data);
        pdu.resize(pdu.len().next_multiple_of(4), 0);
        self.stream.write_all(&pdu).expect("sent");
    }

    fn receive(&mut self) -> ([u8; HEADER], Vec<u8>) {
        let mut header = [0; HEADER];
        self.stream.read_exact(&mut header).expect("an answer");
        let length = u32::from_be_bytes([0, header[5], header[6], header[7]]) as usize;
        let mut data = vec![0; length.next_multiple_of(4)];
        self.stream.read_exact(&mut data).expect("its data");
        data.truncate(length);
        let status_sn = u32::from_be_bytes([header[24], header[25], header[26], header[27]]);
        self.status_sn = self.status_sn.max(status_sn.wrapping_add(1));
        (header, data)
    }
}
