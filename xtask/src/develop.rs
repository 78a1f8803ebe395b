//! `cargo xtask develop`: the Python package in host, so that an edit of Python is tested without a build.

use anyhow::Result;

use crate::process::LoggedStep;
use crate::repo::Repo;
use crate::venv::Venv;
use crate::wheel::PACKAGE;

/// Builds the native module into the package's folder, and lets the project's environment import that folder. (The test suite
/// puts a wheel in its place.)
pub(crate) fn run(repo: &Repo) -> Result<()> {
    let mut step = LoggedStep::new("develop", &repo.scratch("logs"))?;
    let venv = Venv::ensure(repo, &mut step)?;
    step.compile(
        venv.program("maturin")
            .args(["develop", "--release", "--locked"])
            .env("PIP_CONSTRAINT", venv.constraints())
            .current_dir(repo.path(PACKAGE)),
    )?;
    // Afterwards, not by maturin: extras that name extras of the package itself want it to be there.
    step.install(&mut venv.pip_install(["umfa[test,demo,bench]"]))?;
    step.finish();
    println!("{}", venv.python_path().display());
    Ok(())
}
