//! `cargo xtask codegen`: what is made from mfa.h, and whether drivers keep to it.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::process::{Step, foreground, output};
use crate::repo::Repo;
use crate::venv::Venv;

/// Options of `cargo xtask codegen`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Only say whether the committed files are up to date.
    #[arg(long)]
    check: bool,
}

/// Remakes or checks the files.
pub(crate) fn run(repo: &Repo, options: &Options) -> Result<()> {
    let mut step = Step::new("codegen", &repo.scratch("logs"))?;
    let venv = Venv::ensure(repo, &mut step)?;
    let mut command = generator(repo, &venv)?;
    if options.check {
        command.arg("--check");
    }
    step.finish();
    foreground(&mut command)
}

/// The generator, ready for its arguments.
///
/// bindgen reads headers with libclang, which comes from PyPI so that no compiler of the clang family need be installed;
/// that package has no headers, so the freestanding ones are the C compiler's.
pub(crate) fn generator(repo: &Repo, venv: &Venv) -> Result<Command> {
    let libclang = venv.site_packages()?.join("clang/native");
    ensure!(
        libclang.exists(),
        "libclang is not at {}, where the package from PyPI puts it",
        libclang.display()
    );
    let mut command = repo.cargo(["run", "--quiet", "--package", "mfa-codegen", "--"]);
    command.env("LIBCLANG_PATH", libclang);
    if cfg!(target_os = "linux") {
        let include = output(Command::new("cc").arg("-print-file-name=include"))
            .context("asking the C compiler for its headers")?;
        command.env("BINDGEN_EXTRA_CLANG_ARGS", format!("-I{include}"));
    }
    Ok(command)
}

/// Whether a driver library exports exactly the functions of mfa.h.
pub(crate) fn check_symbols(
    repo: &Repo,
    venv: &Venv,
    step: &mut Step,
    library: &Path,
) -> Result<()> {
    step.run_check(generator(repo, venv)?.arg("--symbols").arg(library))
}
