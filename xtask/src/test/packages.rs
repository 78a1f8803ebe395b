//! The packages that people install, used as they would: away from the repository and from what it builds.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use crate::c;
use crate::counts::Counts;
use crate::dist;
use crate::package::{User, fresh, unpack};
use crate::process::LoggedStep;
use crate::repo::Repo;
use crate::sysroot;
use crate::test::part::{Outcome, Part};
use crate::test::schedule::Lane;

pub(super) fn parts() -> Vec<Part> {
    vec![
        Part::new(
            Lane::Python,
            "dist-c",
            "the C package: its examples build by pkg-config and make, shared and static, and run",
            |env, step| {
                c_package(env.repo, step)?;
                Ok(Outcome::Ran(String::new()))
            },
        ),
        Part::new(
            Lane::Cargo,
            "dist-crates",
            "the crates: their tests run, and a new project uses them, offline",
            |env, step| {
                crates(env.user(step)?, step)?;
                Ok(Outcome::Ran(String::new()))
            },
        ),
        Part::new(
            Lane::Python,
            "dist-wheel",
            "the wheel: `umfa demo --quick` on a Debian without compilers",
            |env, step| {
                if let Some(reason) = sysroot::unavailable() {
                    return Ok(Outcome::Skipped(reason));
                }
                let wheel = env.wheel(step)?;
                on_a_clean_machine(env.repo, step, wheel)?;
                Ok(Outcome::Ran("a Debian 13 root under target/".into()))
            },
        ),
    ]
}

fn c_package(repo: &Repo, step: &mut LoggedStep) -> Result<()> {
    let archive = dist::c_archive(repo, step, &repo.scratch("dist"))?;
    let folder = fresh(repo.scratch("clean/c"))?;
    unpack(step, &archive, &folder)?;
    let name = archive.file_name().unwrap_or_default().to_string_lossy();
    let installed = folder.join(name.trim_end_matches(".tar.gz"));
    let lib = installed.join("lib");
    for (out, arguments) in [("shared", &[][..]), ("static", &["STATIC=1"])] {
        let out = folder.join(out);
        step.compile(
            Command::new("make")
                .arg(format!("OUT={}", out.display()))
                .args(arguments)
                .env("PKG_CONFIG_PATH", lib.join("pkgconfig"))
                .current_dir(installed.join("share/doc/mfa/examples")),
        )?;
        for example in dist::C_EXAMPLES {
            step.run(&mut c::with_library(Command::new(out.join(example)), &lib))?;
            step.counts += Counts::passed(1);
        }
    }
    Ok(())
}

fn crates(user: &User<'_>, step: &mut LoggedStep) -> Result<()> {
    user.build(step)?;
    step.run_check(&mut user.run())?;
    step.run(&mut user.test())
}

/// What runs in the root: the folder that it begins in has the wheel.
const ON_A_CLEAN_MACHINE: &str = "
set -eu
for tool in cc gcc clang cargo rustc; do
  if command -v $tool; then echo \"this root has $tool\"; exit 1; fi
done
python3 -m venv environment
environment/bin/pip install --progress-bar off \"$1[demo]\"
environment/bin/umfa info
environment/bin/umfa demo --quick --plot demo.png --json demo.json
";

fn on_a_clean_machine(repo: &Repo, step: &mut LoggedStep, wheel: &Path) -> Result<()> {
    let folder = fresh(repo.scratch("clean/wheel"))?;
    let name = wheel.file_name().unwrap_or_default();
    fs::copy(wheel, folder.join(name)).context("copying the wheel")?;
    let packages = "python3 python3-venv ca-certificates";
    let mut command = sysroot::script(repo);
    command
        .arg(repo.scratch("clean-root"))
        .args(["sh", "-c", ON_A_CLEAN_MACHINE, "sh"])
        .arg(Path::new(".").join(name))
        .env("SYSROOT_PACKAGES", packages)
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .current_dir(&folder);
    step.run_check(&mut command)
}
