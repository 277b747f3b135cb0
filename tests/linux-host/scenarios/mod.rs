//! The scenarios, one function each, grouped by what they put to the test.

mod administration;
mod crash;
mod data;
mod hosts;
mod iscsi;
mod kernel_dm;
mod multipath;
mod no_path;
mod passthrough;
mod pcie;
mod rdma;
mod reconfiguration;
mod self_check;
mod stacked;

use std::path::Path;

use crate::guest::Guest;
use crate::initiator::{Connection, Endpoint};
use crate::target::{Front, Target, Volume};

#[cfg(feature = "spdk")]
use polldm::spdk::HAS_ISCSI;
#[cfg(not(feature = "spdk"))]
const HAS_ISCSI: bool = true;

/// What every scenario gets.
pub struct Context<'a> {
    /// The running guest.
    pub guest: &'a Guest,
    /// The polldm under test.
    pub binary: &'a Path,
}

impl<'a> Context<'a> {
    /// Starts a target with these volumes for any host over NVMe/TCP; `name` becomes part of its NQN.
    fn target(&self, name: &str, volumes: &[Volume]) -> Result<Target, String> {
        self.target_for("any", name, volumes)
    }

    /// The same for a list of hosts.
    fn target_for(&self, hosts: &str, name: &str, volumes: &[Volume]) -> Result<Target, String> {
        Target::start(self.binary, Front::Nvme, &nqn(name), hosts, volumes)
    }

    /// The same for any host over this protocol.
    fn target_by(&self, front: Front, name: &str, volumes: &[Volume]) -> Result<Target, String> {
        Target::start(self.binary, front, &nqn(name), "any", volumes)
    }

    /// Connects the guest to the target.
    fn connect(&self, target: &Target, options: &str) -> Result<Connection<'a>, String> {
        Connection::open(self.guest, &Endpoint::of(target), options)
            .map_err(|e| format!("{e}\n{}", target.log()))
    }

    /// For a scenario in which I/O has to fail on disks whose names begin so: the kernel has said that, and complained of nothing else.
    fn expect_io_errors(&self, disks: &str) -> Result<(), String> {
        self.expect_alarms(&format!(" error, dev {disks}"))
    }

    /// The kernel has complained of this, and of nothing else.
    fn expect_alarms(&self, alarm: &str) -> Result<(), String> {
        let log = self.guest.run("dmesg -c")?;
        let (right, wrong): (Vec<&str>, Vec<&str>) = crate::alarms(&log)
            .into_iter()
            .partition(|line| line.contains(alarm));
        match (right.is_empty(), wrong.is_empty()) {
            (false, true) => Ok(()),
            (true, _) => Err(format!("the kernel has not reported `{alarm}`:\n{log}")),
            (false, false) => Err(format!("the kernel complained:\n{}", wrong.join("\n"))),
        }
    }
}

/// The name of a scenario's subsystem.
fn nqn(name: &str) -> String {
    format!("nqn.2026-11.io.polldm:{name}")
}

