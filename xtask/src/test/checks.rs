//! Checks of the source itself.

use crate::codegen;
use crate::dist::CPU_DRIVER;
use crate::package;
use crate::test::schedule::Lane;
use crate::test::{Part, Verdict};
use crate::tidy;

/// From the fastest to the slowest.
pub(super) fn parts() -> Vec<Part> {
    vec![
        Part::new(
            Lane::Cargo,
            "tidy",
            "rules of the house that no other tool checks",
            |lab, step| {
                tidy::check(lab.repo, step)?;
                Ok(Verdict::Ran(String::new()))
            },
        ),
        Part::new(Lane::Cargo, "rustfmt", "Rust is formatted", |lab, step| {
            step.run_check(&mut lab.repo.cargo(["fmt", "--all", "--check"]))?;
            Ok(Verdict::Ran(String::new()))
        }),
        Part::new(
            Lane::Cargo,
            "clippy",
            "no warning from rustc or clippy",
            |lab, step| {
                step.compile_check(&mut lab.repo.cargo([
                    "clippy",
                    "--locked",
                    "--workspace",
                    "--all-targets",
                    "--",
                    "--deny",
                    "warnings",
                ]))?;
                Ok(Verdict::Ran(String::new()))
            },
        ),
        Part::new(
            Lane::Cargo,
            "rustdoc",
            "Rust's documentation builds without a warning",
            |lab, step| {
                let doc = |packages: &[&str], flags: &[&str]| {
                    let mut command = lab.repo.cargo(["doc", "--locked", "--no-deps"]);
                    for package in packages {
                        command.args(["--package", package]);
                    }
                    command.args(flags).env("RUSTDOCFLAGS", "--deny warnings");
                    command
                };
                step.compile_check(&mut doc(&package::CRATES, &[]))?;
                // The native module has no public interface in Rust.
                step.compile_check(&mut doc(&["umfa"], &["--document-private-items"]))?;
                Ok(Verdict::Ran(String::new()))
            },
        ),
        Part::new(
            Lane::Cargo,
            "codegen",
            "what is made from mfa.h is up to date; the driver exports its functions",
            |lab, step| {
                codegen::check(lab.repo, lab.venv(step)?, step)?;
                let built = lab.built(step)?;
                codegen::check_exports(step, &built, &built.join(CPU_DRIVER))?;
                Ok(Verdict::Ran(String::new()))
            },
        ),
        Part::new(
            Lane::Cargo,
            "package",
            "the three crates build from their packages alone",
            |lab, step| {
                lab.user(step)?.build(step)?;
                Ok(Verdict::Ran(String::new()))
            },
        ),
    ]
}
