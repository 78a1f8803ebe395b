//! Tests in Python, on the installed wheel.

use crate::docs;
use crate::test::{Lab, Part, Verdict};
use crate::torch;
use crate::wheel::PACKAGE;

/// Lints first: they don't need the wheel.
pub(super) fn parts() -> Vec<Part> {
    vec![
        Part::new(
            "ruff",
            "Python is formatted and free of lints",
            |lab, step| {
                let root = lab.repo.root.clone();
                let venv = lab.venv(step)?;
                step.run_check(venv.program("ruff").args(["check", "."]).current_dir(&root))?;
                step.run_check(
                    venv.program("ruff")
                        .args(["format", "--check", "."])
                        .current_dir(&root),
                )?;
                Ok(Verdict::Ran(String::new()))
            },
        ),
        Part::new("mypy", "Python's types hold", |lab, step| {
            let package = lab.repo.path(PACKAGE);
            let venv = lab.venv_with_package(step)?;
            step.run_check(venv.program("mypy").current_dir(&package))?;
            Ok(Verdict::Ran(String::new()))
        }),
        Part::new(
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
            "docs",
            "the Python and C code in Markdown files runs",
            |lab, step| {
                let repo = lab.repo;
                let built = lab.built(step)?;
                let venv = lab.venv_with_package(step)?;
                docs::run(repo, venv, step, &built)?;
                Ok(Verdict::Ran(String::new()))
            },
        ),
        Part::new("pytest", "the Python package's own tests", |lab, step| {
            let torch = prepare(lab, step)?;
            pytest(lab, step, &[])?;
            Ok(Verdict::Ran(torch.to_owned()))
        }),
    ]
}

/// The environment with the package and, if asked for, PyTorch; says which of them tests will find.
fn prepare(lab: &mut Lab, step: &mut crate::process::Step) -> anyhow::Result<&'static str> {
    let repo = lab.repo;
    let wanted = lab.options.torch;
    let venv = lab.venv_with_package(step)?;
    if wanted {
        torch::ensure(repo, venv, step)?;
    }
    Ok(if venv.has("torch") {
        "with PyTorch"
    } else {
        "without PyTorch: --torch installs it"
    })
}

fn pytest(
    lab: &mut Lab,
    step: &mut crate::process::Step,
    arguments: &[&str],
) -> anyhow::Result<()> {
    let package = lab.repo.path(PACKAGE);
    let driver = lab.options.driver.clone();
    let required = lab.options.torch;
    let mut command = lab.venv_with_package(step)?.python(["-m", "pytest", "-q"]);
    command.args(arguments).current_dir(&package);
    if let Some(driver) = driver {
        command.env("MFA_DRIVER", driver);
    }
    if required {
        command.env("UMFA_REQUIRE_TORCH", "1");
    }
    step.run(&mut command)
}
