//! `cargo xtask codegen`: what is made from mfa.h, and whether drivers keep to it.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::c;
use crate::dist::CPU_DRIVER;
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
    // Alone: where the generated files are stale, the rest of the workspace may not even compile.
    let mut command = repo.cargo([
        "run",
        "--quiet",
        "--locked",
        "--package",
        "mfa-codegen",
        "--",
    ]);
    with_libclang(&mut command, &venv)?;
    if options.check {
        command.arg("--check");
    }
    step.finish();
    foreground(&mut command)
}

/// Both checks as part of the tests. `built` is the folder of the programs and libraries of the workspace.
pub(crate) fn check(venv: &Venv, step: &mut Step, built: &Path) -> Result<()> {
    let mut generated = Command::new(built.join("mfa-codegen"));
    with_libclang(&mut generated, venv)?;
    step.run_check(generated.arg("--check"))?;
    check_exports(venv, step, built, &built.join(CPU_DRIVER))
}

/// Whether a driver library exports exactly the functions of mfa.h.
pub(crate) fn check_exports(
    venv: &Venv,
    step: &mut Step,
    built: &Path,
    driver: &Path,
) -> Result<()> {
    let mut symbols = Command::new(built.join("mfa-codegen"));
    with_libclang(&mut symbols, venv)?;
    step.run_check(symbols.arg("--symbols").arg(driver))
}

/// Lets the generator find libclang, with which bindgen reads the header.
///
/// It comes from PyPI, so that no compiler of the clang family need be installed. That package has no headers, so the
/// freestanding ones are the C compiler's.
fn with_libclang(command: &mut Command, venv: &Venv) -> Result<()> {
    let libclang = venv.site_packages()?.join("clang/native");
    ensure!(
        libclang.exists(),
        "libclang is not at {}, where the package from PyPI puts it",
        libclang.display()
    );
    command.env("LIBCLANG_PATH", libclang);
    if cfg!(target_os = "linux") {
        let include = output(c::compiler().arg("-print-file-name=include"))
            .context("asking the C compiler for its headers")?;
        command.env("BINDGEN_EXTRA_CLANG_ARGS", format!("-I{include}"));
    }
    Ok(())
}
