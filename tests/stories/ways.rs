//! Ways to the disk of a story: processes that are killed, stopped and started again. Each is another polldm, or SPDK's own `nvmf_tgt`.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Child;

use serde_json::{Value, json};

use crate::node::bdev;
use crate::process::free_port;
use crate::processes::{self, NQN, Remote};
use crate::programs::{MEMORY_MIB, cpu, program};

/// A way to a disk.
pub trait Way {
    /// Its entry of `bdevs:`, by this name.
    fn bdev(&self, name: &str) -> String;

    /// What follows `bdev add` to have it by this name.
    fn bdev_words(&self, name: &str) -> Vec<String>;

    /// Ends it, with no chance to say goodbye.
    fn kill(&mut self);

    /// Starts it again where it was.
    fn restart(&mut self);

    /// Makes it stand still, with everything open.
    fn freeze(&self);

    /// Lets it go on.
    fn thaw(&self);

    /// Whether a host has connected to it.
    fn is_connected(&self) -> bool;
}

/// Waits until a way that was started again is connected to.
pub fn until_connected(way: &impl Way) {
    while !way.is_connected() {
        std::thread::yield_now();
    }
}

impl Way for Remote {
    fn bdev(&self, name: &str) -> String {
        bdev(name, self.address, NQN)
    }

    fn bdev_words(&self, name: &str) -> Vec<String> {
        words_over_tcp(name, self.address)
    }

    fn kill(&mut self) {
        Remote::kill(self);
    }

    fn restart(&mut self) {
        Remote::restart(self);
    }

    fn freeze(&self) {
        Remote::freeze(self);
    }

    fn thaw(&self) {
        Remote::thaw(self);
    }

    fn is_connected(&self) -> bool {
        let stats: Value = serde_json::from_str(&self.told(&["stats", "--json"])).expect("JSON");
        stats["nvmf"]["connections"].as_u64() >= Some(1)
    }
}

fn words_over_tcp(name: &str, address: SocketAddr) -> Vec<String> {
    vec![
        "nvme-tcp".into(),
        format!("name={name}"),
        format!("address={address}"),
        format!("nqn={NQN}"),
    ]
}

/// What hosts know the disk of an `nvmf_tgt` by: its own choice would be another after every start, and no host takes such a disk back.
const UUID: &str = "5a7c3e60-91b4-4f0e-8f1d-2c6b0d9e4a11";

/// I/O queues that an `nvmf_tgt` grants a host, as SPDK's default is.
const QUEUES: u16 = 127;

/// How hosts reach an `nvmf_tgt`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    Tcp,
    /// On the SPDK engine only.
    #[cfg_attr(
        not(feature = "spdk"),
        allow(dead_code, reason = "the native engine has none")
    )]
    VfioUser,
}

/// SPDK's `nvmf_tgt` with a file as namespace 1. It polls on the CPU that a polldm of SPDK's has not taken, if there are two, and is killed when dropped.
pub struct NvmfTgt {
    directory: tempfile::TempDir,
    address: SocketAddr,
    transport: Transport,
    child: Option<Child>,
}

impl NvmfTgt {
    /// One whose disk is this file; `None` where there is no such program.
    pub fn start(transport: Transport, disk: &Path) -> Option<NvmfTgt> {
        NvmfTgt::granting(QUEUES, transport, disk)
    }

    /// The same, whose controllers grant a host at most so many I/O queues.
    pub fn granting(queues: u16, transport: Transport, disk: &Path) -> Option<NvmfTgt> {
        program("nvmf_tgt")?;
        let directory = tempfile::tempdir().expect("a directory");
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let listen_address = match transport {
            Transport::Tcp => json!({
                "trtype": "TCP", "adrfam": "IPv4", "traddr": address.ip().to_string(), "trsvcid": address.port().to_string()
            }),
            Transport::VfioUser => {
                json!({ "trtype": "VFIOUSER", "traddr": directory.path(), "trsvcid": "0" })
            }
        };
        let config = json!({ "subsystems": [
            { "subsystem": "bdev", "config": [
                { "method": "bdev_aio_create", "params": { "name": "disk", "filename": disk, "block_size": crate::BLOCK } }
            ] },
            { "subsystem": "nvmf", "config": [
                { "method": "nvmf_create_transport", "params": {
                    "trtype": listen_address["trtype"], "max_io_qpairs_per_ctrlr": queues
                } },
                { "method": "nvmf_create_subsystem", "params": { "nqn": NQN, "allow_any_host": true } },
                { "method": "nvmf_subsystem_add_ns", "params": {
                    "nqn": NQN, "namespace": { "nsid": 1, "bdev_name": "disk", "uuid": UUID, "nguid": UUID.replace('-', "") }
                } },
                // Last, so that whoever connects finds the rest there.
                { "method": "nvmf_subsystem_add_listener", "params": { "nqn": NQN, "listen_address": listen_address } }
            ] }
        ] });
        std::fs::write(directory.path().join("nvmf.json"), config.to_string()).expect("a file");
        let mut target = NvmfTgt {
            directory,
            address,
            transport,
            child: None,
        };
        target.restart();
        Some(target)
    }

