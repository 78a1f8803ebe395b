//! Tests in Rust.

use std::ffi::OsStr;
use std::path::PathBuf;

use anyhow::{Result, bail};

use crate::process::{LoggedStep, output};
use crate::repo::Repo;
use crate::test::part::{Outcome, Part};
use crate::test::schedule::Lane;
use crate::test::test_env::TestEnv;

/// The integration tests of the workspace, the conformance vectors among them: what exercises a driver.
const ON_DRIVER: [&str; 2] = ["--test", "*"];

/// The instruction sets that `MFA_CPU_ISA` can force, and whether this machine runs them. This list is the test's own: an engine
/// that stopped offering one of them would be found out. The fastest (AMX, where the system allows it) is what the part
/// `rust` runs.
pub(crate) fn instruction_sets() -> Vec<(&'static str, bool)> {
    #[cfg(target_arch = "x86_64")]
    let list = {
        let avx2 = is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c");
        let avx512 = avx2
            && is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl");
        vec![
            ("scalar", true),
            ("avx2", avx2),
            ("avx2vnni", avx2 && is_x86_feature_detected!("avxvnni")),
            ("avx512", avx512),
            (
                "avx512vnni",
                avx512 && is_x86_feature_detected!("avx512vnni"),
            ),
        ]
    };
    #[cfg(target_arch = "aarch64")]
    let list = vec![("scalar", true), ("neon", true)];
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let list = vec![("scalar", true)];
    list
}

/// Compiles, then runs tests; `set` is set for the run.
fn cargo_test(
    env: &TestEnv<'_>,
    step: &mut LoggedStep,
    arguments: &[&str],
    set: &[(&str, &OsStr)],
) -> Result<()> {
    let test = |more: &[&str]| env.repo.workspace("test", &[arguments, more].concat());
    step.compile(&mut test(&["--no-run"]))?;
    let mut command = test(&["--no-fail-fast"]);
    match &env.options.driver {
        Some(driver) => command.env("MFA_DRIVER", driver),
        // The CPU engine supports everything.
        None => command.env("MFA_REQUIRE_ALL", "1"),
    };
    step.run(command.envs(set.iter().copied()))
}

/// Builds an integration test of a crate, and finds its program: for other places than cargo's to run it.
pub(super) fn test_program(repo: &Repo, step: &mut LoggedStep, name: &str) -> Result<PathBuf> {
    // All of them, as the other parts do: a test by itself would be compiled with other features.
    let build =
        |more: &[&str]| repo.workspace("test", &[&ON_DRIVER[..], &["--no-run"], more].concat());
    step.compile(&mut build(&[]))?;
    let messages = output(&mut build(&["--message-format=json"]))?;
    let executable = |line: &str| {
        let named = line.contains(&format!("\"name\":\"{name}\""));
        let (_, rest) = line.split_once("\"executable\":\"").filter(|_| named)?;
        Some(PathBuf::from(rest.split_once('"')?.0))
    };
    match messages.lines().find_map(executable) {
        Some(path) => Ok(path),
        None => bail!("cargo does not say where it has put the test `{name}`"),
    }
}

/// The workspace's tests, then the conformance vectors on every instruction set and on the driver as a library.
pub(super) fn parts() -> Vec<Part> {
    let mut parts = vec![Part::new(
        Lane::Cargo,
        "rust",
        "unit, property, conformance and documentation tests of every crate",
        |env, step| {
            cargo_test(env, step, &[], &[])?;
            Ok(Outcome::Ran(String::new()))
        },
    )];
    for (name, runs_here) in instruction_sets() {
        parts.push(Part::new(
            Lane::Cargo,
            format!("isa-{name}"),
            format!("conformance and property tests with MFA_CPU_ISA={name}"),
            move |env, step| {
                if !runs_here {
                    return Ok(Outcome::Impossible(
                        "this processor does not have it".to_owned(),
                    ));
                }
                if env.options.driver.is_some() {
                    return Ok(Outcome::Skipped("another driver was named".to_owned()));
                }
                cargo_test(env, step, &ON_DRIVER, &[("MFA_CPU_ISA", name.as_ref())])?;
                Ok(Outcome::Ran(String::new()))
            },
        ));
    }
    parts.push(Part::new(
        Lane::Cargo,
        "driver",
        "conformance and property tests through a driver library that is loaded (MFA_DRIVER)",
        |env, step| {
            let (driver, _) = env.driver(step)?;
            cargo_test(env, step, &ON_DRIVER, &[("MFA_DRIVER", driver.as_os_str())])?;
            Ok(Outcome::Ran(String::new()))
        },
    ));
    parts
}
