//! Tests in Swift.

use std::path::Path;

use crate::host::Host;
use crate::test::part::{Outcome, Part};
use crate::test::schedule::Lane;

/// The format, and the Metal device in software.
pub(super) fn parts() -> Vec<Part> {
    vec![format(), software_device()]
}

fn format() -> Part {
    Part::new(
        Lane::Swift,
        "swift-format",
        "Swift is formatted",
        |env, step| {
            let host = match Host::of_swift(env.repo) {
                Ok(host) => host,
                Err(reason) => return Ok(Outcome::Skipped(reason)),
            };
            let mut lint = host.command(env.repo, Path::new("swift"));
            lint.args(["format", "lint", "--strict", "--recursive", "--parallel"]);
            step.run_check(lint.args(["swift", "tests/cross/swift"]))?;
            Ok(Outcome::Ran(host.name().into()))
        },
    )
}

fn software_device() -> Part {
    Part::new(
        Lane::Swift,
        "swift",
        "the Metal device in software: its own tests, in checked mode",
        |env, step| {
            if cfg!(target_os = "macos") {
                return Ok(Outcome::Skipped("a Mac has Metal itself".into()));
            }
            let host = match Host::of_swift(env.repo) {
                Ok(host) => host,
                Err(reason) => return Ok(Outcome::Skipped(reason)),
            };
            let swift = |arguments: [&str; 2]| {
                let mut command = host.command(env.repo, Path::new("swift"));
                command.args(arguments);
                command.args(["--package-path", "swift/SoftwareMetal"]);
                command
            };
            step.compile(&mut swift(["build", "--build-tests"]))?;
            step.run(&mut swift(["test", "--skip-build"]))?;
            Ok(Outcome::Ran(host.name().into()))
        },
    )
}
