//! The crates as crates.io would get them.

use anyhow::Result;

use crate::process::Step;
use crate::repo::Repo;

/// The crates that are published, dependencies first.
pub(crate) const CRATES: [&str; 3] = ["mfa-sys", "mfa-cpu", "mfa"];

/// Makes the packages below the build folder's `package/` and builds each from its package alone.
pub(crate) fn verify(repo: &Repo, step: &mut Step) -> Result<()> {
    let mut command = repo.cargo(["package", "--locked", "--allow-dirty"]);
    for name in CRATES {
        command.args(["--package", name]);
    }
    step.run_check(&mut command)
}
