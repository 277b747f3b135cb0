//! The stories of lost paths with SPDK's own `nvmf_tgt` as the ways, two of them over one file: nothing that polldm's own targets do is needed for them to
//! end well.

use crate::lost_paths::{self, Paths};
use crate::ways::Transport::Tcp;

#[test]
fn nvmf_tgt_the_other_way_serves() {
    if let Some(paths) = Paths::of_nvmf_tgt(Tcp) {
        lost_paths::served_by_the_other_way(paths);
    }
}

#[test]
fn nvmf_tgt_what_waits_outlives_the_loss() {
    if let Some(paths) = Paths::of_nvmf_tgt(Tcp) {
        lost_paths::waiting_outlives_the_loss(paths);
    }
}

#[test]
fn nvmf_tgt_a_new_table_brings_a_way() {
    if let Some(paths) = Paths::of_nvmf_tgt(Tcp) {
        lost_paths::a_table_brings_a_way(paths);
    }
}

#[test]
fn nvmf_tgt_is_pulled_with_io_in_flight() {
    if let Some(paths) = Paths::of_nvmf_tgt(Tcp) {
        lost_paths::pulled_with_io_in_flight(paths);
    }
}

/// The same over vfio-user, where SPDK was built with it.
#[cfg(feature = "spdk")]
mod vfio_user {
    use crate::lost_paths::{self, Paths};
    use crate::ways::{NvmfTgt, Transport::VfioUser};

    fn paths() -> Option<Paths<NvmfTgt>> {
        if !polldm::spdk::HAS_VFIO_USER {
            println!("skipped: this SPDK was built without vfio-user");
            return None;
        }
        Paths::of_nvmf_tgt(VfioUser)
    }

    #[test]
    fn nvmf_tgt_the_other_way_serves() {
        if let Some(paths) = paths() {
            lost_paths::served_by_the_other_way(paths);
        }
    }

    #[test]
    fn nvmf_tgt_a_new_table_brings_a_way() {
        if let Some(paths) = paths() {
            lost_paths::a_table_brings_a_way(paths);
        }
    }
}
