//! `cargo xtask demo`.

use anyhow::Result;

use crate::process::{LoggedStep, foreground};
use crate::repo::Repo;
use crate::venv::Venv;
use crate::wheel;

/// Options of `cargo xtask demo`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Arguments for `umfa demo`.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<String>,
}

/// Builds and installs the Python package, then runs its demonstration.
pub(crate) fn run(repo: &Repo, options: &Options) -> Result<()> {
    let mut step = LoggedStep::new("demo", &repo.scratch("logs"))?;
    let venv = Venv::ensure(repo, &mut step)?;
    wheel::install(repo, &venv, &mut step, "demo")?;
    step.finish();
    foreground(venv.program("umfa").arg("demo").args(&options.arguments))
}
