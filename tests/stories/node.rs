//! The polldm that a story is about.

use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use polldm::host::{Address, BlockingQueue, Controller, HostIdentity, HostOptions, Payload};
use polldm::nvme::command::Command;

use crate::counts::Counts;
use crate::load::Load;
use crate::process::{Served, free_port, polldm};

/// The engine that this build tells of, at the head of a configuration.
const ENGINE: &str = if cfg!(feature = "spdk") {
    "engine: spdk\nspdk: { hugepages: off }\nreactors: { count: 1 }\n"
} else {
    "reactors: { count: 2 }\n"
};

/// SPDK locks the CPUs that it polls on.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

const SUBSYSTEM: &str = "nqn.2026-11.io.polldm:story";
const IQN: &str = "iqn.2026-11.io.polldm:story";

/// How long a host waits for an answer that has to come.
const PATIENCE: Duration = Duration::from_secs(60);

/// Commands of a host that asks for one thing after the other.
const PROBES: usize = 32;

/// A serving polldm, whose device `vol` is namespace 1.
pub struct Node {
    served: Served,
    port: u16,
    _alone: Option<MutexGuard<'static, ()>>,
}

fn alone() -> Option<MutexGuard<'static, ()>> {
    cfg!(feature = "spdk").then(|| ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner))
}

/// What `polldm bench` reports of a device with this table, on a generator of the engine's own, with random reads and writes.
pub fn bench(bdevs: &str, table: &str, options: &[&str]) -> String {
    let _alone = alone();
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("polldm.yaml");
    let text =
        format!("{ENGINE}bdevs:\n{bdevs}devices:\n  - name: vol\n    table: |\n      {table}\n");
    std::fs::write(&file, text).expect("a configuration");
    let target = format!("dm:{}#vol", file.display());
    let words = ["bench", &target, "--rw", "randrw", "--qd", "128"];
    let time = ["--time", "300ms", "--warmup", "0ms"];
    polldm(&[&words[..], &time, options].concat())
}

/// What is said of these bdevs and this table on two reactors of SPDK's, where they cannot be had.
#[cfg(feature = "spdk")]
pub fn refused_on_two_reactors(bdevs: &str, table: &str) -> String {
    let _alone = alone();
    Served::refused(&format!(
        "engine: spdk\nspdk: {{ hugepages: off }}\nreactors: {{ count: 2 }}\nbdevs:\n{bdevs}devices:\n  \
         - {{ name: vol, table: \"{table}\" }}\n"
    ))
}

/// The port in a configuration: the system chooses one, or, where a target has to be told, one that was free.
fn listening_port() -> u16 {
    if cfg!(feature = "spdk") {
        free_port()
    } else {
        0
    }
}

/// The entry of `bdevs:` for a namespace behind NVMe/TCP.
pub fn bdev(name: &str, address: SocketAddr, nqn: &str) -> String {
    format!(
        "  - nvme-tcp: {{ name: {name}, address: \"{address}\", nqn: {nqn}, keep_alive: 3600s, reconnect_delay: 100ms, \
         ctrl_loss_timeout: 3600s, io_timeout: 3600s }}\n"
    )
}

/// A host's connection to a node. Its queues end with it.
pub struct Host {
    pub queue: BlockingQueue,
    _controller: Controller,
}

impl Host {
    /// Sends a command, whose answer is waited for later.
    pub fn start(&mut self, command: Command, payload: Payload<'_>) -> u16 {
        start(&mut self.queue, command, payload)
    }
}

/// Sends a command on a queue, whose answer is waited for later.
pub fn start(queue: &mut BlockingQueue, command: Command, payload: Payload<'_>) -> u16 {
    let started = queue.start(command, payload).expect("sent");
    while queue.queue_mut().has_unsent() {
        queue.poll().expect("the connection lasts");
    }
    started
}

impl Node {
    /// One with these bdevs, and `vol` with this table as namespace 1.
    pub fn start(bdevs: &str, table: &str) -> Node {
        let port = listening_port();
        let nvmf = format!(
            "  nvmf:\n    listeners: [ \"127.0.0.1:{port}\" ]\n    subsystems:\n      \
             - {{ nqn: {SUBSYSTEM}, hosts: any, namespaces: [ {{ nsid: 1, device: vol }} ] }}\n"
        );
        Node::start_with(bdevs, table, &nvmf, port, "nvme-tcp: ")
    }

