//! Tests in C and Objective-C.

use std::path::Path;

use crate::c;
use crate::objc;
use crate::place::Place;
use crate::test::schedule::Lane;
use crate::test::{Part, Verdict};

/// The conformance vectors, and the examples, in C.
pub(super) fn parts() -> Vec<Part> {
    vec![
        Part::new(
            Lane::Cargo,
            "c",
            "the conformance vectors and bad input, in C99",
            |lab, step| {
                let (library, require) = lab.driver(step)?;
                c::conformance(lab.repo, step, &library, require)?;
                Ok(Verdict::Ran(String::new()))
            },
        ),
        Part::new(
            Lane::Cargo,
            "c-examples",
            "examples/c as C99 and C++17, by its Makefile and pkg-config",
            |lab, step| {
                let built = lab.built(step)?;
                let valgrind = c::examples(lab.repo, step, &built)?;
                Ok(Verdict::Ran(valgrind.into()))
            },
        ),
    ]
}

/// The Objective-C classes.
pub(super) fn objective_c() -> Vec<Part> {
    vec![Part::new(
        Lane::Swift,
        "objc",
        "MFABridge: its own tests, the conformance vectors and the examples, by make and CMake",
        |lab, step| {
            let (library, require) = lab.driver(step)?;
            let folder = library.parent().unwrap_or(Path::new("."));
            let place = match Place::find(lab.repo, &[folder]) {
                Ok(place) => place,
                Err(reason) => return Ok(Verdict::Skipped(reason)),
            };
            objc::test(lab.repo, step, &place, &library, require)?;
            Ok(Verdict::Ran(place.name().into()))
        },
    )]
}
