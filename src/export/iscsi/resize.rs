//! A device has another size (SBC-3, 4.7.1), or offers other atomic writes: initiators are told when every core goes by it, so that none who asks at once is
//! answered with the old one, or refused what the new one has.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use super::session::Local;
use super::target::Target;
use crate::dm::{CoreId, DeviceId, Geometry};
use crate::scsi::sense::Code;

/// What initiators are to be told.
type News = [Option<Code>; 2];

/// What cores have heard of a device of which not all have heard the same.
#[derive(Default)]
struct Heard {
    /// `None` without a table.
    geometries: BTreeMap<CoreId, Option<Geometry>>,
    /// What was otherwise before, at some unit.
    news: News,
}

/// Devices that some cores know to be otherwise and others do not. Locked when a device changes, never by a read or write.
#[derive(Default)]
pub struct Resizes(Mutex<BTreeMap<DeviceId, Heard>>);

impl Resizes {
    /// A core goes by a geometry. What initiators are to be told, if it is the last of `cores` to. Each core hears of the same ones in the same
    /// order, so in the end all agree.
    fn heard(
        &self,
        device: DeviceId,
        core: CoreId,
        cores: u16,
        geometry: Option<Geometry>,
        news: News,
    ) -> News {
        // A panic brings the process down; tests alone see a poisoned lock.
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let heard = all.entry(device).or_default();
        heard.geometries.insert(core, geometry);
        add(&mut heard.news, news);
        let is_known = heard.geometries.len() == usize::from(cores);
        if !is_known || heard.geometries.values().any(|other| *other != geometry) {
            return News::default();
        }
        all.remove(&device)
            .map_or(News::default(), |heard| heard.news)
    }
}

fn add(all: &mut News, more: News) {
    for (one, more) in all.iter_mut().zip(more) {
        *one = one.or(more);
    }
}

impl Local {
    /// A device is another on this core.
    pub fn device_changed(
        &mut self,
        target: &Target,
        device: DeviceId,
        geometry: Option<Geometry>,
    ) {
        let mut news = News::default();
        for unit in self.units.of_device(device) {
            add(&mut news, unit.set_geometry(geometry));
        }
        let resizes = target.resizes();
        let told = resizes.heard(device, self.core, target.cores(), geometry, news);
        for unit in self.units.of_device(device) {
            for code in told.into_iter().flatten() {
                unit.unit.attend(None, code);
            }
        }
    }
}