    fn child(&self) -> &Child {
        self.child.as_ref().expect("it runs")
    }

    /// What a method of its JSON-RPC returns; null when it cannot be asked yet.
    fn ask(&self, method: &str) -> Value {
        let Ok(mut stream) = UnixStream::connect(self.directory.path().join("rpc")) else {
            return Value::Null;
        };
        let request = json!({ "jsonrpc": "2.0", "id": 1, "method": method });
        let sent = stream.write_all(request.to_string().as_bytes());
        sent.expect("it listens");
        let mut text = Vec::new();
        let mut part = [0; 4096];
        loop {
            let length = stream.read(&mut part).expect("it answers");
            assert_ne!(length, 0, "{method} is answered");
            text.extend_from_slice(&part[..length]);
            if let Ok(mut answer) = serde_json::from_slice::<Value>(&text) {
                return answer["result"].take();
            }
        }
    }
}

impl Way for NvmfTgt {
    fn bdev(&self, name: &str) -> String {
        match self.transport {
            Transport::Tcp => bdev(name, self.address, NQN),
            Transport::VfioUser => {
                let directory = self.directory.path().display();
                format!("  - nvme: {{ name: {name}, vfio_user: {directory} }}\n")
            }
        }
    }

    fn bdev_words(&self, name: &str) -> Vec<String> {
        match self.transport {
            Transport::Tcp => words_over_tcp(name, self.address),
            Transport::VfioUser => vec![
                "nvme".into(),
                format!("name={name}"),
                format!("vfio_user={}", self.directory.path().display()),
            ],
        }
    }

    fn kill(&mut self) {
        let mut child = self.child.take().expect("it runs");
        child.kill().expect("it runs");
        child.wait().expect("it was started here");
    }

    fn restart(&mut self) {
        let mut command = program("nvmf_tgt").expect("it was there");
        command
            .args(["--no-huge", "-s", MEMORY_MIB, "--no-pci"])
            .args(["--disable-cpumask-locks", "-m", &format!("[{}]", cpu())])
            // Of these a process that is killed would leave a file in memory.
            .args(["--num-trace-entries", "0", "--silence-noticelog"])
            .arg("--rpc-socket")
            .arg(self.directory.path().join("rpc"))
            .arg("--json")
            .arg(self.directory.path().join("nvmf.json"));
        // A process that was killed has left it.
        let _ = std::fs::remove_file(self.directory.path().join("cntrl"));
        self.child = Some(command.spawn().expect("it can be run"));
        let listens = |subsystems: &Value| {
            let mut all = subsystems.as_array().into_iter().flatten();
            let own = all.find(|subsystem| subsystem["nqn"] == NQN);
            own.is_some_and(|own| own["listen_addresses"][0].is_object())
        };
        while !listens(&self.ask("nvmf_get_subsystems")) {
            let child = self.child.as_mut().expect("it was started above");
            let ended = child.try_wait().expect("it was started here");
            assert!(ended.is_none(), "nvmf_tgt has ended: {ended:?}");
            std::thread::yield_now();
        }
    }

    fn freeze(&self) {
        processes::freeze(self.child());
    }

    fn thaw(&self) {
        processes::thaw(self.child());
    }

    fn is_connected(&self) -> bool {
        let stats = self.ask("nvmf_get_stats");
        let groups = stats["poll_groups"].as_array().expect("a list");
        let has = |group: &Value, queues: &str| group[queues].as_u64() >= Some(1);
        (groups.iter())
            .any(|group| has(group, "current_admin_qpairs") || has(group, "current_io_qpairs"))
    }
}

impl Drop for NvmfTgt {
    fn drop(&mut self) {
        if self.child.is_some() {
            self.kill();
        }
    }
}
