//! Numbers of tests: from the JUnit report of a runner that writes one, else from its closing line.
//!
//! libtest's report is not stable, and SwiftPM writes one only where each test has a process of its own: both are read by their
//! lines.

use std::ops::AddAssign;

use anyhow::{Context, Result};

/// Numbers of tests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    pub(crate) skipped: u64,
}

impl Counts {
    pub(crate) fn passed(passed: u64) -> Self {
        Self {
            passed,
            ..Self::default()
        }
    }

    pub(crate) fn failed(failed: u64) -> Self {
        Self {
            failed,
            ..Self::default()
        }
    }
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

/// The counts of a JUnit report: those of its suites.
pub(crate) fn junit(report: &str) -> Result<Counts> {
    let document = roxmltree::Document::parse(report).context("parsing a JUnit report")?;
    let mut counts = Counts::default();
    for suite in document
        .descendants()
        .filter(|node| node.has_tag_name("testsuite"))
    {
        let number = |name: &str| -> Result<u64> {
            let text = suite
                .attribute(name)
                .with_context(|| format!("a test suite without {name}"))?;
            text.parse().with_context(|| format!("{name} is {text:?}"))
        };
        let (failed, skipped) = (number("failures")? + number("errors")?, number("skipped")?);
        counts += Counts {
            passed: number("tests")?.saturating_sub(failed + skipped),
            failed,
            skipped,
        };
    }
    Ok(counts)
}

/// The closing line of a test runner, if `line` is one: libtest's `test result: ok. 3 passed; 0 failed; 1 ignored; …` and the
/// plain `3 passed, 0 failed, 1 skipped`. XCTest closes each suite within suites, so its tests are read one by one:
/// `Test Case 'Suite.test' passed (0.1 seconds)`.
pub(crate) fn closing_line(line: &str) -> Option<Counts> {
    let line = line.trim();
    if let Some((_, end)) =
        (line.strip_prefix("Test Case '")).and_then(|case| case.split_once("' "))
    {
        return match end.split_once(" (")?.0 {
            "passed" => Some(Counts::passed(1)),
            "failed" => Some(Counts::failed(1)),
            "skipped" => Some(Counts {
                skipped: 1,
                ..Counts::default()
            }),
            _ => None,
        };
    }
    let body = match line.strip_prefix("test result: ") {
        Some(rest) => rest.split_once(". ")?.1,
        None => line,
    };
    let mut counts = Counts::default();
    for item in body.split([',', ';']).map(str::trim) {
        if item.is_empty() || item.starts_with("finished") {
            continue;
        }
        let (number, word) = item.split_once(' ')?;
        let number: u64 = number.parse().ok()?;
        match word {
            "passed" => counts.passed += number,
            "failed" => counts.failed += number,
            "skipped" | "ignored" => counts.skipped += number,
            "measured" | "filtered out" => {}
            _ => return None,
        }
    }
    (body.contains("passed") || counts != Counts::default()).then_some(counts)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(passed: u64, failed: u64, skipped: u64) -> Option<Counts> {
        Some(Counts {
            passed,
            failed,
            skipped,
        })
    }

    #[test]
    fn reads_every_runner() {
        let libtest = "test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 2 filtered out; finished in 0.01s";
        assert_eq!(closing_line(libtest), counts(3, 0, 1));
        let failed = "test result: FAILED. 3 passed; 4 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.01s";
        assert_eq!(closing_line(failed), counts(3, 4, 0));
        assert_eq!(
            closing_line("7 passed, 0 failed, 2 skipped"),
            counts(7, 0, 2)
        );
        assert_eq!(closing_line("0 passed, 0 failed"), counts(0, 0, 0));
        let case = |end: &str| closing_line(&format!("Test Case 'Checks.testBounds' {end}"));
        assert_eq!(case("passed (0.012 seconds)"), counts(1, 0, 0));
        assert_eq!(case("failed (1.2 seconds)"), counts(0, 1, 0));
        assert_eq!(case("skipped (0.0 seconds)"), counts(0, 0, 1));
        assert_eq!(case("started at 2026-11-01 10:00:00.000"), None);
    }

    #[test]
    fn reads_a_junit_report() {
        let report = "<?xml version=\"1.0\"?><testsuites><testsuite name=\"pytest\" errors=\"1\" failures=\"2\" skipped=\"3\" \
                      tests=\"15\"><testcase/></testsuite></testsuites>";
        assert_eq!(junit(report).ok(), counts(9, 3, 3));
        assert!(junit("<testsuite tests=\"1\"/>").is_err());
        assert!(junit("").is_err());
    }

    #[test]
    fn leaves_other_lines_alone() {
        for line in [
            "",
            "running 3 tests",
            "test kernels::tests::passed ... ok",
            "3 warnings",
            "1 passed in 0.12s",
            "no tests ran in 0.01s",
            "12, 13",
        ] {
            assert_eq!(closing_line(line), None, "{line:?}");
        }
    }
}
