//! `polldm serve`: from a configuration to a running node, and back.

use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use clap::Args;

use super::signals::EndSignals;
use super::{Engine, Failure, print, say};
use crate::config::{self, Plan};
use crate::control::metrics::Metrics;
use crate::control::{Server, Service, Socket};
use crate::node::Node;

/// How long running verbs of operators may take to end. A suspend that waits for I/O ends with the node, not before.
const VERBS_STOP_WITHIN: Duration = Duration::from_secs(1);

const EXAMPLES: &str = "\
Examples:
  polldm serve conf/quickstart.yaml
  polldm serve --socket /tmp/polldm.sock conf/quickstart.yaml &
  polldm --socket /tmp/polldm.sock dm ls

SIGTERM and SIGINT end it: no new connections, what is in flight ends or is
given up after 10 s, exit code 0. A second signal ends it at once, with exit
code 1.";

/// Run the target that a configuration describes, until SIGTERM or SIGINT
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Serve {
    /// The configuration; 'polldm schema' describes it, 'polldm check' tries it
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// What polls the devices, whatever the configuration says
    #[arg(long, value_enum)]
    engine: Option<Engine>,
}

/// What runs. Taken down in this order: operators, scrapers, the node.
struct Running {
    server: Server,
    metrics: Option<Metrics>,
    node: Arc<Node>,
}

/// Serves until it is told to end.
pub(super) fn run(serve: &Serve, socket: Option<PathBuf>) -> Result<(), Failure> {
    let begun = Instant::now();
    let signals = EndSignals::block()
        .map_err(|error| Failure::Operation(format!("cannot wait for signals: {error}")))?;
    let mut plan = config::load_for(&serve.file, serve.engine.map(config::Engine::from))?;
    if let Some(socket) = socket {
        plan.control_socket = socket;
    }
    let running = start(&plan)?;
    announce(&running, &plan, begun)?;
    let signal = signals.wait();
    say(&format!("{signal}: stopping"));
    let impatient = thread::Builder::new()
        .name("signals".into())
        .spawn(move || {
            let signal = signals.wait();
            say(&format!("{signal} again: ending at once"));
            std::process::exit(1);
        });
    if impatient.is_err() {
        say("no thread to wait for a second signal; SIGKILL would end this at once");
    }
    stop(running)
}

/// Starts everything, or nothing: what can be in somebody else's hands is taken first.
fn start(plan: &Plan) -> Result<Running, Failure> {
    let socket = Socket::bind(&plan.control_socket)
        .map_err(|error| plan.error_of_whole(&error.to_string()))?;
    let listener = match &plan.metrics {
        None => None,
        Some(at) => Some(TcpListener::bind(at.value).map_err(|error| {
            let message = format!("cannot listen on {} for metrics: {error}", at.value);
            plan.error_at(
                at.span,
                &message,
                Some("another process may have the port; 'ss -ltnp' shows which"),
            )
        })?),
    };
    let node = Arc::new(Node::start(plan)?);
    let service = Service::new(node.clone());
    let threads = |error| Failure::Operation(format!("cannot start a thread: {error}"));
    let metrics = listener
        .map(|listener| Metrics::start(listener, service.clone()))
        .transpose()
        .map_err(threads)?;
    let server = Server::start(socket, service).map_err(threads)?;
    Ok(Running {
        server,
        metrics,
        node,
    })
}

/// One line per way in, and that all is ready.
fn announce(running: &Running, plan: &Plan, begun: Instant) -> Result<(), Failure> {
    let mut text = format!("control: {}\n", running.server.path().display());
    let nvmf = running.node.nvmf().map(|nvmf| nvmf.addresses());
    for address in nvmf.unwrap_or_default() {
        text.push_str(&format!("nvme-tcp: {address}\n"));
    }
    let iscsi = running.node.iscsi().map(|iscsi| iscsi.addresses());
    for (address, _) in iscsi.unwrap_or_default() {
        text.push_str(&format!("iscsi: {address}\n"));
    }
    if let Some(metrics) = &running.metrics {
        let address = metrics
            .address()
            .map_err(|error| Failure::Operation(error.to_string()))?;
        text.push_str(&format!("metrics: http://{address}/metrics\n"));
    }
    let reactors = plan.reactors.cpus.len();
    let ready = begun.elapsed().as_secs_f64() * 1000.0;
    text.push_str(&format!(
        "ready after {ready:.1} ms: {} on {}\n",
        count(plan.devices.len(), "device"),
        count(reactors, "reactor")
    ));
    print(&text)
}

fn count(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

fn stop(running: Running) -> Result<(), Failure> {
    let Running {
        server,
        metrics,
        node,
    } = running;
    if !server.stop(VERBS_STOP_WITHIN) {
        say("a verb of the control socket still runs; it is given up");
    }
    drop(server);
    if let Some(metrics) = metrics {
        metrics.stop();
    }
    node.stop()
        .map_err(|error| Failure::Operation(error.to_string()))
}