/// A scenario and its name in the test's output.
pub struct Scenario {
    /// Name, also what filters are compared with.
    pub name: &'static str,
    /// The steps; an error says which did not go as it should.
    pub run: fn(&Context<'_>) -> Result<(), String>,
}

impl Scenario {
    /// Why it is not for the engine that this build is for.
    pub fn left_out(&self) -> Option<&'static str> {
        let in_table = |table: &[(&str, &'static str)]| {
            let mut rows = table.iter();
            let row = rows.find(|(name, _)| *name == self.name);
            row.map(|(_, reason)| *reason)
        };
        match cfg!(feature = "spdk") {
            true if self.name == OVER_RDMA => rdma::lacks(),
            true if !HAS_ISCSI && OVER_ISCSI.iter().any(|part| self.name.contains(part)) => {
                Some("the SPDK of this build has no iSCSI")
            }
            true => in_table(NOT_ON_SPDK),
            false => in_table(ONLY_ON_SPDK),
        }
    }
}

/// Scenarios that are not for the SPDK engine, and what its targets lack (docs/spdk.md).
const NOT_ON_SPDK: &[(&str, &str)] = &[(
    "open_iscsi_twice_and_each_portal_groups_alua_state",
    "SPDK's iSCSI target has no ALUA states",
)];

/// Parts of the names of scenarios whose host reaches polldm by iSCSI.
const OVER_ISCSI: &[&str] = &["over_iscsi", "open_iscsi", "initiator_aborts"];

const OVER_RDMA: &str = "spdk_serves_a_linux_host_over_rdma";

const NO_SPDK: &str = "this build has no SPDK engine: --features spdk, where SPDK is installed";

/// Scenarios that are for the SPDK engine alone.
const ONLY_ON_SPDK: &[(&str, &str)] = &[
    ("spdk_drives_an_nvme_disk_by_its_pci_address", NO_SPDK),
    ("at_79_spdk_survives_a_pulled_nvme_disk", NO_SPDK),
    (OVER_RDMA, NO_SPDK),
];

/// Every scenario, in the order they run: the self-check first, since it vouches for the rest.
pub const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "self_check_against_the_kernels_own_iscsi_target",
        run: self_check::kernel_iscsi_target,
    },
    Scenario {
        name: "self_check_against_the_kernels_own_target",
        run: self_check::kernel_target,
    },
    Scenario {
        name: "discovery_lists_the_subsystem",
        run: administration::discovery,
    },
    Scenario {
        name: "ext4_and_xfs_on_two_namespaces",
        run: data::file_systems,
    },
    Scenario {
        name: "fio_verifies_random_writes",
        run: data::verified_writes,
    },
    Scenario {
        name: "fio_verifies_with_digests_on",
        run: data::verified_writes_with_digests,
    },
    Scenario {
        name: "discard_and_write_zeroes_read_as_zeroes",
        run: data::discard_and_write_zeroes,
    },
    Scenario {
        name: "admin_commands_tell_the_truth",
        run: administration::identify_and_logs,
    },
    Scenario {
        name: "controller_reset_under_load",
        run: administration::reset_under_load,
    },
    Scenario {
        name: "only_listed_hosts_may_connect",
        run: hosts::host_list,
    },
    Scenario {
        name: "two_listeners_are_two_paths",
        run: hosts::two_paths,
    },
    Scenario {
        name: "io_waits_while_the_only_path_is_inaccessible",
        run: hosts::ana_states,
    },
    Scenario {
        name: "resize_is_seen_without_reconnecting",
        run: reconfiguration::resize,
    },
    Scenario {
        name: "namespaces_come_and_go",
        run: reconfiguration::namespaces_come_and_go,
    },
    Scenario {
        name: "table_swaps_under_fio_cost_no_io",
        run: reconfiguration::table_swaps_under_load,
    },
    Scenario {
        name: "at_01_03_06_07_08_09_69_io_waits_for_its_path",
        run: |context| no_path::waits_for_its_path(context, Front::Nvme),
    },
    Scenario {
        name: "at_01_03_06_07_08_09_69_io_waits_for_its_path_over_iscsi",
        run: |context| no_path::waits_for_its_path(context, Front::Iscsi),
    },
    Scenario {
        name: "at_08_09_79_io_survives_a_pulled_disk",
        run: |context| no_path::survives_a_pulled_disk(context, Front::Nvme),
    },
    Scenario {
        name: "at_08_09_79_io_survives_a_pulled_disk_over_iscsi",
        run: |context| no_path::survives_a_pulled_disk(context, Front::Iscsi),
    },
    Scenario {
        name: "at_78_host_gives_up_on_waiting_io",
        run: no_path::host_gives_up_and_sends_again,
    },
    Scenario {
        name: "at_02_04_11_66_67_io_without_a_path_fails_when_it_must",
        run: |context| no_path::fails_when_it_must(context, Front::Nvme),
    },
    Scenario {
        name: "at_02_04_11_66_67_io_without_a_path_fails_when_it_must_over_iscsi",
        run: |context| no_path::fails_when_it_must(context, Front::Iscsi),
    },
    Scenario {
        name: "at_71_swaps_between_targets_wait_for_no_delay",
        run: |context| reconfiguration::swaps_between_targets(context, Front::Nvme),
    },
    Scenario {
        name: "at_71_swaps_between_targets_wait_for_no_delay_over_iscsi",
        run: |context| reconfiguration::swaps_between_targets(context, Front::Iscsi),
    },
    Scenario {
        name: "at_01_paths_fail_over_under_load",
        run: |context| stacked::paths_fail_over(context, Front::Nvme),
    },
    Scenario {
        name: "at_01_paths_fail_over_under_load_over_iscsi",
        run: |context| stacked::paths_fail_over(context, Front::Iscsi),
    },
    Scenario {
        name: "at_05_10_one_io_waits_for_two_paths",
        run: |context| stacked::spans_two_multipaths(context, Front::Nvme),
    },
    Scenario {
        name: "at_05_10_one_io_waits_for_two_paths_over_iscsi",
        run: |context| stacked::spans_two_multipaths(context, Front::Iscsi),
    },
    Scenario {
        name: "at_12_cancelled_suspend_costs_no_io",
        run: |context| stacked::cancelled_suspend(context, Front::Nvme),
    },
    Scenario {
        name: "at_12_cancelled_suspend_costs_no_io_over_iscsi",
        run: |context| stacked::cancelled_suspend(context, Front::Iscsi),
    },
    Scenario {
        name: "at_78_initiator_aborts_and_resets_waiting_io",
        run: no_path::initiator_aborts_and_resets,
    },
    Scenario {
        name: "open_iscsi_twice_beneath_the_kernels_multipath",
        run: multipath::two_sessions,
    },
    Scenario {
        name: "open_iscsi_twice_and_each_portal_groups_alua_state",
        run: multipath::alua,
    },
    Scenario {
        name: "open_iscsi_makes_file_systems_and_verifies_with_digests_on",
        run: iscsi::disks,
    },
    Scenario {
        name: "open_iscsi_and_the_target_prove_themselves",
        run: iscsi::chap,
    },
    Scenario {
        name: "open_iscsi_sees_a_new_size",
        run: iscsi::resize,
    },
    Scenario {
        name: "open_iscsi_waits_for_a_target_that_restarts",
        run: iscsi::restart,
    },
    Scenario {
        name: "nvme_passthrough_carries_commands",
        run: passthrough::carries_commands,
    },
    Scenario {
        name: "at_63_fua_over_iscsi_reaches_the_disk",
        run: passthrough::carries_iscsi,
    },
    Scenario {
        name: "nvme_passthrough_claims_its_disk",
        run: passthrough::claims_its_disk,
    },
    Scenario {
        name: "pm_14_multipath_survives_a_pulled_nvme_disk",
        run: passthrough::survives_a_pulled_disk,
    },
    Scenario {
        name: "spdk_drives_an_nvme_disk_by_its_pci_address",
        run: pcie::drives_a_disk,
    },
    Scenario {
        name: "at_79_spdk_survives_a_pulled_nvme_disk",
        run: pcie::survives_a_pulled_disk,
    },
    Scenario {
        name: OVER_RDMA,
        run: rdma::serves_a_host,
    },
    Scenario {
        name: "same_answers_as_the_kernels_device_mapper",
        run: kernel_dm::same_as_the_kernel,
    },
    Scenario {
        name: "restart_under_a_mounted_ext4",
        run: crash::restart_under_mount,
    },
    Scenario {
        name: "kill_9_keeps_what_was_flushed",
        run: |context| crash::kill_while_writing(context, Front::Nvme),
    },
    Scenario {
        name: "kill_9_keeps_what_was_flushed_over_iscsi",
        run: |context| crash::kill_while_writing(context, Front::Iscsi),
    },
];
