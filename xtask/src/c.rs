//! Programs in C: compiled with every warning as an error, run against a driver library.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::counts::Counts;
use crate::dist;
use crate::process::Step;
use crate::repo::Repo;

const WARNINGS: [&str; 4] = ["-Wall", "-Wextra", "-Wpedantic", "-Werror"];
/// The runner of the conformance vectors.
const CONFORMANCE: &str = "tests/conformance/c";

/// A compiler, as a Unix user names it: `CC` and `CXX`, else `cc` and `c++`.
fn compiler(variable: &str, default: &str) -> Command {
    Command::new(env::var_os(variable).unwrap_or_else(|| default.into()))
}

/// The program with its loader pointed at the folder of a library.
fn with_library(mut command: Command, folder: &Path) -> Command {
    let variable = if cfg!(target_os = "macos") {
        "DYLD_LIBRARY_PATH"
    } else {
        "LD_LIBRARY_PATH"
    };
    command.env(variable, folder);
    command
}

/// Compiles the runner as C99, linked against `library`, and runs it over the vectors.
pub(crate) fn conformance(repo: &Repo, step: &mut Step, library: &Path) -> Result<()> {
    let folder = repo.path(CONFORMANCE);
    let mut sources: Vec<PathBuf> = fs::read_dir(&folder)
        .with_context(|| format!("reading {}", folder.display()))?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "c"))
        .collect();
    sources.sort();
    ensure!(!sources.is_empty(), "no C source in {}", folder.display());
    let out = repo.scratch("c");
    fs::create_dir_all(&out).with_context(|| format!("creating {}", out.display()))?;
    let program = out.join("conformance");
    step.run(
        compiler("CC", "cc")
            .args(["-std=c99", "-O2", "-g"])
            .args(WARNINGS)
            .arg("-I")
            .arg(repo.path("crates/mfa-sys/include"))
            .args(&sources)
            .arg(library)
            .args(["-lm", "-lpthread", "-o"])
            .arg(&program),
    )?;
    let library_folder = library.parent().context("the library has no folder")?;
    step.run(
        with_library(Command::new(&program), library_folder)
            .arg(repo.path("tests/conformance/vectors"))
            .current_dir(&repo.root),
    )
}

/// Builds the examples as a user of the C package does: pkg-config, make; as C99 and as C++17; shared and static.
pub(crate) fn examples(repo: &Repo, step: &mut Step) -> Result<()> {
    let prefix = repo.scratch("c/prefix");
    dist::c_tree(repo, step, &prefix, dist::Profile::Debug)?;
    let library_folder = prefix.join("lib");
    for (language, makefile_arguments) in [
        (
            "c99",
            vec!["CFLAGS=-std=c99 -O2 -Wall -Wextra -Wpedantic -Werror"],
        ),
        (
            "c++17",
            vec![
                "CC=c++",
                "CFLAGS=-x c++ -std=c++17 -O2 -Wall -Wextra -Wpedantic -Werror",
            ],
        ),
        (
            "static",
            vec![
                "STATIC=1",
                "CFLAGS=-std=c99 -O2 -Wall -Wextra -Wpedantic -Werror",
            ],
        ),
    ] {
        let out = repo.scratch("c").join(language);
        step.run(
            Command::new("make")
                .arg("-C")
                .arg(repo.path("examples/c"))
                .arg("--always-make")
                .arg(format!("OUT={}", out.display()))
                .args(&makefile_arguments)
                .env("PKG_CONFIG_PATH", library_folder.join("pkgconfig")),
        )?;
        for example in ["forward", "quantized"] {
            step.run(&mut with_library(
                Command::new(out.join(example)),
                &library_folder,
            ))?;
            step.counts += Counts::passed(1);
        }
    }
    Ok(())
}
