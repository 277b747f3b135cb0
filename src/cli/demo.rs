//! `polldm demo`: what does a host see when a path fails and the table is swapped beneath it?

use std::io::{self, IsTerminal as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use clap::Args;

use super::chart::Chart;
use super::signals::EndSignals;
use super::{Failure, NoSocket, print, say};
use crate::bench::options::parse_time;
use crate::demo::report::time;
use crate::demo::target::{DEVICE, Demo, Geometry};
use crate::demo::{self, Audience, DEPTH, Options, QUEUES, SLICES, Step, TIME_MAX, TIME_MIN};

const EXAMPLES: &str = "\
Examples:
  polldm demo
  polldm demo --time 3
  polldm demo --json | jq .gap

It starts a target with one mapped device on a loopback port that is free, and
a host that connects to it. The device's only path is taken away under load, as
a disk that is pulled; a while later the table is swapped for one on another
disk that holds the same data. All figures are measured in this run. Nothing
outside the process is touched.

Exit code 1 when an I/O failed or read anything but what had been written.";

/// Fail the only path of a device under load, swap its table, and see what a host saw
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct DemoCommand {
    /// How long to run the load: 10, 10s, 500ms
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = parse_time)]
    time: Duration,
    /// Print the result as JSON, and nothing else
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    _no_socket: NoSocket,
}

/// Runs it; that no I/O failed and nothing differed is its success.
pub(super) fn run(command: &DemoCommand) -> Result<(), Failure> {
    if !(TIME_MIN..=TIME_MAX).contains(&command.time) {
        return Err(Failure::Usage(format!(
            "--time: has to be {} ms to {} s",
            TIME_MIN.as_millis(),
            TIME_MAX.as_secs()
        )));
    }
    let signals = EndSignals::block()
        .map_err(|error| Failure::Operation(format!("cannot wait for signals: {error}")))?;
    let interrupted = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&interrupted);
    let waiting = thread::Builder::new()
        .name("signals".into())
        .spawn(move || {
            let signal = signals.wait();
            flag.store(true, Ordering::Relaxed);
            say(&format!("{signal}: ending; once more to end at once"));
            signals.wait();
            std::process::exit(1);
        });
    waiting.map_err(|error| Failure::Operation(format!("cannot start a thread: {error}")))?;
    let options = Options { time: command.time };
    let mut screen = Screen {
        json: command.json,
        chart: (!command.json && io::stdout().is_terminal())
            .then(|| Chart::new(SLICES, command.time / SLICES)),
        interrupted,
    };
    let outcome = demo::run(options, &mut screen);
    screen.clear();
    let report = outcome.map_err(|failure| match failure {
        demo::Failure::Interrupted => Failure::Operation("the demo was ended early".into()),
        demo::Failure::Failed(reason) => Failure::Operation(reason),
    })?;
    if command.json {
        print(&format!("{}\n", report.json()))?;
    } else {
        print(&format!("\n{}", report.text()))?;
    }
    if report.is_clean() {
        Ok(())
    } else {
        let reason = "some I/O failed, or read what had not been written: see the report";
        Err(Failure::Operation(reason.into()))
    }
}

/// Shows a demo as it goes on.
struct Screen {
    json: bool,
    /// On a terminal.
    chart: Option<Chart>,
    interrupted: Arc<AtomicBool>,
}

impl Screen {
    /// A line above the chart. Whoever reads may have seen enough; the demo goes on.
    fn line(&mut self, text: &str) {
        if self.json {
            return;
        }
        let (hide, show) = match &self.chart {
            Some(chart) => (Chart::HIDE, chart.line()),
            None => ("", String::new()),
        };
        let _ = print(&format!("{hide}{text}\n{show}"));
    }

    /// Ends the chart's line.
    fn clear(&mut self) {
        if self.chart.take().is_some_and(|chart| chart.is_drawn()) {
            let _ = print("\n");
        }
    }
}

impl Audience for Screen {
    fn introduced(&mut self, target: &Demo, load: Geometry) {
        let reactors = match target.reactors() {
            1 => "1 reactor".to_owned(),
            count => format!("{count} reactors"),
        };
        let text = format!(
            "\
target   {}, {reactors}
device   {DEVICE}: {}
host     {QUEUES} queues of {DEPTH} over NVMe/TCP, random {} bytes, {} % reads, every byte checked
data     both disks hold the same; until the pull, writes repeat what is there, so that it stays so
",
            target.address(),
            target.table(),
            load.io_bytes,
            load.read_percent,
        );
        self.line(&text);
    }

    fn done(&mut self, step: &Step) {
        let text = format!(
            "{:>7.3} s  {} ({})",
            step.at_s,
            step.what,
            time(step.took_us)
        );
        self.line(&text);
    }

    fn passed(&mut self, slice: u32, completed: u64) {
        if let Some(chart) = &mut self.chart {
            chart.add(slice, completed);
            let _ = print(&format!("{}{}", Chart::HIDE, chart.line()));
        }
    }

    fn interrupted(&self) -> bool {
        self.interrupted.load(Ordering::Relaxed)
    }
}
