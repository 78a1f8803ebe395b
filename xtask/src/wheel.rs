//! The Python package, built and installed into the project's environment.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::process::LoggedStep;
use crate::repo::Repo;
use crate::venv::Venv;

/// The folder of the Python package.
pub(crate) const PACKAGE: &str = "python/umfa";

/// Builds the wheel into `out`, which is emptied first. `prepare` adds to maturin's command.
pub(crate) fn build(
    repo: &Repo,
    venv: &Venv,
    step: &mut LoggedStep,
    out: &Path,
    prepare: impl FnOnce(&mut Command),
) -> Result<PathBuf> {
    if out.exists() {
        fs::remove_dir_all(out).with_context(|| format!("removing {}", out.display()))?;
    }
    let mut maturin = venv.program("maturin");
    maturin
        .args(["build", "--release", "--locked", "--manifest-path"])
        .arg(repo.path(PACKAGE).join("Cargo.toml"))
        .arg("--out")
        .arg(out)
        .current_dir(&repo.root);
    prepare(&mut maturin);
    step.compile(&mut maturin)?;
    let wheels: Vec<PathBuf> = fs::read_dir(out)
        .with_context(|| format!("reading {}", out.display()))?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "whl"))
        .collect();
    match wheels.as_slice() {
        [wheel] => Ok(wheel.clone()),
        found => bail!(
            "expected one wheel in {}, found {}",
            out.display(),
            found.len()
        ),
    }
}

/// Builds the wheel and installs it with these extras, replacing what was installed.
pub(crate) fn install(repo: &Repo, venv: &Venv, step: &mut LoggedStep, extras: &str) -> Result<()> {
    let wheel = build(repo, venv, step, &repo.scratch("wheel"), |_| {})?;
    install_from(repo, venv, step, &wheel, extras)
}

/// Installs a wheel with these extras, replacing what was installed.
pub(crate) fn install_from(
    repo: &Repo,
    venv: &Venv,
    step: &mut LoggedStep,
    wheel: &Path,
    extras: &str,
) -> Result<()> {
    let wheel = wheel.to_string_lossy();
    let manifest = repo.path(PACKAGE).join("pyproject.toml");
    let text =
        fs::read_to_string(&manifest).with_context(|| format!("reading {}", manifest.display()))?;
    venv.once(&format!("umfa-{extras}"), &text, || {
        step.install(&mut venv.pip_install([format!("{wheel}[{extras}]")]))
    })?;
    // The version stays the same while the content changes: pip alone would keep the old one.
    let _alone = venv.alone();
    step.install(&mut venv.pip_install(["--force-reinstall", "--no-deps", &*wheel]))
}
