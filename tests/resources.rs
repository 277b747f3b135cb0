//! What connections cost a serving process, and that it is given back: counted from outside, in a process of its own.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use polldm::host::{Controller, HostIdentity, HostOptions};

const POLLDM: &str = env!("CARGO_BIN_EXE_polldm");
const NQN: &str = "nqn.2026-11.io.polldm:resources";

/// Hosts per round; with their admin queue and I/O queues they make 1,000 connections.
const HOSTS: usize = 250;
const IO_QUEUES: u16 = 3;

/// Rounds after the first, of which one must leave nothing.
const ROUNDS_MAX: usize = 4;

/// What the allocator may keep of a round for the next one; a leak of as little as 4 KiB per connection would be twice as much.
const MEMORY_SLACK_KIB: u64 = 2048;

/// Longer than anything takes on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// The connection that asked the last question may not be closed yet.
const DESCRIPTOR_SLACK: usize = 2;

struct Served {
    child: Child,
    _stdout: BufReader<ChildStdout>,
    address: String,
    directory: tempfile::TempDir,
}

impl Served {
    fn start() -> Served {
        let directory = tempfile::tempdir().unwrap();
        let text = format!(
            "\
reactors: {{ count: 2 }}
control: {{ socket: {}/control.sock }}
bdevs: [ {{ malloc: {{ name: ram0, size: 16MiB, block_size: 4096 }} }} ]
devices: [ {{ name: vol0, table: '0 32768 linear ram0 0' }} ]
exports:
  nvmf:
    listeners: [ '127.0.0.1:0' ]
    subsystems: [ {{ nqn: '{NQN}', hosts: any, namespaces: [ {{ nsid: 1, device: vol0 }} ] }} ]
",
            directory.path().display()
        );
        let file = directory.path().join("polldm.yaml");
        fs::write(&file, text).unwrap();
        let mut command = Command::new(POLLDM);
        command
            .arg("serve")
            .arg(file)
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut address = None;
        loop {
            let mut line = String::new();
            assert!(
                stdout.read_line(&mut line).unwrap() > 0,
                "it ended before it was ready"
            );
            if let Some(listening) = line.strip_prefix("nvme-tcp: ") {
                address = Some(listening.trim().to_owned());
            }
            if line.starts_with("ready after ") {
                break;
            }
        }
        let address = address.expect("it says where it listens");
        Served {
            child,
            _stdout: stdout,
            address,
            directory,
        }
    }

    /// One host: it connects, writes, reads back, and goes; politely or by closing its sockets.
    fn visit(&self, politely: bool) {
        let address = format!("nvme-tcp://{}/{NQN}", self.address)
            .parse()
            .unwrap();
        let mut options = HostOptions::new(HostIdentity::random().unwrap());
        options.connection.timeout = PATIENCE;
        options.keep_alive_ms = 0;
        let mut controller = Controller::connect(&address, &options).unwrap();
        let mut queues = controller.connect_io_queues(IO_QUEUES, 32).unwrap();
        let data = [0x5A; 4096];
        for queue in &mut queues {
            queue.write(1, 7, &data, 4096).unwrap();
            assert_eq!(queue.read(1, 7, 1, 4096).unwrap(), data);
        }
        if politely {
            drop(queues);
            controller.shutdown().unwrap();
        }
    }

    /// Connections now, as the server counts them.
    fn connections(&self) -> usize {
        let output = Command::new(POLLDM)
            .arg("--socket")
            .arg(self.directory.path().join("control.sock"))
            .args(["export", "ls", "--json"])
            .output()
            .unwrap();
        assert!(output.status.success());
        let answer: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        answer["nvmf"]["connections"].as_array().unwrap().len()
    }

    /// How many descriptors the server has open.
    fn descriptors(&self) -> usize {
        let directory = format!("/proc/{}/fd", self.child.id());
        fs::read_dir(directory).unwrap().count()
    }

    /// A round of visits; afterwards its resident memory, in KiB.
    fn round(&self) -> u64 {
        (0..HOSTS).for_each(|host| self.visit(host % 2 == 0));
        // The server learns of a closed socket when it looks; each question is answered after such a look.
        while self.connections() > 0 {}
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let resident = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))
            .unwrap();
        resident.trim().trim_end_matches(" kB").parse().unwrap()
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The first round warms everything up that is kept for good; after that one must leave nothing. How much the allocator keeps depends on which threads
/// met, so a round may leave something; what leaks would be left by each.
#[test]
fn a_thousand_connections_leave_nothing_behind() {
    let served = Served::start();
    let mut resident = served.round();
    let descriptors = served.descriptors();
    let mut growth = u64::MAX;
    for _ in 0..ROUNDS_MAX {
        let after = served.round();
        growth = after.saturating_sub(resident);
        if growth <= MEMORY_SLACK_KIB {
            break;
        }
        resident = after;
    }
    // The questions asked above were connections too, of the control socket, and each is closed by a thread that has to get a turn.
    let mut descriptors_after = 0;
    let back = (0..6000).any(|_| {
        descriptors_after = served.descriptors();
        let back = descriptors_after <= descriptors + DESCRIPTOR_SLACK;
        if !back {
            std::thread::sleep(Duration::from_millis(10));
        }
        back
    });
    assert!(
        back,
        "open descriptors went from {descriptors} to {descriptors_after}"
    );
    assert!(
        growth <= MEMORY_SLACK_KIB,
        "resident memory has grown in each round, by {growth} KiB in the last"
    );
}
