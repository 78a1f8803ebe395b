//! A PyTorch for the CPU in the project's environment.

use std::fs;

use anyhow::{Context, Result};

use crate::process::LoggedStep;
use crate::repo::Repo;
use crate::venv::Venv;

/// Installs PyTorch, unless it is there.
///
/// For x86-64 Linux, PyPI has only the CUDA build: 3.0 GB with the libraries it is linked against, which a CPU never
/// calls. There, torch alone is installed (0.5 GB), and `torch_cpu.py` puts stand-ins in the host of the libraries.
pub(crate) fn ensure(repo: &Repo, venv: &Venv, step: &mut LoggedStep) -> Result<()> {
    let list = repo.path("xtask/python/torch.txt");
    let text = fs::read_to_string(&list).with_context(|| format!("reading {}", list.display()))?;
    venv.once("torch", &text, || {
        if cfg!(all(target_os = "linux", target_arch = "x86_64")) {
            // The list names everything that torch needs on a CPU.
            step.install(venv.pip_install(["--no-deps", "-r"]).arg(&list))?;
            step.install(&mut venv.python([repo.path("xtask/python/torch_cpu.py")]))
        } else {
            step.install(&mut venv.pip_install(["torch"]))
        }
    })?;
    step.run(&mut venv.python(["-c", "import torch; print('torch', torch.__version__)"]))
}
