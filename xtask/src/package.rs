//! The crates as crates.io would get them.

use std::path::PathBuf;

use anyhow::Result;

use crate::process::Step;
use crate::repo::Repo;

/// The crates that are published, dependencies first.
pub(crate) const CRATES: [&str; 3] = ["mfa-sys", "mfa-cpu", "mfa"];

/// Where the packages are made.
pub(crate) fn folder(repo: &Repo) -> PathBuf {
    target(repo).join("package")
}

/// A build folder of its own: in the workspace's, crates built from packages would be taken for those of the workspace.
fn target(repo: &Repo) -> PathBuf {
    repo.scratch("package")
}

/// Makes the packages in [`folder`] and builds each from its package alone.
pub(crate) fn verify(repo: &Repo, step: &mut Step) -> Result<()> {
    let mut command = repo.cargo(["package", "--locked", "--allow-dirty", "--target-dir"]);
    command.arg(target(repo));
    for name in CRATES {
        command.args(["--package", name]);
    }
    step.run_check(&mut command)
}
