//! Passes on how SPDK is linked, which `spdk-sys` has found out: cargo hands arguments of the linker only to what the package that names
//! them builds. Without the feature `spdk` there is nothing to pass on.

use std::env;

/// Set by cargo from what the build script of `spdk-sys` says.
const LINK_ARGUMENTS: &str = "DEP_SPDK_LINK_ARGUMENTS";

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed={LINK_ARGUMENTS}");
    let arguments = env::var(LINK_ARGUMENTS).unwrap_or_default();
    for argument in arguments.split_whitespace() {
        println!("cargo::rustc-link-arg={argument}");
    }
}
