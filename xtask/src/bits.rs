//! `cargo xtask bits`: a hash of all that a driver returns for the conformance vectors, on every instruction set.
//!
//! A refactoring keeps these hashes: outputs, statuses and messages of every call. A driver that is loaded in the Debian root alone
//! (the Swift one) runs there.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use sha2::{Digest, Sha256};

use crate::c;
use crate::dist;
use crate::host::Host;
use crate::process::{LoggedStep, output};
use crate::repo::Repo;
use crate::test::instruction_sets;

/// Options of `cargo xtask bits`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Driver libraries; without one the CPU engine, which is built first. With several, the first is compared with the others.
    drivers: Vec<PathBuf>,
}

/// The hash of all results, by instruction set.
type Hashes = BTreeMap<&'static str, String>;

/// Prints the hashes of each driver; fails where they differ.
pub(crate) fn run(repo: &Repo, options: &Options) -> Result<()> {
    let mut step = LoggedStep::new("bits", &repo.scratch("logs"))?;
    let drivers = if options.drivers.is_empty() {
        step.compile(&mut repo.cargo(["build", "--locked", "--release", "--package", "mfa-cpu"]))?;
        vec![repo.target.join("release").join(dist::CPU_DRIVER)]
    } else {
        options.drivers.clone()
    };
    let mut first: Option<Hashes> = None;
    let mut differing = Vec::new();
    for (number, driver) in drivers.iter().enumerate() {
        let driver = fs::canonicalize(driver)
            .with_context(|| format!("looking for {}", driver.display()))?;
        println!("{}", driver.display());
        let hashes = hashes(repo, &mut step, &driver, &format!("bits/{number}"))?;
        for (name, hash) in &hashes {
            println!("  {name:<12} {hash}");
            let before = first.as_ref().and_then(|first| first.get(name));
            if before.is_some_and(|before| before != hash) {
                differing.push(format!("{} on {name}", driver.display()));
            }
        }
        first.get_or_insert(hashes);
    }
    step.finish();
    ensure!(
        differing.is_empty(),
        "other results than those of {}: {}; the arrays are below {}",
        drivers[0].display(),
        differing.join(", "),
        repo.scratch("bits").display()
    );
    Ok(())
}

/// The hash of a driver's results on each instruction set that this machine runs.
fn hashes(repo: &Repo, step: &mut LoggedStep, driver: &Path, folder: &str) -> Result<Hashes> {
    let out = repo.scratch(folder);
    let parent = driver.parent().unwrap_or(Path::new("."));
    let host = match driver.file_name() {
        Some(name) if name == dist::CPU_DRIVER => Host::HERE,
        _ => Host::find(repo, &[parent]).map_err(anyhow::Error::msg)?,
    };
    let make = host.command(repo, Path::new("make"));
    c::build_conformance(repo, step, make, driver, &out.join("runner"))?;
    let mut hashes = Hashes::new();
    for (name, runs_here) in instruction_sets() {
        if !runs_here {
            continue;
        }
        let results = out.join(name);
        fs::create_dir_all(&results).with_context(|| format!("creating {}", results.display()))?;
        let mut runner: Command = host.command(repo, &out.join("runner/conformance"));
        runner
            .arg(repo.path("tests/conformance/vectors"))
            .env("MFA_CPU_ISA", name)
            .env("MFA_RESULTS", &results);
        output(&mut runner).with_context(|| format!("the vectors on {name}"))?;
        hashes.insert(name, hash_of(&results)?);
        if !host.is_here() {
            // Instruction sets are the CPU engine's.
            break;
        }
    }
    Ok(hashes)
}

/// SHA-256 over the files of a folder, by name.
fn hash_of(folder: &Path) -> Result<String> {
    let mut files: Vec<PathBuf> = fs::read_dir(folder)
        .with_context(|| format!("reading {}", folder.display()))?
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<_>>()?;
    files.sort();
    if files.is_empty() {
        bail!(
            "{} is empty: the runner has written no results",
            folder.display()
        );
    }
    let mut hasher = Sha256::new();
    for file in &files {
        hasher.update(fs::read(file).with_context(|| format!("reading {}", file.display()))?);
    }
    Ok(hasher
        .finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_byte_changes_the_hash() {
        let folder = std::env::temp_dir().join(format!("umfa-bits-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        assert!(hash_of(&folder).is_err());
        fs::write(folder.join("results.bin"), [1, 2, 3]).unwrap();
        let before = hash_of(&folder).unwrap();
        assert_eq!(before, hash_of(&folder).unwrap());
        fs::write(folder.join("results.bin"), [1, 2, 4]).unwrap();
        assert_ne!(before, hash_of(&folder).unwrap());
        fs::remove_dir_all(&folder).unwrap();
    }
}
