//! Persistent reservations of a polldm that is killed and started again, as initiators see them over TCP.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use polldm::export::iscsi::harness::{encode, login_request};
use polldm::iscsi::pdu::{FINAL, HEADER_BYTES, Header, opcode};

const POLLDM: &str = env!("CARGO_BIN_EXE_polldm");
const IQN: &str = "iqn.2026-11.io.polldm:kept";
const CONFLICT: u8 = 0x18;

fn configuration(directory: &Path) {
    let text = format!(
        "control: {{ socket: control }}
reactors: {{ count: 2 }}
bdevs: [ {{ malloc: {{ name: ram0, size: 1MiB }} }} ]
devices: [ {{ name: vol0, table: 0 2048 linear ram0 0 }} ]
exports:
  iscsi:
    portals: [ \"127.0.0.1:0\" ]
    state: state
    targets: [ {{ iqn: \"{IQN}\", initiators: any, luns: [ {{ lun: 0, device: vol0 }} ] }} ]
"
    );
    std::fs::write(directory.join("polldm.yaml"), text).expect("written");
}

/// A serving polldm, killed at its end.
struct Served {
    child: Child,
    address: String,
}

impl Served {
    fn start(directory: &Path) -> Self {
        let mut child = Command::new(POLLDM)
            .args(["serve", "polldm.yaml"])
            .current_dir(directory)
            .stdout(Stdio::piped())
            .spawn()
            .expect("it runs");
        let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let address = lines.find_map(|line| {
            let line = line.expect("a line");
            line.strip_prefix("iscsi: ").map(str::to_owned)
        });
        Self {
            child,
            address: address.expect("it listens"),
        }
    }

    fn refuses(directory: &Path) -> String {
        let refused: Output = Command::new(POLLDM)
            .args(["serve", "polldm.yaml"])
            .current_dir(directory)
            .output()
            .expect("it runs");
        assert_eq!(refused.status.code(), Some(2));
        String::from_utf8(refused.stderr).expect("text")
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An initiator that has one command at a time.
struct Initiator {
    stream: TcpStream,
    command_sn: u32,
}

impl Initiator {
    fn login(served: &Served, name: &str) -> Self {
        let stream = TcpStream::connect(&served.address).expect("it listens");
        let mut initiator = Self {
            stream,
            command_sn: 1,
        };
        let text = format!(
            "InitiatorName=iqn.2026-11.io.polldm:{name}\0TargetName={IQN}\0SessionType=Normal\0InitialR2T=No\0"
        );
        initiator.send(&login_request(0x87, 1, &text));
        assert_eq!(initiator.receive().u16(36), 0, "logged in");
        // The unit attention of a new nexus.
        initiator.command(&[0; 6], &[]);
        initiator
    }

    fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("sent");
    }

    fn receive(&mut self) -> Header {
        let mut header = Header([0; HEADER_BYTES]);
        self.stream.read_exact(&mut header.0).expect("an answer");
        let mut data = vec![0; header.data_bytes().next_multiple_of(4)];
        self.stream.read_exact(&mut data).expect("its data");
        header
    }

    /// Carries out a command that writes at the most; answers its status.
    fn command(&mut self, cdb: &[u8], data: &[u8]) -> u8 {
        let writes = if data.is_empty() { 0 } else { 0x20 };
        let mut header = Header::new(opcode::COMMAND, FINAL | writes);
        header.put(16, self.command_sn);
        header.put(20, data.len() as u32);
        header.put(24, self.command_sn);
        header.0[32..32 + cdb.len()].copy_from_slice(cdb);
        header.put_data_bytes(data.len());
        self.command_sn += 1;
        self.send(&encode(&header, data, (false, false)));
        let answer = self.receive();
        assert_eq!(answer.opcode(), opcode::RESPONSE);
        answer.0[3]
    }

    fn write(&mut self) -> u8 {
        self.command(&[0x2A, 0, 0, 0, 0, 0, 0, 0, 1, 0], &[7; 512])
    }

    /// PERSISTENT RESERVE OUT, Write Exclusive.
    fn reserve_out(&mut self, service: u8, key: u64, new_key: u64, keep: bool) -> u8 {
        let mut list = key.to_be_bytes().to_vec();
        list.extend_from_slice(&new_key.to_be_bytes());
        list.extend_from_slice(&[0, 0, 0, 0, u8::from(keep), 0, 0, 0]);
        self.command(&[0x5F, service, 1, 0, 0, 0, 0, 0, 24, 0], &list)
    }
}

/// What was answered is so after a kill; a damaged record, or a directory that is not there, is told with its place before anything starts.
#[test]
fn a_reservation_outlives_a_kill() {
    let directory = tempfile::tempdir().expect("a directory");
    let directory = directory.path();
    configuration(directory);
    let complaint = Served::refuses(directory);
    assert!(complaint.contains("polldm.yaml:8:12"), "{complaint}");
    let state = directory.join("state");
    std::fs::create_dir(&state).expect("made");

    let served = Served::start(directory);
    let mut holder = Initiator::login(&served, "one");
    assert_eq!(holder.reserve_out(0, 0, 7, true), 0);
    assert_eq!(holder.reserve_out(1, 7, 0, false), 0);
    drop(served);
    let served = Served::start(directory);
    assert_eq!(Initiator::login(&served, "two").write(), CONFLICT);
    assert_eq!(Initiator::login(&served, "one").write(), 0);
    drop(served);

    let mut files = std::fs::read_dir(&state).expect("a directory");
    let file = files.next().expect("a file").expect("read").path();
    let text = std::fs::read_to_string(&file).expect("text");
    std::fs::write(&file, text.replacen("07 1 one", "08 1 one", 1)).expect("written");
    let complaint = Served::refuses(directory);
    let place = format!("{}, line 5:", file.file_name().expect("named").display());
    assert!(complaint.contains(&place), "{complaint}");
}
