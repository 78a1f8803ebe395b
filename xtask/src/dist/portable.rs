//! Libraries for Linux that run with an older C library than this machine's.
//!
//! A linker binds to the newest version of each symbol that it finds, so what is linked here would run on systems as new as
//! this one only. Zig's linker knows the symbols of every glibc; maturin makes a compiler driver of it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::process::{LoggedStep, output};
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

/// Installs the tools, and writes the linker's script.
pub(super) fn ensure(repo: &Repo, venv: &Venv, step: &mut LoggedStep) -> Result<()> {
    let list = repo.path("xtask/python/dist.txt");
    let text = fs::read_to_string(&list).with_context(|| format!("reading {}", list.display()))?;
    venv.once("dist", &text, || {
        step.install(venv.pip_install(["-r"]).arg(&list))
    })?;
    let script = format!(
        "#!/bin/sh\nCARGO_ZIGBUILD_ZIG_COMMAND={python:?} CARGO_ZIGBUILD_ZIG_COMMAND_ARGS='-m ziglang' \\\n  \
         exec {maturin:?} zig cc -- -g -fno-sanitize=all -target {arch}-linux-gnu.{major}.{minor} \"$@\"\n",
        python = venv.python_path(),
        maturin = venv.program("maturin").get_program(),
        arch = std::env::consts::ARCH,
        major = GLIBC.0,
        minor = GLIBC.1,
    );
    write_program(&linker(repo), &script)
}

/// The script that cargo links with.
fn linker(repo: &Repo) -> PathBuf {
    repo.scratch("zig-cc")
}

/// Has a command that starts cargo, or cargo itself, build for [`TARGET`] with the C library of [`GLIBC`]. (The
/// engine is compiled for each of the two all the same: PyO3's macros ask syn for more features, and syn is below bytemuck.)
pub(super) fn apply<'a>(repo: &Repo, command: &'a mut Command) -> &'a mut Command {
    let variable = TARGET.to_uppercase().replace('-', "_");
    command
        .args(["--target", TARGET])
        .env(format!("CARGO_TARGET_{variable}_LINKER"), linker(repo))
        .env("CARGO_TARGET_DIR", &repo.target)
}

#[cfg(unix)]
fn write_program(path: &Path, text: &str) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let context = || format!("writing {}", path.display());
    fs::write(path, text).with_context(context)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).with_context(context)
}

#[cfg(not(unix))]
fn write_program(path: &Path, _: &str) -> Result<()> {
    anyhow::bail!("{} is for Linux", path.display())
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
