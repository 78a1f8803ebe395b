//! The Swift driver, `swift/MFABridge`, and what it would cost a GPU (`cargo xtask metal-report`).

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, anyhow, ensure};

use crate::host::Host;
use crate::process::{LoggedStep, output};
use crate::repo::Repo;

/// The Swift package.
const PACKAGE: &str = "swift/MFABridge";

/// The driver's library as SwiftPM names it.
pub(crate) const DRIVER: &str = if cfg!(target_os = "macos") {
    "libMFABridge.dylib"
} else {
    "libMFABridge.so"
};

/// The page that [`report`] writes.
const PAGE: &str = "docs/metal.md";

/// A subcommand of `swift` on the package.
pub(crate) fn swift(repo: &Repo, host: &Host, subcommand: &str) -> Command {
    let mut command = host.command(repo, Path::new("swift"));
    command.args([subcommand, "--package-path", PACKAGE]);
    command
}

/// Builds a product, optimised; returns its file.
fn product(
    repo: &Repo,
    step: &mut LoggedStep,
    host: &Host,
    product: &str,
    file: &str,
) -> Result<PathBuf> {
    step.compile(swift(repo, host, "build").args([
        "--configuration",
        "release",
        "--product",
        product,
    ]))?;
    let path = repo.path(PACKAGE).join(".build/release").join(file);
    ensure!(path.exists(), "swift build made no {}", path.display());
    Ok(path)
}

/// Builds the driver; returns the library.
pub(crate) fn driver(repo: &Repo, step: &mut LoggedStep, host: &Host) -> Result<PathBuf> {
    product(repo, step, host, "MFABridge", DRIVER)
}

/// The program that counts what kernels do.
pub(crate) fn counter(repo: &Repo, step: &mut LoggedStep, host: &Host) -> Result<Command> {
    let program = product(repo, step, host, "MetalReport", "MetalReport")?;
    Ok(host.command(repo, &program))
}

/// Remakes the page of counts.
pub(crate) fn report(repo: &Repo) -> Result<()> {
    let host = Host::of_swift(repo).map_err(|reason| anyhow!(reason))?;
    let mut step = LoggedStep::new("metal-report", &repo.scratch("logs"))?;
    let mut command = counter(repo, &mut step, &host)?;
    step.say("counting")?;
    let text = output(&mut command)?;
    let page = repo.path(PAGE);
    fs::write(&page, text + "\n").with_context(|| format!("writing {}", page.display()))?;
    step.finish();
    println!("{}", page.display());
    Ok(())
}
