//! Tests in C.

use crate::c;
use crate::test::{Part, Verdict};

/// The conformance vectors in C, and the examples.
pub(super) fn parts() -> Vec<Part> {
    vec![
        Part::new(
            "c",
            "the conformance vectors and bad input, in C99",
            |lab, step| {
                // The CPU engine supports everything.
                let (library, require) = match &lab.options.driver {
                    Some(driver) => (driver.clone(), false),
                    None => (lab.cpu_driver(step)?, true),
                };
                c::conformance(lab.repo, step, &library, require)?;
                Ok(Verdict::Ran(String::new()))
            },
        ),
        Part::new(
            "c-examples",
            "examples/c as C99 and C++17, by its Makefile and pkg-config",
            |lab, step| {
                let built = lab.built(step)?;
                c::examples(lab.repo, step, &built)?;
                Ok(Verdict::Ran(String::new()))
            },
        ),
    ]
}
