//! Rules of the house that no other tool checks.

mod floors;
mod paths;
mod promises;
mod source;
mod words;

use std::fs;
use std::process::Command;

use anyhow::{Context, Result};

use crate::process::{LoggedStep, output};
use crate::repo::Repo;
use crate::tidy::source::Source;

/// Split by concern before a file gets longer than this.
const LINES: usize = 600;
/// Built files have no place in the repository; test vectors are the largest thing that has.
const BYTES: usize = 4 << 20;

/// The vectors, all together: each time they are made again they stay in the history.
const VECTOR_BYTES: usize = 8 << 20;
const VECTORS: &str = "tests/conformance/vectors/";
/// Lines of these have at most so many characters; formatters wrap the other languages.
const COLUMNS: usize = 120;
const WRAPPED: [&str; 5] = ["swift", "m", "cpp", "hpp", "h"];
/// The contract, and its C tests and examples, have a form of their own.
const UNWRAPPED: [&str; 3] = ["crates/", "tests/", "examples/"];

/// A rule: its name, and what is wrong with a file.
type Rule = (&'static str, fn(&Source, &mut Vec<String>));

const RULES: [Rule; 7] = [
    (
        "no white space at the end of a line, one newline at the end of a file",
        white_space,
    ),
    ("no file is longer than 600 lines", length),
    (
        "no line of Swift, C++ and Objective-C is longer than 120 characters",
        columns,
    ),
    ("no work is left as a note", notes),
    ("no path or host of one machine", places),
    (
        "crates take version, edition and lints from the workspace",
        manifests,
    ),
    (
        "programs for macOS link CoreGraphics; Metal's compile options have one place",
        metal,
    ),
];

/// A rule of the whole tree: its name, and what is wrong.
type TreeRule = (&'static str, fn(&[Source], &mut Vec<String>));

const PROMISES: [TreeRule; 5] = [
    (
        "unsafe is where ARCHITECTURE.md lists it",
        promises::unsafe_is_listed,
    ),
    (
        "no result depends on the clock",
        promises::clocks_are_listed,
    ),
    ("a run allocates nothing", promises::runs_allocate_nothing),
    ("paths and symbols of the guides exist", paths::all_exist),
    (
        "no retired word stands in the sources",
        words::none_is_retired,
    ),
];

/// Applies every rule to every file that git tracks or would track.
pub(crate) fn check(repo: &Repo, step: &mut LoggedStep) -> Result<()> {
    let listing = output(
        Command::new("git")
            .args([
                "ls-files",
                "--cached",
                "--others",
                "--exclude-standard",
                "-z",
            ])
            .current_dir(&repo.root),
    )
    .context("listing the files of the repository")?;
    let mut sources = Vec::new();
    let (mut large, mut vectors) = (Vec::new(), 0);
    for path in listing.split('\0').filter(|path| !path.is_empty()) {
        // A file that was deleted but not yet committed is still listed.
        let Ok(bytes) = fs::read(repo.path(path)) else {
            continue;
        };
        vectors += usize::from(path.starts_with(VECTORS)) * bytes.len();
        if bytes.len() > BYTES {
            large.push(format!("{path}: {} bytes; at most {BYTES}", bytes.len()));
        }
        // What is not text is data.
        if let Ok(text) = String::from_utf8(bytes) {
            sources.push(Source {
                path: path.to_owned(),
                text,
            });
        }
    }
    step.say(&format!("{} text files", sources.len()))?;
    if vectors > VECTOR_BYTES {
        large.push(format!(
            "{VECTORS}: {vectors} bytes; at most {VECTOR_BYTES}"
        ));
    }
    step.check("no file is larger than 4 MiB, the vectors 8 MiB", &large)?;
    for (name, rule) in RULES {
        let mut problems = Vec::new();
        for source in &sources {
            rule(source, &mut problems);
        }
        step.check(name, &problems)?;
    }
    for (name, rule) in PROMISES {
        let mut problems = Vec::new();
        rule(&sources, &mut problems);
        step.check(name, &problems)?;
    }
    floors::check(&sources, step)
}

fn white_space(source: &Source, problems: &mut Vec<String>) {
    for (number, line) in source.lines() {
        if line.ends_with([' ', '\t']) {
            problems.push(format!("{}:{number}: white space at the end", source.path));
        }
        if line.ends_with('\r') {
            problems.push(format!("{}:{number}: carriage return", source.path));
        }
    }
    if !source.text.is_empty() && (!source.text.ends_with('\n') || source.text.ends_with("\n\n")) {
        problems.push(format!(
            "{}: must end with exactly one newline",
            source.path
        ));
    }
}

fn length(source: &Source, problems: &mut Vec<String>) {
    let code = [
        "rs", "py", "pyi", "c", "h", "m", "mm", "cpp", "hpp", "swift", "toml", "yml", "sh", "md",
    ];
    let lines = source.text.lines().count();
    if source.is(&code) && !source.generated() && lines > LINES {
        problems.push(format!("{}: {lines} lines", source.path));
    }
}

fn columns(source: &Source, problems: &mut Vec<String>) {
    let exempt = (UNWRAPPED.iter()).any(|folder| source.path.starts_with(folder));
    if !source.is(&WRAPPED) || exempt || source.generated() {
        return;
    }
    for (number, line) in source.lines() {
        let count = line.chars().count();
        if count > COLUMNS {
            problems.push(format!("{}:{number}: {count} characters", source.path));
        }
    }
}

fn notes(source: &Source, problems: &mut Vec<String>) {
    // In pieces, so that this file does not find itself.
    let words = [
        concat!("TO", "DO"),
        concat!("FIX", "ME"),
        concat!("XX", "X:"),
        concat!("todo", "!("),
        concat!("unimplemented", "!("),
    ];
    for (number, line) in source.lines() {
        if let Some(word) = words.iter().find(|word| line.contains(**word)) {
            problems.push(format!("{}:{number}: {word}", source.path));
        }
    }
}

fn places(source: &Source, problems: &mut Vec<String>) {
    if source.path.ends_with(".lock") {
        return;
    }
    let roots = [
        concat!("/ro", "ot/"),
        concat!("/wo", "rk/"),
        concat!("/ho", "me/"),
        concat!("/Us", "ers/"),
        concat!("/opt", "/wheels"),
        concat!("static.", "crates.io"),
        concat!("index.", "crates.io"),
        concat!("files.python", "hosted.org"),
        concat!("deb.", "debian.org"),
    ];
    for (number, line) in source.lines() {
        for root in roots {
            // A path begins where no name goes on: `src/work/` is not meant.
            let found = line.match_indices(root).any(|(at, _)| {
                !line[..at].ends_with(|c: char| c.is_alphanumeric() || "._-/".contains(c))
            });
            if found {
                problems.push(format!("{}:{number}: {root}", source.path));
            }
        }
    }
}

fn manifests(source: &Source, problems: &mut Vec<String>) {
    let is_crate = source.path.ends_with("Cargo.toml") && source.text.contains("[package]");
    if !is_crate {
        return;
    }
    for field in ["version", "edition", "rust-version", "license"] {
        if !source.text.contains(&format!("\n{field}.workspace = true")) {
            problems.push(format!("{}: {field} is not the workspace's", source.path));
        }
    }
    if !source.text.contains("[lints]\nworkspace = true") {
        problems.push(format!("{}: lints are not the workspace's", source.path));
    }
}

/// Without CoreGraphics a command-line program gets no Metal device. Tests that compile with other options than the product test
/// other kernels.
fn metal(source: &Source, problems: &mut Vec<String>) {
    let links = [
        concat!("-framework", " Metal"),
        "name: \"MetalAttention\", dep",
    ];
    if !source.is(&["rs"])
        && links.iter().any(|link| source.text.contains(link))
        && !source.text.contains("CoreGraphics")
    {
        problems.push(format!("{}: Metal without CoreGraphics", source.path));
    }
    let options = "CompileOptions.swift";
    if source.path.starts_with("swift/MFABridge/")
        && source.text.contains("MTLCompileOptions()")
        && !source.path.ends_with(options)
    {
        problems.push(format!("{}: options beside {options}", source.path));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(rule: fn(&Source, &mut Vec<String>), path: &str, text: &str) -> usize {
        let mut problems = Vec::new();
        let (path, text) = (path.to_owned(), text.to_owned());
        rule(&Source { path, text }, &mut problems);
        problems.len()
    }

    #[test]
    fn long_lines_and_files_fail() {
        let (line, more) = ("x".repeat(COLUMNS), "x".repeat(COLUMNS + 1));
        assert_eq!(found(columns, "a.swift", &line), 0);
        assert_eq!(found(columns, "a.hpp", &more), 1);
        assert_eq!(found(columns, "a.md", &more), 0);
        assert_eq!(found(length, "a.cpp", &"x\n".repeat(LINES)), 0);
        assert_eq!(found(length, "a.cpp", &"x\n".repeat(LINES + 1)), 1);
    }

    #[test]
    fn metal_without_its_surroundings_fails() {
        let link = concat!("clang -framework", " Metal");
        assert_eq!(found(metal, "objc/Makefile", link), 1);
        let both = format!("{link} -framework CoreGraphics");
        assert_eq!(found(metal, "objc/Makefile", &both), 0);
        let target = ".target(name: \"MetalAttention\", dependencies: [])";
        assert_eq!(found(metal, "Package.swift", target), 1);
        let options = "let x = MTLCompileOptions()";
        let (folder, file) = (
            "swift/MFABridge/Tests/T.swift",
            "swift/MFABridge/Sources/CompileOptions.swift",
        );
        assert_eq!(found(metal, folder, options), 1);
        assert_eq!(found(metal, file, options), 0);
    }

    #[test]
    fn white_space_and_notes_fail() {
        assert_eq!(found(white_space, "a.rs", "x\n"), 0);
        assert_eq!(found(white_space, "a.rs", "x \n"), 1);
        assert_eq!(found(white_space, "a.rs", "x"), 1);
        assert_eq!(found(notes, "a.rs", concat!("// TO", "DO\n")), 1);
    }
}
