//! The order of floors: which modules each crate has, from the bottom up, and what each of them may use.
//!
//! [`CRATES`] is the data. A module stands on those below it: a row names only modules of earlier rows. An import that the row
//! does not name fails (one of a later row *climbs*), and so does a circle among the files of a crate.

mod graph;
mod imports;

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;

use self::graph::Graph;
use super::Source;
use crate::process::LoggedStep;

/// The modules of a crate, from the bottom up: a module, and the modules that it may use.
struct Crate {
    sources: &'static str,
    modules: &'static [(&'static str, &'static [&'static str])],
}

const CRATES: &[Crate] = &[
    Crate {
        sources: "crates/mfa-kernels/src",
        modules: &[
            ("base2", &[]),
            ("exp2", &[]),
            ("isa", &[]),
            ("layout", &[]),
            ("precision", &[]),
            ("simd", &[]),
            ("signatures", &[]),
            ("tuning", &["layout"]),
            ("bf16_split", &["precision", "signatures"]),
            ("gradient", &["signatures", "bf16_split"]),
            ("quantize", &["precision"]),
            (
                "table",
                &[
                    "isa",
                    "precision",
                    "signatures",
                    "tuning",
                    "bf16_split",
                    "gradient",
                    "quantize",
                ],
            ),
            ("tile_config", &["bf16_split", "table"]),
            (
                "scalar",
                &[
                    "base2",
                    "isa",
                    "layout",
                    "precision",
                    "signatures",
                    "tuning",
                    "bf16_split",
                    "gradient",
                    "quantize",
                    "table",
                ],
            ),
            (
                "generic",
                &[
                    "base2",
                    "exp2",
                    "layout",
                    "simd",
                    "signatures",
                    "quantize",
                    "table",
                    "scalar",
                ],
            ),
            ("avx2", &["exp2", "isa", "simd", "tuning", "generic"]),
            (
                "avx512",
                &[
                    "exp2",
                    "isa",
                    "layout",
                    "precision",
                    "simd",
                    "signatures",
                    "tuning",
                    "bf16_split",
                    "gradient",
                    "table",
                    "scalar",
                    "generic",
                ],
            ),
            ("neon", &["exp2", "isa", "simd", "tuning", "generic"]),
            (
                "select",
                &["isa", "table", "scalar", "avx2", "avx512", "neon"],
            ),
            (
                "tests",
                &[
                    "isa",
                    "layout",
                    "precision",
                    "signatures",
                    "bf16_split",
                    "gradient",
                    "quantize",
                    "table",
                    "tile_config",
                    "scalar",
                ],
            ),
        ],
    },
    Crate {
        sources: "python/umfa/src",
        modules: &[
            ("error", &[]),
            ("reuse", &[]),
            ("devices", &["error"]),
            ("options", &["error"]),
            ("context", &["error", "devices", "options"]),
            ("dtype", &["error", "options"]),
            ("scheme", &["error", "options", "dtype"]),
            ("view", &["error", "dtype"]),
            ("dlpack", &["error", "dtype", "view"]),
            ("torch", &["error", "dtype", "view"]),
            (
                "array",
                &["error", "reuse", "dtype", "view", "dlpack", "torch"],
            ),
            ("buffer", &["error", "context", "dtype", "array"]),
            (
                "call",
                &["error", "options", "context", "dtype", "view", "array"],
            ),
            (
                "merge",
                &["error", "options", "context", "dtype", "array", "call"],
            ),
            (
                "quantized",
                &[
                    "error", "options", "context", "dtype", "scheme", "view", "torch", "array",
                    "call",
                ],
            ),
            ("shapes", &["error", "options", "dtype", "view", "call"]),
            (
                "aux_tensors",
                &[
                    "error", "options", "dtype", "view", "array", "call", "shapes",
                ],
            ),
            (
                "prepare",
                &[
                    "error",
                    "options",
                    "dtype",
                    "scheme",
                    "view",
                    "array",
                    "call",
                    "quantized",
                    "shapes",
                ],
            ),
            (
                "quantize",
                &[
                    "error",
                    "options",
                    "context",
                    "dtype",
                    "scheme",
                    "view",
                    "array",
                    "call",
                    "quantized",
                ],
            ),
            (
                "attention",
                &[
                    "error",
                    "options",
                    "context",
                    "array",
                    "call",
                    "shapes",
                    "aux_tensors",
                    "prepare",
                ],
            ),
            (
                "backward",
                &[
                    "error",
                    "options",
                    "context",
                    "dtype",
                    "array",
                    "call",
                    "aux_tensors",
                    "prepare",
                ],
            ),
        ],
    },
    Crate {
        sources: "crates/mfa-cpu/src",
        modules: &[
            ("error", &[]),
            ("runtime", &["error"]),
            ("contract", &["error", "runtime"]),
            ("operands", &["contract"]),
            ("merge", &["error", "runtime", "contract"]),
            ("quantize", &["error", "runtime", "contract", "operands"]),
            ("forward", &["error", "runtime", "contract", "operands"]),
            ("backward", &["error", "runtime", "contract", "operands"]),
            (
                "fp64",
                &["runtime", "contract", "operands", "forward", "backward"],
            ),
            (
                "ffi",
                &[
                    "error", "runtime", "contract", "operands", "merge", "quantize", "forward",
                    "backward", "fp64",
                ],
            ),
        ],
    },
];

