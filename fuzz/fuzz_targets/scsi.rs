//! SCSI commands to a unit: CDBs and parameter lists.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    polldm::export::iscsi::harness::fuzz_commands(data);
});
