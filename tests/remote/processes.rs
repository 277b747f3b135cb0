//! polldm as a remote: a process that can be killed, stopped, and started again at the same address.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU8, Ordering};

use tempfile::TempDir;

const POLLDM: &str = env!("CARGO_BIN_EXE_polldm");

/// The subsystem of every remote.
pub const NQN: &str = "nqn.2026-11.io.polldm:remote";

/// An address of this machine that no other remote has: nobody takes its port while the process is restarted, neither a listener nor an attempt
/// to connect, which comes from another address.
fn own_address() -> [u8; 4] {
    static REMOTES: AtomicU8 = AtomicU8::new(0);
    let [low, high, ..] = std::process::id().to_le_bytes();
    let number = REMOTES.fetch_add(1, Ordering::Relaxed);
    [127, 100 + number % 100, high, low]
}

/// A process with one device, `vol`, as namespace 1. It is killed when dropped.
pub struct Remote {
    directory: TempDir,
    child: Option<Child>,
    pub address: SocketAddr,
}

impl Remote {
    /// One whose device is on this bdev, an entry of `bdevs:` that is named `disk`, with these reactors.
    pub fn start(reactors: u32, disk: &str) -> Remote {
        let directory = tempfile::tempdir().unwrap();
        let any = SocketAddr::from((own_address(), 0));
        let disk = disk.replace("{directory}", directory.path().to_str().unwrap());
        let text = format!(
            "\
reactors: {{ count: {reactors} }}
control: {{ socket: control.sock }}
bdevs: [ {disk} ]
devices: [ {{ name: vol, table: \"0 16384 linear disk 0\" }} ]
exports:
  nvmf:
    listeners: [ \"{any}\" ]
    subsystems: [ {{ nqn: \"{NQN}\", hosts: any, namespaces: [ {{ nsid: 1, device: vol }} ] }} ]
"
        );
        fs::write(directory.path().join("polldm.yaml"), text).unwrap();
        let mut remote = Remote {
            directory,
            child: None,
            address: any,
        };
        remote.restart();
        // From now on at the port that it has found.
        let file = remote.directory.path().join("polldm.yaml");
        let text = fs::read_to_string(&file).unwrap();
        let address = remote.address.to_string();
        fs::write(&file, text.replace(&any.to_string(), &address)).unwrap();
        remote
    }

    /// One with 8 MiB of memory.
    pub fn with_memory() -> Remote {
        Remote::start(
            1,
            "{ malloc: { name: disk, size: 8MiB, block_size: 4096, volatile_cache: true } }",
        )
    }

    /// One with a file, which outlives the process.
    pub fn with_file() -> Remote {
        Remote::start(
            1,
            "{ file: { name: disk, path: \"{directory}/disk\", size: 8MiB, block_size: 4096 } }",
        )
    }

    /// One that has its device from another.
    pub fn relay(of: &Remote) -> Remote {
        let address = of.address;
        let disk =
            format!("{{ nvme-tcp: {{ name: disk, address: \"{address}\", nqn: \"{NQN}\" }} }}");
        Remote::start(1, &disk)
    }

    /// Starts it again, on what is left of it.
    pub fn restart(&mut self) {
        assert!(self.child.is_none(), "it runs");
        let mut child = Command::new(POLLDM)
            .arg("serve")
            .arg(self.directory.path().join("polldm.yaml"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        self.child = Some(child);
        loop {
            let line = lines.next().expect("it gets ready").unwrap();
            if let Some(address) = line.strip_prefix("nvme-tcp: ") {
                self.address = address.parse().unwrap();
            }
            if line.starts_with("ready after ") {
                return;
            }
        }
    }

    /// Kills it, with no chance to say goodbye.
    pub fn kill(&mut self) {
        let mut child = self.child.take().expect("it runs");
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Makes it stand still, with everything open.
    pub fn freeze(&self) {
        freeze(self.child.as_ref().expect("it runs"));
    }

    /// Lets it go on.
    pub fn thaw(&self) {
        thaw(self.child.as_ref().expect("it runs"));
    }

    /// Gives an operator's command.
    pub fn ask(&self, words: &[&str]) -> Output {
        Command::new(POLLDM)
            .arg("--socket")
            .arg(self.directory.path().join("control.sock"))
            .args(words)
            .output()
            .unwrap()
    }

    /// The same, which must be obeyed.
    pub fn told(&self, words: &[&str]) -> String {
        let output = self.ask(words);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{words:?}: {said}");
        String::from_utf8(output.stdout).unwrap()
    }
}

impl Drop for Remote {
    fn drop(&mut self) {
        if self.child.is_some() {
            self.kill();
        }
    }
}

/// Makes a child stand still, with everything open; all of its threads do when this returns.
pub fn freeze(child: &Child) {
    send(child, libc::SIGSTOP);
    // SAFETY: plain data, for which zeroes are valid.
    let mut stopped: libc::siginfo_t = unsafe { std::mem::zeroed() };
    // SAFETY: writes what is this function's own; asks for no end, so the child can still be waited for.
    let waited = unsafe { libc::waitid(libc::P_PID, child.id(), &mut stopped, libc::WSTOPPED) };
    assert_eq!(waited, 0);
}

/// Lets it go on.
pub fn thaw(child: &Child) {
    send(child, libc::SIGCONT);
}

fn send(child: &Child, signal: i32) {
    // SAFETY: no memory is involved; the child has not been waited for, so the number is still its own.
    let sent = unsafe { libc::kill(child.id() as i32, signal) };
    assert_eq!(sent, 0);
}
