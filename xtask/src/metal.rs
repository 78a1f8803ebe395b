//! The Swift driver, `swift/MFABridge`, and what it would cost a GPU (`cargo xtask metal-report`).

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, anyhow, ensure};

use crate::host::Host;
use crate::process::{self, LoggedStep, output};
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

/// The program that lists all texts.
pub(crate) const TEXTS: &str = "every-text";

/// Golden texts, which are reviewed.
pub(crate) const GOLDEN: &str = "swift/MFABridge/Tests/AttentionKernelsTests/Golden";

/// Options of `cargo xtask metal-texts`.
#[derive(clap::Args)]
pub(crate) struct Texts {
    /// Where NAME.metal of every text and index.json go; without it the device's compiler reads them.
    folder: Option<PathBuf>,
    /// Fewer texts: every value of every option, instead of every pair of values of two.
    #[arg(long)]
    values: bool,
}

/// A subcommand of `swift` on the package.
pub(crate) fn swift(repo: &Repo, host: &Host, subcommand: &str) -> Command {
    let mut command = host.command(repo, Path::new("swift"));
    command.args([subcommand, "--package-path", PACKAGE]);
    command
}

/// Builds a product, optimised; returns its file.
pub(crate) fn product(
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

/// Why no device of this machine can run the kernels; `None` if one can. On Linux the software device can, unless it is told to
/// be an older GPU.
pub(crate) fn unavailable(
    repo: &Repo,
    step: &mut LoggedStep,
    host: &Host,
) -> Result<Option<String>> {
    if !cfg!(target_os = "macos") && std::env::var_os("SOFTWARE_METAL_FAMILY").is_none() {
        return Ok(None);
    }
    let program = product(repo, step, host, TEXTS, TEXTS)?;
    let answer = output(host.command(repo, &program).arg("--device"))?;
    Ok(answer.strip_prefix("none: ").map(str::to_owned))
}

/// Writes or compiles every text.
pub(crate) fn texts(repo: &Repo, options: &Texts) -> Result<()> {
    let folder = options.folder.as_deref().map(|folder| {
        fs::create_dir_all(folder).with_context(|| format!("creating {}", folder.display()))?;
        let whole = fs::canonicalize(folder);
        whole.with_context(|| format!("looking for {}", folder.display()))
    });
    let folder = folder.transpose()?;
    let host = Host::of_swift_with(repo, folder.as_deref()).map_err(|reason| anyhow!(reason))?;
    let mut step = LoggedStep::new("metal-texts", &repo.scratch("logs"))?;
    let program = product(repo, &mut step, &host, TEXTS, TEXTS)?;
    step.finish();
    let mut command = host.command(repo, &program);
    command.args(["--also", GOLDEN]);
    if options.values {
        command.arg("--values");
    }
    match folder {
        Some(folder) => command.arg(folder),
        None => command.arg("--compile"),
    };
    process::foreground(&mut command)
}
