//! Promises of ARCHITECTURE.md that can be read off the sources: where `unsafe` is, who reads the clock, what a run allocates.

use crate::tidy::source::Source;

/// The heading above the table of folders and files that may hold `unsafe`.
const UNSAFE_HEADING: &str = "### Where `unsafe` is";

/// Sources of crates, without their tests, benches and build scripts.
fn is_engine(source: &Source) -> bool {
    let path = source.path.as_str();
    let crates = path.starts_with("crates/") || path.starts_with("python/umfa/src/");
    let tests = ["/tests/", "/benches/", "/examples/", "crates/mfa-testing/"];
    crates
        && path.ends_with(".rs")
        && !tests.iter().any(|part| path.contains(part))
        && !path.ends_with("/tests.rs")
}

/// Lines of code before the first test module, without comments.
fn code(source: &Source) -> impl Iterator<Item = (usize, &str)> {
    source
        .lines()
        .take_while(|(_, line)| {
            !line.starts_with("#[cfg(test)]") && !line.starts_with("#[cfg(all(test")
        })
        .map(|(number, line)| (number, line.split("//").next().unwrap_or("")))
}

fn has_word(line: &str, word: &str) -> bool {
    let inside = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word).any(|(at, _)| {
        !line[..at].ends_with(inside) && !line[at + word.len()..].starts_with(inside)
    })
}

/// `unsafe` is only where the table of ARCHITECTURE.md lists it, and every row of the table is needed.
pub(super) fn unsafe_is_listed(sources: &[Source], problems: &mut Vec<String>) {
    let Some(page) = sources
        .iter()
        .find(|source| source.path == "ARCHITECTURE.md")
    else {
        problems.push("there is no ARCHITECTURE.md".to_owned());
        return;
    };
    let rows: Vec<&str> = (page.text.lines())
        .skip_while(|line| *line != UNSAFE_HEADING)
        .skip(1)
        .take_while(|line| !line.starts_with('#'))
        .filter_map(|line| line.strip_prefix("| `")?.split('`').next())
        .collect();
    if rows.is_empty() {
        problems.push(format!(
            "ARCHITECTURE.md: no table below \"{UNSAFE_HEADING}\""
        ));
    }
    let mut needed = vec![false; rows.len()];
    for source in sources.iter().filter(|source| is_engine(source)) {
        let found = code(source).find(|(_, line)| {
            has_word(line, "unsafe")
                && !line.contains("unsafe_")
                && !line.trim_start().starts_with("#!")
        });
        let Some((number, _)) = found else { continue };
        let row = rows.iter().position(|row| {
            source
                .path
                .strip_prefix(row)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        });
        match row {
            Some(row) => needed[row] = true,
            None => problems.push(format!(
                "{}:{number}: unsafe, where the table of ARCHITECTURE.md lists none",
                source.path
            )),
        }
    }
    for (row, _) in rows.iter().zip(needed).filter(|(_, needed)| !needed) {
        problems.push(format!(
            "ARCHITECTURE.md: {row} is listed, and holds no unsafe"
        ));
    }
}

/// Files that read the clock: no result depends on it.
const CLOCK: [&str; 2] = [
    // The seconds that `mfa_get_latency` reports.
    "crates/mfa-cpu/src/runtime/context.rs",
    // How long an idle worker spins before it parks.
    "crates/mfa-cpu/src/runtime/pool.rs",
];

/// No file but those of [`CLOCK`] reads the clock.
pub(super) fn clocks_are_listed(sources: &[Source], problems: &mut Vec<String>) {
    for source in sources.iter().filter(|source| is_engine(source)) {
        if CLOCK.contains(&source.path.as_str()) {
            continue;
        }
        for (number, line) in code(source) {
            if line.contains("Instant::now") || has_word(line, "SystemTime") {
                problems.push(format!("{}:{number}: reads the clock", source.path));
            }
        }
    }
}

