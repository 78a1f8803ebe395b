//! `cargo xtask bench` and `cargo xtask ceilings`.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::process::{LoggedStep, foreground, output};
use crate::repo::Repo;
use crate::torch;
use crate::venv::Venv;
use crate::wheel;

/// The peers that PyPI has, beside PyTorch.
const PEERS: [&str; 2] = ["onnxruntime", "openvino"];

/// The folder of records, and, with `.md`, the page that is made of them.
const NUMBERS: &str = "docs/numbers";

/// Options of `cargo xtask bench`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Install the peers to compare with (PyTorch, ONNX Runtime, OpenVINO) first.
    #[arg(long)]
    peers: bool,
    /// Measure the machine's peaks first, for the column that says how much of them was reached.
    #[arg(long)]
    ceilings: bool,
    /// Run all presets, keep the figures in docs/numbers/NAME.jsonl, and remake docs/numbers.md.
    #[arg(long, value_name = "NAME")]
    record: Option<String>,
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
    let mut step = LoggedStep::new("bench", &repo.scratch("logs"))?;
    let venv = Venv::ensure(repo, &mut step)?;
    wheel::install(repo, &venv, &mut step, "bench")?;
    if options.peers {
        torch::ensure(repo, &venv, &mut step)?;
        step.install(&mut venv.pip_install(PEERS))?;
    }
    let mut command = venv.program("umfa");
    command.arg("bench").current_dir(&repo.root);
    if options.ceilings || options.record.is_some() {
        command
            .arg("--ceilings")
            .arg(measure_ceilings(repo, &mut step)?);
    }
    step.finish();
    let Some(name) = &options.record else {
        return foreground(command.args(&options.arguments));
    };
    let records = repo.path(NUMBERS);
    fs::create_dir_all(&records).with_context(|| format!("creating {}", records.display()))?;
    command.args(["--preset", "all", "--check-targets", "--json"]);
    command.arg(format!("{NUMBERS}/{name}.jsonl"));
    foreground(command.args(&options.arguments))?;
    let page = format!("{NUMBERS}.md");
    foreground(
        venv.program("umfa")
            .args(["bench", "--report", &page])
            .current_dir(&repo.root),
    )
}

/// The file with the machine's peaks, measured now.
fn measure_ceilings(repo: &Repo, step: &mut LoggedStep) -> Result<PathBuf> {
    let bench = ["bench", "--package", "mfa-kernels", "--bench", "ceilings"];
    step.run(repo.cargo(bench).arg("--no-run"))?;
    step.say("measuring the machine's peaks")?;
    let json = output(repo.cargo(bench).args(["--", "--json"]))?;
    let file = repo.scratch("ceilings.json");
    fs::write(&file, json).with_context(|| format!("writing {}", file.display()))?;
    Ok(file)
}

/// Runs the benchmark of the machine itself.
pub(crate) fn ceilings(repo: &Repo, options: &Ceilings) -> Result<()> {
    foreground(
        repo.cargo([
            "bench",
            "--package",
            "mfa-kernels",
            "--bench",
            "ceilings",
            "--",
        ])
        .args(&options.arguments),
    )
}