/// The counts of a crate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counts {
    files: usize,
    modules: usize,
    floors: usize,
    imports: usize,
    climbs: usize,
    circles: usize,
}

/// Checks every crate of the table.
pub(super) fn check(sources: &[Source], step: &mut LoggedStep) -> Result<()> {
    let mut problems = Vec::new();
    for table in CRATES {
        let files: BTreeMap<&str, &str> = (sources.iter())
            .filter_map(|source| {
                let rest = source.path.strip_prefix(table.sources)?.strip_prefix('/')?;
                rest.ends_with(".rs")
                    .then_some((rest, source.text.as_str()))
            })
            .collect();
        let counts = check_crate(table, &files, &mut problems)?;
        step.say(&format!(
            "{}: {} files, {} modules on {} floors, {} imports, {} climbs, {} circles",
            table.sources,
            counts.files,
            counts.modules,
            counts.floors,
            counts.imports,
            counts.climbs,
            counts.circles
        ))?;
    }
    step.check("modules use what stands below them", &problems)
}

/// Checks one crate; `files` is its sources by their paths below the folder.
fn check_crate(
    table: &Crate,
    files: &BTreeMap<&str, &str>,
    problems: &mut Vec<String>,
) -> Result<Counts> {
    let graph = Graph::of(files)?;
    let mut counts = Counts {
        files: files.len(),
        modules: table.modules.len(),
        floors: floors(table),
        ..Counts::default()
    };
    let rank: BTreeMap<&str, usize> = (table.modules.iter().enumerate())
        .map(|(rank, (name, _))| (*name, rank))
        .collect();
    for (at, (name, uses)) in table.modules.iter().enumerate() {
        for below in *uses {
            if rank.get(below).is_none_or(|rank| *rank >= at) {
                problems.push(format!(
                    "{}: the row of {name} names {below}, which no earlier row has",
                    table.sources
                ));
            }
        }
    }
    let mut used: BTreeSet<(&str, &str)> = BTreeSet::new();
    for (from, to) in graph.imports() {
        counts.imports += 1;
        let (above, below) = (module_of(from), module_of(to));
        if above == below || above.is_empty() {
            continue;
        }
        let row = table.modules.iter().find(|(name, _)| *name == above);
        let Some((_, uses)) = row else {
            problems.push(format!(
                "{}/{from}: the module {above} has no row in the table of floors",
                table.sources
            ));
            continue;
        };
        if uses.contains(&below) {
            used.insert((above, below));
            continue;
        }
        let climbs = rank.get(below) > rank.get(above);
        counts.climbs += usize::from(climbs);
        problems.push(format!(
            "{}/{from}: {} {to}; {above} may use {uses:?}",
            table.sources,
            if climbs { "climbs to" } else { "uses" }
        ));
    }
    for (name, uses) in table.modules {
        if !files.keys().any(|file| module_of(file) == *name) {
            problems.push(format!("{}: there is no module {name}", table.sources));
        }
        for below in uses
            .iter()
            .filter(|below| !used.contains(&(*name, **below)))
        {
            problems.push(format!(
                "{}: {name} does not use {below}, which its row names",
                table.sources
            ));
        }
    }
    for circle in graph.circles() {
        counts.circles += 1;
        problems.push(format!(
            "{}: a circle of imports: {}",
            table.sources,
            circle.join(", ")
        ));
    }
    Ok(counts)
}

