//! Programs in C: compiled with every warning as an error, run against a driver library.

use std::env;
use std::path::Path;
use std::process::Command;

use anyhow::Result;

use crate::counts::Counts;
use crate::dist;
use crate::process::LoggedStep;
use crate::repo::Repo;

/// The C compiler: `CC`, else `cc`.
pub(crate) fn compiler() -> Command {
    Command::new(env::var_os("CC").unwrap_or_else(|| "cc".into()))
}

/// The program with its loader pointed at the folder of a library.
pub(crate) fn with_library(mut command: Command, folder: &Path) -> Command {
    let variable = if cfg!(target_os = "macos") {
        "DYLD_LIBRARY_PATH"
    } else {
        "LD_LIBRARY_PATH"
    };
    command.env(variable, folder);
    command
}

/// Runs the vectors in C on the driver `library`: linked to it, and loading it. A case that the driver does not support is skipped, or fails if `require`.
pub(crate) fn conformance(
    repo: &Repo,
    step: &mut LoggedStep,
    library: &Path,
    require: bool,
) -> Result<()> {
    let out = repo.scratch("c");
    build_conformance(repo, step, Command::new("make"), library, &out)?;
    let mut failure = Ok(());
    for driver in [None, Some(library)] {
        let mut runner = Command::new(out.join("conformance"));
        runner.env_remove("MFA_DRIVER");
        if let Some(driver) = driver {
            runner.env("MFA_DRIVER", driver);
        }
        if require {
            runner.arg("--require");
        }
        let result = step.run(runner.arg(repo.path("tests/conformance/vectors")));
        failure = failure.and(result);
    }
    failure
}

/// Compiles the runner as C99 into the folder `out`, linked to the driver `library`, with this `make`.
pub(crate) fn build_conformance(
    repo: &Repo,
    step: &mut LoggedStep,
    mut make: Command,
    library: &Path,
    out: &Path,
) -> Result<()> {
    step.compile(
        make.arg("-C")
            .arg(repo.path("tests/conformance/c"))
            .arg("--always-make")
            .arg(format!("DRIVER={}", library.display()))
            .arg(format!("OUT={}", out.display())),
    )
}

/// Builds the examples as a user of the C package does: pkg-config, make; as C99 and as C++17; shared and static. Runs one under
/// valgrind, with two workers, if that is installed; says whether it did. `built` is the folder of the libraries.
pub(crate) fn examples(repo: &Repo, step: &mut LoggedStep, built: &Path) -> Result<&'static str> {
    let prefix = repo.scratch("c/prefix");
    dist::c_tree(repo, step, &prefix, &dist::Libraries::Built(built))?;
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
        step.compile(
            Command::new("make")
                .arg("-C")
                .arg(repo.path("examples/c"))
                .arg("--always-make")
                .arg(format!("OUT={}", out.display()))
                .args(&makefile_arguments)
                .env("PKG_CONFIG_PATH", library_folder.join("pkgconfig")),
        )?;
        for example in dist::C_EXAMPLES {
            step.run(&mut with_library(
                Command::new(out.join(example)),
                &library_folder,
            ))?;
            step.counts += Counts::passed(1);
        }
    }
    let valgrind = Command::new("valgrind").arg("--version").output();
    if !valgrind.is_ok_and(|output| output.status.success()) {
        return Ok("not under valgrind, which is not installed");
    }
    let mut checked = Command::new("valgrind");
    checked
        .args(["--quiet", "--error-exitcode=1"])
        .arg(repo.scratch("c").join("c99").join("training"))
        .env("MFA_NUM_THREADS", "2");
    step.run(&mut with_library(checked, &library_folder))?;
    step.counts += Counts::passed(1);
    Ok("one of them under valgrind")
}
