//! What `polldm dm` prints: dmsetup's forms, so that eyes and scripts that know those know these.
//!
//! Two things a user-space device does not have: a device number of the kernel's (shown with major 0, which the kernel gives to no
//! block device, and the device's own number as minor) and a read-ahead (left out).

use super::columns::{Align, Column, Layout, render};
use crate::control::schema::{
    DepsResult, DeviceInfo, InfoResult, LinesResult, LsResult, MessageResult, TargetsResult,
    WaitResult,
};

/// What dmsetup says when there is nothing to list.
const NO_DEVICES: &str = "No devices found\n";

/// `ls`: a name and its number per line.
pub(super) fn ls(result: &LsResult) -> String {
    if result.devices.is_empty() {
        return NO_DEVICES.into();
    }
    result
        .devices
        .iter()
        .map(|device| format!("{}\t(0:{})\n", device.name, device.id))
        .collect()
}

/// `info`: a block per device, blank lines between them.
pub(super) fn info(result: &InfoResult) -> String {
    if result.devices.is_empty() {
        return NO_DEVICES.into();
    }
    result
        .devices
        .iter()
        .map(|device| info_block(device) + "\n")
        .collect()
}

fn info_block(device: &DeviceInfo) -> String {
    let state = match (device.suspended, device.internally_suspended) {
        (true, _) => "SUSPENDED",
        (false, true) => "SUSPENDED (INTERNALLY)",
        (false, false) => "ACTIVE",
    };
    let deferred = match device.deferred_remove {
        true => " (DEFERRED REMOVE)",
        false => "",
    };
    let read_only = if device.read_only { " (READ-ONLY)" } else { "" };
    let tables = match (device.live_table, device.inactive_table) {
        (true, true) => "LIVE & INACTIVE",
        (true, false) => "LIVE",
        (false, true) => "INACTIVE",
        (false, false) => "None",
    };
    let mut lines = vec![
        ("Name:", device.name.clone()),
        ("State:", format!("{state}{read_only}{deferred}")),
        ("Tables present:", tables.to_owned()),
        ("Open count:", device.open_count.to_string()),
        ("Event number:", device.event_nr.to_string()),
        ("Major, minor:", format!("0, {}", device.id)),
        ("Number of targets:", device.target_count.to_string()),
    ];
    if !device.uuid.is_empty() {
        lines.push(("UUID:", device.uuid.clone()));
    }
    lines
        .into_iter()
        .map(|(key, value)| format!("{key:<18} {value}\n"))
        .collect()
}

/// A column of `info -c`: its name for `-o`, its layout, its text.
struct Field {
    name: &'static str,
    column: Column,
    text: fn(&DeviceInfo) -> String,
}

const fn field(
    name: &'static str,
    heading: &'static str,
    width_min: usize,
    align: Align,
    text: fn(&DeviceInfo) -> String,
) -> Field {
    Field {
        name,
        column: Column {
            heading,
            width_min,
            align,
        },
        text,
    }
}

/// The columns there are, with dmsetup's names, headings and widths; `size` is ours.
const FIELDS: &[Field] = &[
    field("name", "Name", 16, Align::Left, |device| {
        device.name.clone()
    }),
    field("major", "Maj", 3, Align::Right, |_| "0".into()),
    field("minor", "Min", 3, Align::Right, |device| {
        device.id.to_string()
    }),
    field("attr", "Stat", 4, Align::Left, attributes),
    field("open", "Open", 4, Align::Right, |device| {
        device.open_count.to_string()
    }),
    field("segments", "Targ", 4, Align::Right, |device| {
        device.target_count.to_string()
    }),
    field("events", "Event", 6, Align::Right, |device| {
        device.event_nr.to_string()
    }),
    field("uuid", "UUID", 32, Align::Left, |device| {
        device.uuid.clone()
    }),
    field("devno", "DevNo", 5, Align::Left, |device| {
        format!("0:{}", device.id)
    }),
    field("tables_loaded", "Tables", 6, Align::Left, |device| {
        match (device.live_table, device.inactive_table) {
            (true, true) => "Both".into(),
            (true, false) => "Live".into(),
            (false, true) => "Inactive".into(),
            (false, false) => "None".into(),
        }
    }),
    field("suspended", "Suspended", 9, Align::Left, |device| {
        if device.suspended {
            "Suspended"
        } else {
            "Active"
        }
        .into()
    }),
    field("readonly", "Read-only", 9, Align::Left, |device| {
        if device.read_only {
            "Read-only"
        } else {
            "Writeable"
        }
        .into()
    }),
    field(
        "internal_suspend",
        "IntSuspended",
        12,
        Align::Left,
        |device| yes(device.internally_suspended),
    ),
    field(
        "deferred_remove",
        "DeferredRemove",
        14,
        Align::Left,
        |device| yes(device.deferred_remove),
    ),
    field("device_count", "#Devs", 5, Align::Right, |device| {
        device.bdevs.len().to_string()
    }),
    field(
        "blkdevs_used",
        "BlkDevNamesUsed",
        16,
        Align::Left,
        |device| device.bdevs.join(","),
    ),
    field("size", "Size", 10, Align::Right, |device| {
        device.sectors.to_string()
    }),
];