/// The module of a file: its folder below the sources, or its own name; that of lib.rs and main.rs is empty.
fn module_of(file: &str) -> &str {
    match file.split_once('/') {
        Some((folder, _)) => folder,
        None => match file.trim_end_matches(".rs") {
            "lib" | "main" => "",
            name => name,
        },
    }
}

/// The number of floors: the longest chain of modules that use one another.
fn floors(table: &Crate) -> usize {
    let mut height: BTreeMap<&str, usize> = BTreeMap::new();
    for (name, uses) in table.modules {
        let below = uses.iter().filter_map(|name| height.get(name)).max();
        height.insert(name, 1 + below.copied().unwrap_or(0));
    }
    height.into_values().max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: Crate = Crate {
        sources: "src",
        modules: &[("low", &[]), ("middle", &["low"]), ("high", &["middle"])],
    };

    fn checked(files: &[(&str, &str)]) -> (Counts, Vec<String>) {
        let mut problems = Vec::new();
        let files = files.iter().copied().collect();
        let counts = check_crate(&TABLE, &files, &mut problems).unwrap();
        (counts, problems)
    }

    const GOOD: [(&str, &str); 4] = [
        ("lib.rs", "mod low; mod middle; mod high; pub use high::f;"),
        ("low.rs", "pub(crate) struct A;"),
        (
            "middle/mod.rs",
            "mod a; pub(crate) use a::B; use crate::low::A;",
        ),
        ("high.rs", "pub fn f() { let _ = crate::middle::B; }"),
    ];

    fn with(file: &str, text: &str) -> (Counts, Vec<String>) {
        let mut files: Vec<_> = GOOD.into_iter().chain([("middle/a.rs", "")]).collect();
        files.retain(|(name, _)| *name != file);
        let text: &'static str = text.to_owned().leak();
        let file: &'static str = file.to_owned().leak();
        files.push((file, text));
        checked(&files)
    }

    #[test]
    fn imports_of_lower_floors_pass() {
        let (counts, problems) = with("middle/a.rs", "pub(crate) struct B;");
        assert_eq!(problems, [""; 0]);
        let expected = Counts {
            files: 5,
            modules: 3,
            floors: 3,
            imports: 2,
            climbs: 0,
            circles: 0,
        };
        assert_eq!(counts, expected);
    }

    #[test]
    fn a_climb_fails() {
        for text in [
            "use crate::middle::B; pub struct A;",
            "pub struct A; fn f() { crate::middle::g(); }",
            "pub struct A; mod inner { use crate::middle::B; }",
            "pub struct A; fn f() { assert!(crate::middle::g()); }",
        ] {
            let (counts, problems) = with("low.rs", text);
            assert_eq!(counts.climbs, 1, "{text}: {problems:?}");
            assert!(
                problems[0].contains("low.rs: climbs to middle"),
                "{problems:?}"
            );
        }
    }

    #[test]
    fn a_floor_that_is_passed_over_fails() {
        let (counts, problems) = with("high.rs", "use crate::middle::B; use crate::low::A;");
        assert_eq!(counts.climbs, 0);
        assert_eq!(problems.len(), 1);
        assert!(problems[0].contains("high.rs: uses low.rs"), "{problems:?}");
    }

    #[test]
    fn a_circle_fails() {
        let mut files: Vec<_> = GOOD.to_vec();
        files.push(("middle/a.rs", "use super::b::C; pub(crate) struct B;"));
        files.push(("middle/b.rs", "use super::a::B; pub(crate) struct C;"));
        let (counts, problems) = checked(&files);
        assert_eq!(counts.circles, 1, "{problems:?}");
        assert!(
            problems[0].contains("middle/a.rs, middle/b.rs"),
            "{problems:?}"
        );
    }

    #[test]
    fn tests_are_not_asked() {
        let text = "pub struct A; #[cfg(test)] mod tests { use crate::middle::B; }";
        assert_eq!(with("low.rs", text).1, [""; 0]);
    }

    #[test]
    fn rows_are_true() {
        let (_, problems) = with("high.rs", "");
        assert!(
            problems[0].contains("high does not use middle"),
            "{problems:?}"
        );
        let (_, problems) = with("other.rs", "use crate::low::A;");
        assert!(problems[0].contains("other has no row"), "{problems:?}");
    }
}
