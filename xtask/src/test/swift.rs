//! Tests in Swift.

use std::process::Command;

use crate::sysroot;
use crate::test::{Part, Verdict};

/// The Metal device in software.
pub(super) fn parts() -> Vec<Part> {
    vec![Part::new(
        "swift",
        "the Metal device in software: its own tests, in checked mode",
        |lab, step| {
            let (mut command, place) = if sysroot::native() {
                let mut swift = Command::new("swift");
                swift.current_dir(lab.repo.path("swift/SoftwareMetal"));
                (swift, "this machine's Swift")
            } else if let Some(reason) = sysroot::unavailable() {
                return Ok(Verdict::Skipped(format!(
                    "no Swift 6 and clang 19 here, and {reason}"
                )));
            } else {
                let mut inside = sysroot::inside(lab.repo);
                inside.arg("swift");
                (inside, "a Debian 13 root under target/")
            };
            step.run(command.arg("test"))?;
            Ok(Verdict::Ran(place.into()))
        },
    )]
}
