//! Tests in Swift.

use std::path::Path;

use crate::place::Place;
use crate::test::{Part, Verdict};

/// The Metal device in software.
pub(super) fn parts() -> Vec<Part> {
    vec![Part::new(
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
            let mut swift = place.command(lab.repo, Path::new("swift"));
            step.run(swift.args(["test", "--package-path", "swift/SoftwareMetal"]))?;
            Ok(Verdict::Ran(place.name().into()))
        },
    )]
}
