//! The tables of mapped devices, checked while nothing is open: the device mapper's own parser reads them against what the plan knows of
//! bdevs, and of devices whose tables it has read before.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::sync::Arc;

use crate::config::plan::BdevPlan;
use crate::config::raw::Device;
use crate::config::some_of;
use crate::config::source::{Problem, Source};
use crate::dm::table::SECTORS_MAX;
use crate::dm::target::{Refusal, Resolve};
use crate::dm::{AtomicWrites, DeviceId, LEVELS_MAX, Limits, Lower, LowerId, Table};
use crate::suggest::nearest;

/// What a name in a table stands for: its index in the plan's bdevs, or among the devices as written.
#[derive(Clone, Copy)]
enum Named {
    Bdev(usize),
    Device(usize),
}

/// A table that can be.
#[derive(Clone)]
struct Checked {
    limits: Arc<Limits>,
    /// How many mapped devices there are on top of each other, this one among them.
    depth: usize,
}

/// All tables of a configuration.
pub(super) struct Tables<'a> {
    source: &'a Source,
    bdevs: &'a [BdevPlan],
    devices: &'a [&'a Device],
    names: HashMap<&'a str, Named>,
    checked: RefCell<HashMap<usize, Checked>>,
    /// The devices that were checked, each after those beneath it.
    order: RefCell<Vec<usize>>,
    /// What is wrong with a table beneath the one that is being read.
    beneath: Cell<Option<Problem>>,
}

impl<'a> Tables<'a> {
    /// The tables of `devices`; no name is there twice.
    pub fn new(bdevs: &'a [BdevPlan], devices: &'a [&'a Device], source: &'a Source) -> Self {
        let bdev_names = bdevs.iter().map(|bdev| bdev.name.value.as_str());
        let bdev_names = bdev_names.zip((0..).map(Named::Bdev));
        let device_names = devices.iter().map(|device| device.name.value.as_str());
        let device_names = device_names.zip((0..).map(Named::Device));
        Self {
            source,
            bdevs,
            devices,
            names: bdev_names.chain(device_names).collect(),
            checked: RefCell::default(),
            order: RefCell::default(),
            beneath: Cell::default(),
        }
    }

    /// Checks all of them. The devices' indices and limits, in the order written, but each after those that its table names.
    pub fn check(self) -> Result<Vec<(usize, Arc<Limits>)>, Problem> {
        for device in 0..self.devices.len() {
            self.table(device, None)?;
        }
        let checked = self.checked.into_inner();
        let order = self.order.into_inner().into_iter();
        let limits = |device| (device, checked[&device].limits.clone());
        Ok(order.map(limits).collect())
    }

    /// Checks one, and those beneath it, unless that was done.
    fn table(&self, device: usize, above: Option<&Reading<'_>>) -> Result<Checked, Problem> {
        if let Some(checked) = self.checked.borrow().get(&device) {
            return Ok(checked.clone());
        }
        let reading = Reading {
            tables: self,
            device,
            above,
            depth: Cell::new(1),
        };
        let table = &self.devices[device].table;
        let parsed = Table::parse(&table.value, &reading).map_err(|error| {
            let beneath = self.beneath.take();
            beneath.unwrap_or_else(|| self.source.table_problem(table, error))
        })?;
        let checked = Checked {
            limits: match reading.read_only() {
                true => parsed.read_only().limits,
                false => parsed.limits,
            },
            depth: reading.depth.get(),
        };
        self.checked.borrow_mut().insert(device, checked.clone());
        self.order.borrow_mut().push(device);
        Ok(checked)
    }
}

/// A table that is being read, and those that led to it.
struct Reading<'a> {
    tables: &'a Tables<'a>,
    device: usize,
    above: Option<&'a Reading<'a>>,
    /// As in [`Checked`], as far as the table was read.
    depth: Cell<usize>,
}

impl Reading<'_> {
    fn name(&self) -> &str {
        &self.tables.devices[self.device].name.value
    }

    fn read_only(&self) -> bool {
        let flag = &self.tables.devices[self.device].read_only;
        flag.as_ref().is_some_and(|flag| flag.value)
    }

    /// The devices that led here, this one first.
    fn way(&self) -> impl Iterator<Item = &Reading<'_>> {
        std::iter::successors(Some(self), |reading| reading.above)
    }

    fn device(&self, name: &str, device: usize) -> Result<Lower, Refusal> {
        let looped = self.way().position(|reading| reading.device == device);
        if let Some(between) = looped {
            let mut way: Vec<&str> = self.way().take(between + 1).map(Reading::name).collect();
            way.insert(0, name);
            way.reverse();
            return Err(Refusal::new(format!("'{name}' would be on itself"))
                .help(format!("'{}'", way.join("' is on '"))));
        }
        let too_deep = || {
            Refusal::new(format!("'{name}' has too many devices beneath it"))
                .help(format!("at most {LEVELS_MAX} can be on top of each other"))
        };
        if self.way().count() == LEVELS_MAX {
            return Err(too_deep());
        }
        let Checked { limits, depth } =
            self.tables.table(device, Some(self)).map_err(|problem| {
                self.tables.beneath.set(Some(problem));
                Refusal::new("a table beneath is wrong")
            })?;
        if depth == LEVELS_MAX {
            return Err(too_deep());
        }
        self.depth.set(self.depth.get().max(depth + 1));
        Ok(Lower::of_device(DeviceId(device as u32), name, &limits))
    }

    fn unknown(&self, name: &str) -> Refusal {
        let refusal = Refusal::new(format!("there is neither a bdev nor a device '{name}'"));
        let mut known: Vec<&str> = self.tables.names.keys().copied().collect();
        known.retain(|known| *known != self.name());
        known.sort_unstable();
        refusal.help(match nearest(name, known.iter().copied()) {
            Some(near) => format!("did you mean '{near}'?"),
            None if known.is_empty() => "`bdevs` defines none".into(),
            None => format!("there are {}", some_of(&known)),
        })
    }
}

impl Resolve for Reading<'_> {
    fn resolve(&self, name: &str) -> Result<Lower, Refusal> {
        let lower = match self.tables.names.get(name) {
            Some(Named::Bdev(index)) => bdev(*index, &self.tables.bdevs[*index]),
            Some(Named::Device(index)) => self.device(name, *index)?,
            None => return Err(self.unknown(name)),
        };
        if lower.read_only && !self.read_only() {
            let reason = format!("'{name}' is read-only, and '{}' is not", self.name());
            return Err(Refusal::new(reason).help("set `read_only: true` for both, or for neither"));
        }
        Ok(lower)
    }
}

/// A bdev as far as the plan knows it; one of unknown size is as large as it must be.
fn bdev(index: usize, bdev: &BdevPlan) -> Lower {
    Lower {
        id: LowerId(index as u32),
        name: bdev.name.value.clone(),
        sectors: bdev.sectors().unwrap_or(SECTORS_MAX),
        block_bytes: bdev.block_size,
        physical_bytes: bdev.block_size,
        volatile_cache: false,
        flush: false,
        fua: false,
        discard: false,
        discard_zeroes: false,
        write_zeroes: false,
        transfer_sectors_max: 0,
        optimal_write_bytes: bdev.block_size,
        atomic_writes: AtomicWrites::NONE,
        read_only: bdev.read_only(),
        keep: Default::default(),
    }
}
