//! Bytes from the network: PDU headers and everything they announce.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    polldm::nvme::fuzz(data);
});