/// The columns of `info -c` when none are named.
pub(super) const FIELDS_DEFAULT: &str = "name,major,minor,attr,open,segments,events,uuid";

fn yes(flag: bool) -> String {
    if flag { "yes" } else { "no" }.into()
}

/// dmsetup's four letters: live, inactive, suspended, read-only or writeable.
fn attributes(device: &DeviceInfo) -> String {
    [
        if device.live_table { 'L' } else { '-' },
        if device.inactive_table { 'I' } else { '-' },
        match device.suspended || device.internally_suspended {
            true => 's',
            false => '-',
        },
        if device.read_only { 'r' } else { 'w' },
    ]
    .iter()
    .collect()
}

/// `info -c`: a row per device. `fields` are names of columns, with commas between them.
///
/// # Errors
/// Names the column that there is not, and those there are.
pub(super) fn info_columns(
    result: &InfoResult,
    fields: &str,
    separator: Option<&str>,
    headings: bool,
) -> Result<String, String> {
    let mut chosen = Vec::new();
    for name in fields.split(',').map(str::trim) {
        let found = FIELDS.iter().find(|field| field.name == name);
        chosen.push(found.ok_or_else(|| {
            let names: Vec<_> = FIELDS.iter().map(|field| field.name).collect();
            format!("there is no column '{name}'; there are {}", names.join(","))
        })?);
    }
    if result.devices.is_empty() {
        return Ok(NO_DEVICES.into());
    }
    let columns: Vec<_> = chosen.iter().map(|field| field.column).collect();
    let rows: Vec<Vec<String>> = result
        .devices
        .iter()
        .map(|device| chosen.iter().map(|field| (field.text)(device)).collect())
        .collect();
    let layout = Layout {
        separator: separator.unwrap_or(" "),
        aligned: separator.is_none(),
        headings,
        headings_as_column: false,
    };
    Ok(render(&columns, &rows, layout))
}

/// `message`: what the target says, if anything.
pub(super) fn message(result: &MessageResult) -> String {
    match &result.text {
        Some(text) => format!("{text}\n"),
        None => String::new(),
    }
}

/// `wait`: nothing, as dmsetup; the device's state when asked for.
pub(super) fn wait(result: &WaitResult, verbose: bool) -> String {
    match verbose {
        true => info_block(&result.device),
        false => String::new(),
    }
}

/// `fail-parked`: how many I/Os, per device.
pub(super) fn fail_parked(failed: &[(String, u64)], named: bool) -> String {
    let line = |(name, count): &(String, u64)| match named {
        true => format!("{name}: {count} failed\n"),
        false => format!("{count} failed\n"),
    };
    failed.iter().map(line).collect()
}

/// `table` and `status`: a line per target; the device's name before it when `named`.
pub(super) fn lines(result: &LinesResult, named: bool) -> String {
    if result.devices.is_empty() {
        return NO_DEVICES.into();
    }
    let mut text = String::new();
    for device in &result.devices {
        let prefix = if named {
            format!("{}: ", device.name)
        } else {
            String::new()
        };
        if device.targets.is_empty() && named {
            text.push_str(&format!("{}:\n", device.name));
        }
        for target in &device.targets {
            let line = format!(
                "{prefix}{} {} {} {}",
                target.start, target.sectors, target.target, target.text
            );
            text.push_str(line.trim_end());
            text.push('\n');
        }
    }
    text
}

/// `deps`: how many backing devices, and which.
pub(super) fn deps(result: &DepsResult, named: bool) -> String {
    if result.devices.is_empty() {
        return NO_DEVICES.into();
    }
    let mut text = String::new();
    for device in &result.devices {
        let prefix = if named {
            format!("{}: ", device.name)
        } else {
            String::new()
        };
        let bdevs: String = device
            .bdevs
            .iter()
            .map(|bdev| format!(" ({bdev})"))
            .collect();
        text.push_str(&format!(
            "{prefix}{} dependencies\t:{bdevs}\n",
            device.bdevs.len()
        ));
    }
    text
}

