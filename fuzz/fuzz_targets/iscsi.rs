//! One iSCSI connection of the target: whatever an initiator sends, at any stage.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    polldm::export::iscsi::harness::fuzz_connection(data);
});
