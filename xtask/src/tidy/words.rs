//! Words that were retired for those of the field: the table in ARCHITECTURE.md says what stands in their place.

use crate::tidy::source::Source;

/// The heading above the table.
const HEADING: &str = "### Retired words";
/// Where they may not stand.
const FOLDERS: [&str; 5] = ["crates/", "swift/", "python/", "objc/", "xtask/"];

/// No retired word stands in the sources, as a whole word with these capitals.
pub(super) fn none_is_retired(sources: &[Source], problems: &mut Vec<String>) {
    let Some(page) = sources
        .iter()
        .find(|source| source.path == "ARCHITECTURE.md")
    else {
        problems.push("there is no ARCHITECTURE.md".to_owned());
        return;
    };
    let rows = (page.text.lines())
        .skip_while(|line| *line != HEADING)
        .skip(1)
        .take_while(|line| !line.starts_with('#'))
        .filter_map(|line| line.strip_prefix('|')?.split('|').next());
    let words: Vec<&str> = rows
        .flat_map(|cell| cell.split('`').skip(1).step_by(2))
        .collect();
    if words.is_empty() {
        problems.push(format!("ARCHITECTURE.md: no table below \"{HEADING}\""));
    }
    for source in sources {
        if !FOLDERS.iter().any(|folder| source.path.starts_with(folder)) || source.is_data() {
            continue;
        }
        for (number, line) in source.lines() {
            for part in line.split(|c: char| !c.is_alphanumeric() && c != '_') {
                if words.contains(&part) {
                    problems.push(format!("{}:{number}: {part}", source.path));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(path: &str, text: &str) -> Vec<String> {
        let page =
            "### Retired words\n\n| word | now |\n|---|---|\n| `Gone`, `odd` | `Here`, `even` |\n";
        let sources = [("ARCHITECTURE.md", page), (path, text)].map(|(path, text)| Source {
            path: path.to_owned(),
            text: text.to_owned(),
        });
        let mut problems = Vec::new();
        none_is_retired(&sources, &mut problems);
        problems
    }

    #[test]
    fn a_retired_word_fails() {
        assert_eq!(found("crates/a.rs", "struct Gone;\nlet odd = 1;").len(), 2);
        assert_eq!(found("swift/a.swift", "// these odd ones").len(), 1);
    }

    #[test]
    fn parts_of_words_and_other_folders_pass() {
        assert_eq!(found("crates/a.rs", "LongGone oddly odd_x").len(), 0);
        assert_eq!(found("docs/a.md", "odd").len(), 0);
    }
}