/// `targets`: a type and its version per line.
pub(super) fn targets(result: &TargetsResult) -> String {
    let line = |name: &str, [major, minor, patch]: [u32; 3]| {
        format!("{name:<16} v{major}.{minor}.{patch}\n")
    };
    result
        .targets
        .iter()
        .map(|target| line(&target.name, target.version))
        .collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::control::Service;
    use crate::control::fake::Fake;
    use crate::control::schema::*;

    fn service() -> Service {
        Service::new(Arc::new(Fake::with_devices()))
    }

    fn infos() -> InfoResult {
        Serve::<DmInfo>::serve(&service(), InfoParams::default()).unwrap()
    }

    #[test]
    fn ls_is_a_name_a_tab_and_a_number() {
        let result = Serve::<DmLs>::serve(&service(), LsParams::default()).unwrap();
        assert_eq!(ls(&result), "vol0\t(0:0)\nvol1\t(0:1)\n");
        assert_eq!(ls(&LsResult::default()), "No devices found\n");
    }

    #[test]
    fn info_is_a_block_per_device() {
        let expected = "\
Name:              vol0
State:             ACTIVE
Tables present:    LIVE
Open count:        1
Event number:      0
Major, minor:      0, 0
Number of targets: 2

Name:              vol1
State:             ACTIVE
Tables present:    None
Open count:        0
Event number:      0
Major, minor:      0, 1
Number of targets: 0
UUID:              my-uuid

";
        assert_eq!(info(&infos()), expected);
        let mut device = infos().devices.remove(0);
        (device.suspended, device.read_only, device.inactive_table) = (true, true, true);
        let text = info(&InfoResult {
            global_event_nr: 0,
            devices: vec![device],
        });
        assert!(
            text.contains("State:             SUSPENDED (READ-ONLY)\n"),
            "{text}"
        );
        assert!(
            text.contains("Tables present:    LIVE & INACTIVE\n"),
            "{text}"
        );
        let mut device = infos().devices.remove(0);
        (device.internally_suspended, device.deferred_remove) = (true, true);
        assert_eq!(attributes(&device), "L-sw");
        let text = info_block(&device);
        assert!(
            text.contains("State:             SUSPENDED (INTERNALLY) (DEFERRED REMOVE)\n"),
            "{text}"
        );
    }

    #[test]
    fn what_messages_waits_and_failed_io_print() {
        let said = |text: Option<&str>| {
            message(&MessageResult {
                text: text.map(str::to_owned),
            })
        };
        assert_eq!(
            (said(None), said(Some("a b"))),
            (String::new(), "a b\n".into())
        );
        let result = WaitResult {
            device: infos().devices.remove(0),
            status: Vec::new(),
        };
        assert_eq!(wait(&result, false), "");
        assert!(wait(&result, true).starts_with("Name:              vol0\nState:"));
        let failed = [("a".to_owned(), 3), ("b".to_owned(), 0)];
        assert_eq!(fail_parked(&failed[..1], false), "3 failed\n");
        assert_eq!(fail_parked(&failed, true), "a: 3 failed\nb: 0 failed\n");
    }

    #[test]
    fn info_in_columns() {
        let expected = "\
Name             Maj Min Stat Open Targ Event  UUID
vol0               0   0 L--w    1    2      0
vol1               0   1 ---w    0    0      0 my-uuid
";
        assert_eq!(
            info_columns(&infos(), FIELDS_DEFAULT, None, true).unwrap(),
            expected
        );
        let some = info_columns(&infos(), "name,open,blkdevs_used,size", Some(":"), false).unwrap();
        assert_eq!(some, "vol0:1:ram0:2097152\nvol1:0::0\n");
        let wrong = info_columns(&infos(), "name,colour", None, true).unwrap_err();
        assert!(
            wrong.starts_with("there is no column 'colour'; there are name,major"),
            "{wrong}"
        );
    }

    #[test]
    fn table_and_status_name_the_device_when_there_may_be_several() {
        let all = Serve::<DmTable>::serve(&service(), TableParams::default()).unwrap();
        assert_eq!(
            lines(&all, true),
            "vol0: 0 1048576 linear ram0 0\nvol0: 1048576 1048576 zero\nvol1:\n"
        );
        let one = Serve::<DmTable>::serve(
            &service(),
            TableParams {
                name: Some("vol0".into()),
                ..TableParams::default()
            },
        );
        assert_eq!(
            lines(&one.unwrap(), false),
            "0 1048576 linear ram0 0\n1048576 1048576 zero\n"
        );
        let status = Serve::<DmStatus>::serve(&service(), StatusParams::default()).unwrap();
        assert_eq!(
            lines(&status, true),
            "vol0: 0 1048576 linear\nvol0: 1048576 1048576 zero\nvol1:\n"
        );
    }

    #[test]
    fn deps_and_targets() {
        let all = Serve::<DmDeps>::serve(&service(), InfoParams::default()).unwrap();
        assert_eq!(
            deps(&all, true),
            "vol0: 1 dependencies\t: (ram0)\nvol1: 0 dependencies\t:\n"
        );
        let types = Serve::<DmTargets>::serve(&service(), NoParams {}).unwrap();
        assert!(
            targets(&types)
                .lines()
                .any(|line| line == "linear           v1.0.0"),
            "{}",
            targets(&types)
        );
    }
}
