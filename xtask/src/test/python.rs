//! Tests in Python, on the installed wheel.

use std::process::Command;

use anyhow::Result;

use crate::docs;
use crate::process::LoggedStep;
use crate::test::part::{Outcome, Part};
use crate::test::schedule::Lane;
use crate::test::test_env::TestEnv;
use crate::wheel::PACKAGE;

/// Lints first: they don't need the wheel.
pub(super) fn parts() -> Vec<Part> {
    vec![
        Part::new(
            Lane::Python,
            "ruff",
            "Python is formatted and free of lints",
            |env, step| {
                let root = env.repo.root.clone();
                let venv = env.venv(step)?;
                let mut ruff = |arguments: &[&str]| {
                    step.run_check(venv.program("ruff").args(arguments).current_dir(&root))
                };
                ruff(&["check", "."])?;
                ruff(&["format", "--check", "."])?;
                Ok(Outcome::Ran(String::new()))
            },
        ),
        Part::new(
            Lane::Python,
            "clang-format",
            "C++ is formatted",
            |env, step| {
                let venv = env.venv(step)?;
                let mut format = Command::new("sh");
                format
                    .arg(env.repo.path("swift/SoftwareMetal/Scripts/format.sh"))
                    .arg("--check")
                    .arg(venv.program("clang-format").get_program());
                step.run_check(&mut format)?;
                Ok(Outcome::Ran(String::new()))
            },
        ),
        Part::new(Lane::Python, "mypy", "Python's types hold", |env, step| {
            let package = env.repo.path(PACKAGE);
            let venv = env.venv_with_package(step)?;
            step.run_check(venv.program("mypy").current_dir(&package))?;
            Ok(Outcome::Ran(String::new()))
        }),
        Part::new(
            Lane::Python,
            "stubtest",
            "the stubs say what the native module has",
            |env, step| {
                let package = env.repo.path(PACKAGE);
                let venv = env.venv_with_package(step)?;
                step.run_check(
                    venv.python(["-m", "mypy.stubtest", "umfa._native"])
                        .current_dir(&package),
                )?;
                Ok(Outcome::Ran(String::new()))
            },
        ),
        Part::new(
            Lane::Python,
            "reference",
            "the float64 reference's own tests; the vectors are what it writes",
            |env, step| {
                let folder = env.repo.path("tests/conformance");
                let venv = env.venv_with_torch(step)?;
                step.pytest(venv.python(["-m", "pytest", "-q"]).current_dir(&folder))?;
                step.run_check(venv.python(["generate.py", "--check"]).current_dir(&folder))?;
                Ok(Outcome::Ran(String::new()))
            },
        ),
        Part::new(
            Lane::Python,
            "docs",
            "the Python and C code in Markdown files runs; the guide builds",
            |env, step| {
                let repo = env.repo;
                let built = env.built(step)?;
                let venv = env.venv_with_torch(step)?;
                docs::run(repo, venv, step, &built)?;
                docs::guide(repo, venv, step)?;
                Ok(Outcome::Ran(String::new()))
            },
        ),
        Part::new(
            Lane::Python,
            "pytest",
            "the Python package's own tests",
            |env, step| {
                let note = pytest(env, step)?;
                Ok(Outcome::Ran(note.to_owned()))
            },
        ),
        Part::new(
            Lane::Python,
            "demo",
            "a real language model runs, and agrees with attention in float64",
            |env, step| {
                let repo = env.repo;
                let driver = env.options.driver.clone();
                let venv = env.venv_with_package(step)?;
                let mut demo = venv.program("umfa");
                demo.args(["demo", "--quick", "--json"])
                    .arg(repo.scratch("demo.json"))
                    .arg("--plot")
                    .arg(repo.scratch("demo.png"));
                if let Some(driver) = driver {
                    demo.env("MFA_DRIVER", driver);
                }
                step.run_check(&mut demo)?;
                Ok(Outcome::Ran(String::new()))
            },
        ),
    ]
}

/// Runs the package's tests; says whether those against PyTorch were among them.
fn pytest(env: &TestEnv<'_>, step: &mut LoggedStep) -> Result<&'static str> {
    let (repo, options) = (env.repo, env.options);
    let venv = env.venv_with_torch(step)?;
    let note = if venv.has("torch") {
        "with PyTorch"
    } else {
        "without PyTorch: --torch installs it"
    };
    // The tests are stopped where they hang; a busy machine must not look like that.
    let mut command = venv.python(["-m", "pytest", "-q", "--timeout=300"]);
    if let Some(driver) = &options.driver {
        command.env("MFA_DRIVER", driver);
    }
    step.pytest(command.current_dir(repo.path(PACKAGE)))?;
    Ok(note)
}
