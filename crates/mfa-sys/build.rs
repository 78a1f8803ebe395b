//! Tells the build scripts of dependents where `mfa.h` is.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let root = std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default();
    let include = std::path::Path::new(&root).join("include");
    println!("cargo::metadata=include={}", include.display());
}
