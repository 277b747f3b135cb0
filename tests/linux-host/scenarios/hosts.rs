//! Who may connect, and over how many paths.

use super::Context;
use crate::initiator::{Connection, Endpoint, await_progress, start_endless_writes};
use crate::target::{Backing, Volume};

/// A subsystem with a list of hosts lets those in, and refuses everybody else without harm to them.
pub fn host_list(context: &Context<'_>) -> Result<(), String> {
    let mut target = context.target_for(
        "[ nqn.2026-11.io.polldm:friend ]",
        "listed",
        &[Volume::new("disk", Backing::Malloc, 4096, 16)],
    )?;
    let friend = context.connect(&target, "--hostnqn=nqn.2026-11.io.polldm:friend")?;
    let device = friend.device(1)?;
    let endpoint = Endpoint::of(&target);
    // The guest's own name, from /etc/nvme/hostnqn, is not on the list.
    let connect = format!(
        "nvme connect {} --nqn={}",
        endpoint.transport(),
        endpoint.nqn
    );
    let (status, output) = context.guest.start(&connect)?.finish()?;
    if status == 0 {
        return Err(format!(
            "a host that is not on the list could connect: {output}"
        ));
    }
    context.guest.run(&format!(
        "dd if={device} of=/dev/null bs=1M count=4 iflag=direct status=none"
    ))?;
    friend.close()?;
    target.terminate()
}

/// The kernel takes two connections to one subsystem for two paths of one device. Either path may go while fio writes:
/// the other one carries on, no write is lost, and the lost path can be added again.
pub fn two_paths(context: &Context<'_>) -> Result<(), String> {
    let guest = context.guest;
    let mut target = context.target("paths", &[Volume::new("disk", Backing::Malloc, 4096, 128)])?;
    let first = Endpoint::of(&target);
    let second = Endpoint {
        port: target.ports[1],
        ..Endpoint::of(&target)
    };
    let connection = Connection::open(guest, &first, "")?;
    Connection::open(guest, &second, "").map_err(|e| format!("the second path: {e}"))?;
    let device = connection.device(1)?;
    let await_paths =
        |count: usize| guest.run(&format!("await 60 paths_are {} {count}", target.nqn));
    await_paths(2)?;

    let writes = start_endless_writes(guest, &device)?;
    await_progress(&target, "disk")?;
    guest.run(&format!(
        "nvme disconnect --device=$(path {} {})",
        target.nqn, first.port
    ))?;
    await_paths(1)?;
    await_progress(&target, "disk")?;
    Connection::open(guest, &first, "")?;
    await_paths(2)?;
    guest.run(&format!(
        "nvme disconnect --device=$(path {} {})",
        target.nqn, second.port
    ))?;
    await_paths(1)?;
    await_progress(&target, "disk")?;
    writes.stop()?;
    connection.close()?;
    target.terminate()
}

/// The only path becomes inaccessible while fio writes: the host holds its I/O, for it has nowhere to send it, and goes on when the state
/// allows. The passing state, which hosts are not notified of, comes to the same.
pub fn ana_states(context: &Context<'_>) -> Result<(), String> {
    let guest = context.guest;
    let mut target = context.target("ana", &[Volume::new("disk", Backing::Malloc, 4096, 128)])?;
    let connection = context.connect(&target, "")?;
    let device = connection.device(1)?;
    let set = |state: &str| target.command(&["export", "ana", &target.nqn, state]);
    let await_state =
        |state: &str| guest.run(&format!("await 60 ana_state_is {} {state}", target.nqn));

    let writes = start_endless_writes(guest, &device)?;
    await_progress(&target, "disk")?;
    set("inaccessible")?;
    await_state("inaccessible")?;
    // What the kernel says when it puts I/O aside.
    guest.run(
        "held() { dmesg | grep -q 'no usable path - requeuing I/O'; }\n\
         await 60 held",
    )?;
    set("optimized")?;
    await_state("optimized")?;
    await_progress(&target, "disk")?;
    // This one it learns of by a refused I/O only.
    set("change")?;
    await_state("change")?;
    set("optimized")?;
    await_state("optimized")?;
    set("non-optimized")?;
    await_state("non-optimized")?;
    await_progress(&target, "disk")?;
    writes.stop()?;
    connection.close()?;
    target.terminate()
}
