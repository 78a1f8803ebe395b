//! `cargo xtask support`: README's table of features, made by asking the devices.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, anyhow, bail};

use crate::host::Host;
use crate::metal;
use crate::process::{LoggedStep, output};
use crate::repo::Repo;

const FILE: &str = "README.md";
const BEGIN: &str = "<!-- begin: made by `cargo xtask support`, do not edit -->\n";
const END: &str = "<!-- end -->\n";

/// Options of `cargo xtask support`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Only say whether the table is up to date.
    #[arg(long)]
    check: bool,
}

/// Remakes or checks the table.
pub(crate) fn run(repo: &Repo, options: &Options) -> Result<()> {
    let host = Host::of_swift(repo).map_err(|reason| anyhow!(reason))?;
    let mut step = LoggedStep::new("support", &repo.scratch("logs"))?;
    step.compile(&mut repo.build_workspace())?;
    let mut command = devices(repo, &mut step, &host, &repo.target.join("debug"))?;
    let (old, new) = texts(repo, &mut command)?;
    step.finish();
    if old == new {
        return Ok(());
    }
    if options.check {
        bail!("the table in {FILE} is stale: run `cargo xtask support`");
    }
    fs::write(repo.path(FILE), new).with_context(|| format!("writing {FILE}"))
}

/// The program that asks the devices: those of the Swift driver, and the CPU engine that is linked in.
fn devices(repo: &Repo, step: &mut LoggedStep, host: &Host, built: &Path) -> Result<Command> {
    let driver = metal::driver(repo, step, host)?;
    let mut command = host.command(repo, &built.join("mfa-support"));
    command.env("MFA_DRIVER", driver);
    Ok(command)
}

/// The check as part of the tests. `built` is the folder of the workspace's programs.
pub(crate) fn check(repo: &Repo, step: &mut LoggedStep, host: &Host, built: &Path) -> Result<()> {
    let mut command = devices(repo, step, host, built)?;
    let (old, new) = texts(repo, &mut command)?;
    let problems: Vec<String> = old
        .lines()
        .zip(new.lines())
        .filter(|(old, new)| old != new)
        .map(|(old, new)| format!("{FILE} says {old}\ndevices say {new}"))
        .collect();
    step.check("the table of features", &problems)?;
    let same_length = old.lines().count() == new.lines().count();
    if problems.is_empty() && !same_length {
        bail!("the table in {FILE} has another number of lines: run `cargo xtask support`");
    }
    Ok(())
}

/// The file as it is and as it should be.
fn texts(repo: &Repo, devices: &mut Command) -> Result<(String, String)> {
    let old = fs::read_to_string(repo.path(FILE)).with_context(|| format!("reading {FILE}"))?;
    let table = output(devices)?;
    let Some((before, rest)) = old.split_once(BEGIN) else {
        bail!("{FILE} has no line {}", BEGIN.trim());
    };
    let Some((_, after)) = rest.split_once(END) else {
        bail!("{FILE} has no line {} behind {}", END.trim(), BEGIN.trim());
    };
    let new = format!("{before}{BEGIN}\n{table}\n\n{END}{after}");
    Ok((old, new))
}
