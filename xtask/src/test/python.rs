//! Tests in Python, on the installed wheel.

use anyhow::Result;

use crate::docs;
use crate::process::Step;
use crate::test::lab::Lab;
use crate::test::schedule::Lane;
use crate::test::{Part, Verdict};
use crate::wheel::PACKAGE;

/// Lints first: they don't need the wheel.
pub(super) fn parts() -> Vec<Part> {
    vec![
        Part::new(
            Lane::Python,
            "ruff",
            "Python is formatted and free of lints",
            |lab, step| {
                let root = lab.repo.root.clone();
                let venv = lab.venv(step)?;
                let mut ruff = |arguments: &[&str]| {
                    step.run_check(venv.program("ruff").args(arguments).current_dir(&root))
                };
                ruff(&["check", "."])?;
                ruff(&["format", "--check", "."])?;
                Ok(Verdict::Ran(String::new()))
            },
        ),
        Part::new(Lane::Python, "mypy", "Python's types hold", |lab, step| {
            let package = lab.repo.path(PACKAGE);
            let venv = lab.venv_with_package(step)?;
            step.run_check(venv.program("mypy").current_dir(&package))?;
            Ok(Verdict::Ran(String::new()))
        }),
        Part::new(
            Lane::Python,
            "stubtest",
            "the stubs say what the native module has",
            |lab, step| {
                let package = lab.repo.path(PACKAGE);
                let venv = lab.venv_with_package(step)?;
                step.run_check(
                    venv.python(["-m", "mypy.stubtest", "umfa._native"])
                        .current_dir(&package),
                )?;
                Ok(Verdict::Ran(String::new()))
            },
        ),
        Part::new(
            Lane::Python,
            "reference",
            "the float64 reference's own tests; the vectors are what it writes",
            |lab, step| {
                let folder = lab.repo.path("tests/conformance");
                let venv = lab.venv_with_torch(step)?;
                step.run(venv.python(["-m", "pytest", "-q"]).current_dir(&folder))?;
                step.run_check(venv.python(["generate.py", "--check"]).current_dir(&folder))?;
                Ok(Verdict::Ran(String::new()))
            },
        ),
        Part::new(
            Lane::Python,
            "docs",
            "the Python and C code in Markdown files runs; the guide builds",
            |lab, step| {
                let repo = lab.repo;
                let built = lab.built(step)?;
                let venv = lab.venv_with_torch(step)?;
                docs::run(repo, venv, step, &built)?;
                docs::guide(repo, venv, step)?;
                Ok(Verdict::Ran(String::new()))
            },
        ),
        Part::new(
            Lane::Python,
            "pytest",
            "the Python package's own tests",
            |lab, step| {
                let note = pytest(lab, step)?;
                Ok(Verdict::Ran(note.to_owned()))
            },
        ),
        Part::new(
            Lane::Python,
            "demo",
            "a real language model runs, and agrees with attention in float64",
            |lab, step| {
                let repo = lab.repo;
                let driver = lab.options.driver.clone();
                let venv = lab.venv_with_package(step)?;
                let mut demo = venv.program("umfa");
                demo.args(["demo", "--quick", "--json"])
                    .arg(repo.scratch("demo.json"))
                    .arg("--plot")
                    .arg(repo.scratch("demo.png"));
                if let Some(driver) = driver {
                    demo.env("MFA_DRIVER", driver);
                }
                step.run_check(&mut demo)?;
                Ok(Verdict::Ran(String::new()))
            },
        ),
    ]
}

/// Runs the package's tests; says whether those against PyTorch were among them.
fn pytest(lab: &Lab<'_>, step: &mut Step) -> Result<&'static str> {
    let (repo, options) = (lab.repo, lab.options);
    let venv = lab.venv_with_torch(step)?;
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
    step.run(command.current_dir(repo.path(PACKAGE)))?;
    Ok(note)
}
