//! Tests in C and Objective-C.

use std::path::Path;

use crate::c;
use crate::host::Host;
use crate::objc;
use crate::test::part::{Outcome, Part};
use crate::test::schedule::Lane;

/// The conformance vectors, and the examples, in C.
pub(super) fn parts() -> Vec<Part> {
    vec![
        Part::new(
            Lane::Cargo,
            "c",
            "the conformance vectors and bad input, in C99",
            |env, step| {
                let (library, require) = env.driver(step)?;
                c::conformance(env.repo, step, &library, require)?;
                Ok(Outcome::Ran(String::new()))
            },
        ),
        Part::new(
            Lane::Cargo,
            "c-examples",
            "examples/c as C99 and C++17, by its Makefile and pkg-config",
            |env, step| {
                let built = env.built(step)?;
                let valgrind = c::examples(env.repo, step, &built)?;
                Ok(Outcome::Ran(valgrind.into()))
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
        |env, step| {
            let (library, require) = env.driver(step)?;
            let folder = library.parent().unwrap_or(Path::new("."));
            let host = match Host::find(env.repo, &[folder]) {
                Ok(host) => host,
                Err(reason) => return Ok(Outcome::Skipped(reason)),
            };
            objc::test(env.repo, step, &host, &library, require)?;
            Ok(Outcome::Ran(host.name().into()))
        },
    )]
}
