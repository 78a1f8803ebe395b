//! What test runners say they ran, read from their own closing lines.

use std::ops::AddAssign;

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

/// The closing line of a test runner, if `line` is one:
/// libtest's `test result: ok. 3 passed; 0 failed; 1 ignored; …`, pytest's `== 3 passed, 1 skipped in 0.1s ==`
/// (with or without its rules) and the plain `3 passed, 0 failed, 1 skipped`. XCTest closes each suite within suites, so
/// its tests are read one by one: `Test Case 'Suite.test' passed (0.1 seconds)`.
pub(crate) fn closing_line(line: &str) -> Option<Counts> {
    let line = line.trim().trim_matches('=').trim();
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
    // pytest closes with the time it took; anything else behind the counts is prose.
    let body = match body.split_once(" in ") {
        Some((counts, time)) if time.starts_with(|c: char| c.is_ascii_digit()) => counts,
        Some(_) => return None,
        None => body,
    };
    let mut counts = Counts::default();
    for item in body.split([',', ';']).map(str::trim) {
        if item.is_empty() || item.starts_with("finished") {
            continue;
        }
        let (number, word) = item.split_once(' ')?;
        let number: u64 = number.parse().ok()?;
        match word {
            "passed" | "xfailed" => counts.passed += number,
            "failed" | "error" | "errors" | "xpassed" => counts.failed += number,
            "skipped" | "ignored" => counts.skipped += number,
            "measured" | "filtered out" | "deselected" | "warning" | "warnings" | "rerun" => {}
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
            closing_line(
                "===== 2 failed, 9 passed, 1 skipped, 3 warnings, 1 error in 63.04s (0:01:03) ====="
            ),
            counts(9, 3, 1)
        );
        assert_eq!(closing_line("14 passed in 0.12s"), counts(14, 0, 0));
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
    fn leaves_other_lines_alone() {
        for line in [
            "",
            "running 3 tests",
            "test kernels::tests::passed ... ok",
            "3 warnings",
            "1 passed in theory",
            "no tests ran in 0.01s",
            "12, 13",
        ] {
            assert_eq!(closing_line(line), None, "{line:?}");
        }
    }
}