    /// Makes a device whose flush policy is ordered.
    pub fn create_ordered(&self, name: &str, table: &str) {
        self.told(&["dm", "create", name, "--flush", "ordered", "--table", table]);
    }

    /// Makes a device a logical unit over iSCSI.
    #[cfg(not(feature = "spdk"))]
    pub fn add_lun(&self, lun: u16, device: &str) {
        let lun = lun.to_string();
        self.told(&["iscsi", "add-lun", IQN, "--lun", &lun, "--device", device]);
    }

    /// One whose `vol` is a logical unit over iSCSI; its URL.
    pub fn start_iscsi(bdevs: &str, table: &str) -> (Node, String) {
        let port = listening_port();
        let iscsi = format!(
            "  iscsi:\n    portals: [ \"127.0.0.1:{port}\" ]\n    targets:\n      \
             - {{ iqn: {IQN}, initiators: any, luns: [ {{ lun: 0, device: vol }} ] }}\n"
        );
        let node = Node::start_with(bdevs, table, &iscsi, port, "iscsi: ");
        let url = format!("iscsi://127.0.0.1:{}/{IQN}/0", node.port);
        (node, url)
    }

    /// With exports at `port`, or at the one that it says it listens at.
    fn start_with(bdevs: &str, table: &str, exports: &str, port: u16, says: &str) -> Node {
        let alone = alone();
        let served = Served::start(&format!(
            "{ENGINE}bdevs:\n{bdevs}devices:\n  - name: vol\n    table: |\n      {table}\nexports:\n{exports}"
        ));
        let port = match port {
            0 => served.port_after(says),
            port => port,
        };
        Node {
            served,
            port,
            _alone: alone,
        }
    }

    /// An operator's command, which must be obeyed.
    pub fn told(&self, words: &[&str]) -> String {
        self.served.told(words)
    }

    /// An operator's command, which must be refused: what is said then.
    pub fn refused(&self, words: &[&str]) -> String {
        self.served.refuses(words)
    }

    /// An operator's command that takes its time.
    pub fn start_command(&self, words: &[&str]) -> std::process::Child {
        self.served.start_command(words)
    }

    /// A verb of `polldm dm` on `vol`, with what comes after the name.
    pub fn dm(&self, verb: &str, more: &[&str]) -> String {
        self.told(&[&["dm", verb, "vol"], more].concat())
    }

    /// A message to `vol`.
    pub fn say(&self, words: &[&str]) {
        self.dm("message", &[&["0"], words].concat());
    }

    /// Makes a device and exports it.
    pub fn create(&self, nsid: u32, name: &str, table: &str) {
        self.told(&["dm", "create", name, "--table", table]);
        self.export(nsid, name);
    }

    pub fn export(&self, nsid: u32, name: &str) {
        let nsid = nsid.to_string();
        self.told(&[
            "export", "add-ns", SUBSYSTEM, "--nsid", &nsid, "--device", name,
        ]);
    }

    /// Begins to take a namespace away from its hosts.
    pub fn start_unexport(&self, nsid: u32) -> std::process::Child {
        let nsid = nsid.to_string();
        self.start_command(&["export", "remove-ns", SUBSYSTEM, "--nsid", &nsid])
    }

    /// What is said of an export that is refused.
    pub fn refuses_export(&self, nsid: u32, name: &str) -> String {
        let nsid = nsid.to_string();
        self.refused(&[
            "export", "add-ns", SUBSYSTEM, "--nsid", &nsid, "--device", name,
        ])
    }

    /// Waits until what is exported is as it should be.
    pub fn until_export(&self, is_so: impl Fn(&str) -> bool) {
        self.served.wait_for(&["export", "ls"], is_so);
    }

    pub fn unexport(&self, nsid: u32) {
        let ended = self.start_unexport(nsid).wait_with_output();
        let ended = ended.expect("it was started here");
        let said = String::from_utf8_lossy(&ended.stderr);
        assert!(ended.status.success(), "{said}");
    }

