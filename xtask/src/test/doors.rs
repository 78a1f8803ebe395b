//! One call through every door: `tests/doors`, on the CPU engine, on each of its instruction sets, and on the Swift driver.

use std::path::Path;
use std::process::Command;

use anyhow::Result;

use crate::host::Host;
use crate::metal;
use crate::process::{LoggedStep, output};
use crate::test::cross::Interpreter;
use crate::test::part::{Outcome, Part};
use crate::test::rust::instruction_sets;
use crate::test::schedule::Lane;
use crate::test::test_env::TestEnv;

/// How many descriptions a test draws, where it is not left to it.
const DESCRIPTIONS: &str = "UMFA_DOORS_EXAMPLES";
/// On a forced instruction set: the calls themselves have been made.
const FEW: &str = "25";
/// On a device in software, a thousand times slower than a processor.
const FEWEST: &str = "8";

pub(super) fn parts() -> Vec<Part> {
    vec![
        Part::new(
            Lane::Python,
            "doors",
            "one call through every door, against float64: C, NumPy, PyTorch",
            |env, step| {
                let (library, require) = env.driver(step)?;
                let named = env.options.driver.is_some();
                let venv = env.venv_with_torch(step)?;
                let pytest = || {
                    let mut command = venv.python(ARGUMENTS);
                    command.current_dir(&env.repo.root);
                    if named {
                        command.env("MFA_DRIVER", &library);
                    } else {
                        command.env("MFA_LIBRARY", &library);
                    }
                    if require {
                        command.env("MFA_REQUIRE_ALL", "1");
                    }
                    command
                };
                step.pytest(&mut pytest())?;
                for (name, runs_here) in instruction_sets() {
                    if runs_here && !named {
                        step.say(&format!("MFA_CPU_ISA={name}"))?;
                        step.pytest(pytest().env("MFA_CPU_ISA", name).env(DESCRIPTIONS, FEW))?;
                    }
                }
                Ok(Outcome::Ran(note(venv.has("torch")).to_owned()))
            },
        ),
        Part::new(
            Lane::Swift,
            "metal-doors",
            "one call through every door, on the Swift driver",
            |env, step| {
                let swift = match Host::of_swift(env.repo) {
                    Ok(host) => host,
                    Err(reason) => return Ok(Outcome::Skipped(reason)),
                };
                if let Some(reason) = metal::unavailable(env.repo, step, &swift)? {
                    return Ok(Outcome::Impossible(reason));
                }
                let driver = metal::driver(env.repo, step, &swift)?;
                let mut command = match somewhere(env, step, &driver)? {
                    Ok(command) => command,
                    Err(reason) => return Ok(Outcome::Skipped(reason)),
                };
                command.args(ARGUMENTS).env("MFA_DRIVER", &driver);
                step.pytest(command.env(DESCRIPTIONS, FEWEST))?;
                let torch = env.venv_with_torch(step)?.has("torch");
                Ok(Outcome::Ran(note(torch).to_owned()))
            },
        ),
    ]
}

/// The suite stops tests that hang; a busy machine must not look like that.
const ARGUMENTS: [&str; 5] = ["-m", "pytest", "-q", "--timeout=600", "tests/doors"];

fn note(torch: bool) -> &'static str {
    if torch {
        "with PyTorch"
    } else {
        "without PyTorch: --torch installs it"
    }
}

/// The environment's Python where a driver can be loaded: here, or in the root that it was built in. `Err`: why nowhere.
fn somewhere(
    env: &TestEnv<'_>,
    step: &mut LoggedStep,
    driver: &Path,
) -> Result<std::result::Result<Command, String>> {
    let venv = env.venv_with_torch(step)?;
    let question = format!("import ctypes; ctypes.CDLL({driver:?})");
    if output(&mut venv.python(["-c", &question])).is_ok() {
        let mut command = venv.python::<[&str; 0], _>([]);
        command.current_dir(&env.repo.root);
        return Ok(Ok(command));
    }
    let python = Interpreter::of(venv)?;
    if python.is_the_systems() {
        return Ok(Err(
            "the driver loads in the Debian root only, and Python is the system's".to_owned(),
        ));
    }
    let folders = [driver.parent().unwrap_or(Path::new(".")), python.folder()];
    Ok(Host::find(env.repo, &folders).map(|host| python.command(env.repo, &host)))
}
