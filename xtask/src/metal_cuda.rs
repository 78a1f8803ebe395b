//! `cargo xtask metal-cuda`: the Metal kernels' texts as CUDA C++, for a second compiler and a real GPU.
//!
//! The Python package `xtask/python/metal_cuda` translates, compiles and runs; here it gets its texts, its compiler and its calls.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, anyhow};

use crate::host::Host;
use crate::metal;
use crate::process::LoggedStep;
use crate::repo::Repo;
use crate::venv::Venv;

/// The folder of the Python package, for `PYTHONPATH`.
const PACKAGES: &str = "xtask/python";
/// The page that is made of results, and the results.
const PAGE: &str = "docs/metal-cuda.md";
const RESULTS: [&str; 2] = [
    "docs/metal-cuda-numbers.json",
    "docs/metal-cuda-checks.json",
];

/// Options of `cargo xtask metal-cuda`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Compile every text to machine code, and not only by the compiler's front end: ten times as long.
    #[arg(long)]
    machine_code: bool,
    /// Write instead what a machine with an NVIDIA GPU runs (see its run.sh), to target/metal-cuda.
    #[arg(long, conflicts_with = "machine_code")]
    bundle: bool,
    /// Write instead docs/metal-cuda.md from the committed results.
    #[arg(long, conflicts_with_all = ["machine_code", "bundle"])]
    page: bool,
}

/// Compiles the texts, or writes what was asked for.
pub(crate) fn run(repo: &Repo, options: &Options) -> Result<()> {
    let mut step = LoggedStep::new("metal-cuda", &repo.scratch("logs"))?;
    let venv = Venv::ensure(repo, &mut step)?;
    if options.page {
        step.run(python(repo, &venv).args(page_arguments(repo)))?;
    } else {
        let host = Host::of_swift(repo).map_err(|reason| anyhow!(reason))?;
        if options.bundle {
            let folder = bundle(repo, &venv, &mut step, &host)?;
            step.say(&folder.display().to_string())?;
        } else {
            let folder = every_text(repo, &mut step, &host)?;
            compile(repo, &venv, &mut step, &folder, options.machine_code)?;
        }
    }
    step.finish();
    Ok(())
}

/// Python with the package.
pub(crate) fn python(repo: &Repo, venv: &Venv) -> Command {
    let mut command = venv.python(["-m"]);
    command.env("PYTHONPATH", repo.path(PACKAGES));
    command
}

/// Every text that the driver can compile, in a folder.
pub(crate) fn every_text(repo: &Repo, step: &mut LoggedStep, host: &Host) -> Result<PathBuf> {
    let folder = repo.scratch("every-text");
    // Texts of an earlier state are not this one's.
    if folder.exists() {
        fs::remove_dir_all(&folder).with_context(|| format!("emptying {}", folder.display()))?;
    }
    let program = metal::product(repo, step, host, metal::TEXTS, metal::TEXTS)?;
    let mut write = host.command(repo, &program);
    step.run(write.args(["--also", metal::GOLDEN]).arg(&folder))?;
    Ok(folder)
}

/// Compiles texts with NVRTC, which needs no GPU.
pub(crate) fn compile(
    repo: &Repo,
    venv: &Venv,
    step: &mut LoggedStep,
    folder: &Path,
    machine_code: bool,
) -> Result<()> {
    ensure_nvrtc(venv, step)?;
    let mut command = python(repo, venv);
    command.arg("metal_cuda.compile").arg(folder);
    if machine_code {
        command.arg("--machine-code");
    }
    step.run(&mut command)
}

/// NVIDIA's run-time compiler, at its pinned version.
pub(crate) fn ensure_nvrtc(venv: &Venv, step: &mut LoggedStep) -> Result<()> {
    venv.once("nvrtc", "nvidia-cuda-nvrtc", || {
        step.install(&mut venv.pip_install(["nvidia-cuda-nvrtc", "numpy", "pytest", "ml_dtypes"]))
    })
}

/// The folder for a machine with a GPU: calls become launches by the recorder.
fn bundle(repo: &Repo, venv: &Venv, step: &mut LoggedStep, host: &Host) -> Result<PathBuf> {
    let folder = repo.target.join("metal-cuda");
    if folder.exists() {
        fs::remove_dir_all(&folder).with_context(|| format!("emptying {}", folder.display()))?;
    }
    ensure_nvrtc(venv, step)?;
    let make = |step: &mut LoggedStep, what: &str| {
        step.run(
            python(repo, venv)
                .args(["metal_cuda.bundle", what])
                .arg(&folder),
        )
    };
    make(step, "calls")?;
    record(repo, step, host, &folder.join("calls"), &folder)?;
    make(step, "finish")?;
    Ok(folder)
}

/// Records the launches of each list of calls in a folder, in a folder of the same name.
pub(crate) fn record(
    repo: &Repo,
    step: &mut LoggedStep,
    host: &Host,
    calls: &Path,
    folder: &Path,
) -> Result<()> {
    let recorder = metal::product(repo, step, host, "LaunchRecorder", "LaunchRecorder")?;
    let entries = fs::read_dir(calls).with_context(|| format!("reading {}", calls.display()))?;
    for entry in entries {
        let file = entry
            .with_context(|| format!("reading {}", calls.display()))?
            .path();
        let name = file.file_stem().context("a list of calls has no name")?;
        let target = folder.join(name);
        step.run(host.command(repo, &recorder).arg(&file).arg(target))?;
    }
    Ok(())
}

/// What makes the page of the results that are committed; `--check` compares it.
fn page_arguments(repo: &Repo) -> Vec<String> {
    let mut arguments = vec!["metal_cuda.page".to_owned()];
    let results = RESULTS.into_iter().filter(|file| repo.path(file).exists());
    for path in [PAGE].into_iter().chain(results) {
        arguments.push(repo.path(path).display().to_string());
    }
    arguments
}

/// Whether the page is made from the committed results.
pub(crate) fn check_page(repo: &Repo, venv: &Venv, step: &mut LoggedStep) -> Result<()> {
    step.run_check(python(repo, venv).args(page_arguments(repo)).arg("--check"))
}