    /// Columns of `dm info` for a device, with one blank between them.
    pub fn info(&self, device: &str, columns: &str) -> String {
        let words = ["dm", "info", "-o", columns, "--noheadings"];
        self.told(&[&words[..], &["--separator", " ", device]].concat())
            .trim()
            .to_owned()
    }

    pub fn counts(&self, device: &str) -> Counts {
        let output = self.told(&["stats", device, "--json"]);
        Counts::parse(&output).expect("statistics")
    }

    /// Waits until a device's I/O is where it should be.
    pub fn until(&self, device: &str, is_so: impl Fn(&Counts) -> bool) -> Counts {
        let words = ["stats", device, "--json"];
        self.served.wait_for(&words, |output| {
            is_so(&Counts::parse(output).expect("statistics"))
        });
        self.counts(device)
    }

    /// Waits until a path of `vol` is said to have failed.
    pub fn until_failed(&self, path: &str) {
        let failed = format!("{path} F");
        self.served
            .wait_for(&["dm", "status", "vol"], |status| status.contains(&failed));
    }

    /// Waits until a bdev that something has connected to is known to be back: I/O that comes before fails its path. SPDK does not tell.
    pub fn until_live(&self, bdev: &str) {
        self.served.wait_for(&["bdev", "ls", "--json"], |output| {
            let all: serde_json::Value = serde_json::from_str(output).expect("JSON");
            let bdevs = all["bdevs"].as_array().expect("a list");
            let own = bdevs.iter().find(|own| own["name"] == bdev);
            let remote = &own.expect("it is there")["remote"];
            remote.is_null() || remote["state"] == "live"
        });
    }

    /// Waits until all of a load waits in the targets of `vol`, and nothing else is under way.
    pub fn until_held(&self, load: &Load) -> Counts {
        let all = load.outstanding();
        self.until("vol", |now| {
            (now.held, now.in_flight, now.parked) == (all, all, 0)
        })
    }

    /// Reinstates a path until I/O runs on it: it may be told before the controller is there again.
    pub fn bring_back(&self, path: &str, load: &Load) {
        let failed = format!("{path} F");
        loop {
            self.say(&["reinstate_path", path]);
            let enough = load.completed() + 2 * load.outstanding();
            loop {
                if load.completed() >= enough {
                    return;
                }
                if self.dm("status", &[]).contains(&failed) {
                    break;
                }
            }
        }
    }

    /// Reinstates a path of `vol` until nothing waits or is under way any more: it, too, may be told before the controller is there again.
    pub fn reinstate(&self, path: &str) {
        let failed = format!("{path} F");
        loop {
            self.say(&["reinstate_path", path]);
            loop {
                let now = self.counts("vol");
                if (now.held, now.in_flight) == (0, 0) {
                    return;
                }
                if now.held > 0 && self.dm("status", &[]).contains(&failed) {
                    break;
                }
            }
        }
    }

    fn connect(&self) -> Controller {
        let address = Address::new(SocketAddr::from(([127, 0, 0, 1], self.port)), SUBSYSTEM);
        let mut options = HostOptions::new(HostIdentity::random().expect("an identity"));
        options.connection.timeout = PATIENCE;
        // Nobody tends it between two steps of a story.
        options.keep_alive_ms = 0;
        Controller::connect(&address, &options).expect("connected")
    }

    /// A host that does what it is told to.
    pub fn host(&self) -> Host {
        let mut controller = self.connect();
        let mut queues = controller.connect_io_queues(1, PROBES).expect("a queue");
        Host {
            queue: queues.remove(0),
            _controller: controller,
        }
    }

    /// A host's queues, on as many cores as there are.
    pub fn queues(&self, count: u16, depth: usize) -> (Controller, Vec<BlockingQueue>) {
        let mut controller = self.connect();
        let queues = controller
            .connect_io_queues(count, depth)
            .expect("I/O queues");
        (controller, queues)
    }

    /// Ends it, which must go well.
    pub fn end(self) {
        assert_eq!(self.served.end(), Some(0));
    }
}
