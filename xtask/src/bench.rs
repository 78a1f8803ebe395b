//! `cargo xtask bench` and `cargo xtask ceilings`.

use anyhow::Result;

use crate::process::{Step, foreground};
use crate::repo::Repo;
use crate::torch;
use crate::venv::Venv;
use crate::wheel;

/// The peers that PyPI has, beside PyTorch.
const PEERS: [&str; 2] = ["onnxruntime", "openvino"];

/// Options of `cargo xtask bench`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Install the peers to compare with (PyTorch, ONNX Runtime, OpenVINO) first.
    #[arg(long)]
    peers: bool,
    /// Arguments for `umfa bench`.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<String>,
}

/// Options of `cargo xtask ceilings`.
#[derive(clap::Args)]
pub(crate) struct Ceilings {
    /// Arguments for the benchmark.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<String>,
}

/// Builds and installs the Python package, then runs its benchmarks.
pub(crate) fn run(repo: &Repo, options: &Options) -> Result<()> {
    let mut step = Step::new("bench", &repo.scratch("logs"))?;
    let venv = Venv::ensure(repo, &mut step)?;
    wheel::install(repo, &venv, &mut step, "bench")?;
    if options.peers {
        torch::ensure(repo, &venv, &mut step)?;
        step.run(&mut venv.pip_install(PEERS))?;
    }
    step.finish();
    foreground(venv.program("umfa").arg("bench").args(&options.arguments))
}

/// Runs the benchmark of the machine itself.
pub(crate) fn ceilings(repo: &Repo, options: &Ceilings) -> Result<()> {
    foreground(
        repo.cargo(["bench", "--package", "mfa-cpu", "--bench", "ceilings", "--"])
            .args(&options.arguments),
    )
}
