//! Processes of polldm: that serve, that ask, that are a load.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

const POLLDM: &str = env!("CARGO_BIN_EXE_polldm");

/// Far longer than anything takes here: what is not there by then never comes.
const PATIENCE: Duration = Duration::from_secs(60);

/// Between two looks at something that can only be asked for.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// A port that nobody listens on now.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("bound").port()
}

/// What a command says that succeeds.
pub fn polldm(arguments: &[&str]) -> String {
    said(Command::new(POLLDM).args(arguments).output())
}

fn said(output: std::io::Result<Output>) -> String {
    let output = output.expect("it can be run");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let complaints = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}{complaints}");
    text
}

fn serve(directory: &Path, configuration: &str) -> Command {
    let file = directory.join("polldm.yaml");
    fs::write(&file, configuration).expect("a configuration");
    let mut command = Command::new(POLLDM);
    command
        .arg("--socket")
        .arg(directory.join("control.sock"))
        .arg("serve")
        .arg(file)
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    command
}

/// A serving process; it is killed when dropped.
pub struct Served {
    child: Child,
    directory: tempfile::TempDir,
    /// What it said before it was ready.
    announced: Vec<String>,
}

impl Served {
    /// Starts one and waits until it is ready.
    pub fn start(configuration: &str) -> Served {
        Served::start_saying(configuration, Stdio::inherit())
    }

    /// The same, with somewhere else for what it says on standard error.
    pub fn start_saying(configuration: &str, to: Stdio) -> Served {
        let directory = tempfile::tempdir().expect("a directory");
        let mut child = serve(directory.path(), configuration)
            .stderr(to)
            .spawn()
            .expect("it can be run");
        let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let mut announced = Vec::new();
        let ready = lines.map_while(Result::ok).any(|line| {
            let ready = line.starts_with("ready after ");
            announced.push(line);
            ready
        });
        assert!(ready, "it ended before it was ready");
        Served {
            child,
            directory,
            announced,
        }
    }

    /// The port of the address that it says after these words that it listens at.
    #[allow(dead_code, reason = "only stories let the system choose")]
    pub fn port_after(&self, words: &str) -> u16 {
        let mut addresses = (self.announced.iter()).filter_map(|line| line.strip_prefix(words));
        let address = addresses.next().expect("it says where it listens");
        let address: std::net::SocketAddr = address.parse().expect("an address");
        address.port()
    }

    /// What one says on standard error that does not start, with exit code 2: bad usage or configuration.
    pub fn refused(configuration: &str) -> String {
        let directory = tempfile::tempdir().expect("a directory");
        let output = serve(directory.path(), configuration)
            .stderr(Stdio::piped())
            .output()
            .expect("it can be run");
        let complaints = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{complaints}");
        complaints
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(POLLDM);
        command
            .arg("--socket")
            .arg(self.directory.path().join("control.sock"))
            .args(arguments)
            .stdin(Stdio::null());
        command
    }

    /// What it answers to a command that succeeds.
    pub fn told(&self, arguments: &[&str]) -> String {
        said(self.command(arguments).output())
    }

    /// What it has against a command that fails.
    pub fn refuses(&self, arguments: &[&str]) -> String {
        let output = self.command(arguments).output().expect("it can be run");
        assert!(!output.status.success(), "{arguments:?}");
        String::from_utf8_lossy(&output.stderr).into_owned()
    }

    /// Starts a command that takes its time.
    pub fn start_command(&self, arguments: &[&str]) -> Child {
        self.command(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("it can be run")
    }

    /// Asks again and again until the answer is as it should be.
    pub fn wait_for(&self, arguments: &[&str], is_so: impl Fn(&str) -> bool) {
        let begun = Instant::now();
        loop {
            let answer = self.told(arguments);
            if is_so(&answer) {
                return;
            }
            assert!(begun.elapsed() < PATIENCE, "still: {answer}");
            std::thread::sleep(LOOK_EVERY);
        }
    }

    /// Ends it without a word, as a power cut does.
    pub fn kill(&mut self) {
        self.child.kill().expect("it runs");
        self.child.wait().expect("it was started here");
    }

    /// Its process's number.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    fn tell_to_end(&self) {
        // SAFETY: no memory is involved; the child has not been waited for, so the number is still its own.
        let sent = unsafe { libc::kill(self.child.id() as i32, libc::SIGTERM) };
        assert_eq!(sent, 0);
    }

    /// Tells it to end; its exit code, if it has not ended by a signal.
    pub fn end(mut self) -> Option<i32> {
        self.tell_to_end();
        self.child.wait().expect("it was started here").code()
    }

    /// The same, again and again.
    pub fn end_at_once(mut self) -> Option<i32> {
        let begun = Instant::now();
        loop {
            self.tell_to_end();
            std::thread::sleep(LOOK_EVERY);
            if let Some(status) = self.child.try_wait().expect("it was started here") {
                return status.code();
            }
            assert!(begun.elapsed() < PATIENCE, "it does not end");
        }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        // After `end` there is nothing left to kill.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A command that runs beside the test.
pub struct Load(std::cell::RefCell<Child>);

impl Load {
    pub fn start(arguments: &[&str]) -> Load {
        let child = Command::new(POLLDM)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        Load(child.expect("it can be run").into())
    }

    pub fn has_ended(&self) -> bool {
        self.0
            .borrow_mut()
            .try_wait()
            .expect("it is ours")
            .is_some()
    }

    /// Waits for its end, which is no success; what it has to complain about.
    pub fn fails(self) -> String {
        let output = self.0.into_inner().wait_with_output();
        let output = output.expect("it can be waited for");
        assert!(!output.status.success());
        String::from_utf8_lossy(&output.stderr).into_owned()
    }

    /// Waits for its end; what it says, which is a success.
    pub fn end(self) -> String {
        said(self.0.into_inner().wait_with_output())
    }
}
