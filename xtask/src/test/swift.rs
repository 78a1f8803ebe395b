//! Tests in Swift.

use std::path::Path;

use crate::place::Place;
use crate::test::schedule::Lane;
use crate::test::{Part, Verdict};

/// The Metal device in software.
pub(super) fn parts() -> Vec<Part> {
    vec![Part::new(
        Lane::Swift,
        "swift",
        "the Metal device in software: its own tests, in checked mode",
        |lab, step| {
            if cfg!(target_os = "macos") {
                return Ok(Verdict::Skipped("a Mac has Metal itself".into()));
            }
            let place = match Place::of_swift(lab.repo) {
                Ok(place) => place,
                Err(reason) => return Ok(Verdict::Skipped(reason)),
            };
            let swift = |arguments: [&str; 2]| {
                let mut command = place.command(lab.repo, Path::new("swift"));
                command.args(arguments);
                command.args(["--package-path", "swift/SoftwareMetal"]);
                command
            };
            step.compile(&mut swift(["build", "--build-tests"]))?;
            step.run(&mut swift(["test", "--skip-build"]))?;
            Ok(Verdict::Ran(place.name().into()))
        },
    )]
}
