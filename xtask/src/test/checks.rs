//! Checks of the source itself.

use crate::codegen;
use crate::package;
use crate::test::{Part, Verdict};
use crate::tidy;

/// From the fastest to the slowest.
pub(super) fn parts() -> Vec<Part> {
    vec![
        Part::new(
            "tidy",
            "rules of the house that no other tool checks",
            |lab, step| {
                tidy::check(lab.repo, step)?;
                Ok(Verdict::Ran(String::new()))
            },
        ),
        Part::new("rustfmt", "Rust is formatted", |lab, step| {
            step.run_check(&mut lab.repo.cargo(["fmt", "--all", "--check"]))?;
            Ok(Verdict::Ran(String::new()))
        }),
        Part::new("clippy", "no warning from rustc or clippy", |lab, step| {
            step.run_check(&mut lab.repo.cargo([
                "clippy",
                "--locked",
                "--workspace",
                "--all-targets",
                "--",
                "--deny",
                "warnings",
            ]))?;
            Ok(Verdict::Ran(String::new()))
        }),
        Part::new(
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
                step.run_check(&mut doc(&package::CRATES, &[]))?;
                // The native module has no public interface in Rust.
                step.run_check(&mut doc(&["umfa"], &["--document-private-items"]))?;
                Ok(Verdict::Ran(String::new()))
            },
        ),
        Part::new(
            "codegen",
            "what is made from mfa.h is up to date; the driver exports its functions",
            |lab, step| {
                let built = lab.built(step)?;
                codegen::check(lab.venv(step)?, step, &built)?;
                Ok(Verdict::Ran(String::new()))
            },
        ),
        Part::new(
            "package",
            "the three crates build from their packages alone",
            |lab, step| {
                package::verify(lab.repo, step)?;
                Ok(Verdict::Ran(String::new()))
            },
        ),
    ]
}