/// Modules that run calls: their memory is the arena of the context.
const RUNS: [&str; 5] = ["forward", "backward", "fp64", "operands", "merge.rs"];
/// Their files that plan, check or describe, and may allocate small lists and text.
const PLANS: [&str; 2] = [
    "crates/mfa-cpu/src/backward/plan.rs",
    "crates/mfa-cpu/src/merge.rs",
];

/// Nothing that runs allocates.
pub(super) fn runs_allocate_nothing(sources: &[Source], problems: &mut Vec<String>) {
    let words = [
        "vec!",
        "Vec::",
        "Box::new",
        ".to_vec()",
        ".collect()",
        "String::",
        "format!",
    ];
    for source in sources {
        let Some(rest) = source.path.strip_prefix("crates/mfa-cpu/src/") else {
            continue;
        };
        let runs = RUNS.iter().any(|module| rest.starts_with(module));
        if !runs || PLANS.contains(&source.path.as_str()) {
            continue;
        }
        for (number, line) in code(source) {
            // The message of an error or of a broken invariant ends the run.
            let message = line.contains("ensure!")
                || line.contains("panic!")
                || line.contains("unreachable!");
            if let Some(word) = words.iter().find(|word| line.contains(**word) && !message) {
                problems.push(format!("{}:{number}: {word} in a run", source.path));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(rule: fn(&[Source], &mut Vec<String>), files: &[(&str, &str)]) -> Vec<String> {
        let sources: Vec<Source> = (files.iter())
            .map(|(path, text)| Source {
                path: (*path).to_owned(),
                text: (*text).to_owned(),
            })
            .collect();
        let mut problems = Vec::new();
        rule(&sources, &mut problems);
        problems
    }

    const PAGE: (&str, &str) = (
        "ARCHITECTURE.md",
        "### Where `unsafe` is\n\n| where | for |\n|---|---|\n| `crates/a/src/b` | pointers |\n\n## Next\n",
    );

    #[test]
    fn unsafe_that_is_not_listed_fails() {
        let listed = ("crates/a/src/b/c.rs", "fn f() { unsafe { g() } }");
        assert_eq!(found(unsafe_is_listed, &[PAGE, listed]), [""; 0]);
        let other = ("crates/a/src/bb.rs", "fn f() {\n unsafe { g() } }");
        let problems = found(unsafe_is_listed, &[PAGE, listed, other]);
        assert_eq!(problems.len(), 1);
        assert!(
            problems[0].starts_with("crates/a/src/bb.rs:2: unsafe"),
            "{problems:?}"
        );
        let comment = (
            "crates/a/src/d.rs",
            "// unsafe\n#![deny(unsafe_code)]\n#[cfg(test)]\nmod tests { unsafe fn f() {} }",
        );
        assert_eq!(found(unsafe_is_listed, &[PAGE, listed, comment]), [""; 0]);
        assert!(found(unsafe_is_listed, &[PAGE])[0].contains("holds no unsafe"));
    }

    #[test]
    fn a_clock_fails() {
        let text = "fn f() { let _ = Instant::now(); }";
        assert_eq!(
            found(clocks_are_listed, &[("crates/a/src/b.rs", text)]).len(),
            1
        );
        assert_eq!(found(clocks_are_listed, &[(CLOCK[1], text)]).len(), 0);
        assert_eq!(
            found(clocks_are_listed, &[("crates/a/tests/b.rs", text)]).len(),
            0
        );
    }

    #[test]
    fn an_allocation_in_a_run_fails() {
        for text in [
            "let x = vec![0; n];",
            "let x: Vec<_> = y.collect();",
            "Box::new(1);",
        ] {
            let file = ("crates/mfa-cpu/src/forward/x.rs", text);
            assert_eq!(found(runs_allocate_nothing, &[file]).len(), 1, "{text}");
            let file = ("crates/mfa-cpu/src/contract/x.rs", text);
            assert_eq!(found(runs_allocate_nothing, &[file]).len(), 0, "{text}");
        }
    }
}
