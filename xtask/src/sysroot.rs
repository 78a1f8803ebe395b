//! `cargo xtask sysroot`: a Debian 13 root with Swift 6, clang 19 and GNUstep, where the machine itself has none.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, bail};

use crate::process;
use crate::repo::Repo;

/// Options of `cargo xtask sysroot`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// A command to run inside, in swift/SoftwareMetal; without one the root is only made.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
}

/// Makes the root under target/, with progress shown.
pub(crate) fn run(repo: &Repo, options: &Options) -> Result<()> {
    if let Some(reason) = unavailable() {
        bail!("{reason}");
    }
    let folder = repo.path("swift/SoftwareMetal");
    process::foreground(at(repo, &folder, &[]).args(&options.command))
}

/// Why no root can be made here; `None` if one can.
pub(crate) fn unavailable() -> Option<String> {
    let has = |program: &str| {
        let found = Command::new(program).arg("--version").output();
        found.is_ok_and(|output| output.status.success())
    };
    let root = Command::new("id").arg("-u").output();
    if !root.is_ok_and(|output| output.stdout.starts_with(b"0\n")) {
        return Some("making a Debian root needs the superuser".into());
    }
    let missing: Vec<_> = ["debootstrap", "unshare"]
        .into_iter()
        .filter(|program| !has(program))
        .collect();
    (!missing.is_empty()).then(|| format!("not installed: {}", missing.join(", ")))
}

/// Whether Swift 6 and clang 19 are here without a root.
pub(crate) fn native() -> bool {
    let prints = |program: &str, text: &str| {
        let found = Command::new(program).arg("--version").output();
        found.is_ok_and(|output| String::from_utf8_lossy(&output.stdout).contains(text))
    };
    prints("swift", "Swift version 6") && prints("clang-19", "19.")
}

/// A command in a folder, to which the program to run in the root and its arguments are added; `visible` are more folders that
/// the root shows.
pub(crate) fn at(repo: &Repo, folder: &Path, visible: &[PathBuf]) -> Command {
    let visible: Vec<String> = visible.iter().map(|p| p.display().to_string()).collect();
    let mut command = script(repo);
    command
        .arg(repo.scratch("sysroot"))
        .current_dir(folder)
        .env("SYSROOT_FOLDERS", visible.join(":"));
    command
}

/// What makes a root, and runs commands in it; arguments are to be added.
pub(crate) fn script(repo: &Repo) -> Command {
    Command::new(repo.path("swift/SoftwareMetal/Scripts/sysroot.sh"))
}
