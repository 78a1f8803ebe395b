//! Libraries for Linux that run with an older C library than this machine's.
//!
//! A linker binds to the newest version of each symbol that it finds, so what is linked here would run on systems as new as
//! this one only. Zig's linker knows the symbols of every glibc; cargo-zigbuild and maturin drive it.

use std::path::Path;
use std::process::Command;

use anyhow::Result;

use crate::process::{Step, output};
use crate::repo::Repo;
use crate::venv::Venv;

/// The oldest glibc that Rust's own library supports.
pub(super) const GLIBC: (u32, u32) = (2, 17);
/// What wheels call it.
pub(super) const MANYLINUX: &str = "manylinux2014";
/// The target, as rustc names it and cargo its folder.
pub(super) const TARGET: &str = if cfg!(target_arch = "aarch64") {
    "aarch64-unknown-linux-gnu"
} else {
    "x86_64-unknown-linux-gnu"
};

/// Installs the tools.
pub(super) fn ensure(repo: &Repo, venv: &Venv, step: &mut Step) -> Result<()> {
    step.run(
        venv.pip_install(["-r"])
            .arg(repo.path("xtask/python/dist.txt")),
    )
}

/// `cargo rustc` for [`GLIBC`].
pub(super) fn cargo(repo: &Repo, venv: &Venv) -> Command {
    let mut command = venv.program("cargo-zigbuild");
    command
        .current_dir(&repo.root)
        .args([
            "rustc",
            "--target",
            &format!("{TARGET}.{}.{}", GLIBC.0, GLIBC.1),
        ])
        .env("CARGO_TARGET_DIR", &repo.target);
    command
}

/// The newest `GLIBC_x.y` that the library's undefined symbols ask for; (0, 0) if it asks for none.
pub(super) fn needs(library: &Path) -> Result<(u32, u32)> {
    let symbols = output(
        Command::new("nm")
            .args(["--dynamic", "--undefined-only", "--with-symbol-versions"])
            .arg(library),
    )?;
    // A weak symbol may be missing: its users look before they call.
    let strong = symbols
        .lines()
        .filter(|line| !line.trim_start().starts_with('w'));
    Ok(strong
        .filter_map(|line| version(line.rsplit_once("@GLIBC_")?.1))
        .max()
        .unwrap_or((0, 0)))
}

fn version(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.trim().split('.').map(str::parse);
    match (numbers.next()?, numbers.next()?) {
        (Ok(major), Ok(minor)) => Some((major, minor)),
        _ => None,
    }
}
