//! `cargo xtask codegen`: what is made from mfa.h, and whether drivers keep to it.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use sha2::{Digest, Sha256};

use crate::c;
use crate::process::{LoggedStep, foreground, output};
use crate::repo::Repo;
use crate::venv::Venv;

/// Options of `cargo xtask codegen`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Only say whether the committed files are up to date, by making them again.
    #[arg(long)]
    check: bool,
}

/// Remakes or checks the files.
pub(crate) fn run(repo: &Repo, options: &Options) -> Result<()> {
    let mut step = LoggedStep::new("codegen", &repo.scratch("logs"))?;
    let venv = Venv::ensure(repo, &mut step)?;
    let mut command = generator(repo, &venv)?;
    if options.check {
        command.arg("--check");
    }
    step.finish();
    foreground(&mut command)?;
    let (path, text) = (repo.path(RECORD), record(repo)?);
    if options.check {
        ensure!(
            fs::read_to_string(&path).is_ok_and(|found| found == text),
            "{RECORD} is stale: run `cargo xtask codegen`"
        );
        return Ok(());
    }
    fs::write(&path, text).with_context(|| format!("writing {RECORD}"))
}

/// What was true when the files were made last: a hash of everything that they are made from, and of themselves.
const RECORD: &str = "xtask/codegen/record.txt";

/// What the files are made from (folders mean the files in them), and the files.
const PARTS: [&str; 7] = [
    "crates/mfa-sys/include/mfa.h",
    "xtask/codegen/Cargo.toml",
    "xtask/codegen/src",
    "rustfmt.toml",
    "crates/mfa-sys/src/bindings.rs",
    "crates/mfa-sys/src/api.rs",
    "python/umfa/python/umfa/_constants.py",
];

/// The check as part of the tests. Where the record tells that neither the generator nor a file has changed since the files were
/// made, nothing is compiled: bindgen takes a minute.
pub(crate) fn check(repo: &Repo, venv: &Venv, step: &mut LoggedStep) -> Result<()> {
    let recorded = fs::read_to_string(repo.path(RECORD)).unwrap_or_default();
    if recorded == record(repo)? {
        return step.check("files made from mfa.h are those of the record", &[]);
    }
    step.say("something has changed since the files were made: they are made again, to compare")?;
    step.compile_check(generator(repo, venv)?.arg("--check"))
}

/// The hashes, one line a file.
fn record(repo: &Repo) -> Result<String> {
    let mut files = Vec::new();
    for part in PARTS {
        let path = repo.path(part);
        if path.is_dir() {
            for entry in fs::read_dir(&path).with_context(|| format!("reading {part}"))? {
                files.push(format!("{part}/{}", entry?.file_name().to_string_lossy()));
            }
        } else {
            files.push(part.to_owned());
        }
    }
    files.sort();
    let mut text = String::from(
        "# Made by `cargo xtask codegen`, do not edit. SHA-256 of what it reads and writes.\n",
    );
    for file in files {
        let bytes = fs::read(repo.path(&file)).with_context(|| format!("reading {file}"))?;
        // Git may have changed the ends of lines.
        let bytes: Vec<u8> = bytes.into_iter().filter(|byte| *byte != b'\r').collect();
        let digest = Sha256::digest(&bytes);
        let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        text += &format!("{hex}  {file}\n");
    }
    let pins = fs::read_to_string(repo.path("xtask/python/constraints.txt"))
        .context("reading the pinned versions")?;
    for line in pins.lines().filter(|line| line.starts_with("libclang=")) {
        text += &format!("{line}\n");
    }
    // The lock names the versions of the libraries that read the header and write Rust.
    let lock = fs::read_to_string(repo.path("Cargo.lock")).context("reading Cargo.lock")?;
    for package in lock.split("\n\n").filter(|package| {
        LIBRARIES
            .iter()
            .any(|name| package.contains(&format!("name = \"{name}\"\n")))
    }) {
        let line = |key: &str| package.lines().find(|line| line.starts_with(key));
        for key in ["name = ", "version = "] {
            text += line(key).unwrap_or_default();
            text += if key == "name = " { ", " } else { "\n" };
        }
    }
    Ok(text)
}

/// Libraries of the generator whose versions its output depends on.
const LIBRARIES: [&str; 3] = ["bindgen", "prettyplease", "syn"];

/// `cargo run` for the generator. Alone: where the generated files are stale, the rest of the workspace may not even compile.
fn generator(repo: &Repo, venv: &Venv) -> Result<Command> {
    let mut command = repo.cargo([
        "run",
        "--quiet",
        "--locked",
        "--package",
        "mfa-codegen",
        "--",
    ]);
    with_libclang(&mut command, venv)?;
    Ok(command)
}

/// Whether a driver library exports exactly the functions of mfa.h. `built` is the folder of the workspace's programs.
pub(crate) fn check_exports(step: &mut LoggedStep, built: &Path, driver: &Path) -> Result<()> {
    step.run_check(Command::new(built.join("mfa-exports")).arg(driver))
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
