//! Configuration files, as an operator or an attacker of one may write them.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    polldm::config::fuzz(data);
});
