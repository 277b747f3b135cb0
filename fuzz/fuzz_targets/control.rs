//! Requests on the control socket: one line each, against a node that is not there.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    polldm::control::rpc::fuzz_request(data);
});
