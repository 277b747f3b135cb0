//! polldm as a process of the guest, for what only its kernel has: NVMe disks.

use std::io::Write;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;

use crate::guest::{Guest, Job};
use crate::initiator::{Connection, Endpoint, HOST_AS_SEEN_BY_GUEST};
use crate::iscsi::{Portal, Session};
use crate::target::iqn;

/// The port of its NVMe/TCP target, on the guest's loopback address.
const PORT: u16 = 4420;

/// The port of its iSCSI target, likewise.
const ISCSI_PORT: u16 = 3260;

/// The guest's address on its network.
const OWN_ADDRESS: &str = "10.0.2.15";

/// A configuration of polldm in the guest, which exports one device, `vol0`. It has one reactor: with one for each of the guest's two CPUs, which poll, there is hardly any time left
/// for the host, and none for who asks polldm something.
pub struct Plan {
    nqn: String,
    yaml: String,
}

impl Plan {
    /// The native engine with these entries of `bdevs:`, and this table for `vol0`, which it exports over NVMe/TCP and iSCSI.
    pub fn native(name: &str, bdevs: &[String], table: &str) -> Plan {
        let mut plan = Plan::new("", name, bdevs, table);
        let iqn = iqn(&plan.nqn);
        plan.yaml += &format!(
            "  iscsi:
    portals: [ \"127.0.0.1:{ISCSI_PORT}\" ]
    targets:
      - {{ iqn: \"{iqn}\", initiators: any, luns: [ {{ lun: 0, device: vol0 }} ] }}
"
        );
        plan
    }

    /// The same of the SPDK engine, which takes hugepages, and exports over NVMe/TCP.
    pub fn spdk(name: &str, bdevs: &[String], table: &str) -> Plan {
        Plan::new("engine: spdk\n", name, bdevs, table)
    }

    /// Exports over RDMA as well, on the guest's own address.
    pub fn over_rdma(mut self) -> Plan {
        // Of `nvmf`, the last part.
        self.yaml += &format!("    rdma: [ \"{OWN_ADDRESS}:{PORT}\" ]\n");
        self
    }

    fn new(engine: &str, name: &str, bdevs: &[String], table: &str) -> Plan {
        let nqn = format!("nqn.2026-11.io.polldm:{name}");
        let bdevs = bdevs.join("\n  - ");
        let yaml = format!(
            "{engine}reactors: {{ count: 1 }}
control: {{ socket: /run/polldm/control.sock }}
bdevs:
  - {bdevs}
devices:
  - {{ name: vol0, table: \"{table}\" }}
exports:
  nvmf:
    listeners: [ \"127.0.0.1:{PORT}\" ]
    subsystems:
      - {{ nqn: \"{nqn}\", hosts: any, namespaces: [ {{ nsid: 1, device: vol0 }} ] }}
"
        );
        Plan { nqn, yaml }
    }

    /// Brings polldm and the configuration into the guest.
    fn install(&self, guest: &Guest, binary: &Path) -> Result<(), String> {
        install(guest, binary)?;
        guest
            .run(&format!(
                "cat >/run/polldm/node.yaml <<'END'\n{}END\n",
                self.yaml
            ))
            .map(drop)
    }
}

/// A polldm that runs in the guest.
pub struct Inside<'a> {
    guest: &'a Guest,
    nqn: String,
    server: Job<'a>,
}

impl<'a> Inside<'a> {
    /// Starts it and waits until it is ready.
    pub fn start(guest: &'a Guest, binary: &Path, plan: &Plan) -> Result<Inside<'a>, String> {
        plan.install(guest, binary)?;
        let server = guest.start(
            r#"
            serve >/run/polldm/log 2>&1 &
            pid=$!
            until grep -q '^ready after' /run/polldm/log; do
                kill -0 $pid 2>/dev/null || break
                usleep 20000
            done
            kill -0 $pid 2>/dev/null && tell ready
            wait $pid
            status=$?
            cat /run/polldm/log
            exit $status
            "#,
        )?;
        let nqn = plan.nqn.clone();
        let mut inside = Inside { guest, nqn, server };
        inside.server.event()?;
        Ok(inside)
    }

    /// Starts one that must refuse its configuration: what it says.
    pub fn refusal(guest: &Guest, binary: &Path, plan: &Plan) -> Result<String, String> {
        plan.install(guest, binary)?;
        guest
            .run("! serve 2>&1")
            .map_err(|e| format!("the configuration should be refused: {e}"))
    }

    /// Connects the guest to it.
    pub fn connect(&self) -> Result<Connection<'a>, String> {
        self.connect_to("tcp", "127.0.0.1")
    }

    /// Connects the guest to its listener over RDMA.
    pub fn connect_over_rdma(&self) -> Result<Connection<'a>, String> {
        self.connect_to("rdma", OWN_ADDRESS)
    }

    fn connect_to(
        &self,
        transport: &'static str,
        address: &'static str,
    ) -> Result<Connection<'a>, String> {
        let endpoint = Endpoint {
            transport,
            address,
            port: PORT,
            nqn: self.nqn.clone(),
        };
        Connection::open(self.guest, &endpoint, "")
    }

    /// Logs the guest in to it.
    pub fn log_in(&self) -> Result<Session<'a>, String> {
        let portal = Portal {
            address: "127.0.0.1",
            port: ISCSI_PORT,
            own_port: ISCSI_PORT,
            iqn: iqn(&self.nqn),
        };
        Session::open(self.guest, &portal, &[])
    }

    /// A polldm command against it; its output.
    pub fn command(&self, words: &str) -> Result<String, String> {
        self.guest.run(&format!("polldm {words}"))
    }

    /// A command that must be refused, with these words.
    pub fn refuses(&self, words: &str, reason: &str) -> Result<(), String> {
        let said = self
            .guest
            .run(&format!("! polldm {words}"))
            .map_err(|e| format!("it should be refused: {e}"))?;
        match said.contains(reason) {
            true => Ok(()),
            false => Err(format!("`polldm {words}` should say `{reason}`: {said}")),
        }
    }

    /// SIGTERM, then waits: it must leave with exit code 0.
    pub fn terminate(self) -> Result<(), String> {
        self.guest.run("kill -TERM $(pidof polldm)")?;
        self.server.succeed().map(drop)
    }
}

/// Brings polldm and its libraries into the guest, once: over a connection, so that the image need not be built anew for each polldm.
fn install(guest: &Guest, binary: &Path) -> Result<(), String> {
    if guest.run("[ -e /run/polldm/installed ]").is_ok() {
        return Ok(());
    }
    let failed = |what: &str, e: std::io::Error| format!("cannot {what}: {e}");
    let directory = TempDir::with_prefix("polldm-inside-").map_err(|e| failed("stage", e))?;
    let staged = directory.path().join("polldm");
    // Debugging information is most of a debug build. Without the tool for that it takes longer, and that is all.
    let stripped = Command::new("strip")
        .arg("-o")
        .arg(&staged)
        .arg(binary)
        .status()
        .is_ok_and(|status| status.success());
    if !stripped {
        std::fs::copy(binary, &staged).map_err(|e| failed("copy polldm", e))?;
    }
    for library in libraries(binary)? {
        if let Some(name) = library.file_name() {
            let target = directory.path().join(name);
            std::fs::copy(&library, target).map_err(|e| failed("copy a library", e))?;
        }
    }
    let archive = Command::new("tar")
        .arg("-C")
        .arg(directory.path())
        .args(["-c", "."])
        .stdin(Stdio::null())
        .output()
        .map_err(|e| failed("run tar", e))?;
    if !archive.status.success() {
        return Err(String::from_utf8_lossy(&archive.stderr).into_owned());
    }
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(|e| failed("listen", e))?;
    let port = listener
        .local_addr()
        .map_err(|e| failed("listen", e))?
        .port();
    let job = guest.start(&format!(
        "mkdir -p /run/polldm && nc {HOST_AS_SEEN_BY_GUEST} {port} | tar -x -C /run/polldm && touch /run/polldm/installed"
    ))?;
    let (mut stream, _) = listener.accept().map_err(|e| failed("accept", e))?;
    stream
        .write_all(&archive.stdout)
        .map_err(|e| failed("send polldm", e))?;
    drop(stream);
    job.succeed().map(drop)
}

/// The shared libraries of a program.
fn libraries(binary: &Path) -> Result<Vec<PathBuf>, String> {
    let output = Command::new("ldd")
        .arg(binary)
        .output()
        .map_err(|e| format!("cannot run ldd: {e}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let path = |line: &str| {
        let path = line.split("=>").nth(1)?.split_whitespace().next()?;
        path.starts_with('/').then(|| PathBuf::from(path))
    };
    Ok(text.lines().filter_map(path).collect())
}
