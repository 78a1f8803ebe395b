//! Checks of the source itself.

use crate::codegen;
use crate::dist::CPU_DRIVER;
use crate::package;
use crate::test::part::{Outcome, Part};
use crate::test::schedule::Lane;
use crate::tidy;

/// From the fastest to the slowest.
pub(super) fn parts() -> Vec<Part> {
    vec![
        Part::new(
            Lane::Cargo,
            "tidy",
            "rules of the house that no other tool checks",
            |env, step| {
                tidy::check(env.repo, step)?;
                Ok(Outcome::Ran(String::new()))
            },
        ),
        Part::new(Lane::Cargo, "rustfmt", "Rust is formatted", |env, step| {
            step.run_check(&mut env.repo.cargo(["fmt", "--all", "--check"]))?;
            Ok(Outcome::Ran(String::new()))
        }),
        Part::new(
            Lane::Cargo,
            "clippy",
            "no warning from rustc or clippy",
            |env, step| {
                step.compile_check(&mut env.repo.cargo([
                    "clippy",
                    "--locked",
                    "--workspace",
                    "--all-targets",
                    "--",
                    "--deny",
                    "warnings",
                ]))?;
                Ok(Outcome::Ran(String::new()))
            },
        ),
        Part::new(
            Lane::Cargo,
            "rustdoc",
            "Rust's documentation builds without a warning",
            |env, step| {
                let doc = |packages: &[&str], flags: &[&str]| {
                    let mut command = env.repo.cargo(["doc", "--locked", "--no-deps"]);
                    for package in packages {
                        command.args(["--package", package]);
                    }
                    command.args(flags).env("RUSTDOCFLAGS", "--deny warnings");
                    command
                };
                step.compile_check(&mut doc(&package::CRATES, &[]))?;
                // The native module has no public interface in Rust.
                step.compile_check(&mut doc(&["umfa"], &["--document-private-items"]))?;
                Ok(Outcome::Ran(String::new()))
            },
        ),
        Part::new(
            Lane::Cargo,
            "codegen",
            "what is made from mfa.h is up to date; the driver exports its functions",
            |env, step| {
                codegen::check(env.repo, env.venv(step)?, step)?;
                let built = env.built(step)?;
                codegen::check_exports(step, &built, &built.join(CPU_DRIVER))?;
                Ok(Outcome::Ran(String::new()))
            },
        ),
        Part::new(
            Lane::Cargo,
            "package",
            "the three crates build from their packages alone",
            |env, step| {
                env.user(step)?.build(step)?;
                Ok(Outcome::Ran(String::new()))
            },
        ),
    ]
}
