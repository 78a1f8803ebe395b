//! Paths and symbols in the pages that newcomers follow: each must be there.

use crate::tidy::source::Source;

/// The pages. A backticked path is a file or folder of the repository; on a line that begins `- ` and a path, the other
/// backticked words are found in that file.
const PAGES: [&str; 4] = [
    "ARCHITECTURE.md",
    "CONTRIBUTING.md",
    "docs/extending.md",
    "docs/math.md",
];

/// The first folder of a path, by which it is told from other code.
const ROOTS: [&str; 9] = [
    "crates", "docs", "examples", "objc", "python", "swift", "tests", "xtask", ".github",
];

/// Folders that `file:symbol` of the page of equations is below, by the ending of the file.
const EQUATIONS: &str = "docs/math.md";
const BELOW: [(&str, &str); 3] = [
    (".rs", "crates/"),
    (".swift", "swift/MFABridge/Sources/"),
    (".py", "tests/conformance/reference/"),
];

/// The file and the symbol of `file:symbol`, as a path of the repository.
fn place(span: &str) -> Option<(String, &str)> {
    let (file, symbol) = span.split_once(':')?;
    let (_, folder) = BELOW.iter().find(|(ending, _)| file.ends_with(ending))?;
    Some((format!("{folder}{file}"), symbol))
}

/// The number that a row of a table begins with.
fn row_number(line: &str) -> Option<usize> {
    line.strip_prefix("| ")?.split(' ').next()?.parse().ok()
}

/// Whether a file cites an equation: `eq. 3`, `eq. 1, 4 to 9`.
fn cites(sources: &[Source], path: &str, equation: usize) -> bool {
    let Some(source) = sources.iter().find(|source| source.path == path) else {
        return false;
    };
    source.text.split("eq. ").skip(1).any(|list| {
        let (mut first, mut ranged) = (usize::MAX, false);
        for word in list.split([' ', ',', ')', '.', ';', '\n']) {
            match word.parse() {
                Ok(last) if ranged => {
                    if (first..=last).contains(&equation) {
                        return true;
                    }
                    ranged = false;
                }
                Ok(number) if number == equation => return true,
                Ok(number) => first = number,
                Err(_) if word == "to" => ranged = true,
                Err(_) if word.is_empty() => {}
                Err(_) => return false,
            }
        }
        false
    })
}

/// Every path and every symbol of the pages exists, and files cite the equations that they implement.
pub(super) fn all_exist(sources: &[Source], problems: &mut Vec<String>) {
    for page in sources.iter().filter(|s| PAGES.contains(&s.path.as_str())) {
        for (number, line) in page.lines() {
            let spans: Vec<&str> = line.split('`').skip(1).step_by(2).collect();
            for (file, symbol) in spans.iter().filter_map(|span| place(span)) {
                if page.path != EQUATIONS {
                    continue;
                }
                if !holds(sources, &file, symbol) {
                    problems.push(format!("{}:{number}: no {symbol} in {file}", page.path));
                }
                let equation = row_number(line);
                if equation.is_some_and(|equation| !cites(sources, &file, equation)) {
                    problems.push(format!(
                        "{}:{number}: {file} does not cite the equation",
                        page.path
                    ));
                }
            }
            for span in &spans {
                if is_path(span) && !exists(sources, span) {
                    problems.push(format!("{}:{number}: there is no {span}", page.path));
                }
            }
            let Some((file, symbols)) = spans.split_first() else {
                continue;
            };
            if !line.trim_start().starts_with(&format!("- `{file}`")) || !is_path(file) {
                continue;
            }
            for symbol in symbols.iter().filter(|symbol| !is_path(symbol)) {
                if !holds(sources, file, symbol) {
                    problems.push(format!("{}:{number}: no {symbol} in {file}", page.path));
                }
            }
        }
    }
}

fn is_path(span: &str) -> bool {
    span.split_once('/')
        .is_some_and(|(root, _)| ROOTS.contains(&root))
        && !span.contains([' ', '*', '<'])
}

fn exists(sources: &[Source], path: &str) -> bool {
    let folder = format!("{}/", path.trim_end_matches('/'));
    (sources.iter()).any(|source| source.path == path || source.path.starts_with(&folder))
}

/// Whether a file, or one of a folder, has the last part of a symbol (`Type::method`, `module.function`, `call()`).
fn holds(sources: &[Source], path: &str, symbol: &str) -> bool {
    let name = symbol.trim_end_matches("()");
    let name = name.rsplit([':', '.']).next().unwrap_or(name);
    let folder = format!("{}/", path.trim_end_matches('/'));
    (sources.iter())
        .filter(|source| source.path == path || source.path.starts_with(&folder))
        .any(|source| source.text.contains(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(page: &str) -> Vec<String> {
        let files = [
            ("docs/extending.md", page),
            ("crates/a/src/b.rs", "fn check() {}"),
        ];
        let sources = files.map(|(path, text)| Source {
            path: path.to_owned(),
            text: text.to_owned(),
        });
        let mut problems = Vec::new();
        all_exist(&sources, &mut problems);
        problems
    }

    #[test]
    fn what_is_there_passes() {
        let page = "`crates/a/src/b.rs`, `crates/a`, `crates/a/`, `cargo xtask`, `a/b`\n- `crates/a/src/b.rs`: `Options::check`";
        assert_eq!(found(page), [""; 0]);
    }

    #[test]
    fn places_of_equations_are_looked_up() {
        assert_eq!(
            place("a/src/b.rs:check"),
            Some(("crates/a/src/b.rs".to_owned(), "check"))
        );
        assert_eq!(
            place("forward.py:forward").unwrap().0,
            "tests/conformance/reference/forward.py"
        );
        assert_eq!(place("ratio 1:2"), None);
    }

    #[test]
    fn an_equation_is_cited_where_it_is_implemented() {
        let page = |text: &str| {
            let files = [
                ("docs/math.md", "| 5 | `a/b.rs:check` | – | – |"),
                ("crates/a/b.rs", text),
            ];
            let sources = files.map(|(path, text)| Source {
                path: path.to_owned(),
                text: text.to_owned(),
            });
            let mut problems = Vec::new();
            all_exist(&sources, &mut problems);
            problems.len()
        };
        for text in ["eq. 5 of", "(eq. 5).", "eq. 1, 3 to 7, 9 of", "eq. 1, 5"] {
            assert_eq!(page(&format!("fn check() {{}} // {text}")), 0, "{text}");
        }
        for text in ["", "eq. 4", "5", "eq. 1 to 4, 6 of 5", "eq. 50"] {
            assert_eq!(page(&format!("fn check() {{}} // {text}")), 1, "{text}");
        }
    }

    #[test]
    fn what_is_gone_fails() {
        assert_eq!(found("see `crates/a/src/c.rs`").len(), 1);
        assert_eq!(found("- `crates/a/src/b.rs`: `Options::verify`").len(), 1);
    }
}
