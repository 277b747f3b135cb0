//! One NVMe/TCP connection of the target: whatever a host sends, at any stage.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    polldm::export::nvmf::harness::fuzz_connection(data);
});
